"""Out-of-fold detections by Ultralytics YOLO: a training per fold, each in a child process, whatever is interrupted resumed.

Ultralytics itself is only imported in the children (`yolo_worker.py`): it changes settings of the process it is in, and a training
that dies must not take the run with it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from subprocess import Popen
from typing import Any, Protocol

import numpy as np
import orjson

from detclean.boxes import Boxes, Ints, read_boxes
from detclean.dataset import Dataset
from detclean.detect.yolo_process import Tail, describe_end, end_job, start_job
from detclean.detect.yolo_view import find_names, write_fold_lists, write_view
from detclean.errors import ConfigError, StageError
from detclean.files import write_whole

POLL_SECONDS = 0.3
THREADS_A_FOLD = 8  # as many as Ultralytics itself uses for a training on a CPU
RAM_CACHE_BYTES = 2**30  # decoded images are kept in memory up to this size, all folds in training together
PREDICT_DEFAULTS: dict[str, Any] = {"conf": 0.01, "iou": 0.6, "max_det": 300, "imgsz": None, "batch": 16}

# What detclean decides about a training, whatever the configuration says.
OVERRULED = {
    "val": False,
    "plots": False,
    "save": True,
    "save_period": -1,
    "patience": 0,
    "project": None,
    "name": None,
    "exist_ok": True,
}

# Everything of Ultralytics that would talk to a service or another package.
PRIVATE_SETTINGS = {
    "sync": False,
    "api_key": "",
    "openai_api_key": "",
    **dict.fromkeys(("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb", "vscode_msg"), False),
}
UNFINISHED_BAR = re.compile(r"\b\d\d?% [━─╸]")  # Ultralytics draws a progress bar anew and anew


class Display(Protocol):
    """Where progress goes."""

    def task(self, key: str, description: str, total: float) -> None:
        """A task of `total` steps that will come."""

    def advance(self, key: str, done: float, total: float, note: str) -> None:
        """`done` of `total` steps of the task `key`."""

    def log(self, text: str) -> None:
        """A line for the log alone."""

    def say(self, text: str) -> None:
        """A line for the person and the log."""


class Silence:
    """A display that shows nothing."""

    def task(self, key: str, description: str, total: float) -> None: ...

    def advance(self, key: str, done: float, total: float, note: str) -> None: ...

    def log(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class FoldJob:
    """One training: which fold, and where its files lie."""

    repeat: int
    fold: int
    key: str  # for a person
    folder: Path
    weights: Path

    @property
    def detections(self) -> Path:
        """Written whole and last: the marker of a fold that is done."""
        return self.folder / "detections.parquet"


def detect_out_of_fold(
    dataset: Dataset,
    folds: Ints,
    out: Path,
    *,
    model: str,
    train: Mapping[str, Any],
    predict: Mapping[str, Any],
    seed: int = 0,
    workers: int | None = None,
    display: Display | None = None,
) -> Boxes:
    """What a model sees in each image that it was not trained on: detections with score, class_scores (n, K), fold and repeat.

    For each repeat and fold, the model is trained on the images of the other folds and looks at the fold's own. folds: (repeats, N),
    the fold of each image. out: a folder that survives a crash: a fold that is done is not repeated, and one that was interrupted goes
    on after its last finished epoch and ends (on a CPU, with as many cores) with the same weights to the bit. model: a .pt or .yaml,
    or the name of weights that Ultralytics publishes. train: Ultralytics' training arguments, with `device: auto`; predict: conf, iou,
    max_det, imgsz, batch. workers: how many folds at a time; on GPUs, one on each.

    Afterwards `out` holds `weights/fold-0.pt`, ... and `folds/fold-0/` with detections and log. Raises ConfigError for settings that
    cannot be, StageError for weights that cannot be had and for a training that failed.
    """
    display = display or Silence()
    out = out.resolve()
    if isinstance(train.get("pretrained"), str):
        train = {**train, "pretrained": os.path.abspath(train["pretrained"])}  # the children work in other folders
    jobs = _list_jobs(folds, out)
    pending = [job for job in jobs if not job.detections.exists()]
    if pending:
        looking = _complete_predict(predict)
        names = find_names(dataset)
        _check_training_parts(dataset, names, folds, jobs)
        prepared = _prepare(dataset, out, model, train)
        slots = _choose_slots(train.get("device"), prepared["cuda_devices"], len(jobs), workers)
        settings = _complete_train(train, dataset, slots, seed, display)
        view = write_view(dataset, names, out)
        cores = count_cores()
        for job in pending:
            write_fold_lists(dataset, names, folds[job.repeat] == job.fold, view, job.folder)
        common = {
            "task": "fold",
            "train": settings | {"model": prepared["model"]},
            "predict": looking,
            "categories": dataset.categories,
            "seed": settings["seed"],
            "epochs": prepared["epochs"],
            "threads": min(THREADS_A_FOLD, max(1, cores // len(slots))),
        }
        _log_absent_pictures(dataset, names, display)
        for job in jobs:
            display.task(job.key, "epoch", prepared["epochs"])
            if job not in pending:
                display.advance(job.key, prepared["epochs"], prepared["epochs"], "done earlier")
        _run_jobs(pending, slots, common, display)
    boxes = _join([read_boxes(job.detections) for job in jobs], len(dataset.categories))
    _tidy(out, jobs)
    return boxes


def count_cores() -> int:
    """The cores that this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


