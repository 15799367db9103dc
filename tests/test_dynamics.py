"""Loss dynamics by a tiny YOLO: what is recorded, what an interruption costs, what the evidence makes of it."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_detect import kill_once
from tiny import describe_tree, hold_at, write_model, write_yolo
from trained import SEED, expect

from detclean.boxes import Boxes, write_boxes
from detclean.dataset import write_dataset
from detclean.detect import yolo_process
from detclean.detect.dynamics import LOWEST_RATE, cycle_rate, record_losses
from detclean.detect.yolo import predict_out_of_fold
from detclean.errors import ConfigError, StageError
from detclean.formats import read_dataset
from detclean.score.dynamics import compute_dynamics_evidence
from detclean.score.looks import draw_looks

pytestmark = pytest.mark.usefixtures("warm")
EPOCHS, CYCLES, CYCLE_EPOCHS = 5, 2, 2  # 3 ordinary epochs, as these are a share of all, and 4 in cycles
TRAIN = {
    "epochs": EPOCHS,
    "imgsz": 64,
    "batch": 4,
    "device": "cpu",
    "close_mosaic": 1,
    "warmup_epochs": 1,
    "optimizer": "AdamW",
    "lr0": 0.01,
}
NO_PICTURE = 5
DRIVER = """
import sys
from pathlib import Path
import orjson
from detclean.boxes import read_boxes
from detclean.dataset import open_dataset
from detclean.detect.dynamics import record_losses
given = orjson.loads(Path(sys.argv[1]).read_bytes())
stored = Path(given.pop("stored"))
record_losses(open_dataset(stored), read_boxes(stored / "looks.parquet"), Path(given.pop("out")), **given)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home of its own and a model of 180,000 parameters with two heads, as in YOLO26."""
    root = tmp_path_factory.mktemp("dynamics")
    (root / "home").mkdir()
    write_model(root / "tiny-yolo26n.yaml", "26")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="module")
def dataset(place):
    """The coloured shapes; one image has lost its picture."""
    part = read_dataset(write_yolo(place / "data"), None).select_split("train")
    path = pl.when(pl.int_range(pl.len()) == NO_PICTURE).then(None).otherwise(pl.col("path"))
    return replace(part, images=part.images.with_columns(path=path))


@pytest.fixture(scope="module")
def looks(dataset):
    return draw_looks(dataset.annotations, dataset.sizes, len(dataset.categories))


def run(place, dataset, boxes, out, **changed):
    settings = {
        "model": str(place / "tiny-yolo26n.yaml"),
        "train": TRAIN,
        "seed": 3 + SEED,
        "cycles": CYCLES,
        "cycle_epochs": CYCLE_EPOCHS,
    } | changed
    return record_losses(dataset, boxes, out, **settings)


@pytest.fixture(scope="module")
def undisturbed(place, dataset, looks):
    before = describe_tree(place / "data")
    records = run(place, dataset, looks.boxes, place / "a run #ü")
    assert describe_tree(place / "data") == before
    return records


@pytest.mark.trained
def test_every_box_is_recorded_after_every_epoch_of_the_cycles(looks, undisturbed):
    assert undisturbed.shape == (CYCLES * CYCLE_EPOCHS, len(looks), 6)
    assert undisturbed.dtype == np.float32
    absent = looks.boxes.image_index == NO_PICTURE
    assert 0 < absent.sum() < len(looks)
    assert np.isnan(undisturbed[:, absent]).all()
    seen = undisturbed[:, ~absent]
    assert np.isfinite(seen).all()
    assert (seen[..., [0, 3, 4]] >= 0).all()
    assert (seen[..., 4] >= seen[..., 3]).all()  # fewer locations to choose from
    assert ((seen[..., 1] >= 0) & (seen[..., 1] <= 1)).all()
    expect("share of boxes whose loss changes", (np.diff(seen[..., 0], axis=0) != 0).any(axis=0).mean(), least=0.9)  # the model moved


def test_nothing_is_left_but_records_weights_and_logs(place, undisturbed):
    out = place / "a run #ü"
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {"records.npy", "weights/fold-0.weights", "folds/fold-0/train.log", "folds/fold-0/progress.jsonl"}
    assert list((place / "home").rglob("*")) == []


def test_a_finished_training_is_not_repeated(place, dataset, looks, undisturbed, monkeypatch):
    monkeypatch.setattr(yolo_process.subprocess, "Popen", None)
    assert np.array_equal(run(place, dataset, looks.boxes, place / "a run #ü"), undisturbed, equal_nan=True)


@pytest.mark.trained
def test_the_same_model_predicts(place, dataset, looks, undisturbed):
    zeros = np.zeros((1, dataset.image_count), np.int64)
    settings = {"predict": {"conf": 0.0001, "max_det": 30}, "device": "cpu"}
    found = predict_out_of_fold(dataset, zeros, place / "a run #ü", place / "predicted", looks=looks.boxes, **settings)
    seen = np.bincount(found.detections.image_index, minlength=dataset.image_count)
    assert seen[NO_PICTURE] == 0
    expect("fewest detections of a picture", np.delete(seen, NO_PICTURE).min(), least=1)
    assert (found.detections.fold == 0).all()


def read_weights(out: Path) -> dict[str, bytes]:
    """Every tensor's bytes; the rest of the file names the folder."""
    with zipfile.ZipFile(out / "weights" / "fold-0.weights") as archive:
        return {name: archive.read(name) for name in archive.namelist() if "/data/" in name}


