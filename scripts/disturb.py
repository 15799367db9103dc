"""Runs as forks of this process, which can be disturbed, and what they end with: for `kill_runs.py`."""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BEFORE, AFTER = "before the stages", "after the stages"
PATIENCE = 1800.0  # seconds for one run
START = 0.05  # seconds until a fork begins with the first stage
RENAMES = ("rename", "replace")
SUMMARY = "summary.json"
TOLD = (SUMMARY, "compare.json")  # compared without their "seconds"
TIMED = ("run.log", "lock", *TOLD, "report.html", "health.json", "seconds.json", "reported", "healthy")  # tell times, or of them
LEFT_OUT = re.compile(r"(^|/)cache/|\.log$|\.jsonl$|\.cache$|(^|/)(ultralytics|view|prepare)/")
FULL = os.strerror(errno.ENOSPC)

Tamper = Callable[[], None]


@dataclass
class Row:
    """What came of one experiment: hit counts those that were really killed or refused, parts which of a run's they met; wrong names the
    ends that were others."""

    what: str
    ends: int = 0
    hit: int = 0
    same: int = 0
    wrong: list[str] = field(default_factory=list)
    parts: Counter[str] = field(default_factory=Counter)

    def note(self, what: str, hit: bool, fault: str | None) -> None:
        """An end that was compared."""
        self.ends += 1
        self.hit += hit
        self.same += fault is None
        if fault is not None:
            self.wrong.append(f"{what}: {fault}")
        print(f"  {self.what}, {what}: {'hit' if hit else 'not met'}, {fault or 'same end'}", flush=True)

    def strike(self, place: Place, what: str, hit: bool, fault: str | None = None) -> None:
        """A blow, and the end after it; of a run that trains the end comes later, in `finish`."""
        if place.trains and fault is None:
            self.hit += hit
            print(f"  {self.what}, {what}: {'hit' if hit else 'not met'}", flush=True)
        else:
            self.note(what, hit, fault or place.end())

    def finish(self, place: Place) -> Row:
        """After all blows."""
        if place.trains:
            self.note("to its end", False, place.end())
        return self


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
    return found | {
        f"{path.parent.name}/{path.name}": _timeless(path) for folder in folders for path in map(folder.joinpath, TOLD) if path.exists()
    }


def _timeless(path: Path) -> str:
    return str({key: value for key, value in orjson.loads(path.read_bytes()).items() if key != "seconds"})


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
    """root holds a data set, data, and runs; arguments make the run `folder`; what is there as it ends undisturbed.

    parts: what a run does one after the other, its stages among them, and the seconds that each takes.
    """

    name: str
    root: Path
    arguments: tuple[str, ...]
    folder: Path
    expected: dict[str, str]
    parts: dict[str, float]
    trains: bool

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self) -> None:
        """Before a blow: a run that trains goes on from where the last one has left it."""
        if not self.trains:
            self.clear()

    def end(self) -> str | None:
        """Runs it to its end and says what is not as it ends undisturbed."""
        status, said = finish(self.arguments, self.root)
        return judge(self.expected, status, said, [self.folder])

    def find_part(self, pid: int) -> str:
        """What the run of this process, or of one that was killed, was at: a stage, or what comes before and after them."""
        lock, names = self.folder / "lock", list(self.parts)[1:-1]
        with suppress(OSError):
            if lock.read_text() == str(pid):
                found = [path.name for path in (self.folder / "stages").glob("*-*")]
                begun = {name.rpartition("-")[0] for name in found if name.endswith(".partial")}
                over = {name.rpartition("-")[0] for name in found if not name.endswith(".partial")}
                return next((name for name in names if name in begun or name not in over), AFTER)
        return BEFORE


def prepare(root: Path, *, trains: bool = False) -> Place:
    """A tiny data set, and what a run on it ends with."""
    tiny: Any = importlib.import_module("tiny")
    root.mkdir(parents=True)
    scenes = tiny.make_scenes()
    if trains:
        scenes = [*scenes[:14], *scenes[-2:]]
    tiny.write_yolo(root / "data", scenes)
    common: dict[str, Any] = {"name": "run", "runs": str(root / "runs"), "data": str(root / "data" / "data.yaml"), "workers": 1}
    common["report"] = {"image_quality": False}
    if trains:
        tiny.write_model(root / "tiny-yolo11n.yaml")
        own = {"epochs": 2, "imgsz": 32, "batch": 8, "device": "cpu", "workers": 0}
        training = {"model": "tiny-yolo11n.yaml", "folds": {"k": 2}, "train": own, "predict": {"conf": 0.0001}}
        everything = {"method": "both", "crops": "always", "issues": {"budget": 8}, "score": {"planting_rounds": 3}}
        tiny.write_config(root / "config.yaml", **common, **training, **everything)
    else:
        tiny.write_results(root / "results.json", scenes, "yolo")
        brought = {"predictions": str(root / "results.json"), "issues": {"budget": 12}, "score": {"planting_rounds": 5}}
        tiny.write_config(root / "config.yaml", **common, **brought)
    folder = root / "runs" / "run"
    return settle_on("run that trains" if trains else "run", root, ("run", "config.yaml"), folder, trains)


def settle_on(name: str, root: Path, arguments: tuple[str, ...], folder: Path, trains: bool) -> Place:
    """What a command ends with that nobody disturbs, and how long its parts take."""
    begun = time.monotonic()
    status, said = finish(arguments, root)
    if status != 0:
        raise SystemExit(f"the undisturbed {name} ends with {status}: {said}")
    took = next(orjson.loads((folder / told).read_bytes())["seconds"] for told in TOLD if (folder / told).exists())
    rest = max(time.monotonic() - begun - sum(took.values()), 0.0)
    return Place(name, root, arguments, folder, describe(folder), {BEFORE: START, **took, AFTER: rest}, trains)


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
    return list(range(1, count + 1)) if count <= most else sorted({1 + round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
