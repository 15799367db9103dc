"""The review app, asked as a browser and as a stranger would ask it: what it keeps, what it shows, what it refuses."""

# ruff: noqa: F401, F811  fixtures are imported by name

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reviewed import HERE, HOSTILE, client, decide, finished, folder, lines, open_client, open_reviewed, position_of, run
from starlette.testclient import TestClient

from detclean.edit.decisions import Decision, DecisionLog, read_decisions
from detclean.errors import DatasetError
from detclean.review.queue import find_matches, read_filters, sort_positions
from detclean.review.screen import find_nearest
from detclean.review.session import Session, propose_target, turn_upright
from detclean.runfolder import Run


def test_a_decision_is_on_disk_before_the_answer_and_says_what_the_labels_shall_be(client: TestClient, run: Run) -> None:
    rows = [row for row in run.issues.iter_rows(named=True) if row["action"] != "review"]
    assert {row["action"] for row in rows} == {"add", "delete", "relabel", "move"}
    for n, row in enumerate(rows, 1):
        answer = decide(client, row["issue_id"], "accept")
        assert answer.status_code == 200
        kept = lines(run.folder)[-1]
        assert (kept["issue"], kept["verdict"], kept["image_id"], kept["annotation_id"], kept["by"]) == (
            row["issue_id"], "accept", row["image_id"], row["annotation_id"], "review",
        )  # fmt: skip
        given = [row[side] for side in ("x1", "y1", "x2", "y2")]
        suggested = [row[f"suggested_{side}"] for side in ("x1", "y1", "x2", "y2")]
        expected = {
            "delete": (None, None),
            "relabel": (row["suggested_category"], given),
            "move": (row["category"], suggested),
            "add": (row["suggested_category"], suggested),
        }[row["action"]]
        assert (kept["category"], kept["xyxy"]) == expected
        assert answer.json()["counts"]["accept"] == n == answer.json()["version"]


def test_a_proposal_of_nothing_needs_a_correction(client: TestClient, run: Run, folder: Path) -> None:
    position = run.issues["action"].to_list().index("review")
    name = run.issues["issue_id"][position]
    assert client.get(f"/api/issue/{position}").json()["proposed"] is None
    refused = decide(client, name, "accept")
    assert refused.status_code == 400
    assert "nothing is proposed" in refused.json()["error"]
    assert lines(folder) == []
    assert decide(client, name, "accept", corrected={"category": None, "xyxy": None}).status_code == 200
    assert (lines(folder)[0]["verdict"], lines(folder)[0]["xyxy"]) == ("accept", None)


def test_no_box_for_an_overlooked_object_means_that_the_labels_are_right(client: TestClient, run: Run) -> None:
    name = run.issues["issue_id"][position_of(run, "overlooked")]
    answer = decide(client, name, "accept", corrected={"category": None, "xyxy": None}).json()
    assert answer["kept"]["decision"]["verdict"] == lines(run.folder)[0]["verdict"] == "reject"


