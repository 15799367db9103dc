"""The issues as files: what a person opens, what a program reads, what other tools show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from detclean.dataset import Dataset
from detclean.formats.coco import write_coco_issues
from detclean.formats.yolo import write_yolo_issues
from detclean.score.issues import COLUMNS

DECIMALS = 4  # of coordinates and probabilities in issues.csv


def write_issues(issues: pl.DataFrame, dataset: Dataset, folder: str | Path, formats: Sequence[str] = ("csv", "coco", "yolo")) -> None:
    """issues.parquet always; issues.csv, issues.coco.json and issues_yolo/ as `formats` has csv, coco, yolo."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = issues.select(COLUMNS)
    table.write_parquet(folder / "issues.parquet")
    if "csv" in formats:
        table.write_csv(folder / "issues.csv", float_precision=DECIMALS)
    if "coco" in formats:
        write_coco_issues(dataset, table, folder / "issues.coco.json")
    if "yolo" in formats:
        write_yolo_issues(dataset, table, folder / "issues_yolo")
