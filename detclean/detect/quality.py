"""How good out-of-fold detections are, by the annotations as they are given: COCO's average precision, on columns.

The rules are those of pycocotools' COCOeval (all areas, at most 100 detections of a category in an image, crowds as it treats them);
tests/test_quality.py holds both against each other. That one loops over images and categories: minutes and gigabytes where there are
millions of detections.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, Mask, aligned_intersection, box_area, expand_ranges
from detclean.dataset import Dataset

DETECTIONS_AN_IMAGE = 100  # per category, as COCO counts
IOU_LEVELS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
IMAGES_AT_ONCE = 4096  # bounds memory while boxes are compared


@dataclass(frozen=True)
class Matched:
    """The detections that count, sorted by confidence: category, image, score (d,), hit and ignored (d, 10) at each IoU level.

    ignored: it took a crowd, and is neither right nor wrong.
    """

    category: Ints
    image: Ints
    score: Floats
    hit: Mask
    ignored: Mask


def measure_quality(dataset: Dataset, boxes: Boxes, folds: Ints) -> dict[str, Any]:
    """Average precision by fold and by category.

    folds: (repeats, N), the fold of each image; boxes without `repeat` (brought by the user) count for every repeat.
    -> {"folds": [{"repeat", "fold", "images", "map50", "map"}, ...], "per_category": {name: AP50}}. map50 is at an IoU of 0.5, map the
    mean over 0.5 to 0.95, both over the categories that the fold's annotations have, None where they have none. By category: at 0.5, all
    folds together, the mean over repeats; None for a category without annotations.
    """
    rows, by_category = [], []
    matched = match_detections(dataset, boxes) if boxes.repeat is None else None
    for repeat, fold_of in enumerate(folds):
        own = matched or match_detections(dataset, boxes[boxes.repeat == repeat])
        for fold in np.unique(fold_of):
            chosen = fold_of == fold
            precision = _accumulate(dataset, own, chosen)
            figures = {"map50": _mean(precision[0]), "map": _mean(precision)}
            rows.append({"repeat": repeat, "fold": int(fold), "images": int(chosen.sum()), **figures})
        whole = _accumulate(dataset, own, np.ones(dataset.image_count, bool))[0]  # (recall levels, K)
        by_category.append([_mean(whole[:, category]) for category in range(len(dataset.categories))])
    per_category = {name: _mean_of(column) for name, column in zip(dataset.categories, zip(*by_category, strict=True), strict=True)}
    return {"folds": rows, "per_category": per_category}


def _mean(precision: Floats) -> float | None:
    """The mean where there is one: a category without annotations is marked by -1."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def match_detections(dataset: Dataset, boxes: Boxes) -> Matched:
    """Each detection, the most confident first, takes the annotation of its category that it fits best and that is still free."""
    annotations, category_count = dataset.annotations, max(len(dataset.categories), 1)
    score = np.ones(len(boxes)) if boxes.score is None else np.asarray(boxes.score)
    group = boxes.image_index * category_count + boxes.category
    order = np.lexsort((-score, group))
    order = order[_rank(group[order]) < DETECTIONS_AN_IMAGE]
    crowd = np.zeros(len(annotations), bool) if annotations.is_crowd is None else annotations.is_crowd.astype(bool)
    theirs = np.lexsort((crowd, annotations.image_index * category_count + annotations.category))  # crowds are the last choice
    given = _Given(annotations.xyxy[theirs], crowd[theirs], (annotations.image_index * category_count + annotations.category)[theirs])
    hit, ignored = np.zeros((len(order), len(IOU_LEVELS)), bool), np.zeros((len(order), len(IOU_LEVELS)), bool)
    edges = np.searchsorted(group[order], np.arange(0, dataset.image_count + IMAGES_AT_ONCE, IMAGES_AT_ONCE) * category_count)
    for low, high in pairwise(edges.tolist()):
        if high > low:
            rows = order[low:high]
            hit[low:high], ignored[low:high], _ = _take(boxes.xyxy[rows], group[rows], given)
    by_score = np.lexsort((boxes.image_index[order], -score[order]))  # of equals the earlier image first, as COCO's stable sort leaves them
    order, hit, ignored = order[by_score], hit[by_score], ignored[by_score]
    return Matched(boxes.category[order], boxes.image_index[order], score[order], hit, ignored)


def find_partners(dataset: Dataset, boxes: Boxes) -> Ints:
    """The annotation that each detection takes at an IoU of 0.5 whatever the category, -1 for none: (d,) positions.

    The most confident of an image chooses first, as in `match_detections`; all detections of an image count. boxes: with score.
    """
    annotations = dataset.annotations
    crowd = np.zeros(len(annotations), bool) if annotations.is_crowd is None else annotations.is_crowd.astype(bool)
    order = np.lexsort((-np.asarray(boxes.score), boxes.image_index))
    theirs = np.lexsort((crowd, annotations.image_index))
    given = _Given(annotations.xyxy[theirs], crowd[theirs], annotations.image_index[theirs])
    _, _, taken = _take(boxes.xyxy[order], boxes.image_index[order], given)
    partner = np.full(len(boxes), -1)
    partner[order[taken >= 0]] = theirs[taken[taken >= 0]]
    return partner


