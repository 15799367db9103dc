"""Scores of a whole data set as tables: every annotation, every candidate, every image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from detclean.boxes import Boxes, Floats, Ints, aligned_intersection, box_area
from detclean.dataset import Dataset
from detclean.score.calibration import ANNOTATION_TYPES, Probabilities, compute_probabilities
from detclean.score.evidence import compute_annotation_evidence, proposed_boxes
from detclean.score.hardness import compute_annotation_hardness
from detclean.score.looks import Looks, draw_looks, leave_out_crowds
from detclean.score.matching import overlapping_pairs, sum_per
from detclean.score.objectlab import Engine, ObjectLabScores, compute_objectlab_scores
from detclean.score.rules import score_annotations_by_rules, score_candidates_by_rules
from detclean.score.sources import NOTHING_GATHERED, Gathered, Sources

CROWD_SHARE = 0.5  # a candidate that lies this much inside a crowd region is explained by it
VOTE = 0.5  # a judge votes for an issue at this probability or score


@dataclass(frozen=True)
class Scores:
    """annotations, candidates, images: the tables of the run folder with a few columns more (positions, proposals, votes).

    facts: what a summary should say of how they came about: calibrated, cleanlab's cut-offs per category. calibration: what was learnt
    on the data set, as JSON.
    """

    annotations: pl.DataFrame
    candidates: pl.DataFrame
    images: pl.DataFrame
    facts: dict[str, Any]
    calibration: bytes = b"{}"


def score_dataset(
    dataset: Dataset,
    detections: Boxes,
    *,
    gathered: Gathered = NOTHING_GATHERED,
    planting_rounds: int = 40,
    seed: int = 0,
    engine: Engine = "fast",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Probabilities, cleanlab's scores and proposals for a data set and its out-of-fold detections (sorted by image, with score).

    gathered: evidence from elsewhere, one row a look or a detection; the looks are those of `draw_dataset_looks` with the same seed.
    engine: who computes cleanlab's scores, see `compute_objectlab_scores`.
    """
    _check_detections(detections, dataset)
    annotations, category_count = dataset.annotations, len(dataset.categories)
    crowd = np.zeros(len(annotations), bool) if annotations.is_crowd is None else annotations.is_crowd.astype(bool)
    judged = annotations[~crowd]
    sources = Sources(draw_dataset_looks(dataset, seed), detections, dataset.sizes, category_count, gathered)
    probabilities = _leave_out_crowds(
        compute_probabilities(sources, rounds=planting_rounds, seed=seed, progress=progress), detections, annotations[crowd]
    )
    objectlab = compute_objectlab_scores(judged, detections, dataset.image_count, category_count, engine=engine)
    agreeing = _count_agreeing_repeats(sources, probabilities.evidence)
    annotation_table = _annotation_table(dataset, np.flatnonzero(~crowd), detections, probabilities, objectlab, agreeing)
    candidate_table = _candidate_table(dataset, detections, probabilities, objectlab)
    image_table = _image_table(dataset, annotation_table, candidate_table, objectlab)
    facts = {
        "calibrated": probabilities.calibrated,
        "repeats": len(sources.repeats()),
        "hardness_per_category": _mean_hardness(annotation_table, dataset.categories),
        "cleanlab_cut_offs": {
            name: {"low": round(float(low), 4), "high": round(float(high), 4)}
            for name, low, high in zip(dataset.categories, objectlab.low, objectlab.high, strict=True)
        },
        "cleanlab_images_flagged": int(objectlab.image_flag.sum()),
    }
    return Scores(annotation_table, candidate_table, image_table, facts, probabilities.document)


def draw_dataset_looks(dataset: Dataset, seed: int) -> Looks:
    """Every box of a data set that will be judged, the same for the same seed."""
    return draw_looks(leave_out_crowds(dataset.annotations), dataset.sizes, len(dataset.categories), seed=seed)


