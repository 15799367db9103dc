"""What classifiers of single boxes say about each box: a linear one on the detector's own features, or any other's probabilities.

The linear classifier is cross-fitted by image within each fold's held-out images, as every fold's detector has a feature space of its own.
So a judged row never met a label of its image, neither in the detector nor in the classifier.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask

PARTS = 5  # of a fold's images, each judged by a classifier that learnt from the others
INVERSE_PENALTY = 0.02  # scikit-learn's C, of whitened features: 0.1 finds fewer swaps where a category has 25 examples
NEIGHBOURS = 10
MOST_ROWS = 20_000  # that one classifier learns from
MOST_OVERLAPS = 10  # pairs of categories in the facts


@dataclass(frozen=True)
class Opinions:
    """probability (n, K + 1), the last of background; neighbours (n,): share of the nearest with another category; influence (n,): how
    much learning from the row would raise the loss on other rows, so that the larger it is the worse. NaN where nothing is known."""

    probability: Floats
    neighbours: Floats
    influence: Floats


@dataclass(frozen=True)
class CropEvidence:
    """looks (l rows) and candidates (m rows): crop_same and crop_other (among the categories alone), crop_other_category, crop_background,
    crop_self_confidence, crop_margin, crop_entropy, crop_neighbours, crop_influence; NaN, and -1 for a category, where nothing is known.

    probability (l, K + 1) is what the looks' columns come from; flag (l,): annotations as given that cleanlab's confident learning calls
    wrong; facts: label_issues, agreement (K), confident_joint (K, K), overlapping (pairs of categories, most often confused first).
    """

    looks: pl.DataFrame
    candidates: pl.DataFrame
    probability: Floats
    flag: Mask
    facts: dict[str, Any]


def compute_crop_evidence(
    features: Floats,
    boxes: Boxes,
    kind: Any,
    folds: Ints,
    category_count: int,
    *,
    candidates: Boxes | None = None,
    candidate_features: Floats | None = None,
    groups: Ints | None = None,
    seed: int = 0,
) -> CropEvidence:
    """Evidence from features of boxes: features (repeats, l, d), boxes (l) as in `looks.py`, kind (l,), folds (repeats, N).

    The rows as given and the spurious ones are learnt from, all are judged, and so are candidates (m), with their own features (repeats,
    m, d). Opinions of several repeats are averaged. groups (N,): images of one group stay in one part of the cross-fit.
    """
    candidates = Boxes.empty() if candidates is None else candidates
    if candidate_features is None:
        candidate_features = np.full((len(folds), len(candidates), features.shape[2]), np.nan, np.float32)
    count = len(boxes)
    image = np.concatenate([boxes.image_index, candidates.image_index])
    category = np.concatenate([boxes.category, candidates.category])
    spurious = np.concatenate([np.asarray(kind) == "spurious", np.zeros(len(candidates), bool)])
    lesson = np.concatenate([np.asarray(kind) == "", np.zeros(len(candidates), bool)]) | spurious
    target = np.where(spurious, category_count, category)
    parts = deal_images(folds.shape[1], groups, seed)
    opinions = [
        judge_rows(np.concatenate(each), image, category, np.where(lesson, target, -1), folds[repeat], parts, category_count)
        for repeat, each in enumerate(zip(features, candidate_features, strict=True))
    ]
    merged = average_opinions(opinions)
    table = tabulate_opinions(merged.probability, category).with_columns(
        crop_neighbours=pl.Series(merged.neighbours), crop_influence=pl.Series(merged.influence)
    )
    given = np.flatnonzero(np.asarray(kind) == "")
    flag = np.zeros(count, bool)
    flag[given], facts = find_crop_issues(merged.probability[given], category[given])
    return CropEvidence(table[:count], table[count:], merged.probability[:count], flag, facts)


def deal_images(image_count: int, groups: Ints | None, seed: int) -> Ints:
    """The part of the cross-fit of every image: (N,) 0..PARTS-1, groups (N,) kept together."""
    group = np.arange(image_count) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group.max(initial=-1)) + 1
    part = np.empty(count, np.int64)
    part[np.random.default_rng([seed, 11]).permutation(count)] = np.arange(count) % PARTS
    return part[group]


def judge_rows(
    features: Floats, image: Ints, category: Ints, target: Ints, fold_of_image: Ints, part_of_image: Ints, category_count: int
) -> Opinions:
    """Opinions about rows of one repeat: features (n, d), image (n,), category (n,) on trial, target (n,) to learn from, K for background
    and -1 for a row that is only judged; fold and part of every image (N,)."""
    n = len(image)
    probability, neighbours, influence = np.full((n, category_count + 1), np.nan), np.full(n, np.nan), np.full(n, np.nan)
    known = np.isfinite(features).all(axis=1)
    for fold in np.unique(fold_of_image):
        for part in range(PARTS):
            here = known & (fold_of_image[image] == fold)
            judged = np.flatnonzero(here & (part_of_image[image] == part))
            learnt = np.flatnonzero(here & (part_of_image[image] != part) & (target >= 0))
            learnt = learnt[:: 1 + len(learnt) // MOST_ROWS]
            if not len(judged) or len(np.unique(target[learnt])) < 2:
                continue
            lesson = _Lesson(features[learnt], target[learnt], category_count)
            probability[judged] = lesson.judge(features[judged])
            neighbours[judged] = lesson.compare_neighbours(features[judged], category[judged])
            influence[judged] = lesson.measure_influence(
                features[judged], probability[judged], category[judged], image[judged], target[judged]
            )
    return Opinions(probability, neighbours, influence)


class _Lesson:
    """A linear classifier, fitted to features (a, d) with target (a,) 0..K, K for background."""

    def __init__(self, features: Floats, target: Ints, category_count: int) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        self.features, self.target, self.outputs = features, target, category_count + 1
        self.mean, self.spread = features.mean(axis=0), features.std(axis=0)
        self.spread = np.where(self.spread > 1e-6 * self.spread.max(), self.spread, np.inf)  # what does not vary says nothing
        self.model = LogisticRegression(C=INVERSE_PENALTY, max_iter=200, tol=1e-3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # many categories, few boxes yet
            self.model.fit(self._whiten(features), target)

    def _whiten(self, features: Floats) -> Floats:
        white: Floats = (features - self.mean) / self.spread
        return white

    def judge(self, features: Floats) -> Floats:
        """-> (n, K + 1)"""
        probability = np.zeros((len(features), self.outputs))
        probability[:, self.model.classes_] = self.model.predict_proba(self._whiten(features))
        return probability

    def compare_neighbours(self, features: Floats, category: Ints) -> Floats:
        """Share of the nearest learnt rows, none of the same image, with another category, background included. -> (n,)

        In the features as they come: whitened, the least of them would count as much as the first.
        """
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self.features)), algorithm="brute", metric="cosine")
        near = index.fit(self.features - self.mean).kneighbors(features - self.mean, return_distance=False)
        share: Floats = (self.target[near] != category[:, None]).mean(axis=1)
        return share

    def measure_influence(self, features: Floats, probability: Floats, category: Ints, image: Ints, target: Ints) -> Floats:
        """- g_held^T H^-1 g(x, y) of each judged row x with its category y (Koh & Liang, ICML 2017): (n,), positive raises the loss.

        The loss is that on the judged rows that have a target (n,) >= 0, in other images than the row's own. H is the logistic loss's
        Hessian, of which only the block of each output is kept.
        """
        inputs = _with_one(self._whiten(features))
        learnt = _with_one(self._whiten(self.features))
        certain = self.judge(self.features)
        penalty = np.eye(learnt.shape[1]) / INVERSE_PENALTY
        penalty[-1, -1] = 1e-3  # the constant is free, but for an output that never varies
        held = target >= 0
        own_image = np.unique(image, return_inverse=True)[1]
        others = np.maximum(held.sum() - np.bincount(own_image, weights=held)[own_image], 1)
        influence = np.zeros(len(features))
        for output in self.model.classes_.tolist():
            hessian = (learnt * (certain[:, output] * (1 - certain[:, output]))[:, None]).T @ learnt + penalty
            gradient = inputs * (held * (probability[:, output] - (target == output)))[:, None]
            of_image = np.zeros((own_image.max() + 1, inputs.shape[1]))
            np.add.at(of_image, own_image, gradient)
            held_out = (gradient.sum(axis=0) - of_image[own_image]) / others[:, None]
            pushed = np.linalg.solve(hessian, inputs.T).T
            influence -= (held_out * pushed).sum(axis=1) * (probability[:, output] - (category == output))
        return influence


def _with_one(inputs: Floats) -> Floats:
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def average_opinions(opinions: list[Opinions]) -> Opinions:
    """Of several repeats, those that know the row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row that nobody knows stays unknown
        columns = [np.nanmean([getattr(each, name) for each in opinions], axis=0) for name in ("probability", "neighbours", "influence")]
    return Opinions(*columns)


