# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, attr-defined, index, misc, no-untyped-call, union-attr"

"""A classifier of crops a fold, in the child process of `yolo_worker.py`: trained on the other folds' boxes, asked about its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torchvision.ops import roi_align
from ultralytics.nn.tasks import ClassificationModel, load_checkpoint

from detclean.boxes import Floats, Ints
from detclean.detect.yolo_predict import read_pictures
from detclean.detect.yolo_train import report
from detclean.errors import StageError
from detclean.files import write_whole

CONTEXT = 1.2  # side of a crop, a square, as a share of the box's longer side
BATCH = 32
RATE, WEIGHT_DECAY = 2e-3, 0.02  # AdamW; the rate rises and falls once
WARMUP_SHARE = 0.2  # of the steps in which the rate rises
SMOOTHING = 0.05  # of the labels, some of which are wrong
SHIFT, ZOOM, BRIGHTNESS = 0.06, 0.12, 0.2  # a crop's random changes, as shares
GREY = 114  # beyond the picture, as in Ultralytics' letterbox
READ_AT_ONCE = 16  # pictures
CROPS_AT_ONCE = 256


def train_crops(job: dict[str, Any]) -> None:
    """Trains on `training.parquet` and answers `asked.parquet`, to `probability.npz`: row (r,), probability (r, K + 1)."""
    folder = Path(job["folder"])
    seed = int(np.random.SeedSequence((job["seed"], job["repeat"], job["fold"])).generate_state(1)[0])
    torch.manual_seed(seed)
    device = torch.device(f"cuda:{job['device']}" if job["device"].isdigit() else job["device"])
    model = _build(job["model"], job["category_count"] + 1).to(device)
    images = pl.read_parquet(folder / "images.parquet", glob=False)  # of both; held_out tells them apart
    training = _read_crops(images.filter(~pl.col("held_out")), folder / "training.parquet", "category", job["imgsz"])
    pictures, label = (np.concatenate(column) for column in zip(*training, strict=True))
    _train(model, pictures, label, job, np.random.default_rng(seed), device)
    asked = _read_crops(images.filter("held_out"), folder / "asked.parquet", "row", job["imgsz"])
    rows, answers = [np.empty(0, np.int64)], [np.empty((0, job["category_count"] + 1), np.float32)]
    for crops, row in asked:
        if len(row):
            rows.append(row)
            answers.append(_classify(model, crops, device))
    content = io.BytesIO()
    np.savez(content, row=np.concatenate(rows), probability=np.concatenate(answers))
    write_whole(folder / "probability.npz", content.getvalue(), settled=True)


def _build(name: str, outputs: int) -> torch.nn.Module:
    if not name.endswith(".pt"):
        return ClassificationModel(name, nc=outputs, verbose=False)
    model = load_checkpoint(name)[0].float()
    if not isinstance(model, ClassificationModel):
        raise StageError(f"crops: {name} holds a {type(model).__name__}; name a classification model such as yolo11n-cls.pt")
    ClassificationModel.reshape_outputs(model, outputs)
    return model.requires_grad_(True)


def _read_crops(images: pl.DataFrame, table: Path, column: str, side: int) -> Iterator[tuple[NDArray[np.uint8], Ints]]:
    """Crops (b, side, side, 3), RGB, of the boxes in a batch of pictures, and a column of the boxes' table (b,)."""
    boxes = pl.read_parquet(table, glob=False)  # sorted by image
    xyxy, image = boxes.select("x1", "y1", "x2", "y2").to_numpy(), boxes["image_index"].to_numpy()
    images = images.filter(pl.col("image_index").is_in(np.unique(image))).drop("held_out")
    told = boxes[column].to_numpy()
    for batch in images.iter_slices(READ_AT_ONCE):
        crops, rows = [np.empty((0, side, side, 3), np.uint8)], [np.empty(0, np.int64)]
        for picture, (index, width, height) in zip(*read_pictures(batch), strict=True):
            mine = slice(*np.searchsorted(image, [index, index + 1]).tolist())
            scale = np.array([picture.shape[1], picture.shape[0]] * 2) / np.array([width, height] * 2)
            crops.append(cut_crops(picture, xyxy[mine] * scale, side))
            rows.append(told[mine])
        yield np.concatenate(crops), np.concatenate(rows)


def cut_crops(picture: NDArray[np.uint8], xyxy: Floats, side: int) -> NDArray[np.uint8]:
    """Squares a little larger than the boxes (n, 4), all brought to one size: BGR (h, w, 3) -> RGB (n, side, side, 3)."""
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    reach = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).max(axis=1, keepdims=True), 4.0) * CONTEXT / 2
    squares = torch.from_numpy(np.concatenate([centre - reach, centre + reach], axis=1).astype(np.float32))
    pixels = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))).float() - GREY  # beyond the border it sees 0
    crops: NDArray[np.uint8] = (roi_align(pixels[None], [squares], side, aligned=True) + GREY).round().byte().permute(0, 2, 3, 1).numpy()
    return crops


def _train(
    model: torch.nn.Module, crops: NDArray[np.uint8], label: Ints, job: dict[str, Any], rng: np.random.Generator, device: torch.device
) -> None:
    """In place. Each category is drawn half as its share and half as if all were as frequent, so that rare ones are learnt too."""
    share = np.bincount(label, minlength=job["category_count"] + 1)[label].astype(np.float64)
    chance = 0.5 / len(label) + 0.5 / share / len(np.unique(label))
    steps = max(1, len(label) // BATCH)
    epochs = job["epochs"] or int(np.clip(job["crops_seen"] // len(label), *job["epochs_between"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps * epochs, pct_start=WARMUP_SHARE)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    model.train()
    for epoch in range(epochs):
        drawn = rng.choice(len(label), (steps, BATCH), p=chance / chance.sum())
        total = 0.0
        for rows in drawn:
            inputs = change_crops(_as_tensor(crops[rows], device), rng, job["fliplr"])
            loss = criterion(model(inputs), torch.from_numpy(label[rows]).to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        report(Path(job["folder"]), "epoch", epoch + 1, epochs, f"loss {total / steps:.3g}")


def change_crops(crops: torch.Tensor, rng: np.random.Generator, fliplr: float) -> torch.Tensor:
    """Each of (b, 3, s, s) moved, resized, made lighter or darker and perhaps mirrored at random; the same numbers make the same crops."""
    count = len(crops)
    zoom = 1 + rng.uniform(-ZOOM, ZOOM, (count, 2))
    mirror = np.where(rng.random(count) < fliplr, -1.0, 1.0)
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 1, 1] = zoom[:, 0] * mirror, zoom[:, 1]
    matrix[:, :, 2] = 2 * rng.uniform(-SHIFT, SHIFT, (count, 2))
    grid = torch.nn.functional.affine_grid(torch.from_numpy(matrix.astype(np.float32)).to(crops.device), list(crops.shape), False)
    moved = torch.nn.functional.grid_sample(crops, grid, padding_mode="border", align_corners=False)
    light = torch.from_numpy(1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS, (count, 1, 1, 1)).astype(np.float32)).to(crops.device)
    return (moved * light).clamp(0, 1)


def _as_tensor(crops: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 255


def _classify(model: torch.nn.Module, crops: NDArray[np.uint8], device: torch.device) -> Floats:
    """(b, side, side, 3) -> (b, K + 1)."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(_as_tensor(crops[i : i + CROPS_AT_ONCE], device))[0].float().cpu().numpy() for i in range(0, len(crops), CROPS_AT_ONCE)
        ]
    probability: Floats = np.concatenate(parts)
    return probability
