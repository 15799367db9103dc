"""What applying, undoing, handing over and taking back say at their end."""

from __future__ import annotations

import shlex
from pathlib import Path

from detclean.edit.patch import Applied
from detclean.show.progress import clean_text


def print_applied(applied: Applied, run: str | Path, *, strangers: int = 0) -> None:
    """How much was changed and where, and how to take it back."""
    if strangers:
        print(f"{_count(strangers, 'decision')} left out: this run lists no such issue")
    if applied.known:
        print(f"{_count(applied.edits, 'edit')} in {_count(applied.files, 'label file')}: applied already, nothing to do")
    else:
        print(f"{_count(applied.edits, 'edit')} in {_count(applied.files, 'label file')}")
    print(clean_text(f"  data set: {applied.target}"))
    print(clean_text(f"  every edit, before and after: {Path(run) / 'patch.json'}"))
    print(clean_text(f"  to take it back: python -m detclean undo {shlex.quote(str(run))}"))
    if (applied.target / "data.yaml").is_file():
        print(clean_text(f"  to train on it: yolo detect train data={shlex.quote(str(applied.target / 'data.yaml'))}"))


def print_undone(undone: Applied) -> None:
    """What was taken back."""
    print(f"{_count(undone.edits, 'edit')} taken back, {_count(undone.files, 'file')} as before to the byte")
    print(clean_text(f"  data set: {undone.target}"))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
