"""What applying, undoing, handing over and taking back say at their end."""

from __future__ import annotations

import shlex
from pathlib import Path

from detclean.edit.patch import Applied
from detclean.handover import ExportResult, ImportResult
from detclean.show.progress import clean_text


def print_applied(applied: Applied, run: str | Path, *, strangers: int = 0) -> None:
    """How much was changed and where, and how to take it back."""
    if strangers:
        print(f"{_count(strangers, 'decision')} left out: about what this run does not know")
    if applied.known:
        print(f"{_count(applied.edits, 'edit')} in {_count(applied.files, 'label file')}: applied already, nothing to do")
    else:
        instead = f", instead of {_count(applied.replaced, 'edit')} applied before" if applied.replaced else ""
        print(f"{_count(applied.edits, 'edit')} in {_count(applied.files, 'label file')}{instead}")
    print(clean_text(f"  data set: {applied.target}"))
    print(clean_text(f"  every edit, before and after: {Path(run) / 'patch.json'}"))
    print(clean_text(f"  to take it back: python -m detclean undo {shlex.quote(str(run))}"))
    if (applied.target / "data.yaml").is_file():
        print(clean_text(f"  to train on it: yolo detect train data={shlex.quote(str(applied.target / 'data.yaml'))}"))


def print_undone(undone: Applied) -> None:
    """What was taken back."""
    print(f"{_count(undone.edits, 'edit')} taken back, {_count(undone.files, 'file')} as before to the byte")
    print(clean_text(f"  data set: {undone.target}"))


def print_exported(result: ExportResult) -> None:
    """What was handed over, and where it lies."""
    print(f"{_count(result.images, 'image')} with {_count(result.boxes, 'box', 'boxes')}, {_count(result.issues, 'issue')} among them")
    if result.left_out:
        print(f"{_count(result.left_out, 'box', 'boxes')} left out: without a side of its own, a tool cannot show it")
    if result.without_picture:
        print(f"{_count(result.without_picture, 'image')} without a picture")
    print(clean_text(f"  folder: {result.folder}"))
    if (result.folder / "README.txt").is_file():
        print(clean_text(f"  what to do there: {result.folder / 'README.txt'}"))


def print_imported(result: ImportResult, run: str | Path) -> None:
    """What came back, and how to go on."""
    decided = result.accepted + result.rejected + result.hard
    print(f"{_count(result.images, 'image')} came back with {_count(decided, 'new decision')} about issues:", end=" ")
    print(f"{result.accepted:,} accepted, {result.rejected:,} rejected, {result.hard:,} hard")
    others = {
        f"new {'box' if result.new_boxes == 1 else 'boxes'} that no issue names": result.new_boxes,
        "other annotations changed": result.changed_elsewhere,
        "decisions known already": result.known,
        "of the rejected are in images that came back just as they went out: was somebody there?": result.unchanged_rejected,
        "of the accepted are in such images": result.unchanged_accepted,
        "images that nobody finished": result.untouched,
        "images of another data set": result.unknown,
    }
    for what, number in others.items():
        if number:
            print(f"  {number:,} {what}")
    for note in result.notes:
        print(clean_text(f"  {note}"))
    print(clean_text(f"  to bring them into the labels: python -m detclean apply {shlex.quote(str(run))}"))


def _count(number: int, what: str, several: str | None = None) -> str:
    return f"{number:,} {what if number == 1 else several or what + 's'}"
