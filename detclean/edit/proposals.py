"""What each issue would change in the data set, under the user's strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from detclean.boxes import Floats
from detclean.dataset import Dataset, Edit
from detclean.edit.changes import as_edits, make_change, propose_after

Strategy = Literal["fix", "drop_boxes", "drop_images"]
Pruning = Literal["drop_hard", "keep_hard"]


@dataclass(frozen=True)
class Cleaning:
    """edits to annotations, and images (by index) that are left out altogether."""

    edits: tuple[Edit, ...]
    drop_images: tuple[int, ...]


def propose_cleaning(dataset: Dataset, issues: pl.DataFrame, strategy: Strategy = "fix", min_probability: float | None = None) -> Cleaning:
    """Edits for the issues from `min_probability` on; for those with the verdict "noisy" where that is None.

    fix: the proposed edit of each. drop_boxes: suspected annotations are deleted, nothing is added or moved. drop_images: every image
    with an issue is left out.
    """
    chosen = issues.filter(pl.col("verdict") == "noisy" if min_probability is None else pl.col("probability") >= min_probability)
    if strategy == "drop_images":
        return Cleaning((), tuple(sorted(set(chosen["image_index"].to_list()))))
    if strategy == "drop_boxes":
        flagged = chosen.filter(pl.col("annotation").is_not_null())
        deletions = (Edit("delete", row["image_index"], row["annotation"]) for row in flagged.iter_rows(named=True))
        return Cleaning(tuple(deletions), ())
    rows = [row for row in chosen.iter_rows(named=True) if row["action"] != "review"]
    return Cleaning(tuple(as_edits([make_change(dataset, row, propose_after(row)) for row in rows], dataset)), ())


def propose_pruning(issues: pl.DataFrame, hardness: Floats, strategy: Pruning) -> Cleaning:
    """Images to leave out by how hard they are, their labels as given. hardness: (N,); issues: with image_index and verdict.

    drop_hard: the images in which something is flagged as merely hard and nothing as noisy. keep_hard: as many of the easiest images, of
    equals the first, but none in which something is flagged. So both leave out equally many, where there are as many without a flag.
    """
    noisy, hard = (set(issues.filter(pl.col("verdict") == verdict)["image_index"].to_list()) for verdict in ("noisy", "hard"))
    merely_hard = sorted(hard - noisy)
    if strategy == "drop_hard":
        return Cleaning((), tuple(merely_hard))
    easiest = np.argsort(hardness, kind="stable")
    free = easiest[~np.isin(easiest, list(noisy | hard))]
    return Cleaning((), tuple(sorted(free[: len(merely_hard)].tolist())))
