"""A training on two threads goes on after an interruption as one on a single thread does.

Where the suite has a core for each of its workers, every other training of it has one thread.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_detect import Recorder, make_dataset, read_epochs
from tiny import digests, hold_at, write_model
from trained import SEED

from detclean.dataset import Dataset
from detclean.detect import yolo

FOLDS = np.array([[0] * 5 + [-1] * 5])  # a single model
TRAIN = {"epochs": 2, "imgsz": 64, "batch": 2, "device": "cpu", "close_mosaic": 0, "workers": 0}


class Interrupting(Recorder):
    """Ctrl-C after the first epoch."""

    def advance(self, key: str, done: float, total: float, note: str) -> None:
        super().advance(key, done, total, note)
        if done >= 1:
            raise KeyboardInterrupt


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Children have two threads, on all cores that there are."""
    monkeypatch.setattr(yolo, "share_threads", lambda slots: 2)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen on this system")
@pytest.mark.usefixtures("two_threads")
def test_on_two_threads_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = make_dataset(tmp_path / "data")
    model = write_model(tmp_path / "tiny-yolo26n.yaml", "26")

    train(dataset, model, tmp_path / "whole")
    with monkeypatch.context() as patch:
        for name, value in hold_at("state.pt", 2).items():
            patch.setenv(name, value)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, model, tmp_path / "interrupted", display=Interrupting())
    assert read_epochs(tmp_path / "interrupted", 0) == [1]
    train(dataset, model, tmp_path / "interrupted")

    assert read_epochs(tmp_path / "whole", 0, "start") == [0]
    assert read_epochs(tmp_path / "interrupted", 0, "start") == [0, 1]
    whole, interrupted = (digests(tmp_path / name / "train" / "weights") for name in ("whole", "interrupted"))
    assert whole == interrupted != {}


def train(dataset: Dataset, model: Path, out: Path, **more: Recorder) -> None:
    yolo.train_folds(dataset, FOLDS, out / "train", model=str(model), train=TRAIN, seed=SEED, **more)
