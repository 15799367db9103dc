"""What is handed over to an annotation tool, whichever it is.

A person gets images, and in each ALL boxes as the labels have them now: the source's annotations with the accepted decisions applied.
A box that is suspected and undecided carries its issue: type, probability, the reason and the suggestion in words. An overlooked object
that is undecided lies there as a box of its own, flagged as such. So the person deletes, moves and renames what is wrong, adds what is
missing, and leaves what is right: what lies there in the end is what the labels are to be, and `returns` reads it so.

Each box has a box_id that comes back with it: `annotation-17`, `issue-8f3a..` for an overlooked object, `box-..` for one that people added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Mask, clip_boxes
from detclean.edit.decisions import Decision
from detclean.errors import DatasetError
from detclean.handover.names import make_unique_names
from detclean.runfolder import Run

CHOICES = ("open", "issues", "all")  # of images: with an undecided issue, with any issue, the whole part
SIDES = ["x1", "y1", "x2", "y2"]
WAS = [f"was_{side}" for side in SIDES]
SETTLED = ("accept", "reject", "hard")  # verdicts; one that was skipped is still open
PLAIN_ID = r"^[A-Za-z0-9_.-]{1,64}$"  # ids that every tool keeps as they are; Label Studio cuts one at a #
SMALLEST = 0.1  # px; a box with a shorter side inside its image cannot be drawn by hand, and tools drop it
ISSUE_WORDS = ("issue_type", "probability", "reason", "suggestion")


@dataclass(frozen=True)
class Sheet:
    """images, one row an image: image_index, image_id, name (unique), path, width, height, settled (nothing about it is open), quality.

    boxes, sorted by image: image (a row of images), box_id, annotation, annotation_id, issue_id, issue_type, probability, reason,
    suggestion and note (null where nothing is open), verdict, category (a position in categories), x1 y1 x2 y2 in pixels inside the
    image, is_crowd. left_out: boxes too small to be drawn.
    """

    images: pl.DataFrame
    boxes: pl.DataFrame
    categories: tuple[str, ...]
    left_out: int

    @property
    def xyxy(self) -> Floats:
        """Corners in pixels: (n, 4)."""
        return self.boxes.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)

    @property
    def sizes(self) -> Floats:
        """Width and height of each box's image: (n, 2)."""
        sizes: Floats = self.images.select("width", "height").to_numpy().astype(np.float64).reshape(-1, 2)
        of_boxes: Floats = sizes[self.boxes["image"].to_numpy()]
        return of_boxes

    def rows_by_image(self) -> list[slice]:
        """One slice of boxes an image, in order."""
        edges = np.searchsorted(self.boxes["image"].to_numpy(), np.arange(self.images.height + 1)).tolist()
        return [slice(low, high) for low, high in pairwise(edges)]


def make_sheet(run: Run, decisions: Mapping[str, Decision], images: str = "open") -> Sheet:
    """The images with an undecided issue (open), with any issue (issues) or all, and all boxes in them.

    decisions: as `read_decisions` has them. Raises DatasetError where one names a category that the data set does not have.
    """
    standing = stand(run, decisions)
    count = run.dataset.image_count
    open_images = mark_images(standing.filter("open"), count)
    listed = mark_images(run.issues, count)
    chosen = {"open": open_images, "issues": listed, "all": np.ones(count, bool)}[images]
    position = np.cumsum(chosen) - 1
    here = standing.filter(pl.col("present"), pl.Series(chosen[standing["image_index"].to_numpy()]))
    drawable = here.filter("drawable").sort("image_index", maintain_order=True)
    size = run.dataset.sizes[drawable["image_index"].to_numpy()]
    inside = clip_boxes(drawable.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4), size)
    boxes = drawable.with_columns(
        image=pl.Series(position[drawable["image_index"].to_numpy()], dtype=pl.Int64),
        note=pl.when(pl.col("issue_type").is_not_null()).then(
            pl.format(
                "{} ({} %): {} {}",
                "issue_type",
                (pl.col("probability") * 100).round(0).cast(pl.Int64),
                pl.col("reason").fill_null(""),
                "suggestion",
            )
        ),
        **{side: pl.Series(inside[:, i]) for i, side in enumerate(SIDES)},
    )
    worst = np.zeros(count)
    np.maximum.at(worst, boxes["image_index"].to_numpy(), boxes["probability"].fill_null(0.0).to_numpy())
    names = make_unique_names(run.dataset.images["file_name"].to_list())
    table = run.dataset.images.select("image_id", "file_name", "path", "width", "height").with_columns(
        image_index=pl.int_range(0, count, dtype=pl.Int64),
        name=pl.Series(names, dtype=pl.String),
        settled=pl.Series(listed & ~open_images),
        quality=pl.Series(1 - worst),
    )
    return Sheet(table.filter(pl.Series(chosen)), boxes, run.dataset.categories, here.height - boxes.height)


def mark_images(rows: pl.DataFrame, count: int) -> Mask:
    """The images that a table's rows lie in: (count,)."""
    mask = np.zeros(count, bool)
    mask[rows["image_index"].to_numpy().astype(np.int64)] = True
    return mask


