"""Crop classifiers brought together: rows go back where they came from, and weak categories are handed over for a reason."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import detect, make_truth
from trained import SEED, expect

from detclean.score.crop_opinion import FEW_ANNOTATIONS, GOOD_AGREEMENT, CropOpinion, find_weak_categories
from detclean.score.looks import draw_looks


@pytest.fixture(scope="module")
def opinion() -> CropOpinion:
    """Features that name the category, with some noise; category 0 looks like any other."""
    truth, sizes = make_truth(60)
    looks, found = draw_looks(truth, sizes, 5), detect(truth, sizes)
    opinion = CropOpinion(looks, found, 5)
    rng = np.random.default_rng(SEED)
    true = np.concatenate([np.where(looks.annotation >= 0, truth.category[looks.annotation], 5), found.category])
    image = np.concatenate([looks.boxes.image_index, found.image_index])
    true = true[np.argsort(image, kind="stable")]
    features = np.eye(6)[np.where(true == 0, rng.integers(1, 5, len(true)), true)] + rng.normal(0, 0.1, (len(true), 6))
    opinion.hear_features(features[None].astype(np.float32), (np.arange(60) % 2)[None], seed=0)
    return opinion


@pytest.mark.trained
def test_each_row_gets_its_own_opinion(opinion: CropOpinion) -> None:
    looks = opinion._looks
    own = opinion.looks["crop_self_confidence"].to_numpy()
    clear = looks.boxes.category >= 2
    right, swapped = clear & (looks.kind == ""), clear & (looks.kind == "swap")
    expect("median own confidence, right", np.median(own[right]), least=0.35)  # ten seeds: 0.48 to 0.54
    expect("median own confidence, swapped", np.median(own[swapped]), most=0.15)  # ten seeds: 0.056 to 0.061
    expect("median background, spurious", np.median(opinion.looks["crop_background"].to_numpy()[looks.kind == "spurious"]), least=0.35)
    assert opinion.detections.height == len(opinion._found)
    assert not any(name.endswith("other_category") for name in opinion.looks.columns)


def test_boxes_are_sorted_by_image_and_know_what_stands_on_nothing(opinion: CropOpinion) -> None:
    assert (np.diff(opinion.boxes.image_index) >= 0).all()
    assert opinion.background.sum() == (opinion._looks.kind == "spurious").sum()


@pytest.mark.trained
def test_crops_take_over_only_what_they_know(opinion: CropOpinion) -> None:
    weak = np.array([True, False, True, False, False])
    facts = opinion.describe(tuple("abcde"), weak, {"a": 0.1, "b": 0.9, "c": None, "d": 0.8, "e": 0.8})
    assert [entry["category"] for entry in facts["weak"]] == ["a", "c"]
    assert [entry["category"] for entry in facts["took_over"]] == ["c"]  # 'a' looks like anything, and its crops do not know it either
    expect("agreement of what takes over", facts["took_over"][0]["agreement"], least=GOOD_AGREEMENT)  # 0.6; ten seeds: 0.99 to 1
    expect("agreement of what looks like anything", facts["weak"][0]["agreement"], most=GOOD_AGREEMENT)  # ten seeds: 0 to 0.03
    assert facts["took_over"][0]["ap"] == 0
    pairs = facts["light"]["overlapping"]
    assert {name for pair in pairs for name in (pair["first"], pair["second"])} <= set("abcde")
    assert any("a" in (pair["first"], pair["second"]) for pair in pairs)


def test_a_trained_classifier_is_heard_as_well(opinion: CropOpinion) -> None:
    count = len(opinion.boxes)
    probability = np.full((1, count, 6), 0.02)
    probability[0, np.arange(count), opinion.boxes.category] = 0.9
    again = CropOpinion(opinion._looks, opinion._found, 5)
    again.hear_probability(probability)
    np.testing.assert_allclose(again.looks["trained_crop_self_confidence"].to_numpy(), 0.9)
    facts = again.describe(tuple("abcde"), np.ones(5, bool), dict.fromkeys("abcde", 0.0))
    assert len(facts["took_over"]) == 5


def test_weak_categories_have_poor_detections_and_examples_enough() -> None:
    category = np.repeat([0, 1, 2, 3], [FEW_ANNOTATIONS, FEW_ANNOTATIONS - 1, 50, 50])
    np.testing.assert_array_equal(find_weak_categories(category, [0.1, 0.1, 0.9, None, None]), [True, False, False, True, False])