def _list_jobs(folds: Ints, out: Path) -> list[FoldJob]:
    repeats = len(folds)
    jobs = []
    for repeat in range(repeats):
        present = np.unique(folds[repeat])
        for fold in present:
            name = f"fold-{fold}" if repeats == 1 else f"repeat-{repeat}-fold-{fold}"
            key = f"fold {fold + 1}/{len(present)}" + (f" of repeat {repeat + 1}/{repeats}" if repeats > 1 else "")
            jobs.append(FoldJob(repeat, int(fold), key, out / "folds" / name, out / "weights" / f"{name}.pt"))
    return jobs


def _complete_predict(predict: Mapping[str, Any]) -> dict[str, Any]:
    for name in predict:
        if name not in PREDICT_DEFAULTS:
            close = get_close_matches(name, PREDICT_DEFAULTS, 1)
            known = f"did you mean predict.{close[0]}?" if close else f"known are {', '.join(PREDICT_DEFAULTS)}"
            raise ConfigError(f"predict.{name}: no such setting; {known}")
    return PREDICT_DEFAULTS | dict(predict)


def _check_training_parts(dataset: Dataset, names: list[str | None], folds: Ints, jobs: list[FoldJob]) -> None:
    annotated = np.zeros(dataset.image_count, bool)
    annotated[dataset.annotations.image_index] = True
    usable = annotated & np.array([name is not None for name in names], bool)
    for job in jobs:
        if not (usable & (folds[job.repeat] != job.fold)).any():
            raise StageError(f"{job.key}: none of the images to train on has a picture and an annotation; use other folds or more images")


