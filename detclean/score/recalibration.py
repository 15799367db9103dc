"""What a person's decisions say about the probabilities: how many were right so far, and what the others should be instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from detclean.boxes import Floats, Ints, Mask

MIN_DECISIONS = 20  # below this a handful of surprises would turn everything round
SLOPE_SPREAD = 0.2  # standard deviations of what is believed before any decision: of the slope around 1,
SHIFT_SPREAD = 0.5  # of the shift of all log-odds around 0,
TYPE_SPREAD = 0.75  # and of a type's own shift around the common one
MOST_SURE = 0.9995  # probabilities beyond are taken for this: log-odds have no end
CONFIDENCE = 1.959964  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Precision:
    """Of `decided` issues: the share that was promised to be wrong, the share that was, and its 95 % interval (Wilson)."""

    decided: int
    promised: float
    realised: float
    low: float
    high: float


def describe_precision(probability: Floats, wrong: Mask) -> Precision | None:
    """What was promised of decided issues (m,) and what came true (m,); None where nothing is decided."""
    n = len(wrong)
    if n == 0:
        return None
    share, z = float(wrong.mean()), CONFIDENCE
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Precision(n, float(probability.mean()), share, max(float(centre - half), 0.0), min(float(centre + half), 1.0))


def recalibrate(probability: Floats, issue_type: Ints, decided: Ints, wrong: Mask) -> Floats:
    """The probabilities (n,) after decisions about some of them: positions (m,), and whether the label was wrong (m,).

    issue_type: a number a type (n,). The log-odds are stretched and shifted, for each type by an own amount that is drawn towards the
    common one: logistic regression with normal priors around "as they are" (maximum a posteriori), so that few decisions move little
    and a type without any moves with the others. Within a type the order stays. Below MIN_DECISIONS nothing changes.
    """
    if len(decided) < MIN_DECISIONS:
        return probability.copy()
    odds = logit(np.clip(probability, 1 - MOST_SURE, MOST_SURE))
    kinds = int(issue_type.max()) + 1
    x, kind, y = odds[decided], issue_type[decided], wrong.astype(np.float64)

    def penalty(weights: Floats) -> tuple[float, Floats]:
        slope, shift, own = weights[0], weights[1], weights[2:]
        z = slope * x + shift + own[kind]
        residual = expit(z) - y
        loss = np.logaddexp(0, z) - y * z
        prior = ((slope - 1) / SLOPE_SPREAD) ** 2 + (shift / SHIFT_SPREAD) ** 2 + ((own / TYPE_SPREAD) ** 2).sum()
        gradient = np.concatenate(
            [
                [residual @ x + (slope - 1) / SLOPE_SPREAD**2, residual.sum() + shift / SHIFT_SPREAD**2],
                np.bincount(kind, residual, kinds) + own / TYPE_SPREAD**2,
            ]
        )
        return float(loss.sum() + prior / 2), gradient

    start = np.zeros(2 + kinds)
    start[0] = 1
    bounds = [(0.05, None)] + [(None, None)] * (1 + kinds)  # a slope of nothing would make all probabilities equal
    weights = minimize(penalty, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    answer: Floats = expit(weights[0] * odds + weights[1] + weights[2:][issue_type])
    return answer
