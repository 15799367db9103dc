"""Out-of-fold detection by a tiny YOLO: what comes out, what is left alone, what an interruption costs."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from PIL import Image
from tiny import describe_tree, find_children, hold_at, write_model
from trained import SEED, expect

from detclean.boxes import Boxes
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.detect import yolo, yolo_process, yolo_settings
from detclean.detect.locations import COLUMNS
from detclean.detect.quality import measure_quality
from detclean.detect.yolo import Predictions, find_slots, find_usual_slots, predict_out_of_fold, share_threads, train_folds
from detclean.detect.yolo_process import Tail
from detclean.detect.yolo_settings import choose_slots, count_room, count_side_by_side
from detclean.detect.yolo_view import find_names, format_labels, write_fold_lists, write_questions
from detclean.errors import ConfigError, StageError

pytestmark = pytest.mark.usefixtures("warm")
SIDE = 64
EPOCHS = 4
FOLDS = np.array([[0, 1] * 5])
PREDICT = {"conf": 0.0001, "max_det": 30}
# nbs is twice the batch: gradients add up over two batches, and must not be lost at an epoch's end
TRAIN = {"epochs": EPOCHS, "imgsz": SIDE, "batch": 2, "nbs": 4, "device": "cpu", "close_mosaic": 2, "warmup_epochs": 1}
NO_PICTURE = 9
OUT = "a run #ü"
LOGS = ("train.log", "progress.jsonl")

DRIVER = """
import sys
from pathlib import Path
import numpy as np
import orjson
from detclean.dataset import open_dataset
from detclean.detect import yolo
arguments = orjson.loads(Path(sys.argv[1]).read_bytes())
dataset, folds = open_dataset(Path(arguments["dataset"])), np.array(arguments["folds"])
places = [Path(place) for place in arguments["places"]]
looks = {"looks": dataset.annotations} if arguments["what"] == "predict_out_of_fold" else {}
getattr(yolo, arguments["what"])(dataset, folds, *places, **looks, **arguments["settings"])
"""


def make_dataset(folder: Path) -> Dataset:
    """Ten pictures of squares, some under awkward names; the last has none."""
    rng = np.random.default_rng(0)
    names = [f"plain{i}.png" for i in range(6)] + ["a b#c.png", "[x] ü.png", "sub/plain0.png", "absent.png"]
    category, xyxy, image_index = [], [], []
    for index, name in enumerate(names):
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for kind in range(2):
            (x, y), side = rng.integers(0, 40, 2), int(rng.integers(12, 24))
            pixels[y : y + side, x : x + side] = (255, 0, 0) if kind else (0, 255, 0)
            xyxy.append((x, y, x + side, y + side))
            category.append(kind)
            image_index.append(index)
        if index != NO_PICTURE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
    # a JPEG that does not end in its end marker, which Ultralytics would write anew
    jpeg = folder / "plain1.jpg"
    Image.open(folder / "plain1.png").save(jpeg)
    (folder / "plain1.png").unlink()
    jpeg.write_bytes(jpeg.read_bytes() + b"\0")
    names[1] = jpeg.name
    paths = [str(folder / name) if index != NO_PICTURE else None for index, name in enumerate(names)]
    images = pl.DataFrame(
        {"image_id": range(10), "file_name": names, "path": paths, "label_path": [None] * 10, "width": [SIDE] * 10, "height": [SIDE] * 10},
        schema_overrides={"label_path": pl.String},
    ).with_columns(split=pl.lit(None, pl.String))
    annotations = Boxes(np.array(image_index), np.array(category), np.array(xyxy), annotation_id=np.arange(20), is_crowd=np.zeros(20, bool))
    return Dataset(images, ("green", "red"), annotations, np.arange(20), "memory", folder)


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float, str]] = []
        self.lines: list[str] = []

    def task(self, key: str, description: str, total: float) -> None:
        self.announced = [*getattr(self, "announced", []), key]

    def advance(self, key: str, done: float, total: float, note: str) -> None:
        self.steps.append((key, done, total, note))

    def log(self, text: str) -> None:
        self.lines.append(text)

    say = log


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home of its own, a data set and a model of 180,000 parameters with two heads, as in YOLO26."""
    root = tmp_path_factory.mktemp("detect")
    (root / "home").mkdir()
    write_model(root / "tiny-yolo26n.yaml", "26")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="module")
