"""What is to change in the labels, object by object: from people's decisions, or from issues that are sure enough."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Ints, box_iou
from detclean.dataset import Dataset, Edit
from detclean.edit.decisions import Box, Decision
from detclean.errors import DatasetError

SETTLED = ("accept", "reject", "hard")  # verdicts that end the matter
SAME = 1e-6  # px: below this two boxes are one and the same
AS_GIVEN = 0.01  # px: below this an annotation is the one that was decided about
STANDS = 0.95  # IoU from which on an object that is to be added stands there already


@dataclass(frozen=True)
class LabelledBox:
    """An object as the labels have it or are to have it: category by name, xyxy in pixels."""

    category: str
    xyxy: Box


@dataclass(frozen=True)
class Change:
    """One object before and after; before is None for one that is added, after for one that goes.

    issue: the issue or the decision that it comes from. probability: of the issue. annotation: a position in the data set's annotations.
    why: what it goes back to, a decision (verdict, at, by) or a rule (rule, least_probability); None where it is not to be applied.
    """

    issue: str
    issue_type: str | None
    probability: float | None
    image_index: int
    annotation: int | None
    before: LabelledBox | None
    after: LabelledBox | None
    why: Mapping[str, str | float] | None = None


@dataclass(frozen=True)
class Changes:
    """all: what is to change. strangers: decisions about issues that the run does not list (any more), which are left out."""

    all: tuple[Change, ...]
    strangers: tuple[Decision, ...] = ()


def find_changes(dataset: Dataset, issues: pl.DataFrame, decisions: Mapping[str, Decision], auto: float | None = None) -> Changes:
    """What the accepted decisions change; with `auto` also the proposals of undecided issues of at least this probability.

    issues: as `Run.issues`. decisions: the one that counts for each issue, in the order in which they were made: of several about one
    annotation, under whatever names, the last accept, reject or hard counts. A decision on an issue that is not listed any more, or on
    none, is about the annotation that looks as it did then, and a stranger where there is none. An object that is to be added and stands
    there already is not added again. Raises DatasetError where a decision names a category that the data set does not have.
    """
    row_of: dict[str, dict[str, Any]] = {row["issue_id"]: row for row in issues.iter_rows(named=True)}
    places = _Places(dataset)
    changes: dict[tuple[str, int | str], Change] = {}
    strangers: list[Decision] = []
    if auto is not None:
        for row in row_of.values():
            if row["issue_id"] not in decisions and row["probability"] >= auto and row["action"] != "review":
                change = make_change(dataset, row, propose_after(row))
                changes[_target(change)] = replace(change, why={"rule": "auto", "least_probability": auto})
    for decision in decisions.values():
        if decision.verdict not in SETTLED:
            continue
        place = row_of.get(decision.issue) or places.find(decision)
        if place is None:
            strangers += [decision] if decision.verdict == "accept" else []
            continue
        change = make_change(dataset, place, _as_decided(decision, dataset))
        changes.pop(_target(change), None)
        stands = change.annotation is None and change.after is not None and places.has(change.image_index, change.after)
        if decision.verdict == "accept" and not stands and not _is_same(change.before, change.after):
            why = {"verdict": decision.verdict, "at": decision.at, "by": decision.by}
            changes[_target(change)] = replace(change, why=why)
    return Changes(tuple(changes.values()), tuple(strangers))


def propose_after(issue: Mapping[str, Any]) -> LabelledBox | None:
    """What an issue proposes to stand in its place; None for nothing. The action must not be "review": that one proposes nothing."""
    if issue["action"] == "delete":
        return None
    given = tuple(issue[side] for side in ("x1", "y1", "x2", "y2"))
    suggested = tuple(issue[f"suggested_{side}"] for side in ("x1", "y1", "x2", "y2"))
    category = issue["category"] if issue["action"] == "move" else issue["suggested_category"]
    return LabelledBox(category, given if issue["action"] == "relabel" else suggested)


def make_change(dataset: Dataset, row: Mapping[str, Any], after: LabelledBox | None) -> Change:
    """The change that puts `after` in an issue's place. row: image_index and annotation, and of the issue what is known."""
    annotation = row["annotation"]
    before = None if annotation is None else read_annotation(dataset, annotation)
    return Change(row.get("issue_id", ""), row.get("issue_type"), row.get("probability"), row["image_index"], annotation, before, after)


def read_annotation(dataset: Dataset, annotation: int) -> LabelledBox:
    """An annotation as the data set has it, by its position."""
    x1, y1, x2, y2 = dataset.annotations.xyxy[annotation].tolist()
    return LabelledBox(dataset.categories[int(dataset.annotations.category[annotation])], (x1, y1, x2, y2))


def as_edits(changes: Sequence[Change], dataset: Dataset) -> list[Edit]:
    """The changes as edits to the source; one that moves and renames is two."""
    number_of = {name: i for i, name in enumerate(dataset.categories)}
    edits = []
    for change in changes:
        where, before, after = (change.image_index, change.annotation), change.before, change.after
        if after is None:
            edits.append(Edit("delete", *where))
        elif before is None:
            edits.append(Edit("add", *where, category=number_of[after.category], xyxy=after.xyxy))
        else:
            if after.category != before.category:
                edits.append(Edit("relabel", *where, category=number_of[after.category]))
            if not _is_close(before.xyxy, after.xyxy):
                edits.append(Edit("move", *where, xyxy=after.xyxy))
    return edits


