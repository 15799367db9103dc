"""What a user can get wrong: told in one line with exit status 2, before any training, and nothing of theirs is touched."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pretend import as_predictions
from tiny import (
    CATEGORIES,
    Scene,
    describe_tree,
    digests,
    make_coco,
    make_scenes,
    write_coco,
    write_config,
    write_model,
    write_results,
    write_voc,
    write_yolo,
)
from warm import warm_children

from detclean.boxes import Boxes
from detclean.cli import answer
from detclean.dataset import Dataset
from detclean.detect.yolo import Predictions

TRAINING = {"model": "tiny-yolo11n.yaml", "folds": {"k": 2}, "train": {"epochs": 1, "imgsz": 64, "device": "cpu"}}
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")}
Case = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the name x, complete and in the runs folder that all cases use."""
    root = tmp_path_factory.mktemp("earlier")
    write_yolo(root / "yolo")
    write_results(root / "yolo.json", make_scenes(), "yolo")
    write_config(root / "x.yaml", data=str(root / "yolo" / "data.yaml"), predictions="yolo.json", score={"planting_rounds": 30})
    assert answer(["run", str(root / "x.yaml"), f"runs={root / 'runs'}", "name=x"]) == 0
    assert (root / "runs" / "x" / "issues.csv").stat().st_size > 200
    return root / "runs"


def outcome_of(run: Path) -> dict[str, str]:
    """All of a run folder but the log, the lock, what is remembered of pictures, and what a stage that failed has left."""
    found = digests(run).items()
    return {name: digest for name, digest in found if not name.startswith(("run.log", "lock", "cache/")) and ".partial/" not in name}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, which holds the user's files, and nothing but these afterwards."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(arguments: list[str], place: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command line that must fail, as a run named x, and answers what it said on standard error."""
    files, run = describe_tree(place), outcome_of(earlier / "x")
    capsys.readouterr()
    own = [f"runs={earlier}", "name=x"] if arguments[0] == "run" else []
    status = answer([*arguments, *own])
    said = capsys.readouterr()
    assert status == 2, said
    assert "Traceback" not in said.out + said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "train: begins" not in said.out
    assert "detect: begins" not in said.out or "predictions" in (place / "c.yaml").read_text()
    assert describe_tree(place) == files
    after = outcome_of(earlier / "x")
    assert run.items() <= after.items()  # nothing lost, and what is new is a stage that went well
    assert all(name.startswith("stages/") for name in after.keys() - run.keys())
    return said.err.removeprefix("error: ").removesuffix("\n")


# --- the configuration --------------------------------------------------------------------------------------------------------------


def config_of(text: str) -> Case:
    def write(place: Path) -> list[str]:
        write_yolo(place / "yolo", make_scenes()[:2] + make_scenes()[-1:])
        (place / "c.yaml").write_text(text)
        return ["run", "c.yaml"]

    return write


