"""The benchmark of the review, on a few issues: that what it makes up is a run, and that it says what it measured."""

from pathlib import Path

from bench_review import CATEGORIES, Waits, as_table, write_run

from detclean.review.queue import read_filters
from detclean.review.screen import Screens
from detclean.review.session import Session
from detclean.runfolder import open_run


def test_it_makes_up_a_run_whose_every_proposal_changes_something(tmp_path: Path) -> None:
    session = Session(open_run(write_run(tmp_path / "many", 40)))
    assert len(session.queue(read_filters({}))["positions"]) == 40
    screens = [Screens(session).describe(position) for position in range(40)]
    assert {screen["issue_type"] for screen in screens} == {"swap", "badloc", "spurious"}
    for screen in screens:
        assert screen["given"]["category"] in CATEGORIES
        assert screen["proposed"] != screen["given"]
        assert Path(session.run.dataset.images["path"][screen["picture"]["index"]]).is_file()


def test_the_table_says_the_median_and_the_slowest() -> None:
    lines = as_table("app", Waits(0.5, 1.25, {"slowly": [10.0, 20.0, 30.0]})).splitlines()
    assert lines[1] == "| app | first issue shows | 1.25 s |"
    assert lines[2] == "| app | key to next screen, slowly (3) | 20 ms, 95 % 29 ms, worst 30 ms |"
