"""The report's figures and words, held against small tables whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench_report import draw_issues, make_dataset, make_run

from detclean.edit.decisions import Decision
from detclean.health.categories import list_confusions, rank_categories
from detclean.health.groups import GROUPS_SHOWN, LEAST_IMAGES, compare_groups, name_groups
from detclean.report import facts, words
from detclean.report.plots import plot_groups
from detclean.runfolder import Run
from detclean.score.calibration import ANNOTATION_TYPES
from detclean.score.recalibration import MIN_DECISIONS

TYPES = [f"p_{kind}" for kind in ANNOTATION_TYPES]


def annotations(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """Rows: image_id, category, p_badloc, p_swap, p_spurious, p_duplicate, other_category."""
    table = pl.DataFrame(list(rows), schema=["image_id", "category", *TYPES, "other_category"], orient="row")
    return table.with_columns(p_any=pl.sum_horizontal(TYPES), hardness=pl.lit(0.5))


def candidates(*rows: tuple[int, str, float]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"image_id": pl.Int64, "category": pl.String, "probability": pl.Float64}, orient="row")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    dataset = make_dataset(tmp_path, [None] * 20, categories=3)
    return make_run(tmp_path / "run", dataset, draw_issues(dataset, 30))


def test_the_glance_adds_probabilities_up(run: Run) -> None:
    given = annotations((0, "kind 0", 0.1, 0.2, 0.0, 0.0, "kind 1"), (1, "kind 1", 0.0, 0.0, 0.5, 0.2, None))
    issues = run.issues.head(2).with_columns(probability=pl.Series([0.8, 0.4]), verdict=pl.Series(["noisy", "hard"]))
    issues = issues.with_columns(issue_type=pl.lit("spurious"))
    seen = facts.glance(replace(run, issues=issues), given, candidates((0, "kind 0", 1.0)))
    assert (seen.issues, seen.wrong, seen.precision) == (2, pytest.approx(1.2), pytest.approx(0.6))
    assert (seen.wrong_given, seen.overlooked) == (pytest.approx(1.0), 1.0)
    assert (seen.coverage, seen.health) == (pytest.approx(0.6), pytest.approx(0.5))
    assert [(row.kind, row.issues, row.noisy) for row in seen.types] == [("spurious", 2, 1)]


def test_the_glance_has_no_share_of_nothing(run: Run) -> None:
    empty = replace(run, issues=run.issues.head(0))
    seen = facts.glance(empty, annotations((0, "kind 0", 0.0, 0.0, 0.0, 0.0, None)).head(0), candidates())
    assert (seen.precision, seen.coverage, seen.health, seen.types) == (None, None, None, ())


def test_the_worst_category_comes_first_and_one_without_annotations_last(run: Run) -> None:
    given = annotations(
        (0, "kind 0", 0.0, 0.1, 0.0, 0.0, "kind 1"),
        (0, "kind 0", 0.0, 0.1, 0.0, 0.0, "kind 1"),
        (0, "kind 0", 0.0, 0.15, 0.0, 0.0, "kind 2"),
        (1, "kind 1", 0.3, 0.0, 0.0, 0.1, None),
    )
    run = replace(run, summary=run.summary | {"per_category": {"kind 0": 0.75, "kind 1": None}})
    rows = rank_categories(run, given, candidates((0, "kind 1", 0.5), (0, "kind 2", 0.25)))
    assert [(row.name, row.annotations, row.ap) for row in rows] == [("kind 1", 1, None), ("kind 0", 3, 0.75), ("kind 2", 0, None)]
    assert [row.wrong for row in rows] == [pytest.approx(0.9), pytest.approx(0.35 / 3), None]
    assert rows[0].by_type == pytest.approx({"overlooked": 0.5, "badloc": 0.3, "swap": 0, "spurious": 0, "duplicate": 0.1})
    assert rows[0].confused is None
    assert rows[1].confused == ("kind 1", pytest.approx(0.2))
    assert [(pair.given, pair.likely, pair.share) for pair in list_confusions(given)] == [
        ("kind 0", "kind 1", pytest.approx(0.2 / 3)),
        ("kind 0", "kind 2", pytest.approx(0.05)),
    ]


def test_decisions_become_a_curve_and_counts(run: Run) -> None:
    ids = run.issues["issue_id"].to_list()
    said = zip(ids, ("accept", "reject", "skip", "accept"), strict=False)
    decisions = {issue: Decision(issue, verdict, 0) for issue, verdict in said} | {"box-1": Decision("box-1", "accept", 0)}
    assert facts.count_decisions(run.issues, decisions) == facts.Decided({"accept": 2, "reject": 1, "hard": 0, "skip": 1}, None)
    ranks, share = facts.realised_by_decisions(run.issues, decisions) or pytest.fail("no curve")
    assert (ranks.tolist(), share.tolist()) == ([1, 2, 4], pytest.approx([1, 1 / 2, 2 / 3]))
    assert facts.count_decisions(run.issues, {}) is None
    assert facts.realised_by_decisions(run.issues, {}) is None


def test_what_came_true_is_held_against_what_was_promised_of_the_same(run: Run) -> None:
    """Of the 20 worst 18 were wrong: promised of these, not of the whole list."""
    ids = run.issues["issue_id"].to_list()
    probability = pl.Series([0.95] * MIN_DECISIONS + [0.3] * (run.issues.height - MIN_DECISIONS))
    issues = run.issues.with_columns(probability=probability)
    verdicts = ["reject", "hard"] + ["accept"] * (MIN_DECISIONS - 2)
    decisions = {name: Decision(name, verdict, 0) for name, verdict in zip(ids, verdicts, strict=False)}
    decided = facts.count_decisions(issues, decisions | {ids[-1]: Decision(ids[-1], "skip", 0)})
    assert decided is not None
    assert decided.precision is not None
    assert (decided.precision.decided, decided.precision.promised) == (MIN_DECISIONS, pytest.approx(0.95))
    assert decided.precision.realised == pytest.approx(0.9)
    assert decided.precision.low < 0.9 < decided.precision.high
    few = dict(list(decisions.items())[1:])
    assert (facts.count_decisions(issues, few) or pytest.fail("nothing decided")).precision is None


def test_findings_are_counted_by_kind_errors_first(run: Run) -> None:
    rows = [("a", "note", "1", "x")] * 5 + [("b", "error", "2", "y")] + [("c", "error", str(i), "z") for i in range(4)]
    pl.DataFrame(rows, schema=["kind", "severity", "where", "message"], orient="row").write_csv(run.folder / "findings.csv")
    found = facts.list_findings(run)
    assert [(kind.kind, kind.count, len(kind.first)) for kind in found] == [("c", 4, 3), ("b", 1, 1), ("a", 5, 3)]
    assert found[0].first[0] == ("0", "z")
    (run.folder / "findings.csv").unlink()
    assert facts.list_findings(run) == []


@pytest.mark.parametrize(
    ("names", "by", "groups"),
    [
        (["a/1.jpg", "b/2.jpg", "3.jpg"], "folder", ["a", "b", ""]),
        (["x/cam_1.jpg", "x/cam_2.jpg", "x/drone-7.png"], "prefix", ["cam", "cam", "drone"]),
        (["0001.jpg", "0002.jpg"], "prefix", ["", ""]),
        (["front.v2.jpg", "rear.jpg"], "prefix", ["front.v", "rear"]),
        (["a\\1.jpg", "b\\1.jpg"], "folder", ["a", "b"]),
    ],
)
def test_images_are_grouped_by_folder_or_by_how_their_names_begin(names: list[str], by: str, groups: list[str]) -> None:
    found, group = name_groups(pl.Series(names))
    assert (found, group.to_list()) == (by, groups)


def batches(rates: list[float], images: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Images in folders, ten annotations each, of which errors come several to an image: the share `rates` says."""
    rng = np.random.default_rng(seed)
    n = images * len(rates)
    folder = np.repeat(np.arange(len(rates)), images)
    table = pl.DataFrame({"image_id": np.arange(n), "file_name": [f"batch{f}/{i}.jpg" for i, f in enumerate(folder)]})
    bad = rng.random(n) < np.array(rates)[folder]  # all of an image or nothing
    rows = [(i, "x", 0.9 if bad[i] and k < 5 else 0.0, 0.0, 0.0, 0.0, None) for i in range(n) for k in range(10)]
    return table, annotations(*rows)


