"""One row a suspected error, worst first, with the proposed edit and a sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.score.calibration import ANNOTATION_TYPES
from detclean.score.scores import Scores

COLUMNS = (
    "rank",
    "issue_type",
    "probability",
    "verdict",
    "action",
    "image_id",
    "file_name",
    "annotation_id",
    "category",
    "x1",
    "y1",
    "x2",
    "y2",
    "suggested_category",
    "suggested_x1",
    "suggested_y1",
    "suggested_x2",
    "suggested_y2",
    "detector_score",
    "iou",
    "votes",
    "source",
    "reason",
)  # the contract of issues.csv
POSITIONS = ("image_index", "annotation")  # kept inside a run, beside the contract's columns
NOISY = 0.5  # verdict: from here on more likely wrong than merely hard
CLEAR = 0.6  # of an annotation's probability of being wrong: below, its likeliest type does not say what to do, and a person must look
NOTHING_SEEN, HARDLY_SEEN = 0.01, 0.25  # confidences, for the words of a reason
LEAST = 0.05  # nothing below this probability is ever listed


def select_issues(
    scores: Scores,
    dataset: Dataset,
    *,
    target_precision: float = 0.8,
    budget: int | None = None,
    types: Sequence[str] = ISSUE_TYPES,
) -> pl.DataFrame:
    """The issues as COLUMNS and POSITIONS, worst first.

    As many as keep the expected precision (the mean probability of those listed) at `target_precision`, or the `budget` worst.
    An annotation gets one row, of its likeliest type among `types`; of two annotations that repeat each other only the worse is listed.
    """
    rows = pl.concat([_annotation_issues(scores.annotations, types), _candidate_issues(scores.candidates, types)], how="diagonal_relaxed")
    rows = rows.sort(["probability", "file_name", "x1", "suggested_x1"], descending=[True, False, False, False], maintain_order=True)
    probability = rows["probability"].to_numpy()
    rows = rows.head(_how_many(probability, target_precision, budget))
    ids = scores.annotations["annotation_id"].dtype
    return rows.with_columns(
        rank=pl.int_range(1, rows.height + 1, dtype=pl.Int64),
        verdict=pl.when(pl.col("probability") >= NOISY).then(pl.lit("noisy")).otherwise(pl.lit("hard")),
        source=pl.Series([None if a is None else dataset.describe_source(a) for a in rows["annotation"].to_list()], dtype=pl.String),
        annotation_id=pl.col("annotation_id").cast(ids),
    ).select(*COLUMNS, *POSITIONS)


def _how_many(probability: np.ndarray, target_precision: float, budget: int | None) -> int:
    listed = int((probability >= LEAST).sum())
    if budget is not None:
        return min(budget, listed)
    expected = np.cumsum(probability[:listed]) / np.arange(1, listed + 1)
    reached = np.flatnonzero(expected >= target_precision)
    return int(reached[-1]) + 1 if len(reached) else 0


def _annotation_issues(table: pl.DataFrame, types: Sequence[str]) -> pl.DataFrame:
    wanted = [kind for kind in ANNOTATION_TYPES if kind in types]
    if not wanted or not table.height:
        return _no_issues(table)
    per_type = table.select([f"p_{kind}" for kind in wanted]).to_numpy()
    likeliest = per_type.argmax(axis=1)
    kind = pl.Series("issue_type", [wanted[i] for i in likeliest.tolist()], dtype=pl.String)
    votes = table.select([f"votes_{k}" for k in wanted]).to_numpy()[np.arange(table.height), likeliest]
    own = pl.Series(np.clip(per_type.sum(axis=1), 0, 1))
    probability = pl.min_horizontal(pl.col("p_any"), own)
    rows = table.with_columns(kind, votes=pl.Series(votes), probability=probability)
    rows = rows.filter(~_repeats_a_worse_one(rows), pl.col("probability") >= LEAST)
    clear = pl.max_horizontal(*(f"p_{k}" for k in wanted)) >= CLEAR * pl.col("probability")
    moves = clear & (pl.col("issue_type") == "badloc") & pl.col("proposed_x1").is_not_null()
    renames = clear & (pl.col("issue_type") == "swap") & pl.col("other_category").is_not_null()
    stays = renames | moves
    return rows.with_columns(
        action=pl.when(moves)
        .then(pl.lit("move"))
        .when(renames)
        .then(pl.lit("relabel"))
        .when(clear & pl.col("issue_type").is_in(["spurious", "duplicate"]))
        .then(pl.lit("delete"))
        .otherwise(pl.lit("review")),
        suggested_category=pl.when(renames).then("other_category").when(moves).then("category"),
        **{f"suggested_{side}": pl.when(moves).then(f"proposed_{side}").when(stays).then(side) for side in ("x1", "y1", "x2", "y2")},
        detector_score=_per_type(swap="score_other", badloc="best_score", spurious="score_any", duplicate="score_same"),
        iou=_per_type(swap="best_iou", badloc="best_iou", spurious="best_iou", duplicate="twin_iou"),
        reason=_annotation_reason(),
    )


def _per_type(**columns: str) -> pl.Expr:
    expression = pl.lit(None, dtype=pl.Float64)
    for kind, column in columns.items():
        expression = pl.when(pl.col("issue_type") == kind).then(pl.col(column).cast(pl.Float64)).otherwise(expression)
    return expression


def _repeats_a_worse_one(rows: pl.DataFrame) -> pl.Series:
    """Duplicates that are none once the other goes: (n,).

    Of two annotations that are each called the other's duplicate the one with the lower probability (the later of equals), and
    duplicates of an annotation that is itself called spurious.
    """
    twin, probability = rows["twin"].to_numpy(), rows["probability"].to_numpy()
    duplicate = (rows["issue_type"] == "duplicate").to_numpy() & (twin >= 0)
    goes = (rows["issue_type"] == "spurious").to_numpy() & (probability >= NOISY)
    position = np.arange(len(twin))
    mutual = duplicate[twin] & (twin[twin] == position)
    worse = (probability[twin] > probability) | ((probability[twin] == probability) & (twin > position))
    return pl.Series(duplicate & (goes[twin] | (mutual & worse)))


def _candidate_issues(table: pl.DataFrame, types: Sequence[str]) -> pl.DataFrame:
    if "overlooked" not in types or not table.height:
        return _no_issues(table)
    table = table.filter(pl.col("probability") >= LEAST)
    seen = pl.format("The detector sees a '{}' here (confidence {})", "category", pl.col("score").round(2))
    alone = pl.when(pl.col("overlap") > 0.05).then(pl.lit(" beside what is annotated.")).otherwise(pl.lit(" where nothing is annotated."))
    return table.select(
        "probability",
        "image_id",
        "file_name",
        "image_index",
        "votes",
        issue_type=pl.lit("overlooked"),
        action=pl.lit("add"),
        suggested_category="category",
        **{f"suggested_{side}": pl.col(side) for side in ("x1", "y1", "x2", "y2")},
        detector_score=pl.col("score").cast(pl.Float64),
        iou=pl.col("overlap"),
        annotation=pl.lit(None, dtype=pl.Int64),
        reason=seen + alone,
    )


def _annotation_reason() -> pl.Expr:
    def two(column: str) -> pl.Expr:
        return pl.col(column).round(2)

    named = pl.format(
        "Annotated '{}', but the detector sees '{}' here (confidence {}, '{}' {}).",
        "category",
        "other_category",
        two("score_other"),
        "category",
        two("score_same"),
    )
    swap = pl.when(pl.col("other_category").is_null()).then(pl.format("The detector sees no '{}' here.", "category")).otherwise(named)
    badloc = pl.format(
        "The detector sees this '{}' in another place: its best box overlaps this one by {} % only.",
        "category",
        (pl.col("best_iou") * 100).round(0).cast(pl.Int64),
    )
    unseen = (
        pl.when(pl.col("score_any") < NOTHING_SEEN)
        .then(pl.lit("The detector sees nothing here."))
        .when(pl.col("score_any") < HARDLY_SEEN)
        .then(pl.format("The detector hardly sees anything here (confidence {} at most).", two("score_any")))
        .otherwise(pl.format("The detector sees no '{}' that fits this box.", "category"))
    )
    duplicate = pl.format(
        "Another annotation covers the same object ({} % overlap) and fits at least as well.",
        (pl.col("twin_iou") * 100).round(0).cast(pl.Int64),
    )
    kind = pl.col("issue_type")
    return (
        pl.when(kind == "swap").then(swap).when(kind == "badloc").then(badloc).when(kind == "duplicate").then(duplicate).otherwise(unseen)
    )


def _no_issues(table: pl.DataFrame) -> pl.DataFrame:
    """An empty table that concatenates with any other."""
    identity = {name: table.schema[name] for name in ("image_id", "file_name")}
    corners = [f"{prefix}{side}" for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")]
    numbers = dict.fromkeys(["probability", "detector_score", "iou", *corners], pl.Float64)
    texts = dict.fromkeys(("issue_type", "action", "category", "suggested_category", "reason"), pl.String)
    positions = dict.fromkeys(("image_index", "annotation", "votes"), pl.Int64)
    extra = {"annotation_id": table.schema["annotation_id"]} if "annotation_id" in table.columns else {}
    return pl.DataFrame(schema={**identity, **numbers, **texts, **positions, **extra})
