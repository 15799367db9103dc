"""What a detector's raw output, before any suppression, says at given boxes of an image.

Non-maximum suppression keeps one opinion per object and drops the rest. Before it there is one at every location, with a score for every
category and a box each: how strongly the given category is seen at a place, and how much the opinions there differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Floats, Ints, aligned_intersection, box_area

LEVELS = (0.3, 0.5, 0.7)  # IoU levels at which scores are read
LEAST_SCORE = 1e-6  # keeps logarithms finite
BOX_WEIGHT = 2.0  # of 1 - IoU against -log p in the fixed-target loss
NEAR = 0.1  # a location whose box overlaps less has no say about where the box should be
PART = 0.8  # share of a box inside another from which it counts as a part of it


def examine_locations(xyxy: Floats, scores: Floats, boxes: Floats, category: Ints) -> dict[str, NDArray[Any]]:
    """One value a box for each piece of evidence: xyxy (a, 4) and scores (a, K) of the locations, boxes (b, 4), category (b,) -> (b,) each.

    same_L and other_L: the highest score of the box's category and of any other at locations with IoU >= L. target_*: a loss against a
    fixed target, -log p of the category + 2 (1 - IoU), at the location where it is least (Ultralytics' own loss weakens the targets of
    boxes that fit badly): its parts nll and iou, and margin, the logit of the category minus the best other's there. other_loss: the
    least such loss of any other category, other_category which one. off_* and any_*: where the locations would draw the sides, by the
    given category's scores and by the best ones, in shares of the box; *_spread: how much they differ. total_same and total_other: scores
    summed over the locations, weighted by IoU. centred_same, centred_other: the highest scores of boxes centred in the box's middle.
    inside and around: the highest score of the category among boxes that are a part of this one, or that it is a part of.
    """
    b, k = len(boxes), scores.shape[1] if scores.ndim == 2 else 0
    if not b or not len(xyxy) or not k:
        return {name: np.zeros(b, np.int64 if name == "other_category" else np.float32) for name in COLUMNS}
    rows = np.arange(b)
    shared = aligned_intersection(boxes[:, None, :], xyxy[None, :, :])  # (b, a)
    area, location_area = box_area(boxes)[:, None], box_area(xyxy)[None, :]
    iou = shared / np.maximum(area + location_area - shared, 1e-9)
    log_score = np.log(np.clip(scores, LEAST_SCORE, 1 - LEAST_SCORE))  # (a, K)
    same = scores[:, category].T  # (b, a)
    rival, rival_category = _best_other(scores, category)
    columns: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        near = iou >= level
        columns[f"same_{level * 100:.0f}"] = (same * near).max(axis=1)
        columns[f"other_{level * 100:.0f}"] = (rival * near).max(axis=1)

    loss = -log_score[:, category].T + BOX_WEIGHT * (1 - iou)
    best = loss.argmin(axis=1)
    logit = log_score - np.log1p(-np.exp(log_score))
    columns["target_nll"] = -log_score[best, category]
    columns["target_iou"] = iou[rows, best]
    columns["target_loss"] = loss[rows, best]
    columns["target_margin"] = logit[best, category] - logit[best, rival_category[rows, best]] if k > 1 else logit[best, category]
    other_loss = -np.log(np.clip(rival, LEAST_SCORE, 1)) + BOX_WEIGHT * (1 - iou)
    other_best = other_loss.argmin(axis=1)
    columns["other_loss"] = other_loss[rows, other_best]
    columns["other_category"] = rival_category[rows, other_best]

    near = iou >= NEAR
    columns |= _drawn_box(boxes, xyxy, same * iou**2 * near, "off")
    columns |= _drawn_box(boxes, xyxy, np.maximum(same, rival) * iou**2 * near, "any")
    columns["total_same"], columns["total_other"] = (same * iou).sum(axis=1), (rival * iou).sum(axis=1)
    centre, side = (xyxy[:, :2] + xyxy[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    middle = (np.abs(centre[None] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]) <= side[:, None] / 4).all(axis=2)
    columns["centred_same"], columns["centred_other"] = (same * middle).max(axis=1), (rival * middle).max(axis=1)
    apart = iou < LEVELS[1]
    columns["inside"] = (same * (apart & (shared >= PART * location_area))).max(axis=1)
    columns["around"] = (same * (apart & (shared >= PART * area))).max(axis=1)
    return {name: column.astype(np.int64 if name == "other_category" else np.float32) for name, column in columns.items()}


def _best_other(scores: Floats, category: Ints) -> tuple[Floats, Ints]:
    """The best score of any category but the given one, and which, at every location: (a, K), (b,) -> (b, a), (b, a)."""
    if scores.shape[1] == 1:
        empty = np.zeros((len(category), len(scores)))
        return empty, empty.astype(np.int64)
    first = scores.argmax(axis=1)
    top = scores[np.arange(len(scores)), first]
    without = scores.copy()
    without[np.arange(len(scores)), first] = -1
    second = without.argmax(axis=1)
    next_top = without[np.arange(len(scores)), second]
    is_first = first[None, :] == category[:, None]
    return np.where(is_first, next_top[None, :], top[None, :]), np.where(is_first, second[None, :], first[None, :])


def _drawn_box(boxes: Floats, xyxy: Floats, weight: Floats, prefix: str) -> dict[str, NDArray[Any]]:
    """Deviations of the weighted mean box from the given one, side by side, and the spread around it; NaN where no location has a say."""
    total = weight.sum(axis=1)
    some = total > 1e-9
    side = np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0), 2)
    share = np.divide(weight, total[:, None], out=np.zeros_like(weight), where=some[:, None])
    mean = share @ xyxy
    variance = np.clip(share @ xyxy**2 - mean**2, 0, None)
    offset = np.where(some[:, None], (mean - boxes) / side, np.nan)
    spread = np.where(some, np.sqrt((variance / side**2).mean(axis=1)), np.nan)
    named = {f"{prefix}_{name}": offset[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    return named | {f"{prefix}_most": np.abs(offset).max(axis=1), f"{prefix}_spread": spread}


COLUMNS = (
    *(f"{who}_{level * 100:.0f}" for level in LEVELS for who in ("same", "other")),
    *("target_nll", "target_iou", "target_loss", "target_margin", "other_loss", "other_category"),
    *(f"{who}_{name}" for who in ("off", "any") for name in ("x1", "y1", "x2", "y2", "most", "spread")),
    *("total_same", "total_other", "centred_same", "centred_other", "inside", "around"),
)