def _check_detections(detections: Boxes, dataset: Dataset) -> None:
    """Raises ValueError where the detections are of another data set; readers have told a user so before."""
    images, categories = dataset.image_count, len(dataset.categories)
    if detections.score is None:
        raise ValueError("detections need a score")
    if len(detections) and detections.image_index[-1] >= images:
        raise ValueError(f"a detection is of image {detections.image_index[-1]}, but the data set has {images} (0 to {images - 1})")
    if detections.class_scores is not None and detections.class_scores.shape[1] != categories:
        raise ValueError(
            f"detections have class_scores of {detections.class_scores.shape[1]} categories, but the data set has {categories}"
        )
    if len(detections) and detections.category.max() >= categories:
        raise ValueError(
            f"a detection is of category {detections.category.max()}, but the data set has {categories} (0 to {categories - 1})"
        )


def _leave_out_crowds(probabilities: Probabilities, detections: Boxes, crowds: Boxes) -> Probabilities:
    boxes = detections.without_vectors()[probabilities.candidates]
    mine, theirs, _ = overlapping_pairs(boxes, crowds, 0.0)
    inside = aligned_intersection(boxes.xyxy[mine], crowds.xyxy[theirs]) > CROWD_SHARE * box_area(boxes.xyxy[mine])
    free = np.ones(len(boxes), bool)
    free[mine[inside]] = False
    return replace(
        probabilities,
        candidates=probabilities.candidates[free],
        overlooked=probabilities.overlooked[free],
        candidate_evidence=probabilities.candidate_evidence.filter(free),
    )


def _identity(dataset: Dataset, image_index: Ints) -> dict[str, pl.Series]:
    return {name: dataset.images[name].gather(image_index) for name in ("image_id", "file_name")}


def _ids(boxes: Boxes, positions: Ints) -> pl.Series:
    """The source's ids as integers or as strings, typed even where there is no annotation; positions where the source has none."""
    ids = positions if boxes.annotation_id is None else np.asarray(boxes.annotation_id)
    return pl.Series(ids, dtype=pl.Int64) if ids.dtype.kind in "iu" else pl.Series([str(i) for i in ids.tolist()], dtype=pl.String)


def _names(categories: tuple[str, ...], positions: NDArray[np.integer[Any]]) -> pl.Series:
    """Category names of positions, null where the position is -1."""
    table = pl.Series([*categories, None], dtype=pl.String)
    return table.gather(np.where(positions >= 0, positions, len(categories)))


def _corners(xyxy: Floats, prefix: str = "") -> dict[str, pl.Series]:
    return {f"{prefix}{name}": pl.Series(xyxy[:, i]).fill_nan(None) for i, name in enumerate(("x1", "y1", "x2", "y2"))}


def _annotation_table(
    dataset: Dataset,
    positions: Ints,
    detections: Boxes,
    probabilities: Probabilities,
    objectlab: ObjectLabScores,
    agreeing: dict[str, Ints],
) -> pl.DataFrame:
    boxes = dataset.annotations[positions]
    category_count = len(dataset.categories)
    evidence = probabilities.evidence
    rules = score_annotations_by_rules(evidence)
    per_type = probabilities.annotations
    any_ = (
        np.sum([per_type[kind] for kind in ANNOTATION_TYPES], axis=0)
        if probabilities.calibrated
        else np.max([per_type[kind] for kind in ANNOTATION_TYPES], axis=0)
    )
    cleanlab = {"swap": objectlab.swap, "badloc": objectlab.badloc}
    columns: dict[str, Any] = {
        **_identity(dataset, boxes.image_index),
        "annotation_id": _ids(boxes, positions),
        "category": _names(dataset.categories, boxes.category),
        **_corners(boxes.xyxy),
        **{f"p_{kind}": per_type[kind] for kind in ANNOTATION_TYPES},
        "p_any": np.clip(any_, 0, 1),
        **{f"cleanlab_{kind}": pl.Series(score).fill_nan(None) for kind, score in cleanlab.items()},
        **{f"rule_{kind}": rules[kind] for kind in ANNOTATION_TYPES},
        "hardness": compute_annotation_hardness(boxes, detections, category_count),
        **{
            f"votes_{kind}": (per_type[kind] >= VOTE).astype(np.int64)
            + agreeing[kind]
            + (np.nan_to_num(cleanlab[kind], nan=1.0) < VOTE if kind in cleanlab else 0)
            for kind in ANNOTATION_TYPES
        },
        "image_index": boxes.image_index,
        "annotation": positions,
        "twin": evidence["twin"],
        "twin_iou": evidence["twin_iou"],
        "score_same": evidence["same_50"],
        "score_other": evidence["other_50"],
        "score_any": np.maximum(evidence["same_30"].to_numpy(), evidence["other_30"].to_numpy()),
        "best_iou": evidence["best_iou"],
        "best_score": evidence["best_score"],
        "other_category": _names(dataset.categories, evidence["other_category"].to_numpy()),
        **_corners(proposed_boxes(boxes, detections), "proposed_"),
    }
    return pl.DataFrame(columns)


