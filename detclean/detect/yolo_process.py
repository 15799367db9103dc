"""The child processes of `yolo.py`: how they are started, what they say, and why they ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from detclean.files import write_whole

FOREIGN_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ULTRALYTICS_API_KEY", "PYTEST_CURRENT_TEST")


def start_job(job: dict[str, Any], folder: Path, offline: bool = True) -> subprocess.Popen[bytes]:
    """A child that runs a job in its folder, with its output at the end of `train.log`."""
    out = folder.parents[1] if folder.name != "prepare" else folder.parent
    private = str(out / "ultralytics")
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    environment |= {name: private for name in ("YOLO_CONFIG_DIR", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TORCH_HOME")}
    environment |= {"YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "true", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    environment |= {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")}
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait take four times as long on a busy machine
    if offline:
        environment["YOLO_OFFLINE"] = "true"
    root = Path(__file__).resolve().parents[2]
    if root.name != "site-packages":  # a checkout that may not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    write_whole(folder / "job.json", orjson.dumps(job | {"parent": os.getpid()}))
    # -P, as a file of the user's in the working directory must not hide a module
    command = [sys.executable, "-P", "-m", "detclean.detect.yolo_worker", str(folder / "job.json")]
    with open(folder / "train.log", "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment)


def end_job(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


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
    if code < 0:
        last = f"killed by {signal.Signals(-code).name}, perhaps for want of memory (last line: {last})"
    return f"{last}; see {log}, then run again to resume"
