"""A finished run is opened as it stands, or the reason why not is said in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import polars as pl
import pytest
from finished import share_run

from detclean.errors import StageError
from detclean.runfolder import identify_issues, open_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share_run(tmp_path_factory)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "done", symlinks=True))


def test_a_run_is_opened(finished: Path) -> None:
    run = open_run(finished)
    assert run.dataset.image_count == 24
    assert run.issues.height >= 3
    listed = pl.read_csv(finished / "issues.csv")
    assert run.issues["reason"].to_list() == listed["reason"].to_list()
    assert run.table("annotations").height == len(run.dataset.annotations)
    assert run.stage("score").is_dir()
    for row in run.issues.iter_rows(named=True):
        assert row["image_id"] == run.dataset.images["image_id"][row["image_index"]]


def test_ids_are_of_the_issue_and_not_of_its_rank(finished: Path) -> None:
    issues = open_run(finished).issues
    assert issues["issue_id"].n_unique() == issues.height
    turned = issues.reverse().with_columns(rank=pl.lit(0), probability=pl.lit(0.1), reason=pl.lit("another"))
    assert identify_issues(turned).to_list() == issues["issue_id"].reverse().to_list()
    assert (identify_issues(issues.with_columns(x1=pl.col("x1") + 1)) != issues["issue_id"])[0]


def test_the_same_row_twice_is_two_issues(finished: Path) -> None:
    issues = open_run(finished).issues
    assert identify_issues(pl.concat([issues, issues])).n_unique() == 2 * issues.height


def damage(folder: Path, case: str) -> None:
    summary = orjson.loads((folder / "summary.json").read_bytes())
    if case == "old":
        del summary["stages"]
        (folder / "summary.json").write_bytes(orjson.dumps(summary))
    elif case == "unfinished":
        (folder / "summary.json").unlink()
    elif case == "damaged":
        (folder / "summary.json").write_text("{")
    elif case == "no stage":
        shutil.rmtree(folder / "stages" / summary["stages"]["load"])
    elif case == "no table":
        (folder / "stages" / summary["stages"]["issues"] / "issues.parquet").write_bytes(b"PAR1")
    else:
        shutil.rmtree(folder)


CASES = {
    "old": "was made by detclean .* which keeps what it can",
    "unfinished": "no run ended here",
    "damaged": "summary.json: is damaged",
    "no stage": "is gone; repeat the run",
    "no table": "cannot be read",
    "no folder": "is no folder",
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_finished_run_is_refused(copy: Path, case: str) -> None:
    damage(copy, case)
    with pytest.raises(StageError, match=CASES[case]):
        open_run(copy)
