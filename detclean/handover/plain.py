"""Plain formats: COCO (also read back), YOLO, Pascal VOC, and the issue list as CSV, for tools that detclean knows nothing of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import orjson
import polars as pl
import yaml

from detclean.boxes import xyxy_to_cxcywhn, xyxy_to_xywh
from detclean.dataset import Dataset
from detclean.edit.decisions import Decision
from detclean.errors import DatasetError
from detclean.files import share_image, write_whole
from detclean.formats.imagefiles import drop_ending
from detclean.formats.jsonfile import is_id, is_row
from detclean.handover.names import clean_text, place_images
from detclean.handover.returns import BOX_SCHEMA, IMAGE_SCHEMA, Returned
from detclean.handover.sheet import SIDES, Sheet

DECIMALS = 8  # of YOLO's shares
ATTRIBUTES = ("issue_type", "probability", "reason", "suggestion", "issue_id", "verdict")
CSV_DECIMALS = 4
FORMULA = r"^[=+\-@\t\r]"  # what a spreadsheet would compute, be it the name of a picture


def share_pictures(sheet: Sheet, places: list[str], folder: Path) -> None:
    """The pictures as links below `folder`; those of images that have none are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, place in zip(sheet.images["path"].to_list(), places, strict=True):
        if path is not None and Path(path).is_file():
            share_image(Path(path), folder / place)


# COCO


