"""The child processes of `yolo.py`: how they are started and run side by side, what they say, and why they ended."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from detclean.errors import StageError
from detclean.files import is_whole, write_whole

POLL_SECONDS = 0.3
ARRIVAL_SECONDS = 60.0  # after which a network file system has shown what another machine wrote
NEARLY_FULL = 64 << 10  # bytes: with less left on a disk the next line may not have been written
UNFINISHED_BAR = re.compile(r"\b\d\d?% [━─╸]")  # Ultralytics draws a progress bar anew and anew
MODEL_ENDINGS, OWN_FILES = (".pt", ".yaml", ".yml"), ("state.pt", "data.yaml")  # of a child's folder

SAFE_LOAD = "ULTRALYTICS_SAFE_LOAD"  # where it is true, Ultralytics opens a .pt without running what it says, and evaluates no layout
FOREIGN_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ULTRALYTICS_API_KEY", "PYTEST_CURRENT_TEST")


class Display(Protocol):
    """Where progress goes."""

    def task(self, key: str, description: str, total: float) -> None:
        """A task of `total` steps that will come."""

    def advance(self, key: str, done: float, total: float, note: str) -> None:
        """`done` of `total` steps of the task `key`."""

    def log(self, text: str) -> None:
        """A line for the log alone."""

    def say(self, text: str) -> None:
        """A line for the person and the log."""


class Silence:
    """A display that shows nothing."""

    def task(self, key: str, description: str, total: float) -> None: ...

    def advance(self, key: str, done: float, total: float, note: str) -> None: ...

    def log(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


class Child(Protocol):
    """A process that works on a job, here or elsewhere."""

    def poll(self) -> int | None:
        """Its exit status, as subprocess has it; None while it works."""

    def kill(self) -> None:
        """Ends it at once."""

    def wait(self) -> int:
        """Its exit status, once it has ended."""


class Executor(Protocol):
    """Other machines to work on; they see the folders of this one under the same paths."""

    at_once: int | None  # jobs; None: as many as there is room for

    def count_gpus(self) -> int:
        """CUDA devices on all machines together."""

    def start(self, job: dict[str, Any], folder: Path) -> Child:
        """What `start_job` does, on any machine that has room; a child that is lost with its machine is started again."""


@dataclass(frozen=True)
class Job:
    """What one child does: its name for a person, its folder, the file that it writes whole and last, its own settings."""

    key: str
    folder: Path
    marker: Path
    settings: Mapping[str, Any]


def is_done(key: str, files: Sequence[Path], display: Display) -> bool:
    """Whether all that a job leaves is there, its marker among them. What is cut goes, so that the job is done again and it alone."""
    if not all(path.exists() for path in files):
        return False
    damaged = [path for path in files if not is_whole(path)]
    for path in damaged:
        display.say(f"{path}: is damaged, so {key} is done again")
        path.unlink()
    return not damaged


def start_job(job: dict[str, Any], folder: Path, offline: bool = True) -> subprocess.Popen[bytes]:
    """A child that runs a job in its folder, with its output at the end of `train.log`."""
    out = folder.parents[1] if folder.name != "prepare" else folder.parent
    private = str(out / "ultralytics")
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    environment |= {name: private for name in ("YOLO_CONFIG_DIR", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TORCH_HOME")}
    environment["TORCHINDUCTOR_CACHE_DIR"] = private  # else a folder in the system's temporary one
    environment.setdefault(SAFE_LOAD, "true")
    environment |= {"YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "true", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    environment |= {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # small products only, for which threads are dearer than the work
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait take four times as long on a busy machine
    if offline:
        environment["YOLO_OFFLINE"] = "true"
    root = Path(__file__).resolve().parents[2]
    if root.name != "site-packages":  # a checkout that may not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    for stranger in (path for ending in MODEL_ENDINGS for path in folder.glob(f"*{ending}")):
        if stranger.name not in OWN_FILES:  # Ultralytics looks for models in the working directory first
            stranger.unlink()
    write_whole(folder / "job.json", orjson.dumps(job | {"parent": os.getpid()}))
    # -P, as a file of the user's in the working directory must not hide a module
    command = [sys.executable, "-P", "-m", "detclean.detect.yolo_worker", str(folder / "job.json")]
    with open(folder / "train.log", "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment)


def end_job(child: Child) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()


@dataclass
class Tail:
    """A growing file and how much of it was read."""

    path: Path
    offset: int

    def read(self, to_the_end: bool = False) -> list[str]:
        """The lines that came since, whole ones only unless the file is at its end."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as f:
            f.seek(self.offset)
            new = f.read()
        length = len(new) if to_the_end else max(new.rfind(b"\n"), new.rfind(b"\r")) + 1
        self.offset += length
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", new[:length].decode(errors="replace"))
        return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def describe_end(code: int, log: Path) -> str:
    """Why a child ended, in one line: the last error in its log, or its last line, and where the log is."""
    lines = Tail(log, 0).read(to_the_end=True)
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    last = (errors or lines or ["it wrote nothing"])[-1].removeprefix("detclean.errors.StageError: ").rstrip(".")
    if code > 0 and shutil.disk_usage(log.parent).free < NEARLY_FULL:
        last = f"{os.strerror(errno.ENOSPC)} (last line: {last})"  # its own error may have found no space in the log
    if code < 0:
        last = f"killed by {signal.Signals(-code).name}, perhaps for want of memory (last line: {last})"
    return f"{last}; see {log}, then run again to resume"


