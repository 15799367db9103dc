"""The state of a review: the run's issues, what was decided about them, by whatever window or process, and what is decided next."""

from __future__ import annotations

import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Floats, Ints, Mask
from detclean.dataset import ISSUE_TYPES
from detclean.edit.changes import propose_after, read_annotation
from detclean.edit.decisions import BOX, VERDICTS, Box, Decision, DecisionLog, make_decision
from detclean.errors import DatasetError
from detclean.review.queue import ACCEPT, STATES, WANTED, Filters, about_issues, find_in_state, find_matches, sort_positions
from detclean.runfolder import Run
from detclean.score.recalibration import MIN_DECISIONS, describe_precision, recalibrate

MASKS_KEPT = 16
DECIDED = WANTED["decided"]
CONFLICT, FINE = 409, 200
SIDES = ("x1", "y1", "x2", "y2")

Answer = tuple[int, dict[str, Any]]  # status and body of a response
Target = tuple[str | None, Box | None]  # the category and the box that the labels are to have, or neither


class KeptUnreadError(DatasetError):
    """A decision is on disk, but what is on disk can no longer be read."""


class Session:
    """A run under review. `refresh` comes before every answer, so that what others decided is seen; one thread at a time is inside.

    events: every decision of the file, in its order; a line is a position in it. state (n,): of every issue, as a code of STATES.
    probability_now (n,): as the decisions made it when a queue was last asked for, and calibrated_by: so many; 0 where these are too few.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.issues = run, run.issues
        self.log = DecisionLog(run.folder)
        self.lock = threading.RLock()
        self.nonce = uuid.uuid4().hex[:8]  # in the pictures' addresses: another run on the same port has other pictures
        self.names: list[str] = run.issues["issue_id"].to_list()
        self.position_of = {name: i for i, name in enumerate(self.names)}
        self.probability: Floats = run.issues["probability"].to_numpy().astype(np.float64)
        self.image_index: Ints = run.issues["image_index"].to_numpy()
        self.state: Ints = np.zeros(len(self.names), np.int64)
        self.events: list[Decision] = []
        self.last_line: dict[str, int] = {}
        self.boxes: dict[int, list[str]] = {}  # of an image: names of decisions about boxes that no issue names
        self._masks: OrderedDict[Filters, Mask] = OrderedDict()
        self.probability_now, self.calibrated_by, self._calibrated_at = self.probability, 0, -1
        kinds = run.issues["issue_type"].to_list()
        known = [*ISSUE_TYPES, *sorted(set(kinds) - set(ISSUE_TYPES))]
        self._kind: Ints = np.array([known.index(kind) for kind in kinds], dtype=np.int64)
        self.refresh()

    @cached_property
    def _image_of(self) -> dict[Any, int]:
        return {image_id: i for i, image_id in enumerate(self.run.dataset.images["image_id"].to_list())}

    def refresh(self) -> None:
        """Takes in what the file has gained. Raises DatasetError where a line of it is no decision, and where it is another file."""
        with self.lock:
            for decision in self.log.refresh():
                new = decision.issue not in self.last_line
                self.last_line[decision.issue] = len(self.events)
                self.events.append(decision)
                position = self.position_of.get(decision.issue)
                if position is not None:
                    self.state[position] = STATES.index(decision.verdict)
                elif new and decision.issue.startswith(BOX) and decision.image_id in self._image_of:
                    self.boxes.setdefault(self._image_of[decision.image_id], []).append(decision.issue)

    @property
    def version(self) -> int:
        """How many decisions were read."""
        return len(self.events)

    def latest(self, issue: str) -> Decision | None:
        """What counts for an issue; None where nothing was decided or that was taken back."""
        line = self.last_line.get(issue)
        decision = None if line is None else self.events[line]
        return None if decision is None or decision.verdict == "open" else decision

    def _calibrate(self) -> None:
        """Lets the decisions so far say what the probabilities should be; as long as these are too few, as the run left them."""
        decided = np.flatnonzero(np.isin(self.state, DECIDED))
        if len(decided) < MIN_DECISIONS:
            self.probability_now, self.calibrated_by = self.probability, 0
        elif self.version != self._calibrated_at:
            self.probability_now = recalibrate(self.probability, self._kind, decided, self.state[decided] == ACCEPT)
            self.calibrated_by, self._calibrated_at = len(decided), self.version

    def queue(self, filters: Filters, since: int | None = None) -> dict[str, Any]:
        """Positions of the issues to show, in order, with the progress; since: a line, None for now."""
        with self.lock:
            self._calibrate()
            chosen = np.flatnonzero(self._matches(filters) & find_in_state(self.state, filters.state))
            positions = sort_positions(chosen, self.probability_now, self.image_index, filters.order)
            return {
                "positions": positions,
                "calibrated_by": self.calibrated_by,
                **self.progress(filters, self.version if since is None else since),
            }

    def progress(self, filters: Filters, since: int) -> dict[str, Any]:
        """How far the filtered issues are decided, how promises came true, and what was decided after the line `since`."""
        with self.lock:
            counts = np.bincount(self.state[self._matches(filters)], minlength=len(STATES))
            decided = np.flatnonzero(np.isin(self.state, DECIDED))
            precision = None
            if len(decided) >= MIN_DECISIONS:
                precision = describe_precision(self.probability[decided], self.state[decided] == ACCEPT)
            return {
                "version": self.version,
                "counts": {name: int(count) for name, count in zip(STATES, counts, strict=True)},
                "precision": precision,
                "least_decisions": MIN_DECISIONS,
                "changes": self._changes(since),
            }

    def _matches(self, filters: Filters) -> Mask:
        key = about_issues(filters)
        if key not in self._masks:
            self._masks[key] = find_matches(self.issues, key)
            if len(self._masks) > MASKS_KEPT:
                self._masks.popitem(last=False)
        return self._masks[key]

    def _changes(self, since: int) -> list[dict[str, Any]]:
        lines = {self.events[line].issue: line for line in range(max(since, 0), self.version)}
        return [self.describe_change(issue) for issue in lines]

    def describe_change(self, issue: str) -> dict[str, Any]:
        """The state of an issue, or of a box that no issue names, as a window keeps it."""
        line = self.last_line.get(issue, -1)
        position = self.position_of.get(issue)
        image = self._image_of.get(self.events[line].image_id) if position is None else int(self.image_index[position])
        return {"issue": issue, "position": position, "image": image, "line": line, "decision": self.latest(issue)}

    def decide(self, body: dict[str, Any]) -> Answer:
        """Keeps a decision: on disk when this returns. Raises ValueError where the body is none, with a word for the person.

        body: issue, verdict, seen (the line of the last decision about it that the window knows, -1 where none), and, where the person
        corrected the proposal, corrected: category and xyxy, or both null for "no box here". Where another window decided otherwise
        meanwhile, nothing is kept and the answer is that decision.
        """
        with self.lock:
            issue, verdict, seen = body.get("issue"), body.get("verdict"), body.get("seen", -1)
            if not isinstance(verdict, str) or verdict not in VERDICTS:
                raise ValueError(f"verdict: is none of {', '.join(VERDICTS)}")
            if not isinstance(seen, int) or isinstance(seen, bool) or not -1 <= seen < self.version:
                raise ValueError("seen: is no line of the decisions")
            if seen >= 0 and self.events[seen].issue != issue:
                raise ValueError("seen: is a line about another issue")
            decision = self._make(issue, verdict, body)
            known = self.events[seen] if seen >= 0 else None
            now = self.latest(decision.issue)
            if _content(now) != _content(known) and _content(now) != _content(decision):
                return CONFLICT, {"error": "another window decided otherwise", "other": self.describe_change(decision.issue)}
            if _content(now) == _content(decision):
                return FINE, {"kept": self.describe_change(decision.issue), "line": None}  # nothing new: nothing to take back either
            return FINE, {"kept": self._append(decision), "line": self.last_line[decision.issue]}

    def add_box(self, body: dict[str, Any]) -> Answer:
        """Keeps a box that the person drew. body: image (its index), category, xyxy. Raises ValueError."""
        with self.lock:
            image = body.get("image")
            if not isinstance(image, int) or isinstance(image, bool) or not 0 <= image < self.run.dataset.image_count:
                raise ValueError("image: is no picture of this run")
            category, xyxy = self._check_target({"category": body.get("category"), "xyxy": body.get("xyxy")}, image, ())
            if xyxy is None:
                raise ValueError("a box needs its corners and a category")
            image_id = self.run.dataset.images["image_id"][image]
            issue = BOX + uuid.uuid4().hex
            kept = self._append(Decision(issue, "accept", image_id, category=category, xyxy=xyxy))
            return FINE, {"kept": kept, "line": self.last_line[issue]}

    def undo(self, body: dict[str, Any]) -> Answer:
        """Takes a decision back: what was before it counts again. body: line (of that decision). Raises ValueError.

        Where another window decided otherwise since, nothing is changed and the answer is that decision.
        """
        with self.lock:
            line = body.get("line")
            if not isinstance(line, int) or isinstance(line, bool) or not 0 <= line < self.version:
                raise ValueError("line: is no line of the decisions")
            taken = self.events[line]
            if _content(self.latest(taken.issue)) != _content(taken):
                return CONFLICT, {"error": "another window decided otherwise", "other": self.describe_change(taken.issue)}
            before = next((event for event in reversed(self.events[:line]) if event.issue == taken.issue), None)
            if before is None or before.verdict == "open":
                before = replace(taken, verdict="open", category=None, xyxy=None, by="review")
            position = self.position_of.get(taken.issue)
            given = {} if position is None else self._read_given(position)  # which decisions of an older detclean do not hold
            return FINE, {"kept": self._append(replace(before, at="", **given))}

    def _append(self, decision: Decision) -> dict[str, Any]:
        """Raises OSError where it is not kept, KeptUnreadError where it is."""
        self.log.append([decision])
        try:
            self.refresh()
        except (DatasetError, OSError) as error:
            raise KeptUnreadError(f"kept, but cannot be read again: {error}") from None
        return self.describe_change(decision.issue)

    def _read_given(self, position: int) -> dict[str, Any]:
        """What the run's annotation has, which an issue is about, as fields of a decision; none where nothing is annotated."""
        annotation = self.issues["annotation"][position]
        if annotation is None:
            return {"given_category": None, "given_xyxy": None}
        box = read_annotation(self.run.dataset, annotation)
        return {"given_category": box.category, "given_xyxy": box.xyxy if np.isfinite(box.xyxy).all() else None}

    def _make(self, issue: Any, verdict: str, body: dict[str, Any]) -> Decision:
        """A decision from what a window sent. Raises ValueError."""
        position = self.position_of.get(issue) if isinstance(issue, str) else None
        if position is None:
            line = self.last_line.get(issue) if isinstance(issue, str) and issue.startswith(BOX) else None
            if line is None:
                raise ValueError("issue: is none of this run")
            if verdict != "open":
                raise ValueError("verdict: a box that was added can only be taken back (open)")
            return replace(self.events[line], verdict="open", category=None, xyxy=None, at="", by="review")
        row = self.issues.row(position, named=True)
        target: Target = (None, None)
        if verdict == "accept":
            corrected = body.get("corrected")
            known = [read_corners(row, prefix) for prefix in ("", "suggested_")]
            target = propose_target(row) if corrected is None else self._check_target(corrected, int(row["image_index"]), known)
            if row["issue_type"] == "overlooked" and target[1] is None:
                verdict = "reject"  # no box where there is none: the labels are right
        record = {"issue": issue, "verdict": verdict, "image_id": row["image_id"], "annotation_id": row["annotation_id"]}
        return make_decision(record | {"category": target[0], "xyxy": target[1]} | self._read_given(position))

    def _check_target(self, corrected: Any, image: int, known: Sequence[Box | None]) -> Target:
        """A category of the data set and a box, or neither. Raises ValueError.

        What of a box lies outside the picture is cut off, unless it is one of the `known` ones, which stay as they are.
        """
        if not isinstance(corrected, dict) or set(corrected) != {"category", "xyxy"}:
            raise ValueError("corrected: needs category and xyxy and nothing else")
        category, xyxy = corrected["category"], corrected["xyxy"]
        if category is None and xyxy is None:
            return None, None
        if not isinstance(category, str) or category not in self.run.dataset.categories:
            raise ValueError("category: is none of the data set's")
        if not isinstance(xyxy, list) or len(xyxy) != 4 or any(not isinstance(v, int | float) or isinstance(v, bool) for v in xyxy):
            raise ValueError("xyxy: needs four numbers: left, top, right, bottom in pixels")
        width, height = (self.run.dataset.images[side][image] or float("inf") for side in ("width", "height"))
        x1, y1, x2, y2 = (float(value) for value in xyxy)
        if (x1, y1, x2, y2) not in known:
            x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if not (x1 < x2 and y1 < y2):
            raise ValueError("xyxy: is no box inside the picture: left, top, right, bottom in pixels")
        return category, (x1, y1, x2, y2)


