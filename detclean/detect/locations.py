"""What a detector's raw output, before any suppression, says at given boxes of an image.

Non-maximum suppression keeps one opinion per object and drops the rest. Before it there is one at every location, with a score for every
category and a box each: how strongly the given category is seen at a place, and how much the opinions there differ.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    mine, at, shared = _find_overlaps(boxes, xyxy)
    area, location_area = box_area(boxes)[mine], box_area(xyxy)[at]
    iou = shared / np.maximum(area + location_area - shared, 1e-9)
    rivals = _Rivals.of(scores)
    same = scores[at, category[mine]]
    rival = rivals.but(at, category[mine])[0]
    edges = np.searchsorted(mine, np.arange(b + 1))
    columns: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        near = iou >= level
        columns[f"same_{level * 100:.0f}"] = _max_per(mine[near], same[near], b)
        columns[f"other_{level * 100:.0f}"] = _max_per(mine[near], rival[near], b)

    # A location that does not overlap fits worst, so of those only the one with the highest score of all can have the least loss.
    top = scores.argmax(axis=0)  # (K,)
    loss, best = _least(_nll(same) + BOX_WEIGHT * (1 - iou), at, edges, _nll(scores[top[category], category]) + BOX_WEIGHT, top[category])
    columns["target_nll"] = _nll(scores[best, category])
    columns["target_iou"] = _iou_with(boxes, xyxy[best])
    columns["target_loss"] = loss
    best_rival = rivals.but(best, category)[0]
    columns["target_margin"] = _logit(scores[best, category]) - (_logit(best_rival) if k > 1 else 0.0)
    far, far_at = rivals.highest(category)
    columns["other_loss"], other_best = _least(_nll(rival) + BOX_WEIGHT * (1 - iou), at, edges, _nll(far) + BOX_WEIGHT, far_at)
    columns["other_category"] = rivals.but(other_best, category)[1]

    near = iou >= NEAR
    drawn = (boxes, xyxy, mine[near], at[near])
    columns |= _drawn_box(*drawn, (same * iou**2)[near], "off")
    columns |= _drawn_box(*drawn, (np.maximum(same, rival) * iou**2)[near], "any")
    columns["total_same"], columns["total_other"] = np.bincount(mine, same * iou, b), np.bincount(mine, rival * iou, b)
    centre, middle = (xyxy[:, :2] + xyxy[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    central = (np.abs(centre[at] - middle[mine]) <= (boxes[:, 2:] - boxes[:, :2])[mine] / 4).all(axis=1)
    columns["centred_same"] = _max_per(mine[central], same[central], b)
    columns["centred_other"] = _max_per(mine[central], rival[central], b)
    apart = iou < LEVELS[1]
    inside, around = apart & (shared >= PART * location_area), apart & (shared >= PART * area)
    columns["inside"], columns["around"] = _max_per(mine[inside], same[inside], b), _max_per(mine[around], same[around], b)
    return {name: columns[name].astype(np.int64 if name == "other_category" else np.float32) for name in COLUMNS}


def _find_overlaps(boxes: Floats, xyxy: Floats) -> tuple[Ints, Ints, Floats]:
    """The pairs that overlap: box (p,) ascending, location (p,), shared area (p,). Few of all pairs do."""
    beside = (np.minimum(boxes[:, None, 2], xyxy[:, 2]) > np.maximum(boxes[:, None, 0], xyxy[:, 0])) & (
        np.minimum(boxes[:, None, 3], xyxy[:, 3]) > np.maximum(boxes[:, None, 1], xyxy[:, 1])
    )
    mine, at = np.nonzero(beside)
    return mine, at, aligned_intersection(boxes[mine], xyxy[at])


def _max_per(group: Ints, values: Floats, count: int) -> Floats:
    result = np.zeros(count, values.dtype)
    np.maximum.at(result, group, values)
    return result


def _nll(score: Floats) -> Floats:
    loss: Floats = -np.log(np.clip(score, LEAST_SCORE, 1 - LEAST_SCORE))
    return loss


def _logit(score: Floats) -> Floats:
    log = -_nll(score)
    logit: Floats = log - np.log1p(-np.exp(log))
    return logit


def _iou_with(boxes: Floats, others: Floats) -> Floats:
    shared = aligned_intersection(boxes, others)
    iou: Floats = shared / np.maximum(box_area(boxes) + box_area(others) - shared, 1e-9)
    return iou


def _least(loss: Floats, at: Ints, edges: Ints, far_loss: Floats, far_at: Ints) -> tuple[Floats, Ints]:
    """The least loss of each box among its pairs and one far location: (b,), and where it is: (b,). edges (b + 1,) of its pairs."""
    least, place = far_loss.copy(), far_at.copy()
    for box in np.flatnonzero(np.diff(edges)):
        first = edges[box] + loss[edges[box] : edges[box + 1]].argmin()
        if loss[first] <= least[box]:
            least[box], place[box] = loss[first], at[first]
    return least, place


@dataclass(frozen=True)
class _Rivals:
    """The highest score at every location and its category, and the second highest: (a,) each; with a second of 0 where K is 1."""

    first: Ints
    first_score: Floats
    second: Ints
    second_score: Floats

    @staticmethod
    def of(scores: Floats) -> _Rivals:
        rows, first = np.arange(len(scores)), scores.argmax(axis=1)
        without = scores.copy()
        without[rows, first] = -1 if scores.shape[1] > 1 else 0
        second = without.argmax(axis=1)
        return _Rivals(first, scores[rows, first], second, without[rows, second])

    def but(self, at: Ints, category: Ints) -> tuple[Floats, Ints]:
        """The best of any category but the given one at locations (p,), and which."""
        own = self.first[at] == category
        return np.where(own, self.second_score[at], self.first_score[at]), np.where(own, self.second[at], self.first[at])

    def highest(self, category: Ints) -> tuple[Floats, Ints]:
        """The highest score of any category but the given one over all locations, and where: (b,), (b,)."""
        scores, places = np.empty(len(category), self.first_score.dtype), np.empty(len(category), np.int64)
        everywhere = np.arange(len(self.first))
        for one in np.unique(category):
            score = self.but(everywhere, np.full(len(everywhere), one))[0]
            best = int(score.argmax())
            scores[category == one], places[category == one] = score[best], best
        return scores, places


def _drawn_box(boxes: Floats, xyxy: Floats, mine: Ints, at: Ints, weight: Floats, prefix: str) -> dict[str, NDArray[Any]]:
    """Deviations of the weighted mean box from the given one, side by side, and the spread around it; NaN where no location has a say.

    mine, at, weight (p,): the pairs of box and location that have one.
    """
    b = len(boxes)
    total = np.bincount(mine, weight, b)
    some = total > 1e-9
    side = np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0), 2)
    offset, variance = np.full((b, 4), np.nan), np.zeros((b, 4))
    for i in range(4):
        deviation = xyxy[at, i].astype(np.float64) - boxes[mine, i]  # not the places themselves, whose squares would cancel
        mean = np.bincount(mine, weight * deviation, b)[some] / total[some]
        square = np.bincount(mine, weight * deviation**2, b)[some] / total[some]
        offset[some, i], variance[some, i] = mean / side[some, i], np.clip(square - mean**2, 0, None)
    spread = np.where(some, np.sqrt((variance / side**2).mean(axis=1)), np.nan)
    named = {f"{prefix}_{name}": offset[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    return named | {f"{prefix}_most": np.abs(offset).max(axis=1), f"{prefix}_spread": spread}


COLUMNS = (
    *(f"{who}_{level * 100:.0f}" for level in LEVELS for who in ("same", "other")),
    *("target_nll", "target_iou", "target_loss", "target_margin", "other_loss", "other_category"),
    *(f"{who}_{name}" for who in ("off", "any") for name in ("x1", "y1", "x2", "y2", "most", "spread")),
    *("total_same", "total_other", "centred_same", "centred_other", "inside", "around"),
)
