"""What `kill_runs.py` does to runs beside killing them: other commands, full disks, data that go, two processes on one run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from disturb import (
    FULL,
    RENAMES,
    Place,
    Row,
    apart,
    at_call,
    count_calls,
    describe,
    die,
    finish,
    judge,
    kill,
    refuse,
    spread,
    start,
    wait,
)

NAMES = (*RENAMES, "unlink", "remove", "rmdir", "mkdir", "symlink")  # calls of the system that change what a folder lists

SIZE, LARGER = 4 << 20, 64 << 20  # bytes of the small file system, and of that for a run that trains
LINES = 1  # that an error may take


def refuse_renames(place: Place, most: int) -> Row:
    """No space at a rename: one clear line and status 2; with space again the same command goes on to the same end."""
    row = Row(f"{place.name}, no space at a rename")
    numbers = spread(count_calls(place.arguments, place.root, RENAMES, place.clear), most)
    place.clear()
    for number in numbers:
        place.ready()
        status, said = finish(place.arguments, place.root, at_call(number, RENAMES, refuse))
        row.strike(place, f"rename {number}", status != 0, complain(status, said, FULL))
    return row.finish(place)


def complain(status: int | None, said: str, wanted: str) -> str | None:
    """What is wrong with how a run says why it cannot go on; None where it is one line with `wanted` in it, or where it went on."""
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    if status == 0:
        return None
    if status != 2 or len(errors) != LINES or not re.search(wanted, errors[0]) or "Traceback" in said:
        return f"exit status {status}: {said.strip()[-300:]}"
    return None


def fill_disk(place: Place, times: int) -> list[Row]:
    """A run whose folder lies on a small file system with less and less room; only root can make one."""
    row, size = Row(f"{place.name}, a file system that is full"), LARGER if place.trains else SIZE
    disk = place.root / "runs"
    place.clear()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=False, capture_output=True)
    if done.returncode:
        print("  no file system could be mounted, so that is left out", flush=True)
        return []
    try:
        finish(place.arguments, place.root)
        needed = size - shutil.disk_usage(disk).free
        place.clear()
        for number in range(times):
            place.ready()
            room = needed * (number + 1) // (times + 1)
            (disk / "ballast").write_bytes(bytes(size - room))
            status, said = finish(place.arguments, place.root)
            (disk / "ballast").unlink()
            row.strike(place, f"{room:,} bytes of room", status != 0, complain(status, said, FULL))
        row.finish(place)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return [row]


def take_data(place: Place, times: int) -> list[Row]:
    """Half of the pictures, or of the label files, go at a rename: a clear line, or a run on what it had read. Put back, the same end."""
    data, kept = place.root / "data", place.root / "kept"
    shutil.copytree(data, kept)
    rows = []
    for what in ("images", "labels"):
        row = Row(f"{place.name}, half of the {what} removed in the middle")
        numbers = spread(count_calls(place.arguments, place.root, RENAMES, place.clear), times)
        place.clear()
        for number in numbers:
            place.ready()
            status, said = finish(place.arguments, place.root, at_call(number, RENAMES, taker(data / what / "train")))
            fault = complain(status, said, r"picture|image|label|No such file|\.png|\.txt|data")
            shutil.rmtree(data)
            subprocess.run(["cp", "-a", str(kept), str(data)], check=True)  # with the times they had
            row.strike(place, f"at rename {number}, status {status}", True, fault)
        rows.append(row.finish(place))
    shutil.rmtree(kept)
    return rows


def taker(folder: Path) -> Callable[[str], None]:
    def take(_: str) -> None:
        for path in sorted(folder.iterdir())[::2]:
            path.unlink()

    return take


def _stop_in_the_middle(place: Place, seconds: float) -> int:
    """A run that was stopped so long after it took its lock, or sooner where it has ended by then -> its process."""
    while True:
        place.clear()
        pid, lock = start(place.arguments, place.root), place.folder / "lock"
        while not lock.exists() or not lock.read_text():
            time.sleep(0.005)
        if wait(pid, seconds) is None:
            os.kill(pid, signal.SIGSTOP)
            return pid
        seconds /= 2


def start_twins(place: Place, times: int) -> list[Row]:
    """The second process is turned away in one line that names the first; when the first is dead, however, it is let in."""
    away, dead = Row("run beside another on one run folder"), Row("run after the holder of the lock was killed")
    rng = random.Random(0)
    for number in range(times):
        first = _stop_in_the_middle(place, rng.uniform(0, 0.3) * place.seconds)  # so that it cannot end while the other begins
        status, said = finish(place.arguments, place.root)
        fault = complain(status, said, f"another detclean \\(process {first}\\)") if status else "two ran at once"
        os.kill(first, signal.SIGCONT)
        if number % 2:
            ended = wait(first)
            away.note(f"try {number}", status == 2, fault or judge(place.expected, ended, "", [place.folder]))
            continue
        kill(first, group=True)
        away.note(f"try {number}", status == 2, fault)
        dead.note(f"process {first}", True, place.end())
    place.clear()
    place.folder.mkdir(parents=True)
    (place.folder / "lock").write_text("999999999")
    dead.note("a lock that names a process that is none", True, place.end())
    return [away, dead]


def kill_commands(place: Place, most: int) -> list[Row]:
    """Kills at every change of a name; the same command follows, and must end as if nothing had been."""
    run, root = str(place.folder), place.root
    apart(lambda: decide(place.folder))
    cases: list[tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]] = [
        ((), ("apply", run)),
        ((), ("apply", run, "--in-place")),
        ((("apply", run),), ("apply", run, "--auto", "0.01")),
        ((("apply", run, "--in-place"),), ("apply", run, "--in-place", "--auto", "0.01")),
        ((("apply", run),), ("undo", run)),
        ((("apply", run, "--in-place"),), ("undo", run)),
        ((), ("export", run, "--to", "coco")),
        ((("export", run, "--to", "yolo"),), ("export", run, "--to", "yolo", "--images", "all")),
        ((), ("health", run)),
    ]
    rows = []
    with _kept(root):
        for before, command in cases:
            rows.append(_kill_command(root, before, command, most))
    return rows


def kill_hard(place: Place, most: int) -> Row:
    """The same where new images are ranked by the models of a run that trains."""
    with _kept(place.root):
        images = str(place.root / "data" / "images" / "val")
        return _kill_command(place.root, (), ("hard", "--run", str(place.folder), "--images", images), most)


def decide(folder: Path) -> None:
    """Accepts every issue that proposes an edit."""
    from detclean.edit.decisions import Decision, DecisionLog
    from detclean.runfolder import open_run

    for issue in open_run(folder).issues.filter(_is_edit()).head(2).iter_rows(named=True):
        suggested = tuple(issue[f"suggested_{side}"] for side in ("x1", "y1", "x2", "y2"))
        given = tuple(issue[side] for side in ("x1", "y1", "x2", "y2"))
        xyxy = suggested if issue["suggested_x1"] is not None else given
        category = issue["suggested_category"] or issue["category"]
        gone = issue["action"] == "delete"
        known = {"given_category": issue["category"], "given_xyxy": None if issue["x1"] is None else given}
        what = {"category": None if gone else category, "xyxy": None if gone else xyxy, "annotation_id": issue["annotation_id"]}
        DecisionLog(folder).append([Decision(issue["issue_id"], "accept", issue["image_id"], **what, **known)])


def _is_edit() -> Any:
    import polars as pl

    return pl.col("action") != "review"


@contextmanager
def _kept(root: Path) -> Iterator[None]:
    """The data and the runs as they are, to be brought back by `_restore`."""
    for name in ("data", "runs"):
        shutil.copytree(root / name, root / f"kept-{name}", symlinks=True)
    yield
    _restore(root)


def _restore(root: Path) -> None:
    for name in ("data", "runs"):
        shutil.rmtree(root / name)
        shutil.copytree(root / f"kept-{name}", root / name, symlinks=True)


def _kill_command(root: Path, before: Sequence[Sequence[str]], command: Sequence[str], most: int) -> Row:
    def ready() -> None:
        _restore(root)
        for earlier in before:
            status, said = finish(earlier, root)
            if status != 0:
                raise SystemExit(f"{' '.join(earlier)} ends with {status}: {said}")

    options = [part for part in command[1:] if not part.startswith("/")]
    row = Row(f"{' '.join((command[0], *options))}{' over another' if before and command[0] != 'undo' else ''}, SIGKILL at a name")
    count = count_calls(command, root, NAMES, ready)
    expected = describe(root / "data", root / "runs" / "run")
    for number in spread(count, most):
        ready()
        status, _ = finish(command, root, at_call(number, NAMES, die))
        hit = status == -signal.SIGKILL
        status, said = finish(command, root)
        if command[0] == "undo" and status == 2 and "nothing is applied" in said:
            status = 0  # it had been taken back already, and says so
        row.note(f"call {number} of {count}", hit, judge(expected, status, said, [root / "data", root / "runs" / "run"]))
    return row


def kill_writers(root: Path, kills: int, rng: random.Random) -> Row:
    """What `append` has answered for is there after any kill, and what follows is not spoilt by what the kill left."""
    from detclean.edit.decisions import Decision, DecisionLog, read_decisions

    row = Row("decisions, SIGKILL while they are written")
    folder, kept = root / "decided", 0
    folder.mkdir()
    for number in range(kills):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            log = DecisionLog(folder)
            for i in range(100_000):
                log.append([Decision(f"{number}-{i}", "reject", "a picture", 1)])
                os.write(writer, b".")
        os.close(writer)
        os.read(reader, 1)
        time.sleep(rng.uniform(0, 0.1))
        kill(pid, group=False)
        kept += 1
        while more := len(os.read(reader, 65536)):
            kept += more
        os.close(reader)
        found = len(read_decisions(folder))
        row.note(f"{kept} acknowledged, {found} found", True, None if 0 <= found - kept <= number + 1 else "decisions are lost")
    return row
