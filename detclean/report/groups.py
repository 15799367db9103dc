"""Images by where they come from, and whether one batch has more wrong labels than chance explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from detclean.boxes import Floats, Ints
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
    """by: what the images were grouped by, "folder" or "prefix". groups: those worth comparing, those that stand out first, then the worst.
    all: how many there are. overall: expected errors per 100 annotations of all images."""

    by: str
    groups: tuple[Group, ...]
    all: int
    overall: float


def name_groups(file_names: pl.Series) -> tuple[str, pl.Series]:
    """What the images are grouped by, and the group of each (N,): the folder where several are in use, else how the name begins."""
    names = pl.DataFrame({"name": file_names.str.replace_all("\\", "/", literal=True)})
    folder = names.select(pl.col("name").str.extract(r"^(.*)/[^/]*$", 1).fill_null("")).to_series()
    if folder.n_unique() > 1:
        return "folder", folder
    stem = pl.col("name").str.extract(r"([^/]*)$", 1).str.replace(r"\.[^.]*$", "")
    return "prefix", names.select(stem.str.extract(r"^([^0-9_-]*)", 1).fill_null("")).to_series()


def compare_groups(images: pl.DataFrame, annotations: pl.DataFrame, candidates: pl.DataFrame, seed: int = 0) -> Grouping:
    """The groups of at least LEAST_IMAGES images with annotations. images: the table, whose image_id the others refer to.

    A group stands out if its expected errors, beyond its share by annotations, are more than the largest excess of any group in all but
    RISK of the shuffles of the images among the groups: so the risk holds for all groups together, and errors that come several to an
    image are no evidence by themselves.
    """
    by, group = name_groups(images["file_name"])
    names = group.unique().sort()
    code = group.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64), return_dtype=pl.Int64).to_numpy()
    position = pl.DataFrame({"image_id": images["image_id"], "row": np.arange(images.height)})
    mine = annotations.select("image_id", *(f"p_{kind}" for kind in ANNOTATION_TYPES), "p_any").join(position, on="image_id")
    missed = candidates.select("image_id", "probability").join(position, on="image_id")
    n = images.height
    at, count = mine["row"].to_numpy(), np.bincount(mine["row"].to_numpy(), minlength=n)
    # p_any is at most the sum of its types: each gets its share of it, so that the parts of a bar make up the whole
    parts = mine.select(f"p_{kind}" for kind in ANNOTATION_TYPES).to_numpy()
    total = parts.sum(axis=1, keepdims=True)
    parts = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0) * mine["p_any"].to_numpy()[:, None]
    per_type = {"overlooked": np.bincount(missed["row"].to_numpy(), missed["probability"].to_numpy(), minlength=n)}
    per_type |= {kind: np.bincount(at, parts[:, i], minlength=n) for i, kind in enumerate(ANNOTATION_TYPES)}
    errors = np.sum(list(per_type.values()), axis=0)
    size, annotated = np.bincount(code, minlength=len(names)), np.bincount(code, count, minlength=len(names))
    kept = np.flatnonzero((size >= LEAST_IMAGES) & (annotated > 0))
    overall = float(errors.sum() / max(count.sum(), 1))
    if len(kept) < 2:
        return Grouping(by, (), len(names), 100 * overall)
    outstanding = _stand_out(errors - overall * count, code, kept, seed)
    groups = []
    for i, stands_out in zip(kept.tolist(), outstanding.tolist(), strict=True):
        inside = code == i
        rates = {kind: float(100 * values[inside].sum() / annotated[i]) for kind, values in per_type.items()}
        spread = _half_interval(errors[inside], count[inside].astype(np.float64))
        groups.append(Group(str(names[i]), int(size[i]), int(annotated[i]), rates, 100 * spread, stands_out))
    groups.sort(
        key=lambda group: (not group.stands_out, -group.rate, group.name)
    )  # a large batch stands out at a lower rate than small ones
    return Grouping(by, tuple(groups[:GROUPS_SHOWN]), len(names), 100 * overall)


def _stand_out(excess: Floats, code: Ints, kept: Ints, seed: int) -> Floats:
    """Which of the groups `kept` have more than chance explains: excess (N,) of each image, code (N,) its group -> (g,) bool."""
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
    return np.asarray((1 + exceeded) / (1 + shuffles) <= RISK)


def _half_interval(errors: Floats, count: Floats) -> float:
    """Half of the 95 % interval of errors per annotation over images (m,), from how much the images differ among each other."""
    m = len(errors)
    rate = errors.sum() / count.sum()
    return float(1.96 * np.sqrt(m / (m - 1) * ((errors - rate * count) ** 2).sum()) / count.sum())