def stand(run: Run, decisions: Mapping[str, Decision]) -> pl.DataFrame:
    """Every box that a run knows and how it stands, one row an annotation, an overlooked object and a box that people added.

    image_index; box_id; issue (the name under which it is decided); issue_id (null without an issue); kind: given, overlooked, added;
    annotation (position) and annotation_id; verdict (null: undecided); open (an issue that is undecided); present (to be drawn: it
    is, or may be, an object); drawable; category and x1 y1 x2 y2: as decided, or as annotated or suggested; was_category and was_x1 ..:
    as the source has them (null for what is not annotated); other: an accepted decision about the same annotation under another name.
    """
    given, overlooked = _given(run), _overlooked(run)
    made = _decisions_as_table(run, decisions, set(run.issues["issue_id"].to_list()))
    theirs = made.filter(~pl.col("on_issue"), pl.col("annotation_id").is_not_null())
    key = given.select("image_index", "annotation", annotation_id=pl.col("annotation_id").cast(pl.String))
    by_hand = theirs.join(key, on=["image_index", "annotation_id"], how="inner").unique("annotation", keep="last", maintain_order=True)
    added = made.filter(~pl.col("on_issue"), pl.col("annotation_id").is_null())
    on_issue = made.filter("on_issue").select("issue", "verdict", "decided", *(f"decided_{side}" for side in SIDES))
    listed = pl.concat([given, overlooked], how="diagonal_relaxed").join(on_issue, on="issue", how="left", maintain_order="left")
    by_other = [pl.col(name).alias(f"o_{name}") for name in ("verdict", "decided", *DECIDED)]
    other = by_hand.select("annotation", pl.col("issue").alias("other"), *by_other)
    listed = listed.join(other, on="annotation", how="left", maintain_order="left")
    no_issue, o_accepts = pl.col("issue_id").is_null(), pl.col("o_verdict") == "accept"
    takes = (no_issue & pl.col("o_verdict").is_not_null()) | ((pl.col("verdict").fill_null("") != "accept") & o_accepts.fill_null(False))
    listed = listed.with_columns(
        open=~no_issue & ~pl.col("verdict").is_in(SETTLED).fill_null(False),
        issue=pl.when(no_issue).then(pl.coalesce("other", "issue")).otherwise("issue"),
        verdict=pl.when(no_issue).then("o_verdict").otherwise("verdict"),
        other=pl.when(~no_issue & o_accepts).then("other"),
        accepted=(pl.col("verdict") == "accept").fill_null(False) | takes & o_accepts.fill_null(False),
        **{name: pl.when(takes).then(f"o_{name}").otherwise(name) for name in ("decided", *DECIDED)},
    )
    rows = pl.concat([listed, _added(added)], how="diagonal_relaxed")
    accepted, has = pl.col("accepted"), pl.col("decided").is_not_null()
    kind = pl.col("kind")
    present = pl.when(accepted).then(has).when(kind == "given").then(True).when(kind == "overlooked").then("open").otherwise(False)
    rows = rows.with_columns(
        present=present,
        category=pl.when(accepted & has).then("decided").otherwise("category"),
        **{side: pl.when(accepted & has).then(f"decided_{side}").otherwise(side) for side in SIDES},
    ).with_columns(pl.when("open").then(name).alias(name) for name in ISSUE_WORDS)
    return rows.with_columns(drawable=pl.Series(find_drawable(rows, run.dataset.sizes))).drop(
        "accepted", *(name for name in rows.columns if name.startswith(("o_", "decided")))
    )


DECIDED = tuple(f"decided_{side}" for side in SIDES)


def find_drawable(rows: pl.DataFrame, sizes: Floats) -> Mask:
    """The boxes that have an area inside their image: (n,)."""
    xyxy = rows.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)
    inside = clip_boxes(xyxy, sizes[rows["image_index"].to_numpy()])
    drawable: Mask = np.all(inside[:, 2:] - inside[:, :2] >= SMALLEST, axis=1)
    return drawable


def _given(run: Run) -> pl.DataFrame:
    boxes = run.dataset.annotations
    n = len(boxes)
    ids = pl.Series("annotation_id", np.arange(n) if boxes.annotation_id is None else boxes.annotation_id.tolist(), strict=False)
    box_id = name_annotations(ids.cast(pl.String))
    corners = {side: boxes.xyxy[:, i] for i, side in enumerate(SIDES)}
    table = pl.DataFrame(
        {
            "image_index": boxes.image_index,
            "annotation": np.arange(n),
            "annotation_id": ids,
            "box_id": box_id,
            "kind": pl.repeat("given", n, eager=True),
            "is_crowd": np.zeros(n, bool) if boxes.is_crowd is None else boxes.is_crowd,
            "category": boxes.category,
            **corners,
            "was_category": boxes.category,
            **{f"was_{side}": column for side, column in corners.items()},
        }
    )
    about = run.issues.filter(pl.col("annotation").is_not_null()).unique("annotation", keep="first", maintain_order=True)
    words = about.select("annotation", "issue_id", "issue_type", "probability", "reason", suggestion=_suggestion())
    joined = table.join(words, on="annotation", how="left", maintain_order="left")
    return joined.with_columns(issue=pl.coalesce("issue_id", "box-" + pl.col("box_id")))


