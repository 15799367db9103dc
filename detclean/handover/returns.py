"""From what came back from a tool to decisions: the final boxes of each finished image against those handed over, and the annotations.

What a person left in an image is what its labels are to be. A box on trial that stays as the source has it: its issue is rejected. One that
was moved, renamed or deleted: accepted, with what lies there now. An overlooked object that stays is accepted, one that was deleted
rejected. Boxes that no issue names and that changed, and new ones, become decisions with a name of their own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, aligned_iou, clip_boxes
from detclean.edit.changes import read_annotation
from detclean.edit.decisions import BOX, Decision, Verdict
from detclean.errors import DatasetError
from detclean.formats.records import FARTHEST, is_within_reach
from detclean.handover.names import KnownImages, clean_text, find_image, know_images, make_unique_names
from detclean.handover.sheet import SIDES, WAS, as_boxes, find_twins, stand
from detclean.runfolder import Run
from detclean.score.matching import match_greedily, overlapping_pairs

SAME_PLACE = 0.5  # IoU from which on a box without its id is taken for one that was handed over
# What may shift a corner that nobody touched: tools that round to whole pixels. Label Studio's percentages have all digits of a float and
# CVAT's pixels two decimals, so that neither needs more, however large the image.
ROUNDING_PX = 1.0
ROUNDING_OF_BOX = 0.05  # of the box's side: in a small box a pixel is a correction
ROUNDING_LEAST = 0.02  # px: twice what two decimals of a corner and a side come to, whatever the box's side
ASPECT = 0.02  # how much another aspect ratio of an image may differ before it is another image, or one that lies on its side
NAMED = 3  # records that a note names


@dataclass(frozen=True)
class Returned:
    """What a tool's file says. percent: boxes are percentages of their image, otherwise pixels of its width and height.

    images, the finished ones, one row each: record ("task 17"), names (list of text: what it may be called), image_id (text or null),
    width and height (null where the file does not say). boxes: image (a row of images), record, category, x1 y1 x2 y2, box_id (null or
    the one that was handed over), annotation_id (null or text), hard, touched (a person worked on it, whatever it came to). untouched:
    images that nobody finished; tells_finished: whether the file says which these are, or just holds images.
    """

    path: Path
    by: str
    percent: bool
    images: pl.DataFrame
    boxes: pl.DataFrame
    untouched: int = 0
    notes: tuple[str, ...] = ()
    tells_finished: bool = False


IMAGE_SCHEMA: dict[str, Any] = {
    "record": pl.String,
    "names": pl.List(pl.String),
    "image_id": pl.String,
    "width": pl.Float64,
    "height": pl.Float64,
}
BOX_SCHEMA: dict[str, Any] = {
    "image": pl.Int64,
    "record": pl.String,
    "category": pl.String,
    **dict.fromkeys(SIDES, pl.Float64),
    "box_id": pl.String,
    "annotation_id": pl.String,
    "hard": pl.Boolean,
    "touched": pl.Boolean,
}


@dataclass(frozen=True)
class ImportResult:
    """What an import did, for a person. images: finished ones; untouched: ones that nobody finished; unknown: ones of another data set.

    accepted, rejected, hard: decisions about issues. new_boxes: added ones; changed_elsewhere: decisions about boxes that no issue names.
    known: decisions that were made before already, so that nothing was written. notes: what else a person should know.

    unchanged: images in which nothing differs from what was handed over and no box was worked on, where the file does not say whether
    anybody finished them (CVAT, COCO). unchanged_accepted (overlooked objects that were left), unchanged_rejected: those of accepted and
    of rejected that are in these.
    """

    by: str
    images: int
    untouched: int
    unknown: int
    accepted: int
    rejected: int
    hard: int
    new_boxes: int
    changed_elsewhere: int
    known: int
    notes: tuple[str, ...]
    unchanged: int = 0
    unchanged_accepted: int = 0
    unchanged_rejected: int = 0


def compare(run: Run, earlier: Mapping[str, Decision], returned: Returned) -> tuple[list[Decision], ImportResult]:
    """The decisions in a file that are not `earlier` ones. Raises DatasetError where it names categories or images that fit none here."""
    notes = list(returned.notes)
    index, unknown = _recognise(run, returned, notes)
    boxes = _place_boxes(run, returned, index, notes)
    everything = stand(run, earlier)
    seen = np.zeros(run.dataset.image_count, bool)
    seen[index[index >= 0]] = True
    # A box too small to be drawn, which no person has seen, is never judged by its absence.
    usable = everything.filter(pl.Series(seen[everything["image_index"].to_numpy()]), pl.col("drawable") | ~pl.col("present"))
    standing = usable.sort("image_index", maintain_order=True)
    _note_emptied(run, standing, boxes, notes)
    match = match_boxes(standing, boxes)
    outcome = judge(standing, boxes, match, run.dataset.sizes)
    decisions = _write_down(run, standing, outcome, returned.by)
    new = _find_new(run, boxes, match, returned.by)
    repeated = {d.issue for d in new if (e := earlier.get(d.issue)) is not None and e.verdict == "accept"}
    told = outcome.known & standing.select(pl.col("issue_id").is_not_null() | pl.col("changed")).to_series().to_numpy()
    alike = seen & (not returned.tells_finished)
    alike[standing["image_index"].to_numpy()[~outcome.stays]] = False
    alike[boxes["image_index"].to_numpy()[_unmatched(boxes, match) | boxes["touched"].to_numpy()]] = False
    issue_ids = set(run.issues["issue_id"].to_list())
    about = [d for d in decisions if d.issue in issue_ids]
    alike_ids = set(standing.filter(pl.Series(alike[standing["image_index"].to_numpy()]))["issues"].explode().drop_nulls().to_list())
    counts = Counter((d.verdict, d.issue in alike_ids) for d in about)
    result = ImportResult(
        by=returned.by,
        images=int(seen.sum()),
        untouched=returned.untouched,
        unknown=unknown,
        accepted=counts["accept", True] + counts["accept", False],
        rejected=counts["reject", True] + counts["reject", False],
        hard=counts["hard", True] + counts["hard", False],
        new_boxes=len(new) - len(repeated),
        changed_elsewhere=len(decisions) - len(about),
        known=int(told.sum()) + len(repeated),
        notes=tuple(notes),
        unchanged=int(alike.sum()),
        unchanged_accepted=counts["accept", True],
        unchanged_rejected=counts["reject", True],
    )
    return decisions + [d for d in new if d.issue not in repeated], result


def _note_emptied(run: Run, standing: pl.DataFrame, boxes: pl.DataFrame, notes: list[str]) -> None:
    """Says which images lost all their boxes: a person's will, or a file that holds more images than were worked on."""
    had = np.unique(standing.filter("present")["image_index"].to_numpy())
    emptied = np.setdiff1d(had, boxes["image_index"].to_numpy())
    if len(emptied):
        names = [str(run.dataset.images["file_name"][int(i)]) for i in emptied[:NAMED]]
        which = ", ".join(names) + (", .." if len(emptied) > NAMED else "")
        notes.append(f"{len(emptied)} images came back without any box, so all their boxes are decided to go: {which}")


