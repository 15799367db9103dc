"""What stands in for looking at pictures: given detections taken for a detector's raw output."""

from __future__ import annotations

import numpy as np
import polars as pl

from detclean.boxes import Boxes
from detclean.detect.locations import COLUMNS, examine_locations
from detclean.detect.yolo import Predictions


def as_predictions(detections: Boxes, looks: Boxes, image_count: int) -> Predictions:
    """Predictions of one repeat, all out of fold, whose raw output is the detections with their full score vectors and nothing else."""
    zeros = np.zeros(len(looks), np.int64)
    rows = pl.DataFrame({"row": np.arange(len(looks)), "repeat": zeros, "fold": zeros, "held_out": zeros == 0})
    at_looks, at_detections = _examine(detections, looks, image_count), _examine(detections, detections, image_count)
    return Predictions(detections, at_detections.rename({name: f"raw_{name}" for name in COLUMNS}), rows.hstack(at_looks))


def _examine(detections: Boxes, boxes: Boxes, image_count: int) -> pl.DataFrame:
    """One row a box: both tables sorted by image."""
    assert detections.class_scores is not None
    parts = [
        examine_locations(detections.xyxy[seen], detections.class_scores[seen], boxes.xyxy[asked], boxes.category[asked])
        for seen, asked in zip(detections.by_image(image_count), boxes.by_image(image_count), strict=True)
    ]
    return pl.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})