@dataclass
class Running:
    """A job that a child works on."""

    job: Job
    child: Child
    log: Tail
    progress: Tail
    waited: float = 0.0  # s since its end for what it wrote


def run_jobs(
    jobs: Sequence[Job], slots: Sequence[str], common: Mapping[str, Any], display: Display, executor: Executor | None = None
) -> None:
    """All jobs, as many at a time as there are slots (a device each), or as an executor has room for.

    Where one fails the others are stopped; all can be resumed.
    """
    start: Callable[[dict[str, Any], Path], Child] = start_job
    patience = 0.0
    if executor is not None:
        start, patience = executor.start, ARRIVAL_SECONDS
        slots = [slots[0]] * min(len(jobs), executor.at_once or len(jobs))
    waiting = deque(jobs)
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            for slot, device in enumerate(slots):
                if waiting and slot not in running:
                    running[slot] = _start(waiting.popleft(), device, common, start)
            time.sleep(POLL_SECONDS)
            for slot, one in list(running.items()):
                code = one.child.poll()
                _forward(one, display, to_the_end=code is not None)
                if code is None:
                    continue
                if code == 0 and one.waited < patience and not one.job.marker.exists():
                    one.waited += POLL_SECONDS
                    continue
                del running[slot]
                if code or not one.job.marker.exists():
                    raise StageError(f"{one.job.key}: {common['task']} failed: {describe_end(code, one.log.path)}")
    finally:
        for one in running.values():
            end_job(one.child)


def _start(job: Job, device: str, common: Mapping[str, Any], start: Callable[[dict[str, Any], Path], Child]) -> Running:
    files = (job.folder / "train.log", job.folder / "progress.jsonl")
    log, progress = (Tail(path, path.stat().st_size if path.exists() else 0) for path in files)
    described = {**common, **job.settings, "device": device, "folder": str(job.folder)}
    return Running(job, start(described, job.folder), log, progress)


def _forward(one: Running, display: Display, to_the_end: bool) -> None:
    for line in one.log.read(to_the_end):
        if not UNFINISHED_BAR.search(line):
            display.log(f"{one.job.key}: {line}")
    for line in one.progress.read(to_the_end):
        step = orjson.loads(line)
        display.advance(one.job.key, step["done"], step["total"], step["note"])
