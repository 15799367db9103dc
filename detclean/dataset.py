"""A data set in memory, whatever its format was: images, categories, annotations, and what was met while reading."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, read_boxes, write_boxes

Format = Literal["coco", "yolo", "voc", "memory"]
Severity = Literal["error", "warning", "note"]
Action = Literal["add", "delete", "relabel", "move", "review"]

ISSUE_TYPES = ("overlooked", "badloc", "swap", "spurious", "duplicate")


@dataclass(frozen=True)
class Finding:
    """Something about the source that a person should know.

    kind: a short name such as "box-outside-image"; severity: "error" stops a run before training, "warning" is wrong but can be
    lived with, "note" is only worth knowing; where: file and place, `labels/a.txt:3`; message: what, and what to do.
    """

    kind: str
    severity: Severity
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Edit:
    """One change to the source. `annotation` is a position in `Dataset.annotations`, None for "add"."""

    action: Action
    image_index: int
    annotation: int | None
    category: int | None = None  # the category after the edit, for "add" and "relabel"
    xyxy: tuple[float, float, float, float] | None = None  # the box after the edit, for "add" and "move"


@dataclass(frozen=True)
class Dataset:
    """Images, categories and annotations, with the way back to the source.

    images: one row an image, in the order that `image_index` counts: image_id (Int64 or String, the source's own), file_name (as the
    source has it), path (absolute; null where there is no picture), label_path (absolute; null where one file holds all), width and
    height in pixels as the labels see them, split.
    categories: K names; category_ids: the source's ids of them. annotations: with annotation_id and is_crowd.
    source_rows (n,): where each annotation stands: the line of its label file counted from 0 (yolo), its position in the document's
    list (coco), its position among the file's objects (voc).
    """

    images: pl.DataFrame
    categories: tuple[str, ...]
    annotations: Boxes
    source_rows: Ints
    format: Format
    source: Path
    category_ids: tuple[Any, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def image_count(self) -> int:
        return self.images.height

    @property
    def sizes(self) -> Floats:
        """Width and height of every image: (N, 2) pixels."""
        return self.images.select("width", "height").to_numpy().astype(np.float64)

    def select_images(self, mask: Mask) -> Dataset:
        """The part of the data set that holds the images of a mask (N,); indices count anew, ids stay."""
        kept = mask[self.annotations.image_index] if len(self.annotations) else np.zeros(0, bool)
        position = np.cumsum(mask) - 1
        chosen = self.annotations[kept]
        annotations = replace(chosen, image_index=position[chosen.image_index])
        return replace(self, images=self.images.filter(pl.Series(mask)), annotations=annotations, source_rows=self.source_rows[kept])

    def split_mask(self, split: str) -> Mask:
        """The images of one part ("train", "val", "test"), or all where `split` is "all" or the source knows no parts: (N,)."""
        if split == "all" or self.images["split"].null_count() == self.image_count:
            return np.ones(self.image_count, bool)
        mask: Mask = (self.images["split"] == split).fill_null(False).to_numpy()
        return mask

    def select_split(self, split: str) -> Dataset:
        """The images of `split_mask`."""
        return self.select_images(self.split_mask(split))

    def describe_source(self, annotation: int) -> str:
        """Where an annotation (by position) stands, for a person: `labels/a.txt:3` or `annotation 17`."""
        row = int(self.source_rows[annotation])
        if self.format in ("coco", "memory"):
            ids = self.annotations.annotation_id
            return f"annotation {row if ids is None else ids[annotation]}"
        label_path = self.images["label_path"][int(self.annotations.image_index[annotation])]
        shown = shorten_path(label_path, self.source)
        return f"{shown}:{row + 1}" if self.format == "yolo" else f"{shown} object {row + 1}"


def shorten_path(path: str | Path, source: Path) -> str:
    """A path as a person reads it: relative to the data set where it lies below it."""
    base = source if source.is_dir() else source.parent
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else str(path)


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """A data set as a stage's output: images.parquet, annotations.parquet, dataset.json."""
    dataset.images.write_parquet(folder / "images.parquet")
    write_boxes(dataset.annotations, folder / "annotations.parquet")
    pl.DataFrame({"source_row": dataset.source_rows}).write_parquet(folder / "source_rows.parquet")
    rest = {
        "categories": dataset.categories,
        "category_ids": dataset.category_ids,
        "format": dataset.format,
        "source": str(dataset.source),
        "findings": [asdict(finding) for finding in dataset.findings],
    }
    (folder / "dataset.json").write_bytes(orjson.dumps(rest, option=orjson.OPT_INDENT_2))


def open_dataset(folder: Path) -> Dataset:
    """The data set that `write_dataset` wrote."""
    rest = orjson.loads((folder / "dataset.json").read_bytes())
    return Dataset(
        images=pl.read_parquet(folder / "images.parquet", glob=False),
        categories=tuple(rest["categories"]),
        annotations=read_boxes(folder / "annotations.parquet"),
        source_rows=pl.read_parquet(folder / "source_rows.parquet", glob=False)["source_row"].to_numpy(),
        format=rest["format"],
        source=Path(rest["source"]),
        category_ids=tuple(rest["category_ids"]),
        findings=tuple(Finding(**finding) for finding in rest["findings"]),
    )
