"""Boxes looked at one by one: features of the fold's own detector, and a classifier of crops trained for each fold.

Both work out of fold, as the detections do: whoever judges a box has never seen a label of its image. As in `yolo.py` Ultralytics is only
imported in child processes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, box_area, write_boxes
from detclean.dataset import Dataset
from detclean.detect.yolo import Fold, find_slots, find_usual_slots, list_folds, share_threads
from detclean.detect.yolo_process import Display, Executor, Job, Silence, is_done, run_jobs
from detclean.detect.yolo_settings import prepare, warn_of_code
from detclean.detect.yolo_view import find_names, write_questions
from detclean.errors import ConfigError, StageError

BATCH = 16  # images looked at together
CROP_MODEL = "yolo11n-cls.yaml"
CROP_SIDE = 32  # px: half the cost of 64, which was not compared to the end
CROPS_SEEN = 36_000  # in a training, over its epochs: about two minutes of one core for YOLO11n
EPOCHS_BETWEEN = (5, 30)
MOST_CROPS = 20_000  # that a classifier is trained on in an epoch
BACKGROUND_SHARE = 0.25  # of these crops, at most
SOME_DETECTOR = "yolo11n.yaml"  # what `prepare` may look at where no detector takes part


def embed_boxes(
    dataset: Dataset,
    folds: Ints,
    trained: Path,
    boxes: Boxes,
    out: Path,
    *,
    imgsz: int | None = None,
    device: Any = None,
    workers: int | None = None,
    executor: Executor | None = None,
    display: Display | None = None,
) -> Floats:
    """What the models of `train_folds` (in the folder `trained`) make of boxes in their held-out images: (repeats, n, 32), float32.

    The last layer's inputs in the category branch of the head, pooled from each box, reduced to principal components. Each model has a
    space of its own: rows of different folds cannot be compared. NaN where an image has no picture. imgsz: that of the training where
    None. out survives a crash. Raises ConfigError and StageError.
    """
    display = display or Silence()
    out, trained = out.resolve(), trained.resolve()
    parts = list_folds(folds)
    jobs = [_job("features", part, out, {"weights": str(part.weights(trained))}) for part in parts]
    pending = [job for job in jobs if not is_done(job.key, [job.marker], display)]
    if pending:
        prepared = prepare(dataset, out, jobs[0].settings["weights"], {})
        slots = find_slots(prepared, device, len(parts), workers, executor)
        for job, part in zip(jobs, parts, strict=True):
            display.task(job.key, "image", int((folds[part.repeat] == part.fold).sum()))
            if job in pending:
                write_questions(dataset, folds[part.repeat] == part.fold, boxes, job.folder)
        usual = find_usual_slots(prepared, device, len(parts), executor)
        common = {"task": "features", "imgsz": imgsz, "batch": BATCH, "threads": share_threads(usual)}
        run_jobs(pending, slots, common, display, executor)
    features = _gather(jobs, parts, "features", (len(folds), len(boxes)))
    _tidy(out, parts)
    return features


def classify_crops(
    dataset: Dataset,
    folds: Ints,
    boxes: Boxes,
    background: Mask,
    out: Path,
    *,
    model: str = CROP_MODEL,
    imgsz: int = CROP_SIDE,
    epochs: int | None = None,
    fliplr: float = 0.5,
    seed: int = 0,
    device: Any = None,
    workers: int | None = None,
    executor: Executor | None = None,
    display: Display | None = None,
) -> Floats:
    """What a classifier of crops, trained on the other folds' images, makes of each box: (repeats, n, K + 1), the last for background.

    boxes: whatever is to be judged. background (n,): those of them on nothing; in the other folds' images they are learnt from, beside
    the data set's annotations. model: a .yaml or .pt of an Ultralytics classification model. fliplr: share of the crops that are mirrored
    in training. NaN where an image has no picture. out survives a crash; the same seed gives the same answers on a CPU with as many
    cores. Raises ConfigError and StageError.
    """
    display = display or Silence()
    out = out.resolve()
    parts = list_folds(folds)
    jobs = [_job("probability", part, out, {}) for part in parts]
    pending = [job for job in jobs if not is_done(job.key, [job.marker], display)]
    if pending:
        model = _find_crop_model(model)
        warn_of_code(model, {}, display)
        prepared = prepare(dataset, out, SOME_DETECTOR, {})
        slots = find_slots(prepared, device, len(parts), workers, executor)
        for job, part in zip(jobs, parts, strict=True):
            display.task(job.key, "epoch", epochs or EPOCHS_BETWEEN[1])
            if job in pending:
                _write_lesson(dataset, folds[part.repeat] == part.fold, boxes, background, job, seed)
        common = {
            "task": "crop training",
            "model": model,
            "imgsz": imgsz,
            "epochs": epochs,
            "crops_seen": CROPS_SEEN,
            "epochs_between": EPOCHS_BETWEEN,
            "fliplr": fliplr,
            "seed": seed,
            "category_count": len(dataset.categories),
            "threads": share_threads(find_usual_slots(prepared, device, len(parts), executor)),
        }
        run_jobs(pending, slots, common, display, executor)
    probability = _gather(jobs, parts, "probability", (len(folds), len(boxes)))
    _tidy(out, parts)
    return probability


def _job(answer: str, part: Fold, out: Path, settings: dict[str, Any]) -> Job:
    folder = out / "folds" / part.name
    name = {"features": "features", "probability": "crops"}[answer]
    return Job(f"{name} of {part.key}", folder, folder / f"{answer}.npz", {"repeat": part.repeat, "fold": part.fold, **settings})


def _find_crop_model(model: str) -> str:
    if Path(model).is_file():
        return os.path.abspath(model)  # the children work in other folders
    if model.endswith(".pt"):
        raise StageError(f"crops.model: there is no file {model}; name existing weights of a classification model, or {CROP_MODEL}")
    if not model.endswith((".yaml", ".yml")):
        raise ConfigError(f"crops.model: {model} is neither a file nor a .yaml of a classification model, such as {CROP_MODEL}")
    return model


def _write_lesson(dataset: Dataset, held_out: Mask, boxes: Boxes, background: Mask, job: Job, seed: int) -> None:
    """What a fold's classifier learns from, `training.parquet` (K stands for background), and what it is asked."""
    write_questions(dataset, held_out, boxes, job.folder)
    asked = pl.read_parquet(job.folder / "images.parquet", glob=False).with_columns(held_out=True)
    shared = np.array([name is not None for name in find_names(dataset)], bool) & ~held_out
    annotations, nothing = dataset.annotations, boxes[background]
    crowd = annotations.is_crowd if annotations.is_crowd is not None else np.zeros(len(annotations), bool)
    label = np.concatenate([annotations.category, np.full(len(nothing), len(dataset.categories))])
    image = np.concatenate([annotations.image_index, nothing.image_index])
    xyxy = np.concatenate([annotations.xyxy, nothing.xyxy])
    usable = np.concatenate([~crowd, np.ones(len(nothing), bool)]) & shared[image] & (box_area(xyxy) > 0) & np.isfinite(xyxy).all(axis=1)
    objects = np.flatnonzero(usable & (label < len(dataset.categories)))
    if not len(objects):
        raise StageError(f"{job.key}: none of the images to train on has a picture and an annotation; use other folds or more images")
    rng = np.random.default_rng([seed, job.settings["repeat"], job.settings["fold"]])
    objects = rng.permutation(objects)[: round(MOST_CROPS * (1 - BACKGROUND_SHARE))]
    empty = rng.permutation(np.flatnonzero(usable & (label == len(dataset.categories))))
    chosen = np.concatenate([objects, empty[: round(len(objects) * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE))]])
    order = chosen[np.argsort(image[chosen], kind="stable")]
    write_boxes(Boxes(image[order], label[order], xyxy[order]), job.folder / "training.parquet")
    others = dataset.images.select(image_index=pl.int_range(pl.len(), dtype=pl.Int64), path="path", width="width", height="height")
    pl.concat([asked, others.filter(pl.Series(shared)).with_columns(held_out=False)]).write_parquet(job.folder / "images.parquet")


def _gather(jobs: Sequence[Job], parts: Sequence[Fold], name: str, shape: tuple[int, int]) -> Floats:
    """The children's rows put in their places: -> (repeats, n, width), NaN where nobody answered."""
    gathered = None
    for job, part in zip(jobs, parts, strict=True):
        with np.load(job.marker, allow_pickle=False) as answer:
            rows, values = answer["row"], answer[name]
        if gathered is None:
            gathered = np.full((*shape, values.shape[1]), np.nan, np.float32)
        gathered[part.repeat, rows] = values
    return np.empty((*shape, 0), np.float32) if gathered is None else gathered


def _tidy(out: Path, parts: Sequence[Fold]) -> None:
    """Leaves answers, logs and progress files."""
    for place in ("prepare", "ultralytics", "weights"):
        shutil.rmtree(out / place, ignore_errors=True)
    kept = {"features.npz", "probability.npz", "train.log", "progress.jsonl"}
    for path in (path for part in parts for path in (out / "folds" / part.name).iterdir()):
        if path.name not in kept:
            path.unlink()
