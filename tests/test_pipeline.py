"""The whole of it, as a user meets it: a tiny data set in, a run folder out; killed, resumed, changed, looked at by others."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from pretend import as_predictions
from rich.console import Console
from tiny import (
    CATEGORIES,
    Scene,
    describe_tree,
    detect_objects,
    digests,
    environment,
    hold_at,
    make_scenes,
    start_detclean,
    write_coco,
    write_config,
    write_model,
    write_results,
    write_voc,
    write_yolo,
)
from trained import SEED, expect
from warm import warm_children

from detclean.boxes import Boxes, xywh_to_xyxy
from detclean.config import read_config
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.detect.yolo import Predictions
from detclean.pipeline import RunResult, run_pipeline
from detclean.show.progress import open_display

CONTRACT = Path(__file__).parents[2] / "shared" / "check_run_folder.py"
EPOCHS = 3
TRAINING = {
    "model": "tiny-yolo11n.yaml",
    "folds": {"k": 2, "seed": 1},
    # data loading in the fold's own process: a loader of its own takes longer to start than all there is to load
    "train": {"epochs": EPOCHS, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "seed": SEED},
    "predict": {"conf": 0.0001},  # hardly trained, so hardly confident
    "issues": {"budget": 10},
    "workers": 1,
}
SURE = {"score": {"planting_rounds": 30, "seed": SEED}}  # enough to learn from on so few annotations
COLUMNS = re.findall(
    r"\w+",
    """rank issue_type probability verdict action image_id file_name annotation_id category x1 y1 x2 y2 suggested_category
    suggested_x1 suggested_y1 suggested_x2 suggested_y2 detector_score iou votes source reason""",
)
TABLES = {
    "annotations.parquet": {"p_swap", "p_badloc", "p_spurious", "p_duplicate", "p_any", "annotation_id"},
    "candidates.parquet": {"score", "probability"},
    "images.parquet": {"label_quality_score", "expected_errors", "fold"},
    "detections.parquet": {"score", "fold", "repeat"},
}

# Runs the command line in a process that kills itself as a file or folder is about to get its final name.
SUICIDAL = """
import os, re, signal, sys
pattern = re.compile(sys.argv.pop(1))
def watch(original):
    def rename(source, target, **more):
        if pattern.search(str(target)):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(source, target, **more)
    return rename
os.rename, os.replace = watch(os.rename), watch(os.replace)
from detclean.cli import main
main()
"""
IMPORTS = """
import sys
from detclean.cli import answer
status = answer(sys.argv[1:])
print("imported:", [name for name in sys.modules if name.split(".")[0] in ("ultralytics", "torch", "torchvision")])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the data set in three formats, a detector's results for each, and a model."""
    root = tmp_path_factory.mktemp("pipeline") / "a [b] #ü"
    root.mkdir()
    scenes = make_scenes()
    sources = {"yolo": write_yolo(root / "yolo"), "coco": write_coco(root / "coco"), "voc": write_voc(root / "voc")}
    write_model(root / "tiny-yolo11n.yaml")
    write_config(root / "trained.yaml", data=str(sources["yolo"]), **TRAINING)
    for kind, source in sources.items():
        write_results(root / f"{kind}.json", scenes, kind)
        # the worst nine: on so few annotations hardly any probability is high enough for the default precision
        write_config(root / f"{kind}.yaml", data=str(source), predictions=f"{kind}.json", issues={"budget": 9}, **SURE)
    return root