def propose_target(row: dict[str, Any]) -> Target:
    """What the labels are to have in the place of an issue if its proposal is accepted. Raises ValueError where nothing is proposed."""
    if row["action"] == "review":
        raise ValueError("nothing is proposed here: draw the box, choose a category, or say that there is none")
    after = propose_after(row)
    return (None, None) if after is None else (after.category, turn_upright(after.xyxy))


def read_corners(row: dict[str, Any], prefix: str) -> Box | None:
    """The given box of an issue (prefix "") or the suggested one; None where there is none."""
    return turn_upright([row[f"{prefix}{side}"] for side in SIDES])


def turn_upright(xyxy: Sequence[float | None]) -> Box | None:
    """A box turned the right way round, as an inverted one may be the very issue; None where a side is no number."""
    sides = [float(side) for side in xyxy if side is not None and np.isfinite(side)]
    if len(sides) < len(SIDES):
        return None
    x1, y1, x2, y2 = sides
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def count_confusions(issues: pl.DataFrame) -> dict[str, list[str]]:
    """For each given category the ones that are suggested instead, the likeliest first."""
    pairs = issues.filter(pl.col("category") != pl.col("suggested_category")).select("category", "suggested_category").rows()
    found: dict[str, list[str]] = {}
    for (given, suggested), _ in Counter(pairs).most_common():
        found.setdefault(given, []).append(suggested)
    return found


def _content(decision: Decision | None) -> tuple[Any, ...]:
    """What a decision says, without when and by whom; nothing said and taken back are the same."""
    if decision is None or decision.verdict == "open":
        return ("open",)
    return decision.verdict, decision.category, decision.xyxy
