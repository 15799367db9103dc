"""A comparison from a finished run to its figures, with trainings of one epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from finished import copy_run
from tiny import write_model
from trained import SEED, expect

from detclean.boxes import Boxes, write_boxes
from detclean.cli import BAD_INPUT, answer
from detclean.config import read_config
from detclean.dataset import open_dataset
from detclean.edit.strategies import Labels
from detclean.errors import DatasetError
from detclean.measure.comparison import say_verdict
from detclean.pipeline.compare import list_strategies, read_version, write_labels
from detclean.runfolder import open_run
from detclean.stages import StageContext

TRAIN = {"epochs": 1, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "seed": SEED}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run as if its detector had been trained, with settings that train in a moment."""
    root = tmp_path_factory.mktemp("compare")
    folder = copy_run(tmp_path_factory)
    document = yaml.safe_load((folder / "config.yaml").read_text())
    document |= {"predictions": None, "model": str(write_model(root / "tiny-yolo11n.yaml")), "train": TRAIN, "predict": {"conf": 0.0001}}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.mark.trained
@pytest.mark.usefixtures("warm")
def test_versions_are_trained_alike_and_judged_on_images_nobody_cleaned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(run), "--strategies", "reweight", "--seeds", "1"]
    status, said = answer(command), capsys.readouterr()
    assert (status, said.err) == (0, "")
    document = orjson.loads((run / "compare" / "compare.json").read_bytes())
    assert (document["test"], document["images"], document["seeds"]) == ("val", 4, 1)
    assert list(document["versions"]) == ["as given", "reweight", "random, as much as reweight"]
    written = {path.name for path in (run / "compare").iterdir()}
    assert {"compare.json", "compare.md", "compare.png", "confusion.png", "test_issues.csv"} <= written
    stages = sorted((run / "compare" / "stages").glob("train-*"))
    slugs = [stage.name.removeprefix("train-").rpartition("-")[0] for stage in stages]
    assert slugs == ["given", "random-reweight", "reweight"]
    for stage in stages:
        assert sorted(path.name for path in (stage / "weights").iterdir()) == ["fold-0.weights"]
    assert "seed 1 of 1" in said.out
    doubts = document["test_labels"]
    assert (doubts["noisy"], doubts["images_distrusted"], doubts["calibrated"], document["trusted"]) == (0, 0, False, None)
    assert "None of the 14 test labels looks more wrong than right (by simple rules: too few to learn from)." in said.out
    assert len((run / "compare" / "test_issues.csv").read_text().splitlines()) == 1  # the header
    assert say_verdict(document).splitlines()[0] in (run / "report.html").read_text()
    given, reweight = (next((run / "compare" / "stages").glob(f"labels-{slug}-????????????")) for slug in ("given", "reweight"))
    assert pl.read_parquet(given / "annotations.parquet").equals(pl.read_parquet(reweight / "annotations.parquet"))
    draw = np.load(reweight / "draw.npy")
    assert draw.shape == (1, 28)
    assert not draw[0, 24:].any()  # the test
    expect("weight of an image with a planted error", draw[0, 10], most=0.3)
    expect("weight of an image without", draw[0, 0], least=0.8)

    assert (answer(command), capsys.readouterr().err) == (0, "")
    assert orjson.loads((run / "compare" / "compare.json").read_bytes()) == document
    assert sorted((run / "compare" / "stages").glob("train-*")) == stages


