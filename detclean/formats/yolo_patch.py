"""A cleaned YOLO data set: the source's label rows to the byte, but for those that an edit names."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detclean.boxes import clip_boxes, xyxy_to_cxcywhn
from detclean.dataset import Dataset, Edit
from detclean.errors import DatasetError
from detclean.files import share_image, write_whole
from detclean.formats.datayaml import BOM, Split, label_path_of, list_splits, load_yaml, move_yaml
from detclean.formats.imagefiles import drop_ending
from detclean.formats.records import FindingLog, group_by_label_file, require
from detclean.formats.yolo import DECIMALS, split_rows

CLASS_TOKEN = re.compile(rb"^(\s*)[^\s,;]+")


def write_cleaned_yolo(
    dataset: Dataset, edits: Sequence[Edit], out: Path, *, drop_images: Sequence[int], copy_images: bool, final: Path | None
) -> None:
    """images/<split>/, labels/<split>/ and a data.yaml that trains as it is; arguments as in `formats.write_cleaned`.

    A split that lists the very pictures of an earlier one shares its folder, so that its labels are cleaned too; any other split that
    holds a picture of the part keeps the picture's labels as they were.
    """
    document = load_yaml(dataset.source)
    splits = list_splits(document, dataset.source, FindingLog(dataset.source.name))
    keys = list(dataset.images.select("split", "path").iter_rows())
    dropped = {keys[i] for i in drop_images}
    edits_of: dict[tuple[str, str], list[Edit]] = defaultdict(list)
    for edit in edits:
        split, path = keys[edit.image_index]
        edits_of[split, label_path_of(path)].append(edit)
    places = {"path": os.path.abspath(final or out)}
    for split, twin in _pair_splits(splits, set(dataset.images["split"])):
        places[split.name] = f"images/{twin}"
        if split.name != twin:
            continue
        (out / "images" / twin).mkdir(parents=True, exist_ok=True)
        (out / "labels" / twin).mkdir(parents=True, exist_ok=True)
        for path, place in zip(split.paths, split.places, strict=True):
            if (twin, path) in dropped:
                continue
            if os.path.isfile(path):  # a folder or a pipe may be called like a picture
                share_image(Path(path), out / "images" / twin / place, copy_images)
            label_place = out / "labels" / twin / f"{drop_ending(place)}.txt"
            _write_labels(dataset, Path(label_path_of(path)), label_place, edits_of.get((twin, label_path_of(path)), []))
    write_whole(out / "data.yaml", move_yaml(dataset.source, places))


def edit_yolo(dataset: Dataset, edits: Sequence[Edit]) -> dict[Path, bytes]:
    """The label files that the edits change, with their new content; a file may be one that is not there yet."""
    return {path: _edit_labels(dataset, _content_of(path), path, mine) for path, mine in group_by_label_file(dataset, edits).items()}


def _content_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _pair_splits(splits: list[Split], cleaned: set[str]) -> list[tuple[Split, str]]:
    """Each split with the name of the split whose folder it uses: its own, or that of one which lists the same pictures."""
    by_content: dict[frozenset[str], str] = {}
    for split in sorted(splits, key=lambda split: split.name not in cleaned):  # the cleaned one owns the folder
        by_content.setdefault(frozenset(split.paths), split.name)
    return [(split, by_content[frozenset(split.paths)]) for split in splits]


def _write_labels(dataset: Dataset, label_path: Path, place: Path, edits: Sequence[Edit]) -> None:
    if not edits:
        if label_path.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(label_path, place)
        return
    write_whole(place, _edit_labels(dataset, _content_of(label_path), label_path, edits))


def _edit_labels(dataset: Dataset, content: bytes, label_path: Path, edits: Sequence[Edit]) -> bytes:
    """A label file's bytes after its edits; a row that no edit names keeps its bytes."""
    mark = BOM if content.startswith(BOM) else b""
    rows: list[bytes] = split_rows(content.removeprefix(BOM))
    end = b"\r\n" if rows and rows[0].endswith(b"\r\n") else b"\n"
    last_is_open = bool(rows) and not rows[-1].endswith((b"\n", b"\r"))
    by_row: dict[int, list[Edit]] = defaultdict(list)
    for edit in edits:
        if edit.annotation is not None:
            by_row[int(dataset.source_rows[edit.annotation])].append(edit)
    if by_row and max(by_row) >= len(rows):
        raise DatasetError(f"{label_path}: has {len(rows)} rows, but row {max(by_row) + 1} is to be edited; it has changed, run again")
    deleted = {row for row, changes in by_row.items() if any(edit.action == "delete" for edit in changes)}
    moved = {row for row, changes in by_row.items() if any(edit.action == "move" for edit in changes)}
    as_polygons = any(_count_columns(row) > 6 for i, row in enumerate(rows) if i not in deleted | moved)

    kept: list[bytes] = []
    for i, row in enumerate(rows):
        if i not in deleted:
            kept.append(_edit_row(dataset, row, by_row[i], as_polygons) if i in by_row else row)
    added = [_format_row(dataset, edit, b"%d" % require(edit.category), as_polygons) for edit in edits if edit.action == "add"]
    if added:
        if kept and not kept[-1].endswith((b"\n", b"\r")):
            kept[-1] += end
        kept += [row + end for row in added]
        if last_is_open:
            kept[-1] = kept[-1].removesuffix(end)
    result = b"".join(kept)
    return mark + result if result.strip() else b""


def _edit_row(dataset: Dataset, row: bytes, edits: Sequence[Edit], as_polygons: bool) -> bytes:
    for edit in edits:
        if edit.action == "relabel":
            row = CLASS_TOKEN.sub(rb"\g<1>%d" % require(edit.category), row, count=1)
        elif edit.action == "move":
            token = CLASS_TOKEN.match(row)
            ending = row[len(row.rstrip(b"\r\n")) :]
            row = _format_row(dataset, edit, token[0].strip() if token else b"0", as_polygons) + ending
    return row


def _format_row(dataset: Dataset, edit: Edit, token: bytes, as_polygon: bool) -> bytes:
    """`class cx cy w h` of an edit's box, cut at the image's border; among polygons the same box by its corners."""
    size = np.array(dataset.images.select("width", "height").row(edit.image_index), dtype=np.float64)
    xyxy = clip_boxes(np.array(require(edit.xyxy), dtype=np.float64), size)
    numbers = xyxy_to_cxcywhn(xyxy, size)
    if as_polygon:
        left, top, right, bottom = xyxy / np.concatenate([size, size])
        numbers = np.array([left, top, right, top, right, bottom, left, bottom])
    return token + "".join(f" {number:.{DECIMALS}f}" for number in numbers).encode()


def _count_columns(row: bytes) -> int:
    return len(row.replace(b",", b" ").replace(b";", b" ").split())
