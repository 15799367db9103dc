"""All that one screen shows of an issue: boxes, words, what else is in the picture, and what was decided."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclean.boxes import Floats, Ints, Mask
from detclean.dataset import Dataset
from detclean.edit.decisions import Box, Decision
from detclean.review.session import SIDES, Session, count_confusions, propose_target, read_corners, turn_upright
from detclean.show.words import TYPES, say_likeliness

LIKELY = 9  # categories, one a digit
MOST_NEIGHBOURS = 2000  # boxes around an issue: more would not be told apart, and would be slow to draw
WORDS = ("issue_type", "action", "verdict", "rank", "detector_score", "iou", "votes", "source", "reason", "file_name")


class Screens:
    """Describes issues of a session; holds what is looked up for each of them: where an image's annotations and issues stand."""

    def __init__(self, session: Session) -> None:
        self.session = session
        dataset, issues = session.run.dataset, session.issues
        self._edges = np.searchsorted(dataset.annotations.image_index, np.arange(dataset.image_count + 1))
        self._issue_of = np.full(len(dataset.annotations), -1, np.int64)  # of each annotation
        about: Mask = issues["annotation"].is_not_null().to_numpy()
        self._issue_of[issues["annotation"].drop_nulls().to_numpy()] = np.flatnonzero(about)
        missing = np.flatnonzero(~about)
        self._missing: Ints = missing[np.argsort(session.image_index[missing], kind="stable")]  # issues about overlooked objects, by image
        self._missing_edges = np.searchsorted(session.image_index[self._missing], np.arange(dataset.image_count + 1))
        self._missing_xyxy: Floats = issues.select(f"suggested_{side}" for side in SIDES).to_numpy().astype(np.float64)[self._missing]
        self._confused = count_confusions(issues)
        self._frequent = order_by_frequency(dataset)

    def describe(self, position: int) -> dict[str, Any]:
        """An issue as its screen needs it."""
        session = self.session
        with session.lock:
            row = session.issues.row(position, named=True)
            image = int(row["image_index"])
            change = session.describe_change(session.names[position])
            given, suggested = row["category"], row["suggested_category"]
            promised, now = float(session.probability[position]), float(session.probability_now[position])
            return {
                **{name: row[name] for name in WORDS},
                **change,
                "position": position,
                "kind": TYPES[row["issue_type"]],
                "probability": promised,
                "probability_now": now if session.calibrated_by else None,
                "likeliness": say_likeliness(now if session.calibrated_by else promised),
                "picture": self.describe_picture(image),
                "given": _describe_box(given, read_corners(row, "")),
                "proposed": self._describe_proposal(row),
                "neighbours": self._describe_neighbours(image, position, read_corners(row, "") or read_corners(row, "suggested_")),
                "added": self.describe_added(image),
                "likely": self._likely(given, suggested),
            }

    def describe_picture(self, image: int) -> dict[str, Any]:
        """The address and size of a picture."""
        row = self.session.run.dataset.images.row(image, named=True)
        address = f"/image/{image}?v={self.session.nonce}" if row["path"] else None
        return {"index": image, "address": address, "width": row["width"], "height": row["height"]}

    def describe_added(self, image: int) -> list[dict[str, Any]]:
        """The boxes of an image that no issue names and somebody decided about."""
        session = self.session
        changes = [session.describe_change(name) for name in session.boxes.get(image, [])]
        return [change for change in changes if change["decision"] is not None]

    def _describe_proposal(self, row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            category, xyxy = propose_target(row)
        except ValueError:
            return None
        return {"category": category, "xyxy": xyxy}

    def _describe_neighbours(self, image: int, position: int, place: Box | None) -> list[dict[str, Any]]:
        """The other annotations of an image, and the other objects that are called overlooked in it: those nearest to the issue's place."""
        session, boxes = self.session, self.session.run.dataset.annotations
        replaced = {decision.annotation_id for decision in self._hand_made(image) if decision.annotation_id is not None}
        found = []
        first, last = int(self._edges[image]), int(self._edges[image + 1])
        for i in (first + find_nearest(boxes.xyxy[first:last], place, MOST_NEIGHBOURS)).tolist():
            issue = int(self._issue_of[i])
            if issue == position:
                continue
            name = session.run.dataset.categories[int(boxes.category[i])]
            box = _describe_box(name, turn_upright(boxes.xyxy[i].tolist()))
            state = "accept" if replaced and _as_plain(boxes.annotation_id, i) in replaced else None
            found.append(self._describe_neighbour(box, issue if issue >= 0 else None, given=True, state=state))
        own = slice(int(self._missing_edges[image]), int(self._missing_edges[image + 1]))
        for issue in self._missing[own][find_nearest(self._missing_xyxy[own], place, MOST_NEIGHBOURS)].tolist():
            if issue != position:
                row = session.issues.row(issue, named=True)
                box = _describe_box(row["suggested_category"], read_corners(row, "suggested_"))
                found.append(self._describe_neighbour(box, issue, given=False))
        return [one for one in found if one["xyxy"] is not None]

    def _hand_made(self, image: int) -> list[Decision]:
        return [decision for name in self.session.boxes.get(image, []) if (decision := self.session.latest(name)) is not None]

    def _describe_neighbour(self, box: dict[str, Any] | None, issue: int | None, given: bool, state: str | None = None) -> dict[str, Any]:
        """One with its issue, if it is about one, and what was decided: after is then what the labels are to have there."""
        decision = None if issue is None else self.session.latest(self.session.names[issue])
        after = _describe_box(decision.category, decision.xyxy) if decision is not None and decision.verdict == "accept" else None
        verdict = state if decision is None else decision.verdict
        return {**(box or {"category": None, "xyxy": None}), "issue": issue, "given": given, "verdict": verdict, "after": after}

    def _likely(self, given: str | None, suggested: str | None) -> list[str]:
        """The categories that a person will most likely choose."""
        ordered = [*([suggested] if suggested else []), *self._confused.get(given or "", []), *self._frequent]
        return list(dict.fromkeys(ordered))[:LIKELY]


def find_nearest(xyxy: Floats, place: Box | None, most: int) -> Ints:
    """Positions of those `most` of the boxes (n, 4), inverted ones among them, with the smallest gap to a box, in their own order."""
    if len(xyxy) <= most or place is None:
        return np.arange(min(len(xyxy), most))
    low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
    gaps = np.maximum(np.maximum(low - place[2:], np.subtract(place[:2], high)), 0)
    return np.sort(np.argsort(np.hypot(gaps[:, 0], gaps[:, 1]), kind="stable")[:most])


def order_by_frequency(dataset: Dataset) -> list[str]:
    """The categories' names, those with most annotations first."""
    counts: Ints = np.bincount(dataset.annotations.category, minlength=len(dataset.categories))
    return [dataset.categories[i] for i in np.argsort(-counts, kind="stable").tolist()]


def _describe_box(category: str | None, xyxy: tuple[float, ...] | None) -> dict[str, Any] | None:
    return None if xyxy is None else {"category": category, "xyxy": xyxy}


def _as_plain(ids: NDArray[np.generic] | None, i: int) -> object:
    return None if ids is None else ids[i].item() if isinstance(ids[i], np.generic) else ids[i]
