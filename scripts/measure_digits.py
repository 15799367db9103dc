"""How good the fold detectors of a run on data/digits are: held-out mAP against the labels as given and against the true ones.

    python scripts/measure_digits.py runs/digits

The labels as given hold one planted error in every five boxes, so no detector can score high against them; the true ones come out of
the composer that made the scenes.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from make_digits import CATEGORIES, IMAGES, SEED, TARGET, as_boxes, write_images

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect.quality import measure_quality
from detclean.formats import read_dataset


def read_run_detections(run: Path, dataset: Dataset) -> Boxes:
    """The out-of-fold detections of a run folder."""
    table = pl.read_parquet(run / "detections.parquet", glob=False)
    position = {image_id: i for i, image_id in enumerate(dataset.images["image_id"].to_list())}
    return Boxes.sorted(
        image_index=np.array([position[image_id] for image_id in table["image_id"].to_list()]),
        category=np.array([CATEGORIES.index(name) for name in table["category"].to_list()]),
        xyxy=table.select("x1", "y1", "x2", "y2").to_numpy(),
        score=table["score"].to_numpy(),
        fold=table["fold"].to_numpy(),
        repeat=table["repeat"].to_numpy(),
    )


def true_annotations() -> Boxes:
    """Every glyph of the scenes to clean, as composed and before any error was planted."""
    with tempfile.TemporaryDirectory() as folder:
        _, placed = write_images(Path(folder) / "train", "train", IMAGES["train"], np.random.default_rng(SEED))
    boxes = as_boxes(placed)
    return dataclasses.replace(boxes, annotation_id=np.arange(len(boxes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    given = read_dataset(TARGET / "data.yaml").select_split("train")
    truth = true_annotations()
    true = dataclasses.replace(given, annotations=truth, source_rows=np.arange(len(truth)))
    detections = read_run_detections(run, given)
    images = pl.read_parquet(run / "images.parquet", glob=False).select("image_id", "fold")
    folds = given.images.join(images, on="image_id", how="left", maintain_order="left")["fold"].to_numpy()[None]
    print("fold  mAP50 as given  mAP50 true  mAP50-95 true")
    by_given, by_truth = (measure_quality(dataset, detections, folds)["folds"] for dataset in (given, true))
    for as_given, as_true in zip(by_given, by_truth, strict=True):
        print(f"{as_given['fold']:4}  {as_given['map50']:14.3f}  {as_true['map50']:10.3f}  {as_true['map']:13.3f}")


if __name__ == "__main__":
    main()
