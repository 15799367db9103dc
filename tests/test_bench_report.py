"""The benchmark of the report, on a few issues: that it measures what it says."""

import re
import sys
from pathlib import Path

import pytest
from bench_report import draw_issues, main, make_dataset

from detclean.dataset import ISSUE_TYPES


def test_it_writes_a_report_and_says_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "report.html"
    monkeypatch.setattr(sys, "argv", ["bench_report.py", "--issues", "12", "--keep", str(kept)])
    main()
    said = re.fullmatch(r"12 issues in 12 pictures: ([\d.]+) s by the clock, [\d.]+ s .*, ([\d.]+) MB\n", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) > 0
    assert float(said[2]) == pytest.approx(kept.stat().st_size / 1e6, abs=0.051)
    assert kept.read_text().count("data:image/jpeg") == 12


def test_its_issues_are_of_every_type_and_in_as_many_images_as_there_are(tmp_path: Path) -> None:
    issues = draw_issues(make_dataset(tmp_path, [None] * 20), 50)
    assert issues["image_index"].n_unique() == 20
    assert set(issues["issue_type"]) == set(ISSUE_TYPES)
    missing = issues["x1"].is_null()
    assert (missing == (issues["issue_type"] == "overlooked")).all()
    assert issues["issue_id"].n_unique() == 50