def test_looking_leaves_the_training_as_it_is(place, dataset, undisturbed):
    assert len(read_weights(place / "a run #ü")) > 100
    records = run(place, dataset, Boxes.empty(), place / "nothing asked")
    assert records.shape == (CYCLES * CYCLE_EPOCHS, 0, 6)
    assert read_weights(place / "nothing asked") == read_weights(place / "a run #ü")


def count_epochs(out: Path) -> int:
    path = out / "folds" / "fold-0" / "progress.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return sum(orjson.loads(line)["kind"] == "epoch" for line in lines)


def test_killed_in_a_cycle_and_resumed_it_ends_with_the_same_bits(place, dataset, looks, undisturbed):
    out, stored = place / "killed", place / "stored"
    stored.mkdir()
    write_dataset(dataset, stored)
    write_boxes(looks.boxes, stored / "looks.parquet")
    described = {"stored": str(stored), "out": str(out), "model": str(place / "tiny-yolo26n.yaml"), "train": TRAIN, "seed": 3 + SEED}
    (place / "arguments.json").write_bytes(orjson.dumps(described | {"cycles": CYCLES, "cycle_epochs": CYCLE_EPOCHS}))
    command = [sys.executable, "-c", DRIVER, str(place / "arguments.json")]
    process = subprocess.Popen(command, env=os.environ | hold_at("state.pt", 5))
    kill_once(lambda: count_epochs(out) == 4, process, out)
    before = count_epochs(out)
    assert before == 4
    torn = out / "folds" / "fold-0" / "records" / f"{before:05d}.npy"
    torn.write_bytes(b"of an epoch that was not finished")
    resumed = run(place, dataset, looks.boxes, out)
    assert count_epochs(out) == 7
    assert np.array_equal(resumed, undisturbed, equal_nan=True)
    assert read_weights(out) == read_weights(place / "a run #ü")
    (weights := out / "weights" / "fold-0.weights").write_bytes(weights.read_bytes()[:-1])  # by a disk: the records alone are not all
    assert np.array_equal(run(place, dataset, looks.boxes, out), undisturbed, equal_nan=True)
    assert read_weights(out) == read_weights(place / "a run #ü")


def test_what_cannot_be_trained_is_refused(place, dataset, looks):
    with pytest.raises(ConfigError, match=r"train\.epoch: .*did you mean train\.epochs"):
        run(place, dataset, looks.boxes, place / "refused", train={"epoch": 3})
    blind = replace(dataset, images=dataset.images.with_columns(path=pl.lit(None, pl.String)))
    with pytest.raises(StageError, match="no image has a picture and an annotation"):
        run(place, blind, looks.boxes, place / "refused")


