"""Issues against an answer key made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from detclean.errors import DatasetError
from detclean.score.answers import compare_with_answers, find_correct_issues

SCHEMA = {
    "issue_type": pl.String,
    "file_name": pl.String,
    "annotation_id": pl.Int64,
    **{f"{prefix}{side}": pl.Float64 for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")},
}


def issue(kind: str, file_name: str, given: list[float] | None, suggested: list[float] | None = None) -> dict[str, Any]:
    sides = ("x1", "y1", "x2", "y2")
    row: dict[str, Any] = {"issue_type": kind, "file_name": file_name, "annotation_id": None if given is None else 1}
    row |= dict(zip(sides, given or [None] * 4, strict=True))
    return row | dict(zip((f"suggested_{side}" for side in sides), suggested or [None] * 4, strict=True))


def compare(
    tmp_path: Path, rows: list[dict[str, Any]], planted: list[tuple[str, str, list[float]]], hard: list[tuple[str, list[float]]]
) -> Any:
    path = tmp_path / "answers.json"
    key = {
        "planted": [{"file_name": f, "issue_type": kind, "category": "a", "bbox": bbox} for f, kind, bbox in planted],
        "hard": [{"file_name": f, "category": "a", "bbox": bbox} for f, bbox in hard],
    }
    path.write_bytes(orjson.dumps(key))
    return compare_with_answers(pl.DataFrame(rows, schema=SCHEMA), path)


def test_a_case_by_hand(tmp_path: Path) -> None:
    planted = [
        ("a.jpg", "swap", [10, 10, 20, 20]),
        ("a.jpg", "swap", [50, 50, 20, 20]),
        ("b.jpg", "badloc", [10, 10, 20, 20]),
        ("b.jpg", "overlooked", [60, 60, 20, 20]),
        ("c.jpg", "spurious", [0, 0, 10, 10]),
    ]
    rows = [
        issue("swap", "a.jpg", [10, 10, 30, 30]),  # found
        issue("swap", "b.jpg", [50, 50, 70, 70]),  # the right place in another image
        issue("spurious", "b.jpg", [10, 10, 30, 30]),  # the right place, another type
        issue("overlooked", "b.jpg", None, [60, 60, 80, 70]),  # IoU 0.5 exactly
        issue("overlooked", "b.jpg", None, [60, 60, 80, 80]),  # the same object once more: it fits better and is the one that counts
        issue("badloc", "b.jpg", [14, 10, 34, 30]),  # overlaps the planted box by 0.67: another annotation
        issue("swap", "a.jpg", [80, 80, 90, 90], [50, 50, 70, 70]),  # only what is given is compared
    ]
    result = compare(tmp_path, rows, planted, [("a.jpg", [80, 80, 10, 10]), ("c.jpg", [50, 50, 10, 10])])
    correct = find_correct_issues(pl.DataFrame(rows, schema=SCHEMA), tmp_path / "answers.json")
    assert correct.tolist() == [True, False, False, False, True, False, False]
    per_type = result["per_type"]
    assert per_type["swap"] == {"planted": 2, "found": 1, "issues": 3, "correct": 1, "recall": 0.5, "precision": pytest.approx(1 / 3)}
    assert per_type["overlooked"] == {"planted": 1, "found": 1, "issues": 2, "correct": 1, "recall": 1.0, "precision": 0.5}
    assert per_type["badloc"] == {"planted": 1, "found": 0, "issues": 1, "correct": 0, "recall": 0.0, "precision": 0.0}
    assert per_type["spurious"] == {"planted": 1, "found": 0, "issues": 1, "correct": 0, "recall": 0.0, "precision": 0.0}
    assert per_type["duplicate"] == {"planted": 0, "found": 0, "issues": 0, "correct": 0, "recall": None, "precision": None}
    assert result["all"] == {
        "planted": 5,
        "found": 2,
        "issues": 7,
        "correct": 2,
        "recall": pytest.approx(0.4),
        "precision": pytest.approx(2 / 7),
    }
    assert (result["hard"], result["hard_flagged"]) == (2, 1)


@pytest.mark.parametrize(("suggested", "found"), [([60, 60, 80, 70], 1), ([60, 60, 80, 69], 0), ([60, 60, 80, 100], 1)])
def test_half_an_overlap_is_enough_for_an_overlooked_object(tmp_path: Path, suggested: list[float], found: int) -> None:
    result = compare(tmp_path, [issue("overlooked", "b.jpg", None, suggested)], [("b.jpg", "overlooked", [60, 60, 20, 20])], [])
    assert result["all"]["found"] == found


def test_each_planted_error_is_found_once(tmp_path: Path) -> None:
    rows = [issue("duplicate", "a.jpg", [10, 10, 30, 30]), issue("duplicate", "a.jpg", [10, 10, 30, 30.5])]
    result = compare(tmp_path, rows, [("a.jpg", "duplicate", [10, 10, 20, 20])], [])
    assert (result["all"]["found"], result["all"]["correct"], result["all"]["precision"]) == (1, 1, 0.5)


def test_no_issue_and_no_answer(tmp_path: Path) -> None:
    nothing = compare(tmp_path, [], [], [])
    assert (nothing["all"]["recall"], nothing["all"]["precision"], nothing["hard_flagged"]) == (None, None, 0)
    missed = compare(tmp_path, [], [("a.jpg", "swap", [0, 0, 5, 5])], [("a.jpg", [0, 0, 5, 5])])
    assert (missed["all"]["recall"], missed["all"]["precision"]) == (0.0, None)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"planted": []}', '{"planted": [{"file_name": "a"}], "hard": []}', '{"planted": 3, "hard": []}']
)
def test_an_unreadable_key_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=r"key\.json.*planted and hard") as raised:
        compare_with_answers(pl.DataFrame(schema=SCHEMA), path)
    assert "\n" not in str(raised.value)