def test_a_corrected_box_is_cut_at_the_border_and_a_given_one_stays_as_it_is(client: TestClient, run: Run) -> None:
    row = run.issues.row(position_of(run, "swap"), named=True)
    image = run.dataset.images.row(row["image_index"], named=True)
    category = run.dataset.categories[0]
    wide = {"category": category, "xyxy": [-5, 3, image["width"] + 80, 20.5]}
    assert decide(client, row["issue_id"], "accept", corrected=wide).status_code == 200
    assert lines(run.folder)[-1]["xyxy"] == [0, 3, image["width"], 20.5]
    outside = run.issues.with_columns(x1=pl.lit(-7.5), y1=pl.lit(2.0), x2=pl.lit(30.0), y2=pl.lit(30.0))
    session = Session(Run(run.folder, run.summary, run.dataset, outside))
    given = {"category": category, "xyxy": [-7.5, 2, 30, 30]}
    session.decide({"issue": row["issue_id"], "verdict": "accept", "seen": 0, "corrected": given})
    assert lines(run.folder)[-1]["xyxy"] == [-7.5, 2, 30, 30]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"verdict": "perhaps"}, "verdict"),
        ({"verdict": ["accept"]}, "verdict"),
        ({"issue": "0" * 12}, "issue"),
        ({"issue": 3}, "issue"),
        ({"issue": "box-1"}, "issue"),
        ({"seen": 7}, "seen"),
        ({"seen": "x"}, "seen"),
        ({"version": "x"}, "version"),
        ({"corrected": {"category": "elephant", "xyxy": [1, 1, 9, 9]}}, "category"),
        ({"corrected": {"category": 3, "xyxy": [1, 1, 9, 9]}}, "category"),
        ({"corrected": {"category": "red square", "xyxy": None}}, "xyxy"),
        ({"corrected": {"category": None, "xyxy": [1, 1, 9, 9]}}, "category"),
        ({"corrected": {"category": "red square", "xyxy": [9, 1, 1, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square", "xyxy": [1, 1, 1, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square", "xyxy": [5000, 1, 6000, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square", "xyxy": [1, 1, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square", "xyxy": ["1", 1, 9, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square", "xyxy": [True, 1, 9, 9]}}, "xyxy"),
        ({"corrected": {"category": "red square"}}, "corrected"),
        ({"corrected": "red square"}, "corrected"),
    ],
)
def test_what_is_no_decision_is_refused_with_a_word(client: TestClient, run: Run, change: dict[str, Any], word: str) -> None:
    body = {"issue": run.issues["issue_id"][0], "verdict": "accept", "seen": -1} | change
    answer = client.post("/api/decide", json=body)
    assert answer.status_code == 400
    assert word in answer.json()["error"]
    assert lines(run.folder) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"issue": NaN}'])
def test_what_is_no_json_is_refused(client: TestClient, run: Run, content: bytes) -> None:
    for path in ("/api/decide", "/api/box", "/api/undo"):
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["error"]
    assert lines(run.folder) == []


def test_what_is_too_long_is_not_looked_at(client: TestClient, run: Run) -> None:
    for path in ("/api/decide", "/api/box", "/api/undo"):
        answer = client.post(path, content=b"{" + b" " * 70_000 + b"}", headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "65536 bytes" in answer.text
    assert lines(run.folder) == []


def test_what_another_window_decided_meanwhile_is_not_overruled_unseen(run: Run, folder: Path) -> None:
    one, two = open_client(run), open_client(open_reviewed(folder))  # two processes, as far as the file can tell
    name = run.issues["issue_id"][0]
    assert decide(one, name, "accept").status_code == 200
    refused = decide(two, name, "reject")
    assert refused.status_code == 409
    other = refused.json()["other"]
    assert (other["decision"]["verdict"], other["line"]) == ("accept", 0)
    assert len(lines(folder)) == 1
    assert decide(two, name, "accept").json()["line"] is None  # the same: nothing to keep, nothing to take back
    assert decide(two, name, "reject", seen=other["line"]).status_code == 200  # overruled, knowingly
    assert [line["verdict"] for line in lines(folder)] == ["accept", "reject"]
    seen = one.get("/api/changes?since=1").json()
    assert [(change["issue"], change["decision"]["verdict"], change["line"]) for change in seen["changes"]] == [(name, "reject", 1)]
    assert seen["counts"]["reject"] == 1


def test_a_decision_that_was_taken_back_is_nothing_to_ask_about(run: Run, folder: Path) -> None:
    one, two = open_client(run), open_client(open_reviewed(folder))
    name = run.issues["issue_id"][0]
    line = decide(one, name, "accept").json()["line"]
    assert one.post("/api/undo", json={"line": line}).status_code == 200
    assert decide(two, name, "reject").status_code == 200


def test_undo_brings_back_what_was_before_step_by_step(client: TestClient, run: Run) -> None:
    name = run.issues["issue_id"][0]
    first = decide(client, name, "accept").json()["line"]
    second = decide(client, name, "hard", seen=first).json()["line"]
    undone = client.post("/api/undo", json={"line": second}).json()["kept"]
    assert undone["decision"]["verdict"] == "accept"
    assert client.post("/api/undo", json={"line": first}).json()["kept"]["decision"] is None
    assert [line["verdict"] for line in lines(run.folder)] == ["accept", "hard", "accept", "open"]
    assert read_decisions(run.folder) == {}
    assert client.post("/api/undo", json={"line": first}).status_code == 409  # it no longer counts
    for wrong in (-1, 99, "0", True, None):
        assert client.post("/api/undo", json={"line": wrong}).status_code == 400


def test_undo_leaves_what_another_window_decided_since(run: Run, folder: Path) -> None:
    one, two = open_client(run), open_client(open_reviewed(folder))
    name = run.issues["issue_id"][0]
    line = decide(one, name, "accept").json()["line"]
    decide(two, name, "hard", seen=line)
    answer = one.post("/api/undo", json={"line": line})
    assert answer.status_code == 409
    assert answer.json()["other"]["decision"]["verdict"] == "hard"
    assert len(lines(folder)) == 2


def test_a_box_that_the_person_adds_and_takes_away(client: TestClient, run: Run) -> None:
    position = position_of(run, "spurious")
    image = int(run.issues["image_index"][position])
    answer = client.post("/api/box", json={"image": image, "category": "blue square", "xyxy": [3, 4, 20, 30.5]}).json()
    kept = lines(run.folder)[0]
    assert kept["issue"].startswith("box-")
    assert len(kept["issue"]) == 36
    assert (kept["verdict"], kept["annotation_id"], kept["category"], kept["xyxy"]) == ("accept", None, "blue square", [3, 4, 20, 30.5])
    assert kept["image_id"] == run.issues["image_id"][position]
    shown = client.get(f"/api/issue/{position}").json()["added"]
    assert [change["issue"] for change in shown] == [kept["issue"]]
    gone = decide(client, kept["issue"], "open", seen=answer["line"])
    assert gone.status_code == 200
    assert client.get(f"/api/issue/{position}").json()["added"] == []
    assert client.post("/api/undo", json={"line": gone.json()["line"]}).status_code == 200
    assert read_decisions(run.folder)[kept["issue"]].xyxy == (3, 4, 20, 30.5)
    assert decide(client, kept["issue"], "reject", seen=2).status_code == 400
    for wrong in ({"image": 99}, {"image": -1}, {"image": True}, {"category": None, "xyxy": None}, {"category": "?"}):
        body = {"image": image, "category": "blue square", "xyxy": [3, 4, 20, 30]} | wrong
        assert client.post("/api/box", json=body).status_code == 400


def test_a_screen_holds_the_issue_and_what_is_around_it(client: TestClient, run: Run) -> None:
    position = position_of(run, "swap")
    row = run.issues.row(position, named=True)
    screen = client.get(f"/api/issue/{position}").json()
    assert screen["given"] == {"category": row["category"], "xyxy": [row[side] for side in ("x1", "y1", "x2", "y2")]}
    assert screen["proposed"] == {"category": row["suggested_category"], "xyxy": screen["given"]["xyxy"]}
    assert screen["likely"][0] == row["suggested_category"]
    assert sorted(screen["likely"]) == sorted(run.dataset.categories)
    own = run.dataset.annotations.image_index == row["image_index"]
    given = [near for near in screen["neighbours"] if near["given"]]
    assert len(given) == own.sum() - 1
    assert row["annotation"] in np.flatnonzero(own)
    image = run.dataset.images.row(row["image_index"], named=True)
    assert (screen["picture"]["width"], screen["picture"]["height"]) == (image["width"], image["height"])
    assert client.get(screen["picture"]["address"]).content == Path(image["path"]).read_bytes()
    assert client.get("/api/issue/9999").status_code == 404


def test_of_a_dense_picture_the_nearest_boxes_are_shown(client: TestClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = np.arange(10.0) * 20
    boxes = np.stack([row, row * 0, row + 10, row * 0 + 10], axis=1)
    boxes[5] = boxes[5][[2, 3, 0, 1]]  # inverted
    boxes[0] = (0, 0, 200, 200)  # everywhere
    boxes[7] = np.nan
    assert find_nearest(boxes, (141, 2, 149, 8), 4).tolist() == [0, 5, 6, 8]
    assert find_nearest(boxes, None, 2).tolist() == [0, 1]
    assert find_nearest(boxes[:3], (0, 0, 1, 1), 4).tolist() == [0, 1, 2]
    position = position_of(run, "overlooked")
    every = client.get(f"/api/issue/{position}").json()
    x1, y1, x2, y2 = every["proposed"]["xyxy"]

    def gap(near: dict[str, Any]) -> float:
        left, top, right, bottom = near["xyxy"]
        return float(np.hypot(max(left - x2, x1 - right, 0), max(top - y2, y1 - bottom, 0)))

    gaps = [gap(near) for near in every["neighbours"] if near["given"]]
    assert len(set(gaps)) > 1
    monkeypatch.setattr("detclean.review.screen.MOST_NEIGHBOURS", 1)
    shown = client.get(f"/api/issue/{position}").json()["neighbours"]
    assert [gap(near) for near in shown if near["given"]] == [min(gaps)]


def test_what_was_decided_about_neighbours_is_shown(client: TestClient, run: Run) -> None:
    position = position_of(run, "duplicate")
    row = run.issues.row(position, named=True)
    same = run.issues["image_index"].to_numpy() == row["image_index"]
    others = [i for i in np.flatnonzero(same).tolist() if i != position]
    image, annotations = int(row["image_index"]), run.dataset.annotations
    neighbour = next(i for i in np.flatnonzero(annotations.image_index == image).tolist() if i != row["annotation"])
    ids = annotations.annotation_id
    assert ids is not None
    hand = Decision("box-" + "1" * 32, "accept", row["image_id"], ids[neighbour].item(), "red square", (1, 2, 30, 40))
    DecisionLog(run.folder).append([hand])
    screen = client.get(f"/api/issue/{position}").json()
    assert "accept" in [near["verdict"] for near in screen["neighbours"]]
    assert screen["added"][0]["decision"]["annotation_id"] == ids[neighbour]
    assert others
    for other in others:
        decide(client, run.issues["issue_id"][other], "hard")
    assert [near["verdict"] for near in client.get(f"/api/issue/{position}").json()["neighbours"]].count("hard") == len(others)


def test_filters_and_orders(client: TestClient, run: Run) -> None:
    def positions(query: str) -> list[int]:
        answer = client.get(f"/api/queue?{query}")
        assert answer.status_code == 200
        return list(answer.json()["positions"])

    issues = run.issues
    assert positions("") == list(range(issues.height))
    assert positions("type=swap") == [i for i, kind in enumerate(issues["issue_type"]) if kind == "swap"]
    suggested = issues["suggested_category"][position_of(run, "overlooked")]
    expected = [i for i, row in enumerate(issues.iter_rows(named=True)) if suggested in (row["category"], row["suggested_category"])]
    assert positions(f"category={suggested.replace(' ', '%20')}") == expected
    middle = float(issues["probability"].median())  # type: ignore[arg-type]
    assert positions(f"low={middle}") == [i for i, p in enumerate(issues["probability"]) if p >= middle]
    assert positions(f"high={middle}") == [i for i, p in enumerate(issues["probability"]) if p <= middle]
    assert positions("image=TRAIN/0") == [i for i, name in enumerate(issues["file_name"]) if "train/0" in name]
    assert positions("image=.*") == []
    assert positions("verdict=noisy") == [i for i, verdict in enumerate(issues["verdict"]) if verdict == "noisy"]
    for i, verdict in enumerate(("accept", "reject", "hard", "skip")):
        decide(client, issues["issue_id"][i], verdict)
    assert positions("state=open") == list(range(4, issues.height))
    assert [positions(f"state={state}") for state in ("accepted", "rejected", "hard", "skipped")] == [[0], [1], [2], [3]]
    assert positions("state=decided") == [0, 1, 2]
    assert len(positions("state=all")) == issues.height
    for wrong in ("state=x", "order=x", "low=x", "low=-1", "high=nan", "since=x", "since=-1", "image=" + "x" * 1001):
        assert client.get(f"/api/queue?{wrong}").status_code == 400


def test_by_image_the_worst_image_comes_first_with_all_its_issues() -> None:
    probability, image = np.array([0.5, 0.9, 0.7, 0.6, 0.2]), np.array([3, 1, 3, 2, 1])
    assert sort_positions(np.arange(5), probability, image, "image").tolist() == [1, 4, 2, 0, 3]
    assert sort_positions(np.array([0, 3, 4]), probability, image, "image").tolist() == [3, 0, 4]
    assert sort_positions(np.arange(5), probability, image, "probability").tolist() == [1, 2, 3, 0, 4]
    assert sort_positions(np.empty(0, np.int64), probability, image, "image").tolist() == []


def test_after_twenty_decisions_promises_are_compared_and_the_ranking_learns(run: Run) -> None:
    many = pl.concat([run.issues] * 8).with_columns(issue_id=pl.Series([f"{i:012x}" for i in range(8 * run.issues.height)]))
    many = many.with_columns(action=pl.lit("delete"), probability=pl.Series(np.linspace(0.95, 0.55, many.height)))
    client = open_client(Run(run.folder, run.summary, run.dataset, many))
    for i in range(20):
        answer = decide(client, many["issue_id"][i], "reject" if i % 4 else "hard" if i % 8 else "accept").json()
        assert (answer["precision"] is not None) == (i == 19)
    assert answer["precision"]["decided"] == 20
    assert answer["precision"]["realised"] == pytest.approx(0.15)
    assert answer["precision"]["promised"] == pytest.approx(many["probability"][:20].mean())
    queue = client.get("/api/queue").json()
    assert queue["calibrated_by"] == 20
    assert sorted(queue["positions"]) == list(range(20, many.height))
    screen = client.get(f"/api/issue/{many.height - 1}").json()
    assert screen["probability_now"] < screen["probability"]


def test_proposals_of_inverted_and_missing_boxes() -> None:
    row: dict[str, Any] = {f"{prefix}{side}": None for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")}
    row |= {"action": "relabel", "suggested_category": "b", "category": "a", "x1": 9.0, "y1": 8.0, "x2": 1.0, "y2": 2.0}
    assert propose_target(row) == ("b", (1, 2, 9, 8))
    assert [turn_upright(box) for box in ([1, 2, None, 4], [1, 2, float("nan"), 4])] == [None, None]
    assert find_matches(pl.DataFrame({"probability": [0.5, None]}), read_filters({})).tolist() == [True, False]