def write_coco_sheet(sheet: Sheet, folder: Path, dataset: Dataset) -> None:
    """instances.json and images/. Ids are integers from 1: the source's where they are such and unique, counted otherwise."""
    places = place_images(sheet.images["name"].to_list(), flat=False)
    share_pictures(sheet, places, folder / "images")
    image_ids = _whole_ids(sheet.images["image_id"].to_list())
    category_ids = _whole_ids(list(dataset.category_ids) or list(range(len(sheet.categories))))
    own_ids = sheet.boxes["annotation_id"].to_list() if sheet.boxes.height else []
    ids = _annotation_ids(own_ids if dataset.format == "coco" else [None] * len(own_ids))
    xywh = xyxy_to_xywh(sheet.xyxy).tolist()
    columns = sheet.boxes.select("image", "category", "is_crowd", "box_id", *ATTRIBUTES).rows()
    annotations = []
    for identity, box, (image, category, crowd, box_id, *words) in zip(ids, xywh, columns, strict=True):
        attributes = {"detclean_id": box_id} | {name: word for name, word in zip(ATTRIBUTES, words, strict=True) if word is not None}
        if attributes.get("issue_type") is None:
            attributes.pop("issue_id", None)
        head = {"id": identity, "image_id": image_ids[image], "category_id": category_ids[category], "bbox": box}
        rest = {"area": box[2] * box[3], "iscrowd": int(crowd), "segmentation": [], "attributes": attributes}
        annotations.append(head | rest)
    sizes = sheet.images.select("name", "width", "height").rows()
    images = [
        {"id": identity, "file_name": place, "width": width, "height": height, "detclean_image": name}
        for identity, place, (name, width, height) in zip(image_ids, places, sizes, strict=True)
    ]
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in zip(category_ids, sheet.categories, strict=True)]
    write_whole(folder / "instances.json", orjson.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _whole_ids(ids: list[Any]) -> list[int]:
    usable = all(type(value) is int and 1 <= value < 2**53 for value in ids) and len(set(ids)) == len(ids)
    return ids if usable else list(range(1, len(ids) + 1))


def _annotation_ids(ids: list[Any]) -> list[int]:
    """The source's ids where they are integers from 1 and unique, and higher ones for the other boxes; counted ones otherwise."""
    kept = [value for value in ids if value is not None]
    if not kept or not all(type(value) is int and 1 <= value < 2**53 for value in kept) or len(set(kept)) != len(kept):
        return list(range(1, len(ids) + 1))
    following = max(kept)
    result = []
    for value in ids:
        following += value is None
        result.append(following if value is None else value)
    return result


def read_coco_sheet(document: dict[str, Any], path: Path) -> Returned:
    """All images of a COCO file. Raises DatasetError where a record is damaged."""
    info = document.get("info")
    if isinstance(info, dict) and info.get("contributor") == "Label Studio":  # which lists unfinished tasks as images without a box
        raise DatasetError(f"{path}: is Label Studio's COCO export, which does not say which tasks were finished; export as JSON")
    names = {}
    for i, record in enumerate(_records(document, "categories", path)):
        if not is_id(record.get("id")) or not isinstance(record.get("name"), str):
            raise DatasetError(f"{path}: categories[{i}]: needs an id and a name; complete the record")
        names[record["id"]] = record["name"]
    images: list[tuple[Any, ...]] = []
    position_of: dict[Any, int] = {}
    for i, record in enumerate(_records(document, "images", path)):
        name = record.get("file_name")
        if not is_id(record.get("id")) or not isinstance(name, str) or not name:
            raise DatasetError(f"{path}: images[{i}]: needs an id and a file_name; complete the record")
        position_of[record["id"]] = len(images)
        images.append(
            (
                f"image {record['id']}",
                [*filter(_is_text, [record.get("detclean_image")]), name],
                None,
                *(_side(record.get(side)) for side in ("width", "height")),
            )
        )
    boxes: list[tuple[Any, ...]] = []
    told: Counter[str] = Counter()
    for i, record in enumerate(_records(document, "annotations", path)):
        where = f"annotation {record['id']}" if is_id(record.get("id")) else f"annotations[{i}]"
        owner, category, bbox = record.get("image_id"), record.get("category_id"), record.get("bbox")
        if not is_id(owner) or owner not in position_of:
            raise DatasetError(f"{path}: {where}: its image_id {owner} is not among the images; add the image or remove the annotation")
        if not is_id(category) or category not in names:
            raise DatasetError(f"{path}: {where}: its category_id {category} is not among the categories; add the category or correct it")
        if bbox is None or bbox == []:
            told["annotations have no bbox and are left out"] += 1
            continue
        if not is_row(bbox, 4) or not np.isfinite(np.array(bbox, dtype=np.float64)).all():
            raise DatasetError(f"{path}: {where}: its bbox {str(bbox)[:60]} is not four numbers [x, y, width, height]; correct it")
        x, y, width, height = map(float, bbox)
        attributes = record.get("attributes")
        words = record | (attributes if isinstance(attributes, dict) else {})  # FiftyOne writes them into the record itself
        box_id = words.get("detclean_id")
        annotation_id = str(record["id"]) if is_id(record.get("id")) else None
        box_id = box_id if isinstance(box_id, str) and box_id else None
        hard = words.get("verdict") == "hard"
        boxes.append((position_of[owner], where, names[category], x, y, x + width, y + height, box_id, annotation_id, hard, False))
    return Returned(
        path,
        "coco",
        False,
        pl.DataFrame(images, schema=IMAGE_SCHEMA, orient="row"),
        pl.DataFrame(boxes, schema=BOX_SCHEMA, orient="row"),
        notes=tuple(f"{count} {what}" for what, count in told.items()),
    )


def _records(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    records = document.get(key)
    if not isinstance(records, list):
        raise DatasetError(f"{path}: has no list `{key}`; a COCO file needs images, annotations and categories")
    odd = next((i for i, record in enumerate(records) if not isinstance(record, dict)), None)
    if odd is not None:
        raise DatasetError(f"{path}: {key}[{odd}] is no record; each entry has to be an object with an id")
    return records


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _side(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31 else None


# YOLO


def write_yolo_sheet(sheet: Sheet, folder: Path, final: Path) -> None:
    """data.yaml, images/, labels/, and flags.csv: which line of which file is suspected, and of what. final: where `folder` will be."""
    places = place_images(sheet.images["name"].to_list(), flat=True)
    share_pictures(sheet, places, folder / "images")
    shares = xyxy_to_cxcywhn(sheet.xyxy, sheet.sizes)
    numbers = [
        f"{category} {a:.{DECIMALS}f} {b:.{DECIMALS}f} {c:.{DECIMALS}f} {d:.{DECIMALS}f}\n"
        for category, (a, b, c, d) in zip(sheet.boxes["category"].to_list(), shares.tolist(), strict=True)
    ]
    files = [f"labels/{drop_ending(place)}.txt" for place in places]
    for file, rows in zip(files, sheet.rows_by_image(), strict=True):
        write_whole(folder / file, "".join(numbers[rows]))
    line = pl.int_range(1, pl.len() + 1).over("image")
    flags = sheet.boxes.with_columns(line=line).filter(pl.col("issue_type").is_not_null())
    owners = flags["image"].to_list()
    flags = flags.select(
        "line",
        *("issue_type", "probability", "issue_id", "annotation_id", "reason", "suggestion"),
        file=pl.Series([files[i] for i in owners], dtype=pl.String),
        image_id=pl.Series([str(sheet.images["image_id"][i]) for i in owners], dtype=pl.String),
    )
    columns = ["file", "line", "image_id", "annotation_id", "issue_type", "probability", "issue_id", "reason", "suggestion"]
    as_cells(flags.select(columns)).write_csv(folder / "flags.csv", float_precision=CSV_DECIMALS)
    document = {"path": str(final), "train": "images", "val": "images", "names": dict(enumerate(sheet.categories))}
    write_whole(folder / "data.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10_000))


# Pascal VOC


def write_voc_sheet(sheet: Sheet, folder: Path) -> None:
    """Annotations/, JPEGImages/, ImageSets/Main/train.txt, and labelmap.txt, as CVAT and Datumaro know VOC's own categories otherwise.

    An object that is suspected has an <issue> beside its box, which readers of VOC pass over.
    """
    places = place_images(sheet.images["name"].to_list(), flat=True)
    share_pictures(sheet, places, folder / "JPEGImages")
    names = [escape(clean_text(name)) for name in sheet.categories]
    columns = ("category", "box_id", "issue_type", "probability", "issue_id", "reason", "suggestion")
    objects = [
        _make_object(names[category], box_id, box, words)
        for box, (category, box_id, *words) in zip(sheet.xyxy.tolist(), sheet.boxes.select(columns).rows(), strict=True)
    ]
    sizes = sheet.images.select("width", "height").rows()
    for place, (width, height), rows in zip(places, sizes, sheet.rows_by_image(), strict=True):
        head = f"\t<folder>JPEGImages</folder>\n\t<filename>{escape(clean_text(place))}</filename>\n"
        size = f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n\t<segmented>0</segmented>\n"
        text = f"<annotation>\n{head}{size}{''.join(objects[rows])}</annotation>\n"
        write_whole(folder / "Annotations" / f"{drop_ending(place)}.xml", text)
    write_whole(folder / "ImageSets" / "Main" / "train.txt", "".join(f"{drop_ending(place)}\n" for place in places))
    lines = (f"{name}:::\n" for name in sheet.categories)
    write_whole(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))


def _make_object(name: str, box_id: str, box: list[float], words: list[Any]) -> str:
    corners = "".join(f"<{side}>{value:.4f}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    fields = f"<name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    issue = ""
    if words[0] is not None:
        tags = zip(("type", "probability", "id", "reason", "suggestion"), words, strict=True)
        issue = "\t\t<issue>" + "".join(f"<{tag}>{escape(clean_text(str(word)))}</{tag}>" for tag, word in tags) + "</issue>\n"
    return (
        f"\t<object>\n\t\t{fields}\n\t\t<bndbox>{corners}</bndbox>\n\t\t<detclean_id>{escape(box_id)}</detclean_id>\n{issue}\t</object>\n"
    )


# CSV


def write_csv_sheet(issues: pl.DataFrame, decisions: Mapping[str, Decision], folder: Path) -> None:
    """issues.csv: issues of the run in its columns, each with issue_id and what was decided about it."""
    decided = [decisions.get(issue_id) for issue_id in issues["issue_id"].to_list()]
    boxes = [None if one is None else one.xyxy for one in decided]
    sides = {f"decided_{side}": pl.Series([b[i] if b else None for b in boxes], dtype=pl.Float64) for i, side in enumerate(SIDES)}
    table = issues.drop("image_index", "annotation").with_columns(
        decision=pl.Series([None if one is None else one.verdict for one in decided], dtype=pl.String),
        decided_category=pl.Series([None if one is None else one.category for one in decided], dtype=pl.String),
        **sides,
    )
    as_cells(table).write_csv(folder / "issues.csv", float_precision=CSV_DECIMALS)


def as_cells(table: pl.DataFrame) -> pl.DataFrame:
    """Text that a spreadsheet would take for a formula with an apostrophe before it: names come from whoever made the data set."""
    text = pl.col(pl.String)
    return table.with_columns(pl.when(text.str.contains(FORMULA)).then("'" + text).otherwise(text).name.keep())
