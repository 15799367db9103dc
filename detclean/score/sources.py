"""All that is known about the boxes of a data set, from whatever sources there are, as one table a question.

Some evidence depends on which annotations stand beside a box (evidence.py) and is computed anew for every planting; the rest was gathered
once at every look and at every detection, by whoever had the pictures, and is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.score.evidence import MATCH_IOU, compute_annotation_evidence, compute_candidate_evidence, find_neighbours
from detclean.score.looks import Looks
from detclean.score.matching import Neighbours, overlapping_pairs

NAMES = ("twin", "other_category")  # columns of evidence that are names, not quantities
INDEPENDENT = {*NAMES, "twin_iou", "twin_same", "log_area", "unusual_width", "unusual_height", "share", "border", "crowd"}  # of detectors
SECOND_OPINION = "dynamics_"  # begins the names of evidence from a model that was trained on the labels it judges
COMPARED = ("off_most", "raw_target_loss", "raw_off_most", "raw_same_70")  # in what a box is held against the one that repeats it
OPINIONS = ("same_50", "other_50", "fit", "off_most")  # what repeats may differ about


@dataclass(frozen=True)
class Gathered:
    """Evidence from elsewhere. looks: tables of one row a look; detections: tables of one row a detection.

    blind (K,): categories for which the detector is too weak to be heard; for them its evidence is left out.
    """

    looks: tuple[pl.DataFrame, ...] = ()
    detections: tuple[pl.DataFrame, ...] = ()
    blind: Mask | None = None


NOTHING_GATHERED = Gathered()


@dataclass(frozen=True)
class Sources:
    """What the evidence is made of. looks: every box on trial; detections (m,); sizes (N, 2) width and height in pixels."""

    looks: Looks
    detections: Boxes
    sizes: Floats
    category_count: int
    gathered: Gathered = NOTHING_GATHERED

    @cached_property
    def neighbours(self) -> Neighbours:
        """What the detections say about each other, whatever is planted: found once."""
        return find_neighbours(self.detections)

    def repeats(self) -> list[Boxes]:
        """The detections of each repeat."""
        repeat = self.detections.repeat
        if repeat is None or len(found := np.unique(repeat)) < 2:
            return [self.detections]
        return [self.detections[repeat == one] for one in found]


def gather_annotation_evidence(sources: Sources, rows: Ints) -> pl.DataFrame:
    """One row for each of the looks `rows` (r,), ascending: they are taken to be the annotations of the data set."""
    context = sources.looks.boxes[rows]
    parts = [compute_annotation_evidence(context, one, sources.sizes, sources.category_count) for one in sources.repeats()]
    table = pl.concat([_average(parts), *(at[rows] for at in sources.gathered.looks)], how="horizontal")
    return table.with_columns(_compare_with_twin(table))


def leave_out_blind(evidence: pl.DataFrame, category: Ints, blind: Mask | None) -> pl.DataFrame:
    """Evidence to learn from (r rows, of boxes of `category` (r,)), without what detectors say where they are blind (K,)."""
    if blind is None or not blind.any():
        return evidence
    unheard = pl.Series(blind[category])
    detectors = [name for name in evidence.columns if name not in INDEPENDENT and "crop_" not in name]
    return evidence.with_columns(pl.when(unheard).then(None).otherwise(pl.col(name)).alias(name) for name in detectors)


def _compare_with_twin(table: pl.DataFrame) -> list[pl.Series]:
    """How much worse a box is than the one that overlaps it most, NaN where there is none."""
    twin = table["twin"].to_numpy()
    differences = []
    for name in (name for name in COMPARED if name in table.columns):
        own = table[name].to_numpy().astype(np.float64)
        differences.append(pl.Series(f"twin_{name}", np.where(twin >= 0, own - own[twin], np.nan)))
    return differences


def _average(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """The mean of several opinions' evidence, and how much they differ; of names that of the first or of the strongest."""
    if len(parts) == 1:
        return parts[0]
    columns = {}
    for name in parts[0].columns:
        stacked = np.stack([part[name].to_numpy() for part in parts])
        if name in NAMES:
            rows = np.stack([part["other_50"].to_numpy() for part in parts]).argmax(axis=0) if name == "other_category" else 0
            columns[name] = stacked[rows, np.arange(stacked.shape[1])]
            continue
        told = ~np.isnan(stacked)
        count = np.maximum(told.sum(axis=0), 1)
        mean = np.where(told, stacked, 0).sum(axis=0) / count
        columns[name] = np.where(told.any(axis=0), mean, np.nan)
        if name in OPINIONS:
            columns[f"{name}_spread"] = np.sqrt(np.where(told, (stacked - mean) ** 2, 0).sum(axis=0) / count)
    return pl.DataFrame(columns)


def gather_candidate_evidence(sources: Sources, candidates: Ints, annotations: Boxes) -> pl.DataFrame:
    """One row a candidate: positions in the detections (c,), beside the annotations that are there."""
    detections = sources.detections
    table = compute_candidate_evidence(candidates, annotations, detections, sources.sizes, sources.category_count, sources.neighbours)
    parts = [table, *(at[candidates] for at in sources.gathered.detections)]
    if len(repeats := sources.repeats()) > 1:
        parts.append(pl.DataFrame({"seen_by": _count_repeats(detections[candidates], repeats)}))
    return pl.concat(parts, how="horizontal")


def _count_repeats(boxes: Boxes, repeats: list[Boxes]) -> Floats:
    """In how many repeats something is detected at each box: (c,)."""
    count = np.zeros(len(boxes))
    for one in repeats:
        mine, _, _ = overlapping_pairs(boxes, one, MATCH_IOU)
        count[np.unique(mine)] += 1
    return count


def spread_over_looks(table: pl.DataFrame, look_count: int, prefix: str) -> pl.DataFrame:
    """Evidence with a column row, several rows a look where several models looked, as one row a look: their mean, NaN where nobody did."""
    names = [name for name in table.columns if name not in ("row", "repeat", "fold", "held_out", "other_category")]
    mean = table.group_by("row").agg(pl.col(name).cast(pl.Float64).mean() for name in names)
    rows = pl.DataFrame({"row": np.arange(look_count)}).join(mean, on="row", how="left", maintain_order="left")
    return rows.select(pl.col(name).fill_null(float("nan")).alias(prefix + name) for name in names)