def _overlooked(run: Run) -> pl.DataFrame:
    number_of = {name: i for i, name in enumerate(run.dataset.categories)}
    missing = run.issues.filter(pl.col("annotation").is_null())
    return missing.select(
        "image_index",
        "issue_id",
        "issue_type",
        "probability",
        "reason",
        box_id="issue-" + pl.col("issue_id"),
        issue="issue_id",
        kind=pl.lit("overlooked"),
        is_crowd=pl.lit(False),
        category=pl.col("suggested_category").replace_strict(number_of, return_dtype=pl.Int64, default=None),
        suggestion=_suggestion(),
        **{side: pl.col(f"suggested_{side}").cast(pl.Float64) for side in SIDES},
    )


def _added(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        "image_index",
        "issue",
        "verdict",
        "decided",
        *DECIDED,
        box_id="issue",
        kind=pl.lit("added"),
        is_crowd=pl.lit(False),
        open=pl.lit(False),
        accepted=pl.col("verdict") == "accept",
        category=pl.lit(None, dtype=pl.Int64),
        **{side: pl.lit(None, dtype=pl.Float64) for side in SIDES},
    )


def _suggestion() -> pl.Expr:
    """What to do, in words."""
    where = pl.format("{}, {} to {}, {}", *(pl.col(f"suggested_{side}").cast(pl.Float64).round(1) for side in SIDES))
    action = pl.col("action")
    return (
        pl.when(action == "delete")
        .then(pl.lit("Suggested: delete this box."))
        .when(action == "relabel")
        .then(pl.format("Suggested: call it '{}'.", pl.col("suggested_category").fill_null("?")))
        .when(action == "move")
        .then(pl.format("Suggested: move it to {} px.", where.fill_null("?")))
        .when(action == "add")
        .then(pl.format("Suggested: keep this box as '{}'.", pl.col("suggested_category").fill_null("?")))
        .otherwise(pl.lit("Suggested: look at it."))
    )


def _decisions_as_table(run: Run, decisions: Mapping[str, Decision], issue_ids: set[str]) -> pl.DataFrame:
    """Decisions about the run's issues and about boxes (`box-`), one row each; those about anything else are strangers and left out."""
    row_of = {str(image_id): i for i, image_id in reversed(list(enumerate(run.dataset.images["image_id"].to_list())))}
    number_of = {name: i for i, name in enumerate(run.dataset.categories)}
    known = [d for d in decisions.values() if d.issue in issue_ids or (d.issue.startswith("box-") and str(d.image_id) in row_of)]
    odd = next((d for d in known if d.category is not None and d.category not in number_of), None)
    if odd is not None:
        raise DatasetError(f"decision on {odd.issue}: category '{odd.category}' is not in the data set; choose one that is")
    corners = [d.xyxy or (None,) * 4 for d in known]
    table = {
        "issue": pl.Series([d.issue for d in known], dtype=pl.String),
        "on_issue": pl.Series([d.issue in issue_ids for d in known], dtype=pl.Boolean),
        "verdict": pl.Series([d.verdict for d in known], dtype=pl.String),
        "image_index": pl.Series([row_of.get(str(d.image_id), -1) for d in known], dtype=pl.Int64),
        "annotation_id": pl.Series([None if d.annotation_id is None else str(d.annotation_id) for d in known], dtype=pl.String),
        "decided": pl.Series([None if d.category is None else number_of[d.category] for d in known], dtype=pl.Int64),
    }
    sides = {f"decided_{side}": pl.Series([box[i] for box in corners], dtype=pl.Float64) for i, side in enumerate(SIDES)}
    return pl.DataFrame(table | sides)


def name_annotations(ids: pl.Series) -> pl.Series:
    """A box_id of each annotation, from its id as text: (n,). Ids that a tool might alter, and those that repeat, are hashed."""
    plain = (ids.str.contains(PLAIN_ID) & ids.is_first_distinct()).fill_null(False).to_numpy()
    names = ids.to_list()
    seen: dict[str, int] = {}
    hashed = {}
    for i in np.flatnonzero(~plain).tolist():
        seen[names[i]] = seen.get(names[i], 0) + 1
        hashed[i] = "~" + hashlib.blake2b(f"{names[i]}\x1f{seen[names[i]]}".encode(), digest_size=8).hexdigest()
    return pl.Series("box_id", [f"annotation-{hashed.get(i, name)}" for i, name in enumerate(names)], dtype=pl.String)


def as_boxes(rows: pl.DataFrame) -> Boxes:
    """Rows sorted by image_index as Boxes."""
    return Boxes(
        rows["image_index"].to_numpy(), rows["category"].fill_null(-1).to_numpy(), rows.select(SIDES).to_numpy().astype(np.float64)
    )
