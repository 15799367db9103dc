"""cleanlab's object-detection scores computed on columns: the same numbers without a Python loop over boxes.

cleanlab 2.9 compares every annotation with every detection of its image one pair at a time, several times over. Here all pairs of many
images are compared at once, and only those that can matter in full. Constants and formulas are cleanlab's own (object_detection/rank.py
and filter.py; Tkachenko et al., ObjectLab, arXiv 2309.00832); tests/test_objectlab_columns.py holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.score.matching import Corners, best_pair_per, find_overlaps, pairs_in_same_image, sum_per

ALPHA = 0.9  # of a similarity is IoU, the rest nearness
NEARNESS_PER_PX = 0.1
LOW, HIGH = 0.5, 0.95  # confidences from which badly located, and swapped and overlooked boxes are believed
TEMPERATURE = 0.1  # of the soft minimum over an image's boxes
CONFLICT_IOU = 0.95  # two annotations of different categories that overlap so much contradict each other
AP_SCALE, FLAG_FACTOR = 0.25, 0.8  # a box is flagged at a score of its category's average precision times these
IOU_LEVELS = np.linspace(0.5, 0.95, 10)
TINY_AREA, TINY_SCORE = 1e-6, 1e-100  # px^2 and score: against division by and logarithm of zero
LEAST_SIMILARITY = (1 - ALPHA) * 2.0**-53  # the smallest that float64 leaves between 0 and 1 - (1 - nearness)


@dataclass(frozen=True)
class BoxScores:
    """1 good to 0 bad, NaN where cleanlab gives none. swap (n,), badloc (n,), overlooked (m,), image (N,), image_flag (N,)."""

    swap: Floats
    badloc: Floats
    overlooked: Floats
    image: Floats
    image_flag: Mask


@dataclass(frozen=True)
class _Compared:
    """What comparing every pair gives: the best similarity (-1 where there is none to compare with) of each annotation with a sure
    detection of another category (n,), with an overlapping one of its own (n,), of each sure detection with an annotation of its
    category (m,); which detections overlap any annotation (m,); the least similarity above 0; and the pairs of one category with an IoU
    of at least 0.5: annotation, detection, IoU (p,)."""

    other: Floats
    own: Floats
    annotated: Floats
    covered: Mask
    least: float
    near: tuple[Ints, Ints, Floats]


def compute_box_scores(annotations: Boxes, detections: Boxes, image_count: int, category_count: int) -> BoxScores:
    """cleanlab's scores for annotations and detections (with score), both in its order: by image, detections then by category."""
    score, category = np.asarray(detections.score), detections.category
    compared = _compare(annotations, detections)
    conflicting = _find_conflicting(annotations)
    swap = np.where(compared.other < 0, 1.0, np.maximum(compared.least, 1 - compared.other))
    swap[conflicting] = compared.least
    badloc = np.where(compared.own < 0, 1.0, compared.own)
    alone = compared.annotated < 0
    overlooked = np.where(alone, compared.least * (1 - score), compared.annotated)
    overlooked[(score < HIGH) | compared.covered] = np.nan

    at_annotations, at_detections = annotations.image_index, detections.image_index
    logs = np.zeros(image_count)
    for image, values in ((at_detections, overlooked), (at_annotations, badloc), (at_annotations, swap)):
        logs += np.log(TINY_SCORE + _soft_minimum(image, values, image_count)) / 3
    bar = _average_precision(annotations, detections, compared.near, category_count) * np.float32(AP_SCALE) * np.float32(FLAG_FACTOR)
    flag = np.zeros(image_count, bool)
    flag[at_detections[np.nan_to_num(overlooked, nan=1.0) <= bar[category]]] = True
    flag[at_annotations[np.minimum(badloc, swap) <= bar[annotations.category]]] = True
    return BoxScores(swap, badloc, overlooked, np.exp(logs), flag)


def _compare(annotations: Boxes, detections: Boxes) -> _Compared:
    n, m = len(annotations), len(detections)
    score = np.asarray(detections.score)
    sure, likely = score >= HIGH, score > LOW
    given, seen = Corners.of(annotations), Corners.of(detections)
    given_at, seen_at = (np.stack([(boxes.x1 + boxes.x2) / 2, (boxes.y1 + boxes.y2) / 2]) for boxes in (given, seen))
    other, own, annotated = np.full(n, -1.0), np.full(n, -1.0), np.full(m, -1.0)
    covered, least = np.zeros(m, bool), 1.0
    near: list[tuple[Ints, Ints, Floats]] = []
    for first, second in pairs_in_same_image(annotations, detections):
        same = annotations.category[first] == detections.category[second]
        overlapping, iou = _overlaps(given, seen, first, second)
        covered[second[overlapping]] = True
        close = overlapping[same[overlapping] & (iou >= IOU_LEVELS[0])]
        close_iou = iou[same[overlapping] & (iou >= IOU_LEVELS[0])]
        near.append((first[close], second[close], close_iou))

        overlap = np.zeros(len(first))
        overlap[overlapping] = iou
        if least <= LEAST_SIMILARITY:  # there is none smaller, so that only pairs with a sure or a fitting detection are of interest
            wanted = np.flatnonzero(sure[second] | (same & likely[second] & (overlap > 0)))
            first, second, same, overlap = first[wanted], second[wanted], same[wanted], overlap[wanted]
        similarity = overlap * ALPHA + (1 - ALPHA) * (1 - (1 - _nearness(given_at, seen_at, first, second)))
        above = similarity[similarity > 0]
        least = min(least, float(above.min())) if len(above) else least
        strangers, fitting, known = ~same & (score[second] > HIGH), same & likely[second] & (overlap > 0), same & sure[second]
        np.maximum.at(other, first[strangers], similarity[strangers])
        np.maximum.at(own, first[fitting], similarity[fitting])
        np.maximum.at(annotated, second[known], similarity[known])
    pairs = [np.concatenate(column) for column in zip(*near, strict=True)] or [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)]
    return _Compared(other, own, annotated, covered, least, (pairs[0], pairs[1], pairs[2]))


