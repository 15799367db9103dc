"""What is compared: which images a strategy leaves out or draws, what people's decisions change in it, and controls of the same amount."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from simulated import as_dataset, make_truth

from detclean.dataset import Dataset, Edit
from detclean.edit.proposals import Cleaning, propose_pruning
from detclean.edit.strategies import STRATEGIES, compute_trust, draw_by_trust, heed_decisions, list_versions

SIDES = ("x1", "y1", "x2", "y2")
HARDNESS = np.array([0.5, 0.1, 0.2, 0.1, 0.9, 0.0])
NOTHING = Cleaning((), ())


def make_issues(*rows: tuple[int, str]) -> pl.DataFrame:
    """(image, verdict)"""
    return pl.DataFrame(rows, schema={"image_index": pl.Int64, "verdict": pl.String}, orient="row")


def test_as_many_easy_images_go_as_hard_ones_and_none_that_is_noisy() -> None:
    issues = make_issues((0, "hard"), (4, "hard"), (4, "hard"), (5, "noisy"), (2, "noisy"), (2, "hard"))
    assert propose_pruning(issues, HARDNESS, "drop_hard") == Cleaning((), (0, 4))
    assert propose_pruning(issues, HARDNESS, "keep_hard") == Cleaning((), (1, 3))  # 5 is easier, but noisy
    for strategy in ("drop_hard", "keep_hard"):
        assert propose_pruning(make_issues((1, "noisy")), HARDNESS, strategy) == NOTHING  # type: ignore[arg-type]


def test_of_equally_easy_images_the_first_go() -> None:
    assert propose_pruning(make_issues((0, "hard")), np.zeros(4), "keep_hard") == Cleaning((), (1,))


def test_the_hard_stay_even_where_most_images_are_hard() -> None:
    issues = make_issues((0, "hard"), (1, "hard"), (2, "hard"))
    assert propose_pruning(issues, np.array([0.9, 0.8, 0.7, 0.1]), "keep_hard") == Cleaning((), (3,))


def issue(name: str, image: int, annotation: int | None, probability: float, left: float = 0.0) -> dict[str, Any]:
    box = {f"suggested_{side}": None if annotation is not None else left + i for i, side in enumerate(SIDES)}
    verdict = "noisy" if probability >= 0.5 else "hard"
    category = None if annotation is not None else "kind0"
    own = {"issue_id": name, "image_index": image, "annotation": annotation, "probability": probability, "verdict": verdict}
    return own | {"suggested_category": category, **box}


ISSUES = pl.DataFrame(
    [issue("a", 0, 0, 0.6), issue("b", 1, 2, 0.3), issue("c", 2, None, 0.8, 10.0), issue("d", 2, None, 0.2, 30.0)],
    schema_overrides={"annotation": pl.Int64, **{f"suggested_{side}": pl.Float64 for side in SIDES}},
)
ANNOTATIONS = pl.DataFrame({"image_index": [0, 0, 1], "annotation": [0, 1, 2], "p_any": [0.6, 0.1, 0.3]})
PLACES = {side: [10.0 + i, 30.0 + i] for i, side in enumerate(SIDES)}
CANDIDATES = pl.DataFrame({"image_index": [2, 2], "category": ["kind0"] * 2, **PLACES, "probability": [0.8, 0.2]})


def test_what_people_decided_stands_in_the_place_of_a_probability() -> None:
    heeded = heed_decisions(ISSUES, {"a": "reject", "b": "accept", "c": "hard", "d": "skip"})
    assert heeded.select("issue_id", "probability", "verdict", "decided").rows() == [
        ("b", 1.0, "noisy", "accept"),
        ("c", 0.0, "hard", "hard"),
        ("d", 0.2, "hard", "skip"),
    ]
    assert heed_decisions(ISSUES, {}).drop("decided").equals(ISSUES)


def test_an_image_is_trusted_as_far_as_all_its_labels_are() -> None:
    trust = compute_trust(4, ANNOTATIONS, CANDIDATES, ISSUES, {})
    assert trust == pytest.approx([0.4 * 0.9, 0.7, 0.2 * 0.8, 1.0])
    told = {"a": "reject", "b": "accept", "c": "hard", "d": "skip"}
    assert compute_trust(4, ANNOTATIONS, CANDIDATES, ISSUES, told) == pytest.approx([0.9, 0.0, 0.8, 1.0])
    assert compute_trust(2, ANNOTATIONS[:0], CANDIDATES[:0], ISSUES[:0], {}).tolist() == [1, 1]


def test_draws_follow_the_trust() -> None:
    trust = np.array([0.2, 0.9, 0.9, 0.5, 0.0])
    reweight, curriculum = draw_by_trust(trust, "reweight"), draw_by_trust(trust, "curriculum")
    assert reweight is not None
    assert curriculum is not None
    assert reweight.tolist() == [trust.tolist()]
    assert curriculum.tolist() == [[0, 1, 1, 1, 0], [1] * 5]
    ties = draw_by_trust(np.array([1.0, 0.5, 1.0, 1.0]), "curriculum")
    assert ties is not None
    assert ties[0].tolist() == [1, 0, 1, 0]
    assert draw_by_trust(np.full(3, 0.7), "reweight") is None
    assert draw_by_trust(np.zeros(3), "curriculum") is None


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return as_dataset(*make_truth(12, 4))


def test_strategies_that_do_equally_much_share_a_control(dataset: Dataset) -> None:
    two, again, three = Cleaning((), (1, 5)), Cleaning((), (2, 3)), Cleaning((), (0, 1, 2))
    edits = Cleaning((Edit("delete", 0, 0), Edit("relabel", 1, 5, category=0)), ())
    versions = list_versions(dataset, {"fix": edits, "drop_hard": two, "drop_images": three, "keep_hard": again}, seed=0)
    assert [version.name for version in versions] == [
        "as given",
        "fix",
        "random, as much as fix",
        "drop_hard",
        "drop_images",
        "random, as much as drop_images",
        "keep_hard",
        "random, as much as drop_hard and keep_hard",
    ]
    controls = {version.slug: version for version in versions if version.control_of}
    assert {slug: control.control_of for slug, control in controls.items()} == {
        "random-2-boxes": ("fix",),
        "random-3-images": ("drop_images",),
        "random-2-images": ("drop_hard", "keep_hard"),
    }
    assert len(controls["random-2-images"].cleaning.drop_images) == 2
    alone = list_versions(dataset, {"keep_hard": again}, seed=0)[-1]  # what is trained already is found again
    assert (alone.slug, alone.cleaning) == ("random-2-images", controls["random-2-images"].cleaning)


def test_a_draw_is_held_against_the_same_draw_of_other_images(dataset: Dataset) -> None:
    draw = np.stack([np.arange(12.0), np.ones(12)])
    given, drawn, control = list_versions(dataset, {"curriculum": draw}, seed=1)
    assert given.draw is None
    assert (drawn.cleaning, control.cleaning, control.control_of) == (NOTHING, NOTHING, ("curriculum",))
    assert drawn.draw is not None
    assert control.draw is not None
    assert not np.array_equal(control.draw, draw)
    assert sorted(control.draw[0]) == sorted(draw[0])
    again = list_versions(dataset, {"curriculum": draw}, seed=1)[-1].draw
    assert again is not None
    assert np.array_equal(control.draw, again)


def test_the_control_of_what_only_adds_takes_as_many_away(dataset: Dataset) -> None:
    added = Cleaning((Edit("add", 0, None, category=1, xyxy=(1.0, 2.0, 30.0, 40.0)),), ())
    *_, control = list_versions(dataset, {"fix": added}, seed=0)
    assert control.control_of == ("fix",)
    assert [edit.action for edit in control.cleaning.edits] == ["delete"]


def test_the_help_names_every_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    from detclean.cli import answer

    assert answer(["compare", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in STRATEGIES)
