"""Which issues are listed, in which order, with which edit and words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from simulated import as_dataset, detect, make_case, make_truth
from trained import expect

from detclean.boxes import Boxes
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.score.issues import COLUMNS, LEAST, NOISY, select_issues
from detclean.score.scores import Scores, score_dataset

SIDES = ["x1", "y1", "x2", "y2"]
CONTRACT = ["rank", "issue_type", "probability", "verdict", "action", "image_id", "file_name", "annotation_id", "category", *SIDES]
CONTRACT += ["suggested_category", *(f"suggested_{side}" for side in SIDES), "detector_score", "iou", "votes", "source", "reason"]
NONE = {"p_badloc": 0.0, "p_swap": 0.0, "p_spurious": 0.0, "p_duplicate": 0.0, "p_any": 0.0}


@pytest.fixture(scope="module")
def whole() -> tuple[Dataset, Boxes, Scores]:
    """Planted errors, judged by the calibrated models."""
    dataset, found, _, _ = make_case(40)
    return dataset, found, score_dataset(dataset, found, planting_rounds=6)


@pytest.fixture(scope="module")
def plain() -> tuple[Dataset, Scores]:
    """A small data set without errors, whose probabilities the tests write themselves."""
    truth, sizes = make_truth(8, per_image=4)
    dataset = as_dataset(truth, sizes)
    return dataset, score_dataset(dataset, detect(truth, sizes))


def doctor(scores: Scores, annotations: dict[int, dict[str, Any]], candidates: list[float] | None = None) -> Scores:
    """Nothing is suspected but what is given here: row -> columns; probabilities of the first candidates."""
    columns: dict[str, list[Any]] = {name: [0.0] * scores.annotations.height for name in NONE}
    for row, values in annotations.items():
        for name, value in values.items():
            columns.setdefault(name, scores.annotations[name].to_list())[row] = value
        columns["p_any"][row] = values.get("p_any", sum(v for name, v in values.items() if name.startswith("p_")))
    table = scores.annotations.with_columns(pl.Series(n, v, dtype=scores.annotations.schema[n]) for n, v in columns.items())
    p = [*(candidates or []), *[0.0] * scores.candidates.height][: scores.candidates.height]
    return replace(scores, annotations=table, candidates=scores.candidates.with_columns(probability=pl.Series(p, dtype=pl.Float64)))


@pytest.mark.trained
def test_columns_are_the_contract(whole: tuple[Dataset, Boxes, Scores]) -> None:
    dataset, _, scores = whole
    issues = select_issues(scores, dataset)
    assert list(COLUMNS) == CONTRACT
    assert issues.columns[: len(CONTRACT)] == CONTRACT
    assert issues.columns[len(CONTRACT) :] == ["image_index", "annotation"]
    expect("issues", issues.height, least=10)  # ten seeds: 37 to 65


def test_the_worst_come_first_and_are_numbered(whole: tuple[Dataset, Boxes, Scores]) -> None:
    issues = select_issues(whole[2], whole[0])
    assert issues["rank"].to_list() == list(range(1, issues.height + 1))
    assert (np.diff(issues["probability"].to_numpy()) <= 0).all()


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_as_many_as_keep_the_precision(whole: tuple[Dataset, Boxes, Scores], target: float) -> None:
    dataset, _, scores = whole
    probability = select_issues(scores, dataset, target_precision=target)["probability"].to_numpy()
    everything = select_issues(scores, dataset, budget=10_000)["probability"].to_numpy()
    assert probability.mean() >= target
    np.testing.assert_array_equal(everything[: len(probability)], probability)
    if len(probability) < len(everything):
        assert everything[: len(probability) + 1].mean() < target


def test_precision_decides_between_known_probabilities(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    scores = doctor(scores, {i: {"p_swap": p} for i, p in enumerate([0.9, 0.8, 0.7, 0.6, 0.04])})
    counts = {target: select_issues(scores, dataset, target_precision=target).height for target in (0.95, 0.9, 0.8, 0.75, 0.2)}
    assert counts == {0.95: 0, 0.9: 1, 0.8: 3, 0.75: 4, 0.2: 4}  # nothing below LEAST is listed, whatever the target


@pytest.mark.parametrize(("budget", "listed"), [(0, 0), (2, 2), (100, 4)])
def test_a_budget_is_the_number_of_the_worst(plain: tuple[Dataset, Scores], budget: int, listed: int) -> None:
    dataset, scores = plain
    scores = doctor(scores, {i: {"p_swap": p} for i, p in enumerate([0.2, 0.5, 0.49, 0.3, LEAST / 2])})
    issues = select_issues(scores, dataset, budget=budget)
    assert issues["annotation"].to_list() == [1, 2, 3, 0][:listed]
    assert issues["verdict"].to_list() == ["noisy", "hard", "hard", "hard"][:listed]
    assert NOISY == 0.5


def test_every_annotation_has_one_row(whole: tuple[Dataset, Boxes, Scores]) -> None:
    issues = select_issues(whole[2], whole[0], budget=10_000)
    positions = issues["annotation"].drop_nulls()
    assert positions.n_unique() == len(positions)
    overlooked = issues["issue_type"] == "overlooked"
    assert (issues["annotation_id"].is_null() == overlooked).all()
    assert (issues["source"].is_null() == overlooked).all()
    assert set(issues["issue_type"].unique()) == set(ISSUE_TYPES)


def test_the_likeliest_type_is_named(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    scores = doctor(scores, {3: {"p_swap": 0.3, "p_badloc": 0.45, "p_spurious": 0.2}})
    (row,) = select_issues(scores, dataset, budget=10).to_dicts()
    assert row["issue_type"] == "badloc"
    assert row["probability"] == pytest.approx(0.95)  # of being wrong at all


def test_only_the_types_asked_for_are_listed(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    scores = doctor(scores, {3: {"p_swap": 0.3, "p_badloc": 0.45}, 4: {"p_spurious": 0.9}}, candidates=[0.7])
    (row,) = select_issues(scores, dataset, budget=10, types=("swap", "duplicate")).to_dicts()
    assert (row["issue_type"], row["annotation"], row["probability"]) == ("swap", 3, pytest.approx(0.3))
    assert select_issues(scores, dataset, budget=10, types=("overlooked",))["issue_type"].to_list() == ["overlooked"]
    assert select_issues(scores, dataset, budget=10, types=()).height == 0
    assert select_issues(scores, dataset, budget=10, types=()).schema == select_issues(scores, dataset, budget=10).schema


def test_actions_and_suggestions(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    box = {f"proposed_{side}": value for side, value in zip(("x1", "y1", "x2", "y2"), (1.0, 2.0, 30.0, 40.0), strict=True)}
    scores = doctor(
        scores,
        {
            0: {"p_badloc": 0.95, **box},
            1: {"p_badloc": 0.9, **dict.fromkeys(box)},
            2: {"p_swap": 0.85, "other_category": "kind3", "category": "kind1", "score_other": 0.66, "score_same": 0.01},
            3: {"p_swap": 0.8, "other_category": None},
            4: {"p_spurious": 0.75, "score_any": 0.004},
            5: {"p_duplicate": 0.7, "twin_iou": 0.87},
        },
        candidates=[0.65],
    )
    issues = select_issues(scores, dataset, budget=20)
    assert issues["issue_type"].to_list() == ["badloc", "badloc", "swap", "swap", "spurious", "duplicate", "overlooked"]
    assert issues["action"].to_list() == ["move", "review", "relabel", "review", "delete", "delete", "add"]
    given = issues.select("x1", "y1", "x2", "y2").rows()
    suggested = issues.select("suggested_x1", "suggested_y1", "suggested_x2", "suggested_y2").rows()
    assert given[:6] == [tuple(dataset.annotations.xyxy[i]) for i in range(6)]
    assert given[6] == (None,) * 4
    assert suggested[0] == (1, 2, 30, 40)
    assert suggested[2] == given[2]  # a new name for the same box
    assert suggested[1] == suggested[3] == suggested[4] == suggested[5] == (None,) * 4
    assert suggested[6] == scores.candidates.select("x1", "y1", "x2", "y2").row(0)
    names = issues["suggested_category"].to_list()
    assert names == [issues["category"][0], None, "kind3", None, None, None, scores.candidates["category"][0]]
    assert issues["category"][6] is None
    assert issues["source"].to_list() == [f"annotation {100 + i}" for i in range(6)] + [None]
    assert issues["annotation_id"].to_list() == [100, 101, 102, 103, 104, 105, None]
    assert issues["detector_score"][2] == pytest.approx(0.66)
    assert issues["iou"][5] == pytest.approx(0.87)
    reasons = issues["reason"].to_list()
    assert reasons[2] == "Annotated 'kind1', but the detector sees 'kind3' here (confidence 0.66, 'kind1' 0.01)."
    assert "87 % overlap" in reasons[5]
    assert reasons[4] == "The detector sees nothing here."
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons)


def test_of_two_that_repeat_each_other_the_worse_is_listed(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    pairs = doctor(
        scores,
        {
            0: {"p_duplicate": 0.6, "twin": 1},
            1: {"p_duplicate": 0.9, "twin": 0},
            2: {"p_duplicate": 0.7, "twin": 3},  # equal: the later of them
            3: {"p_duplicate": 0.7, "twin": 2},
            4: {"p_duplicate": 0.8, "twin": 5},  # its twin is suspected of something else
            5: {"p_swap": 0.9, "twin": 4},
            6: {"p_duplicate": 0.5, "twin": 1},  # a third copy, which is nobody's twin
        },
    )
    issues = select_issues(pairs, dataset, budget=20)
    assert sorted(issues.filter(pl.col("issue_type") == "duplicate")["annotation"].to_list()) == [1, 3, 4, 6]


def test_equal_probabilities_have_one_order(whole: tuple[Dataset, Boxes, Scores]) -> None:
    dataset, _, scores = whole
    even = doctor(scores, {i: {"p_swap": 0.5} for i in range(30)}, candidates=[0.5] * 5)
    shuffled = replace(even, annotations=even.annotations, candidates=even.candidates.reverse())
    one, other = (select_issues(s, dataset, budget=100) for s in (even, shuffled))
    assert one.height == 35
    assert one.equals(other)
    assert one.equals(select_issues(even, dataset, budget=100))


def test_an_untouched_data_set_has_no_issue(plain: tuple[Dataset, Scores]) -> None:
    dataset, scores = plain
    issues = select_issues(doctor(scores, {}), dataset)
    assert issues.height == 0
    assert issues.columns[: len(CONTRACT)] == CONTRACT
    assert issues.schema["annotation_id"] == pl.Int64


# Scores of data sets that lack something


def bare(found: Boxes) -> Boxes:
    return Boxes(found.image_index, found.category, found.xyxy, score=found.score)


@pytest.mark.parametrize("lack", ["annotations", "detections", "both", "score vectors", "ids", "all but one image"])
def test_what_lacks_is_no_error(lack: str) -> None:
    truth, sizes = make_truth(1 if lack == "all but one image" else 8, per_image=4)
    dataset, found = as_dataset(truth, sizes), detect(truth, sizes)
    if lack in ("annotations", "both"):
        dataset = replace(dataset, annotations=dataset.annotations[:0], source_rows=dataset.source_rows[:0])
    if lack in ("detections", "both"):
        found = found[:0]
    if lack == "score vectors":
        found = bare(found)
    if lack == "ids":
        dataset = replace(dataset, annotations=replace(dataset.annotations, annotation_id=None))
    scores = score_dataset(dataset, found)
    assert scores.annotations.height == len(dataset.annotations)
    assert scores.annotations.schema["annotation_id"] == pl.Int64
    assert scores.images.height == dataset.image_count
    for table in (scores.annotations, scores.candidates, scores.images):
        numbers = table.select(pl.col(pl.Float64))
        assert not any(numbers[name].is_nan().any() for name in numbers.columns)
    issues = select_issues(scores, dataset, budget=100)
    assert set(issues["issue_type"].unique()) <= {"overlooked"} if lack == "annotations" else True
    if lack == "annotations":
        assert issues.height > 10
    if lack in ("detections", "both"):
        assert issues.height == 0


def test_text_ids_stay_text() -> None:
    truth, sizes = make_truth(6)
    dataset = as_dataset(truth, sizes)
    ids = np.array([f"é[{i}]" for i in range(len(truth))], dtype=object)
    images = dataset.images.with_columns(image_id=pl.Series([f"img {i}" for i in range(6)]))
    dataset = replace(dataset, images=images, annotations=replace(dataset.annotations, annotation_id=ids))
    issues = select_issues(score_dataset(dataset, detect(truth, sizes)), dataset, budget=100)
    given = issues.filter(pl.col("annotation").is_not_null())
    assert given.height > 0
    assert given["annotation_id"].to_list() == [ids[i] for i in given["annotation"].to_list()]
    assert given["source"].to_list() == [f"annotation {ids[i]}" for i in given["annotation"].to_list()]
    assert set(issues["image_id"]) <= set(images["image_id"])


def test_crowds_are_never_flagged_and_explain_what_lies_in_them() -> None:
    truth, sizes = make_truth(8, per_image=4)
    found = detect(truth, sizes, seen=1.0)
    whole_image = Boxes(np.array([0]), np.array([0]), np.array([[0.0, 0, *sizes[0]]]))
    rest = truth[truth.image_index > 0]
    columns = {name: np.concatenate([whole_image.columns()[name], rest.columns()[name]]) for name in rest.columns()}
    dataset = as_dataset(Boxes(**columns, is_crowd=np.arange(len(rest) + 1) == 0), sizes)
    scores = score_dataset(dataset, found)
    assert scores.annotations["annotation"].to_list() == list(range(1, len(rest) + 1))
    assert 0 not in scores.candidates["image_index"].to_list()
    uncrowded = replace(dataset, annotations=dataset.annotations[1:], source_rows=dataset.source_rows[1:])
    assert 0 in score_dataset(uncrowded, found).candidates["image_index"].to_list()


def test_images_add_up_their_boxes(whole: tuple[Dataset, Boxes, Scores]) -> None:
    dataset, _, scores = whole
    images = scores.images
    assert images["annotations"].sum() == len(dataset.annotations)
    expected = scores.annotations["p_any"].sum() + scores.candidates["probability"].sum()
    assert images["expected_errors"].sum() == pytest.approx(expected)
    third = pl.col("image_index") == 3
    own = scores.annotations.filter(third)["p_any"].sum() + scores.candidates.filter(third)["probability"].sum()
    assert images["expected_errors"][3] == pytest.approx(own)
    for name in ("label_quality_score", "hardness"):
        assert images[name].is_between(0, 1).all()
    assert scores.annotations["hardness"].is_between(0, 1).all()
    unseen = scores.annotations.filter(pl.col("best_iou") == 0)
    assert unseen.height > 0
    assert (unseen["hardness"] == 1).all()
