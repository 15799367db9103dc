"""What one method says of a data set, in the one shape that everything is measured in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, read_boxes, write_boxes
from detclean.dataset import Dataset
from detclean.score.calibration import ANNOTATION_TYPES
from detclean.score.issues import select_issues
from detclean.score.scores import Scores

ANY = "any"


@dataclass(frozen=True)
class Opinion:
    """Scores, higher is worse; on no particular scale unless the method gives probabilities.

    annotations: issue type or "any" -> (n,), without the types that the method does not know; candidates: boxes that may be overlooked
    objects, each with its score, none where the method proposes none; images (N,). listed: for a method that makes one list of it all
    with probabilities as scores: annotation_id is the position of the annotation, -1 for the box of an overlooked object.
    """

    annotations: dict[str, Floats]
    candidates: Boxes
    images: Floats
    listed: Boxes | None = None


def combine(annotations: Mapping[str, Floats], candidates: Boxes, dataset: Dataset, images: Floats | None = None) -> Opinion:
    """An Opinion; an image is as bad as the worst that is in it, where the method has no image score of its own."""
    if images is None:
        images = np.zeros(dataset.image_count)
        np.maximum.at(images, dataset.annotations.image_index, annotations[ANY])
        if len(candidates):
            np.maximum.at(images, candidates.image_index, np.asarray(candidates.score))
    return Opinion(dict(annotations), candidates, images)


def judge_by_scores(scores: Scores, dataset: Dataset) -> Opinion:
    """detclean's own opinion: its probabilities; an image is as bad as the number of errors expected in it."""
    table = scores.annotations.sort("annotation")
    if not np.array_equal(table["annotation"].to_numpy(), np.arange(len(dataset.annotations))):
        raise ValueError("not every annotation was scored")
    per_type: dict[str, Floats] = {kind: table[f"p_{kind}"].to_numpy().astype(np.float64) for kind in (*ANNOTATION_TYPES, ANY)}
    found = scores.candidates
    number = {name: i for i, name in enumerate(dataset.categories)}
    candidates = Boxes.sorted(
        image_index=found["image_index"].to_numpy(),
        category=np.array([number[name] for name in found["category"].to_list()], dtype=np.int64),
        xyxy=found.select("x1", "y1", "x2", "y2").to_numpy(),
        score=found["probability"].to_numpy().astype(np.float64),
    )
    return Opinion(per_type, candidates, scores.images["expected_errors"].to_numpy(), _list_issues(scores, dataset))


def _list_issues(scores: Scores, dataset: Dataset) -> Boxes:
    """Every issue that a person could be shown, however many."""
    issues = select_issues(scores, dataset, budget=scores.annotations.height + scores.candidates.height)
    sides = [pl.coalesce(f"suggested_{side}", side) for side in ("x1", "y1", "x2", "y2")]
    return Boxes.sorted(
        image_index=issues["image_index"].to_numpy(),
        category=np.zeros(issues.height, np.int64),
        xyxy=issues.select(sides).to_numpy(),
        score=issues["probability"].to_numpy().astype(np.float64),
        annotation_id=issues["annotation"].fill_null(-1).to_numpy(),
    )


def write_opinion(opinion: Opinion, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(opinion.annotations).write_parquet(folder / "annotations.parquet")
    write_boxes(opinion.candidates, folder / "candidates.parquet")
    pl.DataFrame({"score": opinion.images}).write_parquet(folder / "images.parquet")
    if opinion.listed is not None:
        write_boxes(opinion.listed, folder / "listed.parquet")


def read_opinion(folder: Path) -> Opinion:
    """The opinion that `write_opinion` wrote."""
    table = pl.read_parquet(folder / "annotations.parquet", glob=False)
    images = pl.read_parquet(folder / "images.parquet", glob=False)["score"].to_numpy()
    per_type: dict[str, Floats] = {name: table[name].to_numpy() for name in table.columns}
    listed = folder / "listed.parquet"
    return Opinion(per_type, read_boxes(folder / "candidates.parquet"), images, read_boxes(listed) if listed.exists() else None)
