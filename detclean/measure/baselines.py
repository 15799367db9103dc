"""What else finds wrong labels, each on the same out-of-fold detections as detclean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detclean.boxes import Boxes, Floats, Ints
from detclean.dataset import Dataset
from detclean.measure.opinion import ANY, Opinion, combine
from detclean.score.calibration import ANNOTATION_TYPES
from detclean.score.evidence import compute_annotation_evidence, compute_candidate_evidence, find_candidates, scores_of
from detclean.score.matching import best_pair_per, match_greedily, max_per, overlapping_pairs
from detclean.score.objectlab import compute_objectlab_scores
from detclean.score.rules import score_annotations_by_rules, score_candidates_by_rules

MATCH_IOU = 0.5  # of all of these methods
FIFTYONE_MISSING = 0.95  # FiftyOne, compute_mistakenness: confidence_thresh of unmatched detections


def compute_baselines(dataset: Dataset, detections: Boxes, *, seed: int = 0) -> dict[str, Opinion]:
    """Every baseline's opinion by its name. Annotations without crowds; detections with score, sorted by image."""
    score = np.asarray(detections.score, dtype=np.float64)
    methods: dict[str, Callable[[], Opinion]] = {
        "ObjectLab as published": lambda: judge_by_objectlab(dataset, detections, score),
        "ObjectLab, precision": lambda: judge_by_objectlab(dataset, detections, calibrate_to_precision(dataset.annotations, detections)),
        "ObjectLab, stretched": lambda: judge_by_objectlab(dataset, detections, None),
        "FiftyOne mistakenness": lambda: judge_by_mistakenness(dataset, detections),
        "CLOD": lambda: judge_by_clusters(dataset, detections),
        "detector confidence": lambda: judge_by_confidence(dataset, detections),
        "plain rules": lambda: judge_by_rules(dataset, detections),
        "random order": lambda: judge_at_random(dataset, detections, np.random.default_rng(seed)),
    }
    return {name: method() for name, method in methods.items()}


def judge_by_objectlab(dataset: Dataset, detections: Boxes, confidences: Floats | None) -> Opinion:
    """cleanlab's ObjectLab (arXiv 2309.00832) fed with `confidences` (m,), or with stretched ones. any: the worse of swap and badloc.

    A box that it gives no score is as good as one of score 1.
    """
    found = compute_objectlab_scores(dataset.annotations, detections, dataset.image_count, len(dataset.categories), confidences=confidences)
    swap, badloc = (1 - np.nan_to_num(quality, nan=1.0) for quality in (found.swap, found.badloc))
    proposed = ~np.isnan(found.overlooked)
    candidates = _take(detections[proposed], 1 - found.overlooked[proposed])
    return combine({"swap": swap, "badloc": badloc, ANY: np.maximum(swap, badloc)}, candidates, dataset, 1 - found.image)


def _take(boxes: Boxes, score: Floats) -> Boxes:
    """The boxes alone, with another score."""
    return Boxes(boxes.image_index, boxes.category, boxes.xyxy, score=score.astype(np.float64))


def calibrate_to_precision(annotations: Boxes, detections: Boxes) -> Floats:
    """Each detection's confidence as the precision of detections like it: (m,).

    Isotonic regression of "matches an annotation of its category at IoU >= MATCH_IOU, one to one, surest first" on the confidence.
    """
    from sklearn.isotonic import IsotonicRegression

    score = np.asarray(detections.score, dtype=np.float64)
    theirs, mine, iou = overlapping_pairs(detections, annotations, MATCH_IOU)
    agree = detections.category[theirs] == annotations.category[mine]
    theirs, mine, iou = theirs[agree], mine[agree], iou[agree]
    matched = np.zeros(len(detections), bool)
    matched[theirs[match_greedily(theirs, mine, _surest_first(theirs, score, iou))]] = True
    if not len(score):
        return score
    precision: Floats = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit_transform(score, matched.astype(np.float64))
    return precision


def _surest_first(detection: Ints, score: Floats, iou: Floats) -> Floats:
    """The strength of pairs for greedy matching: surest detection first, of its pairs the best overlap. (p,), (m,), (p,) -> (p,)"""
    strength = np.empty(len(detection))
    strength[np.lexsort((-iou, detection, -score[detection]))] = -np.arange(len(detection))
    return strength


def judge_by_mistakenness(dataset: Dataset, detections: Boxes) -> Opinion:
    """FiftyOne's compute_mistakenness: detections are matched to annotations of any category at MATCH_IOU, surest first.

    Matched, with confidence c: swap (m c + 1) / 2 where m is -1 if the categories agree, else 1; badloc (c (2 i - 1) + 1) / 2 where
    i = (1 - IoU) / 0.5. Unmatched: spurious. any: the largest. An unmatched detection above FIFTYONE_MISSING is missing.
    """
    annotations, score = dataset.annotations, np.asarray(detections.score, dtype=np.float64)
    theirs, mine, iou = overlapping_pairs(detections, annotations, MATCH_IOU)
    taken = match_greedily(theirs, mine, _surest_first(theirs, score, iou))
    theirs, mine, iou = theirs[taken], mine[taken], iou[taken]
    n, confidence = len(annotations), score[theirs]
    swap, badloc, spurious = np.zeros(n), np.zeros(n), np.ones(n)
    swap[mine] = (np.where(detections.category[theirs] == annotations.category[mine], -1, 1) * confidence + 1) / 2
    badloc[mine] = (confidence * (2 * (1 - iou) / (1 - MATCH_IOU) - 1) + 1) / 2
    spurious[mine] = 0
    missing = score > FIFTYONE_MISSING
    missing[theirs] = False
    per_type = {"swap": swap, "badloc": badloc, "spurious": spurious, ANY: np.maximum.reduce([swap, badloc, spurious])}
    return combine(per_type, _take(detections[missing], score[missing]), dataset)