def _count_agreeing_repeats(sources: Sources, evidence: pl.DataFrame) -> dict[str, Ints]:
    """By how many repeats' detections alone, read by plain rules, each annotation is wrong: issue type -> (n,). evidence: of all."""
    context, repeats = sources.looks.boxes[sources.looks.given], sources.repeats()
    opinions = [evidence]
    if len(repeats) > 1:
        opinions = [compute_annotation_evidence(context, one, sources.sizes, sources.category_count) for one in repeats]
    agreeing: dict[str, Ints] = {kind: np.zeros(len(context), np.int64) for kind in ANNOTATION_TYPES}
    for opinion in opinions:
        for kind, score in score_annotations_by_rules(opinion).items():
            agreeing[kind] += score >= VOTE
    return agreeing


def _mean_hardness(annotations: pl.DataFrame, categories: tuple[str, ...]) -> dict[str, float | None]:
    means = dict(annotations.group_by("category").agg(pl.col("hardness").mean()).iter_rows())
    return {name: None if name not in means else round(means[name], 4) for name in categories}


def _candidate_table(dataset: Dataset, detections: Boxes, probabilities: Probabilities, objectlab: ObjectLabScores) -> pl.DataFrame:
    boxes = detections.without_vectors()[probabilities.candidates]
    evidence = probabilities.candidate_evidence
    rules = score_candidates_by_rules(evidence)
    cleanlab = objectlab.overlooked[probabilities.candidates]
    seen_by = evidence["seen_by"].to_numpy().astype(np.int64) if "seen_by" in evidence.columns else (rules >= VOTE).astype(np.int64)
    columns: dict[str, Any] = {
        **_identity(dataset, boxes.image_index),
        "category": _names(dataset.categories, boxes.category),
        **_corners(boxes.xyxy),
        "score": boxes.score,
        "probability": probabilities.overlooked,
        "cleanlab_overlooked": pl.Series(cleanlab).fill_nan(None),
        "votes": (probabilities.overlooked >= VOTE).astype(np.int64) + seen_by + (np.nan_to_num(cleanlab, nan=1.0) < VOTE),
        "image_index": boxes.image_index,
        "overlap": evidence["overlap"],
    }
    return pl.DataFrame(columns)


def _image_table(dataset: Dataset, annotations: pl.DataFrame, candidates: pl.DataFrame, objectlab: ObjectLabScores) -> pl.DataFrame:
    n = dataset.image_count
    image = annotations["image_index"].to_numpy()
    expected = sum_per(image, annotations["p_any"].to_numpy(), n)
    expected = expected + sum_per(candidates["image_index"].to_numpy(), candidates["probability"].to_numpy(), n)
    count = np.bincount(image, minlength=n)
    hardness = sum_per(image, annotations["hardness"].to_numpy(), n) / np.maximum(count, 1)
    return dataset.images.select("image_id", "file_name").with_columns(
        label_quality_score=pl.Series(np.clip(objectlab.image, 0, 1)),
        cleanlab_flag=pl.Series(objectlab.image_flag),
        expected_errors=pl.Series(expected),
        annotations=pl.Series(count),
        hardness=pl.Series(hardness),
    )
