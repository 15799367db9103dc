"""The fast engine against cleanlab's own functions: the same numbers, the same NaN, the same flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import detect, make_case, make_truth

from detclean.boxes import Boxes
from detclean.formats import read_dataset
from detclean.score.objectlab import ObjectLabScores, compute_objectlab_scores

SHARED = Path(__file__).resolve().parents[2] / "shared"
DIGITS = Path(__file__).resolve().parents[1] / "data" / "digits" / "data.yaml"


def assert_equal(fast: ObjectLabScores, slow: ObjectLabScores) -> None:
    for name in ("swap", "badloc", "overlooked", "image"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=0, atol=1e-6, err_msg=name)  # NaN equals NaN only
    np.testing.assert_array_equal(fast.image_flag, slow.image_flag)


def both(annotations: Boxes, detections: Boxes, images: int, categories: int, stretched: bool = False) -> ObjectLabScores:
    confidences = None if stretched else np.asarray(detections.score)
    fast, slow = (
        compute_objectlab_scores(annotations, detections, images, categories, confidences=confidences, engine=engine)
        for engine in ("fast", "cleanlab")
    )
    assert_equal(fast, slow)
    return slow


@st.composite
def boxes_of(draw: st.DrawFn, images: int, categories: int, most: int, scored: bool) -> Boxes:
    """Boxes that touch, repeat, contain each other and have no area; confidences that tie and stand on the cut-offs."""
    n = draw(st.integers(0, most))
    corner = draw(st.lists(st.tuples(*[st.integers(0, 12)] * 2), min_size=n, max_size=n))
    side = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=n, max_size=n))
    scale = draw(st.sampled_from([1.0, 7.3, 60.0]))
    low = scale * np.array(corner, float).reshape(-1, 2)
    columns: dict[str, Any] = {
        "image_index": draw(st.lists(st.integers(0, images - 1), min_size=n, max_size=n)),
        "category": draw(st.lists(st.integers(0, categories - 1), min_size=n, max_size=n)),
        "xyxy": np.concatenate([low, low + scale * np.array(side, float).reshape(-1, 2)], axis=1),
    }
    if scored:
        known = st.sampled_from([0.05, 0.3, 0.5, 0.51, 0.7, 0.9, 0.95, 0.951, 1.0])
        columns["score"] = np.array(draw(st.lists(known | st.floats(0.03, 1.0), min_size=n, max_size=n)), float)
    return Boxes.sorted(**{name: np.asarray(column) for name, column in columns.items()})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_equal_on_random_input(data: st.DataObject) -> None:
    images, categories = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    annotations = data.draw(boxes_of(images, categories, 14, scored=False))
    detections = data.draw(boxes_of(images, categories, 30, scored=True))
    both(annotations, detections, images, categories, stretched=data.draw(st.booleans()))


def test_equal_where_many_detections_of_one_object_tie() -> None:
    """More equals than a sort of few elements keeps in order: who of them matches decides where the true positive stands."""
    rng = np.random.default_rng(3)
    n, m = 12, 900
    corner = rng.integers(0, 40, (n, 2)).astype(float)
    annotations = Boxes.sorted(image_index=rng.integers(0, 3, n), category=rng.integers(0, 2, n), xyxy=np.hstack([corner, corner + 30]))
    which = rng.integers(0, n, m)
    detections = Boxes.sorted(
        image_index=annotations.image_index[which],
        category=annotations.category[which],
        xyxy=annotations.xyxy[which] + rng.integers(-6, 7, (m, 4)),
        score=rng.choice([0.6, 0.7, 0.96], m),
    )
    both(annotations, detections, 3, 2)


def test_equal_on_a_simulated_data_set() -> None:
    dataset, found, _, _ = make_case(60)
    slow = both(dataset.annotations, found, dataset.image_count, 5, stretched=True)
    assert slow.image_flag.any()
    assert (slow.swap < 1).any()
    assert np.isfinite(slow.overlooked).any()


def test_equal_without_crowds() -> None:
    truth, sizes = make_truth(12)
    found = detect(truth, sizes)
    crowd = np.arange(len(truth)) % 4 == 0
    both(Boxes(truth.image_index, truth.category, truth.xyxy, is_crowd=crowd), found, 12, 5, stretched=True)


@pytest.mark.parametrize("data", [DIGITS, SHARED / "bccd"], ids=["digits", "bccd"])
def test_equal_on_real_annotations(data: Path) -> None:
    """The annotations of a data set, with detections made from them: some missing, some moved, some renamed, and noise."""
    if not data.exists():
        pytest.skip(f"{data} is not here")
    dataset = read_dataset(data, None)
    part = dataset.select_images(np.arange(dataset.image_count) < 60)
    found = detect(part.annotations, part.sizes, categories=len(part.categories))
    slow = both(part.annotations, found, part.image_count, len(part.categories), stretched=True)
    assert (slow.badloc < 1).any()


def test_the_engine_is_told_apart() -> None:
    truth, sizes = make_truth(4)
    with pytest.raises(KeyError):
        compute_objectlab_scores(truth, detect(truth, sizes), 4, 5, engine="quick")  # type: ignore[arg-type]
