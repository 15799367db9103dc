# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, index, misc, no-untyped-call, operator, union-attr"

"""Looking at images with a fold's model, in the child process of `yolo_worker.py`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torchvision  # noqa: F401  # Ultralytics suppresses with its kernel only where it is imported
from numpy.typing import NDArray
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes, xywh2xyxy
from ultralytics.utils.patches import imread

from detclean.boxes import Boxes, Floats, write_boxes
from detclean.detect.locations import COLUMNS, examine_locations
from detclean.detect.yolo_train import report
from detclean.detect.yolo_view import GONE
from detclean.detect.yolo_weights import open_weights
from detclean.errors import StageError
from detclean.files import settle

ROWS_A_PART = 100_000  # detections kept in memory before they go to disk
NO_TIME_LIMIT = 1e9  # seconds: Ultralytics' suppression gives up on a slow machine, and results would depend on its speed


def predict_fold(job: dict[str, Any]) -> None:
    """What the fold's model sees in its images, to `detections.parquet` and `looks.parquet`, a part at a time.

    Beside the usual columns both hold what the raw output says at each box (locations.py): at the detections themselves, and at the
    looks, the boxes that the parent asks about.
    """
    folder, settings = Path(job["folder"]), job["predict"]
    images = pl.read_parquet(folder / "images.parquet", glob=False)  # image_index, path, width, height
    asked = _Asked(pl.read_parquet(folder / "asked.parquet", glob=False))
    device, model, letterbox = open_model(job, settings["imgsz"])
    parts = folder / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    waiting: list[dict[str, NDArray[Any]]] = []
    looks: list[dict[str, NDArray[Any]]] = []
    part_count = done = 0
    for batch in images.iter_slices(settings["batch"]):
        found, seen = _look(model, batch, asked, letterbox, settings, device)
        waiting.extend(found)
        looks.extend(seen)
        done += batch.height
        report(folder, "predict", done, images.height, "")
        if sum(len(found["score"]) for found in waiting) >= ROWS_A_PART or done == images.height:
            _write_part(waiting, looks, job, parts, part_count)
            part_count, waiting, looks = part_count + 1, [], []
    if not part_count:
        _write_part([], [], job, parts, 0)
    for name in ("looks", "detections"):  # the detections last: they are the marker
        pl.scan_parquet(sorted(parts.glob(f"{name}-*.parquet")), glob=False).sink_parquet(parts / "all")
        settle(parts / "all")
        os.replace(parts / "all", folder / f"{name}.parquet")
    shutil.rmtree(parts)


def open_model(job: dict[str, Any], imgsz: int | None) -> tuple[torch.device, Any, LetterBox]:
    """The device, the fold's model ready to look, and what brings a picture to its size: imgsz, that of the training where None."""
    device = torch.device(f"cuda:{job['device']}" if job["device"].isdigit() else job["device"])
    model, trained_at = open_weights(job["weights"], device)
    model.end2end = False  # the head that reports every anchor with all its scores
    model.fuse(verbose=False)
    return device, model, LetterBox(imgsz or trained_at)  # square, as in training


class _Asked:
    """The boxes that the parent asks about, by image. table: row, image_index (sorted), category, x1, y1, x2, y2."""

    def __init__(self, table: pl.DataFrame) -> None:
        self.row, self.image, self.category = (table[name].to_numpy() for name in ("row", "image_index", "category"))
        self.xyxy = table.select("x1", "y1", "x2", "y2").to_numpy().astype(np.float32)

    def of(self, image: int) -> slice:
        low, high = np.searchsorted(self.image, [image, image + 1])
        return slice(int(low), int(high))


