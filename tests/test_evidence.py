"""Evidence on scenes small enough to be worked out by hand, and the rules that read it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from simulated import WIDTH, make_case, make_truth

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.score.calibration import ANNOTATION_TYPES
from detclean.score.evidence import (
    compute_annotation_evidence,
    compute_candidate_evidence,
    find_candidates,
    find_top_two,
    proposed_boxes,
    scores_of,
)
from detclean.score.planting import Planted
from detclean.score.rules import score_annotations_by_rules, score_candidates_by_rules

SIZES = np.array([[100.0, 80.0], [100.0, 80.0], [100.0, 80.0]])
A, B, C = [10, 10, 30, 30], [50, 40, 70, 60], [80, 5, 95, 20]


def annotate(*rows: tuple[int, int, list[float]]) -> Boxes:
    """Rows of image, category, corners."""
    return Boxes.sorted(
        image_index=[r[0] for r in rows], category=[r[1] for r in rows], xyxy=np.array([r[2] for r in rows], float).reshape(-1, 4)
    )


def detections(*rows: tuple[int, list[float], list[float]]) -> Boxes:
    """Rows of image, corners, score vector."""
    vectors = np.array([r[2] for r in rows], float).reshape(len(rows), -1)
    return Boxes.sorted(
        image_index=[r[0] for r in rows],
        category=vectors.argmax(axis=1) if rows else [],
        xyxy=np.array([r[1] for r in rows], float).reshape(-1, 4),
        score=vectors.max(axis=1) if rows else [],
        class_scores=vectors if rows else np.zeros((0, 3)),
    )


def evidence(annotations: Boxes, found: Boxes, categories: int = 3) -> pl.DataFrame:
    return compute_annotation_evidence(annotations, found, SIZES, categories)


def test_agreement_is_read_from_the_whole_score_vector() -> None:
    table = evidence(annotate((0, 0, A)), detections((0, A, [0.2, 0.7, 0.1])))
    row = table.row(0, named=True)
    assert (row["same_30"], row["same_70"], row["other_50"]) == pytest.approx((0.2, 0.2, 0.7))
    assert row["other_category"] == 1
    assert row["best_iou"] == pytest.approx(1)
    assert row["best_score"] == pytest.approx(0.7)
    assert row["fit"] == pytest.approx(0.2)


def test_agreement_fades_with_the_overlap_asked_for() -> None:
    half = [10, 10, 30, 20]  # IoU 0.5 with A
    row = evidence(annotate((0, 0, A)), detections((0, half, [0.8, 0, 0]))).row(0, named=True)
    assert (row["same_30"], row["same_50"], row["same_70"]) == pytest.approx((0.8, 0.8, 0))
    assert row["off_y2"] == pytest.approx(-0.5)  # the detector ends it half a side earlier
    assert row["off_most"] == pytest.approx(0.5)
    assert (row["off_x1"], row["off_y1"], row["off_x2"]) == pytest.approx((0, 0, 0))


def test_detections_of_other_images_say_nothing() -> None:
    row = evidence(annotate((1, 0, A)), detections((0, A, [0.9, 0, 0]), (2, A, [0.9, 0, 0]))).row(0, named=True)
    assert row["same_30"] == row["other_30"] == row["best_iou"] == row["fit"] == 0
    assert row["other_category"] == -1
    assert np.isnan(row["off_x1"])


def test_twins_and_which_of_them_fits_better() -> None:
    near = [11, 10, 31, 30]
    given = annotate((0, 0, A), (0, 0, near), (0, 0, B))
    table = evidence(given, detections((0, near, [0.9, 0, 0]), (0, B, [0.9, 0, 0])))
    assert table["twin"].to_list() == [1, 0, -1]
    assert table["twin_iou"].to_numpy() == pytest.approx([19 / 21, 19 / 21, 0])
    assert table["twin_better"][0] > 0 > table["twin_better"][1]
    assert table["twin_better"][2] == 0
    assert table["stolen"].to_numpy() == pytest.approx([1 - 19 / 21, 0, 0])


def test_of_equal_twins_the_later_is_the_worse() -> None:
    table = evidence(annotate((0, 0, A), (0, 0, A), (0, 0, A)), detections((0, A, [0.9, 0, 0])))
    assert table["twin"].to_list() == [1, 0, 0]
    better = table["twin_better"].to_list()
    assert better[0] < 0 < better[1]
    assert better[2] > 0
    rule = score_annotations_by_rules(table)["duplicate"]
    assert rule.tolist() == [0, 1, 1]


def test_a_score_vector_is_made_up_where_there_is_none() -> None:
    found = detections((0, A, [0.1, 0.8, 0.1]))
    bare = Boxes(found.image_index, found.category, found.xyxy, score=found.score)
    assert scores_of(bare, np.array([0, 0, 0]), np.array([0, 1, 2])).tolist() == pytest.approx([0, 0.8, 0])
    top, whole = find_top_two(bare), find_top_two(found)
    assert (top.first.tolist(), top.first_score.tolist(), top.total.tolist()) == ([1], [0.8], [0.8])
    assert whole.other_than(np.array([0, 0]), np.array([1, 2]))[0].tolist() == [0, 1]
    np.testing.assert_allclose(whole.total, 1.0)
    row = evidence(annotate((0, 0, A)), bare).row(0, named=True)
    assert (row["same_50"], row["other_50"], row["other_category"]) == pytest.approx((0, 0.8, 1))


@pytest.mark.parametrize("categories", [1, 3])
def test_tables_have_the_same_columns_whatever_is_missing(categories: int) -> None:
    given, found = annotate((0, 0, A)), detections((0, A, [0.5] * categories))
    none, nothing = annotate(), found[:0]
    nothing = Boxes(nothing.image_index, nothing.category, nothing.xyxy, score=nothing.score)
    full = evidence(given, found, categories)
    for table, height in (
        (evidence(none, found, categories), 0),
        (evidence(given, nothing, categories), 1),
        (evidence(none, nothing, categories), 0),
    ):
        assert table.columns == full.columns
        assert table.height == height
    whole = compute_candidate_evidence(np.array([0]), none, found, SIZES, categories)
    empty = compute_candidate_evidence(np.zeros(0, np.int64), given, nothing, SIZES, categories)
    assert (whole.height, empty.height) == (1, 0)
    assert whole.columns == empty.columns
    assert proposed_boxes(none, found).shape == (0, 4)
    assert np.isnan(proposed_boxes(given, nothing)).all()


def test_one_category_has_no_rival() -> None:
    row = evidence(annotate((0, 0, A)), detections((0, A, [0.6])), 1).row(0, named=True)
    assert (row["same_50"], row["other_50"], row["other_category"]) == pytest.approx((0.6, 0, -1))


def test_faulty_boxes_do_not_spoil_the_table() -> None:
    given = annotate((0, 0, [np.nan] * 4), (0, 0, [20, 20, 20, 20]), (0, 0, [30, 30, 10, 10]), (0, 0, [-900, -900, 900, 900]), (0, 0, A))
    table = evidence(given, detections((0, A, [0.9, 0, 0])))
    assert table["best_iou"].to_numpy() == pytest.approx([0, 0, 0, 0, 1], abs=1e-3)
    assert table["same_50"].to_list()[4] == pytest.approx(0.9)


def test_only_unexplained_detections_are_candidates() -> None:
    second = [11, 11, 31, 31]  # a second detection of A
    loose = [60, 10, 75, 25]
    found = detections((0, A, [0.9, 0, 0]), (0, second, [0.8, 0, 0]), (0, B, [0, 0.7, 0]), (0, loose, [0.3, 0, 0]), (1, A, [0, 0, 0.4]))
    # B is annotated with another category: no overlooked object
    assert find_candidates(annotate((0, 0, A), (0, 0, B)), found).tolist() == [3, 4]
    assert find_candidates(annotate(), found).tolist() == [0, 2, 3, 4]


def test_what_a_candidate_is_told_by() -> None:
    loose = [60, 10, 75, 25]
    found = detections((0, loose, [0.6, 0.1, 0]), (0, loose, [0.2, 0, 0]), (0, A, [0.9, 0, 0]))
    given = annotate((0, 0, A), (0, 0, [60, 10, 75, 13]))
    row = compute_candidate_evidence(np.array([0]), given, found, SIZES, 3).row(0, named=True)
    assert row["score"] == pytest.approx(0.6)
    assert row["margin"] == pytest.approx(0.5)
    assert row["total"] == pytest.approx(0.7)
    assert row["support"] == pytest.approx(0.2)
    assert row["overlap"] == row["covered"] == row["overlap_same"] == pytest.approx(0.2)
    assert row["covers"] == pytest.approx(1)
    assert row["crowd"] == 2
    assert row["image_agreement"] == pytest.approx(0.45)  # one of two annotations is confirmed, with 0.9


def test_the_proposed_box_is_where_the_detections_are() -> None:
    given = annotate((0, 0, A), (0, 1, B), (1, 2, C))
    left, right = [8, 10, 28, 30], [12, 10, 32, 30]
    found = detections((0, left, [0.6, 0, 0]), (0, right, [0.6, 0, 0]), (0, B, [0.9, 0, 0]))
    boxes = proposed_boxes(given, found)
    np.testing.assert_allclose(boxes[0], A)  # the mean of the two
    assert np.isnan(boxes[1:]).all()  # of its own category nothing is seen at B, nothing at all in image 1


# Rules


@pytest.fixture(scope="module")
def case() -> tuple[Dataset, Boxes, Planted, dict[str, np.ndarray]]:
    dataset, found, planted, _ = make_case(60)
    table = compute_annotation_evidence(dataset.annotations, found, dataset.sizes, 5)
    return dataset, found, planted, score_annotations_by_rules(table)


@pytest.mark.parametrize("kind", ANNOTATION_TYPES)
def test_each_rule_puts_its_own_type_above_the_rest(case: tuple[Dataset, Boxes, Planted, dict[str, np.ndarray]], kind: str) -> None:
    score, is_it = case[3][kind], case[2].kind == kind
    wrong, rest = score[is_it], score[case[2].kind == ""]
    assert ((score >= 0) & (score <= 1)).all()
    pairs = (wrong[:, None] > rest).mean() + (wrong[:, None] == rest).mean() / 2
    assert pairs >= 0.85  # measured 0.90 to 1 here, 0.87 with two other seeds; 0.5 is chance


def test_a_detector_that_sees_nothing_accuses_nobody() -> None:
    given, sizes = make_truth(10)
    nothing = Boxes(np.zeros(0), np.zeros(0), np.zeros((0, 4)), score=np.zeros(0))
    elsewhere = Boxes(np.zeros(1), np.zeros(1), np.array([[WIDTH - 1.0, 0, WIDTH, 1]]), score=np.array([0.9]))
    for found in (nothing, elsewhere):
        rules = score_annotations_by_rules(compute_annotation_evidence(given, found, sizes, 5))
        assert {kind: float(score.max()) for kind, score in rules.items() if kind != "duplicate"} == {"badloc": 0, "swap": 0, "spurious": 0}


def test_candidates_are_ruled_by_confidence_and_cover() -> None:
    table = pl.DataFrame({"score": [0.9, 0.9, 0.2], "covered": [0.0, 1.0, 0.0]})
    assert score_candidates_by_rules(table).tolist() == pytest.approx([0.9, 0.45, 0.2])
