"""The benchmark for a person: its tables on the terminal, its figures as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclean.measure.tables import HARD, LISTS, OURS, POOLED, describe_figure, describe_rivals, is_ours, table_of_figure
from detclean.show.progress import clean_text
from detclean.show.summary import open_console

FILES = {"benchmark.md": "all tables", "benchmark.png": "the same as a picture", "benchmark.json": "every figure, every seed"}
OWN, OTHER, EVEN = "#0072B2", "#999999", "#222222"  # blue of the Okabe-Ito palette, greys
OTHER_FIGURES = {  # title -> list and figure
    "any AUROC": ("any", "auroc"),
    "any R@10%": ("any", "recall_at_10"),
    "any P@N": ("any", "precision_at_n"),
    "overl. P@N": ("overlooked", "precision_at_n"),
    "img AUROC": ("images", "auroc"),
    "noisy/hard": (HARD, "auroc"),
}
FEW_ROWS = 10  # a share of fewer is noise, and is not drawn
PANELS_A_LINE = 4


def print_benchmark(document: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Average precision of every method and list, the other figures of the rankings, who beats detclean, and what to open."""
    console = console or open_console()
    for style, section in document["styles"].items():
        methods = section["methods"].items()
        header, rows = table_of_figure(section, "ap", interval=False)
        _print_table(f"Average precision, planting: {style}", ["", *header[1:]], rows, console)
        rows = [[method, *(describe_figure(own.get(name, {}).get(f)) for name, f in OTHER_FIGURES.values())] for method, own in methods]
        _print_table("The rankings otherwise", ["", *OTHER_FIGURES], rows, console)
        _print_probabilities(section, console)
        console.print(Text("\nOther methods against detclean, with the interval of the difference", style="bold"))
        for sentence in describe_rivals(section):
            console.print(Text(f"  {clean_text(sentence)}"), soft_wrap=True)
    console.print(Text("\nOpen next", style="bold"))
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    for name, what in FILES.items():
        console.print(Text(f"{clean_text(str(shown / name))}  {what}"), soft_wrap=True)


def _print_probabilities(section: Mapping[str, Any], console: Console) -> None:
    figures = section["methods"][OURS][POOLED]
    error, of_listed, realised, listed = (describe_figure(figures[name]) for name in ("ece", "ece_listed", "realised", "listed"))
    words = f"\nProbabilities: calibration error {error}, {of_listed} among those from 0.05; "
    words += f"where 0.8 was promised {realised} of {listed} listed were really wrong"
    console.print(Text(words), soft_wrap=True)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 1), show_edge=False)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True, min_width=len(name))  # rather a name is cut than a figure
    for row in rows:
        table.add_row(*(Text(clean_text(cell)) for cell in row), style="bold" if row[0] == OURS else None)
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table, highlight=False)


def draw_benchmark(document: Mapping[str, Any], path: Path) -> None:
    """One picture: for every style a panel a list, average precision with its interval, and how the probabilities came true."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-(len(LISTS) + 1) // PANELS_A_LINE)
    styles = document["styles"]
    height = max(len(section["methods"]) for section in styles.values()) * 0.22 + 0.9
    figure = Figure(figsize=(4 * PANELS_A_LINE, height * lines * len(styles) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines * len(styles), PANELS_A_LINE, squeeze=False)
    for i, (style, section) in enumerate(styles.items()):
        own = panels[i * lines : (i + 1) * lines].ravel()
        for panel, name in zip(own, LISTS, strict=False):
            _draw_precision(panel, section["methods"], name, f"{name} ({style})")
        _draw_reliability(own[len(LISTS)], section["reliability"], f"probabilities ({style})")
        for panel in own[len(LISTS) + 1 :]:
            panel.axis("off")
    figure.suptitle(f"{document['name']}: average precision, mean over the seeds, 95 % interval over resampled images")
    beside = path.with_name(f"{path.name}.partial")
    figure.savefig(beside, format="png", dpi=110)
    os.replace(beside, path)


def _draw_precision(panel: Any, methods: Mapping[str, Any], name: str, title: str) -> None:
    shown = list(methods)[::-1]
    for i, method in enumerate(shown):
        found = methods[method].get(name, {}).get("ap")
        if found is None or found["mean"] is None:
            panel.text(0.01, i, "does not know it", va="center", fontsize=7, color=OTHER)
            continue
        colour = OWN if is_ours(method) else EVEN
        if found["low"] is not None:
            panel.plot([found["low"], found["high"]], [i, i], color=colour, linewidth=1.5)
        panel.plot(found["mean"], i, "o", color=colour, markersize=5)
    panel.set_yticks(range(len(shown)), [clean_text(method) for method in shown], fontsize=8)
    panel.set_xlim(0, 1)
    panel.set_ylim(-0.6, len(shown) - 0.4)
    panel.grid(axis="x", color="#DDDDDD")
    panel.set_title(title, fontsize=10)


def _draw_reliability(panel: Any, reliability: Mapping[str, Any], title: str) -> None:
    panel.plot([0, 1], [0, 1], color=OTHER, linewidth=1)
    for kind, every in reliability.items():
        bins = [row for row in every if row["rows"] >= FEW_ROWS]
        style = {"color": OWN, "linewidth": 2.5, "marker": "o"} if kind == POOLED else {"linewidth": 1, "alpha": 0.7}
        panel.plot([row["probability"] for row in bins], [row["wrong"] for row in bins], label=kind, **style)
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
    panel.set_xlabel("probability given", fontsize=8)
    panel.set_ylabel("share really wrong", fontsize=8)
    panel.legend(fontsize=7)
    panel.set_title(title, fontsize=10)
