"""Images by where they come from, and whether one batch has more wrong labels than chance explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from detclean.boxes import Floats, Ints
from detclean.dataset import ISSUE_TYPES
from detclean.health.counts import split_by_type
from detclean.score.calibration import ANNOTATION_TYPES

LEAST_IMAGES = 5  # of a group: fewer are not compared
GROUPS_SHOWN = 15
SHUFFLES = 2000
CELLS = 40_000_000  # shuffles x images: of millions of images fewer shuffles do
RISK = 0.05  # that any group at all is marked by chance alone


@dataclass(frozen=True)
class Group:
    """A batch of images. rates: expected errors by type, per 100 annotations; spread: half of the 95 % interval of their sum;
    stands_out: more errors than chance explains."""

    name: str
    images: int
    annotations: int
    rates: dict[str, float]
    spread: float
    stands_out: bool

    @property
    def rate(self) -> float:
        return sum(self.rates.values())


@dataclass(frozen=True)
class Grouping:
    """by: what the images, or annotations, were grouped by: "folder", "prefix", or a key's name. groups: those worth comparing, those
    that stand out first, then the worst. all: how many there are. overall: expected errors per 100 annotations of all images."""

    by: str
    groups: tuple[Group, ...]
    all: int
    overall: float


@dataclass(frozen=True)
class Tally:
    """What is expected to be wrong: errors (u, 5 types) and annotations (u,) of u pieces of work, each of one image."""

    errors: Floats
    annotations: Floats


def name_folders(file_names: pl.Series) -> pl.Series:
    """The folder of each image (N,)."""
    names = pl.DataFrame({"name": file_names.str.replace_all("\\", "/", literal=True)})
    return names.select(pl.col("name").str.extract(r"^(.*)/[^/]*$", 1).fill_null("")).to_series()


def name_prefixes(file_names: pl.Series) -> pl.Series:
    """How the name of each image begins, up to the first digit, dash or underscore (N,)."""
    names = pl.DataFrame({"name": file_names.str.replace_all("\\", "/", literal=True)})
    stem = pl.col("name").str.extract(r"([^/]*)$", 1).str.replace(r"\.[^.]*$", "")
    return names.select(stem.str.extract(r"^([^0-9_-]*)", 1).fill_null("")).to_series()


def name_groups(file_names: pl.Series) -> tuple[str, pl.Series]:
    """What the images are grouped by, and the group of each (N,): the folder where several are in use, else how the name begins."""
    folder = name_folders(file_names)
    return ("folder", folder) if folder.n_unique() > 1 else ("prefix", name_prefixes(file_names))


def tally_images(images: pl.DataFrame, annotations: pl.DataFrame, candidates: pl.DataFrame) -> Tally:
    """Each image as one piece of work. images: the table, whose image_id the others refer to."""
    position = pl.DataFrame({"image_id": images["image_id"], "row": np.arange(images.height)})
    mine = annotations.select("image_id", *(f"p_{kind}" for kind in ANNOTATION_TYPES), "p_any").join(
        position, on="image_id", maintain_order="left"
    )
    missed = candidates.select("image_id", "probability").join(position, on="image_id", maintain_order="left")
    return _add_up(mine, mine["row"].to_numpy(), missed["row"].to_numpy(), missed["probability"].to_numpy(), images.height)


def _add_up(annotations: pl.DataFrame, at: Ints, missed_at: Ints, missed: Floats, n: int) -> Tally:
    parts = split_by_type(annotations)
    columns = {kind: np.bincount(at, parts[:, i], n) for i, kind in enumerate(ANNOTATION_TYPES)}
    columns["overlooked"] = np.bincount(missed_at, missed, n)
    return Tally(np.stack([columns[kind] for kind in ISSUE_TYPES], axis=1), np.bincount(at, minlength=n).astype(np.float64))


def compare_groups(images: pl.DataFrame, annotations: pl.DataFrame, candidates: pl.DataFrame, seed: int = 0) -> Grouping:
    """The images by folder, or by how their names begin; see `compare_pieces`."""
    by, group = name_groups(images["file_name"])
    return compare_pieces(by, group, tally_images(images, annotations, candidates), seed=seed)


def compare_annotators(
    by: str, key: pl.Series, tables: tuple[pl.DataFrame, pl.DataFrame], *, risk: float = RISK, in_order: bool = False
) -> Grouping:
    """Groups of annotations rather than images: key (n,), of each row of the table annotations, the first of `tables`.

    A piece of work is what one group did in one image. Of several in one image nobody can say who overlooked an object, so it is dealt
    to all of them by their annotations: counted only where one worked alone, it would make whoever works alone look worse.
    """
    annotations, candidates = tables
    work = annotations.select("image_id", *(f"p_{kind}" for kind in ANNOTATION_TYPES), "p_any").with_columns(group=key)
    pieces = work.select("image_id", "group").unique(maintain_order=True).with_row_index("piece")
    work = work.join(pieces, on=["image_id", "group"], maintain_order="left")
    overlooked = candidates.group_by("image_id", maintain_order=True).agg(pl.col("probability").sum())
    share = work.group_by("image_id", "piece", maintain_order=True).len()
    share = share.with_columns(share=pl.col("len") / pl.col("len").sum().over("image_id"))
    missed = share.join(overlooked, on="image_id", maintain_order="left")
    missed = missed.select("piece", probability=(pl.col("probability") * pl.col("share")).fill_null(0.0))
    at, missed_at = work["piece"].to_numpy().astype(np.int64), missed["piece"].to_numpy().astype(np.int64)
    tally = _add_up(work, at, missed_at, missed["probability"].to_numpy(), pieces.height)
    return compare_pieces(by, pieces["group"], tally, risk=risk, in_order=in_order)


def compare_pieces(by: str, group: pl.Series, tally: Tally, *, risk: float = RISK, seed: int = 0, in_order: bool = False) -> Grouping:
    """The groups of at least LEAST_IMAGES pieces of work with annotations: group (u,) of each. in_order: as they are named, as days are.

    A group stands out if its expected errors, beyond its share by annotations, are more than the largest excess of any group in all but
    `risk` of the shuffles of the pieces among the groups: so the risk holds for all groups together, and errors that come several to an
    image are no evidence by themselves.
    """
    names = group.unique().sort()
    code = group.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64), return_dtype=pl.Int64).to_numpy()
    errors, count = tally.errors.sum(axis=1), tally.annotations
    size, annotated = np.bincount(code, minlength=len(names)), np.bincount(code, count, minlength=len(names))
    kept = np.flatnonzero((size >= LEAST_IMAGES) & (annotated > 0))
    overall = float(errors.sum() / max(count.sum(), 1))
    if len(kept) < 2:
        return Grouping(by, (), len(names), 100 * overall)
    outstanding = _stand_out(errors - overall * count, code, kept, risk, seed)
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(size)
    groups = []
    for i, stands_out in zip(kept.tolist(), outstanding.tolist(), strict=True):
        inside = order[ends[i] - size[i] : ends[i]]
        sums = 100 * tally.errors[inside].sum(axis=0) / annotated[i]
        spread = _half_interval(errors[inside], count[inside])
        rates = dict(zip(ISSUE_TYPES, sums.tolist(), strict=True))
        groups.append(Group(str(names[i]), int(size[i]), int(annotated[i]), rates, 100 * spread, stands_out))
    # a large batch stands out at a lower rate than small ones
    groups.sort(key=lambda group: group.name if in_order else (not group.stands_out, -group.rate, group.name))
    return Grouping(by, tuple(groups if in_order else groups[:GROUPS_SHOWN]), len(names), 100 * overall)


def _stand_out(excess: Floats, code: Ints, kept: Ints, risk: float, seed: int) -> Floats:
    """Which of the groups `kept` have more than chance explains: excess (u,) of each piece, code (u,) its group -> (g,) bool."""
    rng = np.random.default_rng(seed)
    order = np.argsort(code, kind="stable")
    size = np.bincount(code)
    starts = np.cumsum(size) - size
    scale = np.sqrt(size[kept])

    def totals(values: Floats) -> Floats:
        return np.add.reduceat(values, starts)[kept] / scale

    mine = totals(excess[order])
    shuffles = int(np.clip(CELLS // max(len(excess), 1), 99, SHUFFLES))
    largest = np.array([totals(rng.permutation(excess)).max() for _ in range(shuffles)])
    exceeded = (largest[None, :] >= mine[:, None] - 1e-12).sum(axis=1)
    return np.asarray((1 + exceeded) / (1 + shuffles) <= risk)


def _half_interval(errors: Floats, count: Floats) -> float:
    """Half of the 95 % interval of errors per annotation over images (m,), from how much the images differ among each other."""
    m = len(errors)
    rate = errors.sum() / count.sum()
    return float(1.96 * np.sqrt(m / (m - 1) * ((errors - rate * count) ** 2).sum()) / count.sum())
