"""Which boxes of one table overlap which of another, and who belongs to whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, Mask, aligned_iou, box_area, expand_ranges, find_close_pairs

PAIRS_AT_ONCE = 1 << 18  # bounds memory; and columns of a few MB stay in the processor's cache, which makes it twice as fast as 4 million


@dataclass(frozen=True)
class Corners:
    """x1, y1, x2, y2 and area of boxes as columns of their own, which are quicker to gather from than rows: (n,) each."""

    x1: Floats
    y1: Floats
    x2: Floats
    y2: Floats
    area: Floats

    @staticmethod
    def of(boxes: Boxes) -> Corners:
        x1, y1, x2, y2 = np.ascontiguousarray(boxes.xyxy.T)
        return Corners(x1, y1, x2, y2, box_area(boxes.xyxy))


def overlapping_pairs(a: Boxes, b: Boxes, min_iou: float) -> tuple[Ints, Ints, Floats]:
    """Every pair of boxes of the same image with IoU >= `min_iou` that overlap at all: positions in a (p,), in b (p,), IoU (p,).

    Sorted by the position in a. Never holds more than about PAIRS_AT_ONCE pairs before the cut.
    """
    parts: list[tuple[Ints, Ints, Floats]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    corners_a, corners_b = Corners.of(a), Corners.of(b)
    for first, second in pairs_in_same_image(a, b):
        overlapping, shared = find_overlaps(corners_a, corners_b, first, second)
        first, second = first[overlapping], second[overlapping]
        iou = shared / (corners_a.area[first] + corners_b.area[second] - shared)
        kept = iou >= min_iou
        parts.append((first[kept], second[kept], iou[kept]))
    first, second, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, iou


def find_overlaps(a: Corners, b: Corners, first: Ints, second: Ints) -> tuple[Ints, Floats]:
    """The pairs that overlap, positions among the pairs (o,), and their shared area (o,) in square pixels."""
    width = np.minimum(a.x2[first], b.x2[second]) - np.maximum(a.x1[first], b.x1[second])
    beside = np.flatnonzero(width > 0)
    first, second = first[beside], second[beside]
    height = np.minimum(a.y2[first], b.y2[second]) - np.maximum(a.y1[first], b.y1[second])
    overlapping = np.flatnonzero(height > 0)
    return beside[overlapping], width[beside[overlapping]] * height[overlapping]


def pairs_in_same_image(a: Boxes, b: Boxes) -> Iterator[tuple[Ints, Ints]]:
    """Every pair of boxes of the same image, about PAIRS_AT_ONCE at a time: positions in a, ascending, and in b."""
    start = np.searchsorted(b.image_index, a.image_index, side="left")
    counts = np.searchsorted(b.image_index, a.image_index, side="right") - start
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    for low, high in pairwise([0, *edges.tolist(), len(a)]):
        first, second = expand_ranges(start[low:high], counts[low:high])
        if len(first):
            yield first + low, second


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


@dataclass(frozen=True)
class Neighbours:
    """What the detections of an image say about each other: strongest (m,), those that no stronger kept one covers, whatever their
    categories; support (m,), the sum of score x IoU over the others that lie at the same place."""

    strongest: Mask
    support: Floats


def compute_neighbours(boxes: Boxes, max_iou: float, support_iou: float) -> Neighbours:
    """max_iou: from which a stronger box covers another; support_iou, no higher than that: from which two lie at the same place."""
    pairs = find_close_pairs(boxes.image_index, boxes.xyxy, support_iou)
    iou = aligned_iou(boxes.xyxy[pairs[:, 0]], boxes.xyxy[pairs[:, 1]])
    score = _scores(boxes)
    support = sum_per(pairs[:, 0], score[pairs[:, 1]] * iou, len(boxes)) + sum_per(pairs[:, 1], score[pairs[:, 0]] * iou, len(boxes))
    return Neighbours(_suppress(pairs[iou >= max_iou], score), support)


def _suppress(pairs: Ints, score: Floats) -> Mask:
    """Non-maximum suppression, whatever the categories: mask (n,) of the boxes that no stronger kept box covers.

    pairs (p, 2) of boxes that cover each other, the earlier first: it wins among equals.
    """
    later_wins = score[pairs[:, 1]] > score[pairs[:, 0]]
    strong, weak = np.where(later_wins, pairs[:, 1], pairs[:, 0]), np.where(later_wins, pairs[:, 0], pairs[:, 1])
    kept = np.ones(len(score), dtype=bool)
    order = np.lexsort((strong, -score[strong]))  # all of one box together, before those that it might suppress
    for s, w in zip(strong[order].tolist(), weak[order].tolist(), strict=True):
        if kept[s]:
            kept[w] = False
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
    if not len(group):
        return result
    order = None if (np.diff(group) >= 0).all() else np.argsort(group, kind="stable")
    if order is not None:
        group, values = group[order], values[order]
    heads = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    largest = np.maximum.reduceat(values, heads)
    best = np.flatnonzero(values == np.repeat(largest, np.diff(heads, append=len(group))))
    first = best[np.diff(group[best], prepend=group[0] - 1) > 0]
    result[group[first]] = first if order is None else order[first]
    return result
