"""Wrong labels among those of the test: found by models that never saw them, told, and left out of a second judgement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from simulated import as_dataset, detect, make_case, make_truth
from trained import expect

from detclean.boxes import Boxes, write_boxes
from detclean.dataset import Dataset, write_dataset
from detclean.edit.versions import join_with_test
from detclean.measure.comparison import Version, compare_versions, say_verdict
from detclean.pipeline.doubts import find_doubts, judge_trusted
from detclean.score.issues import COLUMNS
from detclean.score.scores import Scores, draw_dataset_looks, score_dataset
from detclean.score.sources import Gathered
from detclean.show.comparison_table import write_comparison_markdown
from detclean.show.progress import open_display
from detclean.stages import StageContext

TRAINED, IMAGES = 3, 60
SETTINGS = {"dense": False, "dynamics": False, "crops": False, "planting_rounds": 20, "seed": 0, "engine": "fast"}
TYPES = ["overlooked", "badloc", "swap", "spurious", "duplicate"]


def with_split(dataset: Dataset, split: str) -> Dataset:
    return replace(dataset, images=dataset.images.with_columns(split=pl.lit(split)))


def doubt(folder: Path, test: Dataset, found: Boxes) -> Path:
    """What the stage writes about a test whose images were seen as `found` says."""
    train = with_split(as_dataset(*make_truth(TRAINED)), "train")
    whole, _ = join_with_test(train, test)
    for name in ("all", "labels", "detect", "out"):
        (folder / name).mkdir()
    write_dataset(whole, folder / "all")
    write_dataset(whole, folder / "labels")
    write_boxes(replace(found, image_index=found.image_index + TRAINED), folder / "detect" / "detections.parquet")
    settings = SETTINGS | {"load": str(folder), "split": "val", "types": TYPES}
    with open_display() as display:
        inputs = {"labels": folder / "labels", "detect": folder / "detect"}
        find_doubts(StageContext(inputs, folder / "out", settings, display), [("labels", "detect")])
    return folder / "out"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Any, Boxes]:
    dataset, found, planted, truth = make_case(IMAGES, rate=0.03, seed=4)
    test = with_split(dataset, "val")
    return doubt(tmp_path_factory.mktemp("doubts"), test, found), test, planted, truth


@pytest.mark.trained
def test_planted_errors_of_the_test_are_found(case: tuple[Path, Dataset, Any, Boxes]) -> None:
    out, _, planted, _ = case
    issues = pl.read_csv(out / "issues.csv")
    assert tuple(issues.columns) == COLUMNS
    assert set(issues["verdict"]) == {"noisy"}
    facts = orjson.loads((out / "facts.json").read_bytes())
    assert facts["noisy"] == issues.height
    assert facts["calibrated"]
    wrong = set(planted.annotations.image_index[planted.kind != ""].tolist())
    flagged = set(issues.filter(pl.col("issue_type") != "overlooked")["image_id"].to_list())
    expect("share of flagged images that are wrong", len(flagged & wrong) / len(flagged), least=0.6)  # ten seeds: 0.67 to 0.85
    expect("share of wrong images that are flagged", len(flagged & wrong) / len(wrong), least=0.6)  # ten seeds: 0.87 to 1
    assert facts["images"] == sorted(set(issues["image_id"].to_list()))  # images are numbered by their place here


def test_the_second_judgement_is_that_of_the_other_images(case: tuple[Path, Dataset, Any, Boxes]) -> None:
    out, test, _, truth = case
    poor, good = (detect(truth, test.sizes, seed=5, seen=seen) for seen in (0.7, 0.95))
    versions = [Version("as given", [poor], 10, 70), Version("fix", [good], 10, 70)]
    told = judge_trusted(test, versions, out)
    gone = orjson.loads((out / "facts.json").read_bytes())["images"]
    assert told["test_labels"]["images_distrusted"] == len(gone) == IMAGES - told["trusted"]["images"] > 0
    kept = ~np.isin(np.arange(IMAGES), gone)
    # the same by hand: a test set of the other images alone
    number = np.cumsum(kept) - 1
    by_hand = []
    for version in versions:
        own = version.detections[0][kept[version.detections[0].image_index]]
        by_hand.append(replace(version, detections=[replace(own, image_index=number[own.image_index])]))
    assert told["trusted"] == compare_versions(test.select_images(kept), by_hand)

    document = compare_versions(test, versions, resamples=50) | told
    line = next(line for line in say_verdict(document).splitlines() if "suspected" in line)
    assert line.startswith(f"{told['test_labels']['noisy']} errors are suspected in the {document['annotations']} test labels (")
    assert f"on the {IMAGES - len(gone)} images without them: fix +" in line
    assert "## On test images whose labels are trusted" in write_comparison_markdown(document)


def say(noisy: int, *, calibrated: bool = True, trusted: Any = None, map50: float = 0.7) -> str:
    doubts = {"noisy": noisy, "expected_errors": 3.4, "expected_low": 1.0, "expected_high": 9.0, "calibrated": calibrated}
    doubts["images_distrusted"] = noisy
    gap = {"map50": {"mean": 1.0, "low": 0.5, "high": 1.5, "by_seed": [1.0]}}
    row: dict[str, Any] = {"control_of": [], "figures": {"map50": {"mean": map50}}, "over_given": gap, "over_control": None}
    document = {"annotations": 50, "seeds": 2, "reference": "as given", "versions": {"as given": row, "fix": row}}
    again = document | {"images": 7} if trusted else None
    return say_verdict(document | {"test_labels": doubts, "trusted": again}).splitlines()[-1]


def test_the_verdict_on_the_test_in_words() -> None:
    assert say(0) == "None of the 50 test labels looks more wrong than right (3 expected, 95 %: 1 to 9)."
    assert say(1, trusted=True) == (
        "1 error is suspected in the 50 test labels (3 expected, 95 %: 1 to 9), no more than where all labels are right; "
        "on the 7 images without it: fix +1.0 [0.5, 1.5]."
    )
    assert "1 to 9), checked by nobody; on the 7 images without them" in say(3, trusted=True)
    assert "by weak models (mAP50 0.48), which err themselves; on" in say(3, trusted=True, map50=0.48)
    assert "by simple rules" in say(2, calibrated=False, trusted=True)
    assert "in every test image" in say(4)


def test_all_versions_are_heard_alike_whatever_they_were_trained_on(tmp_path: Path) -> None:
    """Two versions with other numbers of training images: in whatever order they are asked, the answer is about the same labels."""
    dataset, found, _, truth = make_case(30, rate=0.03, seed=4)
    test, other = with_split(dataset, "val"), detect(truth, dataset.sizes, seed=9)
    repeats = [replace(found, repeat=np.full(len(found), 0)), replace(found, repeat=np.full(len(found), 1))]  # the second seed is not heard
    both = Boxes.sorted(**{name: np.concatenate([each.columns()[name] for each in repeats]) for name in repeats[0].columns()})
    inputs: dict[str, Path] = {}
    for name, trained, boxes in (("a", 3, both), ("b", 5, other)):
        joined, _ = join_with_test(with_split(as_dataset(*make_truth(trained)), "train"), test)
        for folder in (f"labels-{name}", f"detect-{name}", "all"):
            (tmp_path / folder).mkdir(exist_ok=True)
        write_dataset(joined, tmp_path / f"labels-{name}")
        write_dataset(joined, tmp_path / "all")
        write_boxes(replace(boxes, image_index=boxes.image_index + trained), tmp_path / f"detect-{name}" / "detections.parquet")
        rng = np.random.default_rng(trained)
        at = pl.DataFrame({"raw_own": np.asarray(boxes.score), "raw_other_category": np.zeros(len(boxes), int)})
        at.write_parquet(tmp_path / f"detect-{name}" / "at_detections.parquet")
        asked = np.tile(np.arange(len(draw_dataset_looks(test, 0))), 2)
        looks = {"row": asked, "repeat": np.repeat([0, 1], len(asked) // 2), "fold": 0, "held_out": True, "own": rng.random(len(asked))}
        pl.DataFrame(looks).write_parquet(tmp_path / f"detect-{name}" / "looks.parquet")
        inputs |= {f"labels-{name}": tmp_path / f"labels-{name}", f"detect-{name}": tmp_path / f"detect-{name}"}
    settings = SETTINGS | {"load": str(tmp_path), "split": "val", "types": TYPES, "dense": True, "planting_rounds": 5}
    given: list[Gathered] = []
    seen: list[Boxes] = []

    def remember(*_: Any, gathered: Gathered, **__: Any) -> Scores:
        given.append(gathered)
        seen.append(_[1])
        return score_dataset(*_, gathered=gathered, **__)

    with open_display() as display, pytest.MonkeyPatch.context() as patch:
        patch.setattr("detclean.pipeline.doubts.score_dataset", remember)
        (tmp_path / "out").mkdir()
        find_doubts(StageContext(inputs, tmp_path / "out", settings, display), [("labels-a", "detect-a"), ("labels-b", "detect-b")])
    assert len(seen[0]) == len(found) + len(other)
    assert np.asarray(seen[0].repeat).tolist() == given_repeat(found, other).tolist()
    assert given[0].detections[0]["raw_own"].to_list() == np.asarray(seen[0].score).tolist()  # each row beside its detection
    assert given[0].looks[0].height == len(draw_dataset_looks(test, 0))


def given_repeat(first: Boxes, second: Boxes) -> np.ndarray:
    """The number of the model of each detection, sorted by image."""
    image = np.concatenate([first.image_index, second.image_index])
    return np.repeat([0, 1], [len(first), len(second)])[np.argsort(image, kind="stable")]


def test_a_test_too_small_to_learn_from_is_judged_by_rules(tmp_path: Path) -> None:
    truth, sizes = make_truth(3, 3)
    out = doubt(tmp_path, with_split(as_dataset(truth, sizes), "val"), detect(truth, sizes))
    assert orjson.loads((out / "facts.json").read_bytes())["calibrated"] is False


def test_a_test_without_annotations_has_nothing_to_doubt(tmp_path: Path) -> None:
    truth, sizes = make_truth(4, 3)
    empty = with_split(as_dataset(truth[:0], sizes), "val")
    out = doubt(tmp_path, empty, replace(Boxes.empty(), score=np.zeros(0)))
    told = judge_trusted(empty, [Version("as given", [replace(Boxes.empty(), score=np.zeros(0))], 1, 1)], out)
    assert told == {"test_labels": told["test_labels"], "trusted": None}
    assert told["test_labels"]["noisy"] == 0
