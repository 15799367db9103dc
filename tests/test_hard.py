"""Hard samples: the lists of a run, what the report shows of them, and new images ranked by the models of a run."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
import yaml
from finished import copy_run
from PIL import Image
from tiny import CATEGORIES, describe_tree, make_scenes, write_images, write_model
from trained import SEED, expect

from detclean.boxes import Boxes
from detclean.cli import BAD_INPUT, answer
from detclean.dataset import Dataset
from detclean.detect.yolo import Predictions, train_folds
from detclean.report.hardest import gather_hardest
from detclean.runfolder import open_run
from detclean.show.hard_table import read_hard, write_hard

MODELS = 2
HARD = 3  # of new_images, the picture that is there twice
SCORES = {"0": [0.97, 0.01, 0.01], "1": [0.8, 0.1, 0.02], "2": [0.9, 0.02, 0.02], "3": [0.6, 0.3, 0.02], "again": [0.75, 0.2, 0.02]}
DISPUTED = ("2", "3", "again")  # one model sees the first category where the other one sees the third


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on detections without score vectors."""
    return copy_run(tmp_path_factory)


@pytest.fixture
def run(brought: Path, tmp_path: Path) -> Path:
    """The same as if it had trained a model for each of two folds."""
    folder = tmp_path / "run"
    shutil.copytree(brought, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"predictions": None, "train": {"device": "cpu"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = orjson.loads((folder / "summary.json").read_bytes())
    summary["stages"] |= {"train": "train-000000000000", "folds": "folds-000000000000"}
    (folder / "summary.json").write_bytes(orjson.dumps(summary))
    (folder / "stages" / "train-000000000000").mkdir()
    folds = folder / "stages" / "folds-000000000000"
    folds.mkdir()
    pl.DataFrame({"repeat_0": np.arange(24) % MODELS}).write_parquet(folds / "folds.parquet")
    return folder


@pytest.fixture
def new_images(tmp_path: Path) -> Path:
    """Five pictures, one of them nearly the same as the hardest, one that is none, and one whose name is no text."""
    scenes = [replace(scene, name=f"{i}.png") for i, scene in enumerate(make_scenes(seed=7)[:4])]
    folder = tmp_path / "new"
    write_images(scenes, folder, seed=7)
    with Image.open(folder / f"{HARD}.png") as picture:
        (folder / "below").mkdir()
        picture.point(lambda value: min(value + 4, 255)).save(folder / "below" / "again.png")
    (folder / "damaged.jpg").write_bytes(b"no picture")
    Path(os.fsdecode(os.fsencode(folder / "odd") + b"\xff.png")).write_bytes(b"")
    return folder


class Pretended:
    """Stands in for the models: says of each picture by its name what they see there, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, dataset: Dataset, folds: Any, trained: Path, out: Path, **more: Any) -> Predictions:
        self.asked += 1
        assert trained.name == "train-000000000000"
        rows = []
        for index, name in enumerate(dataset.images["file_name"].to_list()):
            scores = SCORES.get(Path(name).stem, SCORES["1"])
            rows.append((index, scores[:: -1 if folds[0, index] and Path(name).stem in DISPUTED else 1]))
        scores = np.array([row[1] for row in rows])
        boxes = Boxes(
            np.array([row[0] for row in rows]),
            scores.argmax(axis=1),
            np.tile([5.0, 5, 30, 30], (len(rows), 1)),
            score=scores.max(axis=1),
            class_scores=scores,
            fold=folds[0],
            repeat=np.zeros(len(rows), np.int64),
        )
        return Predictions(boxes, pl.DataFrame(), pl.DataFrame())


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    pretended = Pretended()
    monkeypatch.setattr("detclean.pipeline.hard.predict_out_of_fold", pretended)
    return pretended


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_every_run_lists_its_images_hardest_first(brought: Path) -> None:
    rows = read_rows(brought / "hard.csv")
    assert list(rows[0]) == ["category", "rank", "image_id", "file_name", "hardness", "entropy", "disagreement", "objects", "issues"]
    whole = [row for row in rows if not row["category"]]
    assert rows[: len(whole)] == whole
    assert [int(row["rank"]) for row in whole] == list(range(1, 25))
    hardness = [float(row["hardness"]) for row in whole]
    assert hardness == sorted(hardness, reverse=True)
    assert hardness[0] > hardness[-1] > 0
    assert {row["disagreement"] for row in rows} == {""}  # one repeat
    assert {row["category"] for row in rows} == {"", *CATEGORIES}
    run = open_run(brought)
    noisy = run.issues.filter(pl.col("verdict") == "noisy")
    assert sum(int(row["issues"]) for row in whole) == noisy.height > 0
    paths = (brought / "hard.txt").read_text().splitlines()
    assert [Path(path).name for path in paths] == [Path(row["file_name"]).name for row in whole]
    assert all(Path(path).is_file() for path in paths)


def test_the_command_shows_what_a_run_found(brought: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["hard", "--run", str(brought)]) == 0
    said = capsys.readouterr().out
    assert "The 10 hardest of 24 images" in said
    assert "AP50" in said
    assert "disagreement" not in said
    for name in (*CATEGORIES, read_rows(brought / "hard.csv")[0]["file_name"]):
        assert name in said


def test_new_images_are_ranked_by_all_models(run: Path, new_images: Path, models: Pretended, capsys: pytest.CaptureFixture[str]) -> None:
    before = describe_tree(new_images)
    assert answer(["hard", "--images", str(new_images), "--run", str(run)]) == 0
    table = read_hard(run / "hard" / "new")
    whole = table.filter(pl.col("category").is_null())
    assert whole["file_name"].to_list() == ["3.png", "2.png", "1.png", "0.png", "below/again.png"]
    assert whole["similar_to"].to_list() == [None] * 4 + ["3.png"]
    assert whole["rank"].to_list() == [1, 2, 3, 4, 5]
    assert whole["disagreement"][1] > whole["disagreement"][0] > 0.1
    assert whole["disagreement"][2] == whole["disagreement"][3] == 0
    assert (whole["hardness"] - whole["entropy"] - whole["disagreement"]).abs().max() < 2e-4  # as printed
    listed = (run / "hard" / "new" / "hard.txt").read_text().splitlines()
    assert listed == [str(new_images / name) for name in whole["file_name"].to_list()]
    said = capsys.readouterr()
    assert "1 image left out that cannot be read (damaged.jpg)" in said.out + said.err
    assert "1 image left out, as their names are not UTF-8" in said.out + said.err
    assert "damaged.jpg" in (run / "hard" / "new" / "run.log").read_text()
    assert "The 5 hardest of 5 images" in said.out
    assert describe_tree(new_images) == before

    assert answer(["hard", "--images", str(new_images), "--run", str(run), "--limit", "2"]) == 0
    assert models.asked == 1
    assert (run / "hard" / "new" / "hard.txt").read_text().splitlines() == listed[:2]
    assert read_hard(run / "hard" / "new").equals(table)

    (new_images / "2.png").unlink()
    assert answer(["hard", "--images", str(new_images), "--run", str(run), "--out", str(run.parent / "other")]) == 0
    assert models.asked == 2
    assert "2.png" not in read_hard(run.parent / "other")["file_name"].to_list()


def test_what_the_models_have_learnt_is_left_out(
    run: Path, new_images: Path, models: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_run(run).dataset
    learnt = dataset.images["path"].to_list()
    shutil.copy(learnt[5], new_images / "copy.png")
    unseen = learnt[0].replace("/train/00.png", "/val/24.png")
    listed = new_images / "list.txt"
    lines = ["./1.png", str(learnt[0]), "copy.png", unseen, "1.png", "absent.png", ""]
    listed.write_text("\n".join(lines))
    assert answer(["hard", "--images", str(listed), "--run", str(run)]) == 0
    whole = read_hard(run / "hard" / "list").filter(pl.col("category").is_null())
    assert sorted(whole["file_name"].to_list()) == sorted(["./1.png", unseen])
    log = (run / "hard" / "list" / "run.log").read_text()
    assert "2 images left out that the run's models have learnt" in log
    assert "1 image in another split" in log
    assert "absent.png" in log


REFUSED = {
    "an empty folder": (["--images", "EMPTY"], "holds no images"),
    "no folder": (["--images", "nowhere"], "does not exist"),
    "no list": (["--images", "RUN/config.yaml"], "is neither a folder nor a .txt"),
    "all known": (["--images", "KNOWN"], "of 24 images none is left"),
    "results among the pictures": (["--images", "NEW", "--out", "NEW/results"], "--out"),
    "results in the place of the run's own": (["--images", "NEW", "--out", "RUN"], "is a run"),
    "no limit": (["--images", "NEW", "--limit", "0"], "--limit 0"),
    "a limit of the run's own": (["--limit", "3"], "--images FOLDER"),
}


def test_other_images_of_the_same_name_get_a_folder_of_their_own(run: Path, new_images: Path, models: Pretended, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "new"
    shutil.copytree(new_images / "below", other)
    for images in (new_images, other, new_images, other):
        assert answer(["hard", "--images", str(images), "--run", str(run)]) == 0
    assert sorted(path.name for path in (run / "hard").iterdir()) == ["new", "new-2"]
    assert (run / "hard" / "new-2" / "hard.txt").read_text() == f"{other / 'again.png'}\n"
    assert read_hard(run / "hard" / "new").filter(pl.col("category").is_null()).height == 5


def test_a_name_with_a_line_break_breaks_no_list(
    run: Path, new_images: Path, models: Pretended, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(new_images / "0.png", new_images / "two\nlines.png")
    assert answer(["hard", "--images", str(new_images), "--run", str(run)]) == 0
    assert "lines.png" not in (run / "hard" / "new" / "hard.txt").read_text()
    assert "hold line breaks" in capsys.readouterr().out
    ranked = pl.DataFrame({"category": [None, None], "rank": [1, 2], "image_index": [0, 1]}, schema_overrides={"category": pl.Int64})
    images = pl.DataFrame({"image_id": ["0", "1"], "file_name": ["a\nb.png", "c.png"], "path": ["/a\nb.png", "/c.png"]})
    write_hard(ranked, images, CATEGORIES, tmp_path)
    assert (tmp_path / "hard.txt").read_text() == "/c.png\n"
    assert read_hard(tmp_path)["file_name"].to_list() == ["a\nb.png", "c.png"]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ranked_is_said_in_one_line(
    case: str, run: Path, new_images: Path, models: Pretended, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    known = Path(open_run(run).dataset.images["path"][0]).parent
    places = {"RUN": run, "NEW": new_images, "EMPTY": tmp_path / "empty", "KNOWN": known}
    before = describe_tree(new_images)
    arguments, word = REFUSED[case]
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    assert answer(["hard", "--run", str(run), *arguments]) == BAD_INPUT
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in said) == 1
    assert word in said[-1]
    assert models.asked == 0
    assert describe_tree(new_images) == before


def test_brought_detections_know_nothing_of_new_images(brought: Path, new_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["hard", "--images", str(new_images), "--run", str(brought)]) == BAD_INPUT
    assert "has no models to look at new images" in capsys.readouterr().err


def test_a_run_of_an_older_version_is_told_to_be_repeated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "hard.csv").unlink()
    assert answer(["hard", "--run", str(run)]) == BAD_INPUT
    assert "repeat the run" in capsys.readouterr().err


@pytest.mark.trained
@pytest.mark.usefixtures("warm")
def test_every_fold_s_own_model_looks_at_every_new_image(run: Path, new_images: Path) -> None:
    """With a real model, trained for a moment: the second has the same weights."""
    opened = open_run(run)
    folds = np.arange(24)[None] % MODELS - 1  # the second fold alone is held out and has a model
    settings = {"epochs": 1, "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "seed": SEED}
    trained = opened.stage("train")
    train_folds(opened.dataset, folds, trained, model=str(write_model(run / "tiny-yolo11n.yaml")), train=settings, workers=1)
    shutil.copy(trained / "weights" / "fold-0.weights", trained / "weights" / "fold-1.weights")
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"predict": {"conf": 0.0001}, "workers": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert answer(["hard", "--images", str(new_images), "--run", str(run)]) == 0
    (look,) = (run / "hard" / "new" / "stages").glob("look-*")
    seen = pl.read_parquet(look / "detections.parquet")
    counts = seen.group_by("fold", "image_index").len()
    assert counts.height == MODELS * 5
    expect("fewest detections of a picture", counts["len"].min(), least=2)
    boxes = [seen.filter(pl.col("fold") == fold).select("image_index", "x1", "score", "class_scores") for fold in range(MODELS)]
    assert boxes[0].equals(boxes[1])


def test_of_too_little_the_report_says_so(brought: Path) -> None:
    hardest = gather_hardest(open_run(brought))
    assert hardest is not None
    assert "too few to compare" in hardest.plots[0].answer
    assert hardest.plots[0].svg is None
