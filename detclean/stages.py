"""The engine: runs a stage once, resumes it, and knows why it is stale.

A stage's folder is named by a fingerprint of all that it depends on, is written as `.partial` and renamed when complete, so that its
existence is the only marker: a change flows downstream by itself, and a crash loses at most the stage that it met. Its files are on disk
before it gets its name, and their lengths are noted in it: neither a power failure nor a damaged disk makes a half pass for a whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from detclean.errors import StageError
from detclean.files import as_system_error, list_sizes, refuse_following, settle, write_whole
from detclean.runfolder import SECONDS, read_completion, refuse_links
from detclean.show.progress import Display

FINGERPRINT_LENGTH = 12
PARTIAL = ".partial"


@dataclass(frozen=True)
class StageContext:
    """What a stage gets: the folders of the stages it needs, the folder to write, its settings, the display."""

    inputs: Mapping[str, Path]
    out: Path
    settings: Any
    display: Display


@dataclass(frozen=True)
class Stage:
    """A function from folders to a folder.

    needs: names of stages before it. version: raised when its code comes to answer differently. resumable: its `.partial` folder
    survives a crash and is handed to the next try. content_addressed: it runs every time, and is named by what it wrote, not by
    what it was told; for what reads the world outside, so that changed data flow downstream and unchanged data do not.
    """

    name: str
    run: Callable[[StageContext], None]
    needs: tuple[str, ...] = ()
    version: int = 1
    resumable: bool = False
    content_addressed: bool = False


@dataclass(frozen=True)
class StageResult:
    """A complete stage: its folder, what it took in seconds when it ran, and whether that was an earlier run."""

    folder: Path
    fingerprint: str
    seconds: float
    reused: bool


def run_stages(stages: Sequence[Stage], folder: Path, settings: Mapping[str, Any], display: Display) -> dict[str, StageResult]:
    """Runs what is not there yet, in order, below `folder`/stages; hold the run with `lock_run` around it.

    settings: by stage name, JSON values; a stage without an entry has none. What a stage raises passes through; the stages before it
    stay complete. Raises StageError where a file of a complete stage was cut or removed.
    """
    _check_order(stages)
    home = folder / "stages"
    home.mkdir(parents=True, exist_ok=True)
    results: dict[str, StageResult] = {}
    for stage in stages:
        needed = {name: results[name] for name in stage.needs}
        fingerprint = compute_fingerprint(stage, settings.get(stage.name), [result.fingerprint for result in needed.values()])
        target = home / f"{stage.name}-{fingerprint}"
        if not stage.resumable:
            _remove_partials(home, stage.name)
        if target.is_dir() and not stage.content_addressed:
            results[stage.name] = StageResult(target, fingerprint, read_completion(target), reused=True)
            display.reused(stage.name)
            continue
        display.stage(stage.name)
        partial = target.with_name(target.name + PARTIAL)
        partial.mkdir(exist_ok=True)
        inputs = {name: result.folder for name, result in needed.items()}
        start = time.monotonic()
        try:
            stage.run(StageContext(inputs, partial, settings.get(stage.name), display))
        except Exception as error:
            if (refused := as_system_error(error, partial)) is not None:
                raise refused from error
            raise
        (partial / SECONDS).unlink(missing_ok=True)
        note = {"seconds": round(time.monotonic() - start, 3), "resumable": stage.resumable, "files": list_sizes(partial)}
        write_whole(partial / SECONDS, orjson.dumps(note))
        if stage.content_addressed:
            fingerprint = compute_content(stage.name, partial)
            target = home / f"{stage.name}-{fingerprint}"
        results[stage.name] = _complete(partial, target, fingerprint)
    return results


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process, and gives it back at the end; the system frees it if the process dies, however it dies.

    Raises StageError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    path = folder / "lock"
    with open(path, "a+", opener=refuse_following) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            remedy = "wait for it or stop it, or give this run another name=..."
            raise StageError(f"{folder}: another detclean (process {holder}) is working on this run; {remedy}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:  # closing is not enough: cleanlab forks workers that live on and share the open file
            fcntl.flock(lock, fcntl.LOCK_UN)


def compute_fingerprint(stage: Stage, settings: Any, needed: Sequence[str]) -> str:
    """Twelve hexadecimal digits of all that a stage depends on: its name and version, its settings, its inputs' fingerprints."""
    document = [stage.name, stage.version, settings, list(needed)]
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:FINGERPRINT_LENGTH]


def compute_content(name: str, folder: Path) -> str:
    """Twelve hexadecimal digits of a folder's files, their paths and their bytes, but for the seconds it took."""
    digest = hashlib.sha256(name.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SECONDS:
            with open(path, "rb") as f:
                content = hashlib.file_digest(f, "sha256").digest()
            digest.update(os.fsencode(path.relative_to(folder)) + b"\0" + content)
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def _check_order(stages: Sequence[Stage]) -> None:
    seen: set[str] = set()
    for stage in stages:
        missing = [name for name in stage.needs if name not in seen]
        if missing or stage.name in seen:
            raise ValueError(f"stage {stage.name}: stands twice, or before what it needs: {missing}")
        seen.add(stage.name)


def _remove_partials(home: Path, name: str) -> None:
    """Removes what crashes left of a stage, under whatever settings. Not so for a resumable one: what it left took long to make."""
    for path in home.glob(f"{name}-*{PARTIAL}"):
        digits = path.name.removeprefix(f"{name}-").removesuffix(PARTIAL)
        if len(digits) == FINGERPRINT_LENGTH:  # else it is of a stage whose longer name begins the same
            shutil.rmtree(path)


def _complete(partial: Path, target: Path, fingerprint: str) -> StageResult:
    """The one step that makes a stage complete. Where the same content is there already and undamaged, the new copy goes."""
    if target.is_dir():
        try:
            seconds = read_completion(target)
        except StageError:
            shutil.rmtree(target)
        else:
            shutil.rmtree(partial)
            return StageResult(target, fingerprint, seconds, reused=True)
    settle(partial)
    os.rename(partial, target)
    return StageResult(target, fingerprint, read_completion(target), reused=False)
