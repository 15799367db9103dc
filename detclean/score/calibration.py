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
from detclean.score.boosting import CROSS_FITS, Examples, deal_images, fit_ratio, models_as_json
from detclean.score.evidence import MATCH_IOU, find_candidates
from detclean.score.looks import draw_round
from detclean.score.matching import best_pair_per, overlapping_pairs
from detclean.score.rules import score_annotations_by_rules, score_candidates_by_rules
from detclean.score.sources import (
    INDEPENDENT,
    NAMES,
    SECOND_OPINION,
    Sources,
    gather_annotation_evidence,
    gather_candidate_evidence,
    leave_out_blind,
)

ANNOTATION_TYPES = ("badloc", "swap", "spurious", "duplicate")
PLANTING_RATE = 0.06  # of the annotations, each type: enough to learn from, too few to change what an image looks like
ROWS_WANTED = 16_000  # planting rounds go on until the models have about this many rows to learn from
MOST_ROWS = 40_000  # given rows that models learn from, where there are more; more find hardly anything (docs/performance.md)
MIN_ANNOTATIONS = 60  # with fewer there is nothing to learn from, and the rules decide
DOUBTFUL_SHARE = 0.25  # of labels wrong in one way: a share this large says rather that the detector cannot tell, and is believed by half
DOUBTFUL_CANDIDATES = 0.6  # the same of candidates, most of which may well be objects where only confident detections are given
LEAST_WEIGHT = 0.02  # of an example that is surely wrong, in the second fit
SPURIOUS_FLOOR = 0.01  # share of spurious boxes that is believed where the other types are rarer still
TAILS = (0.1, 0.5)  # quantiles of the planted between which tails are compared; few real errors are as plain as the plainest planted
LEEWAY = 0.35  # standard errors of a count by which it is raised: the least of many noisy ratios is too small
BELIEVED = {"badloc": 0.6, "swap": 0.6}  # of the largest share: detectors misplace and confuse by themselves what is right but hard

# More of it speaks for an error (1), or less does (-1). Other columns may speak either way.
DIRECTIONS = {
    "badloc": {"off_most": 1, "same_70": -1},
    "swap": {"other_50": 1, "same_50": -1, "raw_other_50": 1, "raw_same_50": -1, "raw_target_loss": 1, "raw_other_loss": -1},
    "spurious": {"same_30": -1, "same_50": -1, "fit": -1, "raw_total_same": -1, "raw_target_loss": 1},
    "duplicate": {"twin_iou": 1},
    "overlooked": {"score": 1, "raw_total_same": 1},
}


@dataclass(frozen=True)
class Probabilities:
    """annotations: issue type -> (n,) probability; candidates (m,), positions in the detections, and their probability (m,).

    evidence and candidate_evidence: the rows that were judged. calibrated is False where the rules decided because there was too
    little to learn from; document holds what was learnt, as JSON.
    """

    annotations: dict[str, Floats]
    candidates: Ints
    overlooked: Floats
    evidence: pl.DataFrame
    candidate_evidence: pl.DataFrame
    calibrated: bool
    document: bytes = b"{}"


