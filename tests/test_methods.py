"""The ways to gather evidence besides one detector a fold: loss dynamics, several votes, crops of their own; each a whole tiny run.

Those that train alike go on in one run folder, so that nothing is trained twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from tiny import CATEGORIES, make_scenes, write_config, write_model, write_results, write_yolo
from trained import SEED, expect
from warm import answer_warm

from detclean.runfolder import open_run

pytestmark = pytest.mark.trained
TRAINING: dict[str, Any] = {
    "model": "tiny-yolo11n.yaml",
    "folds": {"k": 2, "seed": 1},
    "train": {"epochs": 2, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "seed": SEED},
    "predict": {"conf": 0.0001},
    "score": {"planting_rounds": 20},
    "issues": {"budget": 10},
    "workers": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("methods")
    source = write_yolo(root / "yolo")
    write_model(root / "tiny-yolo11n.yaml")
    write_config(root / "c.yaml", data=str(source), crops="never", **TRAINING)
    write_results(root / "results.json", make_scenes(), "yolo")
    return root


def run(place: Path, name: str, *overrides: str) -> tuple[Path, dict[str, Any]]:
    answer_warm(place, "run", "c.yaml", f"name={name}", *overrides)
    folder = place / "runs" / name
    summary: dict[str, Any] = orjson.loads((folder / "summary.json").read_bytes())
    assert summary["calibrated"]
    assert summary["issues"]["total"] <= 10
    expect("issues", summary["issues"]["total"], least=1)
    return folder, summary


def columns_learnt_from(folder: Path) -> list[set[str]]:
    """The evidence that each judge of annotations was fitted to."""
    learnt = open_run(folder).stage("score") / "calibration.json"
    return [set(judge["columns"]) for judge in orjson.loads(learnt.read_bytes())["annotations"]]


def test_crops_are_evidence_and_take_over_where_detectors_are_blind(place: Path) -> None:
    """After two epochs the detectors know no category, and none is known better by its crops: everybody is heard."""
    folder, summary = run(place, "one", "crops=auto")
    (judge,) = columns_learnt_from(folder)
    assert {"crop_same", "crop_neighbours", "crop_influence", "trained_crop_same"} <= judge
    crops = summary["crops"]
    assert {entry["category"] for entry in crops["weak"]} <= set(CATEGORIES)
    assert len(crops["light"]["confident_joint"]) == len(CATEGORIES)
    expect("weak categories of three", len(crops["weak"]), least=1)  # so a classifier was trained
    assert len(crops["trained"]["agreement"]) == len(CATEGORIES)


def test_both_methods_are_two_judges(place: Path) -> None:
    folder, summary = run(place, "one", "method=both")
    assert {"train", "dynamics"} <= set(summary["seconds"])
    assert len(columns_learnt_from(folder)) == 2
    before = sorted((folder / "stages").glob("score-*"))
    folder, _ = run(place, "one", "method=both", "score.dynamics=false")
    assert len(sorted((folder / "stages").glob("score-*"))) == len(before) + 1


def test_loss_dynamics_take_the_place_of_folds(place: Path) -> None:
    folder, summary = run(place, "one", "method=loss")
    assert "train" not in summary["seconds"]
    assert summary["seconds"]["dynamics"] > 0
    (weights,) = (folder / "stages").glob("dynamics-*/weights/*.weights")
    assert weights.name == "fold-0.weights"
    detectors, dynamics = columns_learnt_from(folder)
    assert {"same_50", "raw_same_50"} <= detectors
    assert {"dynamics_loss_mean", "dynamics_loss_variance", "dynamics_margin_mean", "log_area"} <= dynamics
    assert not any(name.startswith(("raw_", "same_")) for name in dynamics)
    assert pl.read_parquet(folder / "images.parquet")["fold"].unique().to_list() == [0]


def test_several_repeats_vote(place: Path) -> None:
    folder, summary = run(place, "repeats", "folds.repeats=2", "votes=all")
    assert summary["repeats"] == 2
    assert {row["repeat"] for row in summary["folds"]} == {0, 1}
    (judge,) = columns_learnt_from(folder)
    assert {"same_50_spread", "raw_same_50", "seen_same_50"} <= judge  # how much they differ, who did not see the image, who did
    (looks,) = (folder / "stages").glob("detect-*/looks.parquet")
    answers = pl.read_parquet(looks)
    assert answers.group_by("row").agg(pl.len(), pl.col("held_out").sum()).select(pl.exclude("row")).unique().row(0) == (4, 2)
    votes = pl.read_csv(folder / "issues.csv")["votes"]
    assert votes.min() >= 0
    assert votes.max() <= 2 + 2  # the probability, cleanlab, and each repeat


def test_crops_can_be_asked_where_detections_are_brought(place: Path) -> None:
    folder, summary = run(place, "brought", "predictions=results.json", "crops=always")
    assert "crops" in summary["seconds"]
    assert "train" not in summary["seconds"]
    (judge,) = columns_learnt_from(folder)
    assert "trained_crop_same" in judge
    assert "raw_same_50" not in judge
