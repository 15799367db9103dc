"""Every box that will be judged, drawn before any detector looks: the annotations as given, and corrupted copies to learn from.

Errors are planted after training, again and again, so that a model can learn how they look in the evidence. Drawing all of them first
means that evidence which needs the pictures is gathered for the annotations and for the planted errors in one and the same pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints
from detclean.score.planting import STYLES, Style, plant_errors

POOL_SIZE = 2000  # corrupted copies of each kind, at most: more would not be drawn on
COPIED_KINDS = ("swap", "badloc", "duplicate")


@dataclass(frozen=True)
class Looks:
    """boxes: l boxes, sorted by image, each with the category that stands at it (for a swap the wrong one); annotation (l,): position of
    the annotation that it is or was made from, -1 for a spurious box; kind (l,): "" as given, else the issue type that was planted."""

    boxes: Boxes
    annotation: Ints
    kind: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def given(self) -> Ints:
        """The rows of the annotations as given, in their order: (n,)."""
        return np.flatnonzero(self.kind == "")


@dataclass(frozen=True)
class Round:
    """Errors planted once: rows (r,), ascending positions among the looks; removed, positions of the annotations that were left out."""

    rows: Ints
    removed: Ints


def leave_out_crowds(annotations: Boxes) -> Boxes:
    """The annotations that are judged: crowd regions explain detections, but are never judged."""
    return annotations if annotations.is_crowd is None else annotations[~annotations.is_crowd.astype(bool)]


def draw_looks(annotations: Boxes, sizes: Floats, category_count: int, *, seed: int = 0, style: Style = STYLES["standard"]) -> Looks:
    """The annotations and up to POOL_SIZE corrupted copies of each kind. sizes (N, 2) width and height in pixels.

    The same arguments give the same looks, so that each stage draws them for itself.
    """
    n = len(annotations)
    rng = np.random.default_rng([seed, 7])
    parts = [(Boxes(annotations.image_index, annotations.category, annotations.xyxy), np.arange(n), np.full(n, "", "<U10"))]
    for kind in (*COPIED_KINDS, "spurious"):
        share = min(1.0, POOL_SIZE / max(n, 1))
        planted = plant_errors(annotations, sizes, category_count, {kind: share}, rng, style)
        made = planted.kind == kind
        parts.append((planted.annotations[made], planted.origin[made], planted.kind[made]))
    image, category, xyxy = (
        np.concatenate([getattr(boxes, name) for boxes, _, _ in parts]) for name in ("image_index", "category", "xyxy")
    )
    order = np.argsort(image, kind="stable")
    boxes = Boxes(image[order], category[order], xyxy[order])
    return Looks(boxes, np.concatenate([origin for _, origin, _ in parts])[order], np.concatenate([kind for _, _, kind in parts])[order])


def draw_round(looks: Looks, rates: Mapping[str, float], rng: np.random.Generator) -> Round:
    """Plants each type into its own share of the annotations, as far as the pool has copies; no annotation gets two errors."""
    given = looks.given
    n = len(given)
    used = np.zeros(n, bool)
    removed = rng.permutation(n)[: round(n * rates.get("overlooked", 0.0))]
    used[removed] = True
    planted: list[Ints] = []
    for kind in COPIED_KINDS:
        rows = rng.permutation(np.flatnonzero(looks.kind == kind))
        rows = rows[~used[looks.annotation[rows]]][: round(n * rates.get(kind, 0.0))]
        used[looks.annotation[rows]] = True
        planted.append(rows)
    spurious = rng.permutation(np.flatnonzero(looks.kind == "spurious"))[: round(n * rates.get("spurious", 0.0))]
    kept = np.ones(n, bool)
    kept[removed] = False
    for kind, rows in zip(COPIED_KINDS, planted, strict=True):
        if kind != "duplicate":  # the copy stands in the annotation's place
            kept[looks.annotation[rows]] = False
    return Round(np.sort(np.concatenate([given[kept], *planted, spurious])), np.sort(removed))
