"""Detections that the user brings: COCO results, or YOLO label files with confidences."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from detclean.boxes import Boxes, Floats, Ints, cxcywhn_to_xyxy, xywh_to_xyxy
from detclean.dataset import Dataset
from detclean.errors import DatasetError
from detclean.formats.coco import is_id, load_json
from detclean.formats.imagefiles import drop_ending, list_files

COLUMNS = 6  # class cx cy w h confidence
SCORE_KEYS = ("class_scores", "scores")


def read_detections(predictions: str | Path, dataset: Dataset) -> Boxes:
    """The detections of the data set's images, with score, and with class_scores where every record has them; sorted by image.

    predictions: a JSON list of {image_id, category_id, bbox, score}, whose category_id is the data set's own (YOLO: counted from 0,
    VOC: the name), or a folder of label files `class cx cy w h confidence`, named like the images. What is detected on images that are
    not in the data set is left out.
    Raises DatasetError where a record cannot be read, names an unknown category, or none is of any image of the data set.
    """
    path = Path(predictions)
    if path.is_dir():
        return _read_folder(path, dataset)
    if not path.exists():
        raise DatasetError(f"{path}: does not exist; name with predictions= a COCO results file or a folder of YOLO label files")
    return _read_results(path, dataset)


def _read_results(path: Path, dataset: Dataset) -> Boxes:
    document = load_json(path)
    records = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(records, list):
        raise DatasetError(f"{path}: is no list of detections; a COCO results file is [{{image_id, category_id, bbox, score}}, ...]")
    if not records:
        raise DatasetError(f"{path}: holds no detection; save the detector's results down to a low confidence, such as 0.01")
    for i, record in enumerate(records):
        if not isinstance(record, dict) or not all(key in record for key in ("image_id", "category_id", "bbox", "score")):
            raise DatasetError(f"{path}: record {i} lacks image_id, category_id, bbox or score; write all four")
    image_index = _find_images([str(record["image_id"]) for record in records], dataset)
    kept = [i for i in np.argsort(image_index, kind="stable") if image_index[i] >= 0]
    if not kept:
        _refuse_strangers(path, f"image_id {records[0]['image_id']}", f"image_id {dataset.images['image_id'][0]}")
    chosen = [records[i] for i in kept]
    xywh = _numbers([record["bbox"] for record in chosen], 4, path, "bbox", kept)
    score = _numbers([[record["score"]] for record in chosen], 1, path, "score", kept)[:, 0]
    _check_scores(score, path, [f"record {i}" for i in kept])
    key = next((key for key in SCORE_KEYS if all(key in record for record in chosen)), None)
    vectors = _numbers([record[key] for record in chosen], len(dataset.categories), path, key, kept) if key else None
    return Boxes(
        image_index=image_index[kept],
        category=_find_categories([record["category_id"] for record in chosen], dataset, path, kept),
        xyxy=xywh_to_xyxy(xywh),
        score=score,
        class_scores=vectors,
    )


def _find_images(ids: list[str], dataset: Dataset) -> Ints:
    """The image of each id, -1 where the data set has none: by image id; outside COCO else by file name, less its folders or ending."""
    image_ids = [str(image_id) for image_id in dataset.images["image_id"].to_list()]
    file_names = dataset.images["file_name"].to_list()
    stems = [Path(name).stem for name in file_names]
    schemes: list[list[str]] = [image_ids]
    if dataset.format != "coco":  # the ids are detclean's own choice there; Ultralytics writes the stem, as a number where it is one
        schemes += [file_names, [drop_ending(name) for name in file_names], [Path(name).name for name in file_names], stems]
        schemes.append([str(int(stem)) if stem.isdecimal() else stem for stem in stems])
    for scheme in schemes:
        position_of = {name: i for i, name in reversed(list(enumerate(scheme)))}
        if len(position_of) < len(set(image_ids)):
            continue  # names that stand for several images name none
        found = np.array([position_of.get(identity, -1) for identity in ids], dtype=np.int64)
        if (found >= 0).any():
            return found
    return np.full(len(ids), -1, dtype=np.int64)


def _find_categories(ids: list[Any], dataset: Dataset, path: Path, positions: list[Any]) -> Ints:
    number_of = {identity: i for i, identity in enumerate(dataset.category_ids or range(len(dataset.categories)))}
    found = np.array([number_of.get(identity, -1) if is_id(identity) else -1 for identity in ids], dtype=np.int64)
    for i in np.flatnonzero(found < 0)[:1]:
        known = ", ".join(map(str, list(number_of)[:8])) + (", ..." if len(number_of) > 8 else "")
        hint = " (Ultralytics' predictions.json counts from 1: subtract 1)" if dataset.format == "yolo" else ""
        message = f"category_id {ids[i]} is none of the data set's ({known}); write its own ids{hint}"
        raise DatasetError(f"{path}: record {positions[i]}: {message}")
    return found


def _numbers(rows: list[Any], width: int, path: Path, key: str, positions: list[Any]) -> Floats:
    """(n, width) finite numbers. Raises DatasetError at the first row that is something else."""
    for row, position in zip(rows, positions, strict=True):
        if not isinstance(row, list) or len(row) != width or not all(type(number) in (int, float) for number in row):
            wanted = "a number" if width == 1 else f"{width} numbers"
            raise DatasetError(f"{path}: record {position}: {key} has to be {wanted}, not {str(row)[:60]}")
    numbers = np.array(rows, dtype=np.float64).reshape(-1, width)
    for i in np.flatnonzero(~np.isfinite(numbers).all(axis=1))[:1]:
        raise DatasetError(f"{path}: record {positions[i]}: {key} holds NaN or infinity; leave the record out")
    return numbers


def _check_scores(score: Floats, path: Path, places: list[str]) -> None:
    for i in np.flatnonzero((score < 0) | (score > 1))[:1]:
        raise DatasetError(f"{path}: {places[i]}: confidence {score[i]:g} is not between 0 and 1; write probabilities, not logits")


def _refuse_strangers(path: Path, theirs: str, ours: str) -> None:
    raise DatasetError(f"{path}: no detection is of an image of the data set; the ids probably differ: {theirs} there, {ours} here")


def _read_folder(folder: Path, dataset: Dataset) -> Boxes:
    names = [name for name in list_files(folder) if name.endswith(".txt")]
    if not names:
        raise DatasetError(f"{folder}: holds no .txt file; predictions= wants YOLO label files with a confidence in the sixth column")
    image_of = _match_files(names, dataset, folder)
    if not image_of:
        _refuse_strangers(folder, names[0], dataset.images["file_name"][0])
    sizes = dataset.sizes
    blocks: list[tuple[int, Floats]] = []
    for name, index in image_of.items():
        rows = _read_rows(folder / name, len(dataset.categories))
        if len(rows):
            rows[:, 1:5] = cxcywhn_to_xyxy(rows[:, 1:5], sizes[index])
            blocks.append((index, rows))
    image_index = np.repeat([index for index, _ in blocks], [len(rows) for _, rows in blocks]) if blocks else np.empty(0, np.int64)
    table = np.concatenate([rows for _, rows in blocks]) if blocks else np.empty((0, COLUMNS))
    return Boxes.sorted(image_index=image_index, category=table[:, 0].astype(np.int64), xyxy=table[:, 1:5], score=table[:, 5])


def _match_files(names: list[str], dataset: Dataset, folder: Path) -> dict[str, int]:
    """The image of every label file that has one. A file is named like the end of an image's path; where none is, only stems count."""
    ends: dict[str, set[int]] = defaultdict(set)
    first_of: dict[str, int] = {}  # an image that several splits list is one image here
    for i, file_name in enumerate(dataset.images["file_name"].to_list()):
        parts = Path(drop_ending(file_name)).parts
        for length in range(1, len(parts) + 1):
            ends["/".join(parts[-length:])].add(first_of.setdefault(file_name, i))
    keys = {name: drop_ending(name) for name in names}
    if not any(key in ends for key in keys.values()):
        keys = {name: Path(key).name for name, key in keys.items()}
    for name, key in keys.items():
        if len(ends.get(key, ())) > 1:
            both = [dataset.images["file_name"][i] for i in sorted(ends[key])[:2]]
            raise DatasetError(f"{folder / name}: may belong to {both[0]} or {both[1]}; put it into the image's folder below {folder}")
    return {name: next(iter(ends[key])) for name, key in keys.items() if key in ends}


def _read_rows(path: Path, category_count: int) -> Floats:
    """(n, 6): class cx cy w h confidence."""
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    for number, line in numbered:
        if len(line) != COLUMNS:
            remedy = "save them with their confidences (Ultralytics: save_txt=True save_conf=True)"
            raise DatasetError(f"{path}:{number}: {len(line)} columns instead of `class cx cy w h confidence`; {remedy}")
    try:
        rows = np.array([line for _, line in numbered], dtype=np.float64).reshape(-1, COLUMNS)
    except ValueError as error:
        raise DatasetError(f"{path}: holds what is no number ({error}); write the file again") from None
    for i in np.flatnonzero(~np.isfinite(rows).all(axis=1))[:1]:
        raise DatasetError(f"{path}:{numbered[i][0]}: holds NaN or infinity; leave the row out")
    category = rows[:, 0]
    for i in np.flatnonzero((category != np.floor(category)) | (category < 0) | (category >= category_count))[:1]:
        message = f"category {category[i]:g}, but the data set names {category_count} (0 to {category_count - 1})"
        raise DatasetError(f"{path}:{numbered[i][0]}: {message}; the detector has to know the same categories")
    _check_scores(rows[:, 5], path, [f"row {number}" for number, _ in numbered])
    return rows