@given(st.integers(2, 30))
def test_the_rate_falls_within_a_cycle_and_jumps_back(cycle_epochs):
    rates = np.array([cycle_rate(epoch, cycle_epochs) for epoch in range(3 * cycle_epochs)]).reshape(3, cycle_epochs)
    assert (rates == rates[0]).all()
    assert (np.diff(rates[0]) < 0).all()
    assert rates[0, -1] == pytest.approx(LOWEST_RATE)
    assert rates[0, 0] == pytest.approx(1 - (1 - LOWEST_RATE) / cycle_epochs)


def make_records(rng, epochs=6, n=40):
    """Records of n boxes, of which the last ten are corrupted copies, with what a box is like and how far the epoch is."""
    records = rng.normal(size=(1, n, 6)) + rng.normal(0, 0.1, (epochs, n, 6)) + np.linspace(3, 0, epochs)[:, None, None]
    return records.astype(np.float32), np.arange(n) < n - 10


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_how_far_an_epoch_is_does_not_count_nor_do_the_copies(seed):
    rng = np.random.default_rng(seed)
    records, given_rows = make_records(rng)
    evidence = compute_dynamics_evidence(records, given_rows)
    later = compute_dynamics_evidence(records + rng.normal(size=(6, 1, 6)).astype(np.float32), given_rows)
    for name in evidence.columns:
        assert later[name].to_numpy() == pytest.approx(evidence[name].to_numpy(), abs=1e-4)
    other = records.copy()
    other[:, ~given_rows] = 100
    assert compute_dynamics_evidence(other, given_rows).head(30).equals(evidence.head(30))


def test_evidence_on_a_hand_made_case():
    records = np.zeros((2, 4, 6), np.float32)
    records[0, :, 0] = [1, 2, 3, 9]  # nll: the mean of the given is 2
    records[1, :, 0] = [1, 1, 4, 9]  # here as well
    records[:, :, 1] = [0.1, 0.1, 0.4, 0.9]  # 1 - IoU: 0.2
    records[:, :, 2] = [5, 5, -1, -3]  # margin: 3
    records[0, :, 3], records[1, :, 3] = [1, 1, 4, 5], [0, 0, 0, 1]  # nll where the IoU is 0.5: 2, then 0
    records[:, :, 4] = [2, 2, 5, 9]  # 0.7: 3
    records[:, :, 5] = [6, 0, 0, 1]  # margin where the IoU is 0.5: 2
    evidence = compute_dynamics_evidence(records, np.array([True, True, True, False]))
    assert evidence["loss_category_mean"].to_list() == pytest.approx([-1, -0.5, 1.5, 7])
    assert evidence["loss_box_mean"].to_list() == pytest.approx([-0.1, -0.1, 0.2, 0.7])
    assert evidence["loss_mean"].to_list() == pytest.approx([-1.2, -0.7, 1.9, 8.4])
    assert evidence["loss_variance"].to_list() == pytest.approx([0, 0.25, 0.25, 0], abs=1e-6)
    assert evidence["margin_mean"].to_list() == pytest.approx([2, 2, -4, -6])
    assert evidence["loss_50_mean"].to_list() == pytest.approx([-0.5, -0.5, 1, 2])
    assert evidence["loss_50_variance"].to_list() == pytest.approx([0.25, 0.25, 1, 1])
    assert evidence["loss_70_mean"].to_list() == pytest.approx([-1, -1, 2, 6])
    assert evidence["margin_50_mean"].to_list() == pytest.approx([4, -2, -2, -1])


def test_boxes_without_a_picture_have_no_evidence_and_no_say():
    rng = np.random.default_rng(0)
    records, given_rows = make_records(rng)
    blind = records.copy()
    blind[:, 3] = np.nan
    evidence = compute_dynamics_evidence(blind, given_rows)
    assert evidence.null_count().row(0) == (1,) * len(evidence.columns)
    without = compute_dynamics_evidence(np.delete(records, 3, axis=1), np.delete(given_rows, 3))
    assert evidence.drop_nulls().equals(without)
