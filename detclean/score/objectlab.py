"""cleanlab's object-detection module (ObjectLab, arXiv 2309.00832), fed so that it works with YOLO's modest confidences.

cleanlab asks for a confidence of 0.95 before it believes in a swapped or overlooked box and of 0.5 for a badly located one. A YOLO detector
never saw its held-out images and seldom says more than 0.9. So each category's confidences are stretched, order kept, until those
constants stand at fixed quantiles of the confidences that the category's matched detections have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints
from detclean.score.matching import overlapping_pairs
from detclean.score.objectlab_columns import HIGH, LOW, BoxScores, compute_box_scores

Engine = Literal["fast", "cleanlab"]

HIGH_QUANTILE = 0.3  # of the matched confidences of a category: above it cleanlab believes in swapped and overlooked boxes
LOW_QUANTILE = 0.1  # above it cleanlab believes in badly located ones
FEW_MATCHES = 10  # a category with fewer matched detections borrows the quantiles of all
MATCH_IOU = 0.5
WORTH_A_LOOK = 0.05  # of the low cut-off: weaker detections cannot change a cleanlab score and only cost time


@dataclass(frozen=True)
class ObjectLabScores:
    """cleanlab's scores, 1 good to 0 bad, NaN where it gives none.

    swap (n,), badloc (n,) an annotation; overlooked (m,) a detection; image (N,) label_quality_score; image_flag (N,) its verdict;
    low and high (K,) the raw confidences that stand for its cut-offs 0.5 and 0.95.
    """

    swap: Floats
    badloc: Floats
    overlooked: Floats
    image: Floats
    image_flag: NDArray[np.bool_]
    low: Floats
    high: Floats


def compute_cut_offs(annotations: Boxes, detections: Boxes, category_count: int) -> tuple[Floats, Floats]:
    """Per category the raw confidences that stand for cleanlab's 0.5 and 0.95: low (K,), high (K,)."""
    score = np.asarray(detections.score)
    mine, theirs, _ = overlapping_pairs(annotations, detections, MATCH_IOU)
    agree = annotations.category[mine] == detections.category[theirs]
    best = np.zeros(len(annotations))
    np.maximum.at(best, mine[agree], score[theirs[agree]])
    matched = best > 0
    if not matched.any():
        return np.full(category_count, LOW), np.full(category_count, HIGH)
    quantiles = np.tile(np.quantile(best[matched], [LOW_QUANTILE, HIGH_QUANTILE]), (category_count, 1))
    for category in range(category_count):
        own = best[matched & (annotations.category == category)]
        if len(own) >= FEW_MATCHES:
            quantiles[category] = np.quantile(own, [LOW_QUANTILE, HIGH_QUANTILE])
    low = np.clip(quantiles[:, 0], 1e-3, 0.98)
    return low, np.clip(quantiles[:, 1], low + 1e-3, 0.99)


def stretch_confidences(score: Floats, category: Ints, low: Floats, high: Floats) -> Floats:
    """Confidences (m,) mapped piecewise linearly so that low[c] becomes 0.5 and high[c] just over 0.95. Keeps their order in a category."""
    below = 0.5 * score / low[category]
    between = 0.5 + 0.4501 * (score - low[category]) / (high[category] - low[category])
    above = 0.9501 + 0.0499 * (score - high[category]) / (1 - high[category])
    return np.select([score < low[category], score < high[category]], [below, between], above)


def compute_objectlab_scores(
    annotations: Boxes,
    detections: Boxes,
    image_count: int,
    category_count: int,
    *,
    confidences: Floats | None = None,
    engine: Engine = "fast",
) -> ObjectLabScores:
    """cleanlab's three box scores, image score and image flag. Crowd annotations take no part.

    confidences (m,): judged by as they are; None: the detections' own, stretched. engine: "cleanlab" calls the package, which takes
    hours where there are a hundred thousand images; "fast" computes the same numbers on columns.
    """
    if confidences is None:
        low, high = compute_cut_offs(annotations, detections, category_count)
        score = stretch_confidences(np.asarray(detections.score), detections.category, low, high)
    else:
        low, high = np.full(category_count, LOW), np.full(category_count, HIGH)
        score = confidences
    given = np.ones(len(annotations), bool) if annotations.is_crowd is None else ~annotations.is_crowd
    worth = np.flatnonzero(score >= 0.5 * WORTH_A_LOOK)
    order = worth[np.lexsort((detections.category[worth], detections.image_index[worth]))]
    swap, badloc = np.full(len(annotations), np.nan), np.full(len(annotations), np.nan)
    overlooked = np.full(len(detections), np.nan)
    if not given.any() or not len(order):
        return ObjectLabScores(swap, badloc, overlooked, np.ones(image_count), np.zeros(image_count, bool), low, high)
    sorted_detections = Boxes(detections.image_index[order], detections.category[order], detections.xyxy[order], score=score[order])
    compute = {"fast": compute_box_scores, "cleanlab": _ask_cleanlab}[engine]
    found = compute(annotations[given], sorted_detections, image_count, category_count)
    swap[given], badloc[given], overlooked[order] = found.swap, found.badloc, found.overlooked
    return ObjectLabScores(swap, badloc, overlooked, found.image, found.image_flag, low, high)


def _ask_cleanlab(annotations: Boxes, detections: Boxes, image_count: int, category_count: int) -> BoxScores:
    """What the package itself says; arguments as in `compute_box_scores`."""
    import warnings
    from unittest.mock import patch

    from cleanlab.object_detection.filter import find_label_issues
    from cleanlab.object_detection.rank import (
        compute_badloc_box_scores,
        compute_overlooked_box_scores,
        compute_swap_box_scores,
        get_label_quality_scores,
    )

    arguments: dict[str, Any] = {
        "labels": [{"bboxes": annotations.xyxy[rows], "labels": annotations.category[rows]} for rows in annotations.by_image(image_count)],
        "predictions": _predictions(detections, image_count, category_count),
    }
    with warnings.catch_warnings(), patch("cleanlab.object_detection.filter.Pool", _Here):
        warnings.simplefilter("ignore")  # empty images divide by zero inside cleanlab
        return BoxScores(
            np.concatenate(compute_swap_box_scores(**arguments)),
            np.concatenate(compute_badloc_box_scores(**arguments)),
            np.concatenate(compute_overlooked_box_scores(**arguments)),
            np.asarray(get_label_quality_scores(**arguments, verbose=False), dtype=np.float64),
            np.asarray(find_label_issues(**arguments), dtype=bool),
        )


class _Here:
    """In the place of cleanlab's pool of one process, which it closes and forgets: where Python then tidies the pool up in the pool's own
    thread, that thread waits for itself, and the run for ever."""

    def __init__(self, processes: int) -> None:
        pass

    def starmap(self, function: Callable[..., Any], arguments: Iterable[Iterable[Any]]) -> list[Any]:
        return list(starmap(function, arguments))

    def close(self) -> None:
        pass


def _predictions(detections: Boxes, image_count: int, category_count: int) -> list[NDArray[np.object_]]:
    """One object array of K arrays (M_k, 5) an image, of detections sorted by image and category."""
    rows = np.concatenate([detections.xyxy, np.asarray(detections.score)[:, None]], axis=1)
    edges = np.searchsorted(detections.image_index * category_count + detections.category, np.arange(image_count * category_count + 1))
    predictions = []
    for image in range(image_count):
        per_category = np.empty(category_count, dtype=object)
        for category in range(category_count):
            cell = image * category_count + category
            per_category[category] = rows[edges[cell] : edges[cell + 1]]
        predictions.append(per_category)
    return predictions
