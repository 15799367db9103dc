"""Which boxes of one table overlap which of another, and who belongs to whom."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, Mask, aligned_iou

PAIRS_AT_ONCE = 1 << 18  # bounds memory; and columns of a few MB stay in the processor's cache, which makes it twice as fast as 4 million


def overlapping_pairs(a: Boxes, b: Boxes, min_iou: float) -> tuple[Ints, Ints, Floats]:
    """Every pair of boxes of the same image with IoU >= `min_iou` that overlap at all: positions in a (p,), in b (p,), IoU (p,).

    Sorted by the position in a. Never holds more than about PAIRS_AT_ONCE pairs before the cut.
    """
    parts = []
    for first, second in pairs_in_same_image(a, b):
        iou = aligned_iou(a.xyxy[first], b.xyxy[second])
        kept = (iou >= min_iou) & (iou > 0)
        parts.append((first[kept], second[kept], iou[kept]))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    first, second, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, iou


def pairs_in_same_image(a: Boxes, b: Boxes) -> Iterator[tuple[Ints, Ints]]:
    """Every pair of boxes of the same image, about PAIRS_AT_ONCE at a time: positions in a, ascending, and in b."""
    start = np.searchsorted(b.image_index, a.image_index, side="left")
    counts = np.searchsorted(b.image_index, a.image_index, side="right") - start
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    for low, high in pairwise([0, *edges.tolist(), len(a)]):
        own = counts[low:high]
        if total := int(own.sum()):
            first = np.repeat(np.arange(low, high), own)
            yield first, np.arange(total) + np.repeat(start[low:high] - (np.cumsum(own) - own), own)


def match_greedily(first: Ints, second: Ints, strength: Floats) -> Mask:
    """One-to-one among pairs: the strongest pair first, each side used once. Strength (p,) -> mask of the pairs taken (p,)."""
    taken = np.zeros(len(first), dtype=bool)
    used_first: set[int] = set()
    used_second: set[int] = set()
    for pair in np.argsort(-strength, kind="stable").tolist():
        f, s = int(first[pair]), int(second[pair])
        if f not in used_first and s not in used_second:
            taken[pair] = True
            used_first.add(f)
            used_second.add(s)
    return taken


def suppress_overlaps(boxes: Boxes, max_iou: float) -> Mask:
    """Category-blind non-maximum suppression within images: mask (n,) of the boxes that no stronger kept box covers."""
    first, second, _ = overlapping_pairs(boxes, boxes, max_iou)
    score = _scores(boxes)
    stronger = (score[first] > score[second]) | ((score[first] == score[second]) & (first < second))
    first, second = first[stronger], second[stronger]
    kept = np.ones(len(boxes), dtype=bool)
    order = np.argsort(-score[first], kind="stable")
    for f, s in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if kept[f]:
            kept[s] = False
    return kept


def _scores(boxes: Boxes) -> NDArray[np.floating]:
    if boxes.score is None:
        raise ValueError("these boxes carry no score")
    return boxes.score


def max_per(group: Ints, values: Floats, count: int, initial: float = 0.0) -> Floats:
    """The largest value of each group: group (p,), values (p,) -> (count,); `initial` where a group is empty."""
    result = np.full(count, initial)
    np.maximum.at(result, group, values)
    return result


def sum_per(group: Ints, values: Floats, count: int) -> Floats:
    """The sum of each group: group (p,), values (p,) -> (count,)."""
    return np.bincount(group, weights=values, minlength=count).astype(np.float64)


def best_pair_per(group: Ints, values: Floats, count: int) -> Ints:
    """The pair with the largest value of each group (the first of equals): -> (count,) positions, -1 where a group is empty."""
    result = np.full(count, -1, dtype=np.int64)
    order = np.lexsort((-values, group))
    if len(order):
        heads = np.concatenate([[True], np.diff(group[order]) > 0])
        result[group[order][heads]] = order[heads]
    return result
