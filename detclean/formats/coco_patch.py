"""A cleaned COCO file: the source's records to the byte, but for those that an edit names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import clip_boxes, xyxy_to_xywh
from detclean.dataset import Dataset, Edit
from detclean.errors import DatasetError
from detclean.files import share_image, write_whole
from detclean.formats.coco import read_document
from detclean.formats.jsonfile import Encoded, decode, encode, is_id, join_list, join_object, split_document
from detclean.formats.records import require

Record = dict[str, Any]


def write_cleaned_coco(dataset: Dataset, edits: Sequence[Edit], out: Path, *, drop_images: Sequence[int], copy_images: bool) -> None:
    """annotations.json and images/; arguments as in `formats.write_cleaned`. A record that no edit names is the source's to the byte."""
    content, file_names = _edit_document(dataset, edits, drop_images)
    _share_images(dataset, file_names, out / "images", copy_images)
    write_whole(out / "annotations.json", content)


def edit_coco(dataset: Dataset, edits: Sequence[Edit]) -> dict[Path, bytes]:
    """The source file with its new content."""
    return {dataset.source.resolve(): _edit_document(dataset, edits, ())[0]} if edits else {}


def _edit_document(dataset: Dataset, edits: Sequence[Edit], drop_images: Sequence[int]) -> tuple[bytes, list[Any]]:
    """The document after its edits, and the file names of the images that stay."""
    known = read_document(dataset.source)
    parts, records = split_document(dataset.source, ("images", "annotations"))
    raw_of = {str(image.id): image.id for image in known.images if is_id(image.id)}
    image_ids = dataset.images["image_id"].cast(pl.String).to_list()
    if unknown := next((image_id for image_id in image_ids if image_id not in raw_of), None):
        raise DatasetError(f"{dataset.source}: has no image {unknown} any more; it has changed, run again")
    dropped = {raw_of[image_ids[i]] for i in drop_images}
    stays = [not (is_id(image.id) and image.id in dropped) for image in known.images]
    owners = [not (is_id(annotation.image_id) and annotation.image_id in dropped) for annotation in known.annotations]
    changed, added = _edit_records(dataset, records["annotations"], edits, [raw_of[image_id] for image_id in image_ids])
    new_ids = _next_ids([annotation.id for annotation in known.annotations], len(added))
    kept = [changed.get(i, record) for i, record in enumerate(records["annotations"]) if owners[i]]
    parts["images"] = join_list(compress(records["images"], stays))
    more = (encode({"id": identity} | record) for identity, record in zip(new_ids, added, strict=True) if record["image_id"] not in dropped)
    parts["annotations"] = join_list([*(record for record in kept if record is not None), *more])
    return join_object(parts), [image.file_name for image in compress(known.images, stays)]


def _edit_records(
    dataset: Dataset, source_records: Sequence[Encoded], edits: Sequence[Edit], raw_image_ids: list[Any]
) -> tuple[dict[int, bytes | None], list[Record]]:
    """The annotation records that the edits change, by their position, None for a deleted one; and those that they add, without an id."""
    changed: dict[int, Record | None] = {}
    added: list[Record] = []
    for edit in edits:
        if edit.annotation is None:
            head = {"image_id": raw_image_ids[edit.image_index], "category_id": dataset.category_ids[require(edit.category)]}
            added.append(head | _box_fields(dataset, edit) | {"iscrowd": 0, "segmentation": []})
            continue
        position = int(dataset.source_rows[edit.annotation])
        if position >= len(source_records):
            raise DatasetError(f"{dataset.source}: has no annotations[{position}] any more; it has changed, run again")
        record = changed[position] if position in changed else decode(source_records[position])
        if edit.action == "delete" or record is None:
            changed[position] = None
        elif edit.action == "relabel":
            changed[position] = record | {"category_id": dataset.category_ids[require(edit.category)]}
        elif edit.action == "move":
            outline: Record = {"segmentation": []} if "segmentation" in record else {}
            changed[position] = record | _box_fields(dataset, edit) | outline
    return {position: None if record is None else encode(record) for position, record in changed.items()}, added


def _box_fields(dataset: Dataset, edit: Edit) -> Record:
    """bbox and area of an edit's box, cut at the image's border."""
    size = np.array(dataset.images.select("width", "height").row(edit.image_index), dtype=np.float64)
    xywh = xyxy_to_xywh(clip_boxes(np.array(require(edit.xyxy), dtype=np.float64), size))
    return {"bbox": xywh.tolist(), "area": float(xywh[2] * xywh[3])}


def _next_ids(ids: list[Any], count: int) -> list[Any]:
    """Ids that no annotation has: integers above the highest, or `detclean-1` and on where the source's are all text."""
    whole = [value for value in ids if type(value) is int]
    if whole or not ids:
        return list(range(max(whole, default=0) + 1, max(whole, default=0) + 1 + count))
    taken = set(filter(is_id, ids))
    free = (f"detclean-{number}" for number in range(1, len(ids) + count + 1))
    return [identity for identity in free if identity not in taken][:count]


def _share_images(dataset: Dataset, file_names: list[Any], folder: Path, copy_images: bool) -> None:
    """The pictures below `folder` under their file names, but those whose name is absolute or leads upwards, out of any folder."""
    path_of = {name: path for path, name in dataset.images.select("path", "file_name").iter_rows() if path is not None}
    ends = ((path, os.sep + os.path.normpath(name)) for name, path in path_of.items())
    home = next((path.removesuffix(end) for path, end in ends if path.endswith(end)), None)  # for images outside this part
    for file_name in dict.fromkeys(name for name in file_names if isinstance(name, str)):
        if os.path.isabs(file_name) or os.path.normpath(file_name).startswith(".."):
            continue
        picture = path_of.get(file_name) or (home and os.path.join(home, file_name))
        if picture and os.path.isfile(picture):
            share_image(Path(picture), folder / os.path.normpath(file_name), copy_images)
