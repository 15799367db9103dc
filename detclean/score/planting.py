"""Plants label errors of every type into annotations, to learn and to measure how well they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, Mask, aligned_iou, clip_boxes
from detclean.score.matching import max_per, overlapping_pairs

TRIES = 60  # draws for a box that meets an IoU condition before it is given up
SPURIOUS_IOU = 0.1  # at most, with every true box
DUPLICATE_IOU = 0.8  # at least, with the box it repeats
MIN_SIDE = 2.0  # px: a planted box is never thinner


@dataclass(frozen=True)
class Style:
    """How errors look. What was learnt from errors of one style is tested on another.

    badloc_iou: with the true box. next_category: a swap names the category after the true one, a mistake with system, where otherwise
    any other is as likely. copied: spurious boxes are annotations of other images, at their place there, where otherwise place and image
    are random. same_category: share of duplicates that name the category of the box they repeat. touching: how many times likelier an
    annotation that overlaps another is left out.
    """

    badloc_iou: tuple[float, float] = (0.3, 0.6)
    next_category: bool = False
    copied: bool = False
    same_category: float = 0.75
    touching: float = 1.0


STYLES = {
    "standard": Style(),
    "varied": Style(badloc_iou=(0.5, 0.75), next_category=True, copied=True, same_category=0.25, touching=4.0),
}


@dataclass(frozen=True)
class Planted:
    """Annotations with planted errors.

    annotations: n boxes, sorted by image; origin (n,): position of each among the clean annotations, -1 for a spurious box, for a
    duplicate that of the box it repeats; kind (n,): "" where nothing was planted, else the issue type; removed: positions among the
    clean annotations of those that were left out ("overlooked").
    """

    annotations: Boxes
    origin: Ints
    kind: NDArray[np.str_]
    removed: Ints


def plant_errors(
    clean: Boxes,
    sizes: Floats,
    category_count: int,
    rates: Mapping[str, float],
    rng: np.random.Generator,
    style: Style = STYLES["standard"],
) -> Planted:
    """Plants each type into its own share of the boxes. sizes (N, 2) width and height in pixels; rates: issue type -> share of n.

    No annotation gets two errors. Where a type's condition cannot be met (a full image, one category only) fewer are planted.
    """
    n = len(clean)
    order: Ints = rng.permutation(n)
    left_out = round(n * rates.get("overlooked", 0.0))
    if style.touching != 1:
        first = _touching_first(clean, order, style.touching, rng)[:left_out]
        order = np.concatenate([first, order[~np.isin(order, first)]])
    chosen: dict[str, Ints] = {"overlooked": order[:left_out]}
    start = left_out
    for kind in ("swap", "badloc", "duplicate"):
        count = round(n * rates.get(kind, 0.0))
        chosen[kind], start = order[start : start + count], start + count
    if category_count < 2:
        chosen["swap"] = order[:0]

    kind_of = np.full(n, "", dtype="<U10")
    xyxy, category = clean.xyxy.copy(), clean.category.copy()
    swapped = chosen["swap"]
    if style.next_category:
        category[swapped] = (category[swapped] + 1) % category_count
    else:
        category[swapped] = _other_category(category[swapped], category_count, rng)
    kind_of[swapped] = "swap"
    moved, new_boxes = _move_boxes(clean.xyxy[chosen["badloc"]], sizes[clean.image_index[chosen["badloc"]]], style.badloc_iou, rng)
    xyxy[chosen["badloc"][moved]] = new_boxes[moved]
    kind_of[chosen["badloc"][moved]] = "badloc"

    kept = np.ones(n, dtype=bool)
    kept[chosen["overlooked"]] = False
    twins = chosen["duplicate"]
    twin_boxes = _jitter_boxes(clean.xyxy[twins], sizes[clean.image_index[twins]], rng)
    twin_category = clean.category[twins].copy()
    if category_count > 1:
        other = rng.random(len(twins)) >= style.same_category
        twin_category[other] = _other_category(twin_category[other], category_count, rng)
    extra = _spurious_boxes(clean, sizes, round(n * rates.get("spurious", 0.0)), style.copied, rng)

    image_index = np.concatenate([clean.image_index[kept], clean.image_index[twins], extra.image_index])
    sort = np.argsort(image_index, kind="stable")
    origin = np.concatenate([np.flatnonzero(kept), twins, np.full(len(extra), -1)])
    kinds = np.concatenate([kind_of[kept], np.full(len(twins), "duplicate"), np.full(len(extra), "spurious")])
    annotations = Boxes(
        image_index=image_index[sort],
        category=np.concatenate([category[kept], twin_category, extra.category])[sort],
        xyxy=np.concatenate([xyxy[kept], twin_boxes, extra.xyxy])[sort],
    )
    return Planted(annotations, origin[sort], kinds[sort], np.sort(chosen["overlooked"]))


def _other_category(category: Ints, category_count: int, rng: np.random.Generator) -> Ints:
    return (category + rng.integers(1, category_count, len(category))) % category_count


def _touching_first(clean: Boxes, order: Ints, factor: float, rng: np.random.Generator) -> Ints:
    """A random order in which boxes that overlap others stand `factor` times likelier at the front."""
    first, second, _ = overlapping_pairs(clean, clean, 0.0)
    touching = np.isin(order, first[first != second])
    return order[np.argsort(rng.exponential(size=len(order)) / np.where(touching, factor, 1.0), kind="stable")]


def _move_boxes(xyxy: Floats, size: Floats, between: tuple[float, float], rng: np.random.Generator) -> tuple[Mask, Floats]:
    """Shifts and rescales until the IoU lies `between`; mask (n,) of those where it was reached, and boxes (n, 4)."""
    low, high = between
    return _redraw(xyxy, size, lambda iou: (iou >= low) & (iou <= high), 0.5, 0.5, rng)


def _jitter_boxes(xyxy: Floats, size: Floats, rng: np.random.Generator) -> Floats:
    return _redraw(xyxy, size, lambda iou: iou >= DUPLICATE_IOU, 0.08, 0.08, rng)[1]


def _redraw(
    xyxy: Floats, size: Floats, accept: Callable[[Floats], Mask], shift: float, log_scale: float, rng: np.random.Generator
) -> tuple[Mask, Floats]:
    """Shifts by shares of the sides and rescales until `accept` likes the IoU; mask (n,) of those where it did, and boxes (n, 4)."""
    result, done = xyxy.copy(), np.zeros(len(xyxy), dtype=bool)
    for _ in range(TRIES):
        open_ = np.flatnonzero(~done)
        if not len(open_):
            break
        old = xyxy[open_]
        side = old[:, 2:] - old[:, :2]
        centre = (old[:, :2] + old[:, 2:]) / 2 + rng.uniform(-shift, shift, side.shape) * side
        half = side * np.exp(rng.uniform(-log_scale, log_scale, side.shape)) / 2
        drawn = clip_boxes(np.concatenate([centre - half, centre + half], axis=1), size[open_])
        good = accept(aligned_iou(old, drawn)) & ((drawn[:, 2:] - drawn[:, :2]) >= MIN_SIDE).all(axis=1)
        result[open_[good]] = drawn[good]
        done[open_[good]] = True
    return done, result


def _spurious_boxes(clean: Boxes, sizes: Floats, count: int, copied: bool, rng: np.random.Generator) -> Boxes:
    """Boxes of random annotations' sizes and categories in random images, at random places or at their own, clear of every true box."""
    found: list[Boxes] = []
    missing = count
    for _ in range(TRIES):
        if missing <= 0 or not len(clean):
            break
        model = rng.integers(len(clean), size=missing)
        image = rng.integers(len(sizes), size=missing)
        side = clean.xyxy[model, 2:] - clean.xyxy[model, :2]
        room = sizes[image] - side
        corner = clean.xyxy[model, :2] if copied else rng.uniform(0, 1, (missing, 2)) * np.maximum(room, 0)
        room = np.minimum(room, sizes[image] - corner - side) if copied else room
        drawn = Boxes.sorted(
            image_index=image, category=clean.category[model], xyxy=np.concatenate([corner, corner + side], axis=1), score=room.min(axis=1)
        )
        first, _, iou = overlapping_pairs(drawn, clean, 0.0)
        fits = (max_per(first, iou, len(drawn)) < SPURIOUS_IOU) & (np.asarray(drawn.score) >= 0)
        found.append(Boxes(**{name: drawn[fits].columns()[name] for name in ("image_index", "category", "xyxy")}))
        missing -= int(fits.sum())
    if not found:
        return Boxes.empty()
    return Boxes.sorted(**{name: np.concatenate([part.columns()[name] for part in found]) for name in ("image_index", "category", "xyxy")})
