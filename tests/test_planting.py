"""Planted errors are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import HEIGHT, WIDTH, make_truth

from detclean.boxes import Boxes, aligned_iou, box_iou
from detclean.dataset import ISSUE_TYPES
from detclean.score.planting import STYLES, Planted, plant_errors

RATES = {"overlooked": 0.05, "swap": 0.06, "badloc": 0.07, "spurious": 0.08, "duplicate": 0.09}


def plant(clean: Boxes, sizes: np.ndarray, categories: int = 5, seed: int = 0, style: str = "standard", **rates: float) -> Planted:
    return plant_errors(clean, sizes, categories, rates or RATES, np.random.default_rng(seed), STYLES[style])


@pytest.fixture(scope="module")
def clean() -> tuple[Boxes, np.ndarray]:
    return make_truth(60, per_image=8)


@pytest.fixture(scope="module", params=sorted(STYLES))
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def planted(clean: tuple[Boxes, np.ndarray], style: str) -> Planted:
    return plant(*clean, style=style)


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


def test_badly_located_boxes_overlap_by_half_or_more(clean: tuple[Boxes, np.ndarray], planted: Planted, style: str) -> None:
    mine, theirs = of(planted, clean[0], "badloc")
    iou = aligned_iou(mine.xyxy, theirs.xyxy)
    low, high = {"standard": (0.3, 0.6), "varied": (0.5, 0.75)}[style]
    assert ((iou >= low) & (iou <= high)).all()
    assert np.ptp(iou) > (high - low) / 2  # all over the range
    np.testing.assert_array_equal(mine.category, theirs.category)


def test_spurious_boxes_are_clear_of_all_true_ones(clean: tuple[Boxes, np.ndarray], planted: Planted) -> None:
    boxes = clean[0]
    spurious = planted.annotations[planted.kind == "spurious"]
    for image, xyxy in zip(spurious.image_index, spurious.xyxy, strict=True):
        assert box_iou(xyxy[None], boxes.xyxy[boxes.image_index == image]).max(initial=0) < 0.1
    shapes = {tuple(side) for side in np.round(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], 6)}
    assert {tuple(side) for side in np.round(spurious.xyxy[:, 2:] - spurious.xyxy[:, :2], 6)} <= shapes


def test_varied_spurious_boxes_are_annotations_of_other_images_at_their_place(clean: tuple[Boxes, np.ndarray]) -> None:
    """Pictures of two sizes: a copy must lie within its new one as it is, neither cut nor moved."""
    boxes, sizes = clean[0], np.where(np.arange(60)[:, None] % 2, clean[1], clean[1] * 2)
    made = plant(boxes, sizes, style="varied", spurious=0.3)
    spurious = made.annotations[made.kind == "spurious"]
    assert len(spurious) == round(0.3 * len(boxes))
    same = (spurious.xyxy[:, None] == boxes.xyxy[None]).all(axis=2)
    assert (same.sum(axis=1) == 1).all()
    model = same.argmax(axis=1)
    np.testing.assert_array_equal(spurious.category, boxes.category[model])
    assert (spurious.image_index != boxes.image_index[model]).all()
    assert len(set(spurious.image_index.tolist())) > 30
    scattered = plant(boxes, sizes, spurious=0.3)
    scattered = scattered.annotations[scattered.kind == "spurious"]
    assert not (scattered.xyxy[:, None] == boxes.xyxy[None]).all(axis=2).any()


def test_varied_copies_lie_in_smaller_pictures_too(clean: tuple[Boxes, np.ndarray]) -> None:
    boxes = clean[0]
    sizes = np.where(np.arange(60)[:, None] % 2, clean[1], clean[1] / 2)
    inside = (boxes.xyxy[:, 2:] <= sizes[boxes.image_index]).all(axis=1)
    boxes = boxes[inside]
    made = plant(boxes, sizes, style="varied", spurious=0.3)
    spurious = made.annotations[made.kind == "spurious"]
    assert (spurious.xyxy[:, 2:] <= sizes[spurious.image_index]).all()
    assert (spurious.image_index % 2 == 0).any()


def test_varied_swaps_have_a_system(clean: tuple[Boxes, np.ndarray]) -> None:
    made = plant(*clean, style="varied", swap=0.4)
    mine, theirs = of(made, clean[0], "swap")
    np.testing.assert_array_equal(mine.category, (theirs.category + 1) % 5)
    made = plant(*clean, swap=0.4)
    mine, theirs = of(made, clean[0], "swap")
    steps = np.bincount((mine.category - theirs.category) % 5, minlength=5)
    assert steps[0] == 0
    assert (steps[1:] > 0.15 * steps.sum()).all()  # a quarter each


def touching_share(style: str, kind: str) -> float:
    """Among the annotations of 200 images with two that overlap and two that do not: the share of the former that gets an error."""
    one = np.array([[10.0, 10, 50, 50], [40, 30, 90, 80], [150, 10, 190, 60], [220, 120, 260, 160]])
    boxes = Boxes(np.repeat(np.arange(200), 4), np.tile(np.arange(4), 200), np.tile(one, (200, 1)))
    sizes = np.tile([float(WIDTH), float(HEIGHT)], (200, 1))
    chosen = [plant(boxes, sizes, seed=seed, style=style, **{kind: 0.1}) for seed in range(10)]
    rows = np.concatenate([made.removed if kind == "overlooked" else made.origin[made.kind == kind] for made in chosen])
    assert len(rows) == 800
    return float((rows % 4 < 2).mean())


def test_what_touches_another_is_left_out_more_often_where_errors_are_varied() -> None:
    assert touching_share("varied", "overlooked") == pytest.approx(0.8, abs=0.05)  # four times as likely
    assert touching_share("standard", "overlooked") == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("style", "same"), [("standard", 0.75), ("varied", 0.25)])
def test_duplicates_repeat_a_box(clean: tuple[Boxes, np.ndarray], style: str, same: float) -> None:
    made = plant(*clean, style=style, duplicate=0.5)
    mine, theirs = of(made, clean[0], "duplicate")
    iou = aligned_iou(mine.xyxy, theirs.xyxy)
    assert (iou >= 0.8).all()
    assert np.median(iou) < 0.99  # jittered, not copied
    np.testing.assert_array_equal(mine.image_index, theirs.image_index)
    assert (mine.category == theirs.category).mean() == pytest.approx(same, abs=0.1)  # of 230


def test_every_planted_box_lies_in_its_image(planted: Planted) -> None:
    xyxy = planted.annotations.xyxy
    assert (xyxy >= 0).all()
    assert (xyxy <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (xyxy[:, 2:] - xyxy[:, :2] >= 2).all()


def test_the_seed_decides(clean: tuple[Boxes, np.ndarray], planted: Planted, style: str) -> None:
    again, other = plant(*clean, style=style), plant(*clean, seed=1, style=style)
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
