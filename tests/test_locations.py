"""What the raw output says at a box: hand-made cases, and properties on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detclean.boxes import box_iou
from detclean.detect.locations import BOX_WEIGHT, COLUMNS, examine_locations

BOX = np.array([[10.0, 10, 30, 30]])


def examine(xyxy: list[list[float]], scores: list[list[float]], category: int = 0, box: np.ndarray = BOX) -> dict[str, float]:
    answers = examine_locations(np.array(xyxy, float), np.array(scores, float), box, np.array([category]))
    assert set(answers) == set(COLUMNS)
    return {name: float(column[0]) for name, column in answers.items()}


def test_agreement() -> None:
    seen = examine([[10, 10, 30, 30]], [[0.8, 0.1]])
    assert seen["same_30"] == seen["same_70"] == pytest.approx(0.8)
    assert seen["other_70"] == pytest.approx(0.1)
    assert seen["target_nll"] == pytest.approx(-np.log(0.8))
    assert seen["target_loss"] == pytest.approx(-np.log(0.8))
    assert seen["target_margin"] == pytest.approx(np.log(0.8 / 0.2) - np.log(0.1 / 0.9), rel=1e-5)
    assert seen["off_most"] == pytest.approx(0, abs=1e-6)
    assert seen["other_category"] == 1


def test_another_category() -> None:
    seen = examine([[10, 10, 30, 30]], [[0.02, 0.1, 0.7]])
    assert seen["other_50"] == pytest.approx(0.7)
    assert seen["other_category"] == 2
    assert seen["target_margin"] < 0
    assert seen["other_loss"] < seen["target_loss"]


def test_another_place() -> None:
    seen = examine([[20, 10, 40, 30]], [[0.9, 0.01]])  # IoU 1/3
    assert seen["same_30"] == pytest.approx(0.9)
    assert seen["same_50"] == 0
    assert seen["off_x1"] == seen["off_x2"] == pytest.approx(0.5)
    assert seen["off_y1"] == pytest.approx(0, abs=1e-6)
    assert seen["target_loss"] == pytest.approx(-np.log(0.9) + BOX_WEIGHT * (1 - 1 / 3), rel=1e-5)


def test_parts_and_wholes() -> None:
    assert examine([[15, 15, 22, 22]], [[0.6, 0.0]])["inside"] == pytest.approx(0.6)
    assert examine([[0, 0, 60, 60]], [[0.6, 0.0]])["around"] == pytest.approx(0.6)
    assert examine([[15, 15, 22, 22]], [[0.6, 0.0]])["around"] == 0


def test_nothing_there() -> None:
    seen = examine([[100, 100, 120, 120]], [[0.9, 0.9]])
    assert seen["same_30"] == seen["total_same"] == seen["centred_same"] == 0
    assert np.isnan(seen["off_x1"])
    assert {len(column) for column in examine_locations(np.empty((0, 4)), np.empty((0, 2)), BOX, np.array([0])).values()} == {1}
    assert {len(column) for column in examine_locations(BOX, np.ones((1, 2)), np.empty((0, 4)), np.empty(0, int)).values()} == {0}


def test_one_category_has_no_rival() -> None:
    seen = examine([[10, 10, 30, 30]], [[0.8]])
    assert seen["other_50"] == 0
    assert np.isfinite(seen["target_margin"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_levels_and_losses_are_what_a_loop_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = rng.uniform(0, 50, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(3, 40, (count, 2))], axis=1)

    locations, asked, scores = boxes(30), boxes(6), rng.random((30, 4)) ** 3
    category = rng.integers(4, size=6)
    seen = examine_locations(locations, scores, asked, category)
    iou = box_iou(asked, locations)
    for i in range(6):
        near = iou[i] >= 0.5
        others = np.delete(scores, category[i], axis=1)
        assert seen["same_50"][i] == pytest.approx(scores[near, category[i]].max(initial=0), rel=1e-5)
        assert seen["other_50"][i] == pytest.approx(others[near].max(initial=0), rel=1e-5)
        assert seen["target_loss"][i] == pytest.approx((-np.log(scores[:, category[i]]) + BOX_WEIGHT * (1 - iou[i])).min(), rel=1e-4)
        assert seen["other_loss"][i] == pytest.approx((-np.log(others.max(axis=1)) + BOX_WEIGHT * (1 - iou[i])).min(), rel=1e-4)
        assert seen["other_category"][i] != category[i]
