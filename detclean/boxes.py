"""Boxes as columns, and the geometry of boxes. xyxy in absolute pixels everywhere inside detclean."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Boxes:
    """n boxes as equal-length columns, sorted by image.

    image_index (n,) position of the image in its data set; category (n,) 0..K-1; xyxy (n, 4) pixels; and where they apply
    score (n,) confidence 0..1; class_scores (n, K) one score a category; annotation_id (n,) the source's id, integers or strings;
    is_crowd (n,) bool; fold (n,) and repeat (n,) of the model that made the detection.
    """

    image_index: Ints
    category: Ints
    xyxy: Floats
    score: Floats | None = None
    class_scores: Floats | None = None
    annotation_id: NDArray[Any] | None = None
    is_crowd: Mask | None = None
    fold: Ints | None = None
    repeat: Ints | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_index", np.asarray(self.image_index, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "category", np.asarray(self.category, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "xyxy", np.asarray(self.xyxy, dtype=np.float64).reshape(-1, 4))
        lengths = {name: len(column) for name, column in self.columns().items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        if (np.diff(self.image_index) < 0).any():
            raise ValueError("boxes must be sorted by image_index; use Boxes.sorted()")

    def __len__(self) -> int:
        return len(self.image_index)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are there, by name."""
        present = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: column for name, column in present if column is not None}

    def __getitem__(self, index: ArrayLike | slice) -> Boxes:
        """The boxes of a mask, of ascending positions, or of a slice."""
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(chosen, slice) and not chosen.size and chosen.dtype != bool:
            chosen = chosen.astype(np.int64)  # an empty list has no type of its own
        return Boxes(**{name: column[chosen] for name, column in self.columns().items()})

    def without_vectors(self) -> Boxes:
        """The same without class_scores: of millions of detections a slice with them is a copy of gigabytes."""
        return replace(self, class_scores=None)

    def by_image(self, image_count: int) -> list[slice]:
        """One slice an image, in order: `boxes[slices[i]]` are the boxes of image i."""
        edges = np.searchsorted(self.image_index, np.arange(image_count + 1))
        return [slice(int(a), int(b)) for a, b in pairwise(edges)]

    @staticmethod
    def sorted(**columns: Any) -> Boxes:
        """Boxes from columns in any order; boxes of one image keep their order."""
        present = {name: np.asarray(column) for name, column in columns.items() if column is not None}
        order = np.argsort(present["image_index"], kind="stable")
        return Boxes(**{name: column[order] for name, column in present.items()})

    @staticmethod
    def empty() -> Boxes:
        """No box at all."""
        return Boxes(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)))


def write_boxes(boxes: Boxes, path: Path, more: pl.DataFrame | None = None) -> None:
    """Every column to a Parquet file; xyxy as x1 y1 x2 y2, class_scores as one fixed-size list a box. more: columns beside them."""
    table: dict[str, Any] = {}
    for name, column in boxes.columns().items():
        if name == "xyxy":
            table |= {side: column[:, i] for i, side in enumerate(("x1", "y1", "x2", "y2"))}
        elif name == "class_scores":
            table[name] = pl.Series(name, column.astype(np.float32), dtype=pl.Array(pl.Float32, column.shape[1]))
        elif column.dtype.kind in "OU":
            table[name] = pl.Series(name, column.tolist(), dtype=None if len(column) else pl.String)
        else:
            table[name] = column
    frame = pl.DataFrame(table)
    (frame if more is None else frame.hstack(more)).write_parquet(path)


def read_boxes(path: Path) -> Boxes:
    """The boxes that `write_boxes` wrote, without what may stand beside them."""
    table = pl.read_parquet(path, glob=False)
    columns: dict[str, Any] = {"xyxy": table.select("x1", "y1", "x2", "y2").to_numpy()}
    for field in fields(Boxes):
        if field.name in table.columns:
            columns[field.name] = table[field.name].to_numpy()
    return Boxes(**columns)


def box_area(xyxy: Floats) -> Floats:
    """Area in square pixels: (n, 4) -> (n,). Zero for an empty or inverted box."""
    area: Floats = np.clip(xyxy[..., 2:] - xyxy[..., :2], 0, None).prod(axis=-1)
    return area


