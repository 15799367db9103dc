"""Holds issues against an answer key: what was planted, what was found, and which right but hard objects were accused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes, xywh_to_xyxy
from detclean.dataset import ISSUE_TYPES
from detclean.errors import DatasetError
from detclean.formats.plainfile import read_plain
from detclean.formats.records import FARTHEST
from detclean.score.matching import match_greedily, overlapping_pairs

SAME_BOX_IOU = 0.9  # an issue accuses this planted annotation: far above what two annotations of one object share, but for copies
OVERLOOKED_IOU = 0.5  # an issue proposes this left-out object


def compare_with_answers(issues: pl.DataFrame, path: Path) -> dict[str, Any]:
    """Recall and precision per type and overall; right but hard objects among the issues count against precision.

    An issue is correct if it names the planted error's type at its place: the annotation's own box, or for overlooked one that reaches
    IoU >= 0.5 with the object left out. Raises DatasetError where the key cannot be read.
    """
    planted, hard = read_answers(path)
    per_type = {kind: _compare_type(issues, planted, kind) for kind in ISSUE_TYPES}
    everything = {name: sum(row[name] for row in per_type.values()) for name in ("planted", "found", "issues", "correct")}
    accused = issues.filter(pl.col("annotation_id").is_not_null())
    mine, _, _ = _match(_given_boxes(accused), hard, SAME_BOX_IOU)
    return {"per_type": per_type, "all": _with_rates(everything), "hard": hard.height, "hard_flagged": len(mine)}


def read_answers(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The planted errors and the hard objects of an answer key, each with file_name, issue_type and bbox. Raises DatasetError."""
    try:
        key = orjson.loads(read_plain(path))
        return _entries(key["planted"]), _entries(key["hard"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "it should hold planted and hard, each a list of file_name, category, bbox"
        raise DatasetError(f"{path}: no answer key ({str(error)[:200]}); {remedy}") from error


def _entries(entries: list[dict[str, Any]]) -> pl.DataFrame:
    if odd := next(
        (entry for entry in entries if len(entry["bbox"]) != 4 or not all(abs(float(v)) <= FARTHEST for v in entry["bbox"])), None
    ):
        raise ValueError(f"bbox {str(odd['bbox'])[:60]} is not x, y, width, height")
    if odd := next((entry for entry in entries if not isinstance(entry["file_name"], str)), None):
        raise ValueError(f"file_name {str(odd['file_name'])[:60]} is no text")
    return pl.DataFrame(
        {
            "file_name": pl.Series([entry["file_name"] for entry in entries], dtype=pl.String),
            "issue_type": pl.Series([entry.get("issue_type") for entry in entries], dtype=pl.String),
            "bbox": pl.Series([[float(v) for v in entry["bbox"]] for entry in entries], dtype=pl.List(pl.Float64)),
        }
    )


def find_correct_issues(issues: pl.DataFrame, path: Path) -> np.ndarray:
    """Which issues (n,) are errors that the key knows, one issue an error. Raises DatasetError where the key cannot be read."""
    planted, _ = read_answers(path)
    correct = np.zeros(issues.height, bool)
    for kind in ISSUE_TYPES:
        rows = np.flatnonzero((issues["issue_type"] == kind).to_numpy())
        correct[rows[_find_correct(issues[rows.tolist()], planted.filter(pl.col("issue_type") == kind), kind)]] = True
    return correct


def _compare_type(issues: pl.DataFrame, planted: pl.DataFrame, kind: str) -> dict[str, Any]:
    mine = issues.filter(pl.col("issue_type") == kind)
    theirs = planted.filter(pl.col("issue_type") == kind)
    found = len(_find_correct(mine, theirs, kind))
    return _with_rates({"planted": theirs.height, "found": found, "issues": mine.height, "correct": found})


def _find_correct(issues: pl.DataFrame, planted: pl.DataFrame, kind: str) -> np.ndarray:
    """Positions of the issues of a type that are planted errors of this type."""
    boxes = _suggested_boxes(issues) if kind == "overlooked" else _given_boxes(issues)
    found, _, _ = _match(boxes, planted, OVERLOOKED_IOU if kind == "overlooked" else SAME_BOX_IOU)
    return found


def _with_rates(counts: dict[str, int]) -> dict[str, Any]:
    recall = counts["found"] / counts["planted"] if counts["planted"] else None
    precision = counts["correct"] / counts["issues"] if counts["issues"] else None
    return {**counts, "recall": recall, "precision": precision}


def _given_boxes(issues: pl.DataFrame) -> pl.DataFrame:
    return issues.select("file_name", "x1", "y1", "x2", "y2")


def _suggested_boxes(issues: pl.DataFrame) -> pl.DataFrame:
    return issues.select("file_name", **{side: pl.col(f"suggested_{side}") for side in ("x1", "y1", "x2", "y2")})


def _match(boxes: pl.DataFrame, answers: pl.DataFrame, min_iou: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a box and an answer, one to one, best overlap first: positions among the boxes, among the answers, IoU."""
    names = {name: i for i, name in enumerate(pl.concat([boxes["file_name"], answers["file_name"]]).unique().sort().to_list())}
    mine = Boxes.sorted(
        image_index=np.array([names[name] for name in boxes["file_name"].to_list()], dtype=np.int64),
        category=np.arange(boxes.height),
        xyxy=boxes.select("x1", "y1", "x2", "y2").to_numpy().reshape(-1, 4),
    )
    xywh = np.array(answers["bbox"].to_list(), dtype=np.float64).reshape(-1, 4)
    theirs = Boxes.sorted(
        image_index=np.array([names[name] for name in answers["file_name"].to_list()], dtype=np.int64),
        category=np.arange(answers.height),
        xyxy=xywh_to_xyxy(xywh),
    )
    first, second, iou = overlapping_pairs(mine, theirs, min_iou)
    taken = match_greedily(first, second, iou)
    return mine.category[first[taken]], theirs.category[second[taken]], iou[taken]
