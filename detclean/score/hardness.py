"""How undecided detectors are: about single boxes, about the objects that they see, about images; no label is needed for it.

One measure for all: the entropy of a model's score vector over the categories and the background, as a share of the largest there can
be. Of several models that look at the same object the entropy of their mean vector is the sum of two parts: their own mean entropy, and
how much they disagree (the Jensen-Shannon divergence; as "mutual information" in Houlsby et al. 2011, Bayesian active learning).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.score.evidence import PAIR_IOU, ROWS_AT_ONCE, find_top_two
from detclean.score.matching import best_pair_per, compute_neighbours, overlapping_pairs

SAME_OBJECT = 0.5  # IoU from which detections, of several models or of several categories, are of one object
LEAST_SCORE = 0.1  # of an object's most confident detection; chosen by scripts/measure_hardness.py among 0, 0.05, 0.1 and 0.25
VALUES = ("hardness", "entropy", "disagreement")


@dataclass(frozen=True)
class SeenObjects:
    """What models see, each object once however many see it: boxes (o) are the most confident detections, without vectors.

    entropy (o,): the models' own, on average; one that sees nothing there is sure of the background. disagreement (o,): NaN where only
    one model looks. category (o,) of the boxes is what the most confident model sees.
    """

    boxes: Boxes
    entropy: Floats
    disagreement: Floats

    @property
    def hardness(self) -> Floats:
        """(o,) 0..1, the sum of both: the entropy of the models' mean score vector."""
        total: Floats = self.entropy + np.nan_to_num(self.disagreement)
        return total


def compute_annotation_hardness(annotations: Boxes, detections: Boxes, category_count: int) -> Floats:
    """How undecided the detector is about each annotation: normalised entropy over the categories and the background, 0..1.

    Read from the score vector of the best-fitting detection; 1 where nothing was detected, for an annotated object that is not
    seen at all is as hard as can be.
    """
    top = find_top_two(detections)
    mine, theirs, iou = overlapping_pairs(annotations, detections, PAIR_IOU)
    best = best_pair_per(mine, top.first_score[theirs] * iou, len(annotations))
    seen: Mask = best >= 0
    hardness = np.ones(len(annotations))
    hardness[seen] = compute_entropy(detections, theirs[best[seen]], category_count)
    return hardness


def compute_entropy(detections: Boxes, rows: Ints, category_count: int) -> Floats:
    """Of the score vectors of the detections `rows` (r,), over each category and the background, as a share of the largest: 0..1."""
    entropy = np.zeros(len(rows))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chosen = rows[start : start + ROWS_AT_ONCE]
        entropy[start : start + len(chosen)] = _entropy(_shares(detections, chosen, category_count))
    return entropy


