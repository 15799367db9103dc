"""Self-calibration: how far this detector may be believed on this data set, learnt from errors planted after training.

The out-of-fold detections never saw the labels of their images. So the annotations can be corrupted in every known way, again and again, at
no training cost; a model that tells the planted errors from the rest by their evidence is then applied to the labels as given.
It is cross-fitted by image: no annotation is judged by a model that saw its image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.score.evidence import MATCH_IOU, compute_annotation_evidence, compute_candidate_evidence, find_candidates
from detclean.score.matching import best_pair_per, overlapping_pairs
from detclean.score.planting import plant_errors
from detclean.score.rules import score_annotations_by_rules, score_candidates_by_rules

ANNOTATION_TYPES = ("badloc", "swap", "spurious", "duplicate")
PLANTING_RATE = 0.06  # of the annotations, each type: enough to learn from, too few to change what an image looks like
ROWS_WANTED = 16_000  # planting rounds go on until the models have about this many rows to learn from
MIN_ANNOTATIONS = 60  # with fewer there is nothing to learn from, and the rules decide
BOOSTING = {
    "max_iter": 60,
    "learning_rate": 0.12,
    "max_leaf_nodes": 12,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
BINS = 128  # of each column of evidence
CROSS_FITS = 4  # parts of the images, each judged by a model that saw the others only
DOUBTFUL_SHARE = 0.25  # of labels wrong in one way: a share this large says rather that the detector cannot tell, and is believed by half
DOUBTFUL_CANDIDATES = 0.6  # the same of candidates, most of which may well be objects where only confident detections are given
LEAST_WEIGHT = 0.02  # of an example that is surely wrong, in the second fit
SPURIOUS_FLOOR = 0.01  # share of spurious boxes that is believed where the other types are rarer still
TAILS = (0.1, 0.8)  # quantiles of the planted between which tails are compared; beyond, too few rows decide
LEEWAY = 0.7  # standard errors of a count; on simulated data with 0 to 10 % planted the shares come out nearest the truth with it
THREADS = 1  # of the models' own: they are small, and more only wait for each other where the machine is busy
POSITIONS = ("other_category", "twin")  # columns of the evidence that are names, not quantities


@dataclass(frozen=True)
class Probabilities:
    """annotations: issue type -> (n,) probability; candidates (m,), positions in the detections, and their probability (m,).

    evidence and candidate_evidence: the rows that were judged. calibrated is False where the rules decided because there was too
    little to learn from.
    """

    annotations: dict[str, Floats]
    candidates: Ints
    overlooked: Floats
    evidence: pl.DataFrame
    candidate_evidence: pl.DataFrame
    calibrated: bool


@dataclass(frozen=True)
class _Examples:
    """Rows to learn from: evidence (r, f), target (r,) 0 for as given and 1.. for planted, image (r,), and which given row it is (r,),
    -1 for none."""

    evidence: Floats
    target: Ints
    image: Ints
    given: Ints


def compute_probabilities(
    annotations: Boxes,
    detections: Boxes,
    sizes: Floats,
    category_count: int,
    *,
    rounds: int = 40,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probabilities:
    """A probability of being wrong per type for every annotation, and of being overlooked for every candidate.

    sizes (N, 2) width and height in pixels. Crowd annotations explain detections but are never judged: leave them out of what is
    reported. Falls back to rules where there are fewer than MIN_ANNOTATIONS annotations or detections, or fewer annotated images than
    CROSS_FITS.
    """
    given = compute_annotation_evidence(annotations, detections, sizes, category_count)
    candidates = find_candidates(annotations, detections)
    given_candidates = compute_candidate_evidence(candidates, annotations, detections, sizes, category_count)
    too_little = len(annotations) < MIN_ANNOTATIONS or len(detections) < MIN_ANNOTATIONS
    if too_little or len(np.unique(annotations.image_index)) < CROSS_FITS:
        by_rules, candidates_by_rules = score_annotations_by_rules(given), score_candidates_by_rules(given_candidates)
        return Probabilities(by_rules, candidates, candidates_by_rules, given, given_candidates, calibrated=False)

    rng = np.random.default_rng(seed)
    rounds = int(np.clip(ROWS_WANTED // len(annotations), 1, rounds))
    folds = _deal_images(annotations.image_index, len(sizes), rng)
    rows, candidate_rows = [], []
    for i in range(rounds):
        one, other = _plant_round(annotations, candidates, detections, sizes, category_count, rng)
        rows.append(one)
        candidate_rows.append(other)
        progress(i + 1, rounds)
    boxes = _judge(_join(rows), given, annotations.image_index, folds, ANNOTATION_TYPES)
    objects = _judge(_join(candidate_rows), given_candidates, detections.image_index[candidates], folds, ("overlooked",))
    per_type = {kind: boxes[:, 1 + i] for i, kind in enumerate(ANNOTATION_TYPES)}
    return Probabilities(per_type, candidates, objects[:, 1], given, given_candidates, calibrated=True)


def _deal_images(annotated: Ints, image_count: int, rng: np.random.Generator) -> Ints:
    """The cross-fit of every image (N,): dealt out in turn, annotated images first, so that no part is without examples."""
    order = rng.permutation(image_count)
    order = order[np.argsort(~np.isin(order, annotated), kind="stable")]
    folds = np.empty(image_count, dtype=np.int64)
    folds[order] = np.arange(image_count) % CROSS_FITS
    return folds


def _plant_round(
    annotations: Boxes, given_candidates: Ints, detections: Boxes, sizes: Floats, category_count: int, rng: np.random.Generator
) -> tuple[_Examples, _Examples]:
    """Errors planted once: examples for the annotations' model and for the candidates'."""
    rates = dict.fromkeys((*ANNOTATION_TYPES, "overlooked"), PLANTING_RATE)
    planted = plant_errors(annotations, sizes, category_count, rates, rng)
    context = planted.annotations
    evidence = compute_annotation_evidence(context, detections, sizes, category_count)
    code = {"": 0} | {kind: 1 + i for i, kind in enumerate(ANNOTATION_TYPES)}
    target = np.array([code[kind] for kind in planted.kind.tolist()], dtype=np.int64)
    boxes = _Examples(_matrix(evidence), target, context.image_index, np.where(target == 0, planted.origin, -1))

    candidates = find_candidates(context, detections)
    claimed = _claim(annotations[planted.removed], detections[candidates])
    candidate_evidence = compute_candidate_evidence(candidates, context, detections, sizes, category_count)
    given = np.searchsorted(given_candidates, candidates)
    known = np.isin(candidates, given_candidates) & ~claimed
    objects = _Examples(
        _matrix(candidate_evidence), claimed.astype(np.int64), detections.image_index[candidates], np.where(known, given, -1)
    )
    return boxes, objects


def _claim(removed: Boxes, candidates: Boxes) -> Mask:
    """Which candidates sit on a removed annotation: for each the strongest one with IoU >= MATCH_IOU. -> (m,)"""
    claimed = np.zeros(len(candidates), bool)
    mine, theirs, _ = overlapping_pairs(removed, candidates, MATCH_IOU)
    best = best_pair_per(mine, np.asarray(candidates.score)[theirs], len(removed))
    claimed[theirs[best[best >= 0]]] = True
    return claimed


def _matrix(evidence: pl.DataFrame) -> Floats:
    matrix: Floats = evidence.select(pl.all().exclude(*POSITIONS).cast(pl.Float64)).to_numpy()
    return matrix


def _join(parts: list[_Examples]) -> _Examples:
    return _Examples(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("evidence", "target", "image", "given")))


def _judge(examples: _Examples, given: pl.DataFrame, image: Ints, folds: Ints, kinds: tuple[str, ...]) -> Floats:
    """Class probabilities of the given rows (n, 1 + kinds): "nothing wrong", then each of the issue types `kinds`.

    The examples called right hold real errors too. So with the share e of real errors of a type, f the density of planted ones and g
    that of the labels as given, the probability of being wrong is e f / g, and f / g is what the first classifier's odds say. The second
    learns from right examples weighted by the probability that they are, which sharpens the order near the top.
    """
    classes = 1 + len(kinds)
    matrix = _bin_columns(_matrix(given), examples.evidence)
    examples = replace(examples, evidence=_bin_columns(examples.evidence, examples.evidence))
    prior = np.bincount(examples.target, minlength=classes) / max(len(examples.target), 1)
    weight = np.ones(len(examples.target))
    judged, planted = _fit_and_apply(examples, weight, matrix, image, folds, classes)
    ratio, planted_ratio = _density_ratio(judged, prior), _density_ratio(planted, prior)
    largest = np.array([_largest_share(ratio[:, k], planted_ratio[examples.target == k + 1, k]) for k in range(classes - 1)])
    share = _believe(largest, kinds)
    first = _normalise(ratio * share)
    known = examples.given >= 0
    weight[known] = np.maximum(first[examples.given[known], 0], LEAST_WEIGHT)
    prior = np.bincount(examples.target, weights=weight, minlength=classes) / max(weight.sum(), 1e-9)
    sharper = _density_ratio(_fit_and_apply(examples, weight, matrix, image, folds, classes)[0], prior)
    odds = np.concatenate([np.full((len(matrix), 1), max(1 - share.sum(), 1e-3)), sharper * share], axis=1)
    probability: Floats = odds / odds.sum(axis=1, keepdims=True)
    return probability


def _believe(largest: Floats, kinds: tuple[str, ...]) -> Floats:
    """The share of each type that is believed, of the largest that is possible: (kinds,) -> (kinds,)."""
    doubtful = DOUBTFUL_CANDIDATES if kinds == ("overlooked",) else DOUBTFUL_SHARE
    share: Floats = largest / (1 + (largest / doubtful) ** 3)
    if "spurious" in kinds:  # what a detector merely misses looks like a spurious box: no other evidence bounds their share
        spurious = kinds.index("spurious")
        share[spurious] = min(share[spurious], max(SPURIOUS_FLOOR, float(np.delete(share, spurious).mean())))
    return share


def _bin_columns(matrix: Floats, examples: Floats) -> Floats:
    """Each value's place among the column's quantiles in the examples: (n, f), (r, f) -> (n, f). NaN stays.

    The classifier would bin the same way, but as soon as examples have weights it takes longer for that than for all of its trees.
    """
    binned = np.full(matrix.shape, np.nan)
    for column in range(matrix.shape[1]):
        told = ~np.isnan(matrix[:, column])
        if len(values := examples[~np.isnan(examples[:, column]), column]):
            edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
            binned[told, column] = np.searchsorted(edges, matrix[told, column])
    return binned


def _fit_and_apply(examples: _Examples, weight: Floats, matrix: Floats, image: Ints, folds: Ints, classes: int) -> tuple[Floats, Floats]:
    """What a classifier fitted on other images says of the given rows (n, classes) and of the examples (r, classes)."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    planted, judged = np.zeros((len(examples.target), classes)), np.zeros((len(matrix), classes))
    planted[:, 0] = judged[:, 0] = 1.0
    for fold in range(CROSS_FITS):
        learn, judge = folds[examples.image] != fold, folds[image] == fold
        present = np.unique(examples.target[learn])
        if len(present) < 2 or 0 not in present:
            continue
        told = ~np.isnan(examples.evidence[learn]).all(axis=0)  # the model cannot be fitted to a column without any value
        model = HistGradientBoostingClassifier(**BOOSTING)
        with threadpool_limits(THREADS, "openmp"):
            model.fit(examples.evidence[learn][:, told], examples.target[learn], sample_weight=weight[learn])
            if judge.any():
                judged[np.ix_(judge, present)] = model.predict_proba(matrix[judge][:, told])
            if not learn.all():
                planted[np.ix_(~learn, present)] = model.predict_proba(examples.evidence[~learn][:, told])
    return judged, planted