class _Places:
    """Where decisions that name no listed issue belong."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._images_of: dict[str, list[int]] = defaultdict(list)  # several where a picture is in two splits
        for i, image_id in enumerate(dataset.images["image_id"].to_list()):
            self._images_of[str(image_id)].append(i)
        self._rows = dataset.annotations.by_image(dataset.image_count)

    def find(self, decision: Decision) -> dict[str, Any] | None:
        """Image and annotation of a decision, by what was annotated when it was made; None where there is no such annotation."""
        images = self._images_of.get(str(decision.image_id), [])
        if decision.annotation_id is None:
            return {"issue_id": decision.issue, "image_index": images[0], "annotation": None} if images else None
        if decision.given_category is None or decision.given_xyxy is None:
            return None
        given = LabelledBox(decision.given_category, decision.given_xyxy)
        for image in images:
            alike = [i for i in self._in_image(image) if _is_same(self._read(i), given, AS_GIVEN)]
            ids = self._dataset.annotations.annotation_id
            alike.sort(key=lambda i: ids is not None and str(ids[i]) != str(decision.annotation_id))
            if alike:
                return {"issue_id": decision.issue, "image_index": image, "annotation": alike[0]}
        return None

    def has(self, image: int, box: LabelledBox) -> bool:
        """Whether an annotation of this category covers the same place."""
        mine = [i for i in self._in_image(image) if self._read(i).category == box.category]
        return bool(mine) and bool((box_iou(np.array([box.xyxy]), self._dataset.annotations.xyxy[mine]) >= STANDS).any())

    def _in_image(self, image: int) -> range:
        rows = self._rows[image]
        return range(rows.start, rows.stop)

    def _read(self, annotation: int) -> LabelledBox:
        return read_annotation(self._dataset, annotation)


def _as_decided(decision: Decision, dataset: Dataset) -> LabelledBox | None:
    if decision.category is None or decision.xyxy is None:
        return None
    if decision.category not in dataset.categories:
        raise DatasetError(f"decision on {decision.issue}: category '{decision.category}' is not in the data set; choose one that is")
    return LabelledBox(decision.category, decision.xyxy)


def _target(change: Change) -> tuple[str, int | str]:
    return ("annotation", change.annotation) if change.annotation is not None else ("issue", change.issue)


def _is_same(before: LabelledBox | None, after: LabelledBox | None, tolerance: float = SAME) -> bool:
    if before is None or after is None:
        return before is after
    return before.category == after.category and _is_close(before.xyxy, after.xyxy, tolerance)


def _is_close(a: Box, b: Box, tolerance: float = SAME) -> bool:
    return bool(np.abs(np.subtract(a, b)).max() < tolerance)


def find_source_changes(then: Dataset, now: Dataset, known: Collection[str] = ()) -> list[str]:
    """What differs between the labels that a run has read and the labels as they are, each with its place; empty where nothing does.

    Images that are new since then, and whatever of the source is no label, do not matter here; nor do the files `known`, by their path.
    Categories have to be the same ones in the same order, as edits are written with their numbers.
    """
    if (then.categories, then.category_ids) != (now.categories, now.category_ids):
        return [f"{then.source}: the categories or their numbers: have changed"]
    sizes = [pl.col("image_id").cast(pl.String), "width", "height"]
    images = then.images.select(sizes).join(now.images.select(sizes), on=["image_id", "width", "height"], how="anti")
    found = [f"image {image_id}: is gone or has another size" for image_id in images["image_id"].to_list()]
    old, new = _as_rows(then, known), _as_rows(now, known)
    new = new.join(then.images.select(pl.col("image_id").cast(pl.String)), on="image_id", how="semi")
    columns = [column for column in old.columns if column != "position"]
    gone, come = old.join(new, on=columns, how="anti")["position"], new.join(old, on=columns, how="anti")["position"]
    places = dict.fromkeys([*(_place_of(then, position) for position in gone), *(_place_of(now, position) for position in come)])
    return found + [f"{place}: has changed" for place in places]


def _as_rows(dataset: Dataset, known: Collection[str]) -> pl.DataFrame:
    """One row an annotation whose file is not among the known ones: image, row in the file, category by name, corners."""
    boxes = dataset.annotations
    image: Ints = boxes.image_index
    corners = {side: boxes.xyxy[:, i] for i, side in enumerate(("x1", "y1", "x2", "y2"))}
    rows = pl.DataFrame(
        {
            "image_id": dataset.images["image_id"].cast(pl.String).gather(image),
            "row": dataset.source_rows,
            "category": pl.Series(dataset.categories, dtype=pl.String).gather(boxes.category),
            **corners,
            "position": np.arange(len(boxes)),
        }
    )
    if not known:
        return rows
    files = dataset.images["label_path"].fill_null(str(dataset.source)).to_list()
    is_known = np.array([os.path.realpath(file) in known for file in files], bool)
    return rows.filter(pl.Series(~is_known[image]))


def _place_of(dataset: Dataset, position: int) -> str:
    """The label file of an annotation, or the annotation where one file holds all."""
    shown = dataset.describe_source(position)
    separator = {"yolo": ":", "voc": " object "}.get(dataset.format)
    return shown.rpartition(separator)[0] if separator else shown
