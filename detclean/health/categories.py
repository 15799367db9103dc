"""The health of each category, and which categories are taken for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from detclean.runfolder import Run
from detclean.score.calibration import ANNOTATION_TYPES

CONFUSIONS_SHOWN = 10
LEAST_CONFUSION = 0.05  # expected annotations, below which a pair is not worth a line
PAIRS_SHOWN = 12  # of cleanlab's
WIDEST_JOINT = 20  # categories; of more the whole matrix is in the run folder alone


@dataclass(frozen=True)
class Category:
    """One category. ap: AP50 out of fold. wrong: wrong annotations and overlooked objects, expected, by annotation (None without any).

    by_type: expected numbers. confused: with which other category, and in how many annotations, expected.
    """

    name: str
    annotations: int
    ap: float | None
    wrong: float | None
    by_type: dict[str, float]
    hardness: float | None
    confused: tuple[str, float] | None


@dataclass(frozen=True)
class Confusion:
    """Annotations of `given` that are expected to be `likely`; share: of all annotations of `given`."""

    given: str
    likely: str
    expected: float
    share: float


def rank_categories(run: Run, annotations: pl.DataFrame, candidates: pl.DataFrame) -> list[Category]:
    """Every category, the one with the largest share of wrong labels first, those without annotations last."""
    sums = [pl.col(f"p_{kind}").sum().alias(kind) for kind in ANNOTATION_TYPES]
    hardness = pl.col("hardness").mean()
    own = annotations.group_by("category").agg(pl.len().alias("n"), *sums, pl.col("p_any").sum(), hardness)
    given = {row["category"]: row for row in own.iter_rows(named=True)}
    missed = dict(candidates.group_by("category").agg(pl.col("probability").sum()).iter_rows())
    partner: dict[str, tuple[str, float]] = {}
    for row in _confusions(annotations).iter_rows(named=True):
        partner.setdefault(row["category"], (row["other_category"], row["expected"]))
    precision = run.summary.get("per_category") or {}
    rows = []
    for name in run.dataset.categories:
        mine = given.get(name)
        by_type = {"overlooked": float(missed.get(name, 0.0))} | {kind: float(mine[kind]) if mine else 0.0 for kind in ANNOTATION_TYPES}
        wrong = (mine["p_any"] + by_type["overlooked"]) / mine["n"] if mine else None
        count, hard = (mine["n"], mine["hardness"]) if mine else (0, None)
        rows.append(Category(name, count, precision.get(name), wrong, by_type, hard, partner.get(name)))
    return sorted(rows, key=lambda row: (row.wrong is None, -(row.wrong or 0.0)))


def list_confusions(annotations: pl.DataFrame) -> list[Confusion]:
    """The pairs of categories with the most expected confusions, most first."""
    counts = dict(annotations.group_by("category").len().iter_rows())
    rows = _confusions(annotations).head(CONFUSIONS_SHOWN)
    return [Confusion(given, likely, expected, expected / counts[given]) for given, likely, expected in rows.iter_rows()]


def _confusions(annotations: pl.DataFrame) -> pl.DataFrame:
    named = annotations.filter(pl.col("other_category").is_not_null())
    pairs = named.group_by("category", "other_category").agg(pl.col("p_swap").sum().alias("expected"))
    worth = pairs.filter(pl.col("expected") >= LEAST_CONFUSION)
    return worth.sort(["expected", "category", "other_category"], descending=[True, False, False])


def describe_overlap(crops: Mapping[str, Any] | None, categories: Sequence[str]) -> dict[str, Any]:
    """cleanlab's confident joint and overlapping categories, from what summary.json says of the crops; `why` where there is none.

    pairs: what cleanlab's confident learning counts as one category annotated and another one shown, most first. joint: (K, K), rows as
    annotated, columns as shown; None of more than WIDEST_JOINT categories. overlapping: pairs with their share of all annotations.
    """
    if len(categories) < 2:
        return {"why": "There is one category only, so none is taken for another."}
    if not crops:
        return {"why": "The run looked at no crops (crops: never, or predictions that were brought): set crops: always."}
    judge = next((name for name in ("trained", "light") if name in crops), None)
    facts = crops.get(judge) if judge else None
    if not isinstance(facts, Mapping) or not facts.get("confident_joint"):
        return {"why": "The crops of this run were too few to learn from, so cleanlab has no confident joint."}
    joint = facts["confident_joint"]
    pairs = [
        {"given": categories[i], "shown": categories[k], "annotations": count, "share": count / max(sum(row), 1)}
        for i, row in enumerate(joint)
        for k, count in enumerate(row)
        if i != k and count > 0
    ]
    pairs.sort(key=lambda pair: (-pair["annotations"], pair["given"], pair["shown"]))
    return {
        "why": None,
        "judge": judge,
        "label_issues": facts.get("label_issues"),
        "pairs": pairs[:PAIRS_SHOWN],
        "all_pairs": len(pairs),
        "joint": joint if len(joint) <= WIDEST_JOINT else None,
        "overlapping": list(facts.get("overlapping") or []),
    }
