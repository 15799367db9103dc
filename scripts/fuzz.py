"""Damaged input for every reader, by the ten thousand: each has to give a result or a DetcleanError with file and place.

    python scripts/fuzz.py                              20,000 inputs over all readers: a table
    python scripts/fuzz.py --count 500 --readers coco yolo --seed 7
    python scripts/fuzz.py --again 20260101-coco-17     one case once more, with its traceback; its input stays in --out

A case is a good input of a reader with a few changes (scripts/fuzz_readers.py, fuzz_mutate.py), named SEED-READER-NUMBER: the same name
makes the same input. It is read in a child process that serves many cases, and what was read goes on as in a run: audit, tables, issue
lists, a cleaned copy that is read again. A fault is: any other exception; a message without its file, or longer than a person reads;
more than 5 s of computing, or 10 s of waiting (the machine may be busy); more than 1 GiB; a file that appears, changes or goes anywhere but
in the folder to be written; a child that dies. The input of every fault is kept below --out, by the case's name,
with what was said. The run folder that some readers need is made first, from tests/finished.py. Exit status 1 where there are faults.
"""

from __future__ import annotations

import argparse
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
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

SECONDS, WAITING, GONE = 5.0, 10.0, 25.0  # of computing, of waiting, and when a child that says nothing is given up
MEMORY = 1 << 30
LONGEST = 6000  # characters of a message; a path alone can have 4,096
CASES_A_CHILD = 1500
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TESTS = Path(__file__).resolve().parent.parent / "tests"
HARMLESS = ("/dev/", "/proc/")


@dataclass(frozen=True)
class Outcome:
    """kind: result, error (a DetcleanError) or fault. detail: what was said, of a fault with its place in the code."""

    case: str
    kind: str
    detail: str
    seconds: float
    megabytes: float


class TooSlow(BaseException):
    """Not an Exception: no reader is to take it for damage."""


# The children


class Watch:
    """Which writes of this process go where they should not; Python tells of every one that it makes itself."""

    def __init__(self, root: Path) -> None:
        self.root, self.allowed, self.strange = root, root / "work", list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            targets = [path] if isinstance(flags, int) and flags & WRITING else []
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"):
            below = event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] != -1  # of an open folder: shutil.rmtree told of it
            targets = [] if below else [arguments[0]]
        elif event in ("os.rename", "os.link"):
            targets = list(arguments[:2]) if event == "os.rename" else [arguments[1]]
        elif event == "os.symlink":
            targets = [arguments[1]]
        else:
            return
        for target in targets:
            if isinstance(target, str | bytes | os.PathLike) and self.root.exists():
                name = os.path.abspath(os.fsdecode(target))
                parent = os.path.realpath(os.path.dirname(name))
                if not f"{parent}/".startswith(f"{self.allowed}/") and name != str(self.allowed) and not name.startswith(HARMLESS):
                    self.strange.append(f"{event} {name}")


def list_tree(folder: Path) -> dict[str, Any]:
    """Every file, folder and link below a folder with its content, or what tells that this is another one."""
    found: dict[str, Any] = {}
    for here, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(here, name)
            state = os.lstat(path)
            key = os.fsdecode(path)
            found[key] = os.readlink(path) if os.path.islink(path) else (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino)
    return found


