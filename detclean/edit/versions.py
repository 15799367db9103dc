"""The labels in memory as each strategy would leave them, and controls that throw as much away at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Mask, clip_boxes
from detclean.dataset import Dataset, Edit
from detclean.edit.proposals import Cleaning
from detclean.formats.records import require


def clean_in_memory(dataset: Dataset, cleaning: Cleaning) -> Dataset:
    """The data set after its edits, without the dropped images; "review" edits change nothing. It has no source to be patched."""
    edited = _edit_annotations(dataset, cleaning.edits)
    kept = np.ones(dataset.image_count, bool)
    kept[list(cleaning.drop_images)] = False
    changed = replace(dataset, annotations=edited, source_rows=np.arange(len(edited)), format="memory")
    return changed if kept.all() else changed.select_images(kept)


def count_touched(cleaning: Cleaning) -> int:
    """Annotations that a cleaning changes or deletes; of one that does neither, how many it adds."""
    touched = {edit.annotation for edit in cleaning.edits if edit.annotation is not None and edit.action != "review"}
    return len(touched) or sum(edit.action == "add" for edit in cleaning.edits)


def draw_control(dataset: Dataset, cleaning: Cleaning, rng: np.random.Generator) -> Cleaning:
    """As many images thrown away at random as a cleaning drops, or as many annotations as it touches."""
    if cleaning.drop_images:
        images = rng.choice(dataset.image_count, len(cleaning.drop_images), replace=False)
        return Cleaning((), tuple(sorted(images.tolist())))
    count = len(dataset.annotations)
    annotations = rng.choice(count, min(count_touched(cleaning), count), replace=False)
    owner = dataset.annotations.image_index
    return Cleaning(tuple(Edit("delete", int(owner[i]), int(i)) for i in sorted(annotations.tolist())), ())


def _edit_annotations(dataset: Dataset, edits: Sequence[Edit]) -> Boxes:
    boxes = dataset.annotations
    category, xyxy = boxes.category.copy(), boxes.xyxy.copy()
    kept: Mask = np.ones(len(boxes), bool)
    added = [edit for edit in edits if edit.action == "add"]
    for edit in edits:
        if edit.annotation is None:
            continue
        if edit.action == "delete":
            kept[edit.annotation] = False
        if edit.action == "relabel":
            category[edit.annotation] = require(edit.category)
        if edit.action == "move":
            xyxy[edit.annotation] = require(edit.xyxy)
    crowd = np.zeros(len(boxes), bool) if boxes.is_crowd is None else boxes.is_crowd
    image = np.concatenate([boxes.image_index[kept], np.array([edit.image_index for edit in added], np.int64)])
    corners = np.concatenate([xyxy[kept], np.array([edit.xyxy for edit in added], np.float64).reshape(-1, 4)])
    return Boxes.sorted(
        image_index=image,
        category=np.concatenate([category[kept], np.array([edit.category for edit in added], np.int64)]),
        xyxy=clip_boxes(corners, dataset.sizes[image]),
        annotation_id=np.arange(len(image)),
        is_crowd=np.concatenate([crowd[kept], np.zeros(len(added), bool)]),
    )


def join_with_test(train: Dataset, test: Dataset) -> tuple[Dataset, Mask]:
    """Both as one data set, the images to train on first, and which of its images are those of the test: (N,)."""
    columns = ["image_id", "file_name", "path", "label_path", "width", "height", "split"]
    images = pl.concat([train.images.select(columns), test.images.select(columns)])
    offset = train.image_count
    parts = [(train.annotations, 0), (test.annotations, offset)]
    crowds = [np.zeros(len(boxes), bool) if boxes.is_crowd is None else boxes.is_crowd for boxes, _ in parts]
    annotations = Boxes(
        image_index=np.concatenate([boxes.image_index + shift for boxes, shift in parts]),
        category=np.concatenate([boxes.category for boxes, _ in parts]),
        xyxy=np.concatenate([boxes.xyxy for boxes, _ in parts]),
        annotation_id=np.arange(sum(len(boxes) for boxes, _ in parts)),
        is_crowd=np.concatenate(crowds),
    )
    joined = replace(train, images=images, annotations=annotations, source_rows=np.arange(len(annotations)), format="memory")
    return joined, np.arange(images.height) >= offset
