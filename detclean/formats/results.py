"""Detections that the user brings: COCO results, or YOLO label files with confidences."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detclean.boxes import Boxes, Floats, Ints, cxcywhn_to_xyxy, xywh_to_xyxy
from detclean.dataset import Dataset
from detclean.errors import DatasetError
from detclean.formats.imagefiles import drop_ending, list_files
from detclean.formats.jsonfile import NOT_AS_EXPECTED, as_numbers, decode_as, is_row, load_json, look_up, read_bytes
from detclean.formats.plainfile import read_plain
from detclean.formats.records import FARTHEST

MOST_SHARE = 1e6  # of an image's side, from which on a coordinate is none
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
    if not os.path.exists(path):
        raise DatasetError(f"{path}: does not exist; name with predictions= a COCO results file or a folder of YOLO label files")
    return _read_results(path, dataset)


class _Detection(msgspec.Struct, gc=False):
    image_id: Any
    category_id: Any
    bbox: Any
    score: Any
    class_scores: Any = None
    scores: Any = None


class _Detections(msgspec.Struct):
    annotations: list[_Detection]


def _read_records(path: Path) -> list[_Detection]:
    content = read_bytes(path)
    try:
        if content[:100].lstrip().startswith(b"{"):
            whole: _Detections = decode_as(content, _Detections)
            return whole.annotations
        records: list[_Detection] = decode_as(content, list[_Detection])
        return records
    except NOT_AS_EXPECTED:  # the slower way accepts NaN, and knows the line or the record of what is wrong
        document = load_json(path)
    found = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise DatasetError(f"{path}: is no list of detections; a COCO results file is [{{image_id, category_id, bbox, score}}, ...]")
    for i, record in enumerate(found):
        if not isinstance(record, dict) or not all(key in record for key in ("image_id", "category_id", "bbox", "score")):
            raise DatasetError(f"{path}: record {i} lacks image_id, category_id, bbox or score; write all four")
    return msgspec.convert(found, list[_Detection])


def _read_results(path: Path, dataset: Dataset) -> Boxes:
    records = _read_records(path)
    if not records:
        raise DatasetError(f"{path}: holds no detection; save the detector's results down to a low confidence, such as 0.01")
    image_index = _find_images([record.image_id for record in records], dataset)
    known = np.flatnonzero(image_index >= 0)
    if not len(known):
        _refuse_strangers(path, f"image_id {str(records[0].image_id)[:60]}", f"image_id {dataset.images['image_id'][0]}")
    if len(known) < len(records):
        records = [records[i] for i in known.tolist()]
    xyxy = xywh_to_xyxy(_numbers([record.bbox for record in records], 4, path, "bbox", known))
    score = _numbers([[record.score] for record in records], 1, path, "score", known)[:, 0]
    _check_scores(score, path, lambda i: f"record {known[i]}")
    key = next((key for key in SCORE_KEYS if all(getattr(record, key) is not None for record in records)), None)
    vectors = _numbers([getattr(record, key) for record in records], len(dataset.categories), path, key, known) if key else None
    category = _find_categories([record.category_id for record in records], dataset, path, known)
    return Boxes.sorted(image_index=image_index[known], category=category, xyxy=xyxy, score=score, class_scores=vectors)


def _find_images(ids: list[Any], dataset: Dataset) -> Ints:
    """The image of each id, -1 where the data set has none: by image id; outside COCO else by file name, less its folders or ending."""
    image_ids = [str(image_id) for image_id in dataset.images["image_id"].to_list()]
    file_names = dataset.images["file_name"].to_list()
    stems = [Path(name).stem for name in file_names] if dataset.format != "coco" else []
    schemes: list[list[str]] = [image_ids]
    if dataset.format != "coco":  # the ids are detclean's own choice there; Ultralytics writes the stem, as a number where it is one
        schemes += [file_names, [drop_ending(name) for name in file_names], [Path(name).name for name in file_names], stems]
        schemes.append([str(int(stem)) if stem.isdecimal() else stem for stem in stems])
    texts = ids if set(map(type, ids)) <= {str} else list(map(str, ids))
    for scheme in schemes:
        position_of = {name: i for i, name in reversed(list(enumerate(scheme)))}
        if len(position_of) < len(set(image_ids)):
            continue  # names that stand for several images name none
        found = look_up(position_of, texts)
        if (found >= 0).any():
            return found
    return np.full(len(ids), -1, dtype=np.int64)


def _find_categories(ids: list[Any], dataset: Dataset, path: Path, positions: Ints) -> Ints:
    number_of = {identity: i for i, identity in enumerate(dataset.category_ids or range(len(dataset.categories)))}
    found = look_up(number_of, ids)
    for i in np.flatnonzero(found < 0)[:1]:
        known = ", ".join(map(str, list(number_of)[:8])) + (", ..." if len(number_of) > 8 else "")
        hint = " (Ultralytics' predictions.json counts from 1: subtract 1)" if dataset.format == "yolo" else ""
        message = f"category_id {str(ids[i])[:60]} is none of the data set's ({known}); write its own ids{hint}"
        raise DatasetError(f"{path}: record {positions[i]}: {message}")
    return found


def _numbers(rows: list[Any], width: int, path: Path, key: str, positions: Ints) -> Floats:
    """(n, width) finite numbers. Raises DatasetError at the first row that is something else."""
    numbers = as_numbers(rows, width)
    if numbers is None:
        i = next(i for i, row in enumerate(rows) if not is_row(row, width))
        wanted = "a number" if width == 1 else f"{width} numbers"
        raise DatasetError(f"{path}: record {positions[i]}: {key} has to be {wanted}, not {str(rows[i])[:60]}")
    for i in np.flatnonzero(~np.isfinite(numbers).all(axis=1))[:1]:
        raise DatasetError(f"{path}: record {positions[i]}: {key} holds NaN or infinity; leave the record out")
    for i in np.flatnonzero((np.abs(numbers) > FARTHEST).any(axis=1))[:1]:
        raise DatasetError(f"{path}: record {positions[i]}: {key} {str(rows[i])[:60]} lies beyond any picture; leave the record out")
    return numbers


def _check_scores(score: Floats, path: Path, place: Callable[[int], str]) -> None:
    for i in np.flatnonzero((score < 0) | (score > 1))[:1]:
        raise DatasetError(f"{path}: {place(i)}: confidence {score[i]:g} is not between 0 and 1; write probabilities, not logits")


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
    try:
        text = read_plain(path).decode("utf-8-sig", "replace")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); a readable text file belongs here") from None
    lines = [line.split() for line in text.splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    for number, line in numbered:
        if len(line) != COLUMNS:
            remedy = "save them with their confidences (Ultralytics: save_txt=True save_conf=True)"
            raise DatasetError(f"{path}:{number}: {len(line)} columns instead of `class cx cy w h confidence`; {remedy}")
    try:
        rows = np.array([line for _, line in numbered], dtype=np.float64).reshape(-1, COLUMNS)
    except ValueError as error:
        raise DatasetError(f"{path}: holds what is no number ({str(error)[:100]}); write the file again") from None
    for i in np.flatnonzero(~np.isfinite(rows).all(axis=1))[:1]:
        raise DatasetError(f"{path}:{numbered[i][0]}: holds NaN or infinity; leave the row out")
    for i in np.flatnonzero((np.abs(rows[:, 1:5]) > MOST_SHARE).any(axis=1))[:1]:
        raise DatasetError(f"{path}:{numbered[i][0]}: lies beyond any picture; its numbers are shares of the image: leave the row out")
    category = rows[:, 0]
    for i in np.flatnonzero((category != np.floor(category)) | (category < 0) | (category >= category_count))[:1]:
        message = f"category {category[i]:g}, but the data set names {category_count} (0 to {category_count - 1})"
        raise DatasetError(f"{path}:{numbered[i][0]}: {message}; the detector has to know the same categories")
    _check_scores(rows[:, 5], path, lambda i: f"row {numbered[i][0]}")
    return rows
