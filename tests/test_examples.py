"""The examples do what they say, run as a newcomer runs them: in a folder of one's own, on the embedded digits and on one's own files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from test_api import write_coco

from detclean.score.answers import compare_with_answers

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ANSWERS = ROOT / "data" / "digits" / "answers.json"


def run_example(name: str, *arguments: str | Path, place: Path, status: int = 0) -> str:
    """What the script says, on standard output, or on standard error where it is to end with another status."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_own_detections_finds_the_planted_errors(tmp_path: Path) -> None:
    lines = run_example("own_detections.py", place=tmp_path).splitlines()
    assert re.fullmatch(r"250 images, 1442 annotations, 1\d{3} detections", lines[0])
    count, promised = map(int, re.findall(r"\d+", lines[1])[:2])
    assert 200 < promised < count < 350
    assert len(lines) == 12
    assert all(re.match(r"  [01]\.\d\d  \w+ +\S+: [A-Z].*\.$", line) for line in lines[2:])
    planted = {Path(name).stem for name in pl.read_json(ANSWERS).explode("planted")["planted"].struct.field("file_name")}
    assert {Path(line.split()[2].split(":")[0]).stem for line in lines[2:]} <= planted
    assert list(tmp_path.iterdir()) == []


def test_coco_writes_lists_that_hold_the_planted_errors(tmp_path: Path) -> None:
    out = run_example("coco.py", place=tmp_path)
    folder = tmp_path / "runs" / "coco-example"
    assert {path.name for path in folder.iterdir()} == {"results.json", "issues.csv", "issues.parquet", "issues.coco.json", "issues_yolo"}
    issues = pl.read_parquet(folder / "issues.parquet")
    assert out.startswith(f"{issues.height} issues among 1442 annotations of 250 images\n")
    counts = {words[0]: int(words[1].rstrip(",")) for line in out.splitlines()[1:-1] for words in [line.split()]}
    assert counts == dict(issues.group_by("issue_type").len().iter_rows())
    assert len(counts) == 5
    assert "runs/coco-example/issues.csv has them all" in out
    against = compare_with_answers(issues, ANSWERS)["all"]
    assert against["precision"] > 0.7, against
    assert against["recall"] > 0.6, against


def write_yolo(folder: Path) -> tuple[Path, Path]:
    """Six images of four objects, one of which is annotated as a 7 and is a cat; and a table of what a perfect detector sees."""
    rows = []
    for name in map(str, range(6)):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(folder / "images" / f"{name}.png")
        lines = []
        for i in range(4):
            rows.append((f"images/{name}.png", "cat", 10 + 50 * i, 20, 40 + 50 * i, 60, 0.9))
            lines.append(f"{int((name, i) == ('3', 1))} {0.125 + 0.25 * i} 0.4 0.15 0.4\n")
        (folder / "labels" / f"{name}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text('train: images\nval: images\nnames: [cat, "7"]\n')
    pl.DataFrame(rows, ["file_name", "category", "x1", "y1", "x2", "y2", "score"], orient="row").write_csv(folder / "seen.csv")
    return folder / "data.yaml", folder / "seen.csv"


def test_own_detections_on_own_files(tmp_path: Path) -> None:
    data, seen = write_yolo(tmp_path / "set")
    lines = run_example("own_detections.py", data, seen, place=tmp_path).splitlines()
    assert lines[0] == "6 images, 24 annotations, 24 detections"
    assert len(lines) == 3
    assert re.match(r"  0\.\d\d  relabel   labels/3\.txt:2: Annotated '7', but the detector sees 'cat'", lines[2])
    seen.write_text(seen.read_text().replace("images/0.png", "images/nowhere.png"))
    words = run_example("own_detections.py", data, seen, place=tmp_path, status=1)
    assert words == "images/nowhere.png is no image and no category of the data set; its images are named like images/0.png\n"


def test_coco_on_own_files(tmp_path: Path) -> None:
    annotations, results = write_coco(tmp_path / "set")
    out = run_example("coco.py", annotations, results, "--images", tmp_path / "set" / "images", "--out", "lists", place=tmp_path)
    assert out.startswith("2 issues among ")
    table = pl.read_csv(tmp_path / "lists" / "issues.csv")
    assert sorted(table["issue_type"]) == ["overlooked", "swap"]
    assert "box 4" in table["annotation_id"].to_list()


@pytest.mark.parametrize("name", ["own_detections.py", "coco.py"])
def test_own_labels_need_own_detections(name: str, tmp_path: Path) -> None:
    assert "a detector is played" in run_example(name, "labels.json", place=tmp_path, status=2)


def test_every_example_says_how_it_is_called_and_the_readme_names_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("own_detections.py", "coco.py"):
        assert f"python examples/{name} " in (EXAMPLES / name).read_text(encoding="utf-8").split('"""')[1]
        assert f"(examples/{name})" in readme
