"""What is handed over to an annotation tool, whichever it is.

A person gets images, and in each ALL boxes as the labels have them now: the source's annotations with the accepted decisions applied.
A box that is suspected and undecided carries its issue: type, probability, the reason and the suggestion in words. An overlooked object
that is undecided lies there as a box of its own, flagged as such. So the person deletes, moves and renames what is wrong, adds what is
missing, and leaves what is right: what lies there in the end is what the labels are to be, and `returns` reads it so.

Each box has a box_id that comes back with it: `annotation-17`, `issue-8f3a..` for an overlooked object, `box-..` for one that people added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, Mask, clip_boxes
from detclean.dataset import Dataset
from detclean.edit.changes import SETTLED, Change, find_changes
from detclean.edit.decisions import BOX, Decision
from detclean.handover.names import make_unique_names
from detclean.runfolder import Run

CHOICES = ("open", "issues", "all")  # of images: with an undecided issue, with any issue, the whole part
SIDES = ["x1", "y1", "x2", "y2"]
WAS = [f"was_{side}" for side in SIDES]
TO = ["to_category", *(f"to_{side}" for side in SIDES)]
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
    first = find_twins(run.dataset).image
    open_images = mark_images(standing.filter("open"), count)
    listed = mark_images(standing.filter(pl.col("issue_id").is_not_null()), count)
    chosen = {"open": open_images, "issues": listed, "all": first == np.arange(count)}[images]
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


def select_issues(run: Run, sheet: Sheet) -> pl.DataFrame:
    """The run's issues in the images of a sheet, decided or not."""
    here = mark_images(sheet.images, run.dataset.image_count)[find_twins(run.dataset).image]
    return run.issues.filter(pl.Series(here[run.issues["image_index"].to_numpy().astype(np.int64)]))


def mark_images(rows: pl.DataFrame, count: int) -> Mask:
    """The images that a table's rows lie in: (count,)."""
    mask = np.zeros(count, bool)
    mask[rows["image_index"].to_numpy().astype(np.int64)] = True
    return mask


def stand(run: Run, decisions: Mapping[str, Decision]) -> pl.DataFrame:
    """Every box that a run knows and how it stands, one row an annotation, an overlooked object and a box that people added.

    What the labels are to be by these decisions is for `find_changes` to say, here as where they are applied. image_index; box_id; issue
    (the name under which it is decided), issues (the listed ones about it) and issue_id (the first of these, or null); kind: given,
    overlooked, added; annotation (position) and annotation_id; verdict (on its first issue; null: undecided); open (an issue about it is
    undecided); changed (it is to be another than in the source); present (to be drawn: it is, or may be, an object); drawable; category
    and x1 y1 x2 y2: as it is to be, or as annotated or suggested; was_category and was_x1 ..: as the source has them (null for what is
    not annotated). A picture that two splits list stands once, as the first of its images, with the issues of all.
    """
    twins = find_twins(run.dataset)
    issues = _place_issues(run, decisions, twins)
    overlooked = _overlooked(run, issues)
    name_of = dict(overlooked.select("issues", "issue").explode("issues").iter_rows())
    changes = _tabulate(run, find_changes(run.dataset, run.issues, decisions).all, twins, name_of)
    of_annotations = changes.filter(pl.col("annotation").is_not_null()).unique("annotation", keep="last", maintain_order=True)
    of_others = changes.filter(pl.col("annotation").is_null()).unique("name", keep="last", maintain_order=True)
    given = _given(run, issues, twins).join(
        of_annotations.select("annotation", "name", "changed", *TO), on="annotation", how="left", maintain_order="left"
    )
    listed = overlooked.join(of_others.select("changed", *TO, issue="name"), on="issue", how="left", maintain_order="left")
    rows = pl.concat(
        [given, listed, _added(of_others.join(overlooked, left_on="name", right_on="issue", how="anti"))], how="diagonal_relaxed"
    )
    is_there = pl.col("changed") & pl.col("to_category").is_not_null()
    rows = rows.with_columns(pl.col("open", "changed").fill_null(False)).with_columns(
        present=pl.when("changed").then(is_there).when(pl.col("kind") == "given").then(True).otherwise("open"),
        issue=pl.coalesce("issue_id", "name", "issue"),
        **{name: pl.when(is_there).then(to).otherwise(name) for name, to in zip(("category", *SIDES), TO, strict=True)},
    )
    return rows.with_columns(drawable=pl.Series(find_drawable(rows, run.dataset.sizes))).drop("name", *TO)


@dataclass(frozen=True)
class Twins:
    """For each image and each annotation the first one that is the same in the source, mostly itself: (N,), (n,) positions."""

    image: Ints
    annotation: Ints


def find_twins(dataset: Dataset) -> Twins:
    """The images that are one picture with one label file, as where two splits list it, and so have the same annotations."""
    count = dataset.image_count
    place = [pl.col("path"), pl.col("label_path")]
    images = dataset.images.select(*place, index=pl.int_range(count, dtype=pl.Int64))
    known = pl.all_horizontal(column.is_not_null() for column in place)
    image: Ints = images.select(pl.when(known).then(pl.col("index").min().over(place)).otherwise("index")).to_series().to_numpy()
    boxes = pl.DataFrame(
        {"image": image[dataset.annotations.image_index], "row": dataset.source_rows, "index": np.arange(len(dataset.annotations))}
    )
    return Twins(image, boxes.select(pl.col("index").min().over("image", "row")).to_series().to_numpy())


