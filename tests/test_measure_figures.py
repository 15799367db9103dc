"""Figures of rankings against scikit-learn, against shuffled orders, and against resamples written out row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from detclean.boxes import Floats, Ints
from detclean.measure import figures
from detclean.measure.figures import (
    Ranking,
    draw_resamples,
    measure_calibration,
    measure_ranking,
    reliability,
    summarise_resamples,
)

NOWHERE: Ints = np.zeros(0, np.int64)
ONE = np.ones((1, 1))


def rank(wrong: list[int] | np.ndarray, score: list[float] | np.ndarray, missed: int = 0) -> Ranking:
    """A ranking within one image."""
    n = len(score)
    return Ranking(np.array(wrong, bool), np.array(score, float), np.zeros(n, np.int64), np.zeros(missed, np.int64))


def measure(ranking: Ranking, draws: Floats = ONE) -> dict[str, float]:
    return {name: float(values[0]) for name, values in measure_ranking(ranking, draws).items()}


rows = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40)


@settings(max_examples=150)
@given(rows)
def test_ap_and_auroc_are_those_of_scikit_learn_ties_and_all(drawn: list[tuple[bool, int]]) -> None:
    wrong, score = (np.array(column) for column in zip(*drawn, strict=True))
    assume(wrong.any() and not wrong.all())
    found = measure(rank(wrong, score))
    assert found["ap"] == pytest.approx(average_precision_score(wrong, score))
    assert found["auroc"] == pytest.approx(roc_auc_score(wrong, score))


@settings(max_examples=30, deadline=None)
@given(rows, st.integers(0, 3))
def test_a_cut_through_equals_is_the_mean_over_their_orders(drawn: list[tuple[bool, int]], missed: int) -> None:
    wrong, score = (np.array(column) for column in zip(*drawn, strict=True))
    assume(wrong.any() and not wrong.all())
    found = measure(rank(wrong, score, missed))
    rng = np.random.default_rng(0)
    first = wrong.sum() + missed
    shares = []
    for _ in range(1500):
        order = np.lexsort((rng.random(len(score)), -score))
        shares.append(wrong[order][:first].sum() / first)
    assert found["precision_at_n"] == pytest.approx(np.mean(shares), abs=5 * np.std(shares) / np.sqrt(len(shares)) + 1e-9)


def test_recall_is_read_where_a_tenth_of_the_good_is_flagged() -> None:
    good = np.arange(20.0)  # a tenth is 2: those of score 19 and 18
    wrong = np.array([30.0, 18.5, 17.5, 1.0])
    found = measure(rank([0] * 20 + [1] * 4, np.concatenate([good, wrong])))
    assert found["recall_at_10"] == pytest.approx(3 / 4)  # 17.5 comes before the third good one
    level = measure(rank([0] * 20 + [1] * 4, np.zeros(24)))
    assert level["recall_at_10"] == pytest.approx(0.1)  # whoever says the same of all finds a tenth with a tenth


def test_what_is_missed_lowers_recall_and_nothing_else() -> None:
    whole, half = rank([1, 1, 0, 0], [4, 3, 2, 1]), rank([1, 1, 0, 0], [4, 3, 2, 1], missed=2)
    assert measure(whole)["ap"] == 1.0
    assert measure(half)["ap"] == pytest.approx(0.5)
    assert measure(half)["precision_at_n"] == pytest.approx(0.5)  # among four there are two
    nothing = measure(rank([], [], missed=3))
    assert nothing["ap"] == nothing["precision_at_n"] == 0.0
    assert np.isnan(measure(rank([0, 0], [1, 2]))["ap"])


@pytest.fixture(scope="module")
def many() -> Ranking:
    rng = np.random.default_rng(3)
    wrong = rng.random(300) < 0.2
    score = np.round(np.clip(0.3 * wrong + 0.7 * rng.random(300), 0, 1), 2)
    return Ranking(wrong, score, np.sort(rng.integers(40, size=300)), rng.integers(40, size=6))


def repeat(ranking: Ranking, weight: Floats) -> Ranking:
    """A resample written out: every row as often as its image was drawn."""
    rows = np.repeat(np.arange(len(ranking.wrong)), weight[ranking.image].astype(int))
    missed = np.repeat(ranking.missed, weight[ranking.missed].astype(int))
    return rank(ranking.wrong[rows], ranking.score[rows], len(missed))


def test_every_resample_is_what_the_rows_written_out_give(many: Ranking, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = draw_resamples(40, np.random.default_rng(1), 7)
    assert draws[0].tolist() == [1.0] * 40
    assert draws[1:].sum(axis=1).tolist() == [40.0] * 7
    both = measure_ranking(many, draws) | measure_calibration(many, draws)
    for i, weight in enumerate(draws):
        one = repeat(many, weight)
        expected = measure_ranking(one, ONE) | measure_calibration(one, ONE)
        for name in both:
            most = {"listed": 5, "realised": 0.05}.get(name)  # a list may end between the copies of a row that was drawn twice
            assert both[name][i] == pytest.approx(expected[name][0], abs=most), name
    monkeypatch.setattr(figures, "CELLS_AT_ONCE", 700)  # two resamples at a time
    for name, values in (measure_ranking(many, draws) | measure_calibration(many, draws)).items():
        np.testing.assert_allclose(values, both[name])


def test_intervals_cover_and_shrink_with_the_data() -> None:
    rng = np.random.default_rng(0)

    def width(images: int) -> tuple[float, float, float]:
        wrong = rng.random(images * 5) < 0.3
        score = 0.5 * wrong + rng.random(images * 5)
        ranking = Ranking(wrong, score, np.repeat(np.arange(images), 5), NOWHERE)
        told = summarise_resamples([measure_ranking(ranking, draw_resamples(images, rng))["auroc"]])
        return told["low"], told["mean"], told["high"]  # type: ignore[return-value]

    truth = 0.875  # P(0.5 + u > v) of two uniform numbers
    few, lots = width(40), width(1000)
    assert lots[0] < truth < lots[2]
    assert lots[2] - lots[0] < 0.4 * (few[2] - few[0])


def test_a_mean_over_seeds_leaves_out_what_was_not_measured() -> None:
    told = summarise_resamples([np.array([0.5, 0.4, 0.6]), np.array([0.7, 0.8, 0.6]), np.array([np.nan, 0.1, 0.1])])
    assert told["mean"] == 0.6
    assert told["per_seed"] == [0.5, 0.7, None]
    assert 0.6 <= told["low"] <= told["high"] <= 0.6  # type: ignore[operator]  # both resamples have the mean 0.6
    assert summarise_resamples([np.array([np.nan])]) == {"mean": None, "low": None, "high": None, "per_seed": [None]}


def test_calibration_error_by_hand() -> None:
    # ten rows at 0.25 of which four are wrong: off by 0.15; thirty at 0.01 of which none is: off by 0.01
    ranking = rank([1] * 4 + [0] * 36, [0.25] * 10 + [0.01] * 30)
    found = measure_calibration(ranking, ONE)
    assert found["ece"][0] == pytest.approx((10 * 0.15 + 30 * 0.01) / 40)
    assert found["ece_listed"][0] == pytest.approx(0.15)
    assert reliability(ranking) == [
        {"probability": pytest.approx(0.01), "wrong": 0.0, "rows": 30},
        {"probability": pytest.approx(0.25), "wrong": pytest.approx(0.4), "rows": 10},
    ]
    assert measure_calibration(rank([1], [1.0]), ONE)["ece"][0] == 0.0  # 1.0 is in the last bin


def test_honest_probabilities_have_no_error_and_keep_their_promise() -> None:
    rng = np.random.default_rng(5)
    probability = rng.beta(0.3, 1, 200_000)
    found = measure_calibration(rank(rng.random(200_000) < probability, probability), ONE)
    assert found["ece"][0] < 0.005
    assert found["realised"][0] == pytest.approx(0.8, abs=0.01)


def test_the_list_is_the_longest_top_that_promises_enough() -> None:
    # means of the tops: 0.9, 0.85, 0.8, 0.7: three are listed, two of them wrong
    found = measure_calibration(rank([1, 0, 1, 1], [0.9, 0.8, 0.7, 0.4]), ONE)
    assert found["listed"][0] == 3
    assert found["realised"][0] == pytest.approx(2 / 3)
    none = measure_calibration(rank([1, 1], [0.5, 0.4]), ONE)
    assert none["listed"][0] == 0
    assert np.isnan(none["realised"][0])
    assert np.isnan(measure_calibration(rank([], []), ONE)["realised"][0])