def test_a_bad_batch_stands_out() -> None:
    images, given = batches([0.05, 0.05, 0.5, 0.05], 40)
    grouping = compare_groups(images, given, candidates((0, "x", 0.4)))
    assert [group.name for group in grouping.groups if group.stands_out] == ["batch2"]
    assert grouping.groups[0].name == "batch2"
    whole = sum(group.rate * group.annotations for group in grouping.groups) / given.height
    assert whole == pytest.approx(grouping.overall) == pytest.approx(100 * (given["p_any"].sum() + 0.4) / given.height)


def test_a_large_bad_batch_is_not_cut_off_behind_small_unlucky_ones() -> None:
    """One wrong image makes the rate of a small folder higher than that of the large one that is really bad."""
    sizes = {f"small{i:02}": LEAST_IMAGES + 1 for i in range(GROUPS_SHOWN + 1)} | {"clean": 1200, "bad": 600}
    names = [f"{name}/{i}.jpg" for name, size in sizes.items() for i in range(size)]
    images = pl.DataFrame({"image_id": np.arange(len(names)), "file_name": names})
    folder, number = images["file_name"].str.split("/").list.first(), images["file_name"].str.extract(r"/(\d+)").cast(pl.Int64)
    rate = (folder.str.starts_with("small") & (number == 0)) | ((folder == "bad") & (number % 10 < 1)) | (number % 50 == 1)
    wrong = rate.to_list()
    given = annotations(*((i, "x", 0.9 if wrong[i] else 0.0, 0.0, 0.0, 0.0, None) for i in range(len(names)) for _ in range(5)))
    grouping = compare_groups(images, given, candidates())
    bad, *others = grouping.groups
    assert (bad.name, bad.stands_out) == ("bad", True)
    assert len(grouping.groups) == GROUPS_SHOWN
    assert max(group.rate for group in others) > bad.rate
    assert not any(group.stands_out for group in others)
    assert "‘bad’ has more errors than chance explains" in plot_groups(grouping).answer


