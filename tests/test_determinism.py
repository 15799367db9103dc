"""Same inputs, same seed, same machine: the same issues to the byte, whether folds stand side by side or one after the other.

`scripts/kill_runs.py beside --trains` does the same with loss dynamics and classifiers of crops.
"""

import subprocess
import sys
from pathlib import Path

from tiny import environment, make_scenes, write_config, write_model, write_yolo

TRAINING = {"epochs": 1, "imgsz": 32, "batch": 8, "device": "cpu", "workers": 0}


def run(place: Path, *overrides: str) -> dict[str, bytes]:
    command = [sys.executable, "-m", "detclean", "run", "c.yaml", *overrides]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=place, env=environment(place / "home"))
    assert done.returncode == 0, done.stderr
    folder = place / "runs" / overrides[0].removeprefix("name=")
    return {name: (folder / name).read_bytes() for name in ("issues.csv", "annotations.parquet", "detections.parquet")}


def test_folds_side_by_side_or_one_after_the_other_answer_the_same(tmp_path: Path) -> None:
    scenes = make_scenes()
    write_yolo(tmp_path / "data", scenes)
    write_model(tmp_path / "tiny-yolo11n.yaml")
    common = {"model": "tiny-yolo11n.yaml", "folds": {"k": 2}, "train": TRAINING, "predict": {"conf": 0.0001}, "crops": "never"}
    write_config(tmp_path / "c.yaml", data="data/data.yaml", **common, issues={"budget": 40}, score={"planting_rounds": 3})
    alone, beside = run(tmp_path, "name=alone", "workers=1"), run(tmp_path, "name=beside", "workers=2")
    assert alone["issues.csv"].count(b"\n") > 10
    assert alone == beside
