"""The comparison in the report: what it shows, and that a missing or damaged one costs nothing but itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from finished import copy_run
from simulated import as_dataset, detect, make_truth

from detclean.edit.decisions import Decision, DecisionLog
from detclean.edit.strategies import name_state
from detclean.measure.comparison import Version, compare_versions, say_verdict
from detclean.report.compared import gather_compared
from detclean.report.page import render_report
from detclean.runfolder import Run, open_run

HOSTILE = ("<script>alert(1)</script>", "$x^2$", "a" * 60, "kind & co", "{{ 7 * 7 }}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(copy_run(tmp_path_factory))


def make_document(categories: tuple[str, ...]) -> dict[str, Any]:
    count = len(categories)
    truth, sizes = make_truth(10, categories=count)
    test = replace(as_dataset(truth, sizes, count), categories=categories)
    versions = [
        Version("as given", [detect(truth, sizes, count, seed=0, seen=0.7)], 100, 700),
        Version("fix", [detect(truth, sizes, count, seed=0, seen=0.95)], 100, 690),
        Version("random, as much as fix", [detect(truth, sizes, count, seed=0, seen=0.6)], 100, 600, control_of=("fix",)),
    ]
    document = compare_versions(test, versions, resamples=30)
    doubts = {"noisy": 2, "expected_errors": 3.0, "calibrated": True, "images_distrusted": 1}
    return document | {"test_labels": doubts, "trusted": compare_versions(test, versions, resamples=30)}


def write(run: Run, document: Any) -> None:
    (run.folder / "compare").mkdir(exist_ok=True)
    (run.folder / "compare" / "compare.json").write_bytes(document if isinstance(document, bytes) else orjson.dumps(document))


def test_verdict_tables_plot_and_matrices_are_shown_and_names_are_text(run: Run) -> None:
    document = make_document(HOSTILE)
    write(run, document)
    html = render_report(run, pictures=1)
    assert '<section id="compared">' in html
    first = say_verdict(document).splitlines()[0]
    assert f'<p class="answer">{first}</p>' in html
    assert "2 errors are suspected in the" in html
    assert "On test images whose labels are trusted" in html
    assert html.count('<table class="matrix">') == 2  # the control has none
    assert 'id="compared-' in html  # the plot
    assert "<script>" not in html
    assert html.count("&lt;script…") == 4  # a row and a column of each matrix
    assert "{{ 7 * 7 }}" in html
    assert render_report(run, pictures=1) == html


def test_wide_matrices_stay_in_the_json(run: Run) -> None:
    write(run, make_document(tuple(f"kind{i}" for i in range(13))))
    compared = gather_compared(run)
    assert compared is not None
    assert (compared.labels, compared.matrices) == ((), ())
    assert len(compared.rows) == 3


def test_a_comparison_of_an_older_version_is_shown(run: Run) -> None:
    document = make_document(("a", "b"))
    del document["test_labels"], document["trusted"]
    document["versions"]["fix"]["control_of"] = None
    write(run, document)
    compared = gather_compared(run)
    assert compared is not None
    assert compared.trusted == []
    assert compared.verdict == tuple(say_verdict(document).splitlines())


def test_a_comparison_from_before_a_decision_says_so(run: Run, tmp_path: Path) -> None:
    write(run, make_document(("a", "b")) | {"state": name_state(run.stage("issues").name, {})})
    assert "The run or the decisions have changed since" not in render_report(run, pictures=1)
    looked = Decision(run.issues["issue_id"][0], "skip", run.issues["image_id"][0])
    assert name_state("issues-1", {"a": looked}) == name_state("issues-1", {}) != name_state("issues-2", {})
    DecisionLog(run.folder).append([replace(looked, verdict="accept")])
    assert "The run or the decisions have changed since" in render_report(run, pictures=1)
    (run.folder / "decisions.jsonl").unlink()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"versions": 3}', b'{"categories": [], "versions": {"a": {}}}'])
def test_a_damaged_comparison_is_not_shown(run: Run, content: bytes) -> None:
    write(run, content)
    assert gather_compared(run) is None


def test_without_a_comparison_there_is_no_section(run: Run, tmp_path: Path) -> None:
    (run.folder / "compare" / "compare.json").unlink(missing_ok=True)
    assert gather_compared(run) is None
    assert 'id="compared"' not in render_report(run, pictures=1)
