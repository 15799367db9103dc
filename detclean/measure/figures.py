"""Figures of one ranking, each of them for the data as they are and for many resamples of the images at once.

A resample is a row of weights: how often each image was drawn. Row 0 is the data as they are, so that a figure, its interval and the
paired difference between two methods all come out of the same arrays. Equal scores are one threshold, as in scikit-learn; where a figure
cuts through a group of equals it counts their share, which is the mean over all orders of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from detclean.boxes import Floats, Ints, Mask

RESAMPLES = 200
INTERVAL = (0.025, 0.975)  # quantiles of the resamples
FLAGGED_GOOD = 0.1  # share of the good annotations that are flagged where recall is read
PROMISED = 0.8  # precision that a list is cut at
BINS = 10  # of equal width, for the calibration error
LISTED = 0.05  # probabilities below never stand in a list: a calibration error of the others is not drowned in easy annotations
CELLS_AT_ONCE = 20_000_000  # resamples x rows in memory


@dataclass(frozen=True)
class Ranking:
    """n rows to be ranked: wrong (n,) is the truth, score (n,) higher is worse, image (n,) positions.

    missed (k,): images of wrong things that are not among the rows. They count as never found.
    """

    wrong: Mask
    score: Floats
    image: Ints
    missed: Ints


@dataclass(frozen=True)
class _Curve:
    """Weight above and at each threshold, highest first, for every resample: wrong (b, g), good (b, g); all_wrong (b,) with the missed."""

    wrong: Floats
    good: Floats
    all_wrong: Floats


def draw_resamples(image_count: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """How often each image counts: (1 + resamples, N). Row 0 is the data as they are, the others are drawn with replacement."""
    drawn = rng.multinomial(image_count, np.full(image_count, 1 / image_count), size=resamples) if image_count else np.zeros((resamples, 0))
    return np.concatenate([np.ones((1, image_count)), drawn]).astype(np.float64)


def measure_ranking(ranking: Ranking, draws: Floats) -> dict[str, Floats]:
    """ap, auroc, recall_at_10 and precision_at_n of every resample: draws (b, N) -> (b,) each, NaN where nothing is wrong or good."""
    measures = {
        "ap": _average_precision,
        "auroc": _area_under_roc,
        "recall_at_10": _recall_where_good_are_flagged,
        "precision_at_n": _precision_among_first,
    }
    curves = list(_trace(ranking, draws))
    return {name: np.concatenate([measure(curve) for curve in curves]) for name, measure in measures.items()}


def _trace(ranking: Ranking, draws: Floats) -> Iterator[_Curve]:
    order = np.argsort(-ranking.score, kind="stable")
    score, wrong, image = ranking.score[order], ranking.wrong[order], ranking.image[order]
    ends = np.flatnonzero(np.concatenate([score[1:] != score[:-1], [True]])) if len(score) else np.zeros(0, np.int64)
    for rows in _chunks(draws, len(score)):
        weight = rows[:, image]
        above = np.cumsum(weight * wrong, axis=1)[:, ends]
        good = np.cumsum(weight * ~wrong, axis=1)[:, ends]
        found = above[:, -1] if len(ends) else np.zeros(len(rows))
        yield _Curve(above, good, found + rows[:, ranking.missed].sum(axis=1))


def _chunks(draws: Floats, length: int) -> Iterator[Floats]:
    step = max(1, CELLS_AT_ONCE // max(length, 1))
    return (draws[start : start + step] for start in range(0, len(draws), step))


def _average_precision(curve: _Curve) -> Floats:
    """Mean of the precision over the wrong things, in the order found; one that is missed adds nothing."""
    precision = _divide(curve.wrong, curve.wrong + curve.good)
    gained = np.diff(curve.wrong, axis=1, prepend=0.0)
    return _divide((gained * np.nan_to_num(precision)).sum(axis=1), curve.all_wrong)


def _area_under_roc(curve: _Curve) -> Floats:
    """Probability that a wrong row stands above a good one, half where they stand level. The missed take no part."""
    if not curve.wrong.shape[1]:
        return np.full(len(curve.wrong), np.nan)
    gained = np.diff(curve.good, axis=1, prepend=0.0)
    above = (gained * (curve.wrong - np.diff(curve.wrong, axis=1, prepend=0.0) / 2)).sum(axis=1)
    return _divide(above, curve.wrong[:, -1] * curve.good[:, -1])


def _recall_where_good_are_flagged(curve: _Curve) -> Floats:
    if not curve.good.shape[1]:
        return _divide(np.zeros(len(curve.all_wrong)), curve.all_wrong)
    found = _read_at(curve.good, curve.wrong, FLAGGED_GOOD * curve.good[:, -1])
    return np.where(curve.good[:, -1] > 0, _divide(found, curve.all_wrong), np.nan)


def _precision_among_first(curve: _Curve) -> Floats:
    """Share of wrong rows among the first N, N the number of wrong things; where there are fewer rows the rest of them is not found."""
    return _divide(_read_at(curve.wrong + curve.good, curve.wrong, curve.all_wrong), curve.all_wrong)


def _read_at(x: Floats, y: Floats, at: Floats) -> Floats:
    """y where x reaches `at`, each resample for itself: x, y (b, g) that grow from 0, at (b,) -> (b,). Between thresholds on a line."""
    rows = np.arange(len(x))
    x, y = (np.concatenate([np.zeros((len(values), 1)), values], axis=1) for values in (x, y))
    before = np.clip((x <= at[:, None]).sum(axis=1) - 1, 0, x.shape[1] - 1)
    after = np.minimum(before + 1, x.shape[1] - 1)
    step = x[rows, after] - x[rows, before]
    share = np.clip(np.nan_to_num(_divide(at - x[rows, before], step)), 0, 1)
    value: Floats = y[rows, before] + share * (y[rows, after] - y[rows, before])
    return value


def _divide(a: Floats, b: Floats) -> Floats:
    quotient: Floats = np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)
    return quotient


def measure_calibration(ranking: Ranking, draws: Floats) -> dict[str, Floats]:
    """What the scores are worth as probabilities, for every resample: draws (b, N) -> (b,) each.

    ece: expected calibration error over BINS bins of equal width, weighted by their rows; ece_listed: the same over the rows from LISTED
    on; realised: the share of wrong rows in the longest top whose mean probability is at least PROMISED, NaN where there is none; listed:
    how many rows that top has.
    """
    order = np.argsort(-ranking.score, kind="stable")
    score, wrong, image = ranking.score[order], ranking.wrong[order], ranking.image[order]
    measures: dict[str, Callable[[Floats], Floats]] = {
        "ece": lambda weight: _calibration_error(weight, score, wrong),
        "ece_listed": lambda weight: _calibration_error(weight * (score >= LISTED), score, wrong),
    }
    parts: dict[str, list[Floats]] = {name: [] for name in (*measures, "realised", "listed")}
    for rows in _chunks(draws, len(score)):
        weight = rows[:, image]
        for name, measure in measures.items():
            parts[name].append(measure(weight))
        realised, listed = _keep_promise(weight, score, wrong)
        parts["realised"].append(realised)
        parts["listed"].append(listed)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _calibration_error(weight: Floats, score: Floats, wrong: Mask) -> Floats:
    """(b, n), (n,), (n,) -> (b,)"""
    member = _bin_of(score)[:, None] == np.arange(BINS)
    off = np.abs(weight @ (member * (score - wrong)[:, None])).sum(axis=1)
    return _divide(off, weight.sum(axis=1))


def _bin_of(score: Floats) -> Ints:
    return np.minimum((score * BINS).astype(np.int64), BINS - 1)


def _keep_promise(weight: Floats, score: Floats, wrong: Mask) -> tuple[Floats, Floats]:
    """Rows sorted by score, highest first: (b, n), (n,), (n,) -> realised precision (b,), length of the list (b,)."""
    many = np.cumsum(weight, axis=1)
    kept = (np.cumsum(weight * score, axis=1) >= PROMISED * many - 1e-9) & (many > 0)
    last = np.where(kept.any(axis=1), kept.shape[1] - 1 - np.argmax(kept[:, ::-1], axis=1), -1) if len(score) else np.full(len(weight), -1)
    rows = np.arange(len(weight))
    if not len(score):
        return np.full(len(weight), np.nan), np.zeros(len(weight))
    listed = np.where(last >= 0, many[rows, last], 0.0)
    return _divide(np.where(last >= 0, np.cumsum(weight * wrong, axis=1)[rows, last], 0.0), listed), listed


def reliability(ranking: Ranking) -> list[dict[str, float]]:
    """For every bin that is not empty: mean probability, share that is wrong, and how many rows."""
    bins = _bin_of(ranking.score)
    count = np.bincount(bins, minlength=BINS)
    mean = np.bincount(bins, ranking.score, BINS) / np.maximum(count, 1)
    share = np.bincount(bins, ranking.wrong, BINS) / np.maximum(count, 1)
    return [{"probability": float(mean[i]), "wrong": float(share[i]), "rows": int(count[i])} for i in np.flatnonzero(count).tolist()]


def summarise_resamples(per_seed: list[Floats]) -> dict[str, float | list[float | None] | None]:
    """A figure of several seeds, (b,) each with row 0 the data as they are -> mean, the interval of that mean, and each seed's own."""
    known = [values for values in per_seed if not np.isnan(values[0])]
    if not known:
        return {"mean": None, "low": None, "high": None, "per_seed": [None] * len(per_seed)}
    mean = np.mean(known, axis=0)
    drawn = mean[1:][~np.isnan(mean[1:])]
    low, high = np.quantile(drawn, INTERVAL).tolist() if len(drawn) else (None, None)
    own = [None if np.isnan(values[0]) else round(float(values[0]), 4) for values in per_seed]
    return {"mean": _rounded(mean[0]), "low": _rounded(low), "high": _rounded(high), "per_seed": own}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
