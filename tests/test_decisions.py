"""decisions.jsonl: what was said is on disk, whoever else writes, and however a writer ends."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import orjson
import pytest

from detclean.edit.decisions import Decision, DecisionLog, Verdict, make_decision, read_decisions
from detclean.errors import DatasetError

BOX = (1.0, 2.0, 30.5, 40.25)


def decide(issue: str, verdict: Verdict = "accept") -> Decision:
    return Decision(issue, verdict, "images/ü [1].png", 7, "seven", BOX)


def test_decisions_come_back_as_they_were(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    assert log.refresh() == []
    log.append([decide("a"), Decision("b", "reject", 12)])
    other = DecisionLog(tmp_path)
    a, b = other.refresh()
    assert (a.issue, a.verdict, a.image_id, a.annotation_id) == ("a", "accept", "images/ü [1].png", 7)
    assert (a.category, a.xyxy, a.by) == ("seven", BOX, "review")
    assert a.at.endswith("+00:00")
    assert (b.image_id, b.category, b.xyxy) == (12, None, None)
    assert other.refresh() == []


def test_the_last_decision_counts_and_can_be_taken_back(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a"), decide("b"), decide("a", "hard")])
    log.append([decide("b", "open")])
    assert {issue: decision.verdict for issue, decision in read_decisions(tmp_path).items()} == {"a": "hard"}
    assert len((tmp_path / "decisions.jsonl").read_bytes().splitlines()) == 4  # nothing is ever removed


def test_two_windows_see_each_other(tmp_path: Path) -> None:
    one, two = DecisionLog(tmp_path), DecisionLog(tmp_path)
    one.append([decide("a")])
    two.append([decide("b")])
    assert [decision.issue for decision in one.refresh()] == ["a", "b"]
    two.append([decide("c")])
    assert [decision.issue for decision in one.refresh()] == ["c"]
    assert list(one.latest) == ["a", "b", "c"]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_whose_writer_died_is_not_believed(tmp_path: Path, cut: int) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a"), decide("b")])
    path = tmp_path / "decisions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: -cut - 1])  # the end of the line is gone, and some of the line
    assert list(read_decisions(tmp_path)) == ["a"]
    log.append([decide("c")])
    assert list(read_decisions(tmp_path)) == ["a", "c"]


def test_a_whole_line_without_its_end_is_kept(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a")])
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    log.append([decide("b")])
    assert list(read_decisions(tmp_path)) == ["a", "b"]


def test_a_whole_last_line_without_its_end_counts_at_once(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a")])
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [decision.issue for decision in log.refresh()] == ["a"]
    assert log.refresh() == []
    log.append([decide("b")])
    assert [decision.issue for decision in log.refresh()] == ["b"]
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(DatasetError, match=r"jsonl:3: is no decision"):
        log.refresh()
    with pytest.raises(DatasetError, match=r"jsonl:3: is no decision"):  # the same line, however often it is asked
        log.refresh()


def test_the_order_is_that_of_the_last_decisions(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a"), decide("b"), decide("a", "reject")])
    assert list(read_decisions(tmp_path)) == ["b", "a"]


@pytest.mark.parametrize("how", ["removed", "cut", "replaced"])
def test_a_file_that_is_another_one_is_noticed(tmp_path: Path, how: str) -> None:
    log = DecisionLog(tmp_path)
    log.append([decide("a"), decide("b")])
    log.refresh()
    path = tmp_path / "decisions.jsonl"
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content.splitlines(keepends=True)[0])
    else:
        path.rename(tmp_path / "old")
        if how == "replaced":
            path.write_bytes(content + content)
    with pytest.raises(DatasetError, match="was replaced or cut"):
        log.refresh()


def append_many(folder: Path, who: int) -> None:
    log = DecisionLog(folder)
    for number in range(100):
        log.append([decide(f"{who}-{number}")])


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(tmp_path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(read_decisions(tmp_path)) == {f"{who}-{number}" for who in range(3) for number in range(100)}


def test_a_decision_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((tmp_path / "decisions.jsonl").read_bytes()))
    DecisionLog(tmp_path).append([decide("a")])
    assert len(synced) == 1
    assert b'"issue":"a"' in synced[0]


GOOD = {"issue": "a", "verdict": "accept", "image_id": 1, "category": "x", "xyxy": [0, 0, 1, 1]}
BAD = {
    "no JSON": b"{",
    "no record": b"[1]",
    "unknown verdict": orjson.dumps(GOOD | {"verdict": "maybe"}),
    "no issue": orjson.dumps(GOOD | {"issue": ""}),
    "no verdict": orjson.dumps({"issue": "a"}),
    "unknown field": orjson.dumps(GOOD | {"colour": 1}),
    "category alone": orjson.dumps(GOOD | {"xyxy": None}),
    "three numbers": orjson.dumps(GOOD | {"xyxy": [0, 0, 1]}),
    "upside down": orjson.dumps(GOOD | {"xyxy": [0, 5, 1, 1]}),
    "no numbers": orjson.dumps(GOOD | {"xyxy": [0, 0, "x", 1]}),
    "infinite": b'{"issue":"a","verdict":"accept","image_id":1,"category":"x","xyxy":[0,0,1e999,1]}',
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_decision_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    (tmp_path / "decisions.jsonl").write_bytes(orjson.dumps(GOOD) + b"\n" + BAD[case] + b"\n")
    with pytest.raises(DatasetError, match=r"decisions\.jsonl:2: is no decision"):
        read_decisions(tmp_path)


def test_a_good_record_is_good() -> None:
    assert make_decision(GOOD).xyxy == (0.0, 0.0, 1.0, 1.0)
