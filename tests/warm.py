"""Children of detclean forked from one process that has imported Ultralytics already, which takes each of them seconds otherwise.

They do what the others do, and end with the same bits. How children start, end with their parent and keep to themselves is tested with real
ones: in all of test_pipeline.py, in `undisturbed` of test_detect.py and test_dynamics.py, and wherever something is killed.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from detclean.cli import answer
from detclean.detect import yolo_process, yolo_settings

PLACES: list[Path] = []  # conftest.py puts the one in where the process lives
HOME = """
import importlib, os, sys, traceback
answers = open(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)
import orjson
from detclean.detect import yolo_worker
for name in ("crops", "dynamics", "features", "predict", "probe", "train"):
    importlib.import_module(f"detclean.detect.yolo_{name}")

def work(asked):
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = ["yolo_worker", asked["job"]]
    yolo_worker.die_with = lambda parent: None  # it is no child of whoever asks
    yolo_worker.main()

for line in sys.stdin.buffer:
    asked = orjson.loads(line)
    if "job" in asked:
        pid = answer = os.fork()
        if not pid:
            status = 1
            try:
                work(asked)
                status = 0
            except SystemExit as ended:
                status = ended.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)
    else:
        ended, status = os.waitpid(asked["pid"], 0 if asked["wait"] else os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if ended else None
    answers.write(orjson.dumps([answer]) + b"\\n")
"""


@cache
def open_home() -> subprocess.Popen[bytes]:
    place = PLACES[0]
    settings = place / "Ultralytics" / "settings.json"
    settings.parent.mkdir()
    settings.write_bytes(orjson.dumps(yolo_settings._private_settings(place)))
    own = os.environ | {"YOLO_CONFIG_DIR": str(place), "MPLCONFIGDIR": str(place), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    own |= {"YOLO_VERBOSE": "true", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    own |= {"OMP_WAIT_POLICY": "passive", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    pipe = subprocess.PIPE
    home = subprocess.Popen([sys.executable, "-P", "-c", HOME], stdin=pipe, stdout=pipe, env=own, cwd=place)
    atexit.register(home.kill)
    return home


def ask(**asked: Any) -> Any:
    home = open_home()
    assert home.stdin is not None
    assert home.stdout is not None
    home.stdin.write(orjson.dumps(asked) + b"\n")
    home.stdin.flush()
    return orjson.loads(home.stdout.readline())[0]


class WarmChild:
    """What `subprocess.Popen` is to those who start children."""

    def __init__(self, command: list[str], **given: Any) -> None:
        assert command[1:4] == ["-P", "-m", "detclean.detect.yolo_worker"]
        self.status: int | None = None
        log = os.path.abspath(given["stdout"].name)
        self.pid = ask(job=command[4], folder=str(given["cwd"]), log=log, environment=given["env"])

    def poll(self) -> int | None:
        if self.status is None:
            self.status = ask(pid=self.pid, wait=False)
        return self.status

    def wait(self) -> int:
        if self.status is None:
            self.status = ask(pid=self.pid, wait=True)
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def warm_children() -> Iterator[None]:
    """Within it children are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yolo_process, "subprocess", Forking)
        yield


def answer_warm(place: Path, *arguments: str) -> None:
    """What `python -m detclean ARGUMENTS` does in a working directory, in this process; it must go well and complain of nothing."""
    said, complained = io.StringIO(), io.StringIO()
    with warm_children(), chdir(place), redirect_stdout(said), redirect_stderr(complained):
        status = answer(list(arguments))
    assert (status, complained.getvalue()) == (0, ""), said.getvalue()


class Forking:
    """What `yolo_process` takes from `subprocess`."""

    Popen = WarmChild
    DEVNULL = subprocess.DEVNULL
