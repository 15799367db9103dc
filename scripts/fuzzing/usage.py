"""What a run does with a data set that was read, so that a result is one that can be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from detclean.audit import audit_dataset
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.edit.proposals import propose_cleaning
from detclean.formats import read_dataset, write_cleaned
from detclean.score.issues import COLUMNS, POSITIONS
from detclean.show.issue_lists import write_issues
from fuzzing import mutations as mutate
from fuzzing.inputs import Place
from fuzzing.mutations import Random

STRATEGIES = ("fix", "drop_boxes", "drop_images")
SIDES = ("x1", "y1", "x2", "y2")


def use_dataset(whole: Dataset, place: Place, rng: Random) -> None:
    """What a run does with a data set that was read: audit, the stage's files, issues in every list, a cleaned copy, read again."""
    require_sound(whole)
    audit = audit_dataset(whole)
    stage = place.work / "stage"
    stage.mkdir()
    write_dataset(whole, stage)
    whole = open_dataset(stage)
    require_sound(whole)
    if any(finding.severity == "error" for finding in audit.findings):
        return  # what stops a run before its training
    if mutate.chance(rng, 2):
        return  # every other one: it takes several times as long as reading
    part = whole.select_split(rng.choice(("train", "all")))
    issues = make_issues(rng, part)
    write_issues(issues, part, place.work, ("csv", "coco", "yolo"))
    strategy = rng.choice(STRATEGIES)
    cleaning = propose_cleaning(part, issues, strategy, 0.0)  # type: ignore[arg-type]
    out = place.work / "cleaned"
    write_cleaned(part, cleaning.edits, out, drop_images=cleaning.drop_images, copy_images=mutate.chance(rng, 4))
    if cleaning.drop_images or any(edit.action == "delete" for edit in cleaning.edits):
        return
    source = {"yolo": out / "data.yaml", "coco": out / "annotations.json", "voc": out}[whole.format]
    pictureless = whole.images["path"].null_count() == whole.image_count  # a size that the labels do not say is the picture's
    again = read_dataset(source, "none" if whole.format != "yolo" and pictureless else None)
    added = sum(edit.action == "add" for edit in cleaning.edits)
    if whole.format != "yolo" and len(again.annotations) < len(whole.annotations) + added:
        raise AssertionError(f"cleaned: {len(again.annotations)} annotations of {len(whole.annotations)} and {added} added")


def require_sound(dataset: Dataset) -> None:
    """What the rest of detclean may trust in. Raises AssertionError."""
    boxes = dataset.annotations
    checks = {
        "finite": bool(np.isfinite(boxes.xyxy).all()),
        "images": bool(((boxes.image_index >= 0) & (boxes.image_index < dataset.image_count)).all()),
        "sorted": bool((np.diff(boxes.image_index) >= 0).all()),
        "categories": bool(((boxes.category >= 0) & (boxes.category < len(dataset.categories))).all()),
        "names": len(set(dataset.categories)) == len(dataset.categories),
        "ids": dataset.images["image_id"].null_count() == 0,
        "sizes": bool((dataset.sizes > 0).all()),
        "rows": len(dataset.source_rows) == len(boxes),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise AssertionError(f"unsound: {wrong}")


def make_issues(rng: Random, dataset: Dataset) -> pl.DataFrame:
    """A few issues of every kind, as a run would list them."""
    boxes, ids = dataset.annotations, dataset.annotations.annotation_id
    rows: list[dict[str, Any]] = []
    chosen = rng.sample(range(len(boxes)), min(len(boxes), 4))
    for annotation in [*chosen, *([None] * 2 if dataset.image_count and dataset.categories else [])]:
        image = rng.randrange(dataset.image_count) if annotation is None else int(boxes.image_index[annotation])
        width, height = dataset.sizes[image].tolist()
        box = (0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height)
        row: dict[str, Any] = {"rank": len(rows) + 1, "probability": rng.random(), "verdict": rng.choice(("noisy", "hard")), "votes": 1}
        row |= {"image_id": dataset.images["image_id"][image], "file_name": dataset.images["file_name"][image], "image_index": image}
        row |= {f"suggested_{side}": value for side, value in zip(SIDES, box, strict=True)} | {
            "reason": "it is fuzzed",
            "detector_score": 0.5,
        }
        row |= {"suggested_category": rng.choice(dataset.categories), "annotation": annotation, "iou": 0.1}
        if annotation is None:
            row |= {
                "issue_type": "overlooked",
                "action": "add",
                "annotation_id": None,
                "category": None,
                "source": "",
                **dict.fromkeys(SIDES),
            }
        else:
            action, kind = rng.choice((("relabel", "swap"), ("move", "badloc"), ("delete", "spurious"), ("review", "swap")))
            row |= {
                "issue_type": kind,
                "action": action,
                "annotation_id": None if ids is None else ids[annotation : annotation + 1].tolist()[0],
            }
            row |= {"category": dataset.categories[int(boxes.category[annotation])], "source": dataset.describe_source(annotation)}
            row |= dict(zip(SIDES, boxes.xyxy[annotation].tolist(), strict=True))
        rows.append(row)
    numbers = dict.fromkeys((*SIDES, *(f"suggested_{side}" for side in SIDES), "probability", "detector_score", "iou"), pl.Float64)
    whole = dict.fromkeys(("rank", "votes", *POSITIONS), pl.Int64)
    number = np.issubdtype(np.asarray(ids).dtype, np.integer) if ids is not None else False
    kinds = dict.fromkeys((*COLUMNS, *POSITIONS), pl.String) | numbers | whole
    kinds |= {"image_id": dataset.images["image_id"].dtype, "annotation_id": pl.Int64 if number else pl.String}  # type: ignore[dict-item]
    return pl.DataFrame([{name: row.get(name) for name in kinds} for row in rows], schema=kinds)
