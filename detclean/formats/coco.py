"""COCO files: one JSON document with images, annotations and categories, read and patched record by record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, xywh_to_xyxy, xyxy_to_xywh
from detclean.dataset import Dataset
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.formats.imagefiles import read_image_sizes
from detclean.formats.jsonfile import (
    NOT_AS_EXPECTED,
    PLAIN_IDS,
    as_numbers,
    decode_as,
    is_id,
    is_row,
    load_json,
    look_up,
    read_bytes,
)
from detclean.formats.records import FindingLog, is_within_reach, issue_boxes, make_unique

SMALLEST_ID, LARGEST_ID = -(1 << 63), (1 << 63) - 1
FOLDER_PROBES = 200  # file names tried in each folder that may hold the images
Record = dict[str, Any]


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    iscrowd: Any = None


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[Record]


# Reading


def read_coco(path: str | Path, images: str | Path | None = None) -> Dataset:
    """The data set of a COCO file. Ids stay the source's, as integers where all of a kind are and as text otherwise.

    images: the folder that file names are relative to; None looks beside the file, "none" says that there are no pictures.
    Raises DatasetError where the file is no COCO file or no picture is found.
    """
    source = Path(os.path.abspath(path))
    document = read_document(source)
    log = FindingLog(source.name)
    categories = _read_categories(document.categories, source, log)
    table, index_of = _read_images(document.images, images, source, log)
    if not table.height:
        raise DatasetError(f"{source}: holds no usable image; its images list needs records with id, file_name, width and height")
    names = make_unique([str(record.get("name", record["id"])) for record in categories], [record["id"] for record in categories])
    for record, name in zip(categories, names, strict=True):
        if name != str(record.get("name", record["id"])):
            log.add(
                "category-name-twice", "warning", source.name, f"category {record['id']} shares its name with another; it is called {name}"
            )
    number_of = {record["id"]: i for i, record in enumerate(categories)}
    annotations, positions = _read_annotations(document.annotations, index_of, number_of, log)
    ids = tuple(record["id"] for record in categories)
    return Dataset(table, names, annotations, positions, "coco", source, ids, log.finish())


def read_document(source: Path) -> _Document:
    """What is read of a COCO file; whatever else stands in it, its outlines above all, is passed over. Raises DatasetError."""
    content = read_bytes(source)
    try:
        known: _Document = decode_as(content, _Document)
        return known
    except NOT_AS_EXPECTED:  # the slower way accepts NaN, and knows the line or the record of what is wrong
        document = load_json(source)
        _check_document(document, source)
        return msgspec.convert(document, _Document)


def _check_document(document: Any, source: Path) -> None:
    if isinstance(document, list):
        raise DatasetError(f"{source}: is a list, as a results file is; name it as predictions=, and the annotation file as data=")
    if not isinstance(document, dict):
        raise DatasetError(f"{source}: is no COCO file; it needs the lists images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        records = document.get(key)
        if not isinstance(records, list):
            raise DatasetError(f"{source}: has no list `{key}`; a COCO file needs images, annotations and categories")
        odd = next((i for i, record in enumerate(records) if not isinstance(record, dict)), None)
        if odd is not None:
            raise DatasetError(f"{source}: {key}[{odd}] is no record; each entry has to be an object with an id")


def _read_categories(records: list[Record], source: Path, log: FindingLog) -> list[Record]:
    if not records:
        raise DatasetError(f"{source}: its list `categories` is empty; list the categories with id and name")
    seen: set[Any] = set()
    for i, record in enumerate(records):
        if not is_id(record.get("id")):
            raise DatasetError(f"{source}: categories[{i}] has no id; give it a number that no other category has")
        if not isinstance(record["id"], str) and not SMALLEST_ID <= record["id"] <= LARGEST_ID:  # nor is NaN
            raise DatasetError(
                f"{source}: categories[{i}] has the id {str(record['id'])[:60]}, which 64 bits do not hold; give it a smaller one"
            )
        if record["id"] in seen:
            raise DatasetError(f"{source}: categories[{i}] has the id {record['id']} a second time; give it a number of its own")
        seen.add(record["id"])
        if "name" not in record:
            log.add("category-without-name", "warning", source.name, f"category {record['id']} has no name; it is called {record['id']}")
    return records


def _read_images(records: list[_Image], images: str | Path | None, source: Path, log: FindingLog) -> tuple[pl.DataFrame, dict[Any, int]]:
    """The images table, and the position in it of every image id."""
    kept: dict[Any, _Image] = {}
    told: set[str] = set()  # ids as text: 1 and "1" could not be told apart later
    for i, record in enumerate(records):
        if not is_id(record.id) or not isinstance(record.file_name, str):
            log.add("bad-image-record", "error", f"images[{i}]", "has no id or no file_name; complete or remove the record")
        elif record.id in kept or str(record.id) in told:
            log.add("duplicate-image-id", "error", f"images[{i}]", f"has the id {record.id} a second time; give it one of its own")
        else:
            kept[record.id] = record
            told.add(str(record.id))
    folder = None if str(images) == "none" else find_image_folder([record.file_name for record in kept.values()], images, source)
    paths = [None if folder is None else os.path.abspath(folder / record.file_name) for record in kept.values()]
    for i, record in enumerate(kept.values()):
        if paths[i] is not None and not os.path.isfile(str(paths[i])):
            log.add("image-missing", "warning", f"image {record.id}", f"{paths[i]} does not exist; the image is kept without its picture")
            paths[i] = None
    sizes = _read_sizes(list(kept.values()), paths)
    for i, image_id in enumerate(kept):
        if not sizes[i].all():
            log.add("image-size-missing", "error", f"image {image_id}", "has no width and height, nor a picture to measure; add them")
    usable: Mask = np.asarray(sizes.all(axis=1))
    raw_ids = [image_id for image_id, use in zip(kept, usable, strict=True) if use]
    table = pl.DataFrame(
        {
            "image_id": ids_as_column(list(kept)),
            "file_name": pl.Series([record.file_name for record in kept.values()], dtype=pl.String),
            "path": pl.Series(paths, dtype=pl.String),
            "label_path": pl.Series([None] * len(paths), dtype=pl.String),
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "split": pl.Series([None] * len(paths), dtype=pl.String),
        }
    ).filter(pl.Series(usable))
    return table, {image_id: i for i, image_id in enumerate(raw_ids)}


def _read_sizes(records: list[_Image], paths: list[str | None]) -> Ints:
    """Width and height of n images: (n, 2) as the file says, from the picture where it does not, zeros where neither can tell."""
    sizes = np.array([[_positive(record.width), _positive(record.height)] for record in records], dtype=np.int64).reshape(-1, 2)
    unknown = [i for i in np.flatnonzero(~sizes.all(axis=1)) if paths[i] is not None]
    if unknown:
        sizes[unknown] = read_image_sizes([str(paths[i]) for i in unknown])
    return sizes


def _positive(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def find_image_folder(file_names: list[str], images: str | Path | None, source: Path) -> Path:
    """The folder below which the file names lie: the given one, or that of the usual places which holds most of them.

    Raises DatasetError where it does not exist or holds none of them.
    """
    home = source.parent
    tail = source.stem.rpartition("_")[2]  # train2017 of instances_train2017
    names = dict.fromkeys((source.stem, tail))
    near = [base / middle / name for base in (home, home.parent) for middle in ("", "images") for name in names]
    candidates = [Path(images)] if images is not None else [home, home / "images", *near, home.parent / "images", home.parent]
    if images is not None and not candidates[0].is_dir():
        raise DatasetError(f"{images}: is no folder; name with images= the folder of the images, or images=none where there are none")
    step = max(1, len(file_names) // FOLDER_PROBES)
    probes = file_names[::step]
    hits = [sum(os.path.isfile(folder / name) for name in probes) if folder.is_dir() else 0 for folder in candidates]
    best = int(np.argmax(hits))
    if probes and not hits[best]:
        where = images if images is not None else f"{home}, its folder images or beside it"
        raise DatasetError(f"{source}: no image found ({probes[0]} is not in {where}); name their folder with images=, or images=none")
    return candidates[best]


def ids_as_column(ids: Sequence[Any]) -> pl.Series:
    """Ids as a column: Int64 where all are integers of 64 bits, text otherwise."""
    whole = all(type(value) is int and -(2**63) <= value < 2**63 for value in ids)
    return pl.Series(ids, dtype=pl.Int64) if whole else pl.Series([str(value) for value in ids], dtype=pl.String)


def _read_annotations(
    records: list[_Annotation], index_of: dict[Any, int], number_of: dict[Any, int], log: FindingLog
) -> tuple[Boxes, Ints]:
    """The annotations that can be used, and their positions in the document's list."""
    ids = [record.id for record in records]
    if not set(map(type, ids)) <= PLAIN_IDS and not all(map(is_id, ids)):
        log.add(
            "annotation-without-id", "warning", "annotations", "some have no id; they are counted from 0 in the order of the list instead"
        )
        ids = list(range(len(records)))
    image_index = look_up(index_of, [record.image_id for record in records])
    category = look_up(number_of, [record.category_id for record in records])
    bboxes = [record.bbox for record in records]
    xywh, absent = _read_bboxes(bboxes)
    bad = ~np.isfinite(xywh).all(axis=1) & ~absent
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = xywh_to_xyxy(xywh)
    far = ~bad & ~absent & ~is_within_reach(xyxy)
    for i in np.flatnonzero(far):
        log.add(
            "coordinate-too-large", "error", f"annotation {ids[i]}", f"its bbox {str(bboxes[i])[:60]} lies beyond any picture; correct it"
        )
    for i in np.flatnonzero(image_index < 0):
        message = f"its image_id {str(records[i].image_id)[:60]} is not among the images; add the image or remove the annotation"
        log.add("unknown-image", "error", f"annotation {ids[i]}", message)
    for i in np.flatnonzero(category < 0):
        message = f"its category_id {str(records[i].category_id)[:60]} is not among the categories; add the category or correct it"
        log.add("unknown-category", "error", f"annotation {ids[i]}", message)
    for i in np.flatnonzero(absent):
        log.add("annotation-without-bbox", "warning", f"annotation {ids[i]}", "has no bbox; it is left out")
    for i in np.flatnonzero(bad):
        message = f"its bbox {str(bboxes[i])[:60]} is not four numbers [x, y, width, height]; correct or remove it"
        log.add("not-a-number", "error", f"annotation {ids[i]}", message)
    for identity in _repeated(ids):
        log.add("duplicate-annotation-id", "warning", f"annotation {identity}", "several annotations have this id; give each its own")
    good = (image_index >= 0) & (category >= 0) & ~absent & ~bad & ~far
    order = np.flatnonzero(good)[np.argsort(image_index[good], kind="stable")]
    annotations = Boxes(
        image_index=image_index[order],
        category=category[order],
        xyxy=xyxy[order],
        annotation_id=ids_as_column(ids).to_numpy()[order],
        is_crowd=np.array([bool(record.iscrowd) for record in records], dtype=bool)[order],
    )
    return annotations, order


