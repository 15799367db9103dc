"""The embedded data set: made by its script and by nothing else, the same in both forms, and with an answer key that fits it."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import digests

from detclean.boxes import Boxes, box_iou, xywh_to_xyxy, xyxy_to_xywh
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.formats import read_dataset
from detclean.score.answers import read_answers

ROOT = Path(__file__).parents[1]
DIGITS, LETTERS = ROOT / "data" / "digits", ROOT / "data" / "letters.pt"
RATE = 0.04  # of the boxes, each type: ../shared/benchmark.md
READ_NAMES = "import json, sys; from ultralytics import YOLO; print('names:', json.dumps(YOLO(sys.argv[1]).names))"


@pytest.fixture(scope="module")
def yolo() -> Dataset:
    return read_dataset(DIGITS / "data.yaml")


@pytest.fixture(scope="module")
def coco() -> dict[str, Dataset]:
    return {"train": read_dataset(DIGITS / "annotations.json"), "val": read_dataset(DIGITS / "test_annotations.json")}


@pytest.fixture(scope="module")
def answers() -> dict[str, list[dict[str, Any]]]:
    return json.loads((DIGITS / "answers.json").read_bytes())


@pytest.fixture(scope="module")
def true() -> Dataset:
    return read_dataset(DIGITS / "true_annotations.json")


@pytest.fixture(scope="module")
def true_answers() -> dict[str, list[dict[str, Any]]]:
    return json.loads((DIGITS / "true_answers.json").read_bytes())


def test_the_script_makes_the_same_files_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make_digits.py", "--target", tmp_path / "digits"], check=True, capture_output=True)
    assert digests(tmp_path / "digits") == digests(DIGITS)


def test_it_is_small_and_large_enough(yolo: Dataset) -> None:
    assert sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file()) < 6_000_000
    images = Counter(yolo.images["split"].to_list())
    assert images["train"] >= 240
    assert images["val"] >= 80
    assert len(yolo.categories) == 10
    sizes = yolo.sizes
    assert sizes.min() >= 128
    assert sizes.max() <= 192


def test_it_reads_without_a_fault_of_its_own(yolo: Dataset, coco: dict[str, Dataset]) -> None:
    for dataset in (yolo, *coco.values()):
        assert [str(finding) for finding in dataset.findings] == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_forms_hold_the_same(split: str, yolo: Dataset, coco: dict[str, Dataset]) -> None:
    part, other = yolo.select_split(split), coco[split]
    assert part.images["file_name"].to_list() == other.images["file_name"].to_list()
    assert part.images["path"].to_list() == other.images["path"].to_list()
    assert np.array_equal(part.sizes, other.sizes)
    assert part.categories == other.categories
    assert np.array_equal(part.annotations.image_index, other.annotations.image_index)
    assert np.array_equal(part.annotations.category, other.annotations.category)
    assert np.allclose(part.annotations.xyxy, other.annotations.xyxy, rtol=0, atol=0.01)


def test_no_scan_is_in_both_parts(yolo: Dataset) -> None:
    """The script keeps scans back for the test scenes; whole scenes, at least, are in one part only."""
    train, val = (set(digests(DIGITS / "images" / part).values()) for part in ("train", "test"))
    assert len(train) + len(val) == yolo.image_count
    assert not train & val


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_the_answer_key_fits(form: str, yolo: Dataset, coco: dict[str, Dataset], answers: dict[str, list[dict[str, Any]]]) -> None:
    part = yolo.select_split("train") if form == "yolo" else coco["train"]
    index_of = {name: i for i, name in enumerate(part.images["file_name"].to_list())}
    rows_of = part.annotations.by_image(part.image_count)
    used: list[int] = []
    for entry in answers["planted"] + answers["hard"]:
        rows = np.arange(len(part.annotations))[rows_of[index_of[entry["file_name"]]]]
        same = rows[part.annotations.category[rows] == part.categories.index(entry["category"])]
        if entry.get("issue_type") == "overlooked":
            bbox = xywh_to_xyxy(np.array([entry["bbox"]]))
            assert (box_iou(bbox, part.annotations.xyxy[same]) <= 0.9).all(), entry
        else:
            near = np.abs(xyxy_to_xywh(part.annotations.xyxy[same]) - entry["bbox"]).max(axis=1) < 0.01
            assert near.any(), entry
            used.append(int(same[near.argmax()]))
    assert len(set(used)) == len(used)  # no annotation is wrong in two ways, or both wrong and hard


def boxes_of(dataset: Dataset, file_name: str) -> Boxes:
    index = dataset.images["file_name"].to_list().index(file_name)
    return dataset.annotations[dataset.annotations.image_index == index]


def as_entries(dataset: Dataset) -> Counter[tuple[str, str, tuple[float, ...]]]:
    """Every annotation as file name, category and rounded corners, so that two files can be compared."""
    boxes, names = dataset.annotations, dataset.images["file_name"].to_list()
    rows = zip(boxes.image_index.tolist(), boxes.category.tolist(), boxes.xyxy.round(2).tolist(), strict=True)
    return Counter((names[i], dataset.categories[k], tuple(xyxy)) for i, k, xyxy in rows)


def as_entry(answer: dict[str, Any]) -> tuple[str, str, tuple[float, ...]]:
    return answer["file_name"], answer["category"], tuple(xywh_to_xyxy(np.array([answer["bbox"]]))[0].round(2).tolist())


def test_the_true_labels_and_the_answer_key_make_the_given_ones(
    true: Dataset, coco: dict[str, Dataset], answers: dict[str, list[dict[str, Any]]]
) -> None:
    given, wanted = as_entries(coco["train"]), as_entries(true)
    assert true.images["path"].to_list() == coco["train"].images["path"].to_list()
    assert [str(finding) for finding in true.findings] == []
    planted = Counter(as_entry(answer) for answer in answers["planted"] if answer["issue_type"] != "overlooked")
    removed = Counter(as_entry(answer) for answer in answers["planted"] if answer["issue_type"] == "overlooked")
    assert planted <= given
    assert removed <= wanted
    untouched = given - planted
    assert untouched <= wanted
    replaced = wanted - untouched - removed  # the true forms of what was swapped or moved
    kinds = Counter(answer["issue_type"] for answer in answers["planted"])
    assert replaced.total() == kinds["swap"] + kinds["badloc"]
    for answer in answers["planted"]:
        check_planted(answer, true)


def check_planted(answer: dict[str, Any], true: Dataset) -> None:
    """A planted error is none by the true labels, and stands to them as ../shared/benchmark.md says."""
    boxes = boxes_of(true, answer["file_name"])
    _, category, corners = as_entry(answer)
    own = boxes.category == true.categories.index(category)
    iou = box_iou(np.array([corners]), boxes.xyxy)[0]
    fits = {
        "overlooked": (iou[own] > 0.99).any(),
        "swap": (iou[~own] > 0.99).any(),
        "badloc": ((iou[own] > 0.29) & (iou[own] < 0.61)).any(),
        "duplicate": (iou > 0.79).any(),
        "spurious": (iou < 0.11).all(),
    }
    assert fits[answer["issue_type"]], answer


def test_every_hard_object_is_in_the_true_key(
    true: Dataset,
    coco: dict[str, Dataset],
    answers: dict[str, list[dict[str, Any]]],
    true_answers: dict[str, list[dict[str, Any]]],
) -> None:
    read_answers(DIGITS / "true_answers.json")
    assert true_answers["planted"] == []
    hard, still = (Counter(as_entry(answer) for answer in key["hard"]) for key in (true_answers, answers))
    assert hard <= as_entries(true)
    assert still <= hard
    planted = Counter(as_entry(answer) for answer in answers["planted"] if answer["issue_type"] != "overlooked")
    assert hard & (as_entries(coco["train"]) - planted) == still  # the others were swapped, moved or left out
    assert 0 < (hard - still).total() < 0.3 * hard.total()


def test_as_many_errors_as_the_benchmark_has(yolo: Dataset, answers: dict[str, list[dict[str, Any]]]) -> None:
    planted = Counter(entry["issue_type"] for entry in answers["planted"])
    assert set(planted) == set(ISSUE_TYPES)
    given = len(yolo.select_split("train").annotations)
    true = given - planted["spurious"] - planted["duplicate"] + planted["overlooked"]
    for kind in ISSUE_TYPES:
        assert planted[kind] == pytest.approx(RATE * true, abs=2), kind
    assert 0.02 * true < len(answers["hard"]) < 0.15 * true


def test_the_base_model_never_saw_a_digit(yolo: Dataset, tmp_path: Path) -> None:
    assert LETTERS.stat().st_size < 6_000_000
    own = os.environ | {"YOLO_CONFIG_DIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path), "YOLO_OFFLINE": "true"}
    done = subprocess.run([sys.executable, "-c", READ_NAMES, LETTERS], check=True, capture_output=True, text=True, env=own)
    names = set(json.loads(done.stdout.partition("names:")[2]).values())
    assert len(names) > 10
    digits = set(yolo.categories) | set("0123456789")
    assert not {name.lower() for name in names} & digits
    assert not names & set("OIlSZz")  # letters that pass for a digit