# Recognising


def _recognise(run: Run, returned: Returned, notes: list[str]) -> tuple[Ints, int]:
    """The position of each returned image in the data set (m,), -1 where it is not used; and how many are unknown."""
    table, first = run.dataset.images, find_twins(run.dataset).image
    known = know_images(make_unique_names(table["file_name"].to_list()), table["path"].to_list(), table["image_id"].to_list())
    index = np.full(returned.images.height, -1, dtype=np.int64)
    last: dict[int, int] = {}
    unknown: list[str] = []
    for i, row in enumerate(returned.images.iter_rows(named=True)):
        found = list(dict.fromkeys(first[_find(known, row)].tolist()))
        if len(found) > 1:
            shown = ", ".join(str(table["file_name"][j]) for j in found[:2])
            raise DatasetError(f"{returned.path}: {row['record']}: '{row['names'][0]}' can be {shown}; keep the folders in the names")
        if not found:
            unknown.append(f"{row['record']} '{(row['names'] or ['?'])[0]}'")
            continue
        if (earlier := last.get(found[0])) is not None:
            index[earlier] = -1
            note = f"{returned.images['record'][earlier]} and {row['record']} are the same image; the later counts"
            notes.append(note)
        last[found[0]] = i
        index[i] = found[0]
    if unknown and len(unknown) == returned.images.height:
        raise DatasetError(f"{returned.path}: none of its images is of this run (first: {unknown[0]}); name the run that was handed over")
    if unknown:
        notes.append(f"{len(unknown)} images are not of this run and left out: {_name_some(unknown)}")
    return index, len(unknown)