def box_iou(a: Floats, b: Floats) -> Floats:
    """IoU of every pair: (n, 4) and (m, 4) xyxy -> (n, m). Zero where both boxes are empty."""
    return aligned_iou(a[:, None, :], b[None, :, :])


def aligned_iou(a: Floats, b: Floats) -> Floats:
    """IoU of boxes that stand side by side: (..., 4) and (..., 4), broadcast -> (...). Zero where both boxes are empty."""
    intersection = aligned_intersection(a, b)
    union = box_area(a) + box_area(b) - intersection
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def aligned_intersection(a: Floats, b: Floats) -> Floats:
    """Shared area of boxes that stand side by side, in square pixels: (..., 4) and (..., 4), broadcast -> (...)."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    area: Floats = np.clip(high - low, 0, None).prod(axis=-1)
    return area


def xywh_to_xyxy(xywh: Floats) -> Floats:
    """COCO's [x, y, width, height], top left, to corners: (n, 4) -> (n, 4)."""
    return np.concatenate([xywh[..., :2], xywh[..., :2] + xywh[..., 2:]], axis=-1)


def xyxy_to_xywh(xyxy: Floats) -> Floats:
    """Corners to COCO's [x, y, width, height], top left: (n, 4) -> (n, 4)."""
    return np.concatenate([xyxy[..., :2], xyxy[..., 2:] - xyxy[..., :2]], axis=-1)


def cxcywhn_to_xyxy(cxcywhn: Floats, size: Floats) -> Floats:
    """YOLO's centre and size as shares of the image to corners in pixels: (n, 4), size (n, 2) width and height -> (n, 4)."""
    centre, half = cxcywhn[..., :2], cxcywhn[..., 2:] / 2
    return np.concatenate([(centre - half) * size, (centre + half) * size], axis=-1)


def xyxy_to_cxcywhn(xyxy: Floats, size: Floats) -> Floats:
    """Corners in pixels to YOLO's centre and size as shares of the image: (n, 4), size (n, 2) width and height -> (n, 4)."""
    low, high = xyxy[..., :2] / size, xyxy[..., 2:] / size
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def clip_boxes(xyxy: Floats, size: Floats) -> Floats:
    """Boxes cut at the image's border: (n, 4), size (n, 2) width and height -> (n, 4)."""
    return np.clip(xyxy, 0, np.concatenate([size, size], axis=-1))


def expand_ranges(start: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Row i with each of start[i], start[i] + 1, ..., count[i] of them: starts and counts (n,) -> i (p,), ascending, and positions (p,)."""
    rows = np.repeat(np.arange(len(count)), count)
    return rows, np.arange(len(rows)) + np.repeat(start - (np.cumsum(count) - count), count)


def find_close_pairs(image_index: Ints, xyxy: Floats, min_iou: float) -> Ints:
    """Positions (p, 2) of boxes in one image that overlap by at least `min_iou`, from (n,) and (n, 4); min_iou above 0.

    A sweep along x instead of an n x n matrix: an IoU of t needs a common width of at least t of either box, so of two boxes sorted
    by their left side the second starts within the first 1 - t of the first one's width.
    """
    order = np.lexsort((xyxy[:, 0], image_index))
    image_index, xyxy = image_index[order], xyxy[order]
    reach = xyxy[:, 0] + (1 - min_iou) * (xyxy[:, 2] - xyxy[:, 0]) + 1e-6
    found: list[Ints] = []
    first, step = np.arange(len(order)), 0
    while len(first):
        step += 1
        first = first[first + step < len(order)]
        second = first + step
        open_ = (image_index[first] == image_index[second]) & (xyxy[second, 0] <= reach[first])
        first, second = first[open_], second[open_]
        close = aligned_iou(xyxy[first], xyxy[second]) >= min_iou
        found.append(np.stack([order[first[close]], order[second[close]]], axis=1))
    pairs = np.sort(np.concatenate([np.empty((0, 2), np.int64), *found]), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