@dataclass(frozen=True)
class _Given:
    """Annotations sorted by group, crowds last: xyxy (n, 4), crowd (n,), group (n,)."""

    xyxy: Floats
    crowd: Mask
    group: Ints


def _rank(sorted_group: Ints) -> Ints:
    """0, 1, 2, ... within each run of equal groups: (n,)."""
    position = np.arange(len(sorted_group))
    starts = np.flatnonzero(np.diff(sorted_group, prepend=-1) != 0)
    return position - np.repeat(starts, np.diff(starts, append=len(sorted_group)))


def _take(xyxy: Floats, group: Ints, given: _Given) -> tuple[Mask, Mask, Ints]:
    """Detections (d, 4) sorted by group and then confidence -> what each of them takes.

    -> (d, 10) whether it takes an annotation, (d, 10) whether that is a crowd, (d,) which one at the lowest level, -1 for none.
    """
    start = np.searchsorted(given.group, group, side="left")
    count = np.searchsorted(given.group, group, side="right") - start
    mine, theirs = expand_ranges(start, count)
    a, b = xyxy[mine], given.xyxy[theirs]
    shared = aligned_intersection(a, b)
    union = np.where(given.crowd[theirs], box_area(a), box_area(a) + box_area(b) - shared)
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    close = iou >= IOU_LEVELS[0]
    mine, theirs, iou = mine[close], theirs[close], iou[close]
    hit, ignored = np.zeros((len(group), len(IOU_LEVELS)), bool), np.zeros((len(group), len(IOU_LEVELS)), bool)
    partner = np.full(len(group), -1)
    if not len(mine):
        return hit, ignored, partner
    first = theirs.min()
    free = np.ones((int(theirs.max() - first) + 1, len(IOU_LEVELS)), bool)
    takers, inverse = np.unique(mine, return_inverse=True)
    turn = _rank(group[takers])[inverse]  # detections of different groups are in nobody's way: the first of each choose at once
    order = np.argsort(turn, kind="stable")
    for pairs in np.split(order, np.flatnonzero(np.diff(turn[order])) + 1):
        choice = _choose(mine[pairs], theirs[pairs], iou[pairs], given.crowd, free[theirs[pairs] - first])
        for level, chosen in enumerate(choice):
            taken = pairs[chosen]
            crowd = given.crowd[theirs[taken]]
            hit[mine[taken], level] = True
            if level == 0:
                partner[mine[taken]] = theirs[taken]
            ignored[mine[taken], level] = crowd
            free[theirs[taken[~crowd]] - first, level] = False  # a crowd takes as many as come
    return hit, ignored, partner


def _choose(mine: Ints, theirs: Ints, iou: Floats, crowd: Mask, free: Mask) -> list[NDArray[np.int64]]:
    """At each IoU level the pairs (positions) that come about: of each detection's the best free one, the last of equals."""
    heads = np.flatnonzero(np.diff(mine, prepend=-1))
    run = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(mine)))
    worth = np.where(crowd[theirs], iou - 2, iou)  # any object is better than any crowd
    chosen = []
    for level, least in enumerate(IOU_LEVELS):
        value = np.where(free[:, level] & (iou >= min(least, 1 - 1e-10)), worth, -np.inf)
        best = np.maximum.reduceat(value, heads)[run]
        last = np.maximum.reduceat(np.where((value == best) & (value > -np.inf), np.arange(len(mine)), -1), heads)
        chosen.append(last[last >= 0])
    return chosen


def _accumulate(dataset: Dataset, matched: Matched, chosen: Mask) -> Floats:
    """COCO's precision on the chosen images (N,): (10 IoU levels, 101 recall levels, K), -1 for categories without annotations."""
    annotations, category_count = dataset.annotations, len(dataset.categories)
    counted = chosen[annotations.image_index]
    if annotations.is_crowd is not None:
        counted &= ~annotations.is_crowd.astype(bool)
    count = np.bincount(annotations.category[counted], minlength=category_count)
    precision = np.full((len(IOU_LEVELS), len(RECALL_LEVELS), category_count), -1.0)
    rows = np.flatnonzero(chosen[matched.image])
    rows = rows[np.argsort(matched.category[rows], kind="stable")]
    edges = np.searchsorted(matched.category[rows], np.arange(category_count + 1))
    for category in np.flatnonzero(count):
        own = rows[edges[category] : edges[category + 1]]
        for level in range(len(IOU_LEVELS)):
            hit = matched.hit[own[~matched.ignored[own, level]], level]
            precision[level, :, category] = _interpolate(hit, int(count[category]))
    return precision


def _interpolate(hit: Mask, count: int) -> Floats:
    """Precision at each of RECALL_LEVELS of one category's detections, the most confident first; count: of its annotations."""
    places = np.flatnonzero(hit)
    hits = np.arange(1, len(places) + 1)
    best = np.maximum.accumulate((hits / (places + 1 + np.spacing(1)))[::-1])[::-1]
    needed = np.searchsorted(hits / count, RECALL_LEVELS, side="left")
    return np.where(needed < len(best), best[np.minimum(needed, len(best) - 1)], 0.0) if len(best) else np.zeros(len(RECALL_LEVELS))
