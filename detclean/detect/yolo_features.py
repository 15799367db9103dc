# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, attr-defined, index, misc, no-untyped-call, union-attr"

"""What a fold's model makes of boxes in its held-out images, as features, in the child process of `yolo_worker.py`.

They are read where the head tells categories apart, just before its last layer: there a linear classifier needs few examples. Read
from the neck's maps, one step earlier, they rank swaps as well on the blood cells, but not half as well on the digits, where a fold
holds 25 examples of each of ten categories.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torchvision.ops import roi_align

from detclean.boxes import Floats
from detclean.detect.yolo_predict import as_tensor, open_model, read_pictures
from detclean.detect.yolo_train import report
from detclean.files import write_whole

BINS = 2  # of a box, each way: one bin finds fewer swaps, and boxes enlarged by their surroundings fewer of everything
SAMPLES = 2  # each way in a bin
FEATURES = 32  # principal components that are kept: 64 find no more swaps, 16 fewer
FITTED_ROWS = 20_000  # on which the components are found
ROWS_AT_ONCE = 20_000


def embed_fold(job: dict[str, Any]) -> None:
    """Features of the boxes in the fold's images, to `features.npz`: row (r,), features (r, FEATURES)."""
    folder = Path(job["folder"])
    images = pl.read_parquet(folder / "images.parquet", glob=False)  # image_index, path, width, height
    asked = pl.read_parquet(folder / "asked.parquet", glob=False)  # row, image_index (sorted), category, x1, y1, x2, y2
    xyxy = asked.select("x1", "y1", "x2", "y2").to_numpy()
    device, model, letterbox = open_model(job, job["imgsz"])
    maps: list[torch.Tensor] = []
    for branch in model.model[-1].cv3:  # one a level, fine to coarse
        branch[-1].register_forward_pre_hook(lambda layer, inputs: maps.append(inputs[0]))
    strides = model.stride.tolist()
    rows, parts = [np.empty(0, np.int64)], []
    done = 0
    for batch in images.iter_slices(job["batch"]):
        pictures, places = read_pictures(batch)
        done += batch.height
        if pictures:
            tensor = as_tensor(pictures, letterbox, device)
            maps.clear()
            with torch.inference_mode():
                model(tensor)
                for position, (index, width, height) in enumerate(places):
                    low, high = np.searchsorted(asked["image_index"].to_numpy(), [index, index + 1])
                    shape = pictures[position].shape[:2]
                    scale = np.array([shape[1], shape[0]] * 2) / np.array([width, height] * 2)  # from the labels' pixels
                    boxes = to_letterbox(xyxy[low:high] * scale, shape, tensor.shape[2])
                    parts.append(pool_boxes([level[position] for level in maps], strides, boxes))
                    rows.append(np.arange(low, high))
        report(folder, "predict", done, images.height, "")
    row = np.concatenate(rows)
    features = reduce_features(np.concatenate(parts)) if len(row) else np.zeros((0, FEATURES), np.float32)
    content = io.BytesIO()
    np.savez(content, row=asked["row"].to_numpy()[row], features=features)
    write_whole(folder / "features.npz", content.getvalue(), settled=True)


def to_letterbox(xyxy: Floats, shape: tuple[int, int], side: int) -> Floats:
    """Boxes (n, 4) in a picture's pixels -> in those of the square that `LetterBox` makes of it. shape: height and width."""
    height, width = shape
    gain = min(side / height, side / width)
    left, top = (round((side - round(length * gain)) / 2 - 0.1) for length in (width, height))
    placed: Floats = xyxy * gain + np.array([left, top, left, top])
    return placed


def pool_boxes(maps: list[torch.Tensor], strides: list[float], xyxy: Floats) -> Floats:
    """Each level's map (c, h, w) averaged in BINS by BINS parts of each box (n, 4) -> (n, levels * c * BINS * BINS), half precision."""
    boxes = [torch.from_numpy(xyxy.astype(np.float32)).to(maps[0].device)]
    pooled = [
        roi_align(level[None].float(), boxes, BINS, 1 / stride, SAMPLES, aligned=True).flatten(1)
        for level, stride in zip(maps, strides, strict=True)
    ]
    features: Floats = torch.cat(pooled, dim=1).clamp(-6e4, 6e4).half().cpu().numpy()
    return features


def reduce_features(features: Floats) -> Floats:
    """The FEATURES principal components of standardised columns, each as wide as it varies: (n, f) -> (n, FEATURES).

    Only as many as the rows have are not zero. No label takes part.
    """
    chosen = features[:: 1 + len(features) // FITTED_ROWS].astype(np.float64)
    mean, spread = chosen.mean(axis=0), chosen.std(axis=0)
    spread[spread == 0] = 1.0
    covariance = torch.from_numpy(np.cov((chosen - mean) / spread, rowvar=False, bias=True))
    axes = torch.linalg.eigh(covariance).eigenvectors.numpy()[:, ::-1][:, :FEATURES]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)  # of two signs, always the same
    reduced = np.zeros((len(features), FEATURES), np.float32)
    for start in range(0, len(features), ROWS_AT_ONCE):
        part = features[start : start + ROWS_AT_ONCE].astype(np.float64)
        reduced[start : start + len(part), : axes.shape[1]] = ((part - mean) / spread) @ axes
    return reduced
