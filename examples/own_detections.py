"""Finds wrong labels from detections of your own, in Python: nothing is trained, and no picture is read but for its size.

    python examples/own_detections.py                           # the embedded digits, and a detector that is played
    python examples/own_detections.py data.yaml detections.csv  # your data set, and what your detector sees in its images

DETECTIONS is a CSV file with the columns file_name, category, x1, y1, x2, y2 and score: one detection a row, its corners in pixels, its
confidence from 0 to 1. A detector's own code writes that in a few lines. Keep the unsure ones, down to 0.01 or so, and let each image be
looked at by a model that was not trained on it: who has learnt a wrong label finds it right.
"""

from __future__ import annotations

import argparse
import sys

import polars as pl
from stand_in import DIGITS, detect_digits

import detclean


def as_boxes(table: pl.DataFrame, dataset: detclean.Dataset) -> detclean.Boxes:
    """The detections as detclean takes them: images and categories by their position in the data set, boxes sorted by image."""
    image_of = {name: i for i, name in enumerate(dataset.images["file_name"])}
    category_of = {name: i for i, name in enumerate(dataset.categories)}
    if unknown := sorted(set(table["file_name"]) - image_of.keys())[:1] or sorted(set(table["category"]) - category_of.keys())[:1]:
        sys.exit(f"{unknown[0]} is no image and no category of the data set; its images are named like {dataset.images['file_name'][0]}")
    return detclean.Boxes.sorted(
        image_index=[image_of[name] for name in table["file_name"]],
        category=[category_of[name] for name in table["category"]],
        xyxy=table.select("x1", "y1", "x2", "y2").to_numpy(),
        score=table["score"].to_numpy(),  # a score for each category is better still: class_scores, of shape (n, K)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Wrong labels, from detections of your own.")
    parser.add_argument("data", nargs="?", default=DIGITS / "data.yaml", help="a YOLO data.yaml, a COCO .json or a Pascal VOC folder")
    parser.add_argument("detections", nargs="?", help="a CSV file: file_name,category,x1,y1,x2,y2,score")
    parser.add_argument("--split", default="train", help="the part of the data set that was looked at, or all")
    arguments = parser.parse_args()
    if arguments.detections is None and arguments.data != parser.get_default("data"):
        parser.error("name the detections, too: only on the embedded digits a detector is played")

    dataset = detclean.read_dataset(arguments.data).select_split(arguments.split)
    text = {"file_name": pl.String, "category": pl.String}  # a category may be called 7
    table = pl.read_csv(arguments.detections, schema_overrides=text) if arguments.detections else detect_digits()
    detections = as_boxes(table, dataset)
    print(f"{dataset.image_count} images, {len(dataset.annotations)} annotations, {len(detections)} detections")

    issues = detclean.find_issues(dataset, detections, target_precision=0.8)  # a polars frame, worst first

    print(f"{issues.height} issues, of which about {issues['probability'].sum():.0f} are wrong labels. The ten worst:")
    for issue in issues.head(10).iter_rows(named=True):
        print(f"  {issue['probability']:.2f}  {issue['action']:8}  {issue['source'] or issue['file_name']}: {issue['reason']}")


if __name__ == "__main__":
    main()
