"""Detections that the user brings, in both forms, and what is said where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.errors import DatasetError
from detclean.formats import read_detections


def make_dataset(file_names: list[str], image_ids: list[Any] | None = None, category_ids: tuple[Any, ...] = (4, 2)) -> Dataset:
    ids = file_names if image_ids is None else image_ids
    images = pl.DataFrame({"image_id": ids, "file_name": file_names, "width": [40] * len(ids), "height": [20] * len(ids)})
    kind: Any = "yolo" if image_ids is None else "coco"
    return Dataset(images, ("cat", "dog"), Boxes.empty(), np.empty(0, np.int64), kind, Path("x"), category_ids)


def make_record(image_id: Any, category_id: Any = 4, **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [1, 2, 3, 4], "score": 0.5} | more


def write_json(folder: Path, content: Any) -> Path:
    (folder / "results.json").write_text(json.dumps(content))
    return folder / "results.json"


COCO = make_dataset(["a.png", "b.png"], [30, 10])
YOLO = make_dataset(["images/train/000017.png", "images/train/b.png"], None, (0, 1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_coco_results(tmp_path: Path, wrapped: bool) -> None:
    records = [make_record(10, 2, score=0.9), make_record(30, 4), make_record(99, 77), make_record(10, 4, score=1, bbox=[0.5, 0, 1, 1])]
    boxes = read_detections(write_json(tmp_path, {"annotations": records} if wrapped else records), COCO)
    assert boxes.image_index.tolist() == [0, 1, 1]
    assert boxes.category.tolist() == [0, 1, 0]
    assert boxes.xyxy.tolist() == [[1, 2, 4, 6], [1, 2, 4, 6], [0.5, 0, 1.5, 1]]
    assert boxes.score is not None
    assert boxes.score.tolist() == [0.5, 0.9, 1]
    assert boxes.class_scores is None


@pytest.mark.parametrize("key", ["scores", "class_scores"])
def test_class_scores_where_every_record_has_them(tmp_path: Path, key: str) -> None:
    vectors = [[0.1, 0.9], [0.8, 0.2]]
    records = [make_record(10, **{key: vectors[0]}), make_record(30, **{key: vectors[1]})]
    boxes = read_detections(write_json(tmp_path, records), COCO)
    assert boxes.class_scores is not None
    assert boxes.class_scores.tolist() == vectors[::-1]
    del records[0][key]
    assert read_detections(write_json(tmp_path, records), COCO).class_scores is None


@pytest.mark.parametrize("image_id", ["images/train/000017.png", "images/train/000017", "000017.png", "000017", 17])
def test_images_of_a_yolo_set_are_named_in_many_ways(tmp_path: Path, image_id: Any) -> None:
    boxes = read_detections(write_json(tmp_path, [make_record(image_id, 1)]), YOLO)
    assert boxes.image_index.tolist() == [0]
    assert boxes.category.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([make_record(10), make_record(30, 77)], "record 1: category_id 77 is none of the data set's (4, 2)"),
        ([make_record(10, score=1.5)], "record 0: confidence 1.5"),
        ([make_record(10, score=float("nan"))], "record 0: score holds NaN"),
        ([make_record(10, bbox=[1, 2, 3])], "record 0: bbox has to be 4 numbers"),
        ([make_record(10, bbox=[1, 2, 3, "4"])], "record 0: bbox has to be 4 numbers"),
        ([make_record(10, scores=[0.1])], "record 0: scores has to be 2 numbers"),
        ([make_record(10, score="high")], "record 0: score has to be a number"),
        ([{"image_id": 10}], "record 0 lacks"),
        ([make_record("a"), make_record("b")], "image_id a there, image_id 30 here"),
        ([], "holds no detection"),
        ({"predictions": []}, "is no list of detections"),
    ],
)
def test_results_that_do_not_fit(tmp_path: Path, content: Any, part: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_detections(write_json(tmp_path, content), COCO)
    assert part in str(caught.value)
    assert "results.json" in str(caught.value)


def test_stems_of_coco_images_are_no_ids(tmp_path: Path) -> None:
    """Running numbers of another data set must not pass for the numbers in file names."""
    with pytest.raises(DatasetError, match="ids probably differ"):
        read_detections(write_json(tmp_path, [make_record(1)]), make_dataset(["0001.png"], [500]))


def test_counting_from_one_is_explained_for_yolo(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="counts from 1"):
        read_detections(write_json(tmp_path, [make_record("b", 1), make_record("b", 2)]), YOLO)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.json: does not exist"):
        read_detections(tmp_path / "gone.json", COCO)


# Label files with confidences


def write_rows(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_label_files_with_confidences(tmp_path: Path) -> None:
    files = {"b.txt": "1 0.5 0.5 0.25 0.5 0.75\n\n0 0.5 0.5 1 1 0.25", "000017.txt": "0 0.25 0.25 0.1 0.2 1\n", "other.txt": "9 9 9 9 9 9"}
    boxes = read_detections(write_rows(tmp_path, files), YOLO)
    assert boxes.image_index.tolist() == [0, 1, 1]
    assert boxes.category.tolist() == [0, 1, 0]
    np.testing.assert_allclose(boxes.xyxy, [[8, 3, 12, 7], [15, 5, 25, 15], [0, 0, 40, 20]])
    assert boxes.score is not None
    assert boxes.score.tolist() == [1, 0.75, 0.25]


def test_files_are_matched_by_path_before_stem(tmp_path: Path) -> None:
    dataset = make_dataset(["train/x/a.png", "train/y/a.png"], None, (0, 1))
    row = "1 0.5 0.5 0.25 0.5 0.75"
    boxes = read_detections(write_rows(tmp_path / "paths", {"y/a.txt": row, "val/a.txt": row}), dataset)
    assert boxes.image_index.tolist() == [1]
    with pytest.raises(DatasetError, match=r"a\.txt: may belong to train/x/a\.png or train/y/a\.png"):
        read_detections(write_rows(tmp_path / "stems", {"labels/a.txt": row}), dataset)
    assert len(read_detections(write_rows(tmp_path / "deep", {"labels/b.txt": row}), YOLO)) == 1


def test_files_without_any_detection(tmp_path: Path) -> None:
    boxes = read_detections(write_rows(tmp_path, {"b.txt": ""}), YOLO)
    assert len(boxes) == 0
    assert boxes.score is not None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0 0.5 0.5 0.1 0.1", "b.txt:1: 5 columns"),
        ("\n2 0.5 0.5 0.1 0.1 0.5", "b.txt:2: category 2, but the data set names 2 (0 to 1)"),
        ("0 0.5 0.5 0.1 0.1 7", "confidence 7"),
        ("0 0.5 nan 0.1 0.1 0.5", "b.txt:1: holds NaN"),
        ("0 0.5 x 0.1 0.1 0.5", "is no number"),
    ],
)
def test_label_files_that_do_not_fit(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read_detections(write_rows(tmp_path, {"b.txt": text}), YOLO)
    assert part in str(caught.value)


def test_folders_of_other_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no"):
        read_detections(tmp_path, YOLO)
    with pytest.raises(DatasetError, match=r"zz\.txt there, images/train/000017\.png here"):
        read_detections(write_rows(tmp_path, {"zz.txt": "0 0.5 0.5 0.1 0.1 0.5"}), YOLO)
