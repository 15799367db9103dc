"""Small gradient-boosted models that tell planted errors from the labels as given, one a type of error, cross-fitted by image.

The models are XGBoost's: monotone where the evidence says so, quick on a few thousand rows, and written as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Floats, Ints, Mask
from detclean.machine import count_cores

CROSS_FITS = 4  # parts of the images, each judged by a model that saw the others only
ROUNDS = 160
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "base_score": 0.5,
    "eta": 0.05,
    "max_depth": 4,
    "min_child_weight": 3.0,
    "lambda": 2.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "max_bin": 64,
    "tree_method": "hist",
    "nthread": 1,  # the models are small, and more threads only wait for each other where the machine is busy
    "seed": 0,
}


@dataclass(frozen=True)
class Examples:
    """Rows to learn from: evidence (r columns of numbers), target (r,) 0 for as given and 1.. for planted, image (r,), and which given
    row it is (r,), -1 for none."""

    evidence: pl.DataFrame
    target: Ints
    image: Ints
    given: Ints

    def __getitem__(self, rows: Ints) -> Examples:
        return Examples(self.evidence[rows], self.target[rows], self.image[rows], self.given[rows])

    @staticmethod
    def join(parts: list[Examples]) -> Examples:
        return Examples(
            pl.concat([part.evidence for part in parts]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("target", "image", "given")),
        )


@dataclass(frozen=True)
class Fitted:
    """models: the text of each model, a list over the cross-fits; ratio (n,) density of planted over given of the given rows; planted
    (r,) the same of the rows to learn from, each by the models that did not see its image."""

    models: list[str]
    ratio: Floats
    planted: Floats


def fit_ratio(
    examples: Examples,
    kind: int,
    given: pl.DataFrame,
    image: Ints,
    folds: Ints,
    *,
    weight: Floats,
    directions: Mapping[str, int],
) -> Fitted:
    """How much likelier each row's evidence is under planted errors of one kind than under the labels as given.

    given: evidence of the n rows to judge, image (n,) of each, folds (N,) the cross-fit of each image. weight (r,) of the examples.
    directions: column -> 1 where more of it speaks for an error, -1 where less does.
    """
    names = given.columns
    learn_from: Mask = (examples.target == 0) | (examples.target == kind)
    matrix, judged = _matrix(examples.evidence), _matrix(given)
    target = (examples.target == kind).astype(np.float64)
    parameters = PARAMETERS | {"monotone_constraints": tuple(directions.get(name, 0) for name in names)}
    ratio, planted = np.zeros(len(given)), np.zeros(len(target))

    def fit(fold: int) -> str:
        mine = np.flatnonzero(learn_from & (folds[examples.image] != fold))
        asked = ((judged, ratio, folds[image] == fold), (matrix, planted, folds[examples.image] == fold))
        return _fit_and_tell(parameters, matrix[mine], target[mine], weight[mine], asked)

    with ThreadPoolExecutor(min(CROSS_FITS, count_cores())) as pool:  # a thread a model: their numbers do not depend on how many
        models = list(pool.map(fit, range(CROSS_FITS)))
    return Fitted(models, ratio, planted)


def _fit_and_tell(
    parameters: dict[str, Any], matrix: Floats, target: Floats, weight: Floats, asked: Sequence[tuple[Floats, Floats, Mask]]
) -> str:
    """A model learnt from rows (r, columns), as JSON; the ratios of the rows that it is asked about (matrix, where they go, which)."""
    import xgboost as xgb

    mass = np.array([weight[target == value].sum() for value in (0, 1)])
    if not (mass > 0).all():
        return ""
    data = xgb.QuantileDMatrix(matrix, target, weight=weight, max_bin=PARAMETERS["max_bin"], nthread=1)
    model = xgb.train(parameters, data, ROUNDS)
    for rows, out, chosen in asked:
        if chosen.any():
            out[chosen] = mass[0] / mass[1] * np.exp(model.inplace_predict(rows[chosen], predict_type="margin"))
    return str(model.save_raw("json").decode())


def _matrix(evidence: pl.DataFrame) -> Floats:
    matrix: Floats = evidence.select(pl.all().cast(pl.Float32)).to_numpy()
    return np.ascontiguousarray(matrix)


def deal_images(occupied: Ints, image_count: int, rng: np.random.Generator) -> Ints:
    """The cross-fit of every image (N,): dealt out in turn, the occupied images first, so that no part is without examples."""
    order = rng.permutation(image_count)
    order = order[np.argsort(~np.isin(order, occupied), kind="stable")]
    folds = np.empty(image_count, dtype=np.int64)
    folds[order] = np.arange(image_count) % CROSS_FITS
    return folds


def models_as_json(columns: list[str], shares: Mapping[str, float], models: Mapping[str, list[str]]) -> bytes:
    """What was learnt as a document: the evidence's columns, the share of each kind that is believed, XGBoost's own JSON."""
    told = {kind: [orjson.loads(text) if text else None for text in texts] for kind, texts in models.items()}
    return orjson.dumps({"columns": columns, "shares": dict(shares), "models": told})