def serve(root: Path, template: Path) -> None:
    """Reads cases' names, one a line, and answers each with an Outcome as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from fuzz_readers import READERS, Place, read_images  # noqa: F401  # all of detclean, before the memory is counted

    warnings.simplefilter("error", RuntimeWarning)
    for name, act in ((signal.SIGPROF, _stop), (signal.SIGALRM, _stop)):
        signal.signal(name, act)
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
    from fuzz_readers import READERS, Place

    for name, (make, read, _) in READERS.items():
        place = Place(root / "case", root / "work", template)
        for number in range(3):
            signal.setitimer(signal.ITIMER_REAL, 2 if number else WAITING)
            with contextlib.suppress(Exception, TooSlow):  # it is not yet counted
                read(place, _make(name, number, place, make))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _make(reader: str, seed: Any, place: Any, make: Any) -> random.Random:
    from fuzz_readers import NEEDS_TEMPLATE

    for folder in (place.case, place.work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    rng = random.Random(str(seed))
    make(rng, place.case, *([place.template] if reader in NEEDS_TEMPLATE else []))
    return rng


def run_case(case: str, root: Path, template: Path, watch: Watch | None = None) -> Outcome:
    """Makes and reads one case in this process. root: a folder of its own; case/ and work/ in it are made anew."""
    from fuzz_readers import READERS, Place

    from detclean.errors import DetcleanError

    reader = case.split("-")[1]
    make, read, _ = READERS[reader]
    place = Place(root / "case", root / "work", template)
    rng = _make(reader, case, place, make)
    before = list_tree(root / "case")
    around = [entry.name for entry in sorted(root.parent.iterdir())] + [entry.name for entry in sorted(root.iterdir())]
    if watch:
        watch.strange.clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory counts anew
    began, computed = time.monotonic(), time.process_time()
    if watch:
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
    kind, detail = "result", ""
    try:
        read(place, rng)
    except DetcleanError as error:
        kind, detail = _judge(error, place.case, place.work)
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
    after = list_tree(root / "case")
    if changed := [name for name in {*before, *after} if before.get(name) != after.get(name)]:
        kind, detail = "fault", f"the source was changed: {changed[:3]}"
    now = [entry.name for entry in sorted(root.parent.iterdir())] + [entry.name for entry in sorted(root.iterdir())]
    strange = [*(watch.strange if watch else []), *({*now} ^ {*around})]
    if strange:
        kind, detail = "fault", f"written outside: {strange[:3]}"
    return Outcome(case, kind, detail, seconds, peak / (1 << 20))


def _judge(error: Exception, case: Path, work: Path) -> tuple[str, str]:
    """Whether a message says where."""
    said = str(error)
    names = (str(case), str(work), "command line", "decision on ", "--", *(str(path) for path in case.iterdir()))
    if len(said) > LONGEST:
        return "fault", f"a message of {len(said)} characters: {said[:200]}"
    if not any(name in said for name in names):
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


# The parent


def make_template(folder: Path) -> None:
    """A finished run with a health report, a comparison and an applied decision, and what would come back from annotation tools."""
    sys.path.insert(0, str(TESTS))
    finished, simulated = import_module("finished"), import_module("simulated")
    import orjson

    from detclean.edit.decisions import Decision, DecisionLog
    from detclean.handover import export_run
    from detclean.health import measure_health, write_health
    from detclean.measure.comparison import Version, compare_versions
    from detclean.pipeline.apply import apply_decisions
    from detclean.runfolder import open_run

    run = open_run(finished.finish_run(folder))
    back = folder / "back"
    back.mkdir()
    for tool in ("labelstudio", "cvat", "coco"):
        export_run(run, tool, folder / tool)
    tasks = orjson.loads((folder / "labelstudio" / "tasks.json").read_bytes())
    answered = [
        {"id": i, "data": task["data"], "annotations": task.get("annotations") or task["predictions"]} for i, task in enumerate(tasks)
    ]
    (back / "labelstudio.json").write_bytes(orjson.dumps(answered))
    shutil.copyfile(folder / "cvat" / "annotations.xml", back / "cvat.xml")
    shutil.copyfile(folder / "coco" / "instances.json", back / "coco.json")
    shutil.make_archive(str(back / "cvat"), "zip", folder / "cvat", "annotations.xml")
    write_health(run, measure_health(run, pictures=False))
    truth, sizes = simulated.make_truth(6, categories=3)
    found = [simulated.detect(truth, sizes, 3, seed=0, seen=0.9)]
    versions = [Version("as given", found, 6, 18), Version("fix", found, 6, 17)]
    (run.folder / "compare").mkdir()
    (run.folder / "compare" / "compare.json").write_bytes(
        orjson.dumps(compare_versions(simulated.as_dataset(truth, sizes, 3), versions, resamples=5))
    )
    row = run.issues.filter(run.issues["annotation"].is_not_null()).row(0, named=True)
    DecisionLog(run.folder).append(
        [Decision(row["issue_id"], "accept", row["image_id"], row["annotation_id"], "red square", (1.0, 2.0, 30.0, 40.0))]
    )
    apply_decisions(run.folder)
    os.rename(run.folder, folder / "run")


class Child:
    """A process that reads cases, in a folder of its own below a watched one."""

    def __init__(self, home: Path, template: Path) -> None:
        self._command = [sys.executable, __file__, "--serve", str(home / "watched" / "root"), "--template", str(template)]
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
        status = process.poll()
        self.stop()
        return Outcome(case, "fault", "hangs" if not ready else f"its process died (status {status})", first, 0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


def list_cases(readers: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Names of `count` cases, each reader's share of them."""
    from fuzz_readers import READERS

    shares = [reader for reader in readers for _ in range(READERS[reader][2])]
    for number in range(count):
        yield f"{seed}-{shares[number % len(shares)]}-{number}"


