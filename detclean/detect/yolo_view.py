"""The data set as Ultralytics gets to see it: pictures under plain names, labels that it can read, a list of images per fold.

Odd file names, label files that it would refuse, and its habit of writing beside the images all end here: the user's folders are
read and never written.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from detclean.boxes import Boxes, Mask, box_area, clip_boxes, write_boxes, xyxy_to_cxcywhn
from detclean.dataset import Dataset
from detclean.errors import StageError
from detclean.files import settle, share_image

# Endings that Ultralytics looks at; a picture with another one is told by its content.
IMAGE_ENDINGS = (".avif", ".bmp", ".dng", ".heic", ".jpeg", ".jpg", ".mpo", ".pfm", ".png", ".tif", ".tiff", ".webp")
LABEL_DECIMALS = 9
GONE = "is gone since the data set was read; bring it back, or repeat the run with the data as they are now"


def find_names(dataset: Dataset) -> list[str | None]:
    """The name of each picture in the view, `0000017.jpg` for image 17; None where there is no picture or no size.

    Raises StageError for a picture that was there when the data set was read, as its `bytes` tell, and is not any more.
    """
    names: list[str | None] = []
    images = dataset.images
    known = images["bytes"] if "bytes" in images.columns else [None] * images.height
    for index, (path, size, length) in enumerate(zip(images["path"], dataset.sizes, known, strict=True)):
        there = path is not None and os.path.isfile(path)
        if length is not None and not there:
            raise StageError(f"{path}: {GONE}")
        usable = there and bool((size > 0).all())
        ending = Path(path).suffix.lower() if usable else ""
        names.append(f"{index:07d}{ending if ending in IMAGE_ENDINGS else '.jpg'}" if usable else None)
    return names


def write_view(dataset: Dataset, names: list[str | None], out: Path) -> Path:
    """Pictures and labels of the whole data set to `out/view`, once; names (N,) from `find_names`; -> that folder."""
    view, partial = out / "view", out / "view.partial"
    if view.exists():
        return view
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "labels").mkdir(parents=True)
    labels = format_labels(dataset)
    for index, (path, name) in enumerate(zip(dataset.images["path"], names, strict=True)):
        if name is not None:
            share_image(Path(path), partial / "images" / name)
            (partial / "labels" / f"{index:07d}.txt").write_text(labels.get(index, ""))
    settle(partial)  # else a power failure could leave empty label files under a complete name
    os.replace(partial, view)
    return view


def format_labels(dataset: Dataset) -> dict[int, str]:
    """The text of each image's label file: boxes cut at the border, without crowds and boxes of no area."""
    annotations, sizes = dataset.annotations, dataset.sizes[dataset.annotations.image_index]
    cut = clip_boxes(annotations.xyxy, sizes)
    crowd = annotations.is_crowd if annotations.is_crowd is not None else np.zeros(len(annotations), bool)
    kept = np.isfinite(cut).all(axis=1) & (box_area(cut) > 0) & ~crowd
    shares = xyxy_to_cxcywhn(cut[kept], sizes[kept]).round(LABEL_DECIMALS)
    rows = pl.DataFrame({"image": annotations.image_index[kept], "category": annotations.category[kept]})
    rows = rows.with_columns(pl.Series(side, shares[:, i]) for i, side in enumerate(("x", "y", "width", "height")))
    line = pl.concat_str("category", "x", "y", "width", "height", separator=" ") + "\n"
    texts = rows.group_by("image").agg(line.str.join("")) if len(rows) else rows.select("image", "category")
    return dict(texts.iter_rows())


def write_fold_lists(dataset: Dataset, names: list[str | None], held_out: Mask, view: Path, folder: Path) -> None:
    """A fold's `data.yaml` and its list of images to train on. held_out: (N,).

    What data.yaml must name as `val` is the images to train on: no held-out label is ever within reach.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = [f"{view / 'images'}{os.sep}{name}" for name, out in zip(names, held_out.tolist(), strict=True) if name and not out]
    (folder / "train.txt").write_text("\n".join(trained) + "\n", encoding="utf-8")
    content = {"path": str(folder), "train": "train.txt", "val": "train.txt", "names": dict(enumerate(dataset.categories))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")


def write_questions(dataset: Dataset, chosen: Mask, looks: Boxes, folder: Path) -> None:
    """What a fold's model is to look at: `images.parquet` (image_index, path, width, height) and the boxes it is asked about there,
    `asked.parquet` (row, image_index, category, x1, y1, x2, y2). chosen: (N,)."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = chosen & np.array([name is not None for name in find_names(dataset)], bool)
    images = dataset.images.select(image_index=pl.int_range(pl.len(), dtype=pl.Int64), path="path", width="width", height="height")
    images.filter(pl.Series(chosen)).write_parquet(folder / "images.parquet")
    rows = np.flatnonzero(chosen[looks.image_index])
    write_boxes(looks[rows], folder / "asked.parquet", pl.DataFrame({"row": rows}))
