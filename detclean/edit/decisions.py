"""What people decided about issues: an append-only file, in which the last line about an issue counts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import orjson

from detclean.errors import DatasetError
from detclean.files import refuse_following
from detclean.formats.plainfile import require_plain
from detclean.formats.records import FARTHEST

Verdict = Literal["accept", "reject", "hard", "skip", "open"]
Box = tuple[float, float, float, float]

FILE_NAME = "decisions.jsonl"
BOX = "box-"  # begins the name of a decision about a box that no issue names
VERDICTS = get_args(Verdict)
KINDS: dict[str, Any] = {  # what stands in a decision, where it stands there
    "image_id": str | int,
    "annotation_id": str | int | None,
    "at": str,
    "by": str,
    "given_category": str | None,
}
HEAD = 512  # bytes by which a file is known again
LONGEST_LINE = 1 << 16  # bytes, far above any decision


@dataclass(frozen=True)
class Decision:
    """What was decided about one suspected error, or about a box that no issue names.

    issue: an issue_id of the run, or a name of its own that begins with "box-". verdict: accept (the labels are wrong, and are to have
    `category` and `xyxy` in this place, or nothing where both are None), reject (they are right), hard (they are right, and the object is
    difficult), skip (looked at and left), open (an earlier decision is taken back). annotation_id: as the run has it, None where nothing
    was annotated. xyxy: pixels. at: UTC, ISO 8601. by: who or what decided: review, labelstudio, cvat, coco.
    given_category, given_xyxy: what was annotated when it was decided, so that it is found again whatever its number is by then, and never
    taken for another one; None where nothing was.
    """

    issue: str
    verdict: Verdict
    image_id: str | int
    annotation_id: str | int | None = None
    category: str | None = None
    xyxy: Box | None = None
    at: str = ""
    by: str = "review"
    given_category: str | None = None
    given_xyxy: Box | None = None


class DecisionLog:
    """The file decisions.jsonl of a run folder, open for reading on and for appending; several processes may hold it.

    `latest` is what counts: the last decision about each issue, in the order in which they were made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.latest: dict[str, Decision] = {}
        self._read = 0  # bytes
        self._lines = 0
        self._file, self._head = 0, b""  # inode, which another file may get, and how the file begins
        self._open = False  # whether the last line had no end

    def refresh(self) -> list[Decision]:
        """Reads what was appended since, by whomever, and answers it.

        A last line without an end counts if it is whole; if not, it is being written or its writer died. Raises DatasetError where a
        line is no decision, and where the file is no longer the one that was read so far.
        """
        try:
            require_plain(self.path)
            with open(self.path, "rb") as f:
                state = os.fstat(f.fileno())
                self._require_same(state.st_ino, state.st_size, f.read(len(self._head)))
                f.seek(self._read)
                content = f.read()
        except FileNotFoundError:
            self._require_same(0, 0, b"")
            return []
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read ({error.strerror}); a readable file of decisions belongs here") from None
        whole = content[: content.rfind(b"\n") + 1]
        if _is_decision(content[len(whole) :]):
            whole = content
        new, lines = [], self._lines
        for line in whole.splitlines():
            lines += 1
            if line.strip():
                new.append(parse_decision(line, f"{self.path}:{lines}"))
            elif lines == self._lines + 1 and self._open:
                lines -= 1  # the end of the line that was read without it
        self._head = self._head or whole[:HEAD]
        self._file, self._read, self._lines = state.st_ino, self._read + len(whole), lines
        if whole:
            self._open = not whole.endswith(b"\n")
        for decision in new:
            self.latest.pop(decision.issue, None)  # it goes to the end
            self.latest[decision.issue] = decision
        return new

    def _require_same(self, file: int, size: int, head: bytes) -> None:
        if self._read and (file != self._file or size < self._read or head != self._head):
            raise DatasetError(f"{self.path}: was replaced or cut while it was in use; start again, decisions in it are read anew")

    def append(self, decisions: Sequence[Decision]) -> None:
        """Adds decisions; they are on disk when this returns."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stamped = [replace(decision, at=decision.at or now) for decision in decisions]
        content = b"".join(orjson.dumps(asdict(decision)) + b"\n" for decision in stamped)
        with open(self.path, "ab+", opener=refuse_following) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            _mend_end(f)
            f.write(content)
            f.flush()
            os.fsync(f.fileno())


def _mend_end(f: BinaryIO) -> None:
    """Where the last line has no end, its writer died in the middle of it and never said that it was kept: it goes, unless it is whole."""
    end = f.seek(0, os.SEEK_END)
    f.seek(max(end - LONGEST_LINE, 0))
    tail = f.read().rpartition(b"\n")[2]
    if not tail:
        return
    if _is_decision(tail):
        f.write(b"\n")
    else:
        f.truncate(end - len(tail))


def _is_decision(line: bytes) -> bool:
    try:
        parse_decision(line, "")
    except DatasetError:
        return False
    return True


def read_decisions(folder: Path) -> dict[str, Decision]:
    """The decision that counts for each issue of a run folder; those taken back are left out. Raises DatasetError."""
    log = DecisionLog(folder)
    log.refresh()
    return {issue: decision for issue, decision in log.latest.items() if decision.verdict != "open"}


def parse_decision(line: bytes, where: str) -> Decision:
    """One line of decisions.jsonl. Raises DatasetError."""
    try:
        return make_decision(orjson.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DatasetError(f"{where}: is no decision ({' '.join(str(error).split())[:200]}); remove the line or restore it") from None


def make_decision(record: dict[str, Any]) -> Decision:
    """A decision from its fields as JSON has them. Raises ValueError, TypeError or KeyError where they make none."""
    if unknown := set(record) - set(Decision.__dataclass_fields__):
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    if record["verdict"] not in VERDICTS:
        raise ValueError(f"verdict {record['verdict']!r} is none of {', '.join(VERDICTS)}")
    if not isinstance(record["issue"], str) or not record["issue"]:
        raise ValueError("issue is no text")
    for name, kinds in KINDS.items():
        value = record.get(name)
        if (name in record or name == "image_id") and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ValueError(f"{name} is {str(value)[:60]}")
    xyxy, category = record.get("xyxy"), record.get("category")
    if (xyxy is None) != (category is None):
        raise ValueError("category and xyxy belong together")
    if category is not None and not isinstance(category, str):
        raise ValueError("category is no text")
    given = record.get("given_xyxy")
    boxes = {"xyxy": None if xyxy is None else _as_box(xyxy), "given_xyxy": None if given is None else _as_corners(given)}
    return Decision(**record | boxes)


def _as_box(values: Iterable[Any]) -> Box:
    x1, y1, x2, y2 = _as_corners(values)
    if not (x1 < x2 and y1 < y2):
        raise ValueError("xyxy is no box: left, top, right, bottom in pixels")
    return x1, y1, x2, y2


def _as_corners(values: Iterable[Any]) -> Box:
    """What was annotated may be inverted or empty."""
    x1, y1, x2, y2 = (float(value) for value in values)
    if not max(abs(x1), abs(y1), abs(x2), abs(y2)) <= FARTHEST:
        raise ValueError("four finite numbers are needed: left, top, right, bottom in pixels")
    return x1, y1, x2, y2