def _complete_train(train: Mapping[str, Any], dataset: Dataset, slots: list[str], seed: int, display: Display) -> dict[str, Any]:
    """The training arguments as each fold gets them, but for the data and the device."""
    settings = {"seed": seed} | dict(train)
    for name in settings.keys() & OVERRULED.keys():
        if settings[name] != OVERRULED[name]:
            display.log(f"train.{name} is not used: each fold's model is its last, and no held-out label is looked at in training")
    settings |= OVERRULED
    if settings.get("cache") == "disk":
        display.log("train.cache=disk is not used: folds share one copy of the images")
        settings["cache"] = False
    imgsz, batch = settings.get("imgsz", 640), settings.get("batch", 16)
    if "cache" not in settings and isinstance(imgsz, int):
        settings["cache"] = "ram" if 3 * imgsz**2 * dataset.image_count * len(slots) <= RAM_CACHE_BYTES else False
    # One step a batch: Ultralytics' nominal batch of 64 leaves a small data set with a handful of steps an epoch.
    if isinstance(batch, int) and batch > 0:
        settings.setdefault("nbs", batch)
    settings.setdefault("workers", min(8, max(1, count_cores() // len(slots))))
    return settings


def _choose_slots(device: Any, cuda_devices: int, job_count: int, workers: int | None) -> list[str]:
    """One device name for each fold that is trained at a time."""
    text = ",".join(map(str, device)) if isinstance(device, (list, tuple)) else str("auto" if device is None else device).lower()
    names = [name.strip().removeprefix("cuda:") for name in text.split(",")]
    if text in ("auto", "", "-1", "cuda"):
        names = [str(index) for index in range(cuda_devices)] or ["cpu"]
        if text == "cuda" and not cuda_devices:
            raise ConfigError("train.device: cuda, but PyTorch finds no CUDA device here; use train.device=cpu")
    for name in names:
        if name not in ("cpu", "mps") and not name.isdigit():
            raise ConfigError(f"train.device: {text} is no device; use auto, cpu, mps, or numbers of CUDA devices such as 0,1")
        if name.isdigit() and int(name) >= cuda_devices:
            raise ConfigError(f"train.device: {text}, but PyTorch finds {cuda_devices} CUDA devices here; use auto or cpu")
    if names == ["cpu"]:
        names *= min(job_count, workers or count_cores())
    return names[: max(1, min(job_count, workers or len(names)))]


def _prepare(dataset: Dataset, out: Path, model: str, train: Mapping[str, Any]) -> dict[str, Any]:
    """Checks arguments and weights in a child, as Ultralytics must be imported for it. Raises ConfigError and StageError."""
    folder = out / "prepare"
    folder.mkdir(parents=True, exist_ok=True)
    (out / "weights").mkdir(exist_ok=True)
    write_whole(out / "ultralytics" / "Ultralytics" / "settings.json", orjson.dumps(_private_settings(out)))
    chosen = {name: value for name, value in train.items() if name != "device"}
    job = {
        "task": "prepare",
        "model": os.path.abspath(model) if Path(model).is_file() else model,
        "weights_folder": str(out / "weights"),
        "train": chosen,
        "categories": dataset.categories,
        "threads": 1,
        "answer": str(folder / "answer.json"),
    }
    (folder / "answer.json").unlink(missing_ok=True)
    process = start_job(job, folder, offline=Path(model).exists() or model.endswith((".yaml", ".yml")))
    try:
        code = process.wait()
    finally:
        end_job(process)
    if code or not (folder / "answer.json").exists():
        raise StageError(f"Ultralytics cannot be used: {describe_end(code, folder / 'train.log')}")
    answer: dict[str, Any] = orjson.loads((folder / "answer.json").read_bytes())
    if "error" in answer:
        raise {"ConfigError": ConfigError}.get(answer["error"], StageError)(answer["message"])
    return answer


def _private_settings(out: Path) -> dict[str, Any]:
    places = {name: str(out / "ultralytics") for name in ("datasets_dir", "weights_dir")} | {"runs_dir": str(out / "ultralytics" / "runs")}
    return PRIVATE_SETTINGS | places


@dataclass
class Running:
    """A fold in training."""

    job: FoldJob
    process: Popen[bytes]
    log: Tail
    progress: Tail


def _run_jobs(jobs: list[FoldJob], slots: list[str], common: dict[str, Any], display: Display) -> None:
    """All folds, as many at a time as there are slots. Where one fails the others are stopped; all can be resumed."""
    waiting = deque(jobs)
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            for slot, device in enumerate(slots):
                if waiting and slot not in running:
                    running[slot] = _start_fold(waiting.popleft(), device, common)
            time.sleep(POLL_SECONDS)
            for slot, fold in list(running.items()):
                code = fold.process.poll()
                _forward(fold, display, to_the_end=code is not None)
                if code is None:
                    continue
                del running[slot]
                if code or not fold.job.detections.exists():
                    raise StageError(f"{fold.job.key}: training failed: {describe_end(code, fold.log.path)}")
    finally:
        for fold in running.values():
            end_job(fold.process)


def _start_fold(job: FoldJob, device: str, common: dict[str, Any]) -> Running:
    folder = job.folder
    train = common["train"] | {"device": device, "data": str(folder / "data.yaml"), "save_dir": str(folder)}
    own = {"train": train, "repeat": job.repeat, "fold": job.fold, "device": device, "folder": str(folder), "weights": str(job.weights)}
    tails = [Tail(path, path.stat().st_size if path.exists() else 0) for path in (folder / "train.log", folder / "progress.jsonl")]
    return Running(job, start_job(common | own, folder), *tails)


def _forward(fold: Running, display: Display, to_the_end: bool) -> None:
    for line in fold.log.read(to_the_end):
        if not UNFINISHED_BAR.search(line):
            display.log(f"{fold.job.key}: {line}")
    for line in fold.progress.read(to_the_end):
        step = orjson.loads(line)
        display.advance(fold.job.key, step["done"], step["total"], step["note"])


def _log_absent_pictures(dataset: Dataset, names: list[str | None], display: Display) -> None:
    absent = [name for name, shared in zip(dataset.images["file_name"], names, strict=True) if shared is None]
    if absent:
        display.log(f"{len(absent)} images have no picture: not trained on, and without detections (first: {absent[0]})")


def _join(parts: list[Boxes], category_count: int) -> Boxes:
    columns = {name: np.concatenate([part.columns()[name] for part in parts]) for name in parts[0].columns()}
    columns["class_scores"] = columns["class_scores"].reshape(-1, category_count)
    return Boxes.sorted(**columns)


def _tidy(out: Path, jobs: list[FoldJob]) -> None:
    """Leaves weights, detections, logs and progress files."""
    for place in ("view", "prepare", "ultralytics"):
        shutil.rmtree(out / place, ignore_errors=True)
    for unfinished in (out / "weights").glob("*.partial"):
        unfinished.unlink()
    kept = {"detections.parquet", "train.log", "progress.jsonl"}
    for job in jobs:
        for path in job.folder.iterdir():
            if path.name in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