def _find(known: KnownImages, row: Mapping[str, Any]) -> list[int]:
    if row["image_id"] is not None and row["image_id"] in known.by_id:
        names = row["names"]
        exact = next((known.exact[name] for name in names if name in known.exact), None)
        return [known.by_id[row["image_id"]] if exact is None else exact]
    for name in row["names"]:
        if found := find_image(known, name):
            return found
    return []


def _name_some(records: Sequence[str]) -> str:
    return ", ".join(records[:NAMED]) + (", .." if len(records) > NAMED else "")


def _place_boxes(run: Run, returned: Returned, index: Ints, notes: list[str]) -> pl.DataFrame:
    """The returned boxes of recognised images, in pixels of the data set's images and inside them, sorted by image_index."""
    rows = returned.boxes.with_columns(image_index=pl.Series(index[returned.boxes["image"].to_numpy()], dtype=pl.Int64))
    rows = rows.filter(pl.col("image_index") >= 0)
    corners = rows.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)
    for i in np.flatnonzero(~is_within_reach(corners))[:1]:
        raise DatasetError(f"{returned.path}: {rows['record'][int(i)]}: its box {corners[i].tolist()} is not four numbers; correct it")
    number_of = {clean_text(name).strip(): i for i, name in reversed(list(enumerate(run.dataset.categories)))}
    number_of |= {clean_text(name): i for i, name in enumerate(run.dataset.categories)}
    number_of |= {name: i for i, name in enumerate(run.dataset.categories)}
    categories = rows["category"].replace_strict(number_of, default=None, return_dtype=pl.Int64) if rows.height else rows["image_index"]
    for i in categories.is_null().arg_true()[:1]:
        names = ", ".join(run.dataset.categories[:12]) + (", .." if len(run.dataset.categories) > 12 else "")
        raise DatasetError(f"{returned.path}: {rows['record'][i]}: category '{rows['category'][i]}' is not in the data set; it has {names}")
    sizes = run.dataset.sizes
    _check_sizes(run, returned, index)
    own = returned.images.select("width", "height").to_numpy().astype(np.float64).reshape(-1, 2)[rows["image"].to_numpy()]
    here = sizes[rows["image_index"].to_numpy()].reshape(-1, 2)
    unit = np.full_like(here, 100.0) if returned.percent else np.where(np.isfinite(own), own, here)
    xyxy = clip_boxes(corners * np.tile(here / unit, 2), here)
    empty: Mask = np.any(xyxy[:, 2:] <= xyxy[:, :2], axis=1)
    if empty.any():
        which = _name_some(rows["record"].filter(pl.Series(empty)).to_list())
        notes.append(f"{int(empty.sum())} boxes without an area inside their image are left out: {which}")
    placed = rows.with_columns(category=categories, **{side: pl.Series(xyxy[:, i]) for i, side in enumerate(SIDES)})
    return placed.filter(pl.Series(~empty)).sort("image_index", maintain_order=True)


def _check_sizes(run: Run, returned: Returned, index: Ints) -> None:
    own = returned.images.select("width", "height").to_numpy().astype(np.float64).reshape(-1, 2)
    here = run.dataset.sizes[np.maximum(index, 0)]
    told = (index >= 0) & np.isfinite(own).all(axis=1)
    wrong = told & ~((own > 0) & (own <= FARTHEST)).all(axis=1)
    both = np.where(told[:, None] & ~wrong[:, None], own, here)
    aspect = np.abs(both[:, 0] * here[:, 1] / (both[:, 1] * here[:, 0]) - 1)
    wrong |= told & (aspect > ASPECT) & (np.abs(both - here) > ROUNDING_PX).any(axis=1)
    for i in np.flatnonzero(wrong)[:1]:
        theirs, ours = (f"{size[0]:g} x {size[1]:g}" for size in (own[i], here[i]))
        message = f"is {theirs} there and {ours} in the run; give the tool the very same picture (mind its EXIF orientation)"
        raise DatasetError(f"{returned.path}: {returned.images['record'][int(i)]}: {message}")


