"""What training and looking cost on this machine, tried out for seconds with the real model, images and settings.

As in `yolo.py` Ultralytics is only imported in child processes. There are as many as would work side by side, with the threads that they
would have: two trainings at a time take each longer than one alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from detclean.boxes import Boxes, Ints, Mask, write_boxes
from detclean.dataset import Dataset
from detclean.detect.crops import BATCH, CROP_MODEL, CROP_SIDE, SOME_DETECTOR
from detclean.detect.yolo import find_slots, find_usual_slots, share_threads
from detclean.detect.yolo_process import Display, Job, Silence, run_jobs
from detclean.detect.yolo_settings import WEIGHTS, complete_predict, complete_train, prepare
from detclean.detect.yolo_view import find_names, write_fold_lists, write_questions, write_view
from detclean.errors import StageError

SAMPLED_BATCHES = 4
LEAST_SAMPLE = 64  # images
USUAL_BATCH = 16  # where the batch is chosen by free memory
LEARNT_CROPS = 320
SECONDS = {"main": 4.0, "alone": 2.0, "single": 2.0, "closed": 2.0}  # of training in each phase


@dataclass(frozen=True)
class Pace:
    """A batch of training: seconds until its images are there, and seconds that the model takes."""

    fetch: float
    work: float

    @property
    def batch(self) -> float:
        return self.fetch + self.work


@dataclass(frozen=True)
class Look:
    """Seconds an image, and seconds whatever the number of images."""

    image: float = 0.0
    once: float = 0.0


NOTHING, NO_LOOK = Pace(0.0, 0.0), Look()


@dataclass(frozen=True)
class Probe:
    """Seconds and bytes, of a child where nothing else is said; what was not tried out is nothing.

    slots: how many children work side by side. prepare: of the child that checks the settings; start: until a child works; set_up: until
    its first batch, beside scan, which is of an image; epoch: between two epochs; end: saving weights and going. main: the pace with all
    slots busy; closed: without mosaic; alone: of one child beside which nobody works; single: the same with all threads that one child
    may have. crop: seconds a crop seen in the training of crop classifiers; crop_read: of each crop cut out and asked about.
    """

    slots: int
    device: str
    prepare: float
    start: float
    end: float
    memory: int
    epochs: int = 0
    closed_epochs: int = 0
    batch: int = 1
    set_up: float = 0.0
    scan: float = 0.0
    epoch: float = 0.0
    main: Pace = NOTHING
    closed: Pace = NOTHING
    alone: Pace = NOTHING
    single: Pace = NOTHING
    prediction: Look = NO_LOOK
    features: Look = NO_LOOK
    crop: float = 0.0
    crop_read: float = 0.0
    training_memory: int = 0
    gpu_memory: int = 0
    state_bytes: int = 0
    weights_bytes: int = 0


def probe_training(
    dataset: Dataset,
    out: Path,
    *,
    model: str,
    train: Mapping[str, Any],
    predict: Mapping[str, Any],
    asked: Boxes,
    jobs: int,
    share: float = 1.0,
    features: bool = True,
    crops: bool = False,
    workers: int | None = None,
    display: Display | None = None,
) -> Probe:
    """Trains for a few batches and looks at a few images, as `train_folds`, `predict_out_of_fold` and `embed_boxes` would.

    asked: boxes that are asked about. jobs: how many models there are to train; share: of the images that each is trained on. features,
    crops: whether features of boxes are tried out, too, and the training of crop classifiers. out: a folder for this alone. Raises
    ConfigError and StageError as a training would.
    """
    display = display or Silence()
    batch = train.get("batch", USUAL_BATCH)
    sample, boxes = _sample(dataset, asked, SAMPLED_BATCHES * (batch if isinstance(batch, int) and batch > 0 else USUAL_BATCH))
    begin = time.monotonic()
    prepared = prepare(dataset, out, model, train)
    prepare_seconds = time.monotonic() - begin
    slots = find_slots(prepared, train.get("device"), jobs, workers, None)
    usual = find_usual_slots(prepared, train.get("device"), jobs, None)
    settings = complete_train(train, dataset, usual, 0, display)
    on_cpu, close = slots[0] == "cpu", int(settings.get("close_mosaic", 10)) if float(settings.get("mosaic", 1.0)) > 0 else 0
    common = {
        "task": "probe",
        "train": settings | {"model": prepared["model"]},
        "epochs": prepared["epochs"],
        "images": max(1, round(dataset.image_count * share)),
        "threads": share_threads(usual),
        "phases": _list_phases(len(slots), share_threads(usual), on_cpu, bool(close)),
        "looks": ["prediction", *(["features"] if features else []), *(["crops"] if crops else [])],
        # The boxes asked about stand for detections as well: a model of a few batches would give none or far too many.
        "predict": complete_predict(predict) | {"max_det": 1},
        "imgsz": complete_predict(predict)["imgsz"],
    }
    answers, ended = _run(sample, boxes, out, slots, common, crops, display)
    paces = {name: _mean_pace(answers, name) for name in SECONDS}
    main = paces["main"] or NOTHING
    alone = paces["alone"] or main
    scans = _mean(answers, "scan")
    return Probe(
        slots=len(slots),
        device=slots[0],
        epochs=prepared["epochs"],
        closed_epochs=min(close, prepared["epochs"]),
        batch=int(answers[0]["batch"]),
        prepare=prepare_seconds,
        start=_mean(answers, "reached") - answers[0]["started"],
        set_up=max(_mean(answers, "set_up") - _mean(answers, "reached") - scans, 0.0),
        scan=scans / max(answers[0]["sampled"], 1),
        epoch=_mean(answers, "epoch"),
        end=_mean(answers, "save") + max(ended - max(answer["ended"] for answer in answers), 0.0),
        main=main,
        closed=paces["closed"] or main,
        alone=alone,
        single=paces["single"] or alone,
        prediction=_mean_look(answers, "prediction"),
        features=_mean_look(answers, "features"),
        crop=_mean_of_part(answers, "crops", "seen"),
        crop_read=_mean_of_part(answers, "crops", "read"),
        **{name: max(answer[name] for answer in answers) for name in ("training_memory", "memory", "gpu_memory")},
        **{name: answers[0][name] for name in ("state_bytes", "weights_bytes")},
    )


def probe_crops(
    dataset: Dataset, out: Path, *, asked: Boxes, jobs: int, device: Any = None, workers: int | None = None, display: Display | None = None
) -> Probe:
    """What the training of crop classifiers costs, where no detector is trained: a Probe in which everything else is nothing."""
    display = display or Silence()
    sample, boxes = _sample(dataset, asked, LEAST_SAMPLE)
    begin = time.monotonic()
    prepared = prepare(dataset, out, SOME_DETECTOR, {})
    prepare_seconds = time.monotonic() - begin
    slots = find_slots(prepared, device, jobs, workers, None)
    threads = share_threads(find_usual_slots(prepared, device, jobs, None))
    answers, ended = _run(sample, boxes, out, slots, {"task": "probe", "looks": ["crops"], "threads": threads}, True, display)
    return Probe(
        slots=len(slots),
        device=slots[0],
        prepare=prepare_seconds,
        start=_mean(answers, "reached") - answers[0]["started"],
        end=max(ended - max(answer["ended"] for answer in answers), 0.0),
        memory=max(answer["memory"] for answer in answers),
        crop=_mean_of_part(answers, "crops", "seen"),
        crop_read=_mean_of_part(answers, "crops", "read"),
    )


def _list_phases(slots: int, threads: int, on_cpu: bool, closes_mosaic: bool) -> list[dict[str, Any]]:
    """What is trained when: with all slots busy, by one child alone, by one with all threads, and last without mosaic."""
    all_threads = share_threads(["cpu"])
    phases = [("main", slots, threads, True)]
    if slots > 1:
        phases.append(("alone", 1, threads, True))
    if on_cpu and all_threads != threads:
        phases.append(("single", 1, all_threads, True))
    if on_cpu and closes_mosaic:  # on a GPU other processes fetch the images meanwhile
        phases.append(("closed", slots, threads, False))
    return [
        {"name": name, "children": children, "threads": count, "mosaic": mosaic, "seconds": SECONDS[name]}
        for name, children, count, mosaic in phases
    ]


def _sample(dataset: Dataset, asked: Boxes, wanted: int) -> tuple[Dataset, Boxes]:
    """Images with a picture from all over the data set, some of them annotated, and the boxes asked about in them."""
    usable = np.flatnonzero([name is not None for name in find_names(dataset)])
    annotated = np.intersect1d(usable, dataset.annotations.image_index)
    if not len(annotated):
        raise StageError(f"{dataset.source.name}: no image has a picture and an annotation, so there is nothing to train on")
    wanted = max(wanted, LEAST_SAMPLE)
    chosen = np.zeros(dataset.image_count, bool)
    chosen[_spread(usable, wanted)] = True
    chosen[_spread(annotated, 1 + wanted // 8)] = True
    position = np.cumsum(chosen) - 1
    mine = asked[np.flatnonzero(chosen[asked.image_index])]
    return dataset.select_images(chosen), Boxes(position[mine.image_index], mine.category, mine.xyxy)


def _spread(positions: Ints, wanted: int) -> Ints:
    """At most `wanted` of the positions, evenly spread."""
    return positions[np.unique(np.linspace(0, len(positions) - 1, min(wanted, len(positions))).round().astype(np.int64))]


def _run(
    sample: Dataset, asked: Boxes, out: Path, slots: list[str], common: Mapping[str, Any], crops: bool, display: Display
) -> tuple[list[dict[str, Any]], float]:
    """What the children wrote, and when all of them had ended."""
    out = out.resolve()
    (out / "meeting").mkdir(parents=True)
    names, everything = find_names(sample), np.ones(sample.image_count, bool)
    view = write_view(sample, names, out) if "train" in common else None
    jobs = []
    for number in range(len(slots)):
        folder = out / "folds" / f"probe-{number}"
        write_questions(sample, everything, asked, folder)
        if view is not None:
            write_fold_lists(sample, names, ~everything, view, folder)
        if crops:
            _write_lesson(sample, everything, asked, folder / "crops")
        weights = str(out / "weights" / f"probe-{number}{WEIGHTS}")
        display.task(f"probe {number + 1}", "", 1)
        jobs.append(Job(f"probe {number + 1}", folder, folder / "probe.json", {"repeat": 0, "fold": number, "weights": weights}))
    shared = {
        "seed": 0,
        "meeting": str(out / "meeting"),
        "children": len(slots),
        "batch": BATCH,
        "categories": sample.categories,
        "crop_training": {"model": CROP_MODEL, "imgsz": CROP_SIDE, "fliplr": 0.5, "category_count": len(sample.categories)},
        "started": time.time(),
    }
    run_jobs(jobs, slots, {**shared, **common}, display)
    ended = time.time()
    return [orjson.loads(job.marker.read_bytes()) | {"started": shared["started"]} for job in jobs], ended


def _write_lesson(sample: Dataset, everything: Mask, asked: Boxes, folder: Path) -> None:
    """A few annotations to learn crops from, and those asked about in the images: as `classify_crops` would hand them over."""
    import polars as pl

    write_questions(sample, everything, asked[: 4 * LEARNT_CROPS], folder)
    usable = sample.annotations[np.flatnonzero((sample.annotations.xyxy[:, 2:] > sample.annotations.xyxy[:, :2]).all(axis=1))]
    images = pl.read_parquet(folder / "images.parquet", glob=False)
    known = usable[np.flatnonzero(np.isin(usable.image_index, images["image_index"].to_numpy()))]
    write_boxes(known[:LEARNT_CROPS], folder / "training.parquet")
    pl.concat([images.with_columns(held_out=False), images.with_columns(held_out=True)]).write_parquet(folder / "images.parquet")


def _mean(answers: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([answer[name] for answer in answers]))


def _mean_of_part(answers: list[dict[str, Any]], part: str, name: str) -> float:
    return float(np.mean([answer.get(part, {}).get(name, 0.0) for answer in answers]))


def _mean_pace(answers: list[dict[str, Any]], phase: str) -> Pace | None:
    paces = [answer["phases"][phase] for answer in answers if phase in answer["phases"]]
    return Pace(*(float(np.mean([pace[name] for pace in paces])) for name in ("fetch", "work"))) if paces else None


def _mean_look(answers: list[dict[str, Any]], name: str) -> Look:
    return Look(_mean_of_part(answers, name, "image"), _mean_of_part(answers, name, "once"))
