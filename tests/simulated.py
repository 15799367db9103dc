"""A data set and a detector that exist in memory only: scenes of random boxes, planted errors, and detections as a YOLO would give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from trained import SEED

from detclean.boxes import Boxes, clip_boxes
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.score.matching import overlapping_pairs
from detclean.score.planting import Planted, plant_errors

WIDTH, HEIGHT = 320, 240


def make_truth(images: int = 120, per_image: int = 7, categories: int = 5, seed: int = 0) -> tuple[Boxes, np.ndarray]:
    """True boxes, few of which overlap, and the images' sizes."""
    rng = np.random.default_rng(seed + 1000 * SEED)
    n = images * per_image
    side = np.exp(rng.uniform(np.log(18), np.log(70), (n, 1))) * rng.uniform(0.8, 1.25, (n, 2))
    corner = rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - side)
    boxes = Boxes(
        np.repeat(np.arange(images), per_image), rng.integers(categories, size=n), np.concatenate([corner, corner + side], axis=1)
    )
    first, second, _ = overlapping_pairs(boxes, boxes, 0.25)
    crowded = np.zeros(n, bool)
    crowded[second[first < second]] = True
    return boxes[~crowded], np.tile([float(WIDTH), float(HEIGHT)], (images, 1))


def detect(truth: Boxes, sizes: np.ndarray, categories: int = 5, seed: int = 1, seen: float = 0.93) -> Boxes:
    """Detections of the true objects with modest confidences, full score vectors, misses, confusions and false alarms."""
    rng = np.random.default_rng(seed + 1000 * SEED)
    found = truth[rng.random(len(truth)) < seen]
    side = np.tile(found.xyxy[:, 2:] - found.xyxy[:, :2], 2)
    xyxy = clip_boxes(found.xyxy + rng.normal(0, 0.04, side.shape) * side, sizes[found.image_index])
    alarms = plant_errors(truth, sizes, categories, {"spurious": 0.3}, rng)
    false = alarms.annotations[alarms.kind == "spurious"]
    vectors = rng.beta(1, 40, (len(found) + len(false), categories))
    strength = np.concatenate([0.9 * rng.beta(7, 3, len(found)), 0.5 * rng.beta(1, 8, len(false))])
    category = np.concatenate([found.category, false.category])
    confused = rng.random(len(category)) < 0.04
    category[confused] = (category[confused] + 1) % categories
    strength[confused] *= 0.5  # a detector that errs is seldom sure
    vectors[np.arange(len(category)), category] = strength
    return Boxes.sorted(
        image_index=np.concatenate([found.image_index, false.image_index]),
        category=vectors.argmax(axis=1),
        xyxy=np.concatenate([xyxy, false.xyxy]),
        score=vectors.max(axis=1),
        class_scores=vectors,
        fold=np.zeros(len(category), np.int64),
        repeat=np.zeros(len(category), np.int64),
    )


def as_dataset(annotations: Boxes, sizes: np.ndarray, categories: int = 5) -> Dataset:
    """A data set in memory with these annotations and no pictures."""
    names = [f"{i:04d}.jpg" for i in range(len(sizes))]
    images = pl.DataFrame(
        {
            "image_id": pl.Series(range(len(sizes)), dtype=pl.Int64),
            "file_name": names,
            "path": pl.Series([None] * len(names), dtype=pl.String),
            "label_path": pl.Series([None] * len(names), dtype=pl.String),
            "width": pl.Series(sizes[:, 0].astype(int)),
            "height": pl.Series(sizes[:, 1].astype(int)),
            "split": pl.Series([None] * len(names), dtype=pl.String),
        }
    )
    columns = annotations.columns() | {"annotation_id": np.arange(len(annotations)) + 100}
    return Dataset(
        images, tuple(f"kind{i}" for i in range(categories)), Boxes(**columns), np.arange(len(annotations)), "memory", Path("memory")
    )


def make_case(images: int = 120, rate: float = 0.04, seed: int = 0) -> tuple[Dataset, Boxes, Planted, Boxes]:
    """A data set with planted errors, detections that never saw them, what was planted, and the true boxes."""
    truth, sizes = make_truth(images, seed=seed)
    planted = plant_errors(truth, sizes, 5, dict.fromkeys(ISSUE_TYPES, rate), np.random.default_rng(seed + 10 + 1000 * SEED))
    return as_dataset(planted.annotations, sizes), detect(truth, sizes, seed=seed + 20), planted, truth