def test_batches_that_differ_by_chance_alone_do_not_stand_out() -> None:
    marked = 0
    for seed in range(20):
        images, given = batches([0.15] * 6, 12, seed)
        marked += any(group.stands_out for group in compare_groups(images, given, candidates()).groups)
    assert marked <= 3  # one in twenty is expected


def test_small_groups_are_not_compared() -> None:
    images, given = batches([0.1, 0.9], LEAST_IMAGES - 1)
    grouping = compare_groups(images, given, candidates())
    assert (grouping.groups, grouping.all) == ((), 2)


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, "–"), (math.nan, "–"), (0, "0 %"), (0.0003, "< 0.1 %"), (0.034, "3.4 %"), (0.5, "50 %"), (0.9999, "> 99.9 %"), (1, "100 %")],
)
def test_shares_in_percent(share: float | None, said: str) -> None:
    assert words.percent(share).replace(words.SPACE, " ") == said


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.9999, "almost certainly wrong, 99 %"), (0.8, "very likely wrong, 80 %"), (0.2, "probably right, but hard, 20 %")],
)
def test_probabilities_in_words(probability: float, said: str) -> None:
    assert words.say_probability(probability).replace(words.SPACE, " ") == said


def test_categories_in_words() -> None:
    row = {"issue_type": "swap", "category": "one", "suggested_category": "seven"}
    assert words.say_categories(row) == "annotated ‘one’, looks like ‘seven’"
    assert words.say_categories(row | {"suggested_category": None}) == "annotated ‘one’, looks like something else"
    assert words.say_categories(row | {"issue_type": "overlooked", "category": None}) == "looks like ‘seven’, not annotated"
    assert (
        words.say_categories(row | {"issue_type": "spurious", "category": "x" * 90})
        == f"annotated ‘{'x' * 20}…{'x' * 19}’, there seems to be none"
    )


def test_numbers_and_durations() -> None:
    assert (words.number(12345).replace(words.NARROW, " "), words.number(None), words.expected(0.04)) == ("12 345", "–", "–")
    assert (words.expected(9.94), words.expected(10.2), words.plural(1, "image"), words.plural(2, "image")) == (
        "9.9",
        "10",
        "1 image",
        "2 images",
    )
    assert [words.duration(s) for s in (0.26, 45, 200, 7500)] == ["0.3 s", "45 s", "3 min 20 s", "2 h 5 min"]
