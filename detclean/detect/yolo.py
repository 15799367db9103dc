"""Out-of-fold detection by Ultralytics YOLO: a training per fold, then each fold's model on the images it never saw.

Ultralytics itself is only imported in child processes (`yolo_worker.py`): it changes settings of the process it is in, and a training
that dies must not take the run with it.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, read_boxes
from detclean.dataset import Dataset
from detclean.detect.locations import COLUMNS
from detclean.detect.yolo_pieces import LOOKS, cut_job, join_pieces, remove_pieces
from detclean.detect.yolo_process import Display, Executor, Job, Silence, is_done, run_jobs
from detclean.detect.yolo_settings import THREADS_A_FOLD, WEIGHTS, choose_slots, complete_predict, complete_train, prepare, warn_of_code
from detclean.detect.yolo_view import find_names, write_fold_lists, write_questions, write_view
from detclean.errors import ConfigError, StageError
from detclean.files import write_whole
from detclean.machine import count_cores

DRAW = "draw.npy"  # in a fold's folder: how often it draws each image


@dataclass(frozen=True)
class Fold:
    """One model of the cross-validation: which images it does not see, its name for a person and its name for files."""

    repeat: int
    fold: int
    key: str
    name: str

    def weights(self, out: Path) -> Path:
        """Where its weights lie below the folder of the training."""
        return out / "weights" / f"{self.name}{WEIGHTS}"


def train_folds(
    dataset: Dataset,
    folds: Ints,
    out: Path,
    *,
    model: str,
    train: Mapping[str, Any],
    seed: int = 0,
    draw: Floats | None = None,
    seeds: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    display: Display | None = None,
) -> None:
    """Trains for each repeat and fold a model on the images of the other folds: `out/weights/fold-0.weights`, ...

    folds: (repeats, N), the fold of each image. out: a folder that survives a crash: a fold that is done is not repeated, and one that
    was interrupted goes on after its last finished epoch and ends (on a CPU, with as many cores) with the same weights to the bit.
    model: a .pt or .yaml, or the name of weights that Ultralytics publishes. train: Ultralytics' training arguments, with
    `device: auto`. draw: (parts, N), how often each image is drawn compared with the others, in each of that many equal parts of the
    training; an epoch is as long as without. seeds: a repeat is one training with a seed of its own, and is called so. workers: how many
    folds at a time; on GPUs, one on each. executor: trains on other machines, to the same weights.

    Raises ConfigError for settings that cannot be, StageError for weights that cannot be had and for a training that failed.
    """
    display = display or Silence()
    out = out.resolve()
    if isinstance(train.get("pretrained"), str):
        train = {**train, "pretrained": os.path.abspath(train["pretrained"])}  # the children work in other folders
    if draw is not None and train.get("rect"):
        raise ConfigError("train.rect: its batches hold images of one shape, so that none can be drawn by trust; set train.rect=false")
    parts = list_folds(folds, seeds)
    pending = [part for part in parts if not is_done(part.key, [part.weights(out)], display)]
    if pending:
        names = find_names(dataset)
        _check_training_parts(_find_usable(dataset, names, draw), folds, parts)
        warn_of_code(model, train, display)
        prepared = prepare(dataset, out, model, train)
        slots = find_slots(prepared, train.get("device"), len(parts), workers, executor)
        usual = find_usual_slots(prepared, train.get("device"), len(parts), executor)
        settings = complete_train(train, dataset, usual, seed, display)
        view = write_view(dataset, names, out)
        for part in pending:
            write_fold_lists(dataset, names, folds[part.repeat] == part.fold, view, out / "folds" / part.name)
            if draw is not None:
                _write_draw(draw, out / "folds" / part.name / DRAW)
        common = {
            "task": "training",
            "train": settings | {"model": prepared["model"]},
            "seed": settings["seed"],
            "epochs": prepared["epochs"],
            "threads": share_threads(usual),
        }
        _log_absent_pictures(dataset, names, display)
        for part in parts:
            display.task(part.key, "epoch", prepared["epochs"])
            if part not in pending:
                display.advance(part.key, prepared["epochs"], prepared["epochs"], "done earlier")
        run_jobs([_training(part, out, draw is not None) for part in pending], slots, common, display, executor)
    _tidy(out, [part.name for part in parts])


def _training(part: Fold, out: Path, drawn: bool) -> Job:
    folder = out / "folds" / part.name
    settings = {"repeat": part.repeat, "fold": part.fold, "weights": str(part.weights(out)), "draw": str(folder / DRAW) if drawn else None}
    return Job(part.key, folder, part.weights(out), settings)


def _write_draw(draw: Floats, path: Path) -> None:
    content = io.BytesIO()
    np.save(content, draw.astype(np.float64), allow_pickle=False)
    write_whole(path, content.getvalue())


@dataclass(frozen=True)
class Predictions:
    """What the models said: detections (m), evidence of the raw output at each of them (m rows), and at each look.

    looks: one row a look and model, columns row, repeat, fold, held_out (False where the model was trained on the image) and those of
    locations.py; no rows for images without a picture.
    """

    detections: Boxes
    at_detections: pl.DataFrame
    looks: pl.DataFrame


def predict_out_of_fold(
    dataset: Dataset,
    folds: Ints,
    trained: Path,
    out: Path,
    *,
    looks: Boxes,
    predict: Mapping[str, Any],
    everyone: bool = False,
    seeds: bool = False,
    device: Any = None,
    workers: int | None = None,
    executor: Executor | None = None,
    display: Display | None = None,
) -> Predictions:
    """What each model of `train_folds` (in the folder `trained`) sees in the images that it was not trained on.

    The detections have score, class_scores (n, K), fold and repeat. looks: boxes at which the raw output is to be examined. predict:
    conf, iou, max_det, imgsz, batch. everyone: the models that were trained on an image are asked about its looks as well. seeds: as in
    `train_folds`. executor: looks on other machines, in pieces smaller than a fold. out survives a crash, and holds
    `folds/fold-0/detections.parquet`, ... afterwards. Raises ConfigError and StageError.
    """
    display = display or Silence()
    out = out.resolve()
    looking = complete_predict(predict)
    parts = list_folds(folds, seeds)
    jobs = [_prediction(part, trained.resolve(), out) for part in parts]
    pending = [job for job in jobs if not is_done(job.key, [job.marker.with_name(LOOKS), job.marker], display)]
    if pending:
        _check_weights([part.weights(trained.resolve()) for part in parts])
        prepared = prepare(dataset, out, jobs[0].settings["weights"], {})
        slots = find_slots(prepared, device, len(parts), workers, executor)
        usual = find_usual_slots(prepared, device, len(parts), executor)
        pieces: dict[str, list[Job]] = {}
        for job in jobs:
            chosen = (folds[job.settings["repeat"]] == job.settings["fold"]) | everyone
            pieces[job.key] = [job]
            if job in pending:
                write_questions(dataset, chosen, looks, job.folder)
                if executor is not None:
                    pieces[job.key] = cut_job(job, looking["batch"], display)
            for piece in pieces[job.key]:
                images = int(chosen.sum()) // len(pieces[job.key])
                display.task(piece.key, "image", images)
                if piece.marker.exists():
                    display.advance(piece.key, images, images, "done earlier")
        common = {"task": "prediction", "predict": looking, "categories": dataset.categories, "threads": share_threads(usual)}
        waiting = [piece for job in pending for piece in pieces[job.key] if not piece.marker.exists()]
        run_jobs(waiting, slots, common, display, executor)
        for job in pending:
            join_pieces(job, pieces[job.key])
    predictions = _join(out, parts, folds, looks, len(dataset.categories))
    _tidy(out, [part.name for part in parts])
    return predictions


def _check_weights(places: Sequence[Path]) -> None:
    """Raises StageError where weights are gone, or are of a version that kept them as a .pt: such a one is never opened in a run folder."""
    for place in places:
        if not place.exists():
            old = place.with_suffix(".pt").exists()
            what = "is of an older detclean and not opened any more, as a .pt can run code when it is opened" if old else "is gone"
            subject = place.with_suffix(".pt") if old else place
            raise StageError(f"{subject}: {what}; remove the folder {place.parent.parent} and repeat the run, which trains anew")


def _prediction(part: Fold, trained: Path, out: Path) -> Job:
    folder = out / "folds" / part.name
    settings = {"repeat": part.repeat, "fold": part.fold, "weights": str(part.weights(trained))}
    return Job(f"looking with {part.key}", folder, folder / "detections.parquet", settings)


def list_folds(folds: Ints, seeds: bool = False) -> list[Fold]:
    """Every model of a cross-validation: folds (repeats, N), -1 for an image that every model is trained on.

    seeds: every repeat is one model that differs from the others by its seed alone.
    """
    repeats = len(folds)
    parts = []
    for repeat in range(repeats):
        present = np.unique(folds[repeat][folds[repeat] >= 0])
        for fold in present:
            name = f"fold-{fold}" if repeats == 1 else f"repeat-{repeat}-fold-{fold}"
            key = f"fold {fold + 1}/{len(present)}" + (f" of repeat {repeat + 1}/{repeats}" if repeats > 1 else "")
            key = f"seed {repeat + 1} of {repeats}" if seeds else key
            parts.append(Fold(repeat, int(fold), key, name))
    return parts


def find_slots(prepared: Mapping[str, Any], device: Any, job_count: int, workers: int | None, executor: Executor | None) -> list[str]:
    """One device name for each job at a time, as `choose_slots` has it. The GPUs of an executor take the place of this machine's."""
    gpus = prepared["cuda_devices"] if executor is None else executor.count_gpus()
    return choose_slots(device, gpus, job_count, workers)


