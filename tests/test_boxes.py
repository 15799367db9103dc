"""Boxes as columns, their geometry against plain arithmetic, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detclean.boxes import (
    Boxes,
    aligned_iou,
    box_area,
    box_iou,
    clip_boxes,
    cxcywhn_to_xyxy,
    read_boxes,
    write_boxes,
    xywh_to_xyxy,
    xyxy_to_cxcywhn,
    xyxy_to_xywh,
)

place = st.floats(-50, 150, width=32)
length = st.one_of(st.just(0.0), st.floats(0.125, 120, width=32))  # exactly empty boxes too
box = st.tuples(place, place, length, length).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def as_boxes(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


boxes = st.lists(box, max_size=6).map(as_boxes)


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    ax1, ay1, ax2, ay2 = map(float, a)
    bx1, by1, bx2, by2 = map(float, b)
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    shared = width * height if width > 0 and height > 0 else 0.0
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / union if union > 0 else 0.0


@given(boxes, boxes)
def test_iou_is_the_share_of_the_union(a: np.ndarray, b: np.ndarray) -> None:
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    expected = np.array([[plain_iou(one, other) for other in b] for one in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(iou, expected, atol=1e-9)
    np.testing.assert_allclose(iou, box_iou(b, a).T, atol=1e-12)
    assert (iou >= 0).all()
    assert (iou <= 1 + 1e-9).all()


@given(boxes)
def test_a_box_is_itself_unless_it_is_empty(a: np.ndarray) -> None:
    np.testing.assert_allclose(aligned_iou(a, a), (box_area(a) > 0).astype(float), atol=1e-9)


def test_area_of_inverted_and_unknown_boxes() -> None:
    rows = np.array([[0, 0, 4, 5], [4, 0, 0, 5], [4, 5, 0, 0], [1, 1, 1, 9]], dtype=float)
    assert box_area(rows).tolist() == [20, 0, 0, 0]  # a box inverted both ways has no area either
    assert box_iou(rows[:1], np.full((1, 4), np.nan)).tolist() == [[0.0]]


@given(boxes, st.floats(1, 4000), st.floats(1, 4000))
def test_conversions_lead_back(xyxy: np.ndarray, width: float, height: float) -> None:
    size = np.tile([width, height], (len(xyxy), 1))
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(xyxy)), xyxy, atol=1e-9)
    np.testing.assert_allclose(cxcywhn_to_xyxy(xyxy_to_cxcywhn(xyxy, size), size), xyxy, atol=1e-6)


def test_conversions_by_hand() -> None:
    xyxy, size = np.array([[10.0, 20.0, 30.0, 60.0]]), np.array([[100.0, 200.0]])
    assert xyxy_to_xywh(xyxy).tolist() == [[10, 20, 20, 40]]
    np.testing.assert_allclose(xyxy_to_cxcywhn(xyxy, size), [[0.2, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(cxcywhn_to_xyxy(np.array([[0.5, 0.25, 1.0, 0.5]]), size), [[0, 0, 100, 100]])


@given(boxes)
def test_clipped_boxes_lie_inside(xyxy: np.ndarray) -> None:
    size = np.tile([64.0, 48.0], (len(xyxy), 1))
    clipped = clip_boxes(xyxy, size)
    assert ((clipped >= 0) & (clipped <= np.tile(size, 2))).all()
    inside = ((xyxy >= 0) & (xyxy <= np.tile(size, 2))).all(axis=1)
    np.testing.assert_array_equal(clipped[inside], xyxy[inside])
    assert (box_area(clipped) <= box_area(xyxy) + 1e-9).all()


# Columns


def full(n: int = 5) -> Boxes:
    rng = np.random.default_rng(3)
    return Boxes(
        image_index=np.sort(rng.integers(4, size=n)),
        category=rng.integers(3, size=n),
        xyxy=rng.uniform(0, 50, (n, 4)),
        score=rng.random(n),
        class_scores=rng.random((n, 3)).astype(np.float32),
        annotation_id=np.array([f"id {i}" for i in range(n)], dtype=object),
        is_crowd=rng.random(n) < 0.5,
        fold=rng.integers(5, size=n),
        repeat=np.zeros(n, np.int64),
    )


def assert_same(a: Boxes, b: Boxes) -> None:
    assert a.columns().keys() == b.columns().keys()
    for name, column in a.columns().items():
        np.testing.assert_array_equal(column, b.columns()[name], err_msg=name)


def test_unsorted_and_uneven_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted by image_index"):
        Boxes(np.array([1, 0]), np.zeros(2), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="different lengths"):
        Boxes(np.array([0, 1]), np.zeros(2), np.zeros((2, 4)), score=np.zeros(3))


def test_sorted_keeps_the_order_within_an_image() -> None:
    made = Boxes.sorted(image_index=[1, 0, 1, 0], category=[0, 1, 2, 3], xyxy=np.arange(16).reshape(4, 4), score=[0.1, 0.2, 0.3, 0.4])
    assert made.image_index.tolist() == [0, 0, 1, 1]
    assert made.category.tolist() == [1, 3, 0, 2]
    assert made.score is not None
    assert made.score.tolist() == [0.2, 0.4, 0.1, 0.3]
    assert made.xyxy[:, 0].tolist() == [4, 12, 0, 8]
    assert len(Boxes.sorted(image_index=[], category=[], xyxy=np.empty((0, 4)))) == 0


@pytest.mark.parametrize("index", [np.array([True, False, True, True, False]), [0, 2, 3], slice(1, 4), [], np.zeros(5, bool)])
def test_an_index_cuts_every_column(index: object) -> None:
    whole = full()
    part = whole[index]  # type: ignore[index]
    positions = np.arange(5)[np.array(index, dtype=int) if isinstance(index, list) else index]  # type: ignore[index]
    assert len(part) == len(positions)
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(part.columns()[name], column[positions], err_msg=name)


def test_by_image_has_a_slice_for_every_image() -> None:
    made = Boxes(np.array([1, 1, 3]), np.zeros(3), np.zeros((3, 4)))
    assert [range(3)[s] for s in made.by_image(5)] == [range(0), range(2), range(2, 2), range(2, 3), range(3, 3)]


@pytest.mark.parametrize("count", [5, 0])
def test_boxes_come_back_from_their_file(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "a [b] *"  # a pattern to polars unless it is told
    folder.mkdir()
    made = full()[:count]
    write_boxes(made, folder / "boxes.parquet")
    back = read_boxes(folder / "boxes.parquet")
    assert_same(made, back)
    assert back.class_scores is not None
    assert back.class_scores.shape == (count, 3)
    assert back.annotation_id is not None
    assert back.annotation_id.dtype == object  # strings, even where there are none


def test_absent_columns_stay_absent_and_numbers_numbers(tmp_path: Path) -> None:
    made = Boxes(np.array([0, 2]), np.array([1, 0]), np.ones((2, 4)), annotation_id=np.array([7, 0]))
    write_boxes(made, tmp_path / "b.parquet")
    back = read_boxes(tmp_path / "b.parquet")
    assert_same(made, back)
    assert back.annotation_id is not None
    assert back.annotation_id.dtype == np.int64


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), max_size=8))
def test_slices_by_image_cover_all_boxes_once(images: list[int]) -> None:
    made = Boxes.sorted(image_index=images, category=np.zeros(len(images)), xyxy=np.zeros((len(images), 4)))
    parts = [made[s].image_index.tolist() for s in made.by_image(4)]
    assert parts == [[i] * images.count(i) for i in range(4)]
