"""How good out-of-fold detections are, by the annotations as they are given: COCO's average precision, from pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from detclean.boxes import Boxes, Floats, Ints, Mask, xyxy_to_xywh
from detclean.dataset import Dataset

DETECTIONS_AN_IMAGE = 100  # per category, as COCO counts


def held_out_quality(dataset: Dataset, boxes: Boxes, folds: Ints) -> list[dict[str, Any]]:
    """Average precision of each fold's detections: `[{"repeat", "fold", "images", "map50", "map"}, ...]`.

    folds: (repeats, N), the fold of each image; boxes without `repeat` (brought by the user) count for every repeat. map50 is at an
    IoU of 0.5, map the mean over 0.5 to 0.95, both over the categories that the fold's annotations have; None where they have none.
    """
    rows = []
    for repeat, fold_of in enumerate(folds):
        seen = boxes if boxes.repeat is None else boxes[boxes.repeat == repeat]
        for fold in np.unique(fold_of):
            chosen = fold_of == fold
            map50, mean = _summarise(_evaluate(dataset, seen, chosen))
            rows.append({"repeat": repeat, "fold": int(fold), "images": int(chosen.sum()), "map50": map50, "map": mean})
    return rows


def category_quality(dataset: Dataset, boxes: Boxes) -> dict[str, float | None]:
    """Average precision at an IoU of 0.5 by category, all folds together, the mean over repeats; None for one without annotations."""
    repeats = [boxes] if boxes.repeat is None else [boxes[boxes.repeat == repeat] for repeat in np.unique(boxes.repeat)] or [boxes]
    everything = np.ones(dataset.image_count, bool)
    precisions = [_evaluate(dataset, seen, everything)[0] for seen in repeats]  # (recall levels, K) each
    means = [[_mean(precision[:, category]) for category in range(len(dataset.categories))] for precision in precisions]
    return {name: _mean_of(column) for name, column in zip(dataset.categories, zip(*means, strict=True), strict=True)}


def _summarise(precision: Floats) -> tuple[float | None, float | None]:
    return _mean(precision[0]), _mean(precision)


def _mean(precision: Floats) -> float | None:
    """The mean where there is one: COCO marks a category without annotations by -1."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _evaluate(dataset: Dataset, boxes: Boxes, chosen: Mask) -> Floats:
    """COCO's precision on the chosen images (N,): (10 IoU thresholds, 101 recall levels, K), -1 for categories without annotations."""
    from pycocotools.cocoeval import COCOeval

    annotations = dataset.annotations[chosen[dataset.annotations.image_index]]
    detections = boxes[chosen[boxes.image_index]]
    images = [{"id": int(index)} for index in np.flatnonzero(chosen)]
    categories = [{"id": category, "name": name} for category, name in enumerate(dataset.categories)]
    if not len(annotations):
        return np.full((10, 101, len(categories)), -1.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints whatever it does
        evaluation = COCOeval(_as_coco(annotations, images, categories), _as_coco(detections, images, categories), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [DETECTIONS_AN_IMAGE]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: Floats = evaluation.eval["precision"][:, :, :, 0, 0]
    return precision


def _as_coco(boxes: Boxes, images: list[dict[str, Any]], categories: list[dict[str, Any]]) -> Any:
    """Boxes as pycocotools wants them: a dict each, ids from 1, as it takes a match with id 0 for none."""
    from pycocotools.coco import COCO

    xywh = np.maximum(xyxy_to_xywh(boxes.xyxy), [-np.inf, -np.inf, 0, 0])
    crowd = np.zeros(len(boxes), bool) if boxes.is_crowd is None else boxes.is_crowd
    score = np.ones(len(boxes)) if boxes.score is None else boxes.score
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score")
    columns = (np.arange(1, len(boxes) + 1), boxes.image_index, boxes.category, xywh, xywh[:, 2:].prod(axis=1), crowd.astype(int), score)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": [dict(zip(names, row, strict=True)) for row in rows]}
    coco.createIndex()
    return coco
