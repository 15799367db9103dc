"""What a run folder of another version gets, what each exit status stands for, and where every edit that was ever applied comes from."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from finished import finish_run, share_run

from detclean import __version__
from detclean.cli import answer
from detclean.edit.decisions import Decision, DecisionLog
from detclean.errors import StageError
from detclean.pipeline.apply import apply_decisions, undo_decisions
from detclean.runfolder import FORMAT, open_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share_run(tmp_path_factory)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "done", symlinks=True))


def change_summary(folder: Path, **changed: Any) -> None:
    summary = orjson.loads((folder / "summary.json").read_bytes()) | changed
    kept = {name: value for name, value in summary.items() if value is not None}
    (folder / "summary.json").write_bytes(orjson.dumps(kept))


# Old runs


def test_a_run_says_its_format(folder: Path) -> None:
    assert orjson.loads((folder / "summary.json").read_bytes())["format"] == FORMAT


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0"])
def test_a_run_of_before_formats_were_counted_is_read(folder: Path, version: str) -> None:
    change_summary(folder, detclean=version, format=None)
    assert open_run(folder).issues.height > 0


def test_a_run_of_before_stages_were_named_is_told_to_be_repeated(folder: Path) -> None:
    change_summary(folder, detclean="0.2.0", format=None, stages=None)
    with pytest.raises(StageError, match=r"was made by detclean 0\.2\.0; repeat the run with this version"):
        open_run(folder)


def test_a_run_of_a_newer_version_is_refused_by_every_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_summary(folder, detclean="9.1.0", format=FORMAT + 1)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    config = folder.parent / "c.yaml"
    config.write_text(f"name: done\nruns: '{folder.parent}'\ndata: '{open_data(folder)}'\n")
    commands = (["apply", "--auto", "0.5"], ["undo"], ["health"], ["export", "--to", "csv"], ["hard", "--run"], ["review"], ["compare"])
    for command in [*([*command, str(folder)] for command in commands), ["run", str(config)]]:
        assert answer(command) == 2, command
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "was made by detclean 9.1.0, which is newer than this one; update detclean" in error, command
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "run.log")}
    assert after == {path: content for path, content in before.items() if path.name not in ("lock", "run.log")}


def open_data(folder: Path) -> str:
    return str(orjson.loads((folder / "summary.json").read_bytes())["data"])


@pytest.mark.parametrize("content", [b"[]", b'"text"', b'{"format": "2"}', b'{"format": true}', b'{"format": 0}'])
def test_a_summary_that_is_none_is_damaged(folder: Path, content: bytes) -> None:
    (folder / "summary.json").write_bytes(content)
    with pytest.raises(StageError, match=r"summary\.json: is damaged; repeat the run"):
        open_run(folder)


# Exit statuses


def write_set(folder: Path, rows: str) -> Path:
    from PIL import Image

    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        Image.effect_noise((64, 48), 80).save(folder / "images" / part / f"{part}.png")
        (folder / "labels" / part / f"{part}.txt").write_text(rows if part == "train" else "0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text(f"path: '{folder}'\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder / "data.yaml"


def call(*arguments: str, code: str | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`python -m detclean`, or a script of its own in its place."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "detclean"]), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **settings)


def test_0_where_all_is_well_and_1_where_something_was_found(tmp_path: Path) -> None:
    sound = write_set(tmp_path / "sound", "0 0.5 0.5 0.2 0.2\n")
    assert call("check", str(sound)).returncode == 0
    faulty = write_set(tmp_path / "faulty", "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.9 1.9\n")
    found = call("check", str(faulty))
    assert (found.returncode, found.stderr) == (1, "")


def test_2_where_the_input_is_at_fault(tmp_path: Path) -> None:
    for arguments in (["check", str(tmp_path / "absent.yaml")], ["run"], ["no-such-command"], ["review", str(tmp_path)]):
        done = call(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


FAILING = """
import sys
from detclean import formats
from detclean.cli import main
def fail(*arguments):
    raise RuntimeError("something else")
