"""A data set as it was when a run read it: a stage that finds other pictures or labels in their place is never complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from detclean.dataset import open_dataset
from detclean.errors import DetcleanError, StageError
from detclean.runfolder import read_table
from detclean.stages import StageContext

REMEDY = "bring back what is missing, or repeat the run with the data as they are now"
Work = Callable[[StageContext], None]  # what a stage does


def add_file_state(images: pl.DataFrame) -> pl.DataFrame:
    """Size and time of every picture, null where there is none: when one changes, what was made from it is stale."""
    states = [_find_state(path) for path in images["path"].to_list()]
    size, modified = zip(*states, strict=True) if states else ((), ())
    return images.with_columns(bytes=pl.Series(size, dtype=pl.Int64), modified_ns=pl.Series(modified, dtype=pl.Int64))


def _find_state(path: str | None) -> tuple[int | None, int | None]:
    try:
        state = os.stat(path) if path else None
    except OSError:
        state = None
    return (state.st_size, state.st_mtime_ns) if state else (None, None)


def watch_labels(load: Work, export: Work) -> tuple[Work, Work]:
    """The stage that reads labels and the one that brings edits into copies of the same files, which must not be other ones by then.

    The second raises StageError, and is not complete, where a label file is gone or changed since the first; the first where it is gone
    already.
    """
    states: dict[str, tuple[int | None, int | None]] = {}

    def loading(context: StageContext) -> None:
        load(context)
        dataset = open_dataset(context.out / "all")
        files = dataset.images["label_path"].to_list()
        held = {files[image] for image in dataset.annotations.image_index.tolist()} - {None}
        known = [path for path in dict.fromkeys([*files, str(dataset.source)]) if path and not os.path.isdir(path)]
        states.clear()
        states.update((path, _find_state(path)) for path in known)
        _refuse([path for path in sorted(held) if states[path][0] is None])

    def exporting(context: StageContext) -> None:
        try:
            export(context)
        except (DetcleanError, OSError):
            _refuse([path for path, state in states.items() if _find_state(path) != state])
            raise
        _refuse([path for path, state in states.items() if _find_state(path) != state])

    return loading, exporting


def _refuse(lost: Sequence[str]) -> None:
    if lost:
        what = "has changed" if os.path.exists(lost[0]) else "is gone"
        more = f", and {len(lost) - 1:,} more are not as they were" if len(lost) > 1 else ""
        raise StageError(f"{lost[0]}: {what} since the labels were read{more}; {REMEDY}")


def watch_pictures(work: Work, stage: str, part: str = "") -> Work:
    """`work`, for a stage that reads the pictures of the data set in a stage's folder, or in a part of it.

    A disk that is taken away would else pass for pictures on which nothing is to be seen, and that for the truth once it is back. Where a
    picture is gone or of another size, before, while or after it works, the stage raises StageError and is not complete.
    """

    def watched(context: StageContext) -> None:
        table = context.inputs[stage] / part / "images.parquet"
        require_pictures(table)
        try:
            work(context)
        except (DetcleanError, OSError):
            require_pictures(table)  # of all that it may say, the reason
            raise
        require_pictures(table)

    return watched


def require_pictures(table: Path) -> None:
    """Raises StageError where pictures that were there are not as a table of images, with their sizes in bytes, says."""
    if (lost := find_lost(table)) is not None:
        raise StageError(f"{lost}; {REMEDY}")


def find_lost(table: Path) -> str | None:
    """What is wrong with the first picture that is not as a table of images says, and how many more there are; None where all are."""
    images = read_table(table)
    if "bytes" not in images.columns:  # of an older version
        return None
    now = add_file_state(images)["bytes"]
    changed = images["bytes"].is_not_null() & now.ne_missing(images["bytes"])
    if not changed.any():
        return None
    number = int(changed.arg_max() or 0)
    what = "is gone" if now[number] is None else "has changed"
    more = f", and {changed.sum() - 1:,} more are not as they were" if changed.sum() > 1 else ""
    return f"{images['path'][number]}: {what} since the data set was read{more}"
