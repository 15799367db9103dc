"""Versions of the labels against each other: figures by hand, against quality.py, and what a person reads of them."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from simulated import as_dataset, detect, make_truth

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect.quality import find_partners, match_detections, measure_quality
from detclean.measure.comparison import (
    FIGURES,
    NO_DIFFERENCE,
    THRESHOLD,
    Version,
    compare_versions,
    rank_strategies,
    say_verdict,
    weighted_precision,
)
from detclean.show.comparison_table import draw_comparison, draw_confusions, print_comparison, write_comparison_markdown

IMAGES = 24


def make_boxes(*rows: tuple[int, int, float, float]) -> Boxes:
    """(image, category, left side, confidence), boxes of 10 x 10."""
    image, category, left, score = (np.array(column) for column in zip(*rows, strict=True))
    xyxy = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1).astype(float)
    return Boxes.sorted(image_index=image, category=category, xyxy=xyxy, score=score.astype(float))


def make_test(*rows: tuple[int, int, float], images: int = 2, categories: int = 2) -> Dataset:
    boxes = replace(make_boxes(*((*row, 1.0) for row in rows)), score=None)
    return as_dataset(boxes, np.full((images, 2), 100.0), categories)


def by_hand() -> tuple[Dataset, list[Version]]:
    """Two images, three objects. The labels as given find two of them, one as the wrong category, and one thing that is not there."""
    test = make_test((0, 0, 0), (0, 1, 50), (1, 0, 0))
    poor = make_boxes((0, 0, 0, 0.9), (0, 0, 50, 0.8), (1, 0, 60, 0.7), (0, 1, 80, 0.1))
    good = make_boxes((0, 0, 0, 0.9), (0, 1, 50, 0.95), (1, 0, 0, 0.92))
    part = make_boxes((0, 0, 0, 0.9), (0, 1, 50, 0.95), (0, 1, 80, 0.92))
    versions = [
        Version("as given", [poor], 10, 30),
        Version("fix", [good], 10, 28),
        Version("random of fix", [part], 10, 28, control_of=("fix",)),
    ]
    return test, versions


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """A good and a bad strategy with their controls, three seeds: many of the same objects are found by all."""
    truth, sizes = make_truth(IMAGES)
    share = {"as given": 0.8, "fix": 0.95, "random of fix": 0.78, "drop_boxes": 0.8, "random of drop_boxes": 0.5}
    versions = []
    for name, seen in share.items():
        found = [detect(truth, sizes, seed=seed, seen=seen) for seed in range(3)]
        versions.append(Version(name, found, 100, 700, (name.removeprefix("random of "),) if name.startswith("random") else ()))
    return compare_versions(as_dataset(truth, sizes), versions, resamples=100)


def test_figures_by_hand() -> None:
    test, versions = by_hand()
    document = compare_versions(test, versions, resamples=50)
    poor, good, part = (document["versions"][version.name]["figures"] for version in versions)
    assert document["thresholds"] == [0.9]  # one hit of one: F1 2 * 1 / (1 + 3); further down it is 2 / 5 and less
    assert (poor["precision"]["mean"], poor["recall"]["mean"], poor["f1"]["mean"]) == (1, pytest.approx(1 / 3), pytest.approx(0.5))
    # category 0: the first of two annotations is found at once, 51 of 101 recall levels; category 1 is not found
    assert poor["map50"]["mean"] == pytest.approx((51 / 101 + 0) / 2)
    assert [good[name]["mean"] for name in good] == pytest.approx([1] * len(FIGURES))
    assert (part["precision"]["mean"], part["recall"]["mean"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert document["versions"]["as given"]["per_category"]["kind0"]["mean"] == pytest.approx(51 / 101)


def test_differences_are_to_the_first_and_to_the_control_in_points() -> None:
    test, versions = by_hand()
    rows = compare_versions(test, versions, resamples=50)["versions"]
    assert rows["as given"]["over_given"] is None
    assert rows["as given"]["over_control"] is None
    assert rows["random of fix"]["over_control"] is None
    assert rows["fix"]["over_given"]["map50"]["mean"] == pytest.approx(100 * (1 - 51 / 202))
    assert rows["fix"]["over_control"]["map50"]["mean"] == pytest.approx(100 * (1 - (51 / 101 + 1) / 2))
    assert rows["fix"]["over_control"]["recall"]["by_seed"] == [pytest.approx(100 / 3)]


def test_confusions_by_hand() -> None:
    test, versions = by_hand()
    poor = make_boxes((0, 0, 0, 0.9), (0, 0, 50, 0.9), (1, 0, 60, 0.9))  # one threshold for all three
    rows = compare_versions(test, [replace(versions[0], detections=[poor, poor])], resamples=2)["versions"]
    # annotated 0: one found, one missed; annotated 1: taken for 0; one thing that is not there. Two seeds.
    assert rows["as given"]["confusion"] == [[2, 0, 2], [2, 0, 0], [2, 0, 0]]


def test_the_most_confident_takes_the_annotation_whatever_its_category() -> None:
    test = make_test((0, 0, 0), images=1)
    found = make_boxes((0, 0, 0, 0.5), (0, 1, 2, 0.9))
    assert find_partners(test, found).tolist() == [-1, 0]


def test_what_takes_a_crowd_is_neither_right_nor_wrong() -> None:
    test = make_test((0, 0, 0), (0, 0, 50), images=1, categories=1)
    test = replace(test, annotations=replace(test.annotations, is_crowd=np.array([False, True])))
    found = make_boxes((0, 0, 0, 0.7), (0, 0, 50, 0.9), (0, 0, 51, 0.8))  # the threshold lies below all three
    document = compare_versions(test, [Version("as given", [found], 1, 1)], resamples=5)
    row = document["versions"]["as given"]
    assert document["annotations"] == 1
    assert row["confusion"] == [[1, 0], [0, 0]]
    assert [row["figures"][name]["mean"] for name in ("precision", "recall", "map50")] == pytest.approx([1, 1, 1])


def weigh(dataset: Dataset, found: Boxes, draws: np.ndarray) -> np.ndarray:
    own = dataset.annotations
    kept = np.ones(len(own), bool) if own.is_crowd is None else ~own.is_crowd
    return weighted_precision(match_detections(dataset, found), own.image_index[kept], own.category[kept], len(dataset.categories), draws)


def repeat_images(boxes: Boxes, often: np.ndarray) -> Boxes:
    """The boxes of every image as many times as it counts; the copies stand next to each other."""
    starts = np.cumsum(often) - often
    rows = [(row, starts[boxes.image_index[row]] + copy) for row in range(len(boxes)) for copy in range(often[boxes.image_index[row]])]
    chosen, image = np.array(rows, int).reshape(-1, 2).T
    return Boxes.sorted(**{name: column[chosen] for name, column in boxes.columns().items()} | {"image_index": image})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1), st.booleans())
def test_an_image_drawn_twice_is_two_images(seed: int, seen: float, crowded: bool) -> None:
    """The weighted figures are those that quality.py has for a data set in which the images really stand several times."""
    rng = np.random.default_rng(seed)
    truth, sizes = make_truth(6, 5, 3, seed)
    found = replace(detect(truth, sizes, 3, seed, seen), class_scores=None, fold=None, repeat=None)
    truth = replace(truth, is_crowd=rng.random(len(truth)) < 0.3 * crowded)
    often = np.stack([np.ones(6, int), rng.multinomial(6, np.full(6, 1 / 6)), rng.integers(0, 4, 6)], axis=1)
    ours = weigh(as_dataset(truth, sizes, 3), found, often.astype(float))
    for draw, counts in enumerate(often.T):
        many, total = repeat_images(found, counts), int(counts.sum())
        if not total:
            assert np.isnan(ours[..., draw]).all()
            continue
        dataset = as_dataset(repeat_images(truth, counts), np.tile(sizes[:1], (total, 1)), 3)
        theirs = measure_quality(dataset, many, np.zeros((1, total), int))
        fold = theirs["folds"][0]
        if fold["map50"] is None:
            assert np.isnan(ours[..., draw]).all()
            continue
        assert np.nanmean(ours[0, :, draw]) == pytest.approx(fold["map50"], abs=1e-9)
        assert np.nanmean(ours[..., draw]) == pytest.approx(fold["map"], abs=1e-9)
        known = [np.nan if value is None else value for value in theirs["per_category"].values()]
        np.testing.assert_allclose(ours[0, :, draw], known, rtol=0, atol=1e-9)


def test_the_document_has_the_figures_of_quality() -> None:
    truth, sizes = make_truth(IMAGES)
    dataset = as_dataset(truth, sizes)
    seeds = [detect(truth, sizes, seed=seed) for seed in range(2)]
    figures = compare_versions(dataset, [Version("as given", seeds, 1, 1)], resamples=3)["versions"]["as given"]["figures"]
    for seed, found in enumerate(seeds):
        fold = measure_quality(dataset, replace(found, repeat=None), np.zeros((1, IMAGES), int))["folds"][0]
        assert figures["map50"]["by_seed"][seed] == pytest.approx(fold["map50"], abs=1e-9)
        assert figures["map"]["by_seed"][seed] == pytest.approx(fold["map"], abs=1e-9)
    assert figures["map50"]["mean"] == pytest.approx(np.mean(figures["map50"]["by_seed"]))
    assert figures["map50"]["sd"] == pytest.approx(np.std(figures["map50"]["by_seed"], ddof=1))


def test_a_difference_of_alike_versions_is_surer_than_either() -> None:
    truth, sizes = make_truth(60)
    hard = np.random.default_rng(0).random(60) < 0.4
    found = detect(truth, sizes)
    given = found[~hard[found.image_index]]  # both fail on the same pictures
    better = replace(given, score=np.where(given.score < np.quantile(given.score, 0.1), given.score * 0.5, given.score))
    versions = [Version("as given", [given], 1, 1), Version("fix", [better], 1, 1)]
    rows = compare_versions(as_dataset(truth, sizes), versions, resamples=200)["versions"]
    alone = [100 * (row["figures"]["map50"]["high"] - row["figures"]["map50"]["low"]) for row in rows.values()]
    gap = rows["fix"]["over_given"]["map50"]
    assert gap["high"] - gap["low"] < 0.5 * np.hypot(*alone)  # what two unpaired intervals would give
    assert gap["low"] <= gap["mean"] <= gap["high"]


def test_the_same_seed_gives_the_same_document(simulated: dict[str, Any]) -> None:
    truth, sizes = make_truth(12)
    versions = [Version("as given", [detect(truth, sizes)], 1, 1)]
    first, second, other = (compare_versions(as_dataset(truth, sizes), versions, resamples=20, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first["versions"]["as given"]["figures"]["map50"]["low"] != other["versions"]["as given"]["figures"]["map50"]["low"]
    assert orjson.loads(orjson.dumps(simulated)) == simulated  # nothing that JSON does not know


@pytest.mark.parametrize("nothing", [Boxes.empty(), replace(Boxes.empty(), score=np.zeros(0))])
def test_no_detections_at_all(nothing: Boxes, tmp_path: Path) -> None:
    test, versions = by_hand()
    document = compare_versions(test, [replace(versions[0], detections=[nothing]), *versions[1:]], resamples=20)
    row = document["versions"]["as given"]
    assert document["thresholds"] == [THRESHOLD]
    assert (row["figures"]["map50"]["mean"], row["figures"]["recall"]["mean"], row["figures"]["f1"]["mean"]) == (0, 0, 0)
    assert row["figures"]["precision"]["mean"] is None  # of nothing there is no share
    assert row["confusion"] == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert document["versions"]["fix"]["over_given"]["map50"]["mean"] == pytest.approx(100)
    assert document["versions"]["fix"]["over_given"]["precision"]["mean"] is None
    assert "| as given | 0.000 | - | 0.000 | 0.000 |" in write_comparison_markdown(document)
    draw_comparison(document, tmp_path / "compare.png")


def test_a_category_without_annotations_takes_no_part() -> None:
    test = make_test((0, 0, 0), (1, 0, 0), categories=2)
    found = make_boxes((0, 0, 0, 0.9), (1, 0, 0, 0.9), (1, 1, 50, 0.95))
    row = compare_versions(test, [Version("as given", [found], 1, 1)], resamples=10)["versions"]["as given"]
    assert row["per_category"]["kind1"] == {"mean": None, "sd": None, "low": None, "high": None, "by_seed": [None]}
    assert row["figures"]["map50"]["mean"] == pytest.approx(1)
    assert row["figures"]["precision"]["mean"] == pytest.approx(2 / 3)  # but what it finds is wrong all the same


def test_no_annotations_at_all(tmp_path: Path) -> None:
    test = as_dataset(Boxes.empty(), np.full((3, 2), 100.0), 2)
    versions = [replace(version, detections=[version.detections[0]]) for version in by_hand()[1]]
    document = compare_versions(test, versions, resamples=10)
    assert document["versions"]["fix"]["figures"]["map50"]["mean"] is None
    assert "no annotations" in say_verdict(document)
    draw_comparison(document, tmp_path / "compare.png")
    print_comparison(document, tmp_path, Console(width=100, file=io.StringIO()))


def test_versions_that_cannot_be_compared_are_refused() -> None:
    test, versions = by_hand()
    with pytest.raises(ValueError, match="as many seeds"):
        compare_versions(test, [versions[0], replace(versions[1], detections=[])])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_versions(test, [])
    with pytest.raises(ValueError, match="a name of its own"):
        compare_versions(test, [versions[0], versions[1], versions[1]])
    with pytest.raises(ValueError, match="a strategy one control"):
        compare_versions(test, [versions[0], replace(versions[2], control_of=("elsewhere",))])
    with pytest.raises(ValueError, match="without score"):
        compare_versions(test, [replace(versions[0], detections=[test.annotations])])
    with pytest.raises(ValueError, match="image 1 "):
        compare_versions(test.select_images(np.array([True, False])), versions)


def write_document(gaps: dict[str, tuple[tuple[float, float, float], tuple[float, float, float] | None]], seeds: int = 3) -> dict[str, Any]:
    """Just what the verdict reads."""

    def as_gap(value: tuple[float, float, float] | None) -> Any:
        return (
            None if value is None else {"map50": dict(zip(("mean", "low", "high"), value, strict=True)) | {"by_seed": [value[0]] * seeds}}
        )

    versions: dict[str, Any] = {"as given": {"control_of": [], "over_given": None, "over_control": None}}
    for name, (over_given, over_control) in gaps.items():
        figures = {"map50": {"mean": over_given[0]}}
        versions[name] = {"control_of": [], "figures": figures, "over_given": as_gap(over_given), "over_control": as_gap(over_control)}
    return {"reference": "as given", "seeds": seeds, "versions": versions}


def test_the_verdict_in_words() -> None:
    document = write_document(
        {
            "drop_hard": ((-3.04, -4.0, -2.0), None),
            "drop_boxes": ((0.31, -0.5, 1.1), (2.0, 1.0, 3.0)),
            "fix": ((4.1, 2.9, 5.2), (3.0, 1.8, 4.1)),
        }
    )
    assert say_verdict(document).splitlines() == [
        "fix: mAP50 +4.1 points [2.9, 5.2] over the labels as given, +3.0 [1.8, 4.1] over as much at random.",
        f"drop_boxes: mAP50 +0.3 points [-0.5, 1.1] over the labels as given ({NO_DIFFERENCE}), +2.0 [1.0, 3.0] over as much at random.",
        "drop_hard: mAP50 -3.0 points [-4.0, -2.0] over the labels as given (worse).",
    ]
    assert rank_strategies(document) == ["fix", "drop_boxes", "drop_hard"]


def test_one_seed_and_seeds_that_disagree_are_said() -> None:
    one = write_document({"fix": ((4.1, 2.9, 5.2), None)}, seeds=1)
    assert "One seed only" in say_verdict(one).splitlines()[-1]
    several = write_document({"fix": ((4.1, 2.9, 5.2), None)})
    several["versions"]["fix"]["over_given"]["map50"]["by_seed"] = [-1.0, 9.0, None]
    assert say_verdict(several).endswith("; single seeds say -1.0 to +9.0.")
    assert "No strategy" in say_verdict(write_document({}))


def test_one_seed_has_no_spread() -> None:
    document = compare_versions(*by_hand(), resamples=20)
    assert document["seeds"] == 1
    assert document["versions"]["fix"]["figures"]["map50"]["sd"] is None
    assert "One seed only" in say_verdict(document)


def test_the_better_version_wins(simulated: dict[str, Any]) -> None:
    assert rank_strategies(simulated) == ["fix", "drop_boxes"]
    gap = simulated["versions"]["fix"]["over_control"]["map50"]
    assert 0 < gap["low"] < gap["mean"] < gap["high"]


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_shows_the_figures_whole(simulated: dict[str, Any], tmp_path: Path, width: int) -> None:
    (tmp_path / "compare.json").touch()
    console = Console(width=width, record=True, file=io.StringIO())
    print_comparison(simulated, tmp_path, console)
    text = console.export_text()
    assert "…" not in text
    table = text[: text.index("\nVerdict")]
    assert max(map(len, table.splitlines())) <= width
    assert (" 700 " in table) == (width == 100)  # annotations trained on: compare.md has them
    own = simulated["versions"]["fix"]
    line = next(line for line in text.splitlines() if line.startswith("fix"))
    assert f"{own['figures']['map50']['mean']:.3f} [" in line
    control = own["over_control"]["map50"]
    assert line.rstrip().endswith(f"{control['mean']:+.1f} [{control['low']:.1f}, {control['high']:.1f}]")
    assert say_verdict(simulated).splitlines()[0] in text
    assert "compare.json" in text
    assert "confusion.png" not in text  # nobody drew it


def test_names_from_the_data_are_never_markup(tmp_path: Path) -> None:
    test, versions = by_hand()
    hostile = ("a|b\n<script>$x^", "![p](http://e.org) \x1b[31m")
    document = compare_versions(replace(test, categories=hostile), versions, resamples=5)
    text = write_comparison_markdown(document)
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert any("a\\|b &lt;script&gt;" in line for line in rows)
    assert "<script>" not in text
    assert not re.search(r"(?<!\\)!\[|(?<!\\)\]\(", text)
    assert "http://" not in text
    assert "\x1b" not in text
    renamed = {f"$x^{name}": row for name, row in document["versions"].items()}
    draw_comparison(document | {"versions": renamed, "reference": "$x^as given"}, tmp_path / "compare.png")
    draw_confusions(document | {"versions": renamed}, tmp_path / "confusion.png")


def test_many_categories_leave_the_confusions_to_the_json(simulated: dict[str, Any], tmp_path: Path) -> None:
    assert write_comparison_markdown(simulated).count("| background |") == 2 * len(simulated["versions"])
    truth, sizes = make_truth(4, categories=13)
    found = detect(truth, sizes, 13)
    document = compare_versions(as_dataset(truth, sizes, 13), [Version("as given", [found], 1, 1)], resamples=2)
    assert "13 categories are in compare.json" in write_comparison_markdown(document)
    draw_confusions(document, tmp_path / "confusion.png")


def test_the_picture_is_a_picture(simulated: dict[str, Any], tmp_path: Path) -> None:
    draw_comparison(simulated, tmp_path / "compare.png")
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("L").resize((60, 40)).tobytes())) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["compare.png"]


def test_the_confusions_stand_side_by_side(simulated: dict[str, Any], tmp_path: Path) -> None:
    draw_confusions(simulated, tmp_path / "three.png")  # the controls are left out
    versions = simulated["versions"]
    draw_confusions(simulated | {"versions": {"as given": versions["as given"]}}, tmp_path / "one.png")
    with Image.open(tmp_path / "three.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.width == pytest.approx(3 * one.width, abs=3)
        assert three.height == one.height