GOOD = "data: yolo/data.yaml\nmodel: tiny-yolo11n.yaml\n"
CONFIGURATIONS: dict[str, tuple[Case, list[str]]] = {
    "missing configuration": (lambda place: ["run", "nowhere.yaml"], ["nowhere.yaml: no such file", "give a configuration"]),
    "bad YAML": (config_of(GOOD + "folds: {k: 5\n"), ["c.yaml:", "not YAML", "mend it"]),
    "not UTF-8": (lambda place: (place / "c.yaml").write_bytes(b"data: \xff\n") and ["run", "c.yaml"], ["c.yaml", "save it as UTF-8"]),
    "no mapping": (config_of("- data\n"), ["c.yaml: should be lines of `key: value`"]),
    "no data": (config_of("model: x.pt\n"), ["c.yaml: data is missing", "name it: a data.yaml"]),
    "unknown key": (config_of(GOOD + "modle: x.pt\n"), ["c.yaml:3: unknown key 'modle'; did you mean 'model'?"]),
    "unknown key in a section": (config_of(GOOD + "folds:\n  n: 1\n  kk: 5\n"), ["c.yaml:", "unknown key 'folds."]),
    "wrong type": (config_of(GOOD + "train:\n  epochs: many\n"), ["c.yaml:4: train.epochs is 'many'", "a whole number of at least 1"]),
    "a number out of range": (
        config_of(GOOD + "issues: {target_precision: 80}\n"),
        ["c.yaml:3: issues.target_precision is 80", "at most 1"],
    ),
    "one fold": (config_of(GOOD + "folds: {k: 1}\n"), ["c.yaml:3: folds.k is 1", "at least 2"]),
    "missing data": (
        config_of("data: nowhere/data.yaml\n"),
        ["c.yaml:1: data: no such file or folder: nowhere", "correct the path"],
    ),
    "missing predictions": (config_of(GOOD + "predictions: no.json\n"), ["c.yaml:3: predictions: no such file", "correct the path"]),
    "missing images": (config_of("data: yolo/data.yaml\nimages: pictures\n"), ["c.yaml:2: images: no such file or folder: pictures"]),
    "a data.yaml as configuration": (lambda place: ["run", str(write_yolo(place / "yolo"))], ["data.yaml: this is a data set's data.yaml"]),
    "a broken override": (lambda place: [*config_of(GOOD)(place), "folds.k"], ["command line: 'folds.k' is no override", "key=value"]),
    "an override of a wrong type": (lambda place: [*config_of(GOOD)(place), "folds.k=two"], ["command line: folds.k is 'two'"]),
    "an override of an unknown key": (
        lambda place: [*config_of(GOOD)(place), "isues.budget=5"],
        ["command line: unknown key 'isues", "did you mean 'issues"],
    ),
    "a broken answer key": (
        lambda place: (place / "key.json").write_text('{"planted": []}') and config_of(GOOD + "answers: key.json\n")(place),
        ["key.json: no answer key", "it should hold planted and hard"],
    ),
    "an answer key with odd boxes": (
        lambda place: (
            (place / "key.json").write_text('{"planted": [{"file_name": "a", "bbox": [1, 2]}], "hard": []}')
            and config_of(GOOD + "answers: key.json\n")(place)
        ),
        ["key.json: no answer key (bbox [1, 2] is not x, y, width, height)"],
    ),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_bad_configuration(case: str, place: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, words = CONFIGURATIONS[case]
    said = refuse(write(place), place, earlier, capsys)
    for word in words:
        assert word in said


# --- the data set -------------------------------------------------------------------------------------------------------------------


def yolo_of(change: Callable[[Path], Any], **values: Any) -> Case:
    """A small YOLO data set, changed, and a configuration that would train on it."""

    def write(place: Path) -> list[str]:
        source = write_yolo(place / "yolo", make_scenes()[:4] + make_scenes()[-1:])
        change(place / "yolo")
        write_model(place / "tiny-yolo11n.yaml")
        write_config(place / "c.yaml", data=str(source), **(TRAINING | values))
        return ["run", "c.yaml"]

    return write


def coco_of(change: Callable[[dict[str, Any]], Any], **values: Any) -> Case:
    """A small COCO data set, changed."""

    def write(place: Path) -> list[str]:
        scenes = make_scenes()[:4]
        source = write_coco(place / "coco", scenes)
        document = make_coco(scenes)
        changed = change(document)
        source.write_text(changed if isinstance(changed, str) else json.dumps(document))
        write_config(place / "c.yaml", data=str(source), **(TRAINING | values))
        return ["run", "c.yaml"]

    return write


def voc_of(change: Callable[[Path], Any]) -> Case:
    def write(place: Path) -> list[str]:
        change(write_voc(place / "voc", make_scenes()[:4]))
        write_config(place / "c.yaml", data=str(place / "voc"), **TRAINING)
        return ["run", "c.yaml"]

    return write


def empty_labels(folder: Path) -> None:
    for path in folder.glob("labels/*/*.txt"):
        path.write_bytes(b"")


def keep_images(count: int) -> Callable[[Path], None]:
    def keep(folder: Path) -> None:
        for path in sorted(folder.glob("images/train/*.png"))[count:]:
            path.unlink()
            (folder / "labels" / "train" / path.name).with_suffix(".txt").unlink()

    return keep


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes().rstrip() + b"\n" + text.encode())


DATA: dict[str, tuple[Case, list[str]]] = {
    "bad YAML": (yolo_of(edit("data.yaml", "names:", "names: [")), ["data.yaml:", "is not valid YAML", "correct this line"]),
    "no names": (yolo_of(edit("data.yaml", "names:", "nams:")), ["data.yaml: names is missing", "list the categories"]),
    "names that disagree with nc": (
        yolo_of(append("data.yaml", "nc: 7\n")),
        ["data.yaml: nc is 7, but names lists 3", "correct one"],
    ),
    "a split that is not there": (
        yolo_of(edit("data.yaml", "images/train", "images/trian")),
        ["data.yaml: train: ", "images/trian does not exist", "correct train or path"],
    ),
    "a split that nobody knows": (
        yolo_of(lambda folder: None, split="tarin"),
        ["no image in split 'tarin'", "set split to one of"],
    ),
    "a folder without images": (yolo_of(keep_images(0)), ["data.yaml: train: ", "holds no images", "correct train or path"]),
    "pictures that are none": (
        yolo_of(lambda folder: [path.write_bytes(b"no picture") for path in folder.rglob("*.png")]),
        ["data.yaml: none of its images can be read", "check the picture files"],
    ),
    "a category out of range": (
        yolo_of(append("labels/train/02.txt", "12 0.5 0.5 0.1 0.1\n")),
        ["labels/train/02.txt:", "category 12, but data.yaml names 3 (0 to 2)"],
    ),
    "a row of words": (yolo_of(append("labels/train/02.txt", "0 0.5 a 0.1 0.1\n")), ["labels/train/02.txt:", "correct or remove the row"]),
    "no annotation at all": (yolo_of(empty_labels), ["none of the 4 images has an annotation", "add labels"]),
    "one image": (yolo_of(keep_images(1)), ["data.yaml: 1 image, but folds need at least 2", "add images"]),
    "more folds than images": (
        yolo_of(lambda folder: None, folds={"k": 5}),
        ["folds.k=5, but there are only 4 images", "set folds.k=4"],
    ),
    "images that are one group": (
        yolo_of(lambda folder: None, folds={"k": 2, "group_by": "(train)"}),
        ["all 4 images are one group", "change folds.group_by"],
    ),
    "a pattern that fits nothing": (
        yolo_of(lambda folder: None, folds={"k": 2, "group_by": "zzz"}),
        ["folds.group_by: 'zzz' fits none of the", "file names"],
    ),
    "bad JSON": (coco_of(lambda document: '{"images": [\n1,,\n]}'), ["annotations.json:2: is not valid JSON", "write the file again"]),
    "a results file as data": (coco_of(lambda document: "[]"), ["annotations.json: is a list", "name it as predictions="]),
    "no categories": (coco_of(lambda document: document.pop("categories")), ["annotations.json: has no list `categories`"]),
    "an annotation of an unknown image": (
        coco_of(lambda document: document["annotations"][3].update(image_id=99)),
        ["annotation 49991: its image_id 99 is not among the images", "add the image or remove the annotation"],
    ),
    "an annotation of an unknown category": (
        coco_of(lambda document: document["annotations"][3].update(category_id=99)),
        ["annotation 49991: its category_id 99 is not among the categories"],
    ),
    "several such annotations": (
        coco_of(lambda document: [row.update(image_id=99) for row in document["annotations"][3:7]]),
        ["annotation 49991: ", "(and 3 more; `python -m detclean check` lists them)"],
    ),
    "a COCO file without annotations": (
        coco_of(lambda document: document["annotations"].clear()),
        ["none of the 4 images has an annotation"],
    ),
    "images elsewhere": (
        coco_of(lambda document: [row.update(file_name="x/" + row["file_name"]) for row in document["images"]]),
        ["annotations.json: no image found", "name their folder with images="],
    ),
    "bad XML": (
        voc_of(lambda folder: (folder / "Annotations" / "train_02.xml").write_text("<annotation>\n<object>")),
        ["Annotations/train_02.xml:2: is not valid XML", "correct or remove the file"],
    ),
    "a folder of nothing": (voc_of(lambda folder: [path.unlink() for path in folder.glob("*/*.xml")]), ["holds no .xml file"]),
}


@pytest.mark.parametrize("case", DATA)
def test_a_bad_data_set(case: str, place: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, words = DATA[case]
    said = refuse(write(place), place, earlier, capsys)
    for word in words:
        assert word in said


PREDICTIONS: dict[str, tuple[str, list[str]]] = {
    "bad JSON": ("[1,", ["results.json:1: is not valid JSON", "write the file again"]),
    "an empty list": ("[]", ["results.json: holds no detection", "down to a low confidence"]),
    "no list": ('{"a": 1}', ["results.json: is no list of detections"]),
    "no score": ('[{"image_id": "images/train/00.png", "category_id": 0, "bbox": [1, 1, 5, 5]}]', ["record 0 lacks", "write all four"]),
    "an unknown category": (
        '[{"image_id": "images/train/00.png", "category_id": 7, "bbox": [1, 1, 5, 5], "score": 0.5}]',
        ["results.json: record 0: category_id 7 is none of the data set's (0, 1, 2)"],
    ),
    "of other images": (
        '[{"image_id": "z", "category_id": 0, "bbox": [1, 1, 5, 5], "score": 0.5}]',
        ["no detection is of an image"],
    ),
    "a logit": (
        '[{"image_id": "images/train/00.png", "category_id": 0, "bbox": [1, 1, 5, 5], "score": 5.5}]',
        ["record 0: confidence 5.5 is not between 0 and 1"],
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_bad_predictions(case: str, place: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = PREDICTIONS[case]
    (place / "results.json").write_text(text)
    said = refuse(yolo_of(lambda folder: None, predictions="results.json")(place), place, earlier, capsys)
    for word in ("results.json", *words):
        assert word in said


@pytest.mark.parametrize("case", ["a category out of range", "bad YAML", "a folder without images", "bad JSON", "images elsewhere"])
def test_check_says_the_same(case: str, place: Path, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, words = DATA[case]
    write(place)
    source = next(path for path in (place / "yolo" / "data.yaml", place / "coco" / "annotations.json") if path.exists())
    if case != "a category out of range":
        said = refuse(["check", str(source)], place, earlier, capsys)
    else:  # a finding among others
        before = describe_tree(place)
        assert answer(["check", str(source)]) == 1
        said = capsys.readouterr().out
        assert describe_tree(place) == before
    assert all(word in said for word in words)


# --- what a child of detclean finds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=nowhere.pt"], ["model: there is no file nowhere.pt", "name an existing .pt or .yaml"]),
        (["model=yolo26n.pt"], ["model: yolo26n.pt is no file and cannot be downloaded", "set model to its path"]),
        (["train.epoch=3"], ["train.epoch: Ultralytics knows no such training argument", "did you mean train.epochs?"]),
    ],
)
def test_what_only_ultralytics_can_tell(
    overrides: list[str],
    words: list[str],
    place: Path,
    earlier: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    yolo_of(lambda folder: None)(place)
    files, run = describe_tree(place), outcome_of(earlier / "x")
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    with nullcontext() if "model=yolo26n.pt" in overrides else warm_children():  # a real child, where it may ask the network
        assert answer(["run", "c.yaml", f"runs={earlier}", "name=x", *overrides]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert describe_tree(place) == files
    assert run.items() <= outcome_of(earlier / "x").items()


# --- what can be lived with ---------------------------------------------------------------------------------------------------------


def one_category(scenes: list[Scene]) -> list[Scene]:
    return [
        replace(scene, objects=[(0, *box) for _, *box in scene.objects], annotated=[(0, *box) for _, *box in scene.annotated])
        for scene in scenes
    ]


@pytest.mark.parametrize("case", ["one category", "one image", "no annotation", "no picture"])
def test_small_sets_complete_with_predictions(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = make_scenes()[:1] if case == "one image" else make_scenes()[:12]
    if case == "one category":
        scenes = one_category(make_scenes())
    write_results(place / "coco.json", scenes, "coco")
    if case == "no annotation":
        scenes = [replace(scene, annotated=[]) for scene in scenes]
    source = write_coco(place / "coco", scenes)
    if case == "one category":
        document = json.loads(source.read_text())
        source.write_text(json.dumps(document | {"categories": document["categories"][:1]}))
        seen = json.loads((place / "coco.json").read_text())
        (place / "coco.json").write_text(json.dumps([row for row in seen if row["category_id"] == 2]))
    values = {"images": "none"} if case == "no picture" else {}
    write_config(place / "c.yaml", data=str(source), predictions="coco.json", issues={"budget": 5}, **values)
    assert answer(["run", "c.yaml"]) == 0, capsys.readouterr().err
    summary = json.loads((place / "runs" / "c" / "summary.json").read_text())
    assert summary["images"] == len(scenes)
    assert summary["annotations"] == sum(len(scene.annotated) for scene in scenes)
    assert pl.read_csv(place / "runs" / "c" / "issues.csv").height == summary["issues"]["total"] <= 5
    assert len(json.loads((place / "runs" / "c" / "cleaned" / "annotations.json").read_text())["images"]) == len(scenes)


def see(share: float) -> Callable[..., Predictions]:
    """Stands in for looking: every box of a share of the images is seen in its place, as of the first category."""

    def predict_out_of_fold(dataset: Dataset, folds: Any, trained: Path, out: Path, *, looks: Boxes, **settings: Any) -> Predictions:
        seen = dataset.annotations[dataset.annotations.image_index < share * dataset.image_count]
        count = len(seen)
        vectors = np.full((count, len(dataset.categories)), 0.01)
        vectors[:, :1] = 0.8
        fold, zero = folds[0][seen.image_index], np.zeros(count, np.int64)
        found = Boxes(seen.image_index, zero, seen.xyxy, score=np.full(count, 0.8), class_scores=vectors, fold=fold, repeat=zero)
        return as_predictions(found, looks, dataset.image_count)

    return predict_out_of_fold


def pretend_to_train_and_see(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detclean.detect.yolo.train_folds", lambda *given, **more: None)
    monkeypatch.setattr("detclean.detect.yolo.predict_out_of_fold", see(share))


def test_a_category_with_fewer_objects_than_folds(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two objects for five folds, and one that no training part has when it is held out: told, and lived with."""
    scenes = one_category(make_scenes())
    for index, category in ((2, 1), (3, 1), (5, 2)):
        scenes[index].annotated[0] = (category, *scenes[index].annotated[0][1:])
    write_yolo(place / "yolo", scenes)
    pretend_to_train_and_see(1, monkeypatch)
    write_config(place / "c.yaml", data="yolo/data.yaml", crops="never", **(TRAINING | {"folds": {"k": 5}}))
    assert answer(["run", "c.yaml"]) == 0, capsys.readouterr().err
    findings = pl.read_csv(place / "runs" / "c" / "findings.csv")
    told = dict(zip(findings["kind"].to_list(), findings["message"].to_list(), strict=True))
    assert f"category {CATEGORIES[1]} has 2 objects for 5 folds" in told["category-fewer-than-folds"]
    assert f"category {CATEGORIES[2]}: all" in told["category-missing-in-training"]


@pytest.mark.parametrize("scenes", [make_scenes(), one_category(make_scenes())[:10] + make_scenes()[-1:]], ids=["three", "one category"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_detector_that_sees_little_or_nothing(
    scenes: list[Scene], share: float, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yolo(place / "yolo", scenes)
    pretend_to_train_and_see(share, monkeypatch)
    write_config(place / "c.yaml", data="yolo/data.yaml", crops="never", **TRAINING)
    assert answer(["run", "c.yaml"]) == 0, capsys.readouterr().err
    annotations = pl.read_parquet(place / "runs" / "c" / "annotations.parquet")
    assert annotations.height == sum(len(scene.annotated) for scene in scenes if scene.split == "train")
    assert annotations["p_any"].is_finite().all()