def tabulate_opinions(probability: Floats, category: Ints, prefix: str = "crop_") -> pl.DataFrame:
    """A classifier's probabilities (n, K + 1), the last of background, as evidence about each row's category (n,).

    same and other are probabilities given that there is an object, other that of the best other category; self_confidence and margin are
    cleanlab.rank's, 1 good to 0 bad, with background as one more category. NaN rows are unknown.
    """
    from cleanlab.rank import get_label_quality_scores

    known = np.isfinite(probability).all(axis=1)
    rows, own = probability[known], category[known]
    among = _without_background(rows)
    position = np.arange(len(rows))
    others = among.copy()
    others[position, own] = -1.0
    found = {
        "same": among[position, own],
        "other": np.maximum(others.max(axis=1, initial=-1.0), 0.0),
        "background": rows[:, -1],
        "entropy": -(rows * np.log(np.maximum(rows, 1e-12))).sum(axis=1),
    }
    for name, method in (("self_confidence", "self_confidence"), ("margin", "normalized_margin")):
        found[name] = get_label_quality_scores(own, rows, method=method) if len(rows) else np.empty(0)
    table = {prefix + name: np.full(len(category), np.nan) for name in found}
    for name, values in found.items():
        table[prefix + name][known] = values
    other = np.full(len(category), -1, np.int64)
    if among.shape[1] > 1:
        other[known] = others.argmax(axis=1)
    return pl.DataFrame(table).with_columns(pl.Series(f"{prefix}other_category", other))