def compute_probabilities(
    sources: Sources,
    *,
    rounds: int = 40,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Probabilities:
    """A probability of being wrong per type for every annotation, and of being overlooked for every candidate.

    Falls back to rules where there are fewer than MIN_ANNOTATIONS annotations or detections, or fewer annotated images than CROSS_FITS.
    """
    looks, detections = sources.looks, sources.detections
    rows = looks.given
    annotations = looks.boxes[rows]
    given = gather_annotation_evidence(sources, rows)
    candidates = find_candidates(annotations, detections, sources.neighbours)
    given_candidates = gather_candidate_evidence(sources, candidates, annotations)
    too_little = len(annotations) < MIN_ANNOTATIONS or len(detections) < MIN_ANNOTATIONS
    if too_little or len(np.unique(annotations.image_index)) < CROSS_FITS:
        by_rules, candidates_by_rules = score_annotations_by_rules(given), score_candidates_by_rules(given_candidates)
        return Probabilities(by_rules, candidates, candidates_by_rules, given, given_candidates, calibrated=False)

    rng = np.random.default_rng(seed)
    rounds = int(np.clip(ROWS_WANTED // len(annotations), 1, rounds))
    folds = deal_images(annotations.image_index, len(sources.sizes), rng)
    of_boxes, of_objects = [], []
    for i in range(rounds):
        boxes, objects = _plant_round(sources, candidates, rng)
        of_boxes.append(boxes)
        of_objects.append(objects)
        progress(i + 1, rounds)
    lessons, image = Examples.join(of_boxes), annotations.image_index
    told = leave_out_blind(given, annotations.category, sources.gathered.blind)
    columns = _numbers(given).columns
    judges = [[name for name in columns if not name.startswith(SECOND_OPINION)]]
    if len(judges[0]) < len(columns):  # joined in one model the second would be believed too much: it was trained on the wrong labels
        judges.append([name for name in columns if name.startswith(SECOND_OPINION) or name in INDEPENDENT])
    opinions = [
        _judge(replace(lessons, evidence=lessons.evidence.select(own)), told.select(own), image, folds, ANNOTATION_TYPES) for own in judges
    ]
    judged, document = np.mean([opinion for opinion, _ in opinions], axis=0), b", ".join(text for _, text in opinions)
    objects_judged, object_document = _judge(
        Examples.join(of_objects), given_candidates, detections.image_index[candidates], folds, ("overlooked",)
    )
    per_type = {kind: judged[:, 1 + i] for i, kind in enumerate(ANNOTATION_TYPES)}
    learnt = b'{"annotations": [' + document + b'], "candidates": ' + object_document + b"}"
    return Probabilities(per_type, candidates, objects_judged[:, 1], given, given_candidates, calibrated=True, document=learnt)


def _plant_round(sources: Sources, given_candidates: Ints, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """Errors planted once: examples for the annotations' models and for the candidates'."""
    looks, detections = sources.looks, sources.detections
    planted = draw_round(looks, dict.fromkeys((*ANNOTATION_TYPES, "overlooked"), PLANTING_RATE), rng)
    context = looks.boxes[planted.rows]
    code = {"": 0} | {kind: 1 + i for i, kind in enumerate(ANNOTATION_TYPES)}
    target = np.array([code[kind] for kind in looks.kind[planted.rows].tolist()], dtype=np.int64)
    known = np.where(target == 0, looks.annotation[planted.rows], -1)
    evidence = leave_out_blind(gather_annotation_evidence(sources, planted.rows), context.category, sources.gathered.blind)
    boxes = Examples(_numbers(evidence), target, context.image_index, known)

    candidates = find_candidates(context, detections, sources.neighbours)
    claimed = _claim(looks.boxes[looks.given[planted.removed]], detections.without_vectors()[candidates])
    evidence = gather_candidate_evidence(sources, candidates, context)
    given = np.searchsorted(given_candidates, candidates)
    known = np.where(np.isin(candidates, given_candidates) & ~claimed, given, -1)
    return boxes, Examples(_numbers(evidence), claimed.astype(np.int64), detections.image_index[candidates], known)


def _claim(removed: Boxes, candidates: Boxes) -> Mask:
    """Which candidates sit on a removed annotation: for each the strongest one with IoU >= MATCH_IOU. -> (m,)"""
    claimed = np.zeros(len(candidates), bool)
    mine, theirs, _ = overlapping_pairs(removed, candidates, MATCH_IOU)
    best = best_pair_per(mine, np.asarray(candidates.score)[theirs], len(removed))
    claimed[theirs[best[best >= 0]]] = True
    return claimed


def _numbers(evidence: pl.DataFrame) -> pl.DataFrame:
    return evidence.select(pl.all().exclude(*NAMES).cast(pl.Float32))


def _judge(examples: Examples, given: pl.DataFrame, image: Ints, folds: Ints, kinds: tuple[str, ...]) -> tuple[Floats, bytes]:
    """Probabilities of the given rows (n, 1 + kinds), "nothing wrong" and each of the issue types `kinds`, and what was learnt.

    The examples called right hold real errors too. So with the share e of real errors of a type, f the density of planted ones and g
    that of the labels as given, the probability of being wrong is e f / g, and f / g is what the first models say. The second ones
    learn from right examples weighted by the probability that they are, which sharpens the order near the top.
    """
    given = _numbers(given)
    chosen, drawn = _draw_rows(examples, len(given))
    examples, told, told_image = examples[drawn], given[chosen], image[chosen]
    weight = np.ones(len(examples.target))

    def fit(kind: int, judged: pl.DataFrame, judged_image: Ints) -> tuple[list[str], Floats, Floats]:
        fitted = fit_ratio(examples, kind + 1, judged, judged_image, folds, weight=weight, directions=DIRECTIONS[kinds[kind]])
        return fitted.models, fitted.ratio, fitted.planted[examples.target == kind + 1]

    first = [fit(kind, told, told_image) for kind in range(len(kinds))]
    largest = np.array([_largest_share(ratio, planted) for _, ratio, planted in first])
    share = _believe(largest, kinds)
    right = np.ones(len(given))
    right[chosen] -= np.minimum((np.stack([ratio for _, ratio, _ in first], axis=1) * share).sum(axis=1), 1.0)
    known = examples.given >= 0
    weight[known] = np.maximum(right[examples.given[known]], LEAST_WEIGHT)
    second = [fit(kind, given, image) for kind in range(len(kinds))]
    odds = np.stack(
        [np.full(len(given), max(1 - share.sum(), 1e-3)), *(e * ratio for e, (_, ratio, _) in zip(share, second, strict=True))], axis=1
    )
    probability: Floats = odds / odds.sum(axis=1, keepdims=True)
    shares = {kind: float(e) for kind, e in zip(kinds, share, strict=True)}
    return probability, models_as_json(given.columns, shares, {kind: models for kind, (models, _, _) in zip(kinds, second, strict=True)})


def _draw_rows(examples: Examples, given_count: int) -> tuple[Ints, Ints]:
    """Of many rows a share to learn from: positions of the given ones that are looked at first, and of the examples, ascending.

    All that was planted stays; of the rows as given so many as belong to MOST_ROWS of the given ones.
    """
    rng = np.random.default_rng(given_count)
    share = min(1.0, MOST_ROWS / max(given_count, 1))
    chosen = np.ones(given_count, bool) if share == 1 else rng.random(given_count) < share
    kept = np.where(examples.given >= 0, chosen[examples.given] if given_count else False, rng.random(len(examples.given)) < share)
    return np.flatnonzero(chosen), np.flatnonzero(kept | (examples.target > 0))


def _believe(largest: Floats, kinds: tuple[str, ...]) -> Floats:
    """The share of each type that is believed, of the largest that is possible: (kinds,) -> (kinds,)."""
    doubtful = DOUBTFUL_CANDIDATES if kinds == ("overlooked",) else DOUBTFUL_SHARE
    share: Floats = largest / (1 + (largest / doubtful) ** 3)
    discount = np.array([BELIEVED.get(kind, 1.0) for kind in kinds])
    if "spurious" in kinds:  # what a detector merely misses looks like a spurious box: no other evidence bounds their share
        spurious = kinds.index("spurious")
        share[spurious] = min(share[spurious], max(SPURIOUS_FLOOR, float(np.delete(share, spurious).mean())))
    believed: Floats = share * discount
    return believed


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
