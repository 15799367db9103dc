"""Does to runs what real machines do to them, and holds what comes out after it against an undisturbed run.

    python scripts/kill_runs.py                      everything below, some minutes on two free cores
    python scripts/kill_runs.py moments --kills 50   SIGKILL at random moments of a run whose detections are brought
    python scripts/kill_runs.py renames              SIGKILL at every rename of such a run
    python scripts/kill_runs.py commands             SIGKILL at every change of a name in apply, undo, export, health and hard
    python scripts/kill_runs.py decisions            SIGKILL while decisions are being written
    python scripts/kill_runs.py training --kills 12  SIGKILL at random moments of a run that trains, again and again, and then to its end
    python scripts/kill_runs.py disk                 a full disk: at every rename, and (as root) a small file system of its own
    python scripts/kill_runs.py data                 pictures and labels go while the run works on them
    python scripts/kill_runs.py twins                two processes on one run folder, and the lock of a dead one

Runs are forks of this process that do what `python -m detclean` does. Each line of the table says how often it was tried, how often the
process was really killed or refused, and how often the end was the same to the byte: tables, lists, labels, patches, stages. Left out of
that are logs, lengths of time, and weights (which hold the time at which they were saved); that the issues are the same speaks for them.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PATIENCE = 900.0  # seconds for one run
RENAMES = ("rename", "replace")
SUMMARY = "summary.json"
TIMED = ("run.log", "lock", SUMMARY, "report.html", "health.json", "seconds.json", "reported", "healthy")  # tell times, or of them
LEFT_OUT = re.compile(r"(^|/)cache/|\.log$|\.jsonl$|\.pt$|\.cache$|(^|/)(ultralytics|view|prepare)/")
FULL = os.strerror(errno.ENOSPC)

Tamper = Callable[[], None]


@dataclass
class Row:
    """What came of one experiment: hit counts the runs that were really killed or refused; wrong names those that ended otherwise."""

    what: str
    tried: int = 0
    hit: int = 0
    same: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str, hit: bool, fault: str | None) -> None:
        self.tried += 1
        self.hit += hit
        self.same += fault is None
        if fault is not None:
            self.wrong.append(f"{what}: {fault}")
        print(f"  {self.what}, {what}: {'hit' if hit else 'not met'}, {fault or 'same end'}", flush=True)


# A run as a process


def start(arguments: Sequence[str], place: Path, tamper: Tamper | None = None) -> int:
    """A fork that does what `python -m detclean ARGUMENTS` does, leader of a process group of its own -> its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        os.chdir(place)
        told = os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1)
        os.dup2(told, 2)
        if tamper is not None:
            tamper()
        from detclean.cli import answer

        status = answer(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def apart(work: Callable[[], None]) -> None:
    """Does something in a fork, since polars' threads, once begun, do not survive in the forks that come after."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("a fork failed")


def preload() -> None:
    """What every run imports, once."""
    for name in ("detclean.cli", "detclean.pipeline", "detclean.config", "detclean.score.objectlab", "matplotlib.figure", "xgboost"):
        importlib.import_module(name)


def wait(pid: int, seconds: float = PATIENCE) -> int | None:
    """The exit status of a fork, negative for a signal; None where it goes on."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def finish(arguments: Sequence[str], place: Path, tamper: Tamper | None = None) -> tuple[int | None, str]:
    """Starts one and waits -> its exit status and what it said."""
    pid = start(arguments, place, tamper)
    status = wait(pid)
    if status is None:
        kill(pid, group=True)
    return status, (place / "said.txt").read_text(errors="replace") if (place / "said.txt").exists() else ""


def kill(pid: int, group: bool) -> None:
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def on_calls(names: Sequence[str], act: Callable[[int, str], None]) -> Tamper:
    """Does `act` just before each call of these functions of `os`, with its number, in no other process than the one it began in."""

    def tamper() -> None:
        mine, count = os.getpid(), 0

        def watch(original: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*given: Any, **more: Any) -> Any:
                nonlocal count
                if os.getpid() == mine:
                    count += 1
                    act(count, str(given[-1]))
                return original(*given, **more)

            return watched

        for name in names:
            setattr(os, name, watch(getattr(os, name)))

    return tamper


def at_call(number: int, names: Sequence[str], act: Callable[[str], None]) -> Tamper:
    return on_calls(names, lambda count, path: act(path) if count == number else None)


def die(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(path: str) -> None:
    raise OSError(errno.ENOSPC, FULL, path)


# What came out


def describe(*folders: Path) -> dict[str, str]:
    """A digest of every file that answers depend on; links by where they lead."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            if path.name in TIMED or LEFT_OUT.search(name):
                continue
            if path.is_symlink():
                found[name] = f"link to {os.readlink(path)}"
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | {f"{folder.name}/{SUMMARY}": _timeless(folder) for folder in folders if (folder / SUMMARY).exists()}


def _timeless(folder: Path) -> str:
    summary = orjson.loads((folder / SUMMARY).read_bytes())
    return str({key: value for key, value in summary.items() if key != "seconds"})


def differ(expected: dict[str, str], found: dict[str, str]) -> str | None:
    """The first files that are not the same; None where all are."""
    names = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    return None if not names else f"{len(names)} files differ: {', '.join(names[:3])}"


def judge(expected: dict[str, str], status: int | None, said: str, folders: Sequence[Path]) -> str | None:
    if status != 0:
        return f"exit status {status}: {said.strip()[-300:]}"
    for folder in folders:
        if left := [path for path in folder.rglob("*.partial*") if "cache" not in path.parts]:
            return f"left behind: {left[0]}"
        if (folder / "summary.json").exists() and not (folder / "report.html").read_text().rstrip().endswith("</html>"):
            return "report.html has no end"
    return differ(expected, describe(*folders))


@dataclass(frozen=True)
class Place:
    """root holds a data set, data, and runs; arguments make the run `folder`; as it ends undisturbed, in `seconds`."""

    root: Path
    arguments: tuple[str, ...]
    folder: Path
    expected: dict[str, str]
    seconds: float

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self) -> str | None:
        """Runs it to its end and says what is not as it ends undisturbed."""
        status, said = finish(self.arguments, self.root)
        return judge(self.expected, status, said, [self.folder])


def prepare(root: Path, *, trains: bool = False) -> Place:
    """A tiny data set, and what a run on it ends with."""
    tiny: Any = importlib.import_module("tiny")
    root.mkdir(parents=True)
    scenes = tiny.make_scenes()
    if trains:
        scenes = [*scenes[:14], *scenes[-2:]]
    tiny.write_yolo(root / "data", scenes)
    common: dict[str, Any] = {"name": "run", "runs": str(root / "runs"), "data": str(root / "data" / "data.yaml"), "workers": 1}
    if trains:
        tiny.write_model(root / "tiny-yolo11n.yaml")
        own = {"epochs": 2, "imgsz": 32, "batch": 8, "device": "cpu", "workers": 0}
        training = {"model": "tiny-yolo11n.yaml", "folds": {"k": 2}, "train": own, "predict": {"conf": 0.0001}, "crops": "never"}
        tiny.write_config(root / "config.yaml", **common, **training, issues={"budget": 8}, score={"planting_rounds": 3})
    else:
        tiny.write_results(root / "results.json", scenes, "yolo")
        brought = {"predictions": str(root / "results.json"), "issues": {"budget": 12}, "score": {"planting_rounds": 5}}
        tiny.write_config(root / "config.yaml", **common, **brought, report={"image_quality": False})
    arguments, folder = ("run", "config.yaml"), root / "runs" / "run"
    begun = time.monotonic()
    status, said = finish(arguments, root)
    if status != 0:
        raise SystemExit(f"the undisturbed run ends with {status}: {said}")
    return Place(root, arguments, folder, describe(folder), time.monotonic() - begun)


# Experiments


def kill_at_moments(place: Place, kills: int, rng: random.Random) -> Row:
    """Every other one loses its parent alone, whose children have to notice."""
    row, seconds = Row("run, SIGKILL at a random moment"), place.seconds
    while row.hit < kills and row.tried < 3 * kills:
        place.clear()
        group, moment, begun = row.tried % 2 == 0, rng.uniform(0, seconds), time.monotonic()
        pid = start(place.arguments, place.root)
        ended = wait(pid, moment)
        if ended is None:
            kill(pid, group)
        else:
            seconds = time.monotonic() - begun  # the machine has become quicker
        stages = [path for path in (place.folder / "stages").glob("*-*") if path.suffix != ".partial"]
        row.note(f"{moment:.2f} s, {'group' if group else 'parent'}, after {len(stages)} stages", ended is None, place.end())
    return row


def kill_at_renames(place: Place, most: int) -> Row:
    row = Row("run, SIGKILL at a rename")
    for number in spread(count_calls(place.arguments, place.root, RENAMES, place.clear), most):
        place.clear()
        status, _ = finish(place.arguments, place.root, at_call(number, RENAMES, die))
        row.note(f"rename {number}", status == -signal.SIGKILL, place.end())
    return row


def count_calls(arguments: Sequence[str], root: Path, names: Sequence[str], restore: Callable[[], None]) -> int:
    """How often an undisturbed command calls these functions."""
    restore()
    log = root / "calls.txt"
    log.write_text("")

    def count(number: int, path: str) -> None:
        with open(log, "a") as f:
            f.write(".")

    finish(arguments, root, on_calls(names, count))
    return log.stat().st_size


def spread(count: int, most: int) -> list[int]:
    """1..count, or `most` of them evenly."""
    return list(range(1, count + 1)) if count <= most else sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


def kill_training(place: Place, kills: int, rng: random.Random) -> Row:
    """Again and again on one run folder, a few seconds further each time, and then to its end: once per round."""
    row, seconds = Row("run that trains, SIGKILL at a random moment"), place.seconds
    place.clear()
    while row.hit < kills:
        group, moment, begun = row.hit % 2 == 0, rng.uniform(0.05, 0.5) * seconds, time.monotonic()
        pid = start(place.arguments, place.root)
        ended = wait(pid, moment)
        if ended is None:
            kill(pid, group)
            stage = max((path.name for path in (place.folder / "stages").glob("*.partial")), default="between stages")
            row.note(f"{moment:.1f} s, {'group' if group else 'parent'}, in {stage.split('-')[0]}", True, None)
            continue
        seconds = max(time.monotonic() - begun, 2.0)
        row.note("to its end", False, judge(place.expected, ended, (place.root / "said.txt").read_text(), [place.folder]))
        place.clear()
    row.note("to its end", False, place.end())
    return row


def main() -> None:
    from break_runs import fill_disk, kill_commands, kill_writers, refuse_renames, start_twins, take_data

    everything = ("moments", "renames", "commands", "decisions", "disk", "data", "twins", "training")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(everything)}; all if not said")
    parser.add_argument("--kills", type=int, default=None, help="kills at random moments: 50, of decisions 20, in training 12")
    parser.add_argument("--most", type=int, default=10_000, help="at most so many of the places where a kill is possible, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := [name for name in given.what if name not in everything]:
        parser.error(f"{unknown[0]}: is none of {', '.join(everything)}")
    wanted, rng = given.what or everything, random.Random(given.seed)
    preload()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as name:
        root = Path(name).resolve()
        place = prepare(root / "brought") if {*wanted} - {"training", "decisions"} else None
        for what in wanted:
            begun = time.monotonic()
            if what == "training":
                rows.append(kill_training(prepare(root / "trained", trains=True), given.kills or 12, rng))
            elif what == "decisions":
                rows.append(kill_writers(root, given.kills or 20, rng))
            elif place is not None:
                if not place.folder.is_dir():
                    finish(place.arguments, place.root)
                rows += {
                    "moments": lambda: [kill_at_moments(place, given.kills or 50, rng)],
                    "renames": lambda: [kill_at_renames(place, given.most)],
                    "commands": lambda: kill_commands(place, given.most),
                    "disk": lambda: [refuse_renames(place, given.most), *fill_disk(place, min(given.most, 12))],
                    "data": lambda: take_data(place),
                    "twins": lambda: start_twins(place),
                }[what]()
            print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
    print_table(rows)
    sys.exit(1 if any(row.wrong for row in rows) else 0)


def print_table(rows: Sequence[Row]) -> None:
    print("\n| what was done | tried | killed or refused | same end |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row.what} | {row.tried} | {row.hit} | {row.same} |")
    print(f"| together | {sum(row.tried for row in rows)} | {sum(row.hit for row in rows)} | {sum(row.same for row in rows)} |")
    for row in rows:
        for fault in row.wrong:
            print(f"WRONG {row.what}: {fault}")


if __name__ == "__main__":
    sys.modules["kill_runs"] = sys.modules["__main__"]  # what break_runs imports is this, and not a second one
    main()