@pytest.mark.trained
def test_a_version_has_its_own_labels_and_the_tests_as_they_are(run: Path, tmp_path: Path) -> None:
    opened, config = open_run(run), read_config(run / "config.yaml", [])
    listener: Any = Listener()
    given, fix, control = list_strategies(opened, config, ["fix"], listener)
    rows = {}
    for version in (given, fix, control):
        (tmp_path / version.slug).mkdir()
        write_labels(StageContext({}, tmp_path / version.slug, {"load": str(opened.stage("load")), "split": "val"}, listener), version)
        labels = open_dataset(tmp_path / version.slug)
        train = labels.annotations.image_index < 24
        rows[version.slug] = labels.annotations[train], labels.annotations[~train]
        assert not (tmp_path / version.slug / "draw.npy").exists()
    noisy = opened.issues.filter(pl.col("verdict") == "noisy")
    expect("noisy issues", noisy.height, least=2)  # ten seeds: 3 to 5
    edits = noisy["action"].value_counts()
    count = {"review": 0, "add": 0, "delete": 0} | dict(zip(edits["action"].to_list(), edits["count"].to_list(), strict=True))
    touched = noisy.height - count["review"] - count["add"]
    wanted = {"given": 85, "fix": 85 - count["delete"] + count["add"], f"random-{touched}-boxes": 85 - touched}
    assert {slug: len(train) for slug, (train, _) in rows.items()} == wanted
    assert all(np.array_equal(test.xyxy, rows["given"][1].xyxy) for _, test in rows.values())


def test_a_seed_that_sees_nothing_is_still_a_seed(run: Path, tmp_path: Path) -> None:
    opened, listener = open_run(run), Listener()
    settings: Any = {"load": str(opened.stage("load")), "split": "val"}
    given = Labels("as given", "given")
    results: Any = {name: SimpleNamespace(folder=tmp_path / name) for name in ("labels-given", "detect-given")}
    for result in results.values():
        result.folder.mkdir()
    said: Any = listener
    write_labels(StageContext({}, tmp_path / "labels-given", settings, said), given)
    one = Boxes([25], [0], [[0, 0, 5, 5]], score=np.array([0.5]), repeat=np.array([0]))  # type: ignore[arg-type]
    write_boxes(one, tmp_path / "detect-given" / "detections.parquet")
    assert [len(boxes) for boxes in read_version(given, results, 2).detections] == [1, 0]


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_what_changes_nothing_is_left_out_and_that_is_said(run: Path) -> None:
    opened, config = open_run(run), read_config(run / "config.yaml", [])
    easy: Any = replace(opened, issues=opened.issues.filter(pl.col("verdict") == "noisy"))  # nothing is merely hard
    listener: Any = Listener()
    versions = list_strategies(easy, config, ["drop_hard", "fix", "drop_hard", "keep_hard"], listener)
    assert [version.name for version in versions] == ["as given", "fix", "random, as much as fix"]
    assert listener.said == [f"compare: {name}_hard is left out, as it changes nothing" for name in ("drop", "keep")]
    with pytest.raises(DatasetError, match="nothing to compare"):
        list_strategies(easy, config, ["drop_hard"], listener)


def test_what_would_leave_nothing_is_left_out_and_so_are_draws_by_shape(run: Path) -> None:
    opened, config = open_run(run), read_config(run / "config.yaml", ["train.rect=true"])
    everywhere = pl.concat([opened.issues.head(1).with_columns(image_index=pl.lit(i, pl.Int64)) for i in range(24)])
    listener: Any = Listener()
    versions = list_strategies(replace(opened, issues=everywhere), config, ["drop_images", "curriculum", "drop_boxes"], listener)
    assert [version.name for version in versions][:2] == ["as given", "drop_boxes"]
    assert ["leaves nothing to train on" in listener.said[0], "train.rect" in listener.said[1]] == [True, True]


REFUSED = {
    "an unknown strategy": (["RUN", "--strategies", "hope"], "keep_hard, reweight, curriculum"),
    "no seed": (["RUN", "--seeds", "0"], "--seeds 0"),
    "no run": (["nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_said_in_one_line(run: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, word = REFUSED[case]
    assert answer(["compare", *(part.replace("RUN", str(run)) for part in arguments)]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert word in said.err
    assert not Path("nowhere").exists()


def test_without_images_to_judge_on_it_is_refused(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_run(tmp_path_factory, "coco")
    document = yaml.safe_load((folder / "config.yaml").read_text()) | {"predictions": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    assert answer(["compare", str(folder)]) == BAD_INPUT
    assert "has no images beside those that were cleaned" in capsys.readouterr().err
