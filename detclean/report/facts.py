"""The figures of the report: the answer at a glance, what people decided and what came true of it, what the audit found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Floats
from detclean.dataset import ISSUE_TYPES
from detclean.edit.decisions import Decision
from detclean.errors import DetcleanError
from detclean.runfolder import Run
from detclean.score.recalibration import MIN_DECISIONS, Precision, describe_precision

CATEGORIES_SHOWN = 30
FINDINGS_SHOWN = 3  # of a kind
DECIDING = ("accept", "reject", "hard")


@dataclass(frozen=True)
class TypeRow:
    """One issue type: how many are listed, how many of them are expected to be wrong, and more likely wrong than right (noisy)."""

    kind: str
    issues: int
    wrong: float
    noisy: int


@dataclass(frozen=True)
class Glance:
    """The answer in figures.

    wrong: of those listed, expected. precision: their share, None without issues. wrong_given: of all annotations, expected to be wrong;
    overlooked: objects that nobody annotated, expected. coverage: share of all wrong labels that the list holds, health: share of the
    annotations that are right; None where there is nothing to take a share of.
    """

    issues: int
    wrong: float
    precision: float | None
    wrong_given: float
    overlooked: float
    coverage: float | None
    health: float | None
    types: tuple[TypeRow, ...]

    @property
    def expected(self) -> float:
        """Wrong labels, listed or not."""
        return self.wrong_given + self.overlooked


@dataclass(frozen=True)
class Decided:
    """What people have decided: counts by verdict, and what came true of those decided for or against, None while these are too few."""

    counts: dict[str, int]
    precision: Precision | None


@dataclass(frozen=True)
class FoundKind:
    """Findings of the audit of one kind: how many, and the first few."""

    kind: str
    severity: str
    count: int
    first: tuple[tuple[str, str], ...]


def glance(run: Run, annotations: pl.DataFrame, candidates: pl.DataFrame) -> Glance:
    """The answer at a glance, from the run and the tables annotations and candidates."""
    issues = run.issues
    listed = float(issues["probability"].sum())
    wrong_given, overlooked = float(annotations["p_any"].sum()), float(candidates["probability"].sum())
    types = tuple(
        TypeRow(kind, mine.height, float(mine["probability"].sum()), mine.filter(pl.col("verdict") == "noisy").height)
        for kind in ISSUE_TYPES
        if (mine := issues.filter(pl.col("issue_type") == kind)).height
    )
    return Glance(
        issues=issues.height,
        wrong=listed,
        precision=listed / issues.height if issues.height else None,
        wrong_given=wrong_given,
        overlooked=overlooked,
        coverage=min(listed / (wrong_given + overlooked), 1.0) if wrong_given + overlooked > 0 else None,
        health=1 - wrong_given / annotations.height if annotations.height else None,
        types=types,
    )


def count_decisions(issues: pl.DataFrame, decisions: dict[str, Decision]) -> Decided | None:
    """What was decided about the issues so far; None where nothing was."""
    verdicts = pl.Series(
        [decisions[name].verdict if name in decisions else "open" for name in issues["issue_id"].to_list()], dtype=pl.String
    )
    if (verdicts == "open").all():
        return None
    counts = {verdict: int((verdicts == verdict).sum()) for verdict in (*DECIDING, "skip")}
    chosen = verdicts.is_in(DECIDING)
    precision = None
    if chosen.sum() >= MIN_DECISIONS:
        precision = describe_precision(issues.filter(chosen)["probability"].to_numpy(), (verdicts.filter(chosen) == "accept").to_numpy())
    return Decided(counts, precision)


def list_findings(run: Run) -> list[FoundKind]:
    """What the audit found, by severity and kind, as findings.csv has it; nothing where the file is gone."""
    path = run.folder / "findings.csv"
    try:
        table = pl.read_csv(path, infer_schema=False, glob=False)
    except (OSError, pl.exceptions.PolarsError):
        return []
    order = {"error": 0, "warning": 1, "note": 2}
    kinds = table.group_by("severity", "kind", maintain_order=True).agg(
        pl.len().alias("count"), pl.col("where", "message").head(FINDINGS_SHOWN)
    )
    rows = [
        FoundKind(row["kind"], row["severity"], row["count"], tuple(zip(row["where"], row["message"], strict=True)))
        for row in kinds.iter_rows(named=True)
    ]
    return sorted(rows, key=lambda row: (order.get(row.severity, 3), -row.count, row.kind))


def realised_by_decisions(issues: pl.DataFrame, decisions: dict[str, Decision]) -> tuple[Floats, Floats] | None:
    """Ranks (d,) of the issues that were decided, and the share that was wrong among those up to there (d,); None where there are none."""
    ids, ranks = issues["issue_id"].to_list(), issues["rank"].to_numpy()
    verdicts = [decisions[name].verdict if name in decisions else "open" for name in ids]
    chosen = np.array([verdict in DECIDING for verdict in verdicts], bool)
    if not chosen.any():
        return None
    wrong = np.array([verdict == "accept" for verdict in verdicts])[chosen]
    return ranks[chosen].astype(np.float64), np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def realised_by_answers(run: Run, points: int = 25) -> tuple[Floats, Floats] | None:
    """Numbers of issues (p,) from the worst down, and the share of them that the answer key calls wrong (p,); None without a key."""
    from detclean.score.answers import compare_with_answers

    path = _answer_key(run)
    if path is None or not run.issues.height:
        return None
    counts = np.unique(np.linspace(max(run.issues.height / points, 1), run.issues.height, points).astype(int))
    try:
        shares = [compare_with_answers(run.issues.head(count), path)["all"]["precision"] for count in counts.tolist()]
    except DetcleanError:  # the key was moved since the run
        return None
    return counts.astype(np.float64), np.array(shares, dtype=np.float64)


def _answer_key(run: Run) -> Any:
    from pathlib import Path

    import yaml

    if not run.summary.get("answers"):
        return None
    try:
        named = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8")).get("answers")
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return Path(named) if named else None
