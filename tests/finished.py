"""A finished run to look at, decide on and hand over: brought detections, so that nothing is trained, and issues of every type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny import make_scenes, write_coco, write_results, write_voc, write_yolo
from trained import SEED

from detclean.config import read_config
from detclean.pipeline import run_pipeline
from detclean.show.progress import open_display

DIGITS = Path(__file__).parent.parent / "data" / "digits"
SHARED: dict[str, Path] = {}
BUDGET = 12  # issues: the five planted errors and right annotations after them
SETTINGS = ["score.planting_rounds=30", f"score.seed={SEED}", f"issues.budget={BUDGET}"]


def finish_run(root: Path, kind: str = "yolo") -> Path:
    """A data set in a format below `root`/data and a run on it -> the run folder. Takes about two seconds."""
    scenes = make_scenes()
    source = {"yolo": write_yolo, "coco": write_coco, "voc": write_voc}[kind](root / "data", scenes)
    write_results(root / "results.json", scenes, kind)
    return _run(root, source, SETTINGS)


def share_run(factory: pytest.TempPathFactory, kind: str = "yolo") -> Path:
    """What `finish_run` makes, once for all files that read or copy it and change neither the run folder nor its data set."""
    if kind not in SHARED:
        SHARED[kind] = finish_run(factory.mktemp("shared") / kind, kind)
    return SHARED[kind]


def copy_run(factory: pytest.TempPathFactory, kind: str = "yolo") -> Path:
    """A run folder of its own; the data set is the one that is shared."""
    return Path(shutil.copytree(share_run(factory, kind), factory.mktemp("copied") / "done", symlinks=True))


def _run(root: Path, source: Path, overrides: list[str]) -> Path:
    lines = {"name": "done", "runs": root / "runs", "data": source, "predictions": root / "results.json"}
    config = root / "config.yaml"
    config.write_text("".join(f"{key}: '{value}'\n" for key, value in lines.items()))
    with open_display(console=Console(quiet=True)) as display:
        return run_pipeline(read_config(config, overrides), display).folder


def finish_digits(root: Path) -> Path:
    """A run on the embedded digits with detections made from their true objects: hundreds of issues with pictures, in some ten seconds."""
    truth = json.loads((DIGITS / "true_annotations.json").read_bytes())
    rng = np.random.default_rng(0)
    name_of = {image["id"]: image["file_name"] for image in truth["images"]}
    first = min(category["id"] for category in truth["categories"])
    rows = []
    for record in truth["annotations"]:
        bbox = (np.array(record["bbox"]) + rng.normal(0, 0.6, 4)).round(2).tolist()
        identity = {"image_id": name_of[record["image_id"]], "bbox": bbox}
        rows.append(identity | {"category_id": record["category_id"] - first, "score": round(float(rng.uniform(0.6, 0.9)), 3)})
        other = (record["category_id"] - first + 1) % len(truth["categories"])
        rows.append(identity | {"category_id": other, "score": round(float(rng.uniform(0.02, 0.3)), 3)})
    root.mkdir(parents=True, exist_ok=True)
    (root / "results.json").write_text(json.dumps(rows))
    return _run(root, DIGITS / "data.yaml", ["score.planting_rounds=10", f"score.seed={SEED}", f"answers={DIGITS / 'answers.json'}"])
