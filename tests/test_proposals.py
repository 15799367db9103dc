"""What each strategy makes of a list of issues."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from simulated import as_dataset, detect, make_truth
from trained import expect

import detclean
from detclean.dataset import Dataset, Edit
from detclean.edit.proposals import Cleaning, propose_cleaning
from detclean.score.issues import COLUMNS, POSITIONS

SIDES = ("x1", "y1", "x2", "y2")
SCHEMA = dict.fromkeys((*COLUMNS, *POSITIONS), pl.String) | {
    "probability": pl.Float64,
    "image_index": pl.Int64,
    "annotation": pl.Int64,
    **{f"{prefix}{side}": pl.Float64 for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")},
}


def make_dataset() -> Dataset:
    truth, sizes = make_truth(4, per_image=3)
    return as_dataset(truth, sizes)


DATASET = make_dataset()


@pytest.fixture
def dataset() -> Dataset:
    return DATASET


def row(action: str, image: int, annotation: int | None, probability: float, **more: Any) -> dict[str, Any]:
    verdict = "noisy" if probability >= 0.5 else "hard"
    box = dict(zip((f"suggested_{side}" for side in SIDES), more.pop("box", (None,) * 4), strict=True))
    given: dict[str, Any] = {}
    if annotation is not None:
        corners = DATASET.annotations.xyxy[annotation].tolist()
        given = {"category": DATASET.categories[DATASET.annotations.category[annotation]], **dict(zip(SIDES, corners, strict=True))}
    place = {"action": action, "image_index": image, "annotation": annotation}
    return {**place, "probability": probability, "verdict": verdict, **given, **box, **more}


ISSUES = pl.DataFrame(
    [
        row("relabel", 0, 1, 0.95, suggested_category="kind4", box=(1.0, 2.0, 3.0, 4.0)),
        row("move", 0, 2, 0.9, suggested_category="kind0", box=(5.0, 6.0, 7.0, 8.0)),
        row("delete", 1, 4, 0.8),
        row("review", 1, 5, 0.7),
        row("add", 2, None, 0.6, suggested_category="kind2", box=(9.0, 10.0, 11.0, 12.0)),
        row("delete", 3, 7, 0.4),
    ],
    schema=SCHEMA,
)
FIXES = (
    Edit("relabel", 0, 1, category=4),
    Edit("move", 0, 2, xyxy=(5.0, 6.0, 7.0, 8.0)),
    Edit("delete", 1, 4),
    Edit("add", 2, None, category=2, xyxy=(9.0, 10.0, 11.0, 12.0)),
    Edit("delete", 3, 7),
)


@pytest.mark.parametrize(
    ("least", "count"),
    [(None, 4), (0.0, 5), (0.4, 5), (0.41, 4), (0.6, 4), (0.61, 3), (0.9, 2), (1.0, 0)],
)
def test_fix_makes_the_proposed_edits(dataset: Dataset, least: float | None, count: int) -> None:
    """Without a bar the noisy ones; "review" proposes nothing."""
    assert propose_cleaning(dataset, ISSUES, "fix", least) == Cleaning(FIXES[:count], ())


def test_dropping_boxes_deletes_whatever_is_suspected_and_adds_nothing(dataset: Dataset) -> None:
    cleaning = propose_cleaning(dataset, ISSUES, "drop_boxes")
    assert cleaning == Cleaning(tuple(Edit("delete", image, box) for image, box in ((0, 1), (0, 2), (1, 4), (1, 5))), ())
    assert propose_cleaning(dataset, ISSUES, "drop_boxes", 0.0).edits[-1] == Edit("delete", 3, 7)


@pytest.mark.parametrize(("least", "images"), [(None, (0, 1, 2)), (0.0, (0, 1, 2, 3)), (0.85, (0,)), (1.0, ())])
def test_dropping_images_names_each_once(dataset: Dataset, least: float | None, images: tuple[int, ...]) -> None:
    assert propose_cleaning(dataset, ISSUES, "drop_images", least) == Cleaning((), images)


@pytest.mark.parametrize("strategy", ["fix", "drop_boxes", "drop_images"])
def test_no_issue_no_edit(dataset: Dataset, strategy: Any) -> None:
    assert propose_cleaning(dataset, ISSUES[:0], strategy) == Cleaning((), ())


@pytest.mark.trained
def test_found_issues_become_edits_that_writers_can_use() -> None:
    truth, sizes = make_truth(10)
    found = detect(truth, sizes)
    dataset = as_dataset(truth[::2], sizes)  # every other object is overlooked
    issues = detclean.find_issues(dataset, found, budget=40)
    cleaning = propose_cleaning(dataset, issues, min_probability=0.0)
    assert len(cleaning.edits) == issues.filter(pl.col("action") != "review").height
    expect("edits", len(cleaning.edits), least=6)  # ten seeds: 40
    for edit in cleaning.edits:
        assert (edit.annotation is None) == (edit.action == "add")
        assert (edit.xyxy is not None) == (edit.action in ("add", "move"))
        assert (edit.category is not None) == (edit.action in ("add", "relabel"))
        assert edit.category is None or 0 <= edit.category < 5
        if edit.annotation is not None:
            assert dataset.annotations.image_index[edit.annotation] == edit.image_index
