"""The processes that read cases, one after another, and what is a fault there: time, memory, writes, words, and any other exception."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzzing.watch import Watch, list_names, list_tree

SECONDS, WAITING, GONE = 5.0, 10.0, 25.0  # of computing, of waiting, and when a child that says nothing is given up
MEMORY = 1 << 30
LONGEST = 6000  # characters of a message; a path alone can have 4,096
CASES_A_CHILD = 1500
SCRIPT = Path(__file__).resolve().parent.parent / "fuzz.py"


@dataclass(frozen=True)
class Outcome:
    """kind: result, error (a DetcleanError) or fault. detail: what was said, of a fault with its place in the code.

    damage: what of fuzzing/checklist.py the input held.
    """

    case: str
    kind: str
    detail: str
    seconds: float
    megabytes: float
    damage: list[str] = field(default_factory=list)


class TooSlow(BaseException):
    """Not an Exception: no reader is to take it for damage."""


def serve(root: Path, template: Path) -> None:
    """Reads cases' names, one a line, and answers each with an Outcome as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("error", RuntimeWarning)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _stop)
    for name in ("sync", "fsync"):  # a busy disk is no case's doing
        setattr(os, name, lambda *_: None)
    _warm_up(root, template)
    limit = _status("VmData") + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(root)
    for line in sys.stdin:
        outcome = run_case(line.strip(), root, template, watch)
        print(json.dumps(asdict(outcome)), file=answers, flush=True)


def _warm_up(root: Path, template: Path) -> None:
    """Whatever a library loads or starts when it is first used is no case's doing."""
    from fuzzing.inputs import Place
    from fuzzing.readers import READERS

    place = Place(root / "case", root / "work", template)
    for name, reader in READERS.items():
        for number in range(3):
            signal.setitimer(signal.ITIMER_REAL, 2 if number else WAITING)
            with contextlib.suppress(Exception, TooSlow):  # it is not yet counted
                reader.read(place, make_case(f"warm-{name}-{number}", root, template))
            signal.setitimer(signal.ITIMER_REAL, 0)


def make_case(case: str, root: Path, template: Path) -> random.Random:
    """The input of a case in root/case, and an empty root/work; answers the random numbers that go on from there."""
    from fuzzing.readers import READERS

    for folder in (root / "case", root / "work"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    reader = READERS[case.split("-")[1]]
    rng = random.Random(case)
    reader.make(rng, root / "case", *([template] if reader.templated else []))
    return rng


def run_case(case: str, root: Path, template: Path, watch: Watch | None = None) -> Outcome:
    """Makes and reads one case in this process. root: a folder of its own; case/ and work/ in it are made anew.

    watch: what tells of writes; with it time and memory are limited, too.
    """
    from detclean.errors import DetcleanError
    from fuzzing.checklist import list_damage
    from fuzzing.inputs import Place
    from fuzzing.readers import READERS

    rng = make_case(case, root, template)  # what this raises is a mistake of these scripts, and ends the process
    place = Place(root / "case", root / "work", template)
    damage = list_damage(place.case)
    before, around = list_tree(place.case), list_names(root)
    if watch:
        watch.strange.clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory counts anew
    began, computed = time.monotonic(), time.process_time()
    if watch:
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
    kind, detail = "result", ""
    try:
        READERS[case.split("-")[1]].read(place, rng)
    except DetcleanError as error:
        kind, detail = judge(error, place.case, place.work, template)
    except (Exception, TooSlow) as error:  # that is what is looked for
        kind, detail = "fault", _describe(error)
    finally:
        if watch:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, peak = time.process_time() - computed, _status("VmHWM")
    if kind != "fault" and watch and seconds > SECONDS:
        kind, detail = "fault", f"took {seconds:.1f} s of computing, {time.monotonic() - began:.1f} s in all"
    if kind != "fault" and watch and peak > MEMORY:
        kind, detail = "fault", f"took {peak >> 20} MiB"
    after = list_tree(place.case)
    if changed := [name for name in {*before, *after} if before.get(name) != after.get(name)]:
        kind, detail = "fault", f"the source was changed: {changed[:3]}"
    if strange := [*(watch.strange if watch else []), *(list_names(root) ^ around)]:
        kind, detail = "fault", f"written outside: {strange[:3]}"
    return Outcome(case, kind, detail, seconds, peak / (1 << 20), damage)


def judge(error: Exception, *places: Path) -> tuple[str, str]:
    """Whether a message says where: in a case's files, or those that it was made from."""
    said = str(error)
    below = [str(path) for place in places[:1] for path in place.iterdir()]
    names = (*map(str, places), "command line", "decision on ", "--", "labels/", *below)
    if len(said) > LONGEST:
        return "fault", f"a message of {len(said)} characters: {said[:200]}"
    damaged = os.path.isabs(said.partition(":")[0])  # the path of a file as a damaged run folder has it
    if not damaged and not any(name in said for name in names):
        return "fault", f"says no place: {said[:200]}"
    return "error", said[:300]


def _describe(error: BaseException) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/detclean/" in frame.filename or "/scripts/" in frame.filename]
    place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(own[-3:]))
    return f"{type(error).__name__} at {place}: {str(error)[:200]}"


def _stop(*_: object) -> None:
    raise TooSlow("time is up")


def _status(key: str) -> int:
    """Bytes, as /proc/self/status has them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0


class Child:
    """A process that reads cases, in a folder of its own below a watched one."""

    def __init__(self, home: Path, template: Path) -> None:
        self._command = [sys.executable, str(SCRIPT), "--serve", str(home / "watched" / "root"), "--template", str(template)]
        self.root = home / "watched" / "root"
        for name in ("watched/root/case", "watched/root/work", "home", "tmp"):
            (home / name).mkdir(parents=True, exist_ok=True)
        paths = {"HOME": home / "home", "TMPDIR": home / "tmp", "XDG_CONFIG_HOME": home / "home", "MPLCONFIGDIR": home / "home"}
        few = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._environment = os.environ | {name: str(path) for name, path in paths.items()} | few
        self._log = open(home / "stderr.txt", "a")  # noqa: SIM115  # as long as the process
        self._served = CASES_A_CHILD
        self._process: subprocess.Popen[str] | None = None

    def ask(self, case: str) -> Outcome:
        if self._served >= CASES_A_CHILD or self._process is None:
            self.stop()
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=self._environment, cwd=self.root.parent
            )
            self._served = 0
        self._served += 1
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child without pipes")
        process.stdin.write(case + "\n")
        process.stdin.flush()
        first = GONE if self._served > 1 else 3 * GONE
        ready, _, _ = select.select([process.stdout], [], [], first)
        answer = process.stdout.readline() if ready else ""
        if answer:
            return Outcome(**json.loads(answer))
        status = process.wait() if ready else None
        self.stop()
        return Outcome(case, "fault", "hangs" if not ready else f"its process died (status {status})", first, 0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
