# ruff: noqa: F401, F811  fixtures are imported by name
"""Data sets, run folders and names that somebody made to do harm: nothing that they hold is run, obeyed or waited for."""

import csv
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import yaml
from PIL import Image
from test_trust import finished, folder
from test_weights import ROOT

from detclean import formats
from detclean.audit.images import hash_chunk
from detclean.cli import answer
from detclean.formats.imagefiles import read_image_sizes
from detclean.handover.plain import as_cells
from detclean.health.pictures import measure_chunk
from detclean.review.pictures import read_picture
from detclean.runfolder import WRITTEN_INTO
from detclean.show.photos import READING_FAILS, open_photo
from detclean.show.progress import open_display

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"


# Links


@pytest.mark.parametrize("name", ["health.json.partial", "lock"])
def test_no_link_of_a_run_folder_is_written_through(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "bashrc"
    theirs.write_text("as it was\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(theirs)
    assert answer(["health", str(folder)]) == (2 if name == "lock" else 0)
    assert theirs.read_text() == "as it was\n"
    assert name != "lock" or f"{folder / name}: Too many levels of symbolic links" in capsys.readouterr().err
    (tmp_path / "run.log").symlink_to(theirs)
    with pytest.raises(OSError, match=r"run\.log"), open_display(tmp_path / "run.log"):
        pass


def test_the_history_of_patches_is_not_written_through_a_link(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "bashrc"
    theirs.write_text("as it was\n")
    (folder / "patches").mkdir(exist_ok=True)
    (folder / "patches" / "history.jsonl").symlink_to(theirs)
    assert answer(["apply", "--auto", "0.5", str(folder)]) == 2
    assert "history.jsonl: Too many levels of symbolic links" in capsys.readouterr().err
    assert theirs.read_text() == "as it was\n"


@pytest.mark.parametrize("name", WRITTEN_INTO)
def test_no_linked_folder_of_a_run_folder_is_written_into(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(tmp_path / "theirs")
    for command in (["health"], ["export", "--to", "csv"], ["apply", "--auto", "0.5"], ["compare"]):
        assert answer([*command, str(folder)]) == 2
        assert f"{folder / name}: is a link, through which nothing is written" in capsys.readouterr().err
    assert not list((tmp_path / "theirs").iterdir())


# Pictures


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ghostscript of ours, first in the path -> the file that it leaves behind when it is called."""
    from PIL import EpsImagePlugin

    called, program = tmp_path / "called", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{called}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow remembers whether there is one
    return called


def test_a_picture_is_no_program_for_ghostscript(tmp_path: Path, ghostscript: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(EPS)
    assert read_picture(picture) is None
    with pytest.raises(READING_FAILS), open_photo(str(picture)):
        pass
    assert hash_chunk([(0, str(picture))])[0][5] == "is no image that Pillow can open"
    assert str(measure_chunk([(0, str(picture))])[0][1]).startswith("cannot be read")
    assert read_image_sizes([str(picture)]).tolist() == [[0, 0]]
    assert not ghostscript.exists()
    with Image.open(picture) as opened, pytest.raises(subprocess.CalledProcessError):
        opened.load()
    assert ghostscript.exists()  # so it is the reading that keeps it from being called


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_the_review_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.jpg")
    script = "import sys, pathlib; from detclean.review.pictures import read_picture; print(read_picture(pathlib.Path(sys.argv[1])))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path / "p.jpg")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "None\n"


# Run folders


def configure(folder: Path, **changed: Any) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))


@pytest.mark.parametrize("command", [["compare"], ["hard", "--images", ".", "--run"]])
def test_no_cluster_is_joined_that_only_the_run_folder_names(
    folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(folder, executor={"kind": "ray", "address": "192.0.2.1:6379"})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert answer([*command, str(folder)]) == 2
    assert (
        "executor.address: 192.0.2.1:6379 is a cluster that the run folder names; if that is yours, set RAY_ADDRESS="
        in capsys.readouterr().err
    )
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert answer([*command, str(folder)]) == 2
    assert "its detections were brought" in capsys.readouterr().err  # the next thing that is wrong with it


def test_settings_of_matplotlib_in_a_run_folder_are_not_heard(tmp_path: Path) -> None:
    """With text.usetex it would hand the names of categories to TeX."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    script = """
import sys
from pathlib import Path
import matplotlib
assert matplotlib.rcParams["text.usetex"]
from detclean.show.comparison_table import draw_comparison
known = {"mean": 0.5, "low": 0.4, "high": 0.6, "sd": 0.1, "by_seed": [0.5]}
row = {"figures": {"map50": known}, "control_of": [], "over_given": None, "over_control": None}
draw_comparison({"versions": {"given": row}, "reference": "given", "images": 3, "seeds": 1}, Path(sys.argv[1]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(tmp_path), "PATH": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").exists()


# Terminals and spreadsheets


@pytest.mark.parametrize(
    "command", [["check"], ["review"], ["health"], ["export", "--to"], ["run"], ["hard", "--run"], ["undo"], ["check", "x"]]
)
def test_what_is_wrong_is_said_without_obeying_it(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = [str(tmp_path)] if command[0] == "export" else []
    assert answer([*command, f"{tmp_path}/{ESCAPES}", *last]) == 2
    error = capsys.readouterr().err
    assert error.endswith("\n")
    assert error[:-1].isprintable()


def test_a_bug_is_told_without_obeying_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fail(*_: object) -> None:
        raise RuntimeError(f"about {ESCAPES}")

    monkeypatch.setattr(formats, "read_dataset", fail)
    assert answer(["check", "x"]) == 3
    assert capsys.readouterr().err[:-1].isprintable()


def test_no_cell_is_a_formula() -> None:
    names = ["=1+1", "+1", "-2+3", "@SUM(1)", "\t=1", "a=1", "", None]
    table = as_cells(pl.DataFrame({"name": names, "number": [-1.5] * len(names)}))
    assert table["name"].to_list() == ["'=1+1", "'+1", "'-2+3", "'@SUM(1)", "'\t=1", "a=1", "", None]
    assert table["number"].to_list() == [-1.5] * len(names)


def test_what_is_handed_over_holds_no_formula(folder: Path) -> None:
    summary = orjson.loads((folder / "summary.json").read_bytes())
    place = folder / "stages" / summary["stages"]["issues"]
    issues = pl.read_parquet(place / "issues.parquet").with_columns(file_name='=HYPERLINK("x")' + pl.col("file_name"))
    issues.write_parquet(place / "issues.parquet")
    (place / "seconds.json").unlink()  # which notes how long the file was
    assert answer(["export", str(folder), "--to", "csv"]) == 0
    with open(folder / "handover" / "csv" / "issues.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert rows
    assert all(row["file_name"].startswith("'=HYPERLINK") for row in rows)


# Exit statuses


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ENFILE", "EFBIG", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "ENOMEM", "EROFS", "ENOSPC"])
def test_what_the_system_refuses_is_no_bug(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "/a/file")

    monkeypatch.setattr(formats, "read_dataset", fail)
    assert answer(["check", "x"]) == 2
    words = os.strerror(getattr(errno, name))
    assert capsys.readouterr().err == f"error: /a/file: {words}; mend that, and the same command goes on\n"


def test_too_little_memory_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(formats, "read_dataset", fail)
    assert answer(["check", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: the memory does not suffice; ")


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999999999999", "x"])
def test_a_port_that_is_none(port: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["review", str(folder), "--no-browser", "--port", port]) == 2
    assert "--port" in capsys.readouterr().err


def test_a_token_can_be_asked_for_on_this_machine_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detclean import review

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(review, "serve", lambda run, **settings: asked.append(settings))
    assert answer(["review", str(folder), "--no-browser"]) == 0
    assert answer(["review", str(folder), "--no-browser", "--token"]) == 0
    assert asked[0]["token"] is None
    assert len(asked[1]["token"]) >= 32
