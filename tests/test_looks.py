"""The boxes on trial and the rounds of planting, and the evidence that was gathered at them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import as_dataset, detect, make_truth

from detclean.boxes import Boxes, aligned_iou
from detclean.score import looks as drawing
from detclean.score.issues import select_issues
from detclean.score.looks import Looks, draw_looks, draw_round, leave_out_crowds
from detclean.score.scores import score_dataset
from detclean.score.sources import (
    Gathered,
    Sources,
    gather_annotation_evidence,
    gather_candidate_evidence,
    leave_out_blind,
    spread_over_looks,
)

RATES = dict.fromkeys(("overlooked", "swap", "badloc", "duplicate", "spurious"), 0.06)


@pytest.fixture(scope="module")
def truth() -> tuple[Boxes, np.ndarray]:
    return make_truth(60)


@pytest.fixture(scope="module")
def looks(truth: tuple[Boxes, np.ndarray]) -> Looks:
    return draw_looks(*truth, 5, seed=3)


def test_the_annotations_stand_among_the_looks_as_they_are(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, _ = truth
    given = looks.boxes[looks.given]
    np.testing.assert_array_equal(given.xyxy, boxes.xyxy)
    np.testing.assert_array_equal(given.category, boxes.category)
    np.testing.assert_array_equal(looks.annotation[looks.given], np.arange(len(boxes)))


def test_copies_are_corrupted_as_their_kind_says(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, _ = truth
    for kind in ("swap", "badloc", "duplicate"):
        rows = np.flatnonzero(looks.kind == kind)
        copies, originals = looks.boxes[rows], boxes[np.sort(looks.annotation[rows])]
        assert len(rows) >= 0.9 * len(boxes)
        originals = Boxes.sorted(**{name: column[looks.annotation[rows]] for name, column in boxes.columns().items()})
        np.testing.assert_array_equal(copies.image_index, originals.image_index)
        iou = aligned_iou(copies.xyxy, originals.xyxy)
        if kind == "swap":
            assert (iou == 1).all()
            assert (copies.category != originals.category).all()
        elif kind == "badloc":
            assert ((iou >= 0.3) & (iou <= 0.6)).all()
        else:
            assert (iou >= 0.8).all()
    assert (looks.annotation[looks.kind == "spurious"] == -1).all()


def test_the_same_seed_draws_the_same(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    again, other = draw_looks(*truth, 5, seed=3), draw_looks(*truth, 5, seed=4)
    np.testing.assert_array_equal(again.boxes.xyxy, looks.boxes.xyxy)
    assert len(other.boxes.xyxy) != len(looks.boxes.xyxy) or (other.boxes.xyxy != looks.boxes.xyxy).any()


def test_the_pool_is_bounded(truth: tuple[Boxes, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "POOL_SIZE", 20)
    small = draw_looks(*truth, 5)
    for kind in ("swap", "badloc", "duplicate", "spurious"):
        assert 15 <= (small.kind == kind).sum() <= 20


def test_a_round_gives_each_annotation_at_most_one_error(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    n = len(truth[0])
    for seed in range(5):
        planted = draw_round(looks, RATES, np.random.default_rng(seed))
        assert (np.diff(planted.rows) > 0).all()
        kind, annotation = looks.kind[planted.rows], looks.annotation[planted.rows]
        touched = np.concatenate([annotation[(kind != "") & (annotation >= 0)], planted.removed])
        assert len(set(touched.tolist())) == len(touched)
        replaced = np.concatenate([annotation[np.isin(kind, ["swap", "badloc"])], planted.removed])
        assert set(annotation[kind == ""].tolist()) == set(range(n)) - set(replaced.tolist())
        for one in ("swap", "badloc", "duplicate", "spurious"):
            assert abs((kind == one).sum() - round(0.06 * n)) <= 1
        assert len(planted.removed) == round(0.06 * n)


def test_crowds_are_not_judged(truth: tuple[Boxes, np.ndarray]) -> None:
    boxes, _ = truth
    crowd = np.arange(len(boxes)) % 3 == 0
    marked = Boxes(boxes.image_index, boxes.category, boxes.xyxy, is_crowd=crowd)
    assert len(leave_out_crowds(marked)) == int((~crowd).sum())
    assert leave_out_crowds(boxes) is boxes


def test_gathered_evidence_stands_beside_its_look(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, sizes = truth
    found = detect(boxes, sizes)
    table = pl.DataFrame({"number": np.arange(len(looks), dtype=float)})
    at = pl.DataFrame({"place": np.arange(len(found), dtype=float)})
    sources = Sources(looks, found, sizes, 5, Gathered((table,), (at,)))
    planted = draw_round(looks, RATES, np.random.default_rng(0))
    np.testing.assert_array_equal(gather_annotation_evidence(sources, planted.rows)["number"].to_numpy(), planted.rows)
    candidates = np.array([3, 9, 40])
    assert gather_candidate_evidence(sources, candidates, boxes)["place"].to_list() == [3, 9, 40]


def test_where_the_detector_is_blind_only_independent_evidence_is_heard(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, sizes = truth
    blind = np.array([False, True, False, False, False])
    gathered = Gathered((pl.DataFrame({"crop_same": np.ones(len(looks))}),), blind=blind)
    evidence = gather_annotation_evidence(Sources(looks, detect(boxes, sizes), sizes, 5, gathered), looks.given)
    assert evidence["same_50"].null_count() == 0  # what a person is told stays whole
    table = leave_out_blind(evidence, boxes.category, blind)
    unheard = boxes.category == 1
    assert (table["same_50"].is_null().to_numpy() == unheard).all()
    assert table["crop_same"].null_count() == table["log_area"].null_count() == 0


def test_a_blind_category_is_judged_and_reported_whole(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, sizes = truth
    dataset = as_dataset(boxes, sizes)
    crops = pl.DataFrame({"crop_same": np.where(looks.kind == "swap", 0.1, 0.9)})
    own = draw_looks(dataset.annotations, sizes, 5, seed=3)
    np.testing.assert_array_equal(own.kind, looks.kind)
    scores = score_dataset(dataset, detect(boxes, sizes), gathered=Gathered((crops,), blind=np.arange(5) == 1), planting_rounds=2, seed=3)
    numbers = scores.annotations.select(pl.col("^(p_|rule_|score_|best_).*$"))
    assert numbers.null_count().sum_horizontal().item() == 0
    assert np.isfinite(numbers.to_numpy()).all()
    issues = select_issues(scores, dataset, budget=40)
    assert issues["reason"].null_count() == 0


def test_opinions_of_several_repeats_are_averaged_and_their_differences_told(truth: tuple[Boxes, np.ndarray], looks: Looks) -> None:
    boxes, sizes = truth
    first, second = detect(boxes, sizes, seed=1), detect(boxes, sizes, seed=2)
    both = Boxes.sorted(
        image_index=np.concatenate([first.image_index, second.image_index]),
        category=np.concatenate([first.category, second.category]),
        xyxy=np.concatenate([first.xyxy, second.xyxy]),
        score=np.concatenate([first.score, second.score]),
        class_scores=np.concatenate([first.class_scores, second.class_scores]),
        repeat=np.repeat([0, 1], [len(first), len(second)]),
    )
    one, other = (gather_annotation_evidence(Sources(looks, found, sizes, 5), looks.given) for found in (first, second))
    table = gather_annotation_evidence(Sources(looks, both, sizes, 5), looks.given)
    np.testing.assert_allclose(table["same_50"].to_numpy(), (one["same_50"].to_numpy() + other["same_50"].to_numpy()) / 2)
    np.testing.assert_allclose(
        table["same_50_spread"].to_numpy(), np.abs(one["same_50"].to_numpy() - other["same_50"].to_numpy()) / 2, atol=1e-9
    )
    assert np.array_equal(np.isnan(table["off_x1"].to_numpy()), np.isnan(one["off_x1"].to_numpy()) & np.isnan(other["off_x1"].to_numpy()))
    seen = gather_candidate_evidence(Sources(looks, both, sizes, 5), np.arange(len(both)), boxes)["seen_by"].to_numpy()
    assert set(seen.tolist()) == {1.0, 2.0}


def test_what_was_seen_by_some_repeats_only_is_their_mean() -> None:
    table = pl.DataFrame({"row": [0, 0, 2], "repeat": [0, 1, 0], "x": [1.0, 3.0, 5.0], "other_category": [0, 0, 1]})
    spread = spread_over_looks(table, 4, "raw_")
    assert spread.columns == ["raw_x"]
    np.testing.assert_array_equal(spread["raw_x"].to_numpy(), [2.0, np.nan, 5.0, np.nan])
