"""The truth of planted errors: who found what, and how a list is held against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from simulated import as_dataset, make_case

from detclean.boxes import Boxes, write_boxes, xyxy_to_xywh
from detclean.measure.figures import measure_ranking
from detclean.measure.truth import (
    Truth,
    claim_objects,
    rank_annotations,
    rank_candidates,
    rank_hard,
    rank_images,
    rank_listed,
    read_truth,
)

SPOT = [10.0, 10, 50, 50]


def boxes(rows: list[list[float]], image: list[int] | None = None) -> Boxes:
    """Boxes with descending scores."""
    n = len(rows)
    return Boxes(np.array(image or [0] * n), np.zeros(n), np.array(rows).reshape(-1, 4), score=np.linspace(0.9, 0.1, n))


def shifted(by: float) -> list[float]:
    return [10 + by, 10, 50 + by, 50]


def claim(removed: Boxes, candidates: Boxes) -> tuple[list[bool], list[bool]]:
    found, claimed = claim_objects(removed, candidates, np.asarray(candidates.score))
    return found.tolist(), claimed.tolist()


def test_the_best_scored_candidate_takes_the_object_however_well_another_fits() -> None:
    removed = boxes([SPOT])
    assert claim(removed, boxes([shifted(10), shifted(1)])) == ([True, False], [True])
    assert claim(removed, boxes([shifted(30), shifted(12)])) == ([False, True], [True])  # the first does not reach 0.5


def test_two_objects_and_two_candidates_find_each_other() -> None:
    removed = boxes([SPOT, shifted(8)])
    assert claim(removed, boxes([shifted(5), shifted(2)])) == ([True, True], [True, True])
    # the first takes what it fits best, so the second takes the other
    assert claim(removed, boxes([shifted(8), shifted(9)])) == ([True, True], [True, True])
    assert claim(boxes([SPOT, SPOT], [0, 1]), boxes([SPOT, SPOT], [1, 1])) == ([True, False], [False, True])


def test_categories_do_not_matter_for_an_overlooked_object() -> None:
    other = Boxes(np.zeros(1), np.array([4]), np.array([SPOT]), score=np.array([0.5]))
    assert claim(boxes([SPOT]), other) == ([True], [True])


@pytest.fixture
def truth() -> Truth:
    kind = np.array(["", "swap", "badloc", "", "duplicate"])
    return Truth(kind, np.array([0, 0, 1, 2, 2]), boxes([SPOT, shifted(100)], [1, 3]), np.array([1, 0, 0, 0, 0], bool), 5)


def test_rankings(truth: Truth) -> None:
    score = np.arange(5.0)
    assert rank_annotations(truth, "swap", score).wrong.tolist() == [False, True, False, False, False]
    assert rank_annotations(truth, "any", score).wrong.tolist() == [False, True, True, False, True]
    assert rank_images(truth, score).wrong.tolist() == [True, True, True, True, False]
    hard = rank_hard(truth, score)
    assert hard.wrong.tolist() == [False, True, True, True]
    assert hard.score.tolist() == [0, 1, 2, 4]
    candidates = boxes([SPOT, SPOT], [0, 1])
    found = rank_candidates(truth, candidates, np.asarray(candidates.score))
    assert found.wrong.tolist() == [False, True]
    assert found.missed.tolist() == [3]
    assert measure_ranking(found, np.ones((1, 5)))["ap"][0] == pytest.approx(0.25)  # second of two, and the other object is missed


def test_a_list_of_both_kinds(truth: Truth) -> None:
    rows = boxes([SPOT, SPOT, SPOT, SPOT], [0, 1, 1, 2])
    listed = Boxes(**rows.columns(), annotation_id=np.array([0, -1, -1, 4]))
    assert rank_listed(truth, listed).wrong.tolist() == [False, True, False, True]


def test_truth_is_read_back_and_hard_objects_are_found_by_file_and_box(tmp_path: Path) -> None:
    dataset, _, planted, clean = make_case(30)
    write_boxes(clean, tmp_path / "annotations.parquet")
    pl.DataFrame({"origin": planted.origin, "kind": planted.kind}).write_parquet(tmp_path / "planted.parquet")
    pl.DataFrame({"removed": planted.removed}).write_parquet(tmp_path / "removed.parquet")
    right, wrong = np.flatnonzero(planted.kind == "")[[3, 9]], np.flatnonzero(planted.kind == "swap")[:1]
    chosen = dataset.annotations[np.sort(np.concatenate([right, wrong]))]
    xywh = xyxy_to_xywh(chosen.xyxy)
    names = dataset.images["file_name"].gather(chosen.image_index)
    hard = pl.DataFrame({"file_name": [*names, "elsewhere.jpg"], "bbox": [*xywh.tolist(), xywh[0].tolist()]})
    truth = read_truth(tmp_path, dataset, hard)
    assert truth.kind.tolist() == planted.kind.tolist()
    np.testing.assert_array_equal(truth.removed.xyxy, clean[planted.removed].xyxy)
    assert np.flatnonzero(truth.hard).tolist() == sorted(right.tolist())  # a wrong label is not "right but hard"
    with pytest.raises(ValueError, match="truth of"):
        read_truth(tmp_path, as_dataset(clean[:5], dataset.sizes))