def _repeated(ids: list[Any]) -> list[Any]:
    if len(set(ids)) == len(ids):
        return []
    seen: set[Any] = set()
    return [value for value in ids if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def _read_bboxes(bboxes: list[Any]) -> tuple[Floats, Mask]:
    """(n, 4) x y width height, NaN where a bbox is not four numbers, and (n,) where there is none at all."""
    plain = as_numbers(bboxes, 4)
    if plain is not None:
        return plain, np.zeros(len(bboxes), bool)
    absent = np.array([bbox is None or bbox == [] for bbox in bboxes], dtype=bool)
    nothing = [float("nan")] * 4
    return np.array([bbox if is_row(bbox, 4) else nothing for bbox in bboxes], dtype=np.float64).reshape(-1, 4), absent


# Writing the issue list


def write_coco_issues(dataset: Dataset, issues: pl.DataFrame, path: Path) -> None:
    """The issues of a data set of any format as a COCO file: one annotation an issue, what is known of it under `attributes`.

    issues: the rows of issues.csv. bbox and category are the given ones, and the suggested ones where nothing was given. Ids are integers
    from 1; an image's own id stands under source_id where it is none.
    """
    issues = issues.sort("rank")
    row_of = {image_id: i for i, image_id in reversed(list(enumerate(dataset.images["image_id"].cast(pl.String).to_list())))}
    indices = [row_of[image_id] for image_id in issues["image_id"].cast(pl.String).to_list()]
    listed = dict.fromkeys(indices)
    keeps_ids = dataset.images["image_id"].dtype == pl.Int64
    images = []
    for number, row in enumerate(dataset.images[list(listed)].iter_rows(named=True), 1):
        own = {"id": row["image_id"]} if keeps_ids else {"id": number, "source_id": row["image_id"]}
        images.append(own | {"file_name": row["file_name"], "width": row["width"], "height": row["height"]})
    image_id_of = {index: image["id"] for index, image in zip(listed, images, strict=True)}
    category_id_of = dict(zip(dataset.categories, _issue_category_ids(dataset), strict=True))
    xywh = xyxy_to_xywh(issue_boxes(issues, suggested_first=False))
    suggested = issues.select([f"suggested_{side}" for side in ("x1", "y1", "x2", "y2")]).cast(pl.Float64).to_numpy()
    proposals = [None if np.isnan(box).any() else box.tolist() for box in xyxy_to_xywh(suggested)]
    names = issues.select(pl.coalesce("category", "suggested_category")).to_series().to_list()
    attributes = issues.select("issue_type", "probability", "verdict", "action", "annotation_id", "suggested_category", "reason")
    annotations = [
        {
            "id": rank,
            "image_id": image_id_of[index],
            "category_id": category_id_of[name],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [],
            "attributes": details | {"suggested_bbox": proposal},
        }
        for rank, index, name, box, details, proposal in zip(
            issues["rank"].to_list(), indices, names, xywh.tolist(), attributes.to_dicts(), proposals, strict=True
        )
    ]
    categories = [{"id": identity, "name": name, "supercategory": ""} for name, identity in category_id_of.items()]
    write_whole(path, orjson.dumps({"images": images, "annotations": annotations, "categories": categories}, option=orjson.OPT_INDENT_2))


def _issue_category_ids(dataset: Dataset) -> list[int]:
    ids = list(dataset.category_ids)
    usable = len(ids) == len(dataset.categories) and all(type(value) is int and value >= 1 for value in ids)
    return ids if usable else list(range(1, len(dataset.categories) + 1))