formats.read_dataset = fail
main()
"""


def test_3_where_detclean_is_with_a_report_that_leaves_out_the_data(tmp_path: Path) -> None:
    home = tmp_path / "home of a person"
    data = write_set(home / "secret set", "0 0.5 0.5 0.2 0.2\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FAILING, "check", str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: a bug in detclean: RuntimeError: something else (details: ")
    assert done.stderr.count("\n") == 1
    text = Path(done.stderr.split("details: ")[1].rstrip(")\n")).read_text()
    for word in (f"detclean {__version__}, Python {sys.version.split()[0]}", "ultralytics ", "Traceback", "RuntimeError: something else"):
        assert word in text
    assert "command: detclean 'check' '~/secret set/data.yaml'" in text
    assert str(home) not in text
    for name in ("train.png", "train.txt"):
        assert name not in text
    assert len(text) < 20_000


def test_130_where_it_was_stopped_by_hand(folder: Path) -> None:
    command = [sys.executable, "-m", "detclean", "run", str(folder.parent / "c.yaml")]
    (folder.parent / "c.yaml").write_text(f"name: held\nruns: '{folder.parent}'\ndata: '{open_data(folder)}'\nmodel: yolo11n.yaml\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = folder.parent / "held" / "run.log"
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert said.endswith("\nstopped; the same command goes on from here\n")


# Where edits come from


def decide(folder: Path, issue_id: str, row: dict[str, Any], at: str) -> None:
    DecisionLog(folder).append([Decision(issue_id, "accept", row["image_id"], row["annotation_id"], at=at, by="a person")])


def read_history(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / "patches" / "history.jsonl").read_bytes().splitlines()]


def test_every_edit_ever_applied_goes_back_to_a_decision_or_a_rule(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "all"
    shutil.copytree(finished.parents[1], root, symlinks=True)
    folder = finish_run(root / "again")  # its own data set, as it is edited in place
    issues = open_run(folder).issues
    rows = [row for row in issues.iter_rows(named=True) if row["annotation"] is not None][:2]
    decide(folder, rows[0]["issue_id"], rows[0], "2026-01-02T03:04:05+00:00")
    apply_decisions(folder)
    decide(folder, rows[1]["issue_id"], rows[1], "2026-01-03T03:04:05+00:00")
    apply_decisions(folder)  # takes the place of the first
    undo_decisions(folder)
    apply_decisions(folder, auto=0.5, in_place=True)
    standing = orjson.loads((folder / "patch.json").read_bytes())["edits"]
    undo_decisions(folder)
    assert not (folder / "patch.json").exists()

    history = read_history(folder)
    assert [line["what"] for line in history] == ["applied", "taken back", "applied", "taken back", "applied", "taken back"]
    assert [line["mode"] for line in history] == ["copy"] * 4 + ["in place"] * 2
    assert [len(line["edits"]) for line in history[:4]] == [1, 1, 2, 2]
    assert history[4]["edits"] == standing
    decided = {"verdict": "accept", "by": "a person"}
    log = {decision.issue: decision for decision in DecisionLog(folder).refresh()}
    kinds = set()
    for line in history:
        assert line["at"] >= "2026"
        for edit in line["edits"]:
            why, of = edit["why"], issues.filter(issues["issue_id"] == edit["issue"])
            assert of.height == 1
            kinds.add(tuple(why))
            if "rule" in why:
                assert why == {"rule": "auto", "least_probability": 0.5}
                assert of["probability"][0] >= 0.5
                assert edit["issue"] not in log
            else:
                assert why == decided | {"at": log[edit["issue"]].at}
    assert len(kinds) == 2
    assert {edit["issue"] for edit in standing} >= {row["issue_id"] for row in rows}


def test_the_cleaned_copy_goes_back_to_the_strategy_and_the_issues(folder: Path) -> None:
    summary = orjson.loads((folder / "summary.json").read_bytes())["cleaned"]
    assert (summary["strategy"], summary["min_probability"]) == ("fix", None)
    noisy = open_run(folder).issues.filter(verdict="noisy")
    assert sum(summary["edits"].values()) >= noisy.filter(noisy["action"] != "review").height > 0


def test_a_torn_line_of_the_history_harms_no_other(folder: Path) -> None:
    row = next(row for row in open_run(folder).issues.iter_rows(named=True) if row["annotation"] is not None)
    decide(folder, row["issue_id"], row, "2026-01-02T03:04:05+00:00")
    (folder / "patches").mkdir(exist_ok=True)
    (folder / "patches" / "history.jsonl").write_bytes(b'{"at": "2026')
    apply_decisions(folder)
    lines = (folder / "patches" / "history.jsonl").read_bytes().splitlines()
    assert orjson.loads(lines[1])["what"] == "applied"
