"""Files beside a data set: detections, decisions, configurations, answer keys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from detclean.boxes import Boxes
from detclean.config import config_as_yaml, read_config
from detclean.dataset import Dataset
from detclean.edit.changes import find_changes
from detclean.edit.decisions import Decision, DecisionLog, read_decisions
from detclean.formats import read_detections
from detclean.handover import export_run
from detclean.runfolder import open_run
from detclean.score.answers import compare_with_answers
from fuzzing import mutations as mutate
from fuzzing.datasets import NAMES
from fuzzing.folders import mutate_folder
from fuzzing.inputs import Place, change, change_json, copy_plain, make_yaml
from fuzzing.mutations import Random


def _boxes_of(format: str) -> Dataset:
    """Three images that detections can be of, without a file."""
    known: dict[str, list[Any]] = {"coco": [10, 11, 12], "yolo": [f"images/p{i}.png" for i in range(3)], "voc": ["p0", "p1", "007"]}
    names = known[format]
    files = [str(name) if format == "yolo" else f"p{i}.png" for i, name in enumerate(names)]
    images = pl.DataFrame({"image_id": names, "file_name": files, "width": [32] * 3, "height": [24] * 3})
    images = images.with_columns(*(pl.lit(None, pl.String).alias(name) for name in ("path", "label_path", "split")))
    ids: tuple[Any, ...] = {"coco": (1, 2, 3), "yolo": (0, 1, 2), "voc": NAMES}[format]
    return Dataset(images, NAMES, Boxes.empty(), np.empty(0, np.int64), format, Path("source"), ids)  # type: ignore[arg-type]


def make_results(rng: Random, case: Path) -> None:
    if mutate.chance(rng, 3):
        (case / "results").mkdir()
        for i in range(3):
            text = "".join(f"{k} 0.5 0.{k + 1} 0.25 0.3 0.{k + 5}\n" for k in range(3)).encode()
            (case / "results" / f"p{i}.txt").write_bytes(change(rng, text) if mutate.chance(rng, 2) else text)
        if mutate.chance(rng, 6):
            mutate_folder(rng, case)
        return
    vectors = rng.choice(({}, {}, {"class_scores": [0.1, 0.7, 0.2]}))
    rows: Any = [{"image_id": 10 + i % 3, "category_id": 1 + i % 3, "bbox": [1, 2, 8.5, 9], "score": 0.5, **vectors} for i in range(5)]
    (case / "results.json").write_bytes(change_json(rng, rng.choice((rows, {"annotations": rows})), "annotations"))


def read_results(place: Place, rng: Random) -> None:
    folder = place.case / "results"
    for format in ("yolo", "voc") if folder.exists() else ("coco",):
        boxes = read_detections(folder if folder.exists() else place.case / "results.json", _boxes_of(format))
        if not np.isfinite(boxes.xyxy).all() or boxes.score is None or not ((boxes.score >= 0) & (boxes.score <= 1)).all():
            raise AssertionError("unsound detections")


def make_decisions(rng: Random, case: Path) -> None:
    records = [
        {"issue": f"{i:012x}", "verdict": "accept", "image_id": "images/train/0.png", "annotation_id": i, "category": "red square"}
        | {"xyxy": [1.0, 2.0, 30.5, 40], "at": "2026-01-01T00:00:00+00:00", "by": "review", "given_category": "blue square"}
        | {"given_xyxy": [1, 2, 3, 4]}
        for i in range(4)
    ]
    lines = [
        change_json(rng, record, "xyxy").replace(b"\n", b" ") if mutate.chance(rng, 3) else json.dumps(record).encode()
        for record in records
    ]
    content = b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))
    (case / "decisions.jsonl").write_bytes(change(rng, content) if mutate.chance(rng, 3) else content)
    if mutate.chance(rng, 60):
        mutate_folder(rng, case)


def read_decision_log(place: Place, rng: Random) -> None:
    run = open_run(place.template / "run")
    shutil.copytree(place.case, place.work / "run", symlinks=True, copy_function=copy_plain)
    folder = place.work / "run"
    decisions = read_decisions(folder)
    find_changes(run.dataset, run.issues, decisions, 0.5)
    DecisionLog(folder).append([Decision("box-new", "accept", "images/train/01.png", None, "red square", (1.0, 2.0, 3.0, 4.0))])
    if "box-new" not in read_decisions(folder):
        raise AssertionError("what was appended is not there")
    export_run(replace(run, folder=folder), rng.choice(("coco", "cvat", "labelstudio")))


CONFIG: dict[str, Any] = {
    "name": "fuzzed",
    "data": "annotations.json",
    "images": "none",
    "split": "train",
    "model": "x.pt",
    "predictions": "annotations.json",
    "folds": {"k": 5, "repeats": 1, "seed": 0, "group_by": "auto"},
    "train": {"epochs": 30, "imgsz": 160, "batch": 16, "device": "cpu", "lr0": 0.01},
    "predict": {"conf": 0.01, "iou": 0.6, "max_det": 300},
    "score": {"planting_rounds": 30},
    "issues": {"target_precision": 0.8, "budget": None, "types": ["overlooked", "badloc"]},
    "clean": {"strategy": "fix", "min_probability": None},
    "export": {"formats": ["csv", "coco", "yolo"]},
}


def make_config(rng: Random, case: Path) -> None:
    (case / "annotations.json").write_text("{}")
    document = json.loads(json.dumps(CONFIG))
    (case / "c.yaml").write_bytes(make_yaml(rng, document) if not mutate.chance(rng, 4) else yaml.safe_dump(document).encode())
    words = [*CONFIG, *(f"{section}.{key}" for section, keys in CONFIG.items() if isinstance(keys, dict) for key in keys), "a.b.c", "", "."]
    values = [
        *mutate.TEXTS,
        *map(str, mutate.NUMBERS),
        "[1, 2]",
        "{a: 1}",
        "[" * 3000,
        "!!python/name:os.system",
        "&x [*x]",
        "0x" + "f" * 5000,
    ]
    overrides = [rng.choice(words) + rng.choice(("=", "=", "=", "", " = ")) + rng.choice(values) for _ in range(rng.randrange(3))]
    (case / "overrides.json").write_text(json.dumps(overrides))


def read_configuration(place: Place, rng: Random) -> None:
    config = read_config(place.case / "c.yaml", json.loads((place.case / "overrides.json").read_text()))
    (place.work / "again.yaml").write_text(config_as_yaml(config))
    if read_config(place.work / "again.yaml") != config:
        raise AssertionError("the resolved configuration is read as another one")


def make_answers(rng: Random, case: Path) -> None:
    entry = {"file_name": "images/train/01.png", "category": "red square", "bbox": [1, 2, 30, 40], "issue_type": "swap"}
    document = {"planted": [entry, entry | {"issue_type": "overlooked"}], "hard": [entry]}
    (case / "answers.json").write_bytes(change_json(rng, document, "planted"))


def read_answer_key(place: Place, rng: Random) -> None:
    compare_with_answers(open_run(place.template / "run").issues, place.case / "answers.json")