def _density_ratio(probability: Floats, prior: Floats) -> Floats:
    """Density of each planted type over that of "as given": (n, classes) -> (n, classes - 1)."""
    odds: Floats = probability[:, 1:] / np.maximum(probability[:, :1], 1e-9)
    ratio: Floats = odds * prior[0] / np.maximum(prior[1:], 1e-9)
    return ratio


def _normalise(wrong: Floats) -> Floats:
    wrong = np.clip(wrong, 0, 1)
    wrong = wrong / np.maximum(wrong.sum(axis=1, keepdims=True), 1.0)
    shares: Floats = np.concatenate([1 - wrong.sum(axis=1, keepdims=True), wrong], axis=1)
    return shares


def _largest_share(given: Floats, planted: Floats) -> float:
    """The largest share of `given` (n,) that may be distributed as `planted` (p,): the least ratio of their tails above any threshold.

    The estimate of a mixture's proportion of Scott (AISTATS 2015): a larger share would put more rows above that threshold than there are.
    Few rows lie in a tail, and the least of many noisy ratios is too small, so each count is raised by LEEWAY. The estimate is never 0
    where a type was planted: that would leave nothing of the type's order.
    """
    if len(planted) < 5 or len(given) < 5:
        return 0.0
    thresholds = np.quantile(planted, np.linspace(*TAILS, 33))
    above_given = (given[:, None] >= thresholds).sum(axis=0)
    above_planted = (planted[:, None] >= thresholds).mean(axis=0)
    return float(((above_given + LEEWAY * np.sqrt(above_given + 1)) / (len(given) * above_planted)).min())
