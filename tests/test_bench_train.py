"""The benchmark of training, without any: what is typed for each fold, and what the table says."""

import subprocess
from pathlib import Path
from typing import Any

import bench_train
import numpy as np
import pytest
import yaml
from bench_train import Measured, as_table, compare, prepare_data, read_arguments, train_plainly
from tiny import describe_tree

DIGITS = Path(__file__).parents[1] / "data" / "digits"


def test_the_data_are_a_copy_and_every_image_is_held_out_once(tmp_path: Path) -> None:
    dataset, folds = prepare_data(tmp_path / "data", 20, 4)
    assert folds.shape == (1, 20)
    assert set(folds[0]) == {0, 1, 2, 3}
    assert all(Path(path).is_relative_to(tmp_path) for path in dataset.images["path"])
    assert len(dataset.annotations) > 20


def test_a_plain_command_trains_the_same_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, folds = prepare_data(tmp_path / "data", 20, 4)
    before = describe_tree(DIGITS)
    model, train = read_arguments(3)
    commands: list[dict[str, str]] = []

    def run(command: list[str], cwd: Path, env: dict[str, str], **other: Any) -> subprocess.CompletedProcess[bytes]:
        assert command[3:5] == ["detect", "train"]
        assert env["YOLO_OFFLINE"] == "true"
        assert (Path(env["YOLO_CONFIG_DIR"]) / "Ultralytics" / "settings.json").is_file()
        commands.append(dict(word.split("=", 1) for word in command[5:]))
        weights = cwd / "run" / "weights"
        weights.mkdir(parents=True)
        (weights / "last.pt").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(bench_train.subprocess, "run", run)
    train_plainly(dataset, folds, tmp_path / "out", model, train)
    assert len(commands) == 4
    held_out: list[str] = []
    for given in commands:
        assert {name: given[name] for name in train} == {name: str(value) for name, value in train.items()}
        assert (given["epochs"], given["nbs"], given["model"]) == ("3", given["batch"], model)
        assert given.keys() - train.keys() == {"nbs", "seed", "model", "data", "project", "name"}  # plots and validation as they come
        content = yaml.safe_load(Path(given["data"]).read_text())
        lists = [(Path(content["path"]) / content[part]).read_text().split() for part in ("train", "val")]
        assert sorted(lists[0] + lists[1]) == sorted(dataset.images["path"])
        held_out += lists[1]
    assert sorted(held_out) == sorted(dataset.images["path"])
    assert describe_tree(DIGITS) == before


def test_a_plain_command_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, folds = prepare_data(tmp_path / "data", 8, 2)
    failing = lambda command, stdout, **other: (stdout.write(b"no such model"), subprocess.CompletedProcess(command, 1))[1]  # noqa: E731
    monkeypatch.setattr(bench_train.subprocess, "run", failing)
    with pytest.raises(SystemExit, match="failed:\nno such model"):
        train_plainly(dataset, folds, tmp_path / "out", *read_arguments(1))


def test_each_repeat_measures_both_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(work: str, folder: Path, **given: int) -> Measured:
        assert given == {"epochs": 1, "images": 9, "folds": 3}
        folder.mkdir()
        measured.append(work)
        return {"plain": Measured(100.0, 90.0), "detclean": Measured(55.0, 72.0)}[work]

    monkeypatch.setattr(bench_train, "measure", measure)
    pairs = compare(tmp_path, repeats=2, epochs=1, images=9, folds=3)
    assert measured == ["plain", "detclean", "detclean", "plain"]
    assert list(tmp_path.iterdir()) == []
    lines = as_table(pairs).splitlines()
    assert lines[-2:] == ["| 100.0 | 55.0 | 0.55 | 0.80 | 0.6 |"] * 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_arguments_are_those_of_the_demo() -> None:
    model, train = read_arguments(2)
    assert Path(model).is_file()
    assert (train["epochs"], train["device"], train["optimizer"]) == (2, "cpu", "AdamW")
    assert np.isscalar(train["batch"])