def keep(out: Path, root: Path, outcome: Outcome) -> None:
    """The input of a fault, and what was said."""
    place = out / outcome.case
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "said.txt").write_text(outcome.detail + "\n", errors="replace")
    if "-run-" not in outcome.case and any((root / "case").iterdir()):  # a whole run folder is made anew by --again
        subprocess.run(["cp", "-a", str(root / "case"), str(place / "input")], check=False)


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Inputs, results, errors and faults of each reader, the slowest and the largest."""
    lines = [
        "| reader | inputs | results | DetcleanErrors | faults | slowest s | largest MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    readers = list(dict.fromkeys(outcome.case.split("-")[1] for outcome in outcomes))
    for reader in [*readers, "all"]:
        mine = [outcome for outcome in outcomes if reader in ("all", outcome.case.split("-")[1])]
        kinds = Counter(outcome.kind for outcome in mine)
        slowest, largest = max(one.seconds for one in mine), max(one.megabytes for one in mine)
        lines.append(
            f"| {reader} | {len(mine):,} | {kinds['result']:,} | {kinds['error']:,} | {kinds['fault']:,} | {slowest:.2f} | {largest:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where inputs of faults go")
    parser.add_argument("--again", metavar="CASE", help="one case")
    parser.add_argument("--template", type=Path, help="a folder that --make-template or an earlier run has filled; default: made anew")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.template)
        return 0
    from fuzz_readers import READERS

    with tempfile.TemporaryDirectory(prefix="detclean-fuzz-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        template = Path(os.path.abspath(options.template or home / "template"))
        if not (template / "run").is_dir():
            make_template(template)
        if options.again:
            print(run_case(options.again, home, template).detail or "a result")
            shutil.copytree(home / "case", options.out / options.again / "input", symlinks=True, dirs_exist_ok=True)
            return 0
        child = Child(home, template)
        outcomes, good = [], list_tree(template)
        for number, case in enumerate(list_cases(options.readers or list(READERS), options.count, options.seed), 1):
            outcome = child.ask(case)
            if outcome.kind == "fault" and (outcome.seconds > SECONDS or outcome.detail == "hangs" or "TooSlow" in outcome.detail):
                outcome = child.ask(case)  # once more: the machine may have been busy
            if outcome.kind == "fault":
                print(f"{case}: {outcome.detail}", flush=True)
                keep(options.out, child.root, outcome)
            outcomes.append(outcome)
            if number % 2000 == 0:
                print(f"{number:,} inputs", file=sys.stderr, flush=True)
        child.stop()
        print(as_table(outcomes))
        if list_tree(template) != good:
            print("the template was changed")
            return 1
        return int(any(outcome.kind == "fault" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
