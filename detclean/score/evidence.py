"""What the out-of-fold detections say about each annotation, and about each detection that no annotation explains.

Evidence is a table of numbers per box. It knows nothing of thresholds or probabilities: those are learnt from it in calibration.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, aligned_intersection, aligned_iou, box_area
from detclean.score.matching import (
    Neighbours,
    best_pair_per,
    compute_neighbours,
    match_greedily,
    max_per,
    overlapping_pairs,
    sum_per,
)

PAIR_IOU = 0.1  # an annotation and a detection that overlap less have nothing to say about each other
LEVELS = (0.3, 0.5, 0.7)  # IoU levels at which agreement is read
MATCH_IOU = 0.5  # the field's usual bar for "the same object"
CANDIDATE_OVERLAP = 0.6  # of two detections that overlap more, only the stronger is a candidate
TIE = 1e-6  # of two annotations that fit equally well, the later is the worse
MIN_AREA = 1.0  # px^2: keeps logarithms of empty boxes finite
ROWS_AT_ONCE = 1 << 16  # score vectors held a second time


def scores_of(detections: Boxes, rows: Ints, category: Ints) -> Floats:
    """What each of the detections `rows` (p,) says of a category (p,): from its score vector where the detector gave one, else its score
    where the category is its own: (p,)."""
    if detections.class_scores is not None:
        scores: Floats = detections.class_scores[rows, category].astype(np.float64)
        return scores
    return np.where(detections.category[rows] == category, np.asarray(detections.score, dtype=np.float64)[rows], 0.0)


@dataclass(frozen=True)
class TopTwo:
    """The two categories with the highest scores of each detection, and those scores: (m,) each. total (m,): the sum over all."""

    first: Ints
    first_score: Floats
    second: Ints
    second_score: Floats
    total: Floats

    def other_than(self, rows: Ints, category: Ints) -> tuple[Ints, Floats]:
        """The strongest category but the one given, of detections (p,), and its score (p,)."""
        is_own = self.first[rows] == category
        return np.where(is_own, self.second[rows], self.first[rows]), np.where(is_own, self.second_score[rows], self.first_score[rows])


def find_top_two(detections: Boxes, rows: Ints | None = None) -> TopTwo:
    """Of the detections `rows` (r,), or of all. Copies ROWS_AT_ONCE score vectors at a time, not all of them."""
    score = np.asarray(detections.score, dtype=np.float64)
    if detections.class_scores is None:  # the second category is none, with a score of 0
        first, score = (detections.category, score) if rows is None else (detections.category[rows], score[rows])
        return TopTwo(first, score, np.zeros_like(first), np.zeros_like(score), score)
    parts = [(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))]
    count = len(detections) if rows is None else len(rows)
    for start in range(0, count, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, count))
        vectors = detections.class_scores[part].copy() if rows is None else detections.class_scores[rows[part]]
        own, total = np.arange(len(vectors)), vectors.sum(axis=1, dtype=np.float64)
        first = vectors.argmax(axis=1)
        first_score = vectors[own, first].astype(np.float64)
        vectors[own, first] = 0
        second = vectors.argmax(axis=1)
        parts.append((first, first_score, second, vectors[own, second].astype(np.float64), total))
    return TopTwo(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def compute_annotation_evidence(annotations: Boxes, detections: Boxes, sizes: Floats, category_count: int) -> pl.DataFrame:
    """One row an annotation, one column a piece of evidence. sizes (N, 2) width and height in pixels.

    Columns: same_L and other_L, the highest score of the given and of any other category among detections with IoU >= L; other_category,
    the category of other_50; best_iou and best_score of the detection that fits best, whatever its category; off_* where the detections
    would have drawn the sides, in shares of the box (x1 y1 x2 y2 and their largest, off_any); fit, the best score x IoU for the given
    category; twin (its position, -1 if none) and
    twin_*, the annotation of the same image that overlaps most; stolen, by how much the best detection fits another
    annotation better; size, shape, border and crowd of the box; habit, how well the detector knows this category.
    """
    n = len(annotations)
    mine, theirs, iou = overlapping_pairs(annotations, detections, PAIR_IOU)
    own_category = annotations.category[mine]
    same = scores_of(detections, theirs, own_category)
    rival_category, other = find_top_two(detections).other_than(theirs, own_category)
    strength = np.maximum(same, other)

    columns: dict[str, NDArray[Any]] = {}
    for level in LEVELS:
        near = iou >= level
        columns[f"same_{level * 100:.0f}"] = max_per(mine[near], same[near], n)
        columns[f"other_{level * 100:.0f}"] = max_per(mine[near], other[near], n)
    rival = best_pair_per(mine, np.where(iou >= LEVELS[1], other, -1), n)
    columns["other_category"] = np.where((rival >= 0) & (columns["other_50"] > 0), _at(rival_category, rival), -1)
    columns["fit"] = max_per(mine, same * iou, n)
    columns["other_fit"] = max_per(mine, other * iou, n)

    best = best_pair_per(mine, strength * iou, n)
    columns["best_iou"], columns["best_score"] = _at(iou, best), _at(strength, best)
    columns |= _side_offsets(annotations, detections, mine, theirs, same * iou**2, "off")
    columns |= _side_offsets(annotations, detections, mine, theirs, strength * iou**2, "any")
    columns |= _rivalry(annotations, mine, theirs, iou, best, columns["fit"])
    columns |= _shape(annotations, sizes, category_count)
    columns["crowd"] = np.bincount(annotations.image_index, minlength=len(sizes))[annotations.image_index]
    count = np.maximum(np.bincount(annotations.category, minlength=category_count), 1)
    columns["habit"] = (sum_per(annotations.category, columns["same_50"], category_count) / count)[annotations.category]
    return pl.DataFrame(columns)


def _at(values: NDArray[Any], position: Ints) -> NDArray[Any]:
    """values at each position, 0 where the position is -1."""
    if not len(values):
        return np.zeros(len(position), dtype=values.dtype)
    return np.where(position >= 0, values[np.maximum(position, 0)], np.zeros((), dtype=values.dtype))


def mean_boxes(annotations: Boxes, detections: Boxes, mine: Ints, theirs: Ints, weight: Floats) -> Floats:
    """The weighted mean of each annotation's detections, the box the detector would have drawn: (n, 4) pixels, NaN where none."""
    n = len(annotations)
    total = sum_per(mine, weight, n)
    mean = np.full((n, 4), np.nan)
    some = total > 0
    for side in range(4):
        mean[some, side] = sum_per(mine, weight * detections.xyxy[theirs, side], n)[some] / total[some]
    return mean


