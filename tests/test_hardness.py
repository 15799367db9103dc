"""Hardness: entropy and disagreement of models, and images ranked by them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from detclean.boxes import Boxes
from detclean.score.hardness import compute_annotation_hardness, compute_entropy, find_objects, rank_images

SURE, TORN, FAINT = [0.98, 0.01], [0.5, 0.5], [0.04, 0.01]
PLACE = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [60.0, 10.0, 90.0, 50.0]


def detections(*rows: tuple[int, list[float], list[float]], vectors: bool = True) -> Boxes:
    """(image, box, scores of two categories), sorted by image."""
    scores = np.array([row[2] for row in rows]).reshape(-1, 2)
    return Boxes(
        np.array([row[0] for row in rows], np.int64),
        scores.argmax(axis=1) if len(rows) else np.empty(0, np.int64),
        np.array([row[1] for row in rows]).reshape(-1, 4),
        score=scores.max(axis=1, initial=0.0),
        class_scores=scores if vectors else None,
    )


def entropy(*shares: float) -> float:
    values = np.array(shares) / sum(shares)
    return float(-(values * np.log(np.maximum(values, 1e-12))).sum() / np.log(3))


def test_entropy_is_a_share_of_the_largest_there_can_be() -> None:
    boxes = detections((0, PLACE, [1.0, 0.0]), (0, PLACE, [0.5, 0.5]), (0, PLACE, SURE))
    found = compute_entropy(boxes, np.arange(3), 2)
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[1] == pytest.approx(1)  # as likely either as nothing at all
    assert found[2] == pytest.approx(entropy(0.98, 0.01, 0.02))


def test_without_vectors_a_score_stands_against_the_background() -> None:
    boxes = detections((0, PLACE, [0.5, 0.1]), (0, ELSEWHERE, [0.1, 0.9]), vectors=False)
    assert compute_entropy(boxes, np.arange(2), 2) == pytest.approx([entropy(0.5, 0.5), entropy(0.9, 0.1)])
    assert find_objects(boxes, 2).hardness == pytest.approx([entropy(0.5, 0.5), entropy(0.9, 0.1)])


def test_an_annotation_that_nobody_sees_is_as_hard_as_can_be() -> None:
    given = Boxes(np.array([0, 0]), np.array([0, 1]), np.array([PLACE, ELSEWHERE]))
    assert compute_annotation_hardness(given, detections((0, PLACE, SURE)), 2) == pytest.approx([entropy(0.98, 0.01, 0.02), 1])


def test_one_object_is_counted_once_however_many_categories_are_seen_in_it() -> None:
    shifted = [12.0, 10.0, 52.0, 50.0]
    boxes = detections((0, PLACE, [0.6, 0.3]), (0, shifted, [0.2, 0.5]), (0, ELSEWHERE, SURE), (1, PLACE, FAINT))
    seen = find_objects(boxes, 2)
    assert seen.boxes.xyxy.tolist() == [PLACE, ELSEWHERE]
    assert seen.hardness == pytest.approx([entropy(0.6, 0.3, 0.4), entropy(0.98, 0.01, 0.02)])
    assert np.isnan(seen.disagreement).all()  # one model has nobody to disagree with


def test_hardness_is_what_models_doubt_and_where_they_disagree() -> None:
    boxes = detections(
        (0, PLACE, [1.0, 0.0]), (0, PLACE, [0.0, 1.0]), (1, PLACE, TORN), (1, PLACE, TORN), (2, PLACE, SURE), (2, PLACE, SURE)
    )
    seen = find_objects(boxes, 2, np.array([0, 1, 0, 1, 0, 1]))
    assert seen.boxes.image_index.tolist() == [0, 1, 2]
    assert seen.entropy == pytest.approx([0, 1, entropy(0.98, 0.01, 0.02)], abs=1e-9)
    assert seen.disagreement == pytest.approx([np.log(2) / np.log(3), 0, 0], abs=1e-9)
    assert seen.hardness == pytest.approx(seen.entropy + seen.disagreement)


def test_a_model_that_sees_nothing_there_disagrees() -> None:
    boxes = detections((0, PLACE, [1.0, 0.0]))
    alone, one_of_three = find_objects(boxes, 2), find_objects(boxes, 2, np.array([0]), 3)
    assert np.isnan(alone.disagreement).all()
    assert one_of_three.disagreement == pytest.approx([entropy(1, 0, 2)])
    assert one_of_three.entropy == pytest.approx([0], abs=1e-9)


def test_images_are_ranked_in_total_and_by_category() -> None:
    boxes = detections((0, PLACE, SURE), (1, PLACE, TORN), (1, ELSEWHERE, SURE), (2, PLACE, [0.1, 0.8]))
    given = Boxes(np.array([0, 3]), np.array([1, 0]), np.array([PLACE, PLACE]))
    ranked = rank_images(find_objects(boxes, 2), 4, 2, given)
    whole = ranked.filter(pl.col("category").is_null())
    assert whole["image_index"].to_list() == [2, 1, 0, 3]
    assert whole["rank"].to_list() == [1, 2, 3, 4]
    assert whole["objects"].to_list() == [1, 2, 1, 0]
    assert whole["hardness"][1] == pytest.approx((1 + entropy(0.98, 0.01, 0.02)) / 2)
    assert whole["hardness"][3] is None  # nothing is seen, so nothing is said
    first = ranked.filter(pl.col("category") == 0)
    assert first.select("image_index", "rank", "objects").rows() == [(1, 1, 2), (0, 2, 1), (3, 3, 0)]  # 3: annotated, and not seen
    second = ranked.filter(pl.col("category") == 1)
    assert second["image_index"].to_list() == [2, 0]  # 0: what lies on an annotation of it
    assert ranked["category"].to_list() == [None] * 4 + [0] * 3 + [1] * 2


def test_nothing_detected_at_all() -> None:
    ranked = rank_images(find_objects(detections(), 2), 2, 2)
    assert ranked.select("image_index", "rank", "hardness", "objects").rows() == [(0, 1, None, 0), (1, 2, None, 0)]


def test_hardness_is_the_same_however_much_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (80, 2))
    scores = rng.uniform(0, 0.6, (80, 3))
    boxes = Boxes.sorted(
        image_index=rng.integers(0, 5, 80),
        category=scores.argmax(axis=1),
        xyxy=np.hstack([corner, corner + rng.uniform(20, 40, (80, 2))]),
        score=scores.max(axis=1),
        class_scores=scores,
    )
    judges = rng.integers(0, 3, 80)
    at_once = find_objects(boxes, 3, judges)
    monkeypatch.setattr("detclean.score.hardness.ROWS_AT_ONCE", 7)
    in_parts = find_objects(boxes, 3, judges)
    assert len(at_once.boxes) > 10
    assert in_parts.hardness == pytest.approx(at_once.hardness)
    assert (at_once.hardness >= 0).all()
    assert (at_once.hardness <= 1).all()
    assert (at_once.disagreement > 0).any()