def dataset(place):
    return make_dataset(place / "data")


def train(place, dataset, out, **changed):
    arguments = {"model": str(place / "tiny-yolo26n.yaml"), "train": TRAIN, "seed": 3 + SEED, "workers": 2} | changed
    train_folds(dataset, FOLDS, out / "train", **arguments)


def predict(dataset, out, trained=None, **changed) -> Predictions:
    arguments = {"looks": dataset.annotations, "predict": PREDICT, "device": "cpu", "workers": 2} | changed
    return predict_out_of_fold(dataset, FOLDS, trained or out / "train", out / "detect", **arguments)


def start(folder: Path, what: str, places: list[Path], held: dict[str, str], **settings) -> subprocess.Popen[bytes]:
    """One of the two functions, in a process of its own that can be killed. held: where its children wait for that."""
    arguments = {"what": what, "dataset": str(folder / "stored"), "folds": FOLDS.tolist(), "places": list(map(str, places))}
    (folder / f"{what}.json").write_bytes(orjson.dumps(arguments | {"settings": settings}))
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder / f"{what}.json")], env=os.environ | held)


def kill_once(condition, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kills a process, once it is so far, whose children work in a folder and have to end as well."""
    while not condition() and process.poll() is None:
        time.sleep(0.01)
    children = find_children(folder)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    while find_children(folder):  # until the test runs out of time: a child that worked on would do so unseen
        time.sleep(0.01)
    assert children or not Path("/proc").exists()


@pytest.fixture(scope="module")
def stored(place, dataset):
    """The data set as other processes read it."""
    (place / "stored").mkdir()
    write_dataset(dataset, place / "stored")
    return open_dataset(place / "stored")


@pytest.fixture(scope="module")
def undisturbed(place, dataset):
    before = describe_tree(place / "data")
    recorder = Recorder()
    train(place, dataset, place / OUT, display=recorder)
    assert not list((place / OUT / "train").rglob("detections.parquet"))
    predictions = predict(dataset, place / OUT, display=recorder)
    assert describe_tree(place / "data") == before
    return predictions, recorder


def assert_same(one: Predictions, other: Predictions, folds: tuple[int, ...] = (0, 1)) -> None:
    """To the bit, what the models of these folds have said."""
    mine, theirs = (np.isin(each.detections.fold, folds) for each in (one, other))
    for name, column in one.detections.columns().items():
        assert np.array_equal(column[mine], other.detections.columns()[name][theirs]), name
    assert one.at_detections.filter(mine).equals(other.at_detections.filter(theirs))
    mine, theirs = (np.isin(FOLDS[0][each.looks["row"].to_numpy() // 2], folds) for each in (one, other))  # two annotations an image
    assert one.looks.filter(mine).equals(other.looks.filter(theirs))


@pytest.mark.trained
def test_detections_come_from_the_fold_that_did_not_train_on_the_image(undisturbed):
    boxes = undisturbed[0].detections
    assert boxes.class_scores.shape == (len(boxes), 2)
    assert (boxes.fold == FOLDS[0][boxes.image_index]).all()
    seen = np.bincount(boxes.image_index, minlength=10)
    assert seen[NO_PICTURE] == 0
    expect("fewest detections of a picture", np.delete(seen, NO_PICTURE).min(), least=4)  # ten seeds: 30
    assert (boxes.repeat == 0).all()
    assert np.array_equal(boxes.score, boxes.class_scores.max(axis=1))
    assert np.array_equal(boxes.category, boxes.class_scores.argmax(axis=1))
    assert boxes.xyxy.min() >= 0
    assert boxes.xyxy.max() <= SIDE
    assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
    assert max(Counter(boxes.image_index.tolist()).values()) <= PREDICT["max_det"]


def test_nothing_is_left_but_weights_detections_and_logs(place, undisturbed):
    left = {path.relative_to(place / OUT).as_posix() for path in (place / OUT).rglob("*") if path.is_file()}
    logs = {f"{what}/folds/fold-{fold}/{name}" for what in ("train", "detect") for fold in range(2) for name in LOGS}
    detections = {f"detect/folds/fold-{fold}/{name}.parquet" for fold in range(2) for name in ("detections", "looks")}
    assert left == logs | detections | {"train/weights/fold-0.weights", "train/weights/fold-1.weights"}
    assert list((place / "home").rglob("*")) == []


def test_progress_names_fold_and_epochs_and_the_log_is_passed_on(undisturbed):
    _, recorder = undisturbed
    trainings, looks = {"fold 1/2", "fold 2/2"}, {"looking with fold 1/2", "looking with fold 2/2"}
    last = {key: (done, total) for key, done, total, _ in recorder.steps}
    assert last == dict.fromkeys(trainings, (EPOCHS, EPOCHS)) | {"looking with fold 1/2": (5, 5), "looking with fold 2/2": (4, 4)}
    assert set(recorder.announced) == trainings | looks
    assert any(line.startswith("fold 1/2: ") and "optimizer" in line for line in recorder.lines)
    assert any("1 images have no picture" in line for line in recorder.lines)


def test_a_finished_run_starts_nothing(place, dataset, undisturbed, monkeypatch):
    monkeypatch.setattr(yolo_process.subprocess, "Popen", None)
    train(place, dataset, place / OUT)
    assert_same(predict(dataset, place / OUT), undisturbed[0])


def test_looking_again_with_other_settings_leaves_the_training_alone(place, dataset, undisturbed, tmp_path):
    before = describe_tree(place / OUT / "train")
    boxes = predict(dataset, tmp_path, place / OUT / "train", predict=PREDICT | {"max_det": 3, "batch": 2}).detections
    assert max(Counter(boxes.image_index.tolist()).values()) == 3
    assert len(boxes) < len(undisturbed[0].detections)
    assert describe_tree(place / OUT / "train") == before


@pytest.mark.trained
def test_where_nothing_is_detected_the_boxes_are_judged_all_the_same(place, dataset, undisturbed, tmp_path):
    nothing = predict(dataset, tmp_path, place / OUT / "train", predict=PREDICT | {"conf": 1.0})
    assert len(nothing.detections) == len(nothing.at_detections) == 0
    assert nothing.looks["row"].to_list() == undisturbed[0].looks["row"].to_list()
    apart = (nothing.looks["target_nll"] - undisturbed[0].looks["target_nll"]).abs().max()
    expect("difference of losses", apart, most=1e-5)  # ten seeds: 0


@pytest.mark.trained
def test_those_who_learnt_a_label_can_be_asked_about_it_too(place, dataset, undisturbed, tmp_path):
    asked = predict(dataset, tmp_path, place / OUT / "train", everyone=True)
    looks = asked.looks
    assert sorted(looks.select("fold", "row").rows()) == [(fold, row) for fold in range(2) for row in range(18)]
    of = FOLDS[0][looks["row"].to_numpy() // 2]
    assert looks["held_out"].to_list() == (of == looks["fold"].to_numpy()).tolist()
    alone, among = undisturbed[0].looks.sort("row"), looks.filter("held_out").sort("row")
    expect("difference of losses", (among["target_nll"] - alone["target_nll"]).abs().max(), most=1e-3)  # ten seeds: 0
    assert (asked.detections.fold == FOLDS[0][asked.detections.image_index]).all()  # what is detected is still out of fold
    assert len(asked.at_detections) == len(asked.detections) == len(undisturbed[0].detections)


def read_epochs(out: Path, fold: int, kind: str = "epoch") -> list[int]:
    """The epochs that a fold has finished, in order; kind "start": those after which its processes began."""
    path = out / "train" / "folds" / f"fold-{fold}" / "progress.jsonl"
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [line["done"] for line in lines if line["kind"] == kind]


def test_killed_in_training_and_resumed_it_ends_with_the_same_bits(place, stored, undisturbed):
    out = place / "killed"
    settings = {"model": str(place / "tiny-yolo26n.yaml"), "train": TRAIN, "seed": 3 + SEED, "workers": 2}
    process = start(place, "train_folds", [out / "train"], hold_at("state.pt", 3), **settings)
    kill_once(lambda: read_epochs(out, 0) == read_epochs(out, 1) == [1, 2], process, out)
    before = read_epochs(out, 0)
    assert before == [1, 2]

    recorder = Recorder()
    train(place, stored, out, display=recorder)
    for fold in range(2):
        epochs, starts = read_epochs(out, fold), read_epochs(out, fold, "start")
        assert len(set(epochs)) == len(epochs)  # none was trained twice
        assert {*epochs, *starts} == set(range(EPOCHS + 1))  # a kill between saving and telling leaves the next start to tell
    assert next(done for key, done, *_ in recorder.steps if key == "fold 1/2") >= len(before)
    assert_same(predict(stored, out), undisturbed[0])


def test_killed_in_prediction_and_resumed_it_ends_with_the_same_bits(place, stored, undisturbed):
    trained, out = place / OUT / "train", place / "killed looking"
    first, second = (out / "detect" / "folds" / f"fold-{fold}" / "detections.parquet" for fold in range(2))
    settings = {"predict": PREDICT, "device": "cpu", "workers": 1}  # one after the other
    weights = describe_tree(trained)
    held = hold_at("fold-1/detections.parquet")
    process = start(place, "predict_out_of_fold", [trained, out / "detect"], held, **settings)
    kill_once(lambda: first.exists() and (find_children(second.parent) or not Path("/proc").exists()), process, out)
    assert first.exists()
    assert not second.exists()
    finished = describe_tree(first.parent)[str(first)]

    resumed = predict(stored, out, trained)
    assert describe_tree(first.parent)[str(first)] == finished
    assert describe_tree(trained) == weights
    assert_same(resumed, undisturbed[0])  # though there the folds stood side by side
    first.write_bytes(first.read_bytes()[:-5])  # by a disk
    assert_same(predict(stored, out, trained), undisturbed[0])


def test_damaged_weights_and_checkpoints_are_made_again(place, stored, undisturbed):
    out = place / "damaged"
    shutil.copytree(place / OUT / "train", out / "train")
    names = ["fold-0.weights", "fold-1.weights"]
    before = [read_tensors(out / "train" / "weights" / name) for name in names]
    (weights := out / "train" / "weights" / names[0]).write_bytes(weights.read_bytes()[:1000])
    (out / "train" / "folds" / "fold-0" / "state.pt").write_bytes(b"PK of which the rest is lost")
    train(place, stored, out, workers=1)  # there they stood side by side
    assert [read_tensors(out / "train" / "weights" / name) for name in names] == before
    assert "so this training begins anew" in (out / "train" / "folds" / "fold-0" / "train.log").read_text()
    assert read_epochs(out, 0) == 2 * read_epochs(place / OUT, 0)
    assert read_epochs(out, 1) == read_epochs(place / OUT, 1)


def read_tensors(weights: Path) -> dict[str, bytes]:
    """The rest of the file tells of its folder and its time."""
    with zipfile.ZipFile(weights) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if "/data/" in name}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": TRAIN | {"epoch": 3}}, r"train\.epoch: .*did you mean train\.epochs"),
        ({"train": TRAIN | {"time": 1.0}}, r"train\.time: cannot be set"),
        ({"train": TRAIN | {"lr0": "fast"}}, r"train: .*lr0"),
    ],
)
def test_settings_that_cannot_be(place, dataset, changed, message):
    with pytest.raises(ConfigError, match=message) as caught:
        train(place, dataset, place / "refused", **changed)
    assert "\n" not in str(caught.value)


def test_prediction_settings_that_cannot_be(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"predict\.max_dets: .*did you mean predict\.max_det"):
        predict(dataset, tmp_path, predict={"max_dets": 9})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("model", "message"), [("nowhere/mine.pt", "there is no file nowhere/mine.pt"), ("broken.pt", "cannot be used")])
def test_weights_that_cannot_be_had(place, dataset, model, message):
    if model == "broken.pt":
        model = str(place / model)
        Path(model).write_bytes(b"no weights")
    with pytest.raises(StageError, match=message) as caught:
        train(place, dataset, place / "refused", model=model)
    assert "\n" not in str(caught.value)


def test_a_training_that_fails_is_told_in_one_line(place, dataset):
    with pytest.raises(StageError, match=r"fold 1/2: training failed: .*BatchNorm.*train\.log") as caught:
        train(place, dataset, place / "failed", train=TRAIN | {"imgsz": 32, "batch": 3})  # four images: the last batch has one
    assert "\n" not in str(caught.value)


def test_folds_without_anything_to_train_on_are_refused_before_any_training(dataset, tmp_path):
    only = replace(dataset, annotations=dataset.annotations[dataset.annotations.image_index == 0])
    with pytest.raises(StageError, match="fold 1/2: none of the images to train on"):
        train_folds(only, FOLDS, tmp_path, model="x.yaml", train={})


def test_labels_are_cut_at_the_border_and_without_crowds(dataset):
    boxes = Boxes(
        np.array([0, 0, 2, 2, 2]),
        np.array([1, 0, 1, 0, 0]),
        np.array([[16, 16, 48, 32], [-10, 0, 32, 64], [0, 0, 8, 8], [5, 5, 5, 20], [70, 0, 80, 10]]),
        is_crowd=np.array([False, False, True, False, False]),
    )
    assert format_labels(replace(dataset, annotations=boxes)) == {0: "1 0.5 0.375 0.5 0.25\n0 0.25 0.5 0.5 1.0\n"}


def test_no_held_out_label_is_named_in_the_data_yaml(dataset, tmp_path):
    write_fold_lists(dataset, find_names(dataset), FOLDS[0] == 1, tmp_path / "view", tmp_path / "fold")
    content = yaml.safe_load((tmp_path / "fold" / "data.yaml").read_text())
    names = find_names(dataset)
    for entry in ("train", "val"):
        listed = (tmp_path / "fold" / content[entry]).read_text().splitlines()
        assert [Path(path).name for path in listed] == [names[i] for i in range(0, 10, 2)]
    assert content["names"] == {0: "green", 1: "red"}


def test_a_model_is_asked_about_its_held_out_pictures_alone(dataset, tmp_path):
    write_questions(dataset, FOLDS[0] == 1, dataset.annotations, tmp_path / "fold")
    images = pl.read_parquet(tmp_path / "fold" / "images.parquet")
    assert images.columns == ["image_index", "path", "width", "height"]
    assert images["image_index"].to_list() == [1, 3, 5, 7]  # 9 has no picture
    assert images["path"].to_list() == [dataset.images["path"][i] for i in (1, 3, 5, 7)]
    asked = pl.read_parquet(tmp_path / "fold" / "asked.parquet")
    assert asked["row"].to_list() == [2, 3, 6, 7, 10, 11, 14, 15]
    assert asked["image_index"].to_list() == dataset.annotations.image_index[asked["row"].to_numpy()].tolist()
    assert np.array_equal(asked.select("x1", "y1", "x2", "y2").to_numpy(), dataset.annotations.xyxy[asked["row"].to_numpy()])


def test_what_the_raw_output_says_stands_beside_each_box(undisturbed, dataset):
    predictions = undisturbed[0]
    assert predictions.at_detections.columns == [f"raw_{name}" for name in COLUMNS]
    assert predictions.at_detections.height == len(predictions.detections)
    looks = predictions.looks
    assert set(looks.columns) == {"row", "repeat", "fold", "held_out", *COLUMNS}
    assert sorted(looks["row"].to_list()) == list(range(18))  # the two annotations of the image without a picture cannot be looked at
    assert looks["fold"].to_list() == FOLDS[0][looks["row"].to_numpy() // 2].tolist()
    assert looks["held_out"].all()
    assert looks.select(pl.all().is_not_null().all()).row(0) == (True,) * looks.width


@pytest.mark.parametrize(
    ("device", "cuda_devices", "workers", "slots"),
    [
        ("auto", 0, 2, ["cpu", "cpu"]),
        ("auto", 3, None, ["0", "1", "2"]),
        (None, 8, None, ["0", "1", "2", "3", "4"]),
        ([0, 1], 2, None, ["0", "1"]),
        ("cuda:1", 2, None, ["1"]),
        ("0,1", 2, 1, ["0"]),
        ("cpu", 4, 9, ["cpu"] * 5),
        ("auto", [2, 3], None, ["0", "1", "0", "1"]),  # four cores
        ("auto", [1, 3], None, ["0", "1", "1", "1"]),
        ("auto", [9], None, ["0"] * 4),
        ("1", [9, 2], None, ["1", "1"]),
        ("auto", [1, 1], 4, ["0", "1", "0", "1"]),  # as told, whatever there is room for
        ("auto", [9], 9, ["0"] * 5),
        ("auto", [], None, ["cpu"] * 5),
    ],
)
def test_a_fold_a_device_or_as_many_as_share_it(device, cuda_devices, workers, slots, monkeypatch):
    monkeypatch.setattr(yolo_settings, "count_cores", lambda: 4)
    monkeypatch.setattr(yolo_settings, "count_free_memory", lambda: 2.0**40)
    assert choose_slots(device, cuda_devices, 5, workers) == slots


def test_threads_depend_on_the_machine_and_the_folds_alone(monkeypatch):
    monkeypatch.setattr(yolo_settings, "count_cores", lambda: 16)
    monkeypatch.setattr(yolo, "count_cores", lambda: 16)
    for free in (2.0**30, 2.0**40):
        monkeypatch.setattr(yolo_settings, "count_free_memory", lambda free=free: free)
        for taken, workers in ([], 1), ([1], None), ([4], None), ([4], 2):  # rooms of a GPU that others work on, or none
            prepared = {"cuda_devices": taken, "usual_cuda_devices": [4] * len(taken)}
            assert len(find_slots(prepared, "auto", 5, workers, None)) == (workers or taken[0])
            assert share_threads(find_usual_slots(prepared, "auto", 5, None)) == (4 if taken else 3)


@pytest.mark.parametrize(
    ("jobs", "cores", "at_a_time"),
    [(5, 1, 1), (5, 2, 3), (4, 2, 2), (3, 2, 3), (1, 2, 1), (5, 4, 5), (10, 4, 5), (7, 4, 4), (5, 16, 5), (6, 2, 2)],
)
def test_no_core_is_idle_while_the_last_fold_trains(jobs, cores, at_a_time):
    assert count_side_by_side(jobs, cores) == at_a_time
    roomy = yolo_settings.ROOMY
    assert count_side_by_side(jobs, cores, at_a_time * roomy + jobs * roomy) == at_a_time
    assert count_side_by_side(jobs, cores, roomy) == min(jobs, cores)  # each needs its own memory


def test_free_memory_is_told() -> None:
    assert 2**26 < yolo_settings.count_free_memory() < 2**50


def test_a_gpu_has_room_for_what_fits_into_its_free_memory():
    assert count_room([10_000, 20_000, 100], 3000) == [2, 5, 1]  # a fifth stays free; one is tried even so
    assert count_room([10_000, 0], None) == [1, 1]
    assert count_room([], None) == []


MEASURE = """
import sys
from pathlib import Path
import orjson, torch
from ultralytics.cfg import get_cfg
from detclean.detect import yolo_worker
measure, seen = yolo_worker.measure_training, []
def on_cpu(model, settings, device):
    seen.append(str(device))
    steps = [measure(model, settings, torch.device("cpu")), measure(model, get_cfg(overrides={"batch": -1}), torch.device("cpu"))]
    seen.append([bool(step) for step in steps])
    return steps[0]
torch.cuda.device_count = lambda: 2
torch.cuda.mem_get_info = lambda device: ((4 << 30) << device, 9 << 30)
yolo_worker.measure_training = on_cpu
job = orjson.loads(Path(sys.argv[1]).read_bytes())
answer = yolo_worker.prepare(job)
other = yolo_worker.prepare(job | {"trains_on_gpu": False})
print(orjson.dumps([seen, answer, other]).decode())
"""


def test_the_room_of_a_gpu_is_measured_before_it_is_shared(place, tmp_path):
    job = {"train": {"imgsz": SIDE, "batch": 2, "epochs": 7}, "model": str(place / "tiny-yolo26n.yaml"), "categories": ["a", "b"]}
    (tmp_path / "job.json").write_bytes(orjson.dumps(job | {"weights_folder": str(tmp_path), "trains_on_gpu": True}))
    environment = os.environ | {"YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "job.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, answer, other = orjson.loads(done.stdout.splitlines()[-1])
    assert seen == ["cuda:1", [True, False]]  # where there is most room; not for a batch size that is yet to be found
    assert answer["epochs"] == 7
    assert answer["cuda_free_bytes"] == [4 << 30, 8 << 30]
    assert answer["cuda_bytes"] == [9 << 30, 9 << 30]
    assert answer["training_bytes"] > 0
    assert other["training_bytes"] is None


@pytest.mark.parametrize("device", ["cuda", "2", "gpu"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ConfigError, match=r"train\.device"):
        choose_slots(device, 0, 5, None)


def test_a_tail_gives_whole_lines_once(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path, 0)
    assert tail.read() == []
    path.write_bytes(b"one\n\x1b[34mtwo\x1b[0m\nthr")
    assert tail.read() == ["one", "two"]
    with open(path, "ab") as f:
        f.write(b"ee\r\n\nfour")
    assert tail.read() == ["three"]
    assert tail.read(to_the_end=True) == ["four"]


def hand_made(dataset: Dataset) -> tuple[Dataset, Boxes]:
    """Image 0: found exactly; 1: its red one is found as green and moved, so of IoU 0.6; 2: a crowd, found; 3: nothing to find."""
    annotations = Boxes(
        np.array([0, 0, 1, 2, 2]),
        np.array([0, 1, 0, 0, 0]),
        np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 10], [0, 0, 60, 60], [30, 0, 40, 10]]),
        is_crowd=np.array([False, False, False, True, False]),
    )
    detections = Boxes(
        np.array([0, 0, 1, 2, 2, 2]),
        np.array([0, 1, 0, 0, 0, 0]),
        np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 6], [0, 40, 10, 50], [20, 40, 30, 50], [30, 0, 40, 10]]),
        score=np.array([0.9, 0.9, 0.8, 0.95, 0.95, 0.5]),
    )
    return replace(dataset.select_images(np.arange(10) < 4), annotations=annotations, source_rows=np.arange(5)), detections


def test_quality_by_fold_on_a_hand_made_case(dataset):
    small, detections = hand_made(dataset)
    rows = measure_quality(small, detections, np.array([[0, 1, 2, 3], [0, 0, 1, 1]]))["folds"]
    assert [(row["repeat"], row["fold"], row["images"]) for row in rows] == [
        (0, 0, 1),
        (0, 1, 1),
        (0, 2, 1),
        (0, 3, 1),
        (1, 0, 2),
        (1, 1, 2),
    ]
    assert [row["map50"] for row in rows] == pytest.approx([1, 1, 1, None, 1, 1])
    # an IoU of 0.6 counts at 0.5, 0.55 and 0.6; what lies in a crowd counts neither way
    assert [row["map"] for row in rows[:4]] == pytest.approx([1, 0.3, 1, None])


def test_quality_counts_each_repeat_by_its_own_detections(dataset):
    small, detections = hand_made(dataset)
    both = Boxes.sorted(
        image_index=np.tile(detections.image_index, 2),
        category=np.concatenate([detections.category, 1 - detections.category]),
        xyxy=np.tile(detections.xyxy, (2, 1)),
        score=np.tile(detections.score, 2),
        repeat=np.repeat([0, 1], len(detections)),
    )
    rows = measure_quality(small, both, np.zeros((2, 4), int))["folds"]
    assert rows[0]["map50"] == pytest.approx(1)
    assert rows[1]["map50"] == pytest.approx(0)
    assert measure_quality(small, both, np.zeros((2, 4), int))["per_category"] == pytest.approx({"green": 0.5, "red": 0.5})


def test_quality_by_category(dataset):
    small, detections = hand_made(dataset)
    more = replace(small, categories=("green", "red", "blue"))
    one_fold = np.zeros((1, more.image_count), int)
    green = measure_quality(more, detections[detections.category == 0], one_fold)["per_category"]
    assert green == pytest.approx({"green": 1, "red": 0, "blue": None})
    nothing = measure_quality(more, Boxes.empty(), one_fold)["per_category"]
    assert nothing == pytest.approx({"green": 0, "red": 0, "blue": None})