def _without_background(probability: Floats) -> Floats:
    """(n, K + 1) -> (n, K), given that there is an object; even where there surely is none."""
    objects = probability[:, :-1] + 1e-9
    shares: Floats = objects / objects.sum(axis=1, keepdims=True)
    return shares


def find_crop_issues(probability: Floats, category: Ints) -> tuple[Mask, dict[str, Any]]:
    """cleanlab's confident learning on the annotations as given: probability (n, K + 1), category (n,) -> flags (n,) and facts."""
    from cleanlab.count import compute_confident_joint, estimate_joint
    from cleanlab.filter import find_label_issues

    flag = np.zeros(len(category), bool)
    known = np.isfinite(probability).all(axis=1)
    shares, labels = _without_background(probability[known]), category[known]
    category_count = probability.shape[1] - 1
    if len(np.unique(labels)) < 2:
        return flag, {"label_issues": 0, "agreement": [None] * category_count, "confident_joint": None, "overlapping": []}
    confident_joint = compute_confident_joint(labels, shares)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a category is too rare to be flagged in
        flag[known] = find_label_issues(labels, shares, confident_joint=confident_joint, n_jobs=1)
    joint = np.asarray(estimate_joint(labels, shares, confident_joint=confident_joint))
    right = np.bincount(labels, shares.argmax(axis=1) == labels, category_count)
    per_category = np.bincount(labels, minlength=category_count)
    facts = {
        "label_issues": int(flag.sum()),
        "agreement": [round(float(a / b), 4) if b else None for a, b in zip(right, per_category, strict=True)],
        "confident_joint": np.asarray(confident_joint).tolist(),
        "overlapping": _overlapping(joint),
    }
    return flag, facts


def _overlapping(joint: Floats) -> list[dict[str, Any]]:
    """Pairs of categories and the share of annotations that name one and are probably the other, as cleanlab's find_overlapping_classes."""
    first, second = np.triu_indices(len(joint), 1)
    share = (joint + joint.T)[first, second]
    order = [i for i in np.argsort(-share, kind="stable")[:MOST_OVERLAPS].tolist() if share[i] > 0]
    return [{"first": int(first[i]), "second": int(second[i]), "share": round(float(share[i]), 5)} for i in order]