def _overlaps(a: Corners, b: Corners, first: Ints, second: Ints) -> tuple[Ints, Floats]:
    """The pairs that overlap, positions among the pairs (o,), and their IoU (o,)."""
    overlapping, shared = find_overlaps(a, b, first, second)
    union = a.area[first[overlapping]] + b.area[second[overlapping]] - shared
    return overlapping, shared / np.maximum(union, TINY_AREA)


def _nearness(a: Floats, b: Floats, first: Ints, second: Ints) -> Floats:
    """Of the centres of pairs, given all centres (2, n) and (2, m)."""
    x, y = a[0][first] - b[0][second], a[1][first] - b[1][second]
    nearness: Floats = np.exp(-np.sqrt(x * x + y * y) * NEARNESS_PER_PX)
    return nearness


def _find_conflicting(annotations: Boxes) -> Mask:
    """Annotations (n,) that another one of a different category covers all but wholly."""
    conflicting = np.zeros(len(annotations), bool)
    corners = Corners.of(annotations)
    for first, second in pairs_in_same_image(annotations, annotations):
        overlapping, iou = _overlaps(corners, corners, first, second)
        close = overlapping[iou >= CONFLICT_IOU]
        conflicting[first[close[annotations.category[first[close]] != annotations.category[second[close]]]]] = True
    return conflicting


def _soft_minimum(image: Ints, values: Floats, image_count: int) -> Floats:
    """The mean of each image's values weighted by exp(-value / TEMPERATURE), NaN left out; 1 where an image has none: (N,)."""
    told = ~np.isnan(values)
    image, values = image[told], values[told]
    least = np.full(image_count, np.inf)
    np.minimum.at(least, image, values)
    weight = np.exp((least[image] - values) / TEMPERATURE)
    total = sum_per(image, weight, image_count)
    return np.divide(sum_per(image, weight * values, image_count), total, out=np.ones(image_count), where=total > 0)


def _average_precision(annotations: Boxes, detections: Boxes, near: tuple[Ints, Ints, Floats], category_count: int) -> Floats:
    """cleanlab's average precision of each category, the mean over IOU_LEVELS in its float32: (K,).

    A detection can only match the annotation that fits it best, and the most confident of those gets it.
    """
    score = np.asarray(detections.score)
    annotation, detection, iou = near
    order = np.lexsort((annotation, detection))  # of equals the first annotation
    best = best_pair_per(detection[order], iou[order], len(detections))
    chosen = order[best[best >= 0]]
    annotation, detection, iou = annotation[chosen], detection[chosen], iou[chosen]
    rank = _rank_in_group(score, detections.image_index * category_count + detections.category, annotation, detection)
    order = np.lexsort((rank, annotation))
    annotation, detection, iou = annotation[order], detection[order], iou[order]
    per_level = [detection[reached][_heads(annotation[reached])] for reached in (iou >= level for level in IOU_LEVELS)]

    result = np.zeros(category_count, np.float32)
    by_category = np.argsort(detections.category, kind="stable")
    edges = np.searchsorted(detections.category[by_category], np.arange(category_count + 1))
    count = np.bincount(annotations.category, minlength=category_count)
    place = np.empty(len(detections), np.int64)  # of each detection in its category's order by confidence
    for category in range(category_count):
        own = by_category[edges[category] : edges[category + 1]]
        place[own[np.argsort(-score[own])]] = np.arange(len(own))  # numpy's own order of equals, as in cleanlab
    for level in per_level:
        category_of = detections.category[level]
        order = np.lexsort((place[level], category_of))
        ends = np.searchsorted(category_of[order], np.arange(category_count + 1))
        for category in np.flatnonzero(np.diff(ends)).tolist():
            places = place[level[order[ends[category] : ends[category + 1]]]]
            result[category] += _area_under_curve(places, int(count[category]))
    return result / np.float32(len(IOU_LEVELS))


def _area_under_curve(places: Ints, count: int) -> np.float32:
    """places (t,): where the true positives stand among their category's detections, ascending; count: of annotations."""
    hits = np.arange(1, len(places) + 1, dtype=np.float32)
    precision = (hits / (places + 1).astype(np.float32)).astype(np.float64)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hits / np.float64(count)
    return np.float32(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _rank_in_group(score: Floats, group: Ints, annotation: Ints, detection: Ints) -> Ints:
    """The order by confidence of detections (p,) that want the same annotation; equals stand as numpy sorts all of their group (m,)."""
    rank = np.argsort(np.argsort(-score[detection], kind="stable"), kind="stable")
    order = np.lexsort((score[detection], annotation))
    wanted, sorted_score = annotation[order], score[detection[order]]
    tied = order[1:][(np.diff(wanted) == 0) & (np.diff(sorted_score) == 0)]
    for one in np.unique(group[detection[tied]]):  # rare
        start, stop = np.searchsorted(group, [one, one + 1])
        place = np.empty(stop - start, np.int64)
        place[np.argsort(-score[start:stop])] = np.arange(stop - start)
        mine = np.flatnonzero(group[detection] == one)
        rank[mine] = place[detection[mine] - start]
    return rank


def _heads(sorted_group: Ints) -> Mask:
    heads: Mask = np.diff(sorted_group, prepend=-1) > 0
    return heads
