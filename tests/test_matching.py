"""Who overlaps whom, against double loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detclean.boxes import Boxes, aligned_iou
from detclean.score import matching
from detclean.score.matching import best_pair_per, compute_neighbours, match_greedily, max_per, overlapping_pairs, sum_per

row = st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 20), st.integers(0, 12), st.integers(0, 12), st.integers(0, 4))


def as_boxes(rows: list[tuple[int, ...]]) -> Boxes:
    """Whole numbers, so that overlaps and scores are often equal."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    corner = table[:, 1:3]
    xyxy = np.concatenate([corner, corner + table[:, 3:5]], axis=1)
    return Boxes.sorted(image_index=table[:, 0], category=np.zeros(len(table)), xyxy=xyxy, score=table[:, 5] / 4)


some_boxes = st.lists(row, max_size=12).map(as_boxes)


def plain_pairs(a: Boxes, b: Boxes, min_iou: float) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a.image_index[i] == b.image_index[j]]
    return [(i, j) for i, j in pairs if (iou := float(aligned_iou(a.xyxy[i], b.xyxy[j]))) > 0 and iou >= min_iou]


@given(some_boxes, some_boxes, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_pairs_are_those_of_a_double_loop(a: Boxes, b: Boxes, min_iou: float) -> None:
    first, second, iou = overlapping_pairs(a, b, min_iou)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == plain_pairs(a, b, min_iou)
    np.testing.assert_allclose(iou, aligned_iou(a.xyxy[first], b.xyxy[second]))


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (as_boxes([tuple(r) for r in rng.integers([0, 0, 0, 1, 1, 0], [4, 20, 20, 12, 12, 5], (40, 6))]) for _ in range(2))
    whole = overlapping_pairs(a, b, 0.1)
    assert len(whole[0]) > 20
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", at_once)
    for one, other in zip(whole, overlapping_pairs(a, b, 0.1), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bar_itself_counts_as_reached() -> None:
    a = Boxes(np.zeros(1), np.zeros(1), np.array([[0.0, 0, 10, 10]]))
    b = Boxes(np.zeros(1), np.zeros(1), np.array([[0.0, 0, 10, 5]]))
    assert overlapping_pairs(a, b, 0.5)[2].tolist() == [0.5]


def test_the_strongest_pair_is_matched_first() -> None:
    first, second = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])
    taken = match_greedily(first, second, np.array([0.5, 0.4, 0.9, 0.1]))
    assert taken.tolist() == [False, True, True, False]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1)), max_size=20))
def test_matches_are_one_to_one_and_leave_no_free_pair(pairs: list[tuple[int, int, float]]) -> None:
    first, second, strength = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else (np.zeros(0, int),) * 3
    taken = match_greedily(first, second, strength)
    assert len(set(first[taken].tolist())) == len(set(second[taken].tolist())) == taken.sum()
    free = ~np.isin(first, first[taken]) & ~np.isin(second, second[taken])
    assert not free.any()


def plain_suppression(boxes: Boxes, max_iou: float) -> list[bool]:
    score = boxes.score
    assert score is not None
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-score[i], i)):
        overlaps = [boxes.image_index[i] == boxes.image_index[j] and aligned_iou(boxes.xyxy[i], boxes.xyxy[j]) >= max_iou for j in kept]
        if not any(overlaps):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@given(some_boxes)
def test_suppression_is_that_of_a_loop(boxes: Boxes) -> None:
    assert compute_neighbours(boxes, 0.4, 0.4).strongest.tolist() == plain_suppression(boxes, 0.4)


def test_suppression_needs_scores() -> None:
    with pytest.raises(ValueError, match="no score"):
        compute_neighbours(Boxes.empty(), 0.5, 0.5)


groups = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), max_size=15)


@given(groups)
def test_per_group_figures(pairs: list[tuple[int, int]]) -> None:
    group, values = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    members = [[i for i, (g, _) in enumerate(pairs) if g == k] for k in range(5)]
    assert max_per(group, values.astype(float), 5, initial=-9.0).tolist() == [max([-9, *(pairs[i][1] for i in m)]) for m in members]
    assert sum_per(group, values.astype(float), 5).tolist() == [sum(pairs[i][1] for i in m) for m in members]
    # the first of equals, -1 for an empty group
    assert best_pair_per(group, values.astype(float), 5).tolist() == [max(m, key=lambda i: (pairs[i][1], -i), default=-1) for m in members]
