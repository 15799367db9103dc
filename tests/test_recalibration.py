"""Decisions about some issues correct the probabilities of the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from detclean.score.recalibration import MIN_DECISIONS, describe_precision, recalibrate


def make_case(seed: int, shift: dict[int, float], n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Promised probabilities, types, and what is true: per type the log-odds are off by `shift`."""
    rng = np.random.default_rng(seed)
    probability, kind = rng.uniform(0.3, 0.99, n), rng.integers(0, 3, n)
    true = expit(logit(probability) + np.array([shift.get(k, 0.0) for k in range(3)])[kind])
    return probability, kind, rng.random(n) < true


def calibration_error(probability: np.ndarray, wrong: np.ndarray, kind: np.ndarray) -> float:
    return float(np.mean([abs(probability[kind == k].mean() - wrong[kind == k].mean()) for k in range(3)]))


@pytest.mark.parametrize("count", [20, 60, 200])
def test_a_type_that_promised_too_much_is_corrected(count: int) -> None:
    before, after = [], []
    for seed in range(10):
        probability, kind, wrong = make_case(seed, {1: -2.5, 0: -0.5})
        decided = np.argsort(-probability)[:count]
        rest = np.setdiff1d(np.arange(len(wrong)), decided)
        new = recalibrate(probability, kind, decided, wrong[decided])
        before.append(calibration_error(probability[rest], wrong[rest], kind[rest]))
        after.append(calibration_error(new[rest], wrong[rest], kind[rest]))
    assert np.mean(after) < {20: 0.85, 60: 0.75, 200: 0.5}[count] * np.mean(before)


def test_decisions_that_agree_hardly_move_anything() -> None:
    moved = []
    for seed in range(10):
        probability, kind, wrong = make_case(seed, {})
        decided = np.random.default_rng(seed).permutation(len(wrong))[:40]
        moved.append(np.abs(recalibrate(probability, kind, decided, wrong[decided]) - probability).mean())
    assert np.mean(moved) < 0.06


def test_below_twenty_decisions_nothing_changes() -> None:
    probability, kind, wrong = make_case(0, {1: -3})
    decided = np.arange(MIN_DECISIONS - 1)
    assert (recalibrate(probability, kind, decided, wrong[decided]) == probability).all()
    decided = np.arange(MIN_DECISIONS)
    assert (recalibrate(probability, kind, decided, wrong[decided]) != probability).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.booleans()), min_size=MIN_DECISIONS, max_size=60))
def test_probabilities_stay_probabilities_and_types_keep_their_order(rows: list[tuple[float, int, bool]]) -> None:
    probability, kind, wrong = (np.array(column) for column in zip(*rows, strict=True))
    new = recalibrate(probability, kind, np.arange(len(rows)), wrong)
    assert ((new >= 0) & (new <= 1)).all()
    for k in range(5):
        mine = np.argsort(probability[kind == k], kind="stable")
        assert (np.diff(new[kind == k][mine]) >= -1e-12).all()


def test_precision_with_its_interval() -> None:
    nothing = np.zeros(0)
    assert describe_precision(nothing, nothing > 0) is None
    found = describe_precision(np.full(20, 0.9), np.arange(20) < 15)
    assert found is not None
    assert (found.decided, found.promised, found.realised) == (20, pytest.approx(0.9), 0.75)
    assert (found.low, found.high) == (pytest.approx(0.5313, abs=1e-4), pytest.approx(0.8881, abs=1e-4))  # Wilson's, by hand
    sure = describe_precision(np.full(5, 0.9), np.ones(5, bool))
    assert sure is not None
    assert sure.high == 1.0
    assert 0.5 < sure.low < 0.6
