"""What a run says at its end: a few tables and sentences, wide enough for 100 columns, and the paths to open next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclean.show.progress import clean_text

WIDTH = 100  # of the output where it is no terminal
WORST_SHOWN = 10
OUTPUTS = {
    "report.html": "the report, in a browser",
    "issues.csv": "every issue, worst first",
    "worst.jpg": "the worst as pictures",
    "issues.coco.json": "the same as COCO",
    "issues_yolo": "the same as YOLO",
    "cleaned": "the cleaned data set",
    "summary.json": "all figures of this run",
}


def open_console() -> Console:
    """Standard output: in colour on a terminal, plain and of a fixed width elsewhere."""
    return Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=WIDTH)


def print_summary(summary: Mapping[str, Any], issues: pl.DataFrame, run: Path, console: Console | None = None) -> None:
    """The end of a run: issues per type, the worst in words, the answer key if there is one, the folds, and what to open.

    summary: as in summary.json; of it `folds`, `answers` and `crops` are read where they are there. issues: as in issues.csv.
    """
    console = console or open_console()
    _print_counts(issues, console)
    _print_worst(issues, console)
    if summary.get("answers"):
        _print_answers(summary["answers"], console)
    if summary.get("folds"):
        _print_folds(summary["folds"], console)
    if summary.get("crops"):
        _print_crops(summary["crops"], console)
    _print_outputs(run, console)


def _print_counts(issues: pl.DataFrame, console: Console) -> None:
    if issues.is_empty():
        console.print("\nNo label was found that is likely enough to be wrong.", highlight=False)
        return
    by_type = issues.group_by("issue_type").agg(pl.len().alias("count"), pl.col("probability").sum()).sort("count", descending=True)
    table = _make_table(console, "issue type", "issues", "expected really wrong")
    for issue_type, count, expected in by_type.iter_rows():
        table.add_row(clean_text(issue_type), str(count), f"{expected:.1f}")
    table.add_row("all", str(issues.height), f"{issues['probability'].sum():.1f}", style="bold")
    _print_table("Issues found", table, console)


def _print_worst(issues: pl.DataFrame, console: Console) -> None:
    worst = issues.sort("rank").head(WORST_SHOWN)
    if worst.is_empty():
        return
    table = Table.grid(padding=(0, 2), pad_edge=False)
    for justify in ("right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for row in worst.iter_rows(named=True):
        place = row["source"] or row["file_name"] or ""
        cells = (f"{row['rank']}.", row["issue_type"], f"{row['probability']:.2f}", f"{row['reason']} ({place})")
        table.add_row(*(Text(clean_text(cell)) for cell in cells))
    _print_table(f"The {'worst' if worst.height == 1 else f'{worst.height} worst'}", table, console)


def _print_answers(answers: Mapping[str, Any], console: Console) -> None:
    table = _make_table(console, "issue type", "planted", "found", "recall", "issues", "correct", "precision")
    rows = [*answers.get("per_type", {}).items(), ("all", answers["all"])]
    for name, row in rows:
        whole = (str(row[key]) for key in ("planted", "found"))
        rest = (str(row[key]) for key in ("issues", "correct"))
        cells = (name, *whole, _share(row["recall"]), *rest, _share(row["precision"]))
        table.add_row(*cells, style="bold" if name == "all" else None)
    _print_table("Held against the answer key", table, console)
    console.print(f"Hard but right objects among the issues: {answers.get('hard_flagged', 0)}", highlight=False)


def _print_folds(folds: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = _make_table(console, "fold", "images", "held-out mAP50", "mAP50-95")
    for fold in folds:
        repeat = f" of repeat {fold['repeat'] + 1}" if fold.get("repeat") else ""
        table.add_row(f"{fold['fold'] + 1}{repeat}", str(fold["images"]), _score(fold.get("map50")), _score(fold.get("map")))
    _print_table("The detectors, each on the images it never saw", table, console)


def _print_crops(crops: Mapping[str, Any], console: Console) -> None:
    """For which categories crop classifiers took over from the detectors and why, and for which weak ones they could not."""
    if not crops["weak"]:
        return
    taken = {entry["category"] for entry in crops["took_over"]}
    table = _make_table(console, "category", "held-out AP50", "crops that agree", "judged by")
    for entry in crops["weak"]:
        judge = "its crops" if entry["category"] in taken else "detectors and crops"
        table.add_row(clean_text(entry["category"]), _score(entry["ap"]), _share(entry["agreement"]), judge)
    _print_table("Categories that the detectors hardly know", table, console)


def _print_outputs(run: Path, console: Console) -> None:
    shown = Path(os.path.relpath(run)) if run.is_relative_to(Path.cwd()) else run
    table = Table.grid(padding=(0, 2), pad_edge=False)
    for name, what in OUTPUTS.items():
        if (run / name).exists():
            table.add_row(Text(clean_text(str(shown / name)), no_wrap=True, overflow="ignore"), what)
    _print_table("Open next", table, console)
    console.print()
    console.print(Text(clean_text(f"To decide issue by issue:     python -m detclean review {shlex.quote(str(shown))}")), soft_wrap=True)
    if (run / "cleaned" / "data.yaml").exists():
        place = shlex.quote(f"data={shown / 'cleaned' / 'data.yaml'}")
        console.print(Text(clean_text(f"To train on what is cleaned:  yolo detect train {place}")), soft_wrap=True)


def _make_table(console: Console, first: str, *others: str) -> Table:
    """A table whose first column is words and whose others are figures; without lines where the output is no terminal."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 2), show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_table(title: str, table: Table, console: Console) -> None:
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table, highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
