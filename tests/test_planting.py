"""Planted errors are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import HEIGHT, WIDTH, make_truth

from detclean.boxes import Boxes, aligned_iou, box_iou
from detclean.dataset import ISSUE_TYPES
from detclean.score.planting import Planted, plant_errors

RATES = {"overlooked": 0.05, "swap": 0.06, "badloc": 0.07, "spurious": 0.08, "duplicate": 0.09}


def plant(clean: Boxes, sizes: np.ndarray, categories: int = 5, seed: int = 0, **rates: float) -> Planted:
    return plant_errors(clean, sizes, categories, rates or RATES, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def clean() -> tuple[Boxes, np.ndarray]:
    return make_truth(60, per_image=8)


@pytest.fixture(scope="module")
def planted(clean: tuple[Boxes, np.ndarray]) -> Planted:
    return plant(*clean)


def of(planted: Planted, clean: Boxes, kind: str) -> tuple[Boxes, Boxes]:
    """The planted boxes of a type and the clean ones that they come from."""
    rows = planted.kind == kind
    return planted.annotations[rows], Boxes.sorted(**{name: c[planted.origin[rows]] for name, c in clean.columns().items()})


def test_every_type_has_its_rate(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    n = len(clean[0])
    counts = {kind: int((planted.kind == kind).sum()) for kind in ISSUE_TYPES} | {"overlooked": len(planted.removed)}
    assert counts == {kind: round(rate * n) for kind, rate in RATES.items()}
    assert len(planted.annotations) == n - counts["overlooked"] + counts["spurious"] + counts["duplicate"]


def test_no_annotation_gets_two_errors(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    own = planted.origin[~np.isin(planted.kind, ["duplicate", "spurious"])]
    assert sorted([*own.tolist(), *planted.removed.tolist()]) == list(range(len(clean[0])))
    repeated = planted.origin[planted.kind == "duplicate"]
    assert len(set(repeated.tolist())) == len(repeated)
    faulty = planted.origin[np.isin(planted.kind, ["swap", "badloc"])]
    assert not set(repeated.tolist()) & {*faulty.tolist(), *planted.removed.tolist()}
    assert (planted.origin[planted.kind == "spurious"] == -1).all()


def test_what_is_not_planted_is_untouched(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    mine, theirs = of(planted, clean[0], "")
    np.testing.assert_array_equal(mine.image_index, theirs.image_index)
    np.testing.assert_array_equal(mine.category, theirs.category)
    np.testing.assert_array_equal(mine.xyxy, theirs.xyxy)


def test_swaps_change_the_category_alone(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    mine, theirs = of(planted, clean[0], "swap")
    assert (mine.category != theirs.category).all()
    assert ((mine.category >= 0) & (mine.category < 5)).all()
    np.testing.assert_array_equal(mine.xyxy, theirs.xyxy)


def test_badly_located_boxes_overlap_by_half(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    mine, theirs = of(planted, clean[0], "badloc")
    iou = aligned_iou(mine.xyxy, theirs.xyxy)
    assert ((iou >= 0.3) & (iou <= 0.6)).all()
    np.testing.assert_array_equal(mine.category, theirs.category)


def test_spurious_boxes_are_clear_of_all_true_ones(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    boxes = clean[0]
    spurious = planted.annotations[planted.kind == "spurious"]
    for image, xyxy in zip(spurious.image_index, spurious.xyxy, strict=True):
        assert box_iou(xyxy[None], boxes.xyxy[boxes.image_index == image]).max(initial=0) < 0.1
    shapes = {tuple(side) for side in np.round(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], 6)}
    assert {tuple(side) for side in np.round(spurious.xyxy[:, 2:] - spurious.xyxy[:, :2], 6)} <= shapes


def test_duplicates_repeat_a_box(clean: tuple[Boxes, np.ndarray]) -> None:
    made = plant(*clean, duplicate=0.5)
    mine, theirs = of(made, clean[0], "duplicate")
    iou = aligned_iou(mine.xyxy, theirs.xyxy)
    assert (iou >= 0.8).all()
    assert np.median(iou) < 0.99  # jittered, not copied
    np.testing.assert_array_equal(mine.image_index, theirs.image_index)
    assert 0.65 < (mine.category == theirs.category).mean() < 0.85  # three quarters, of 230


def test_every_planted_box_lies_in_its_image(planted: Planted) -> None:
    xyxy = planted.annotations.xyxy
    assert (xyxy >= 0).all()
    assert (xyxy <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (xyxy[:, 2:] - xyxy[:, :2] >= 2).all()


def test_the_seed_decides(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    again, other = plant(*clean), plant(*clean, seed=1)
    for name in ("image_index", "category", "xyxy"):
        np.testing.assert_array_equal(planted.annotations.columns()[name], again.annotations.columns()[name])
    np.testing.assert_array_equal(planted.kind, again.kind)
    np.testing.assert_array_equal(planted.removed, again.removed)
    assert planted.removed.tolist() != other.removed.tolist()


def test_the_clean_boxes_stay_as_they_are(clean: tuple[Boxes, np.ndarray]) -> None:
    boxes, sizes = clean
    before = boxes.xyxy.copy(), boxes.category.copy()
    plant(boxes, sizes, seed=5)
    np.testing.assert_array_equal(boxes.xyxy, before[0])
    np.testing.assert_array_equal(boxes.category, before[1])


def test_one_category_cannot_be_swapped() -> None:
    boxes, sizes = make_truth(20, categories=1)
    made = plant(boxes, sizes, categories=1)
    assert "swap" not in made.kind
    assert (made.kind == "duplicate").any()
    assert (made.annotations.category == 0).all()


def test_nothing_to_plant_into() -> None:
    made = plant(Boxes.empty(), np.array([[WIDTH, HEIGHT]]))
    assert len(made.annotations) == len(made.kind) == len(made.origin) == len(made.removed) == 0


def test_without_rates_nothing_changes(clean: tuple[Boxes, np.ndarray]) -> None:
    made = plant_errors(*clean, 5, {}, np.random.default_rng(0))
    np.testing.assert_array_equal(made.annotations.xyxy, clean[0].xyxy)
    assert not (made.kind != "").any()


def test_a_full_image_gets_no_spurious_box() -> None:
    tiles = np.stack(np.meshgrid(np.arange(0, 100, 10.0), np.arange(0, 100, 10.0)), axis=-1).reshape(-1, 2)
    full = Boxes(np.zeros(100), np.zeros(100), np.concatenate([tiles, tiles + 10], axis=1))
    assert "spurious" not in plant(full, np.array([[100.0, 100.0]]), spurious=0.2).kind


def test_boxes_too_small_to_move_stay() -> None:
    specks = Boxes(np.zeros(10), np.zeros(10), np.tile([5.0, 5.0, 6.0, 6.0], (10, 1)))
    made = plant(specks, np.array([[100.0, 100.0]]), badloc=1.0)
    assert not (made.kind != "").any()
    np.testing.assert_array_equal(made.annotations.xyxy, specks.xyxy)
