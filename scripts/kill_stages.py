"""What `kill_runs.py` does to the parts of a run: SIGKILL in each of them and at every rename, and damage to the files of each stage."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path

from break_runs import complain
from disturb import PATIENCE, RENAMES, Place, Row, at_call, count_calls, die, finish, judge, kill, settle_on, spread, start, wait

LONG = 4.0  # seconds: a part that takes longer is struck three times in a round
POLL = 0.005  # seconds
MARKERS = (  # of what an unfinished stage has done already
    "train-*/weights/fold-0.weights",
    "dynamics-*/weights/fold-0.weights",
    "detect-*/folds/fold-0/detections.parquet",
    "detect-*/folds/fold-1/looks.parquet",
    "crops-*/features/folds/fold-0/features.npz",
    "crops-*/crops/folds/fold-1/probability.npz",
)


def kill_at_moments(place: Place, kills: int, rng: random.Random) -> Row:
    """At a random moment of each part in turn. Every other time the parent alone dies, whose children have to notice."""
    row = Row(f"{place.name}, SIGKILL at a random moment")
    place.clear()
    while row.hit < kills:
        parts = [part for part, seconds in place.parts.items() for _ in range(3 if seconds > LONG else 1)]
        if not place.trains:
            rng.shuffle(parts)
            del parts[kills - row.hit :]
        for part in parts:
            place.ready()
            group = row.hit % 2 == 0
            met = _kill_in(place, part, rng, group)
            if met is not None:
                row.parts[met] += 1
                row.strike(place, f"kill {row.hit + 1}, of the {'group' if group else 'parent'}, {met}", True)
        row.finish(place)
        place.clear()
    return row


def _kill_in(place: Place, part: str, rng: random.Random, group: bool) -> str | None:
    """Kills a run at a random moment of one of its parts -> the part it really was in; None where it had ended before."""
    order, latest = list(place.parts), time.monotonic() + PATIENCE
    pid = start(place.arguments, place.root)
    while order.index(place.find_part(pid)) < order.index(part) and time.monotonic() < latest:
        if wait(pid, POLL) is not None:
            return None
    if wait(pid, rng.uniform(0, place.parts[part])) is not None:
        return None
    kill(pid, group)
    return place.find_part(pid)


def kill_at_renames(place: Place, most: int) -> Row:
    row = Row(f"{place.name}, SIGKILL at a rename")
    numbers = spread(count_calls(place.arguments, place.root, RENAMES, place.clear), most)
    place.clear()
    for number in numbers:
        place.ready()
        pid = start(place.arguments, place.root, at_call(number, RENAMES, die))
        hit = wait(pid) == -signal.SIGKILL
        if hit:
            row.parts[place.find_part(pid)] += 1
        row.strike(place, f"rename {number}", hit)
    return row.finish(place)


def kill_compare(place: Place, kills: int, rng: random.Random) -> Row:
    command = ("compare", str(place.folder), "--strategies", "fix", "--seeds", "1")
    return kill_at_moments(settle_on("compare", place.root, command, place.folder / "compare", trains=True), kills, rng)


def compare_beside(place: Place) -> Row:
    """Folds side by side and one after the other: `workers` is another number, and all else is the same."""
    row = Row(f"{place.name}, folds side by side, and not one after the other")
    place.clear()
    status, said = finish((*place.arguments, "workers=2"), place.root)
    found = place.folder / "config.yaml"
    if found.exists():
        found.write_text(found.read_text().replace("workers: 2\n", "workers: 1\n"))
    row.note("workers=2", True, judge(place.expected, status, said, [place.folder]))
    return row


def damage(place: Place) -> list[Row]:
    """Files are cut, emptied and removed: of complete stages, to be noticed, and of unfinished ones, to be made again."""
    rows = [_check_stages(place), _damage_stages(place)]
    if place.trains:
        rows += [_damage_markers(place), _damage_checkpoints(place)]
    return rows


def _check_stages(place: Place) -> Row:
    """Every file of every stage, as whoever opens the stage finds it."""
    from detclean.errors import StageError
    from detclean.files import list_sizes
    from detclean.runfolder import read_completion

    row = Row(f"{place.name}, a file of a complete stage cut, emptied or removed: noticed")
    for stage in _stages(place):
        for name in list_sizes(stage):
            path = stage / name
            content = path.read_bytes()
            for bad in (content[: len(content) // 2], content[:-1], b"", None):
                if bad == content:
                    continue
                path.unlink() if bad is None else path.write_bytes(bad)
                try:
                    read_completion(stage)
                    fault: str | None = "it is believed"
                except StageError as error:
                    fault = None if str(path) in str(error) else str(error)
                path.write_bytes(content)
                row.ends += 1
                row.hit += fault is None
                row.same += fault is None
                row.wrong += [f"{path}: {fault}"] if fault else []
    return row


def _stages(place: Place) -> list[Path]:
    return sorted(path for path in (place.folder / "stages").glob("*-*") if path.is_dir())


def _damage_stages(place: Place) -> Row:
    """A file of each stage in turn is cut: one line that names it; what the line says to do is done; the same end."""
    row = Row(f"{place.name}, a stage's file cut, and the remedy followed")
    for stage in _stages(place):
        if stage.name.startswith("load-"):
            continue  # read anew in each run
        path = max((path for path in stage.rglob("*") if path.is_file() and path.suffix not in (".log", ".jsonl")), key=_size)
        path.write_bytes(path.read_bytes()[:-7])
        status, said = finish(place.arguments, place.root)
        fault = complain(status, said, re.escape(str(path))) if status else "it is believed"
        if f"{stage.name}.partial, and repeat" in said:
            path.unlink()
            stage.rename(stage.with_name(f"{stage.name}.partial"))
        else:
            shutil.rmtree(stage)
        row.note(str(path.relative_to(stage.parent)), True, fault or place.end())
    return row


def _size(path: Path) -> int:
    return path.stat().st_size


def _damage_markers(place: Place) -> Row:
    """A stage that is to be gone on with, and one of its markers is damaged: that part is done again."""
    row = Row(f"{place.name}, a marker of an unfinished stage damaged")
    for number, pattern in enumerate(MARKERS):
        (path,) = (place.folder / "stages").glob(pattern)
        stage = next(parent for parent in path.parents if parent.parent.name == "stages")
        shutil.copytree(stage, kept := place.root / "kept", symlinks=True)
        content = path.read_bytes()
        path.write_bytes(b"" if number % 2 else content[: len(content) // 2])
        stage.rename(stage.with_name(f"{stage.name}.partial"))
        fault = place.end()
        row.note(str(path.relative_to(stage.parent)), True, fault)
        if fault is not None:  # the next one begins with a whole stage
            for half in (place.folder / "stages").glob(f"{stage.name}*"):
                shutil.rmtree(half)
            shutil.copytree(kept, stage, symlinks=True)
        shutil.rmtree(kept)
    return row


def _damage_checkpoints(place: Place) -> Row:
    """A checkpoint from which a training would go on, and what is remembered of pictures."""
    row = Row(f"{place.name}, a checkpoint or remembered pictures damaged")
    for stage in ("train", "dynamics"):
        place.clear()
        pid = start(place.arguments, place.root)
        path = _await(place.folder / "stages", f"{stage}-*.partial/folds/fold-0/state.pt", pid)
        kill(pid, group=True)
        if path is not None and path.exists():
            path.write_bytes(path.read_bytes()[:1000])
        row.note(f"checkpoint of {stage}", path is not None, place.end())
    for remembered in sorted((place.folder / "cache").rglob("*.hashes")):
        remembered.write_bytes(remembered.read_bytes()[:-1])
        for audit in (place.folder / "stages").glob("audit-*"):
            shutil.rmtree(audit)
        row.note(str(remembered.relative_to(place.folder)), True, place.end())
    return row


def _await(folder: Path, pattern: str, pid: int) -> Path | None:
    """A file that a run writes, once it is there; None where the run had ended before."""
    latest = time.monotonic() + PATIENCE
    while time.monotonic() < latest:
        if (found := next(folder.glob(pattern), None)) is not None:
            return found
        if wait(pid, POLL) is not None:
            return None
    return None
