"""A comparison from a finished run to its figures, with trainings of one epoch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml
from finished import finish_run
from tiny import environment, write_model

from detclean.cli import BAD_INPUT, answer

TRAIN = {"epochs": 1, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run as if its detector had been trained, with settings that train in a moment."""
    root = tmp_path_factory.mktemp("compare")
    folder = finish_run(root)
    document = yaml.safe_load((folder / "config.yaml").read_text())
    document |= {"predictions": None, "model": str(write_model(root / "tiny-yolo11n.yaml")), "train": TRAIN, "predict": {"conf": 0.0001}}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    return folder


def compare(run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detclean", "compare", str(run), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=run, env=environment(run.parent / "home"))


def test_versions_are_trained_alike_and_judged_on_images_nobody_cleaned(run: Path) -> None:
    done = compare(run, "--strategies", "fix", "--seeds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    document = orjson.loads((run / "compare" / "compare.json").read_bytes())
    assert (document["test"], document["images"], document["seeds"]) == ("val", 4, 1)
    assert list(document["versions"]) == ["as given", "fix", "random, as much as fix"]
    assert {"compare.json", "compare.md", "compare.png", "confusion.png"} <= {path.name for path in (run / "compare").iterdir()}
    stages = sorted((run / "compare" / "stages").glob("train-*"))
    assert [stage.name.rpartition("-")[0] for stage in stages] == ["train-fix", "train-given", "train-random-fix"]
    for stage in stages:
        assert sorted(path.name for path in (stage / "weights").iterdir()) == ["fold-0.pt"]
    assert "as given" in done.stdout
    assert "fix" in done.stdout

    again = compare(run, "--strategies", "fix", "--seeds", "1")
    assert (again.returncode, again.stderr) == (0, "")
    assert orjson.loads((run / "compare" / "compare.json").read_bytes()) == document
    assert sorted((run / "compare" / "stages").glob("train-*")) == stages


REFUSED = {
    "an unknown strategy": (["RUN", "--strategies", "hope"], "fix, drop_boxes, drop_images"),
    "no seed": (["RUN", "--seeds", "0"], "--seeds 0"),
    "no run": (["nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_said_in_one_line(run: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, word = REFUSED[case]
    assert answer(["compare", *(part.replace("RUN", str(run)) for part in arguments)]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert word in said.err
    assert not Path("nowhere").exists()


def test_without_images_to_judge_on_it_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish_run(tmp_path, "coco")
    document = yaml.safe_load((folder / "config.yaml").read_text()) | {"predictions": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    assert answer(["compare", str(folder)]) == BAD_INPUT
    assert "has no images beside those that were cleaned" in capsys.readouterr().err