def call(arguments: list[str], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a clean environment."""
    own = environment(cwd / "home") | more
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=own)


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m detclean run ARGUMENTS` in the working directory `place`."""
    return call(["-m", "detclean", "run", *arguments], place)


def run_until(moment: str, place: Path, *arguments: str) -> None:
    """The same, but killed when a file whose path matches `moment` is about to get its name."""
    done = call(["-c", SUICIDAL, moment, "run", *arguments], place)
    assert done.returncode == -signal.SIGKILL, (moment, done.stdout, done.stderr)


def contract_of(folder: Path) -> list[str]:
    """What the contract's own script finds wrong with a run folder; nothing where the script is not here."""
    if not CONTRACT.exists():
        return []
    command = [sys.executable, str(CONTRACT), "."]  # not the whole path: polars would take brackets in it for a pattern
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    return [] if done.returncode == 0 else done.stdout.splitlines() + done.stderr.splitlines()


def results_of(folder: Path) -> dict[str, str]:
    """A digest of everything at the top of a run folder that is a result: all but logs, and what tells its name or the seconds it took."""
    left_out = ("run.log", "lock", "summary.json", "report.html", "health.json", "stages/", "config.yaml", "cache/")
    health = orjson.loads((folder / "health.json").read_bytes()) | {"name": ""}
    results = {name: digest for name, digest in digests(folder).items() if not name.startswith(left_out)}
    return results | {"health.json": hashlib.sha256(orjson.dumps(health)).hexdigest()}


def stage_times(folder: Path) -> dict[str, int]:
    """When each complete stage was written."""
    complete = [path for path in (folder / "stages").glob("*-*/seconds.json") if not path.parent.name.endswith(".partial")]
    return {path.parent.name: path.stat().st_mtime_ns for path in complete}


def epochs_of(folder: Path, fold: int, kind: str = "epoch") -> list[int]:
    """The epochs that a fold has finished, in the order it finished them; kind "start": those after which its processes began."""
    files = list((folder / "stages").glob(f"train-*/folds/fold-{fold}/progress.jsonl"))
    lines = [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]
    return [line["done"] for line in lines if line["kind"] == kind]


# --- with training ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """An undisturbed run with training."""
    before = describe_tree(place / "yolo")
    done = run(place, "trained.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "yolo detect train data=runs/trained/cleaned/data.yaml" in done.stdout
    assert describe_tree(place / "yolo") == before
    assert list((place / "home").rglob("*")) == []
    return place / "runs" / "trained"


@pytest.mark.trained
def test_a_run_folder_is_as_the_contract_has_it(trained: Path) -> None:
    with open(trained / "issues.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    expect("issues", len(rows), least=3)  # ten seeds: 10
    assert list(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(len(rows))]
    assert all(re.fullmatch(r"labels/train/\d\d\.txt:\d+", row["source"]) for row in rows if row["annotation_id"])
    assert {row["category"] for row in rows if row["category"]} <= set(CATEGORIES)
    for name, columns in TABLES.items():
        frame = pl.read_parquet(trained / name, glob=False)
        assert columns | {"image_id", "file_name"} <= set(frame.columns), name
        assert set(frame["file_name"].to_list()) <= {f"images/train/{i:02d}.png" for i in range(24)}, name
    images = pl.read_parquet(trained / "images.parquet", glob=False)
    assert sorted(images["fold"].to_list()) == [0] * 12 + [1] * 12
    assert read_config(trained / "config.yaml") == read_config(trained / "config.yaml", ["name=trained"])


@pytest.mark.skipif(not CONTRACT.exists(), reason=f"{CONTRACT} is not here: run folders are held against this file's own list only")
def test_the_contracts_own_script_agrees(trained: Path) -> None:
    assert contract_of(trained) == []


def test_the_summary_counts_what_the_tables_hold(trained: Path) -> None:
    summary = orjson.loads((trained / "summary.json").read_bytes())
    issues = pl.read_parquet(trained / "issues.parquet", glob=False)
    assert summary["issues"]["total"] == issues.height
    assert summary["images"] == 24
    assert summary["annotations"] == pl.read_parquet(trained / "annotations.parquet", glob=False).height
    assert [(fold["fold"], fold["images"]) for fold in summary["folds"]] == [(0, 12), (1, 12)]
    assert set(summary["seconds"]) == {"load", "audit", "folds", "train", "detect", "crops", "score", "issues", "export"}
    assert all(seconds >= 0 for seconds in summary["seconds"].values())
    (training,) = (trained / "stages").glob("train-*")
    told = [path.stat().st_mtime for path in training.glob("folds/fold-*/progress.jsonl")]
    assert summary["seconds"]["train"] > max(told) - min(told) > 0  # one fold after the other
    assert summary["versions"]["ultralytics"]


def test_everything_is_in_the_log_and_ultralytics_only_there(trained: Path) -> None:
    log = (trained / "run.log").read_text()
    told = ("train: begins", "train fold 1/2: epoch 3/3", "detect looking with fold 2/2: image 12/12")
    for words in (*told, "fold 2/2: ", "optimizer:", "export: done in"):
        assert words in log
    assert "Traceback" not in log


def test_a_second_run_repeats_nothing_and_changes_nothing(place: Path, trained: Path) -> None:
    before, stages = describe_tree(trained), stage_times(trained)
    done = run(place, "trained.yaml")
    assert done.returncode == 0
    for stage in ("audit", "folds", "train", "detect", "crops", "score", "issues", "export"):
        assert f"{stage}: done before\n" in done.stdout
    assert stage_times(trained) == stages
    after = describe_tree(trained)
    assert {path: digest for path, (_, digest) in after.items() if not path.endswith((".log", "lock"))} == {
        path: digest for path, (_, digest) in before.items() if not path.endswith((".log", "lock"))
    }


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def looked_at(folder: Path) -> list[Path]:
    """The folds whose held-out images have been looked at."""
    return sorted((folder / "stages").glob("detect-*/folds/fold-*/detections.parquet"))


def test_killed_in_training_and_in_looking_side_by_side_or_not_it_ends_with_the_same_issues(place: Path, trained: Path) -> None:
    """Killed as two folds train side by side, and again as they look; the rest is done one after the other, as all of `trained` was."""
    folder = place / "runs" / "killed"
    command = ("run", "trained.yaml", "name=killed")
    process = start_detclean(*command, "workers=2", home=place / "home", cwd=place, **hold_at("state.pt", 2))
    wait_for(lambda: epochs_of(folder, 0) == epochs_of(folder, 1) == [1], process)
    kill_group(process)
    stages = stage_times(folder)
    assert {name.split("-")[0] for name in stages} == {"load", "audit", "folds"}
    assert not (folder / "issues.csv").exists()

    process = start_detclean(*command, "workers=2", home=place / "home", cwd=place, **hold_at("fold-1/detections.parquet"))
    wait_for(lambda: looked_at(folder) != [], process)
    kill_group(process)
    for fold in range(2):
        epochs = epochs_of(folder, fold)
        assert len(set(epochs)) == len(epochs)  # none was trained twice
        assert {*epochs, *epochs_of(folder, fold, "start")} == set(range(EPOCHS + 1))
    assert stages.items() <= stage_times(folder).items()
    (training,) = (folder / "stages").glob("train-*")
    trainings, looked = describe_tree(training), {path.parent.name: path.stat().st_mtime_ns for path in looked_at(folder)}
    assert looked
    assert not (folder / "issues.csv").exists()

    with warm_children():
        run_inside(place, *command[1:])
    assert describe_tree(training) == trainings
    assert looked.items() <= {path.parent.name: path.stat().st_mtime_ns for path in looked_at(folder)}.items()
    assert (folder / "issues.csv").read_bytes() == (trained / "issues.csv").read_bytes()
    assert {k: v for k, v in results_of(folder).items() if k != "cleaned/data.yaml"} == {
        k: v for k, v in results_of(trained).items() if k != "cleaned/data.yaml"
    }


@pytest.mark.trained
def test_changed_prediction_settings_repeat_no_training(place: Path, trained: Path) -> None:
    folder = place / "runs" / "sharper"
    shutil.copytree(trained, folder, symlinks=True)
    (training,) = (folder / "stages").glob("train-*")
    before = describe_tree(training)
    with warm_children():
        _, ran = run_inside(place, "trained.yaml", "name=sharper", "predict.max_det=2", "predict.conf=0.0005")
    assert ran == ["load", "detect", "crops", "score", "issues", "export"]
    assert list((folder / "stages").glob("train-*")) == [training]
    assert describe_tree(training) == before
    detections, earlier = (pl.read_parquet(path / "detections.parquet", glob=False) for path in (folder, trained))
    assert detections["score"].min() >= 0.0005
    expect("least score of before", earlier["score"].min(), most=0.0004)  # ten seeds: 0.00026
    assert detections.group_by("image_id").len()["len"].max() == 2
    expect("images with more than two detections before", (earlier.group_by("image_id").len()["len"] > 2).sum(), least=12)  # ten seeds: 24


def test_the_cleaned_set_trains_as_it_is(place: Path, trained: Path) -> None:
    before = describe_tree(place / "yolo")
    private = place / "ultralytics"
    private.mkdir()
    code = "import sys; from ultralytics.cfg import entrypoint; sys.argv[0] = 'yolo'; entrypoint()"
    line = f"data={trained}/cleaned/data.yaml model={place}/tiny-yolo11n.yaml epochs=1 imgsz=64 batch=8 device=cpu workers=0 plots=False"
    arguments = ["detect", "train", *re.split(r" (?=\w+=)", line), f"project={private}/out"]
    done = call(["-c", code, *arguments], place, YOLO_CONFIG_DIR=str(private), MPLCONFIGDIR=str(private), YOLO_OFFLINE="true")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    scanned = re.findall(r"(\d+) images, (\d+) backgrounds, (\d+) corrupt", said)
    assert {(int(images), int(corrupt)) for images, _, corrupt in scanned} == {(24, 0), (4, 0)}, said
    assert "WARNING" not in re.sub(r"WARNING.{0,40}(no version|offline)", "", said), said
    assert list(private.glob("out/**/last.pt"))
    assert describe_tree(place / "yolo") == before


# --- with detections that the user brings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brought(place: Path) -> dict[str, Path]:
    """A run for each format, in processes that say which of Ultralytics and PyTorch they imported: nothing."""
    before = {kind: describe_tree(place / kind) for kind in ("yolo", "coco", "voc")}
    for kind in before:
        done = call(["-c", IMPORTS, "run", f"{kind}.yaml"], place)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("imported: []\n")
        assert describe_tree(place / kind) == before[kind]
    assert list((place / "home").rglob("*")) == []
    return {kind: place / "runs" / kind for kind in before}


@pytest.mark.trained
@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_a_run_from_predictions(brought: dict[str, Path], kind: str) -> None:
    assert contract_of(brought[kind]) == []
    issues = pl.read_csv(brought[kind] / "issues.csv", glob=False)
    assert issues.columns == COLUMNS
    wrong = {("swap", "01"), ("overlooked", "04"), ("badloc", "07"), ("spurious", "10"), ("duplicate", "13")}
    found = {(row["issue_type"], Path(row["file_name"]).stem[-2:]) for row in issues.iter_rows(named=True)}
    expect("planted errors found of five", len(found & wrong), least=3)
    swap = issues.filter(pl.col("issue_type") == "swap").row(0, named=True)
    truth = make_scenes()[1].objects[0][0]
    assert (swap["suggested_category"], swap["action"]) == (CATEGORIES[truth], "relabel")
    assert not list((brought[kind] / "stages").glob("folds-*"))


def test_the_cleaned_yolo_set_is_a_patch(brought: dict[str, Path], place: Path) -> None:
    cleaned = brought["yolo"] / "cleaned"
    content = yaml.safe_load((cleaned / "data.yaml").read_text())
    assert content["path"] == str(cleaned)
    assert content["names"] == dict(enumerate(CATEGORIES))
    issues = pl.read_parquet(brought["yolo"] / "issues.parquet", glob=False).filter(pl.col("verdict") == "noisy")
    edited = {Path(name).stem for name in issues["file_name"].to_list()}
    for split, count in (("train", 24), ("val", 4)):
        labels = sorted((cleaned / "labels" / split).glob("*.txt"))
        assert len(labels) == len(list((cleaned / "images" / split).glob("*.png"))) == count
        changed = {path.stem for path in labels if path.read_bytes() != (place / "yolo" / "labels" / split / path.name).read_bytes()}
        assert changed == (edited if split == "train" else set())
    swapped = (cleaned / "labels" / "train" / "01.txt").read_text().splitlines()
    assert swapped[0].split()[0] == str(make_scenes()[1].objects[0][0])
    assert swapped[1:] == (place / "yolo" / "labels" / "train" / "01.txt").read_text().splitlines()[1:]


def test_the_cleaned_coco_set_opens_with_pycocotools(brought: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    cleaned = COCO(str(brought["coco"] / "cleaned" / "annotations.json"))
    assert len(cleaned.imgs) == 28
    assert all(isinstance(a["id"], int) and len(a["bbox"]) == 4 and a["area"] > 0 for a in cleaned.anns.values())
    listed = COCO(str(brought["coco"] / "issues.coco.json"))
    assert set(listed.imgs) <= set(cleaned.imgs)
    assert len(listed.anns) == pl.read_csv(brought["coco"] / "issues.csv", glob=False).height


@pytest.mark.parametrize("strategy", ["fix", "drop_boxes", "drop_images"])
def test_without_issues_the_labels_come_out_as_they_went_in(place: Path, strategy: str) -> None:
    for kind in ("yolo", "coco", "voc"):
        done, _ = run_inside(place, f"{kind}.yaml", f"name={kind}-none", "issues.budget=0", f"clean.strategy={strategy}")
        cleaned = done.folder / "cleaned"
        assert done.issues.height == 0
        assert contract_of(done.folder) == []
        if kind == "coco":
            given = (place / "coco" / "annotations.json").read_text()
            assert json.loads((cleaned / "annotations.json").read_text()) == json.loads(given)
        else:
            part = {"yolo": "labels", "voc": "Annotations"}[kind]
            assert digests(cleaned / part) == digests(place / kind / part)
        pictures = {"yolo": "images", "coco": "images", "voc": "JPEGImages"}[kind]
        assert digests(cleaned / pictures) == digests(place / kind / pictures)


# each name is about to appear, so each kill comes at the last moment before a step is complete
MOMENTS = (
    "stages/load-[0-9a-f]{12}$",
    "stages/audit-[0-9a-f]{12}$",
    "stages/detect-[0-9a-f]{12}$",
    "stages/score-[0-9a-f]{12}.partial/facts.json$",
    "stages/score-[0-9a-f]{12}$",
    "stages/issues-[0-9a-f]{12}$",
    "stages/export-[0-9a-f]{12}.partial/cleaned/data.yaml$",
    "stages/export-[0-9a-f]{12}$",
    "runs/[^/]+/cleaned$",
    "runs/[^/]+/issues.csv$",
    "stages/published$",
    "runs/[^/]+/summary.json$",
)


def test_killed_at_any_step_it_goes_on_and_ends_the_same(place: Path, brought: dict[str, Path]) -> None:
    folder = place / "runs" / "mortal"
    stages: dict[str, int] = {}
    for moment in MOMENTS:
        run_until(moment, place, "yolo.yaml", "name=mortal")
        assert stages.items() <= stage_times(folder).items(), moment  # what was complete was not made again
        stages = stage_times(folder)
    run_inside(place, "yolo.yaml", "name=mortal")
    assert contract_of(folder) == []
    assert not list(folder.rglob("*.partial"))
    mine, theirs = results_of(folder), results_of(brought["yolo"])
    for moved in (mine, theirs):
        moved.pop("cleaned/data.yaml")
    assert mine == theirs


def test_a_kill_while_new_results_are_put_in_place_never_leaves_a_mixture(place: Path, brought: dict[str, Path]) -> None:
    folder = run_inside(place, "yolo.yaml", "name=mixed")[0].folder
    before = results_of(folder)
    run_until(r"mixed/issues\.parquet$", place, "yolo.yaml", "name=mixed", "clean.strategy=drop_images")
    assert results_of(folder) != before
    run_inside(place, "yolo.yaml", "name=mixed")
    assert results_of(folder) == before


# --- what runs again ----------------------------------------------------------------------------------------------------------------


def run_inside(place: Path, *arguments: str) -> tuple[RunResult, list[str]]:
    """A run in this process, in the working directory `place`, and which stages ran in it."""
    here = os.getcwd()
    os.chdir(place)
    try:
        config = read_config(arguments[0], arguments[1:])
    finally:
        os.chdir(here)
    config = config.model_copy(update={"runs": place / "runs"})
    said = io.StringIO()
    with open_display(config.folder / "run.log", Console(file=said)) as display:
        result = run_pipeline(config, display)
    return result, re.findall(r"^(\w+): begins", said.getvalue(), re.MULTILINE)


def pretend_to_detect(scenes: list[Scene]) -> Callable[..., Predictions]:
    """What stands in for five minutes of training and looking: `detect_objects`, fold by fold."""

    def predict_out_of_fold(dataset: Dataset, folds: Any, trained: Path, out: Path, *, looks: Boxes, **settings: Any) -> Predictions:
        index_of = {name: i for i, name in enumerate(dataset.images["file_name"].to_list())}
        rows = [(f"images/{scenes[i].name}", *rest) for i, *rest in detect_objects(scenes)]
        rows = [row for row in rows if row[0] in index_of]
        image = np.array([index_of[name] for name, *_ in rows])
        vectors = np.full((len(rows), len(dataset.categories)), 0.01)
        vectors[np.arange(len(rows)), [category for _, category, _, _ in rows]] = [score for _, _, score, _ in rows]
        detections = Boxes.sorted(
            image_index=image,
            category=vectors.argmax(axis=1),
            xyxy=xywh_to_xyxy(np.array([xywh for *_, xywh in rows])),
            score=vectors.max(axis=1),
            class_scores=vectors,
            fold=folds[0][image],
            repeat=np.zeros(len(rows), np.int64),
        )
        return as_predictions(detections, looks, dataset.image_count)

    return predict_out_of_fold


@pytest.fixture
def quick(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Runs a copy of the data set and answers which stages ran; nothing is trained, so there are no weights to look at crops with."""
    monkeypatch.setattr("detclean.detect.yolo.train_folds", lambda *given, **more: None)
    monkeypatch.setattr("detclean.detect.yolo.predict_out_of_fold", pretend_to_detect(make_scenes()))
    write_yolo(tmp_path / "yolo")
    shutil.copy(place / "tiny-yolo11n.yaml", tmp_path)
    write_config(tmp_path / "c.yaml", data="yolo/data.yaml", crops="never", **(TRAINING | SURE | {"issues": {}}))

    def quick(*overrides: str) -> list[str]:
        result, ran = run_inside(tmp_path, "c.yaml", *overrides)
        for name in ("issues.parquet", *TABLES):
            assert (result.folder / name).is_file()
        return ran

    assert quick() == ["load", "audit", "folds", "train", "detect", "score", "issues", "export"]
    return quick


ALWAYS = ["load"]  # it looks at the world outside, and everything else depends on what it saw


def test_what_a_setting_changes_runs_again_and_nothing_else(quick: Callable[..., list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "c"
    before = results_of(folder)
    assert quick() == ALWAYS
    assert quick("workers=2") == ALWAYS
    assert quick("issues.target_precision=0.5") == [*ALWAYS, "issues", "export"]
    assert pl.read_csv(folder / "issues.csv", glob=False).height >= 4
    assert quick("clean.strategy=drop_boxes") == [*ALWAYS, "export"]
    assert quick("export.formats=[csv]") == [*ALWAYS, "export"]
    assert not (folder / "issues.coco.json").exists()
    assert quick("score.planting_rounds=29") == [*ALWAYS, "score", "issues", "export"]
    looking = [*ALWAYS, "detect", "score", "issues", "export"]
    assert quick(f"score.seed={SEED + 1}") == looking  # what is planted is drawn before anybody looks
    assert quick("predict.conf=0.02") == looking
    assert quick("predict.max_det=20") == looking
    assert quick("train.epochs=5") == [*ALWAYS, "train", "detect", "score", "issues", "export"]
    assert quick("folds.seed=2") == [*ALWAYS, "folds", "train", "detect", "score", "issues", "export"]
    assert quick() == ALWAYS  # back to where it began: nothing of it was thrown away
    assert results_of(folder) == before


def test_changed_data_run_again(quick: Callable[..., list[str]], tmp_path: Path) -> None:
    label = tmp_path / "yolo" / "labels" / "train" / "05.txt"
    rows = label.read_bytes()
    os.utime(label, ns=(1, 1))
    assert quick() == ALWAYS  # its time is nothing, what stands in it is all
    number = rows[:1]
    label.write_bytes((b"1" if number != b"1" else b"0") + rows[1:])  # of the same size
    everything = [*ALWAYS, "audit", "folds", "train", "detect", "score", "issues", "export"]
    assert quick() == everything
    issues = pl.read_csv(tmp_path / "runs" / "c" / "issues.csv", glob=False)
    assert "labels/train/05.txt:1" in issues.filter(pl.col("issue_type") == "swap")["source"].to_list()
    label.write_bytes(rows)
    assert quick() == ALWAYS
    picture = tmp_path / "yolo" / "images" / "train" / "05.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert quick() == everything
    (tmp_path / "tiny-yolo11n.yaml").write_text((tmp_path / "tiny-yolo11n.yaml").read_text() + "# another\n")
    assert quick() == [*ALWAYS, "train", "detect", "score", "issues", "export"]


def test_weights_beside_the_configuration_are_found_and_looked_into(
    quick: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("detclean.detect.yolo.train_folds", lambda *given, **more: told.append(more))
    weights = tmp_path / "base.pt"
    weights.write_bytes(b"some")
    after = [*ALWAYS, "train", "detect", "score", "issues", "export"]
    assert quick("train.pretrained=base.pt") == after
    assert told[0]["train"]["pretrained"] == str(weights)
    assert told[0]["model"] == str(tmp_path / "tiny-yolo11n.yaml")
    weights.write_bytes(b"more")
    assert quick("train.pretrained=base.pt") == after


def test_an_answer_key_is_held_against_the_issues(quick: Callable[..., list[str]], tmp_path: Path) -> None:
    scenes = make_scenes()
    category, x1, y1, x2, y2 = scenes[1].annotated[0]
    key = {"file_name": "images/train/01.png", "issue_type": "swap", "category": CATEGORIES[category], "bbox": [x1, y1, x2 - x1, y2 - y1]}
    (tmp_path / "answers.json").write_text(json.dumps({"planted": [key], "hard": []}))
    assert quick("answers=answers.json") == ALWAYS
    summary = orjson.loads((tmp_path / "runs" / "c" / "summary.json").read_bytes())
    assert set(summary["answers"]["per_type"]) == set(ISSUE_TYPES)
    assert summary["answers"]["per_type"]["swap"]["found"] == 1
