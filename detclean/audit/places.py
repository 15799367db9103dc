"""Where a finding is, for programs: its file, the line, and the image that it is about. `Finding.where` says it for people."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from detclean.dataset import Dataset, Finding

LINE = re.compile(r"(.+):(\d+)")  # labels/a.txt:3
OBJECT = re.compile(r"(.+) object \d+")  # a.xml object 3
RECORD = re.compile(r"(annotation|image) (.*)", re.DOTALL)  # annotation 17, a record of a COCO file by its id


@dataclass(frozen=True)
class Place:
    """file: an absolute path, None where no file holds it; line: counted from 1; image: its file_name, as the source has it."""

    file: Path | None = None
    line: int | None = None
    image: str | None = None


def find_places(findings: Sequence[Finding], dataset: Dataset) -> list[Place]:
    """The place of each finding about a data set. What a finding names is looked up; what cannot be found is the data set's own file."""
    images = dataset.images.with_columns(pl.col("image_id").cast(pl.String))
    folders = [dataset.source if dataset.source.is_dir() else dataset.source.parent, *_find_image_folder(images)]
    of_file = _name_images(images, "label_path") | _name_images(images, "path")
    of_id, of_name = _name_images(images, "image_id"), _name_images(images, "file_name")
    pictures = dict(images.select("file_name", "path").iter_rows())
    of_annotation = _find_annotated(findings, dataset) if dataset.format == "coco" else {}
    whole = dataset.source if dataset.source.is_file() else None

    def find(where: str) -> Place:
        if dataset.format == "coco" and (record := RECORD.fullmatch(where)):
            return Place(whole, None, (of_annotation if record[1] == "annotation" else of_id).get(record[2]))
        file, line = _find_file(where, folders)
        if file is not None:
            return Place(file, line, of_file.get(str(file)))
        image = of_id.get(where) or of_name.get(where)
        picture = pictures.get(image) if image else None
        return Place(Path(picture) if picture else whole, None, image)

    return [find(finding.where) for finding in findings]


def _find_image_folder(images: pl.DataFrame) -> list[Path]:
    """The folder that file names are relative to, where a picture tells."""
    known = images.filter(pl.col("path").is_not_null()).head(1).select("path", "file_name")
    return [Path(path.removesuffix(name)) for path, name in known.iter_rows() if path.endswith(name)]


def _name_images(images: pl.DataFrame, key: str) -> dict[str, str]:
    """The file_name of the image that a value of a column stands for; without values that stand for several."""
    pairs = images.select(key=key, file_name="file_name").drop_nulls().unique()
    return dict(pairs.unique("key", keep="none").iter_rows())


def _find_annotated(findings: Sequence[Finding], dataset: Dataset) -> dict[str, str]:
    """The file_name of the image of each annotation that a finding names by an id of its own."""
    wanted = {record[2] for finding in findings if (record := RECORD.fullmatch(finding.where)) and record[1] == "annotation"}
    ids, names = dataset.annotations.annotation_id, dataset.images["file_name"]
    if not wanted or ids is None:
        return {}
    rows = [(text, names[int(dataset.annotations.image_index[i])]) for i, text in enumerate(map(str, ids)) if text in wanted]
    known = pl.DataFrame(rows, schema={"id": pl.String, "file_name": pl.String}, orient="row")
    return dict(known.unique("id", keep="none").iter_rows())


def _find_file(where: str, folders: Sequence[Path]) -> tuple[Path | None, int | None]:
    """The file below one of the folders that words such as `labels/a.txt:3` name, and the line; None where there is none."""
    readings: list[tuple[str, int | None]] = [(where, None)]
    if line := LINE.fullmatch(where):
        readings.append((line[1], int(line[2])))
    if thing := OBJECT.fullmatch(where):
        readings.append((thing[1], None))
    for name, number in readings:
        for folder in folders:
            if os.path.isfile(folder / name):
                return folder / name, number
    return None, None
