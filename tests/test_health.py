"""The health of a data set as a whole: leaks and balance, what to do first, the command, and what the report makes of it."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from finished import copy_run
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from test_report_page import HOSTILE, render
from trained import expect
from typer.testing import CliRunner

from detclean.boxes import Boxes
from detclean.cli import app
from detclean.dataset import Dataset
from detclean.edit.decisions import Decision, DecisionLog
from detclean.health import measure_health, open_groupings, read_health, write_health
from detclean.health.balance import FEW, count_categories, find_leaks
from detclean.health.categories import describe_overlap
from detclean.health.groups import Group
from detclean.health.remedies import list_problems
from detclean.pipeline import run as running
from detclean.report.page import gather_facts
from detclean.runfolder import Run, open_run
from detclean.show.health_table import print_health
from detclean.show.progress import open_display

NONE = pl.DataFrame(schema={"image_a": pl.Int64, "image_b": pl.Int64, "kind": pl.String})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(copy_run(tmp_path_factory))


def make(splits: list[str | None], categories: list[tuple[int, int]], names: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    """Images in splits, and annotations as (image, category)."""
    n = len(splits)
    images = pl.DataFrame(
        {
            "image_id": list(range(n)),
            "file_name": [f"{i}.jpg" for i in range(n)],
            "path": [f"/data/{i}.jpg" for i in range(n)],
            "split": pl.Series(splits, dtype=pl.String),
        }
    )
    image, category = np.array(categories, np.int64).reshape(-1, 2).T
    boxes = Boxes(image, category, np.tile([0.0, 0, 5, 5], (len(image), 1)))
    return Dataset(images, names, boxes, np.arange(len(image)), "memory", Path("memory"))


def pairs(*rows: tuple[int, int, str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=NONE.schema, orient="row")


def test_leaks_are_counted_in_the_split_that_is_judged_on() -> None:
    """Images 0 to 2 train, 3 to 5 val, 6 test. 0, 3, 4 are one group (3 the same file), 2 and 6 another, 1 and 0 both train."""
    dataset = make(["train"] * 3 + ["val"] * 3 + ["test"], [])
    leaks = find_leaks(dataset, pairs((0, 1, "near"), (0, 3, "exact"), (3, 4, "near"), (2, 6, "near")))
    assert leaks == [
        {"of": "train", "in": "val", "pictures": 2, "exact": 1, "twice": 0, "files": [["3.jpg", "0.jpg"], ["4.jpg", "0.jpg"]]},
        {"of": "train", "in": "test", "pictures": 1, "exact": 0, "twice": 0, "files": [["6.jpg", "2.jpg"]]},
    ]
    assert find_leaks(make([None] * 4, []), pairs((0, 1, "exact"))) == []
    assert find_leaks(dataset, NONE) == []


def test_a_thousand_pictures_that_are_one_are_quickly_counted() -> None:
    """Five times as many take five times as long; were each compared with each, it would be twenty-five times."""
    took = []
    for n in (4_000, 20_000):
        dataset, same = make(["train", "val"] * (n // 2), []), pairs(*((0, i, "exact") for i in range(1, n)))
        begins, leaks = [time.process_time()], []
        for _ in range(3):
            leaks = find_leaks(dataset, same)
            begins.append(time.process_time())
        assert (leaks[0]["pictures"], leaks[0]["exact"]) == (n // 2, n // 2)
        took.append(np.diff(begins).min())
    assert took[1] < 12 * took[0]


def print_document(document: dict[str, Any], folder: Path) -> str:
    """What `health` prints of a document."""
    out = io.StringIO()
    print_health(document, folder, Console(file=out, width=80))
    return out.getvalue()


def test_the_bad_day_of_a_month_is_shown(finished: Run) -> None:
    """Days stand in their order, and only some of them are shown."""
    days = [Group(f"2024-03-{day:02}", 10, 50, {"swap": 40.0 if day == 25 else 1.0}, 1.0, day == 25) for day in range(1, 31)]
    grouping = {"by": "date_captured, by day", "groups": [asdict(day) for day in days], "all": 30, "overall": 2.3}
    said = print_document(measure_health(finished, pictures=False) | {"gatherings": [grouping]}, finished.folder)
    assert "! 2024-03-25" in said
    assert "and 18 more" in said


def test_what_nobody_looked_at_is_not_called_fine(finished: Run) -> None:
    document = measure_health(finished, pictures=False)
    assert document["pictures_compared"]
    assert "No picture of a split is in another one" in print_document(document, finished.folder)
    blind = print_document(document | {"pictures_compared": False}, finished.folder)
    assert "No picture of a split" not in blind
    assert "Nobody looked whether a picture is in two splits" in blind


def test_without_any_annotation_the_overlooked_ones_are_the_first_thing_to_do(finished: Run) -> None:
    document = measure_health(finished, pictures=False)
    problems = list_problems(
        document | {"quality": None, "errors": {"expected": 19.0, "low": 9.0, "high": 24.0}, "balance": document["balance"] | {"few": []}}
    )
    assert problems[0]["kind"] == "errors"
    assert problems[0]["severity"] == "warning"


def test_long_and_wide_names_are_told_apart_and_wrapped(finished: Run) -> None:
    document = measure_health(finished, pictures=False)
    first, second = (document["categories"][0] | {"name": f"a very long name of a category, the {word}"} for word in ("first", "last"))
    problem = {"kind": "x", "severity": "warning", "text": "漢" * 90}
    said = print_document(document | {"categories": [first, second], "problems": [problem]}, finished.folder)
    assert "the first" in said
    assert "the last" in said
    assert max(cell_len(line) for line in said.splitlines() if "漢" in line) <= 80


def test_one_picture_in_the_lists_of_two_splits_is_a_leak() -> None:
    dataset = make(["train", "val"], [])
    twice = Dataset(dataset.images.with_columns(path=pl.lit("/data/0.jpg")), *list(dataset.__dict__.values())[1:])
    assert find_leaks(twice, pairs((0, 1, "exact")))[0]["twice"] == 1


def test_balance_counts_by_split_and_names_what_train_lacks() -> None:
    labels = [(0, 0)] * 60 + [(1, 0)] * 4 + [(2, 1)] * 3
    found = count_categories(make(["train", "train", "val"], labels))
    assert found["splits"]["train"] == {"images": 2, "annotations": [64, 0, 0], "images_with": [2, 0, 0]}
    assert found["splits"]["val"] == {"images": 1, "annotations": [0, 3, 0], "images_with": [0, 1, 0]}
    assert (found["few"], found["empty"], found["only_outside"]) == (["b"], ["c"], ["b"])
    assert found["ratio"] == pytest.approx(64 / 3)
    share = np.array([64, 3]) / 67
    assert found["effective"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert FEW > 3


def test_nothing_annotated_has_no_balance() -> None:
    found = count_categories(make(["train", "val"], []))
    assert (found["ratio"], found["effective"], found["only_outside"], found["empty"]) == (None, None, [], ["a", "b", "c"])


def test_crowds_are_not_counted() -> None:
    dataset = make(["train"], [(0, 0), (0, 0)])
    crowd = Boxes(**dataset.annotations.columns() | {"is_crowd": np.array([True, False])})
    assert count_categories(Dataset(dataset.images, dataset.categories, crowd, *list(dataset.__dict__.values())[3:]))["annotations"][0] == 1


def test_the_joint_is_told_by_name_or_why_there_is_none() -> None:
    light = {"label_issues": 3, "confident_joint": [[8, 2], [1, 9]], "overlapping": [{"first": "a", "second": "b", "share": 0.1}]}
    found = describe_overlap({"light": light, "weak": []}, ("a", "b"))
    assert found["pairs"][0] == {"given": "a", "shown": "b", "annotations": 2, "share": 0.2}
    assert found["joint"] == [[8, 2], [1, 9]]
    trained = describe_overlap({"light": light, "trained": {**light, "confident_joint": [[5, 5], [0, 9]]}}, ("a", "b"))
    assert (trained["judge"], trained["pairs"][0]["annotations"]) == ("trained", 5)
    for crops, names in ((None, ("a", "b")), ({"weak": []}, ("a", "b")), ({"light": light}, ("a",))):
        assert describe_overlap(crops, names)["why"].endswith(".")


@pytest.mark.trained
def test_the_document_holds_the_truth_that_was_planted(finished: Run) -> None:
    """Five errors were planted; the categories and the types add up to the whole."""
    document = measure_health(finished)
    expect("lower end of the interval", document["errors"]["low"], most=5)  # ten seeds: 0 to 1
    expect("upper end of the interval", document["errors"]["high"], least=5)  # ten seeds: 8 to 12
    for parts in (document["errors_by_type"].values(), [row["errors"] for row in document["categories"]]):
        assert sum(part["expected"] for part in parts) == pytest.approx(document["errors"]["expected"])
    assert 0 < document["quality"]["low"] <= document["quality"]["expected"] <= document["quality"]["high"] <= 1
    assert (
        document["pictures"]["looked_at"]
        == document["balance"]["splits"]["train"]["images"] + document["balance"]["splits"]["val"]["images"]
    )
    assert document["overlap"]["why"]
    write_health(finished, document)
    assert read_health(finished.folder) == orjson.loads(orjson.dumps(document))
    assert measure_health(finished) == document
    assert measure_health(finished, pictures=False)["pictures"] is None


@pytest.mark.trained
def test_decisions_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = open_run(copy_run(tmp_path_factory, "coco"))
    before = measure_health(run, pictures=False)
    rows = [Decision(row["issue_id"], "reject", row["image_id"]) for row in run.issues.iter_rows(named=True)]
    DecisionLog(run.folder).append(rows)
    after = measure_health(run, pictures=False)
    assert after["decided"] == run.issues.height
    gone = before["errors"]["expected"] - after["errors"]["expected"]
    expect("errors that are gone by those that were listed", gone / run.issues["probability"].sum(), least=0.65, most=1.35)  # ten seeds: 1
    write_health(run, after)
    shown = {row.name: sum(row.by_type.values()) for row in gather_facts(run, pictures=0)["categories"]}  # beside health's intervals
    assert shown == pytest.approx({row["name"]: row["errors"]["expected"] for row in after["categories"]}, rel=0.1)


def test_the_worst_problem_comes_first_with_its_remedy(finished: Run) -> None:
    document = measure_health(finished, pictures=False)
    leak = {"of": "train", "in": "val", "pictures": 12, "exact": 2, "twice": 0, "files": [["v.jpg", "t.jpg"]]}
    bad = {"name": "bob", "images": 9, "annotations": 30, "rates": {"swap": 20.0}, "spread": 3.0, "stands_out": True}
    good = {**bad, "name": "ann", "rates": {"swap": 2.0}, "stands_out": False}
    worse = {
        **document,
        "leaks": [leak],
        "gatherings": [{"by": "annotator of the annotations", "groups": [bad, good], "all": 2, "overall": 8.0}],
        "balance": {**document["balance"], "only_outside": ["mast"]},
        "pictures": {
            "looked_at": 9,
            "unreadable": {"count": 1, "worst": [{"file_name": "x.jpg", "path": None, "split": None, "problem": "cut"}]},
            "kinds": {"dark": {"count": 3, "worst": [{"file_name": "d.jpg", "path": None, "split": None, "score": 0.1}]}},
        },
    }
    problems = list_problems(worse)
    assert [problem["kind"] for problem in problems][:4] == ["leak", "unreadable", "absent", "gathering"]
    assert problems[0]["text"].startswith(
        "12 pictures of val are in train as well (2 the very same file and 10 nearly the same; first v.jpg"
    )
    assert "‘bob’ has more errors than chance explains (20 per 100 annotations, 8 overall)" in problems[3]["text"]
    assert any(problem["text"].startswith("3 pictures are too dark (worst d.jpg)") for problem in problems)
    assert open_groupings(worse)[0].groups[0] == Group(**bad)
    for problem in problems:
        assert re.fullmatch(r"[^\n]+[:;] .+\.", problem["text"]), problem


def test_the_command_says_it_in_eighty_columns(finished: Run) -> None:
    result = CliRunner().invoke(app, ["health", str(finished.folder)])
    assert result.exit_code == 0, result.output
    for line in result.stdout.splitlines():
        assert len(line) <= 80 or "health.json" in line, line
        assert line == line.rstrip()
    for name in finished.dataset.categories:
        assert name in result.stdout
    assert "What to do first" in result.stdout
    assert read_health(finished.folder) is not None


def test_the_command_names_a_folder_that_is_no_run(tmp_path: Path) -> None:
    from detclean.cli import answer

    assert answer(["health", str(tmp_path / "nothing")]) == 2
    assert not (tmp_path / "nothing").exists()


def test_names_are_data_on_the_terminal_and_on_the_page(finished: Run, tmp_path: Path) -> None:
    document: dict[str, Any] = json.loads(orjson.dumps(measure_health(finished)))
    row = {"file_name": HOSTILE, "path": None, "split": HOSTILE}
    document["categories"][0]["name"] = HOSTILE
    document["balance"]["categories"][0] = HOSTILE
    document["balance"]["only_outside"] = [HOSTILE]
    document["leaks"] = [{"of": HOSTILE, "in": HOSTILE, "pictures": 1, "exact": 1, "twice": 0, "files": [[HOSTILE, HOSTILE]]}]
    document["pictures"]["kinds"]["dark"] = {"count": 1, "worst": [row | {"score": 0.1}]}
    document["overlap"] = {
        "why": None,
        "judge": "light",
        "label_issues": 1,
        "pairs": [{"given": HOSTILE, "shown": HOSTILE, "annotations": 4, "share": 0.5}],
        "all_pairs": 1,
        "joint": None,
        "overlapping": [{"first": HOSTILE, "second": HOSTILE, "share": 0.5}],
    }
    group = {"name": HOSTILE, "images": 9, "annotations": 9, "rates": dict.fromkeys(document["errors_by_type"], 1.0), "spread": 1.0}
    document["gatherings"] = [{"by": HOSTILE, "groups": [{**group, "stands_out": True}] * 2, "all": 2, "overall": 1.0}]
    document["problems"] = list_problems(document)
    folder = tmp_path / "run"
    folder.mkdir()
    for path in finished.folder.iterdir():
        if path.name != "health.json":
            (folder / path.name).symlink_to(path)
    run = Run(folder, finished.summary, finished.dataset, finished.issues)
    write_health(run, document)
    page = render(run, tmp_path / "report.html")
    assert "alert(1)" in page.text
    console = Console(width=80, record=True, quiet=False, file=open(tmp_path / "out", "w", encoding="utf-8"))  # noqa: SIM115
    print_health(document, folder, console)
    console.file.close()
    shown = (tmp_path / "out").read_text()
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_a_report_is_renewed_when_its_health_or_another_section_is(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """health.json is measured again when the decisions change, and the page when any of its sources does; else nothing is done."""
    measured: list[bool] = []
    real = running.measure_health
    monkeypatch.setattr(running, "measure_health", lambda run, **more: measured.append(more["pictures"]) or real(run, **more))
    page = finished.folder / "report.html"

    def renew() -> bool:
        before = page.stat().st_mtime_ns
        with open_display(console=Console(quiet=True)) as display:
            running.renew_report(finished.folder, display)
        return page.stat().st_mtime_ns != before

    renew()
    measured.clear()
    assert not renew()
    assert measured == []
    (finished.folder / "health.json").unlink()
    renew()
    assert measured == [True]
    config = finished.folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("image_quality: true", "image_quality: false"))
    assert renew()
    assert measured == [True, False]
    config.write_text(text)
    assert renew()


def test_pictures_with_an_issue_are_shown_small(finished: Run, tmp_path: Path) -> None:
    from detclean.report.thumbnails import SIDE, picture_issues

    Image.new("RGB", (400, 300)).save(tmp_path / "black.png")
    worst = [{"file_name": "black.png", "path": str(tmp_path / "black.png")}, {"file_name": "gone.png", "path": str(tmp_path / "gone.png")}]
    kinds = {"dark": {"count": 2, "worst": worst}, "light": {"count": 0, "worst": []}}
    (issue,) = picture_issues({"pictures": {"kinds": kinds}})
    assert (issue.name, issue.count) == ("dark", 2)
    assert issue.worst[0][1] is not None
    assert len(issue.worst[0][1]) < 3000
    assert issue.worst[1] == ("gone.png", None)
    assert SIDE < 400
    assert picture_issues({"pictures": None}) == []
