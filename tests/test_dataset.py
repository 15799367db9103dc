"""The data set in memory: parts of it, where its records stand, and its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from simulated import as_dataset

from detclean.boxes import Boxes
from detclean.dataset import Dataset, Finding, open_dataset, shorten_path, write_dataset


def small() -> Dataset:
    """Four images; image 1 is empty."""
    boxes = Boxes(
        np.array([0, 0, 2, 3]), np.array([0, 1, 2, 1]), np.arange(16).reshape(4, 4), is_crowd=np.array([False, True, False, False])
    )
    return as_dataset(boxes, np.tile([40.0, 30.0], (4, 1)), 3)


def test_a_part_counts_its_images_anew_and_keeps_the_ids() -> None:
    part = small().select_images(np.array([False, True, True, True]))
    assert part.image_count == 3
    assert part.images["image_id"].to_list() == [1, 2, 3]
    assert part.annotations.image_index.tolist() == [1, 2]
    assert part.annotations.annotation_id is not None
    assert part.annotations.annotation_id.tolist() == [102, 103]
    assert part.source_rows.tolist() == [2, 3]
    assert part.sizes.tolist() == [[40, 30]] * 3


@pytest.mark.parametrize("mask", [[False] * 4, [False, True, False, False]])
def test_a_part_may_be_empty(mask: list[bool]) -> None:
    part = small().select_images(np.array(mask))
    assert part.image_count == sum(mask)
    assert len(part.annotations) == len(part.source_rows) == 0
    assert part.sizes.shape == (sum(mask), 2)


def test_a_part_of_nothing() -> None:
    nothing = as_dataset(Boxes.empty(), np.zeros((0, 2)))
    assert nothing.select_images(np.zeros(0, bool)).image_count == 0
    assert nothing.split_mask("train").shape == (0,)


def test_splits_are_those_of_the_source() -> None:
    whole = small()
    assert whole.split_mask("train").all()  # a source without parts is one part
    parted = replace(whole, images=whole.images.with_columns(split=pl.Series(["train", None, "val", "train"])))
    assert parted.split_mask("train").tolist() == [True, False, False, True]
    assert parted.split_mask("all").all()
    assert not parted.split_mask("test").any()
    assert parted.select_split("train").images["image_id"].to_list() == [0, 3]


def test_where_an_annotation_stands(tmp_path: Path) -> None:
    memory = small()
    assert memory.describe_source(2) == "annotation 102"
    bare = replace(memory, annotations=replace(memory.annotations, annotation_id=None))
    assert bare.describe_source(2) == "annotation 2"
    paths = [str(tmp_path / "labels" / f"{i}.txt") for i in range(4)]
    images = memory.images.with_columns(label_path=pl.Series(paths))
    yolo = replace(memory, images=images, format="yolo", source=tmp_path / "data.yaml", source_rows=np.array([0, 4, 0, 2]))
    assert yolo.describe_source(1) == "labels/0.txt:5"  # a person counts lines from 1
    assert replace(yolo, format="voc").describe_source(3) == "labels/3.txt object 3"
    assert replace(yolo, format="coco").describe_source(3) == "annotation 103"


def test_paths_are_short_below_the_data_set_only(tmp_path: Path) -> None:
    assert shorten_path(tmp_path / "a" / "b.txt", tmp_path) == "a/b.txt"
    assert shorten_path(tmp_path / "a" / "b.txt", tmp_path / "a" / "data.yaml") == "b.txt"
    assert shorten_path(tmp_path / "c.txt", tmp_path / "a" / "data.yaml") == str(tmp_path / "c.txt")


@pytest.mark.parametrize("ids", [np.array([9, 0, 4, 2]), np.array(["a", "0", "é", "[x]"], dtype=object)])
def test_a_data_set_comes_back_from_its_folder(tmp_path: Path, ids: np.ndarray) -> None:
    folder = tmp_path / "stage [1]"
    folder.mkdir()
    made = small()
    made = replace(
        made,
        annotations=replace(made.annotations, annotation_id=ids),
        category_ids=(3, 1, 7),
        findings=(Finding("box-empty", "warning", "labels/a.txt:3", "an empty box; delete it"),),
    )
    write_dataset(made, folder)
    back = open_dataset(folder)
    assert back.images.equals(made.images)
    for name, column in made.annotations.columns().items():
        np.testing.assert_array_equal(back.annotations.columns()[name], column, err_msg=name)
    assert back.source_rows.tolist() == made.source_rows.tolist()
    assert (back.categories, back.category_ids, back.findings) == (made.categories, made.category_ids, made.findings)
    assert (back.format, back.source) == (made.format, made.source)
    assert str(back.findings[0]) == "labels/a.txt:3: an empty box; delete it"


def test_a_data_set_without_annotations_comes_back(tmp_path: Path) -> None:
    made = small().select_images(np.array([False, True, False, False]))
    write_dataset(made, tmp_path)
    back = open_dataset(tmp_path)
    assert len(back.annotations) == len(back.source_rows) == 0
    assert back.annotations.is_crowd is not None
    assert back.annotations.is_crowd.dtype == bool
