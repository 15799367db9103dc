"""The stages that train nothing, rehearsed for a plan: their real code, on a part of the data set and on detections that are made up."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.audit import audit_dataset
from detclean.boxes import Boxes, Ints, clip_boxes
from detclean.config import Config
from detclean.dataset import Dataset, write_dataset
from detclean.detect.dynamics import RECORDED
from detclean.detect.locations import COLUMNS, examine_locations
from detclean.files import share_image
from detclean.formats import write_cleaned
from detclean.machine import peak_memory
from detclean.pipeline import steps
from detclean.score.calibration import MOST_ROWS, ROWS_WANTED
from detclean.score.crop_opinion import CropOpinion
from detclean.score.dynamics import compute_dynamics_evidence
from detclean.score.scores import draw_dataset_looks
from detclean.show.progress import Display
from detclean.stages import StageContext

LEAST_ANNOTATIONS, MOST_ANNOTATIONS = 1500, 16_000  # of the part that is rehearsed with; between them an eighth of all
FEW_ANNOTATIONS = 200  # in the first rehearsal, which shows what starting costs
ROUNDS = 3  # planting rounds of the longer rehearsal; whoever has few annotations plants more often
AUDITED, LINKED = 256, 200  # pictures that are audited, linked and copied
MANY_IMAGES = 20_000  # from here on writing the cleaned data set is not rehearsed, but told from LINKED
FEATURES = 32  # a box; that of detect/yolo_features.py, which only a child may import
EPOCHS = 15  # whose losses are made up: about three cycles of a fifth of 26
NO_FINDING = dict.fromkeys(("kind", "severity", "where", "message"), pl.String)
SEEN, CONFIDENT = 0.93, 0.7  # of the annotations, by a detection with about this score


@dataclass(frozen=True)
class Rehearsal:
    """What was rehearsed, its size, and what it took, in seconds and bytes.

    images, annotations: of the part; starting: the first scoring, of little, which loads what scoring needs; score: seconds by the number
    of planting rounds; written: a stage's name and the bytes of its folder; grown: bytes by which this process grew while scoring;
    beyond: seconds of scoring for each annotation more, from where the models learn from no more of them; 0 below.
    """

    images: int
    annotations: int
    starting: float
    quality: float
    opinions: float
    score: dict[int, float]
    issues: float
    export: float
    written: dict[str, int]
    grown: int
    beyond: float = 0.0


def rehearse(config: Config, part: Dataset, detections: Boxes | None, per_annotation: float, names: set[str], folder: Path) -> Rehearsal:
    """Scores, selects and exports a part of the data set `part` (what is to be cleaned). names: of the stages that the run has.

    detections: those that the user brought, of the whole; where there are none they are made up, `per_annotation` for each annotation.
    """
    first = _rehearse(config, part, detections, per_annotation, names, folder / "first", FEW_ANNOTATIONS, (1,))
    total = len(part.annotations)
    wanted = int(np.clip(total // 8, LEAST_ANNOTATIONS, MOST_ANNOTATIONS))
    wanted = total if total < 1.5 * wanted else wanted
    rounds = count_rounds(total, config.score.planting_rounds)
    tried = (1,) if rounds == 1 else (1, min(ROUNDS, rounds))
    beyond = 0.0
    if total > 2 * MOST_ROWS:  # the models cost the same from MOST_ROWS on, and the rest grows
        full = _rehearse(config, part, detections, per_annotation, names, folder / "full", MOST_ROWS, (1,))
        wanted = 2 * MOST_ROWS
    found = _rehearse(config, part, detections, per_annotation, names, folder / "second", wanted, tried)
    if wanted == 2 * MOST_ROWS:
        beyond = max(found["score"][1] - full["score"][1], 0.0) / max(found["annotations"] - full["annotations"], 1)
    return Rehearsal(**found, starting=first["score"][1], beyond=beyond)


def count_rounds(annotations: int, most: int) -> int:
    """How often errors are planted, as scoring decides it."""
    return int(np.clip(ROWS_WANTED // max(annotations, 1), 1, most))


def _rehearse(
    config: Config,
    part: Dataset,
    detections: Boxes | None,
    per_annotation: float,
    names: set[str],
    folder: Path,
    wanted: int,
    rounds: tuple[int, ...],
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sample, chosen = _take(part, wanted)
    if detections is None:
        found = make_up_detections(sample, per_annotation, config.folds.repeats, rng)
    else:
        position = np.cumsum(chosen) - 1
        mine = detections[np.flatnonzero(chosen[detections.image_index])]
        zeros = np.zeros(len(mine), np.int64)
        columns = mine.columns() | {"image_index": position[mine.image_index], "fold": zeros, "repeat": zeros}
        found = Boxes(**columns)
    inputs = {name: folder / name for name in ("load", "audit", "folds", "detect", "crops", "dynamics", "score", "issues", "export")}
    for place in (*inputs.values(), inputs["load"] / "part"):
        place.mkdir(parents=True)
    write_dataset(sample, inputs["load"] / "part")
    for name in ("audit", "folds"):
        pl.DataFrame(schema=NO_FINDING).write_parquet(inputs[name] / "findings.parquet")
    quality = _write_detections(sample, found, inputs["detect"], with_raw=detections is None)
    needs = {"load", "detect"}
    opinions = 0.0
    if "crops" in names:
        opinions = _clock(lambda: _write_opinions(config, sample, found, inputs["crops"], rng))
        needs.add("crops")
    if "dynamics" in names:
        looks = draw_dataset_looks(sample, config.score.seed)
        records = rng.random((EPOCHS, len(looks), len(RECORDED)), dtype=np.float32)
        compute_dynamics_evidence(records, looks.kind == "").write_parquet(inputs["dynamics"] / "dynamics.parquet")
        needs.add("dynamics")
    display = Display(_quiet(), None)
    before = peak_memory()
    settings = config.score.model_dump(mode="json")
    score = {
        count: _clock(
            lambda count=count: steps.score(  # type: ignore[misc]
                StageContext({name: inputs[name] for name in needs}, inputs["score"], settings | {"planting_rounds": count}, display)
            )
        )
        for count in rounds
    }
    grown = peak_memory() - before
    chosen_issues = config.issues.model_dump(mode="json")
    issues = _clock(lambda: steps.issues(StageContext(inputs, inputs["issues"], chosen_issues, display)))
    exporting = {**config.clean.model_dump(mode="json"), **config.export.model_dump(mode="json"), "copy_images": False}
    exporting["final"] = str(inputs["export"])
    few = part.image_count <= MANY_IMAGES
    export = _clock(lambda: steps.export(StageContext(inputs, inputs["export"], exporting, display))) if few else 0.0
    return {
        "images": sample.image_count,
        "annotations": len(sample.annotations),
        "quality": quality,
        "opinions": opinions,
        "score": score,
        "issues": issues,
        "export": export,
        "written": {name: count_bytes(place) for name, place in inputs.items()},
        "grown": max(grown, 0),
    }


def time_audit(dataset: Dataset) -> float:
    """Seconds a picture, in one process, of everything that the audit does."""
    chosen = np.zeros(dataset.image_count, bool)
    chosen[np.unique(np.linspace(0, dataset.image_count - 1, min(AUDITED, dataset.image_count)).round().astype(np.int64))] = True
    sample = dataset.select_images(chosen)
    audit_dataset(sample.select_images(np.arange(sample.image_count) < 2))  # imports
    return _clock(lambda: audit_dataset(sample)) / sample.image_count


def time_sharing(dataset: Dataset, folder: Path, copy: bool) -> float:
    """Seconds a picture that is linked or copied elsewhere."""
    paths = dataset.images["path"].drop_nulls().to_list()[:LINKED]

    def share() -> None:
        for number, path in enumerate(paths):
            share_image(Path(path), folder / f"{number}{Path(path).suffix}", copy)

    return _clock(share) / max(len(paths), 1)


def time_cleaning(dataset: Dataset, folder: Path) -> float:
    """Seconds in which the source is written anew without an edit."""
    return _clock(lambda: write_cleaned(dataset, [], folder))


def make_up_detections(dataset: Dataset, per_annotation: float, repeats: int, rng: np.random.Generator) -> Boxes:
    """Detections as a detector might give them: most annotations with confidence, and more that are weak, near them or not."""
    annotations, categories = dataset.annotations, len(dataset.categories)
    parts = []
    for repeat in range(repeats):
        sure = np.flatnonzero(rng.random(len(annotations)) < SEEN)
        more = rng.integers(len(annotations), size=max(0, round(per_annotation * len(annotations)) - len(sure)))
        origin, weak = np.concatenate([sure, more]), np.arange(len(sure) + len(more)) >= len(sure)
        xyxy = annotations.xyxy[origin]
        side = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
        xyxy = xyxy + rng.normal(0, 1, xyxy.shape) * side * np.where(weak, 0.3, 0.04)[:, None]
        low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
        image = annotations.image_index[origin]
        placed = clip_boxes(np.concatenate([low, high + 1.0], axis=1), dataset.sizes[image])
        category = np.where(
            weak & (rng.random(len(origin)) < 0.5), rng.integers(categories, size=len(origin)), annotations.category[origin]
        )
        vectors = rng.beta(1, 60, (len(origin), categories)).astype(np.float32)
        vectors[np.arange(len(origin)), category] = np.where(weak, rng.beta(1, 12, len(origin)), CONFIDENT * rng.beta(8, 2, len(origin)))
        solid = np.flatnonzero((placed[:, 2:] > placed[:, :2]).all(axis=1))
        columns = {"image_index": image, "category": vectors.argmax(axis=1), "xyxy": placed, "score": vectors.max(axis=1)}
        columns |= {"class_scores": vectors, "fold": np.zeros(len(origin), np.int64)}
        parts.append({name: column[solid] for name, column in columns.items()} | {"repeat": np.full(len(solid), repeat)})
    return Boxes.sorted(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _take(part: Dataset, wanted: int) -> tuple[Dataset, Any]:
    """Images from all over the data set with about so many annotations, and which (N,)."""
    count = max(2, min(part.image_count, round(part.image_count * wanted / max(len(part.annotations), 1))))
    chosen = np.zeros(part.image_count, bool)
    chosen[np.unique(np.linspace(0, part.image_count - 1, min(count, part.image_count)).round().astype(np.int64))] = True
    return part.select_images(chosen), chosen


def _write_detections(sample: Dataset, found: Boxes, out: Path, with_raw: bool) -> float:
    """What the stage `detect` leaves; seconds that writing the detections and measuring their quality took."""
    folds: Ints = np.zeros((1, sample.image_count), np.int64)
    seconds = _clock(lambda: steps.finish_detections(sample, found, folds, out))
    if with_raw:
        looks = draw_dataset_looks(sample, 0).boxes
        _examine(sample, found, found).rename({name: f"raw_{name}" for name in COLUMNS}).write_parquet(out / "at_detections.parquet")
        zeros = np.zeros(len(looks), np.int64)
        rows = pl.DataFrame({"row": np.arange(len(looks)), "repeat": zeros, "fold": zeros, "held_out": zeros == 0})
        rows.hstack(_examine(sample, found, looks)).write_parquet(out / "looks.parquet")
    return seconds


def _examine(sample: Dataset, found: Boxes, boxes: Boxes) -> pl.DataFrame:
    """One row a box, as if the detections were all that the raw output says."""
    vectors = np.asarray(found.class_scores)
    parts = [
        examine_locations(found.xyxy[seen].astype(np.float32), vectors[seen], boxes.xyxy[asked].astype(np.float32), boxes.category[asked])
        for seen, asked in zip(found.by_image(sample.image_count), boxes.by_image(sample.image_count), strict=True)
    ]
    return pl.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})


def _write_opinions(config: Config, sample: Dataset, found: Boxes, out: Path, rng: np.random.Generator) -> None:
    """What the stage `crops` leaves, from features in which the categories lie apart as far as in a fair detector's."""
    looks = draw_dataset_looks(sample, config.score.seed)
    opinion = CropOpinion(looks, found, len(sample.categories))
    centres = rng.normal(0, 1, (len(sample.categories), FEATURES))
    folds: Ints = np.stack([rng.integers(config.folds.k, size=sample.image_count) for _ in range(config.folds.repeats)])
    features = centres[opinion.boxes.category] + rng.normal(0, 1, (config.folds.repeats, len(opinion.boxes), FEATURES))
    opinion.hear_features(features.astype(np.float32), folds, config.score.seed)
    opinion.looks.write_parquet(out / "looks.parquet")
    opinion.detections.write_parquet(out / "detections.parquet")
    (out / "facts.json").write_bytes(orjson.dumps({"took_over": []}))


def count_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; a link counts as itself."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def _clock(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _quiet() -> Any:
    from rich.console import Console

    return Console(file=io.StringIO())
