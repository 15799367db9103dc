"""The crop classifiers' opinions brought together: one table a look and a detection, and for which categories they take over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.score.crops import compute_crop_evidence, find_crop_issues, tabulate_opinions
from detclean.score.looks import Looks

WEAK_AP = 0.3  # average precision at IoU 0.5 below which a category's detections are not trusted
FEW_ANNOTATIONS = 20  # a category with fewer cannot be learnt from crops either
GOOD_AGREEMENT = 0.6  # share of a category's annotations that its crops confirm, from which they take over


class CropOpinion:
    """Hears classifiers about looks (l) and detections (m). boxes: both, sorted by image, for those who look; background (l + m,): which
    of them stand on nothing."""

    def __init__(self, looks: Looks, detections: Boxes, category_count: int) -> None:
        self._looks, self._found, self._category_count = looks, detections, category_count
        image = np.concatenate([looks.boxes.image_index, detections.image_index])
        self._order = np.argsort(image, kind="stable")
        category = np.concatenate([looks.boxes.category, detections.category])
        xyxy = np.concatenate([looks.boxes.xyxy, detections.xyxy])
        self.boxes = Boxes(image[self._order], category[self._order], xyxy[self._order])
        self.background = np.concatenate([looks.kind == "spurious", np.zeros(len(detections), bool)])[self._order]
        self.looks, self.detections = pl.DataFrame(), pl.DataFrame()
        self._facts: dict[str, Any] = {}
        self._agreement: list[float | None] = [None] * category_count

    def _sort_back(self, rows: Floats, axis: int) -> Floats:
        """From the order of `boxes` to looks before detections."""
        result = np.empty_like(rows)
        result[(slice(None),) * axis + (self._order,)] = rows
        return result

    def hear_features(self, features: Floats, folds: Ints, seed: int) -> None:
        """The linear classifier, the neighbours and the influence: features (repeats, l + m, d), folds (repeats, N)."""
        rows = self._sort_back(features, 1)
        count = len(self._looks)
        evidence = compute_crop_evidence(
            rows[:, :count],
            self._looks.boxes,
            self._looks.kind,
            folds,
            self._category_count,
            candidates=self._found,
            candidate_features=rows[:, count:],
            seed=seed,
        )
        self._add(evidence.looks, evidence.candidates)
        self._facts["light"] = evidence.facts
        self._agreement = evidence.facts["agreement"]

    def hear_probability(self, probability: Floats) -> None:
        """A trained classifier: probability (repeats, l + m, K + 1), the last for background."""
        mean = self._sort_back(probability, 1).mean(axis=0)
        count = len(self._looks)
        category = np.concatenate([self._looks.boxes.category, self._found.category])
        table = tabulate_opinions(mean, category, prefix="trained_crop_")
        self._add(table[:count], table[count:])
        given = self._looks.given
        _, self._facts["trained"] = find_crop_issues(mean[given], self._looks.boxes.category[given])
        self._agreement = self._facts["trained"]["agreement"]

    def _add(self, looks: pl.DataFrame, detections: pl.DataFrame) -> None:
        def numbers(table: pl.DataFrame) -> pl.DataFrame:
            return table.select(pl.all().exclude("^.*other_category$"))

        self.looks = pl.concat([self.looks, numbers(looks)], how="horizontal")
        self.detections = pl.concat([self.detections, numbers(detections)], how="horizontal")

    def describe(self, categories: Sequence[str], weak: Mask, quality: Mapping[str, float | None]) -> dict[str, Any]:
        """What a summary should say: each classifier's facts, the weak categories, and those that the crops take over with the reason."""
        entries, taken = [], []
        for name, agreement, poor in zip(categories, self._agreement, weak.tolist(), strict=True):
            if poor:
                entries.append({"category": name, "ap": quality[name] or 0.0, "agreement": agreement})
                taken += entries[-1:] if agreement is not None and agreement >= GOOD_AGREEMENT else []
        told = {judge: {**facts, "overlapping": _with_names(facts["overlapping"], categories)} for judge, facts in self._facts.items()}
        return {**told, "weak": entries, "took_over": taken}


def _with_names(overlapping: Sequence[Mapping[str, Any]], categories: Sequence[str]) -> list[dict[str, Any]]:
    return [{**pair, "first": categories[pair["first"]], "second": categories[pair["second"]]} for pair in overlapping]


def find_weak_categories(category: Ints, average_precision: Sequence[float | None]) -> Mask:
    """Categories whose detections are too poor to be trusted, of those with annotations enough to learn from: category (n,) -> (K,)."""
    counts = np.bincount(category, minlength=len(average_precision))
    return np.array([(ap or 0.0) < WEAK_AP and counts[k] >= FEW_ANNOTATIONS for k, ap in enumerate(average_precision)], bool)