def find_objects(
    detections: Boxes, category_count: int, judges: Ints | None = None, judge_count: int | None = None, *, least: float = LEAST_SCORE
) -> SeenObjects:
    """The objects that models see, and how undecided these are. detections: sorted by image, with score.

    judges (d,): which of the models, counted from 0, made each detection, where all of them looked at the same images; judge_count: how
    many there are, if not said as many as are heard. least: score of an object's most confident detection.
    """
    score = np.asarray(detections.score, dtype=np.float64)
    judges = np.zeros(len(detections), np.int64) if judges is None else judges
    count = judge_count or (int(judges.max()) + 1 if len(judges) else 1)
    strong = np.flatnonzero(score >= least)
    strong = strong[compute_neighbours(detections.without_vectors()[strong], SAME_OBJECT, SAME_OBJECT).strongest]
    boxes = detections.without_vectors()[strong]
    rows = _find_opinions(detections.without_vectors(), boxes, judges, count)
    rows[np.arange(len(strong)), judges[strong]] = strong  # of several that lie exactly alike its own is meant
    total, own = np.zeros(len(strong)), np.zeros(len(strong))
    step = max(ROWS_AT_ONCE // count, 1)
    for start in range(0, len(strong), step):
        part = slice(start, start + step)
        seen = rows[part] >= 0
        shares = np.zeros((*seen.shape, max(category_count, 1) + 1))
        shares[..., -1] = 1.0
        shares[seen] = _shares(detections, rows[part][seen], category_count)
        total[part], own[part] = _entropy(shares.mean(axis=1)), _entropy(shares).mean(axis=1)
    return SeenObjects(boxes, own, np.clip(total - own, 0, None) if count > 1 else np.full(len(strong), np.nan))


def _find_opinions(detections: Boxes, objects: Boxes, judges: Ints, judge_count: int) -> Ints:
    """The most confident detection of each model at each object, -1 where it has none: (o, J) positions."""
    theirs, mine, iou = overlapping_pairs(detections, objects, SAME_OBJECT)
    nearest = best_pair_per(theirs, iou, len(detections))
    chosen = nearest[nearest >= 0]  # each detection speaks of one object
    theirs, mine = theirs[chosen], mine[chosen]
    best = best_pair_per(mine * judge_count + judges[theirs], np.asarray(detections.score)[theirs], len(objects) * judge_count)
    rows: Ints = np.full(len(best), -1, np.int64)
    rows[best >= 0] = theirs[best[best >= 0]]
    return rows.reshape(len(objects), judge_count)


def rank_images(objects: SeenObjects, image_count: int, category_count: int, annotations: Boxes | None = None) -> pl.DataFrame:
    """Images, hardest first: all of them, and once more for each category those in which it is seen or annotated.

    -> category (position, null for all), rank from 1, image_index, hardness, entropy, disagreement, objects. An image is as hard as its
    objects are on average; of a category, those that are seen as it or lie on an annotation of it. null, and last, where none is seen.
    """
    image, seen_as = objects.boxes.image_index, objects.boxes.category
    values = {"hardness": objects.hardness, "entropy": objects.entropy, "disagreement": objects.disagreement}
    table = pl.DataFrame({"image_index": image, **values}).with_columns(pl.col("disagreement").fill_nan(None))
    own = pl.DataFrame({"object": np.arange(len(image)), "category": seen_as})
    places = pl.DataFrame({"image_index": np.arange(image_count)}).with_columns(category=pl.lit(None, pl.Int64))
    named = pl.DataFrame({"image_index": image, "category": seen_as})
    if annotations is not None and len(annotations):
        mine, theirs, _ = overlapping_pairs(objects.boxes, annotations, SAME_OBJECT)
        own = pl.concat([own, pl.DataFrame({"object": mine, "category": annotations.category[theirs]})]).unique(maintain_order=True)
        named = pl.concat([named, pl.DataFrame({"image_index": annotations.image_index, "category": annotations.category})])
    per_category = own.hstack(table[own["object"].to_numpy()]).drop("object")
    whole = table.with_columns(category=pl.lit(None, pl.Int64))
    means = (
        pl.concat([whole.select(per_category.columns), per_category])
        .group_by("category", "image_index")
        .agg(*(pl.col(name).mean() for name in VALUES), pl.len().cast(pl.Int64).alias("objects"))
    )
    wanted = pl.concat([places, named.unique().select(places.columns)])
    ranked = wanted.join(means, on=["category", "image_index"], how="left", nulls_equal=True).with_columns(pl.col("objects").fill_null(0))
    ranked = ranked.filter(pl.col("category").is_null() | (pl.col("category") < category_count))
    ranked = ranked.sort(["category", "hardness", "image_index"], descending=[False, True, False], nulls_last=[False, True, False])
    return ranked.select("category", pl.int_range(1, pl.len() + 1).over("category").alias("rank"), "image_index", *VALUES, "objects")


def _shares(detections: Boxes, rows: Ints, category_count: int) -> Floats:
    """The score vectors of detections (r,) with the background behind them, each adding up to 1: (r, K + 1)."""
    if detections.class_scores is not None:
        scores = detections.class_scores[rows].astype(np.float64)
    else:  # brought without vectors: its category or none
        scores = np.zeros((len(rows), max(category_count, 1)))
        scores[np.arange(len(rows)), detections.category[rows]] = np.asarray(detections.score)[rows]
    shares = np.concatenate([scores, 1 - scores.max(axis=1, keepdims=True)], axis=1)
    whole: Floats = shares / shares.sum(axis=1, keepdims=True)
    return whole


def _entropy(shares: Floats) -> Floats:
    """(..., K + 1) -> (...), 0..1."""
    clipped = np.clip(shares, 1e-12, 1)
    entropy: Floats = -(clipped * np.log(clipped)).sum(axis=-1) / np.log(shares.shape[-1])
    return np.clip(entropy, 0, 1)
