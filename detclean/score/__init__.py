"""From out-of-fold detections to a probability of being wrong for every annotation and every candidate."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from detclean.boxes import Boxes
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.score.issues import select_issues
from detclean.score.scores import score_dataset


def find_issues(
    dataset: Dataset,
    detections: Boxes,
    *,
    target_precision: float = 0.8,
    budget: int | None = None,
    types: Sequence[str] = ISSUE_TYPES,
    seed: int = 0,
) -> pl.DataFrame:
    """The suspected errors of a data set, worst first: the columns of issues.csv, and positions in the data set.

    detections: out-of-fold, so each from a model that never saw the labels of its image; with score, better with class_scores.
    As many issues as keep the expected precision at `target_precision`, or the `budget` worst.
    """
    scores = score_dataset(dataset, detections, seed=seed)
    return select_issues(scores, dataset, target_precision=target_precision, budget=budget, types=types)