def _look(
    model: Any, batch: pl.DataFrame, asked: _Asked, letterbox: LetterBox, settings: dict[str, Any], device: torch.device
) -> tuple[list[dict[str, NDArray[Any]]], list[dict[str, NDArray[Any]]]]:
    """The detections in each image of a batch, in the pixels of its labels, and what the raw output says at the looks."""
    pictures, places = read_pictures(batch)
    if not pictures:
        return [], []
    tensor = as_tensor(pictures, letterbox, device)
    with torch.inference_mode():
        raw = model(tensor)[0]  # (images, 4 + K, anchors)
        kept, anchors = non_max_suppression(
            raw,
            settings["conf"],
            settings["iou"],
            max_det=settings["max_det"],
            nc=raw.shape[1] - 4,
            max_time_img=NO_TIME_LIMIT,
            return_idxs=True,
        )
        found, seen = [], []
        for position, (detections, anchor) in enumerate(zip(kept, anchors, strict=True)):
            shape, (index, width, height) = pictures[position].shape[:2], places[position]
            scale = np.array([width, height] * 2) / np.array([shape[1], shape[0]] * 2)  # from the picture's pixels to its labels'
            locations, scores = raw_locations(raw[position], tensor.shape[2:], shape, scale)
            xyxy = scale_boxes(tensor.shape[2:], detections[:, :4], shape).cpu().numpy().astype(np.float64) * scale
            solid = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
            location = anchor.cpu().numpy().reshape(-1).astype(np.int64)[solid]  # where nothing is found: floats, (0, 1)
            xyxy, category = xyxy[solid], detections[:, 5].cpu().numpy().astype(np.int64)[solid]
            rows = asked.of(index)
            boxes, of_boxes = np.concatenate([xyxy.astype(np.float32), asked.xyxy[rows]]), np.concatenate([category, asked.category[rows]])
            answers = examine_locations(locations, scores, boxes, of_boxes)
            found.append(
                {
                    "image_index": np.full(len(xyxy), index),
                    "category": category,
                    "xyxy": xyxy,
                    "score": detections[:, 4].cpu().numpy()[solid],
                    "class_scores": scores[location],
                    **{name: answer[: len(xyxy)] for name, answer in answers.items()},
                }
            )
            seen.append({"row": asked.row[rows]} | {name: answer[len(xyxy) :] for name, answer in answers.items()})
    return found, seen


def read_pictures(batch: pl.DataFrame) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int, int]]]:
    """The pictures that can be read, as in training (three channels, turned as EXIF says), and index, width and height of each.

    Raises StageError for one that is gone: it would else count as one on which nothing is to be seen.
    """
    pictures, places = [], []
    for index, path, width, height in batch.rows():
        picture = imread(path)
        if picture is None and not os.path.exists(path):
            raise StageError(f"{path}: {GONE}")
        if picture is None:
            print(f"image {index} cannot be read: no detections there", flush=True)
        else:
            pictures.append(picture)
            places.append((index, width, height))
    return pictures, places


def as_tensor(pictures: list[NDArray[np.uint8]], letterbox: LetterBox, device: torch.device) -> torch.Tensor:
    """A batch as the model wants it: (images, 3, side, side), RGB from 0 to 1."""
    channels_first = np.stack([letterbox(image=picture) for picture in pictures])[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(channels_first)).to(device).float() / 255


def raw_locations(raw: torch.Tensor, side: torch.Size, shape: tuple[int, ...], scale: Floats) -> tuple[Floats, Floats]:
    """Boxes (a, 4), in the pixels of the labels, and scores (a, K) of every location: raw (4 + K, a) of one image."""
    columns = raw.T.float()
    xyxy = scale_boxes(side, xywh2xyxy(columns[:, :4]), shape).cpu().numpy() * scale
    return xyxy.astype(np.float32), columns[:, 4:].cpu().numpy()


def _write_part(
    found: list[dict[str, NDArray[Any]]], looks: list[dict[str, NDArray[Any]]], job: dict[str, Any], parts: Path, number: int
) -> None:
    none = {
        "image_index": np.empty(0, np.int64),
        "category": np.empty(0, np.int64),
        "xyxy": np.empty((0, 4)),
        "score": np.empty(0, np.float32),
        "class_scores": np.empty((0, len(job["categories"])), np.float32),
    }
    columns = {name: np.concatenate([empty, *(each[name] for each in found)]) for name, empty in none.items()}
    count = len(columns["score"])
    write_boxes(
        Boxes(**columns, fold=np.full(count, job["fold"]), repeat=np.full(count, job["repeat"])),
        parts / f"detections-{number:05d}.parquet",
        _evidence(found, "raw_"),
    )
    rows = pl.Series("row", np.concatenate([np.empty(0, np.int64), *(each["row"] for each in looks)]))
    table = _evidence(looks, "").insert_column(0, rows)
    table.with_columns(repeat=pl.lit(job["repeat"], pl.Int64), fold=pl.lit(job["fold"], pl.Int64)).write_parquet(
        parts / f"looks-{number:05d}.parquet"
    )


def _evidence(answers: list[dict[str, NDArray[Any]]], prefix: str) -> pl.DataFrame:
    empty = {name: np.empty(0, np.int64 if name == "other_category" else np.float32) for name in COLUMNS}
    return pl.DataFrame({prefix + name: np.concatenate([none, *(each[name] for each in answers)]) for name, none in empty.items()})