def find_drawable(rows: pl.DataFrame, sizes: Floats) -> Mask:
    """The boxes that have an area inside their image: (n,)."""
    xyxy = rows.select(SIDES).to_numpy().astype(np.float64).reshape(-1, 4)
    inside = clip_boxes(xyxy, sizes[rows["image_index"].to_numpy()])
    drawable: Mask = np.all(inside[:, 2:] - inside[:, :2] >= SMALLEST, axis=1)
    return drawable


def _place_issues(run: Run, decisions: Mapping[str, Decision], twins: Twins) -> pl.DataFrame:
    """The run's issues with their verdict, whether they are open, and what they say; at the first of the images that are the same."""
    verdicts = [one.verdict if (one := decisions.get(issue)) is not None else None for issue in run.issues["issue_id"].to_list()]
    first = pl.DataFrame({"annotation": np.arange(len(twins.annotation)), "first": twins.annotation})
    at = twins.image[run.issues["image_index"].to_numpy().astype(np.int64)]
    placed = run.issues.with_columns(
        pl.col("annotation").cast(pl.Int64),
        image_index=pl.Series(at, dtype=pl.Int64),
        verdict=pl.Series(verdicts, dtype=pl.String),
        suggestion=_suggestion(),
    ).join(first, on="annotation", how="left", maintain_order="left")
    return placed.with_columns(annotation="first", open=~pl.col("verdict").is_in(SETTLED).fill_null(False))


def _gather(issues: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """One row for all issues about the same thing: the words of the first that is open."""
    return issues.group_by(keys, maintain_order=True).agg(
        pl.col("issue_id").first(),
        pl.col("verdict").first(),
        pl.col("open").any(),
        pl.col(ISSUE_WORDS).filter("open").first(),
        issues="issue_id",
    )


def _given(run: Run, issues: pl.DataFrame, twins: Twins) -> pl.DataFrame:
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
            "issue": BOX + box_id,
            "kind": pl.repeat("given", n, eager=True),
            "is_crowd": np.zeros(n, bool) if boxes.is_crowd is None else boxes.is_crowd,
            "category": boxes.category,
            **corners,
            "was_category": boxes.category,
            **{f"was_{side}": column for side, column in corners.items()},
        }
    ).filter(pl.Series(twins.annotation == np.arange(n)))
    about = _gather(issues.filter(pl.col("annotation").is_not_null()), ["annotation"])
    return table.join(about, on="annotation", how="left", maintain_order="left")


def _overlooked(run: Run, issues: pl.DataFrame) -> pl.DataFrame:
    """The objects that nobody annotated; what is overlooked at the same place in images that are the same is one."""
    number_of = {name: i for i, name in enumerate(run.dataset.categories)}
    missing = issues.filter(pl.col("annotation").is_null()).select(
        "image_index",
        *("issue_id", "verdict", "open", *ISSUE_WORDS),
        category=pl.col("suggested_category").replace_strict(number_of, return_dtype=pl.Int64, default=None),
        **{side: pl.col(f"suggested_{side}").cast(pl.Float64) for side in SIDES},
    )
    return _gather(missing, ["image_index", "category", *SIDES]).with_columns(
        box_id="issue-" + pl.col("issue_id"), issue="issue_id", kind=pl.lit("overlooked"), is_crowd=pl.lit(False)
    )


def _added(changes: pl.DataFrame) -> pl.DataFrame:
    nothing = {side: pl.lit(None, dtype=pl.Float64) for side in SIDES}
    return changes.select(
        *("image_index", "name", "changed", *TO),
        box_id="name",
        issue="name",
        kind=pl.lit("added"),
        is_crowd=pl.lit(False),
        category=pl.lit(None, dtype=pl.Int64),
        **nothing,
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


def _tabulate(run: Run, changes: Sequence[Change], twins: Twins, name_of: Mapping[str, str]) -> pl.DataFrame:
    """Changes at the first of the images that are the same. name: the decision's, or where an object was overlooked that of its row."""
    number_of = {name: i for i, name in enumerate(run.dataset.categories)}
    after = [change.after for change in changes]
    annotations = [None if change.annotation is None else int(twins.annotation[change.annotation]) for change in changes]
    corners = [(None,) * 4 if box is None else box.xyxy for box in after]
    return pl.DataFrame(
        {
            "image_index": pl.Series([int(twins.image[change.image_index]) for change in changes], dtype=pl.Int64),
            "annotation": pl.Series(annotations, dtype=pl.Int64),
            "name": pl.Series([name_of.get(change.issue, change.issue) for change in changes], dtype=pl.String),
            "changed": pl.repeat(True, len(changes), dtype=pl.Boolean, eager=True),
            TO[0]: pl.Series([None if box is None else number_of[box.category] for box in after], dtype=pl.Int64),
            **{name: pl.Series([box[i] for box in corners], dtype=pl.Float64) for i, name in enumerate(TO[1:])},
        }
    )


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