# Matching


def match_boxes(standing: pl.DataFrame, boxes: pl.DataFrame) -> Ints:
    """The returned box of each standing one: (s,) positions in boxes, -1 where it is gone. Both sorted by image_index.

    First by box_id, which one box may claim (a copy in the tool has the id, too: the one that fits better); then by place, the best
    overlap of the same category first; then by the source's annotation id, which tools renumber.
    """
    match = np.full(standing.height, -1, dtype=np.int64)
    free = np.ones(boxes.height, dtype=bool)
    place = standing.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)
    final = boxes.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)
    for key in ("box_id", "place", "annotation_id"):
        if key == "place":
            first, second = _by_place(standing, boxes, match < 0, free)
        else:
            first, second = _by_key(standing, boxes, key, match < 0, free)
        iou = np.nan_to_num(aligned_iou(place[first], final[second]))
        same = standing["category"].fill_null(-1).to_numpy()[first] == boxes["category"].to_numpy()[second]
        there = standing["present"].to_numpy()[first]
        taken = match_greedily(first, second, iou + same + 2 * there)
        match[first[taken]] = second[taken]
        free[second[taken]] = False
    return match


def _by_key(standing: pl.DataFrame, boxes: pl.DataFrame, key: str, open_: Mask, free: Mask) -> tuple[Ints, Ints]:
    keys = ["image_index", key]
    ours = standing.select("image_index", pl.col(key).cast(pl.String), first=pl.int_range(pl.len())).filter(pl.Series(open_))
    theirs = boxes.select("image_index", pl.col(key).cast(pl.String), second=pl.int_range(pl.len())).filter(pl.Series(free))
    pairs = ours.drop_nulls().join(theirs.drop_nulls(), on=keys, how="inner").sort("first", "second")
    return pairs["first"].to_numpy().astype(np.int64), pairs["second"].to_numpy().astype(np.int64)


def _by_place(standing: pl.DataFrame, boxes: pl.DataFrame, open_: Mask, free: Mask) -> tuple[Ints, Ints]:
    placed = standing.select(pl.col("x1").is_not_null()).to_series().to_numpy()
    ours, theirs = np.flatnonzero(open_ & placed), np.flatnonzero(free)
    a: Boxes = as_boxes(standing[ours])
    first, second, _ = overlapping_pairs(a, as_boxes(boxes[theirs]), SAME_PLACE)
    return ours[first], theirs[second]


def is_close(a: Floats, b: Floats) -> Mask:
    """Whether boxes differ by no more than a tool's rounding, corner by corner: (n, 4), (n, 4) in pixels -> (n,)."""
    allowed = np.clip(ROUNDING_OF_BOX * (a[:, 2:] - a[:, :2]), ROUNDING_LEAST, ROUNDING_PX)
    close: Mask = np.all(np.abs(a - b) <= np.tile(allowed, 2), axis=1)
    return close


# Deciding


@dataclass(frozen=True)
class Outcome:
    """What a person left of each standing box, (s,) each. stays: as it was handed over. known: nothing is to be decided anew.

    right: the labels are, as the source has them; hard: they are, though difficult. category (-1) and xyxy (NaN): what lies there in the
    end; nothing where it is gone.
    """

    stays: Mask
    known: Mask
    right: Mask
    hard: Mask
    category: Ints
    xyxy: Floats