def find_usual_slots(prepared: Mapping[str, Any], device: Any, job_count: int, executor: Executor | None) -> list[str]:
    """The slots of this machine with nothing else on it and without a word about `workers`, for all the models that there are.

    What comes out depends on these alone: on how many threads a sum is made by, how many processes read images, whether those are kept
    in memory. So it is the same however many stand side by side today, wherever that is, and after an interruption.
    """
    gpus = prepared["usual_cuda_devices"] if executor is None else executor.count_gpus()
    return choose_slots(device, gpus, job_count, None)


def share_threads(slots: Sequence[str]) -> int:
    """How many threads each child gets, of the usual slots."""
    return min(THREADS_A_FOLD, max(1, count_cores() // len(slots)))


def _find_usable(dataset: Dataset, names: list[str | None], draw: Floats | None) -> Mask:
    """Images with a picture and an annotation that are drawn at all: (parts of the training, N)."""
    annotated = np.zeros(dataset.image_count, bool)
    annotated[dataset.annotations.image_index] = True
    usable = annotated & np.array([name is not None for name in names], bool)
    every: Mask = usable & (np.ones((1, len(usable))) if draw is None else draw).astype(bool)
    return every


def _check_training_parts(usable: Mask, folds: Ints, parts: list[Fold]) -> None:
    for part in parts:
        if not (usable & (folds[part.repeat] != part.fold)).any(axis=1).all():
            raise StageError(f"{part.key}: none of the images to train on has a picture and an annotation; use other folds or more images")


def _log_absent_pictures(dataset: Dataset, names: list[str | None], display: Display) -> None:
    absent = [name for name, shared in zip(dataset.images["file_name"], names, strict=True) if shared is None]
    if absent:
        display.log(f"{len(absent)} images have no picture: not trained on, and without detections (first: {absent[0]})")


def _join(out: Path, parts: Sequence[Fold], folds: Ints, looks: Boxes, category_count: int) -> Predictions:
    files = [out / "folds" / part.name / "detections.parquet" for part in parts]
    boxes = [read_boxes(file) for file in files]
    columns = {name: np.concatenate([each.columns()[name] for each in boxes]) for name in boxes[0].columns()}
    columns["class_scores"] = columns["class_scores"].reshape(-1, category_count)
    fold_of: Ints = folds.astype(np.int64)
    strangers = np.flatnonzero(fold_of[columns["repeat"], columns["image_index"]] == columns["fold"])
    order = strangers[np.argsort(columns["image_index"][strangers], kind="stable")]
    raw = pl.concat([pl.read_parquet(file, glob=False).select(f"raw_{name}" for name in COLUMNS) for file in files])
    answers = pl.concat([pl.read_parquet(file.with_name(LOOKS), glob=False) for file in files])
    image = looks.image_index[answers["row"].to_numpy()]
    held_out = fold_of[answers["repeat"].to_numpy(), image] == answers["fold"].to_numpy()
    answers = answers.with_columns(held_out=pl.Series(held_out, dtype=pl.Boolean)).sort("repeat", "fold", "row")
    return Predictions(Boxes(**{name: column[order] for name, column in columns.items()}), raw[order], answers)


def _tidy(out: Path, names: Sequence[str]) -> None:
    """Leaves weights, detections, logs and progress files."""
    for place in ("view", "prepare", "ultralytics"):
        shutil.rmtree(out / place, ignore_errors=True)
    remove_pieces(out / "folds")
    for unfinished in (out / "weights").glob("*.partial"):
        unfinished.unlink()
    kept = {"detections.parquet", LOOKS, "train.log", "progress.jsonl"}
    for path in (path for name in names for path in (out / "folds" / name).iterdir()):
        if path.name in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