def _side_offsets(annotations: Boxes, detections: Boxes, mine: Ints, theirs: Ints, weight: Floats, prefix: str) -> dict[str, NDArray[Any]]:
    mean = mean_boxes(annotations, detections, mine, theirs, weight)
    side = np.maximum(annotations.xyxy[:, 2:] - annotations.xyxy[:, :2], 1.0)
    offset = (mean - annotations.xyxy) / np.concatenate([side, side], axis=1)
    columns: dict[str, NDArray[Any]] = {f"{prefix}_{name}": offset[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    columns[f"{prefix}_most"] = np.abs(offset).max(axis=1)
    return columns


def _rivalry(annotations: Boxes, mine: Ints, theirs: Ints, iou: Floats, best: Ints, fit: Floats) -> dict[str, NDArray[Any]]:
    """The annotation of the same image that overlaps most, and whether this one's best detection belongs to another."""
    n = len(annotations)
    first, second, overlap = overlapping_pairs(annotations, annotations, 0.0)
    others = first != second
    first, second, overlap = first[others], second[others], overlap[others]
    twin = best_pair_per(first, overlap, n)
    twin_of = _at(second, twin)
    has_twin = twin >= 0
    gain = fit[twin_of].astype(np.float64) - fit.astype(np.float64)
    detection_best = max_per(theirs, iou, int(theirs.max()) + 1 if len(theirs) else 0)
    best_detection = _at(theirs, best)
    stolen = np.where(best >= 0, _at(detection_best, np.where(best >= 0, best_detection, -1)) - _at(iou, best), 0.0)
    return {
        "twin": np.where(has_twin, twin_of, -1),
        "twin_iou": _at(overlap, twin),
        "twin_same": np.where(has_twin, annotations.category[twin_of] == annotations.category, False).astype(np.float64),
        "twin_better": np.where(has_twin, np.where(gain == 0, np.where(twin_of < np.arange(n), TIE, -TIE), gain), 0.0),
        "stolen": stolen,
    }


def _shape(boxes: Boxes, sizes: Floats, category_count: int) -> dict[str, NDArray[Any]]:
    """Size and shape against the category's median, size in the image, and the distance to its border."""
    side = np.maximum(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], 1e-3)
    log_side = np.log(side)
    middle = np.zeros((category_count, 2))
    for category in np.unique(boxes.category):
        middle[category] = np.median(log_side[boxes.category == category], axis=0)
    unusual = log_side - middle[boxes.category]
    image = np.maximum(sizes[boxes.image_index], 1.0)
    border = np.minimum(boxes.xyxy[:, :2], image - boxes.xyxy[:, 2:]).min(axis=1)
    return {
        "log_area": log_side.sum(axis=1),
        "unusual_width": unusual[:, 0],
        "unusual_height": unusual[:, 1],
        "share": box_area(boxes.xyxy) / image.prod(axis=1),
        "border": border / side.min(axis=1),
    }


def find_neighbours(detections: Boxes) -> Neighbours:
    """What the detections say about each other, for `find_candidates` and `compute_candidate_evidence`."""
    return compute_neighbours(detections, CANDIDATE_OVERLAP, MATCH_IOU)


def find_candidates(annotations: Boxes, detections: Boxes, neighbours: Neighbours | None = None) -> Ints:
    """Positions of the detections that may be overlooked objects: not covered by a stronger one and not explained by an annotation.

    Detections and annotations are matched one to one at IoU >= MATCH_IOU, strongest detection first, whatever the categories; what stays
    over is a candidate. A second detection on an annotated object is none, for the stronger one covers it. neighbours: of the
    detections, where they were found before.
    """
    kept = np.flatnonzero((neighbours or find_neighbours(detections)).strongest)
    strong = detections.without_vectors()[kept]
    score = np.asarray(strong.score)
    theirs, mine, iou = overlapping_pairs(strong, annotations, MATCH_IOU)
    taken = match_greedily(theirs, mine, score[theirs] + 1e-3 * iou)
    free = np.ones(len(strong), dtype=bool)
    free[theirs[taken]] = False
    return kept[free]


def compute_candidate_evidence(
    candidates: Ints,
    annotations: Boxes,
    detections: Boxes,
    sizes: Floats,
    category_count: int,
    neighbours: Neighbours | None = None,
) -> pl.DataFrame:
    """One row a candidate: how sure the detector is, what lies at the same place already, and how it does elsewhere.

    candidates: positions in `detections`; sizes (N, 2) width and height in pixels; neighbours: of the detections, where they were found
    before.
    """
    boxes = detections.without_vectors()[candidates]
    n = len(boxes)
    top = find_top_two(detections, candidates)
    mine, theirs, iou = overlapping_pairs(boxes, annotations, 0.0)
    shared = aligned_intersection(boxes.xyxy[mine], annotations.xyxy[theirs])
    same = boxes.category[mine] == annotations.category[theirs]
    score = np.asarray(detections.score)
    annotated_mine, annotated_theirs, _ = overlapping_pairs(annotations, detections, MATCH_IOU)
    agreement = max_per(
        annotated_mine,
        score[annotated_theirs] * (annotations.category[annotated_mine] == detections.category[annotated_theirs]),
        len(annotations),
    )
    per_category = np.maximum(np.bincount(annotations.category, minlength=category_count), 1)
    per_image = np.bincount(annotations.image_index, minlength=len(sizes))
    columns: dict[str, NDArray[Any]] = {
        "score": score[candidates],
        "margin": top.first_score - top.second_score,
        "total": top.total,
        "overlap": max_per(mine, iou, n),
        "overlap_same": max_per(mine[same], iou[same], n),
        "covered": max_per(mine, shared / np.maximum(box_area(boxes.xyxy[mine]), MIN_AREA), n),
        "covers": max_per(mine, shared / np.maximum(box_area(annotations.xyxy[theirs]), MIN_AREA), n),
        "support": (neighbours or find_neighbours(detections)).support[candidates],
        "crowd": per_image[boxes.image_index],
        "image_agreement": (sum_per(annotations.image_index, agreement, len(sizes)) / np.maximum(per_image, 1))[boxes.image_index],
        "habit": (sum_per(annotations.category, agreement, category_count) / per_category)[boxes.category],
    }
    return pl.DataFrame(columns | _shape(boxes, sizes, category_count))


def proposed_boxes(annotations: Boxes, detections: Boxes) -> Floats:
    """The box that the detections would have drawn for each annotation's own category: (n, 4) pixels, NaN where they drew none."""
    mine, theirs, iou = overlapping_pairs(annotations, detections, PAIR_IOU)
    same = scores_of(detections, theirs, annotations.category[mine])
    best = best_pair_per(mine, same * iou, len(annotations))
    anchor = detections.xyxy[_at(theirs, best)] if len(detections) else np.zeros((len(annotations), 4))
    agrees = aligned_iou(detections.xyxy[theirs], anchor[mine]) >= MATCH_IOU
    return mean_boxes(annotations, detections, mine, theirs, same * iou * agrees)
