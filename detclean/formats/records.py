"""What the readers and writers of all formats share: findings collected while reading, unique names, complete edits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from detclean.boxes import Floats, Mask
from detclean.dataset import Dataset, Edit, Finding, Severity

T = TypeVar("T")

FARTHEST = 1e9  # px: no picture reaches so far, and squares of what is smaller stay numbers
FINDINGS_PER_KIND = 50  # as many as a person reads; the rest is only counted


class FindingLog:
    """Findings in the order they were met, at most FINDINGS_PER_KIND a kind word for word and then one line that counts the rest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._kept: list[Finding] = []
        self._count: Counter[str] = Counter()

    def add(self, kind: str, severity: Severity, where: str, message: str) -> None:
        """Notes one finding; arguments as in Finding."""
        self._count[kind] += 1
        if self._count[kind] <= FINDINGS_PER_KIND:
            self._kept.append(Finding(kind, severity, as_text(where), as_text(message)))

    def finish(self) -> tuple[Finding, ...]:
        """All findings, those of a kind side by side."""
        groups: dict[str, list[Finding]] = {}
        for finding in self._kept:
            groups.setdefault(finding.kind, []).append(finding)
        for kind, group in groups.items():
            if (rest := self._count[kind] - len(group)) > 0:
                group.append(Finding(kind, group[0].severity, self._source, f"{rest} more findings like this ({kind})"))
        return tuple(finding for group in groups.values() for finding in group)


def as_text(text: str) -> str:
    """A text as UTF-8 can hold it: names of files may be other bytes, and JSON may hold half of a character."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def make_unique(names: list[str], ids: list[object]) -> tuple[str, ...]:
    """Category names that can stand for their category in a table: a name that occurs again gets its id behind it."""
    seen: set[str] = set()
    unique: list[str] = []
    for name, identity in zip(names, ids, strict=True):
        chosen = name if name not in seen else f"{name} ({identity})"
        while chosen in seen:
            chosen += "'"
        seen.add(chosen)
        unique.append(chosen)
    return tuple(unique)


def is_within_reach(xyxy: Floats) -> Mask:
    """Which boxes (n, 4) lie, in pixels, where pictures can be: with larger numbers areas would be infinite and overlaps none."""
    near: Mask = np.asarray((np.abs(xyxy) <= FARTHEST).all(axis=1))
    return near


def require(value: T | None) -> T:
    """A category or box that an edit's action needs. Raises ValueError where the edit lacks it: a fault of the caller, not of the data."""
    if value is None:
        raise ValueError("an edit lacks the category or the box that its action needs")
    return value


def issue_boxes(issues: pl.DataFrame, *, suggested_first: bool) -> Floats:
    """The box of each row of issues.csv: (n, 4) xyxy pixels; the suggested or the given one first, the other where that is absent."""
    sides = ("x1", "y1", "x2", "y2")
    given, suggested = issues.select(sides), issues.select([f"suggested_{side}" for side in sides])
    first, second = (suggested, given) if suggested_first else (given, suggested)
    preferred, other = first.cast(pl.Float64).to_numpy(), second.cast(pl.Float64).to_numpy()
    return np.where(np.isnan(preferred).any(axis=1, keepdims=True), other, preferred)


def group_by_label_file(dataset: Dataset, edits: Sequence[Edit]) -> dict[Path, list[Edit]]:
    """The edits of each label file, whatever names lead to it. An object that is added under two names of its picture is added once."""
    groups: dict[Path, list[Edit]] = defaultdict(list)
    added: set[tuple[Path, int | None, tuple[float, ...] | None]] = set()
    for edit in edits:
        path = Path(dataset.images["label_path"][edit.image_index]).resolve()
        key = (path, edit.category, edit.xyxy)
        if edit.action == "add" and key in added:
            continue
        added |= {key} if edit.action == "add" else set()
        groups[path].append(edit)
    return groups
