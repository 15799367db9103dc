"""Average precision on columns against pycocotools' own."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from simulated import as_dataset, detect, make_truth

from detclean.boxes import Boxes, xyxy_to_xywh
from detclean.detect import quality
from detclean.detect.quality import measure_quality


def as_coco(boxes: Boxes, images: int, categories: int) -> Any:
    crowd = np.zeros(len(boxes), bool) if boxes.is_crowd is None else boxes.is_crowd
    score = np.ones(len(boxes)) if boxes.score is None else boxes.score
    records = [
        {"id": i + 1, "image_id": int(boxes.image_index[i]), "category_id": int(boxes.category[i]), "score": float(score[i])}
        | {"bbox": xywh.tolist(), "area": float(xywh[2] * xywh[3]), "iscrowd": int(crowd[i])}
        for i, xywh in enumerate(xyxy_to_xywh(boxes.xyxy))
    ]
    coco = COCO()
    known = {"images": [{"id": i} for i in range(images)], "categories": [{"id": k} for k in range(categories)]}
    coco.dataset = known | {"annotations": records}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def reference(annotations: Boxes, detections: Boxes, images: int, categories: int) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(as_coco(annotations, images, categories), as_coco(detections, images, categories), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [quality.DETECTIONS_AN_IMAGE]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"][:, :, :, 0, 0])


def compare(annotations: Boxes, detections: Boxes, images: int, categories: int) -> np.ndarray:
    dataset = as_dataset(annotations, np.full((images, 2), 100.0), categories)
    dataset = replace(dataset, annotations=annotations)
    ours = quality._accumulate(dataset, quality.match_detections(dataset, detections), np.ones(images, bool))
    theirs = reference(annotations, detections, images, categories)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    return ours


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_equal_on_random_input(data: st.DataObject) -> None:
    """Boxes that repeat, tie in confidence and in overlap, and crowds."""
    images, categories = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))

    def draw(n: int) -> dict[str, np.ndarray]:
        low = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=n, max_size=n)), float).reshape(-1, 2)
        side = np.array(data.draw(st.lists(st.tuples(*[st.integers(1, 8)] * 2), min_size=n, max_size=n)), float).reshape(-1, 2)
        image = np.array(data.draw(st.lists(st.integers(0, images - 1), min_size=n, max_size=n)), int)
        category = np.array(data.draw(st.lists(st.integers(0, categories - 1), min_size=n, max_size=n)), int)
        return {"image_index": image, "category": category, "xyxy": np.hstack([low, low + side])}

    n, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 25))
    crowd = np.array(data.draw(st.lists(st.sampled_from([False, False, False, True]), min_size=n, max_size=n)), bool)
    score = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=m, max_size=m)), float)
    compare(Boxes.sorted(**draw(n), is_crowd=crowd), Boxes.sorted(**draw(m), score=score), images, categories)


def test_equal_on_a_simulated_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "IMAGES_AT_ONCE", 7)  # the images come in several parts
    truth, sizes = make_truth(40)
    precision = compare(truth, detect(truth, sizes), 40, 5)
    assert 0.3 < precision[0].mean() < 1


def test_no_more_than_a_hundred_detections_of_an_image_and_category_count() -> None:
    truth = Boxes(np.zeros(1), np.zeros(1), np.array([[0.0, 0, 10, 10]]))
    xyxy = np.tile([[50.0, 50, 60, 60]], (130, 1))
    xyxy[110] = [0, 0, 10, 10]  # the only hit comes too late
    many = Boxes(np.zeros(130), np.zeros(130), xyxy, score=np.linspace(0.9, 0.1, 130))
    assert compare(truth, many, 1, 1).max() == 0
    assert compare(truth, many[np.arange(130) > 20], 1, 1).max() > 0


def test_a_fold_is_judged_by_its_own_images() -> None:
    truth, sizes = make_truth(20)
    found, dataset = detect(truth, sizes), as_dataset(truth, sizes)
    folds = np.arange(20)[None] % 2
    rows = measure_quality(dataset, found, folds)["folds"]
    for row in rows:
        mask = folds[0] == row["fold"]
        own = reference(*(boxes[mask[boxes.image_index]] for boxes in (truth, found)), 20, 5)
        assert row["map50"] == pytest.approx(own[0][own[0] > -1].mean())
        assert row["map"] == pytest.approx(own[own > -1].mean())
    assert set(measure_quality(dataset, found, folds)["per_category"]) == set(dataset.categories)
