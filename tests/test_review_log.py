"""What the review writes into decisions.jsonl, and what it says when that file is not as it left it."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reviewed import client, decide, finished, folder, lines, open_client, open_reviewed, position_of, run
from starlette.testclient import TestClient

from detclean.edit.decisions import Decision, DecisionLog, read_decisions
from detclean.errors import DatasetError
from detclean.runfolder import Run


def test_a_decision_holds_what_was_annotated_when_it_was_made(client: TestClient, run: Run, folder: Path) -> None:
    sides = ("x1", "y1", "x2", "y2")
    for row in run.issues.iter_rows(named=True):
        line = decide(client, row["issue_id"], "reject").json()["line"]
        kept = lines(folder)[-1]
        given = (row["category"], [row[side] for side in sides]) if row["annotation"] is not None else (None, None)
        assert (kept["given_category"], kept["given_xyxy"]) == given
        again = decide(client, row["issue_id"], "hard", seen=line).json()["line"]
        for taken, verdict in ((again, "reject"), (line, "open")):
            assert client.post("/api/undo", json={"line": taken}).status_code == 200
            kept = lines(folder)[-1]
            assert (kept["verdict"], kept["given_category"], kept["given_xyxy"]) == (verdict, *given)
    assert {row["issue_type"] for row in run.issues.iter_rows(named=True)} >= {"overlooked", "swap"}
    client.post("/api/box", json={"image": 0, "category": "blue square", "xyxy": [3, 4, 20, 30]})
    assert (lines(folder)[-1]["given_category"], lines(folder)[-1]["given_xyxy"]) == (None, None)


def test_a_decision_from_before_this_was_kept_gets_it_when_it_counts_again(client: TestClient, run: Run, folder: Path) -> None:
    row = run.issues.row(position_of(run, "swap"), named=True)
    old = Decision(row["issue_id"], "reject", row["image_id"], row["annotation_id"], by="cvat", at="2020-01-01T00:00:00+00:00")
    DecisionLog(folder).append([old])
    line = decide(client, row["issue_id"], "hard", seen=0).json()["line"]
    assert client.post("/api/undo", json={"line": line}).status_code == 200
    kept = lines(folder)[-1]
    assert (kept["verdict"], kept["by"], kept["given_category"]) == ("reject", "cvat", row["category"])
    assert kept["at"] > old.at


def test_a_given_box_without_numbers_is_not_kept_as_one(run: Run, folder: Path) -> None:
    row = run.issues.row(position_of(run, "swap"), named=True)
    boxes = run.dataset.annotations
    xyxy = boxes.xyxy.copy()
    xyxy[row["annotation"]] = np.nan
    client = open_client(replace(run, dataset=replace(run.dataset, annotations=replace(boxes, xyxy=xyxy))))
    assert decide(client, row["issue_id"], "reject").status_code == 200
    assert (lines(folder)[0]["given_category"], lines(folder)[0]["given_xyxy"]) == (row["category"], None)
    assert read_decisions(folder)[row["issue_id"]].verdict == "reject"


def test_decisions_that_came_from_elsewhere_are_seen(client: TestClient, run: Run) -> None:
    row = run.issues.row(0, named=True)
    record = Decision(row["issue_id"], "reject", row["image_id"], row["annotation_id"], by="cvat")
    unknown = Decision("another-run", "accept", "nowhere"), Decision("box-" + "0" * 32, "accept", "nowhere", None, "x", (0, 0, 1, 1))
    DecisionLog(run.folder).append([record, *unknown])
    assert client.get("/api/issue/0").json()["decision"]["by"] == "cvat"
    assert client.get("/api/queue").json()["counts"]["reject"] == 1
    assert client.get("/api/changes?since=0").json()["version"] == 3


def test_a_torn_last_line_costs_nothing(run: Run, folder: Path) -> None:
    first, second = run.issues["issue_id"][:2]
    decide(open_client(run), first, "accept")
    with open(folder / "decisions.jsonl", "ab") as f:
        f.write(b'{"issue": "' + second.encode() + b'", "verd')
    client = open_client(open_reviewed(folder))
    assert client.get("/api/queue").json()["version"] == 1
    assert decide(client, second, "hard").status_code == 200
    assert [line["verdict"] for line in lines(folder)] == ["accept", "hard"]


def test_a_damaged_file_is_named_before_and_while_it_is_served(run: Run, folder: Path) -> None:
    client = open_client(run)
    (folder / "decisions.jsonl").write_bytes(b"what?\n")
    with pytest.raises(DatasetError, match=r"decisions\.jsonl:1"):
        open_client(open_reviewed(folder))
    answer = decide(client, run.issues["issue_id"][0], "accept")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("not kept: ")
    assert "decisions.jsonl:1" in answer.json()["error"]


def test_a_file_that_was_taken_away_or_replaced_is_said_and_nothing_is_kept(client: TestClient, run: Run, folder: Path) -> None:
    first, second = run.issues["issue_id"][:2]
    decide(client, first, "accept")
    log = folder / "decisions.jsonl"
    (folder / "other.jsonl").write_bytes(log.read_bytes())
    log.unlink()
    for _ in range(2):  # it stays so until the review is started again
        answer = decide(client, second, "reject")
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("not kept: ")
        assert "was replaced or cut" in answer.json()["error"]
        assert not log.exists()
    (folder / "other.jsonl").rename(log)
    for path in ("/api/queue", "/api/changes", "/api/issue/0"):
        answer = client.get(path)
        assert answer.status_code == 500
        assert "was replaced or cut" in answer.json()["error"]
        assert "not kept" not in answer.json()["error"]  # nothing was to be
    assert open_client(open_reviewed(folder)).get("/api/queue").json()["version"] == 1


def test_what_is_on_disk_is_not_called_lost_when_it_cannot_be_read_again(
    client: TestClient, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = DecisionLog.append

    def spoil(log: DecisionLog, decisions: list[Decision]) -> None:
        append(log, decisions)
        with open(log.path, "ab") as f:
            f.write(b"what?\n")

    monkeypatch.setattr(DecisionLog, "append", spoil)
    answer = decide(client, run.issues["issue_id"][0], "accept")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("kept, but ")
    assert b"accept" in (run.folder / "decisions.jsonl").read_bytes()


def test_a_disk_that_takes_nothing_is_said(client: TestClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(log: DecisionLog, decisions: object) -> None:
        raise OSError(28, "No space left on device", str(log.path))

    monkeypatch.setattr(DecisionLog, "append", full)
    answer = decide(client, run.issues["issue_id"][0], "accept")
    assert answer.status_code == 500
    assert "not kept: No space left" in answer.json()["error"]
    assert client.get("/api/queue").json()["counts"]["accept"] == 0