def judge_by_clusters(dataset: Dataset, detections: Boxes) -> Opinion:
    """CLOD (arXiv 2211.13993): annotations and detections that overlap are one cluster, judged by cleanlab's multilabel quality score.

    A cluster (single linkage at MATCH_IOU) has the categories of its annotations as labels, background without any, and for each category
    the highest confidence, background 1 where nothing was detected. Its type follows from what is in it: annotations only: spurious;
    detections only: overlooked; all of one category: badloc; several: swap. Another type than the cluster's own scores 0, and any is
    the cluster's score whatever its type. The surest detection of a cluster stands for an overlooked object.
    """
    from cleanlab.multilabel_classification import get_label_quality_scores

    annotations, score = dataset.annotations, np.asarray(detections.score, dtype=np.float64)
    n, background = len(annotations), len(dataset.categories)
    cluster, count = _cluster(annotations, detections)
    own, other = cluster[:n], cluster[n:]
    shares = np.zeros((count, background + 1))
    np.maximum.at(shares, (other, detections.category), score)
    shares[shares.max(axis=1) == 0, background] = 1.0
    given, seen = np.zeros((count, background + 1), bool), np.zeros((count, background), bool)
    given[own, annotations.category] = True
    seen[other, detections.category] = True
    given[~given.any(axis=1), background] = True
    labels = [np.flatnonzero(row).tolist() for row in given]
    wrong = 1 - np.asarray(get_label_quality_scores(labels, shares)) if count else np.zeros(0)
    detected, annotated = seen.any(axis=1), ~given[:, background]
    several = (given[:, :background] | seen).sum(axis=1) > 1
    type_of = np.select([~annotated, ~detected, several], ["overlooked", "spurious", "swap"], "badloc")
    per_type = {kind: np.where(type_of[own] == kind, wrong[own], 0.0) for kind in ("swap", "badloc", "spurious")}
    alone = best_pair_per(other, score, count)
    alone = np.sort(alone[(alone >= 0) & (type_of == "overlooked")])
    return combine(per_type | {ANY: wrong[own]}, _take(detections[alone], wrong[other[alone]]), dataset)


def _cluster(annotations: Boxes, detections: Boxes) -> tuple[Ints, int]:
    """The cluster of every annotation and, after them, every detection: (n + m,), and how many there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    boxes = Boxes(
        np.concatenate([annotations.image_index, detections.image_index])[order := _by_image(annotations, detections)],
        np.concatenate([annotations.category, detections.category])[order],
        np.concatenate([annotations.xyxy, detections.xyxy])[order],
    )
    first, second, _ = overlapping_pairs(boxes, boxes, MATCH_IOU)
    links = coo_array((np.ones(len(first), bool), (order[first], order[second])), shape=(len(boxes), len(boxes)))
    count, cluster = connected_components(links, directed=False)
    return cluster.astype(np.int64), int(count)


def _by_image(annotations: Boxes, detections: Boxes) -> Ints:
    return np.argsort(np.concatenate([annotations.image_index, detections.image_index]), kind="stable")


def judge_by_confidence(dataset: Dataset, detections: Boxes) -> Opinion:
    """The detector's confidence alone: how little it sees of the given category here. One order for every type that it can know of.

    An overlooked object is a detection that no annotation explains, by its confidence.
    """
    annotations = dataset.annotations
    mine, theirs, _ = overlapping_pairs(annotations, detections, MATCH_IOU)
    same = scores_of(detections, theirs, annotations.category[mine])
    doubt = 1 - max_per(mine, same, len(annotations))
    candidates = detections[find_candidates(annotations, detections)]
    per_type = dict.fromkeys(("swap", "badloc", "spurious", ANY), doubt)
    return combine(per_type, _take(candidates, np.asarray(candidates.score)), dataset)


def judge_by_rules(dataset: Dataset, detections: Boxes) -> Opinion:
    """detclean's plain rules, without anything learnt. any: the largest of the types."""
    annotations, sizes, count = dataset.annotations, dataset.sizes, len(dataset.categories)
    per_type = score_annotations_by_rules(compute_annotation_evidence(annotations, detections, sizes, count))
    positions = find_candidates(annotations, detections)
    score = score_candidates_by_rules(compute_candidate_evidence(positions, annotations, detections, sizes, count))
    return combine(per_type | {ANY: np.maximum.reduce(list(per_type.values()))}, _take(detections[positions], score), dataset)


def judge_at_random(dataset: Dataset, detections: Boxes, rng: np.random.Generator) -> Opinion:
    """A random order of the annotations, of the candidates and of the images: what chance finds."""
    n = len(dataset.annotations)
    candidates = detections[find_candidates(dataset.annotations, detections)]
    per_type = {kind: rng.random(n) for kind in (*ANNOTATION_TYPES, ANY)}
    return combine(per_type, _take(candidates, rng.random(len(candidates))), dataset, rng.random(dataset.image_count))
