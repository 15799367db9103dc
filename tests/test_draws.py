"""Images drawn by their trust: how often each comes, and that those nobody trusts come in by no door."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_detect import DRIVER, EPOCHS, TRAIN, Recorder, kill_once, make_dataset, read_epochs
from tiny import hold_at, write_model
from trained import SEED

from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.detect.draws import draw_epoch, find_part
from detclean.detect.yolo import list_folds, train_folds
from detclean.errors import ConfigError, StageError

pytestmark = pytest.mark.usefixtures("warm")
HELD_OUT = np.where(np.arange(10) == 8, 0, -1)[None]  # one model for all but one image; the last has no picture
DISTRUSTED = (0, 3)
SETTINGS = TRAIN | {"mosaic": 1.0, "mixup": 0.5, "cutmix": 0.3, "copy_paste": 0.5, "copy_paste_mode": "mixup"}
weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1)), min_size=1, max_size=60).filter(any).map(np.array)


@settings(max_examples=200, deadline=None)
@given(weights, st.integers(0, 1000))
def test_every_image_comes_as_often_as_it_weighs(weights: np.ndarray, seed: int) -> None:
    chosen = draw_epoch(weights, np.random.default_rng(seed))
    assert len(chosen) == len(weights)
    assert (np.diff(chosen) >= 0).all()
    often, expected = np.bincount(chosen, minlength=len(weights)), len(weights) * weights / weights.sum()
    assert (often >= np.floor(expected - 1e-9)).all()
    assert (often <= np.ceil(expected + 1e-9)).all()
    assert not often[weights == 0].any()
    assert np.array_equal(chosen, draw_epoch(weights, np.random.default_rng(seed)))


def test_over_many_epochs_the_mean_is_the_weight() -> None:
    weights = np.array([0.1, 0.9, 0.5, 0.0, 0.5])
    rng = np.random.default_rng(0)
    often = np.bincount(np.concatenate([draw_epoch(weights, rng) for _ in range(4000)]), minlength=5) / 4000
    np.testing.assert_allclose(often, 5 * weights / weights.sum(), atol=0.04)
    assert draw_epoch(np.full(7, 0.3), rng).tolist() == list(range(7))


def test_the_parts_share_the_epochs() -> None:
    draw = np.array([[0.0], [1.0]])
    assert [find_part(draw, epoch, 5)[0] for epoch in range(5)] == [0, 0, 0, 1, 1]
    assert [find_part(draw[1:], epoch, 3)[0] for epoch in range(3)] == [1, 1, 1]
    assert find_part(draw, 0, 1)[0] == 0


def test_a_seed_is_called_a_seed() -> None:
    folds = np.tile(HELD_OUT, (2, 1))
    assert [(part.key, part.name) for part in list_folds(folds, seeds=True)] == [
        ("seed 1 of 2", "repeat-0-fold-0"),
        ("seed 2 of 2", "repeat-1-fold-0"),
    ]
    assert list_folds(folds)[1].key == "fold 1/1 of repeat 2/2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("draws")
    (root / "home").mkdir()
    write_model(root / "tiny-yolo11n.yaml")
    return root


@pytest.fixture(scope="module")
def dataset(place: Path) -> Dataset:
    return make_dataset(place / "data")


def train(place: Path, dataset: Dataset, name: str, draw: np.ndarray | None, **changed: object) -> dict[str, bytes]:
    """The tensors of the model's file."""
    arguments = {"model": str(place / "tiny-yolo11n.yaml"), "train": SETTINGS, "seed": 3 + SEED, "workers": 1} | changed
    train_folds(dataset, HELD_OUT, place / name / "train", draw=draw, **arguments)  # type: ignore[arg-type]
    assert not list((place / name).rglob("draw.npy"))
    with zipfile.ZipFile(place / name / "train" / "weights" / "fold-0.weights") as file:
        return {entry: file.read(entry) for entry in file.namelist() if "/data/" in entry}


@pytest.fixture(scope="module")
def plain(place: Path, dataset: Dataset) -> dict[str, bytes]:
    return train(place, dataset, "plain", None)


def test_where_all_weigh_the_same_nothing_is_drawn(place: Path, dataset: Dataset, plain: dict[str, bytes]) -> None:
    assert len(plain) > 50
    assert train(place, dataset, "alike", np.full((2, 10), 0.4)) == plain


def test_what_nobody_trusts_has_no_say_even_after_an_interruption(place: Path, dataset: Dataset, plain: dict[str, bytes]) -> None:
    """Other labels on the distrusted images change nothing, though mosaics, mixups and copied objects bring other images in."""
    draw = np.ones((1, 10))
    draw[0, DISTRUSTED] = 0
    draw[0, 5] = 0.3
    first = train(place, dataset, "drawn", draw)
    own = dataset.annotations
    wrong = np.isin(own.image_index, DISTRUSTED)
    other = replace(dataset, annotations=replace(own, category=np.where(wrong, 1 - own.category, own.category)))

    (place / "stored").mkdir()
    write_dataset(other, place / "stored")
    stored, out = open_dataset(place / "stored"), place / "resumed"
    arguments = {"model": str(place / "tiny-yolo11n.yaml"), "train": SETTINGS, "seed": 3 + SEED, "workers": 1}
    described = {"what": "train_folds", "dataset": str(place / "stored"), "folds": HELD_OUT.tolist(), "places": [str(out / "train")]}
    (place / "job.json").write_bytes(orjson.dumps(described | {"settings": arguments | {"draw": draw.tolist()}}))
    driver = DRIVER.replace("getattr(yolo", 'arguments["settings"]["draw"] = np.array(arguments["settings"]["draw"])\ngetattr(yolo')
    process = subprocess.Popen([sys.executable, "-c", driver, str(place / "job.json")], env=os.environ | hold_at("state.pt", 3))
    kill_once(lambda: read_epochs(out, 0) == [1, 2], process, out)
    assert len(read_epochs(out, 0)) == 2 < EPOCHS
    assert train(place, stored, "resumed", draw) == first
    assert read_epochs(out, 0, "start")[-1] >= 2
    assert first != plain


def test_what_cannot_be_drawn_is_refused_before_any_training(place: Path, dataset: Dataset, tmp_path: Path) -> None:
    nobody = np.ones((2, 10))
    nobody[0, :8] = 0  # the ninth is held out, the tenth has no picture
    with pytest.raises(StageError, match="seed 1 of 1: none of the images to train on"):
        train_folds(dataset, HELD_OUT, tmp_path, model="x.yaml", train={}, draw=nobody, seeds=True, display=Recorder())
    with pytest.raises(ConfigError, match=r"train\.rect=false"):
        train_folds(dataset, HELD_OUT, tmp_path, model="x.yaml", train={"rect": True}, draw=nobody)