def judge(standing: pl.DataFrame, boxes: pl.DataFrame, match: Ints, image_sizes: Floats) -> Outcome:
    """What the returned boxes say about those that stood in their images; image_sizes (N, 2)."""
    n = standing.height
    found = match >= 0
    sizes = image_sizes[standing["image_index"].to_numpy()].reshape(n, 2)
    source, now = (standing.select(columns).to_numpy().astype(np.float64).reshape(n, 4) for columns in (WAS, SIDES))
    final = _take(boxes.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4), match, np.nan)
    category = _take(boxes["category"].to_numpy().astype(np.int64), match, -1)
    said_hard = _take(boxes["hard"].to_numpy(), match, False)
    was_category, now_category = (standing[name].fill_null(-1).to_numpy() for name in ("was_category", "category"))
    open_, changed, present = (standing[name].to_numpy() for name in ("open", "changed", "present"))
    verdict = standing["verdict"].fill_null("").to_numpy()
    on_issue = standing["issue_id"].is_not_null().to_numpy()
    given = (standing["kind"] == "given").to_numpy()

    like_now = found & present & (is_close(now, final) | is_close(clip_boxes(now, sizes), final))
    like_source = found & (is_close(source, final) | is_close(clip_boxes(source, sizes), final))
    stays = np.where(found, like_now & (category == now_category), ~present)
    right = np.where(
        given, np.where(stays, ~changed, like_source & (category == was_category)), ~found
    )  # the labels, as the source has them
    hard = on_issue & said_hard & np.where(given, right, found)
    return Outcome(
        stays=stays & ~(hard & (verdict != "hard")),
        known=~open_ & np.where(hard, (verdict == "hard") & ~changed, stays),
        right=right,
        hard=hard,
        category=category,
        xyxy=np.where(like_now[:, None], now, np.where(like_source[:, None], source, final)),  # what nobody moved stays to the last digit
    )


def _write_down(run: Run, standing: pl.DataFrame, outcome: Outcome, by: str) -> list[Decision]:
    """A decision under each name by which a box is decided, for all that is not known."""
    boxes, categories, image_ids = run.dataset.annotations, run.dataset.categories, run.dataset.images["image_id"]
    decisions: list[Decision] = []
    rows = standing.select("image_index", "annotation", "issue", "issues").filter(pl.Series(~outcome.known))
    for i, (index, annotation, issue, issues) in zip(np.flatnonzero(~outcome.known).tolist(), rows.iter_rows(), strict=True):
        word: Verdict = "hard" if outcome.hard[i] else "reject" if outcome.right[i] else "accept"
        decision = Decision(issue, word, image_ids[index], by=by)
        if annotation is not None:
            identity = annotation if boxes.annotation_id is None else boxes.annotation_id[annotation : annotation + 1].tolist()[0]
            given = read_annotation(run.dataset, annotation)
            decision = replace(decision, annotation_id=identity, given_category=given.category, given_xyxy=given.xyxy)
        if word == "accept" and outcome.category[i] >= 0:
            decision = replace(decision, category=categories[outcome.category[i]], xyxy=tuple(outcome.xyxy[i].tolist()))
        decisions += [replace(decision, issue=name) for name in issues or [issue]]
    return decisions


def _take(values: Any, match: Ints, missing: Any) -> Any:
    """The value of each matched box: (b, ...) and (s,) -> (s, ...); `missing` where there is none."""
    result = np.full((len(match), *values.shape[1:]), missing, dtype=values.dtype)
    found = match >= 0
    result[found] = values[match[found]]
    return result


def _find_new(run: Run, boxes: pl.DataFrame, match: Ints, by: str) -> list[Decision]:
    """One accepted decision for each box that stands for nothing the run knows; named by what it is, so that it is the same next time."""
    image_ids, categories = run.dataset.images["image_id"], run.dataset.categories
    decisions: dict[str, Decision] = {}
    for index, category, *corners in (
        boxes.filter(pl.Series(_unmatched(boxes, match))).select("image_index", "category", *SIDES).iter_rows()
    ):
        x1, y1, x2, y2 = corners
        key = "\x1f".join([str(image_ids[index]), categories[category], *(f"{value:.2f}" for value in corners)])
        name = f"{BOX}{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
        decisions[name] = Decision(name, "accept", image_ids[index], None, categories[category], (x1, y1, x2, y2), by=by)
    return list(decisions.values())


def _unmatched(boxes: pl.DataFrame, match: Ints) -> Mask:
    """The returned boxes that stand for none of the run's: (b,)."""
    free = np.ones(boxes.height, dtype=bool)
    free[match[match >= 0]] = False
    return free
