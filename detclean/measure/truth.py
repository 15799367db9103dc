"""The truth of a data set with planted errors, and which candidates sit on objects that were left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, Mask, read_boxes, xywh_to_xyxy
from detclean.dataset import Dataset
from detclean.measure.figures import Ranking
from detclean.score.matching import match_greedily, overlapping_pairs

FOUND_IOU = 0.5  # of a candidate with the object left out
SAME_BOX_IOU = 0.9  # of an annotation with the hard object that an answer key names


@dataclass(frozen=True)
class Truth:
    """kind (n,): "" for an annotation that is right, else the error planted; image (n,) of each; removed: the objects left out (r,);
    hard (n,): right, but known to be difficult; image_count: of the data set.
    """

    kind: NDArray[np.str_]
    image: Ints
    removed: Boxes
    hard: Mask
    image_count: int


def read_truth(truth: Path, dataset: Dataset, hard: pl.DataFrame | None = None) -> Truth:
    """The truth of a data set with planted errors. truth: the folder that planting wrote; hard: file_name and bbox of an answer key."""
    clean = read_boxes(truth / "annotations.parquet")
    removed = clean[pl.read_parquet(truth / "removed.parquet", glob=False)["removed"].to_numpy()]
    kind: NDArray[Any] = np.array(pl.read_parquet(truth / "planted.parquet", glob=False)["kind"].to_list(), dtype=np.str_)
    annotations = dataset.annotations
    if len(kind) != len(annotations):
        raise ValueError(f"{truth}: the truth of {len(kind)} annotations, but the data set has {len(annotations)}")
    difficult = np.zeros(len(kind), bool) if hard is None else (kind == "") & find_hard(dataset, hard)
    return Truth(kind, annotations.image_index, removed, difficult, dataset.image_count)


def find_hard(dataset: Dataset, hard: pl.DataFrame) -> Mask:
    """Which annotations are the boxes of an answer key's hard objects: (n,). Boxes of images that are not in the data set fall away."""
    position = {name: i for i, name in enumerate(dataset.images["file_name"].to_list())}
    image = np.array([position.get(name, -1) for name in hard["file_name"].to_list()], dtype=np.int64)
    xyxy = xywh_to_xyxy(np.array(hard["bbox"].to_list(), dtype=np.float64).reshape(-1, 4))
    here = image >= 0
    boxes = Boxes.sorted(image_index=image[here], category=np.zeros(here.sum(), np.int64), xyxy=xyxy[here])
    mine, _, _ = overlapping_pairs(dataset.annotations, boxes, SAME_BOX_IOU)
    mask = np.zeros(len(dataset.annotations), bool)
    mask[mine] = True
    return mask


def claim_objects(removed: Boxes, candidates: Boxes, score: Floats) -> tuple[Mask, Mask]:
    """Which candidates (m,) found a removed object, and which removed objects (r,) were found.

    One to one at IoU >= FOUND_IOU, the best-scored candidate first, each taking the object it fits best; categories do not matter.
    """
    theirs, mine, iou = overlapping_pairs(candidates, removed, FOUND_IOU)
    order = np.lexsort((-iou, theirs, -score[theirs]))
    strength = np.empty(len(order))
    strength[order] = -np.arange(len(order))
    taken = match_greedily(theirs, mine, strength)
    found, claimed = np.zeros(len(candidates), bool), np.zeros(len(removed), bool)
    found[theirs[taken]] = True
    claimed[mine[taken]] = True
    return found, claimed


def rank_annotations(truth: Truth, kind: str, score: Floats) -> Ranking:
    """All annotations ranked for one type, or for "any": score (n,)."""
    wrong = truth.kind != "" if kind == "any" else truth.kind == kind
    return Ranking(wrong, score, truth.image, np.zeros(0, np.int64))


def rank_candidates(truth: Truth, candidates: Boxes, score: Floats) -> Ranking:
    """Candidates ranked: one on no removed object is a false alarm, a removed object without a candidate is missed."""
    found, claimed = claim_objects(truth.removed, candidates, score)
    return Ranking(found, score, candidates.image_index, truth.removed.image_index[~claimed])


def rank_listed(truth: Truth, listed: Boxes) -> Ranking:
    """One list of annotations and of boxes for overlooked objects, as in Opinion.listed; right where anything is wrong there."""
    position = np.asarray(listed.annotation_id, dtype=np.int64)
    proposed = position < 0
    wrong = np.zeros(len(listed), bool)
    wrong[~proposed] = truth.kind[position[~proposed]] != ""
    score = np.asarray(listed.score)
    wrong[proposed], _ = claim_objects(truth.removed, listed[proposed], score[proposed])
    return Ranking(wrong, score, listed.image_index, np.zeros(0, np.int64))


def rank_images(truth: Truth, score: Floats) -> Ranking:
    """All images ranked, wrong where any error was planted: score (N,)."""
    places = np.concatenate([truth.image[truth.kind != ""], truth.removed.image_index])
    wrong = np.isin(np.arange(truth.image_count), places)
    return Ranking(wrong, score, np.arange(truth.image_count), np.zeros(0, np.int64))


def rank_hard(truth: Truth, score: Floats) -> Ranking:
    """The annotations with planted errors against those that are right but hard: score (n,)."""
    rows = (truth.kind != "") | truth.hard
    return Ranking(truth.kind[rows] != "", score[rows], truth.image[rows], np.zeros(0, np.int64))
