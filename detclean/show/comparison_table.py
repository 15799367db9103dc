"""The comparison of versions for a person: tables and the verdict on the terminal, as Markdown, and as a picture."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclean.boxes import Ints
from detclean.edit.strategies import STRATEGIES
from detclean.measure.comparison import BACKGROUND, FIGURES, say_verdict
from detclean.show.progress import clean_text
from detclean.show.summary import open_console

FILES = {
    "compare.md": "all tables",
    "compare.png": "the same as a picture",
    "confusion.png": "what is taken for what",
    "test_issues.csv": "test labels that look wrong",
    "compare.json": "every figure, every seed",
}
GIVEN, STRATEGY, CONTROL = "#222222", "#0072B2", "#999999"  # black, blue of the Okabe-Ito palette, grey; each with a marker of its own
MARKERS = {GIVEN: "s", STRATEGY: "o", CONTROL: "D"}
WIDEST_CONFUSION = 12  # categories; wider tables nobody reads, compare.json has them
GAPS = {"over_given": "Points over the labels as given", "over_control": "Points over as much at random"}
MATRICES_A_LINE = 3
LONGEST_LABEL = 16  # letters of a category in the picture
AMOUNTS = slice(1, 3)  # of HEADER: how much was trained on, for which a narrow terminal has no room
ROOMY = 100  # columns of a terminal
BY_SEED = "by seed"  # a column of as many figures as there are seeds: goes over several lines
HEADER = ["trained on", "images", "boxes", "mAP50 [95 %]", "over as given", "over random"]


def print_comparison(document: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """What each version is worth, its other figures, the verdict, and what of FILES there is to open."""
    console = console or open_console()
    _print_table(say_test(document), HEADER, rows_of_versions(document), document["reference"], console)
    if document.get("trusted"):
        _print_table(say_trusted(document), HEADER, rows_of_versions(document["trusted"]), document["reference"], console)
    _print_table("The other figures, and mAP50 of every seed", *_table_of_figures(document), document["reference"], console)
    console.print(Text("\nVerdict", style="bold"))
    for sentence in say_verdict(document).splitlines():
        console.print(Text(f"  {clean_text(sentence)}"), soft_wrap=True)
    console.print(Text("\nOpen next", style="bold"))
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    for name, what in ((name, what) for name, what in FILES.items() if (folder / name).exists()):
        console.print(Text(f"{clean_text(str(shown / name))}  {what}"), soft_wrap=True)


def say_test(document: Mapping[str, Any]) -> str:
    seeds = document["seeds"]
    of_seeds = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    return f"Judged on {document['images']} test images with {document['annotations']} annotations, {of_seeds}; differences in points"


def say_trusted(document: Mapping[str, Any]) -> str:
    """Which test images are left once those with a suspected error are gone."""
    trusted, gone = document["trusted"], document["test_labels"]["images_distrusted"]
    without = f"without the {gone} with" if gone > 1 else "without the one with"
    return f"The same on {trusted['images']} test images with {trusted['annotations']} annotations, {without} a suspected error"


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], bold: str, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 1), show_edge=False)
    if header is HEADER and console.width < ROOMY:
        header, rows = _without_amounts(header), [_without_amounts(row) for row in rows]
    longest = max((len(word) for row in rows for word in row[0].split()), default=0)
    for i, name in enumerate(header):
        table.add_column(
            name, justify="right" if i else "left", no_wrap=i > 0 and name != BY_SEED, min_width=max(len(name), 0 if i else longest)
        )
    for row in rows:
        table.add_row(*(Text(clean_text(cell)) for cell in row), style="bold" if row[0] == bold else None)
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table, highlight=False)


def _without_amounts(cells: Sequence[str]) -> list[str]:
    left = list(cells)
    del left[AMOUNTS]
    return left


def rows_of_versions(document: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, row in document["versions"].items():
        gaps = [_say_gap(row[key] and row[key]["map50"]) for key in ("over_given", "over_control")]
        rows.append([name, str(row["images"]), str(row["annotations"]), _say_share(row["figures"]["map50"], interval=True), *gaps])
    return rows


def _table_of_figures(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Every figure but mAP50 as a mean; mAP50 with its spread over the seeds, and of each seed."""
    others = [name for name in FIGURES if name != "map50"]
    rows = []
    for name, row in document["versions"].items():
        first = row["figures"]["map50"]
        by_seed = " ".join("-" if value is None else f"{value:.3f}" for value in first["by_seed"])
        sd = "-" if first["sd"] is None else f"{first['sd']:.3f}"
        rows.append([name, *(_say_share(row["figures"][other]) for other in others), sd, by_seed])
    return ["trained on", *(FIGURES[other] for other in others), "sd", BY_SEED], rows


def _say_share(figure: Mapping[str, Any], interval: bool = False) -> str:
    """`0.912`, `0.912 [0.88, 0.94]`, or `-` where there is none."""
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.3f}" + (f" [{figure['low']:.2f}, {figure['high']:.2f}]" if interval and figure["low"] is not None else "")


def _say_gap(gap: Mapping[str, Any] | None) -> str:
    """`+4.1 [2.9, 5.2]`, or `-` where there is none."""
    if gap is None or gap["mean"] is None:
        return "-"
    return f"{gap['mean']:+.1f}" + ("" if gap["low"] is None else f" [{gap['low']:.1f}, {gap['high']:.1f}]")


def write_comparison_markdown(document: Mapping[str, Any]) -> str:
    """The verdict, every table, average precision by category, and the confusion matrices where they are narrow enough."""
    versions = document["versions"]
    thresholds = ", ".join(f"{threshold:.3f}" for threshold in document["thresholds"])
    parts = [
        "# Does training on cleaned labels help?",
        "\n".join(f"- {_escape(sentence)}" for sentence in say_verdict(document).splitlines()),
        f"{say_test(document)}. Intervals: 95 % over {document['resamples']} resamples of the test images, the same for every version; "
        "they do not hold the chance of the training, which the spread over the seeds (sd) shows. Precision, recall and F1 at the "
        f"confidence of the best F1 of “{_escape(document['reference'])}”: {thresholds} by seed.",
        _as_markdown(HEADER, rows_of_versions(document)),
        _as_markdown(*_table_of_figures(document)),
        _describe_trusted(document),
        _describe_strategies(versions),
        *(_describe_gaps(document, key, title) for key, title in GAPS.items()),
        "## AP50 by category",
        _as_markdown(
            ["category", *versions],
            [[name, *(_say_share(row["per_category"][name]) for row in versions.values())] for name in document["categories"]],
        ),
        *_describe_confusions(document),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _describe_trusted(document: Mapping[str, Any]) -> str:
    if not document.get("trusted"):
        return ""
    chosen = "The models of all versions together, which never saw the test labels, chose them; test_issues.csv says what they suspect."
    return f"## On test images whose labels are trusted\n\n{say_trusted(document)}. {chosen}\n\n" + _as_markdown(
        HEADER, rows_of_versions(document["trusted"])
    )


def _describe_strategies(names: Iterable[str]) -> str:
    """What each strategy that was tried does."""
    lines = [f"- {_escape(name)}: {STRATEGIES[name]}." for name in names if name in STRATEGIES]
    return "\n".join(["## What the strategies do", "", *lines]) if lines else ""


def _describe_gaps(document: Mapping[str, Any], key: str, title: str) -> str:
    rows = [[name, *(_say_gap(row[key][f]) for f in FIGURES)] for name, row in document["versions"].items() if row[key] is not None]
    return f"## {title}\n\n{_as_markdown(['trained on', *FIGURES.values()], rows)}" if rows else ""


def _describe_confusions(document: Mapping[str, Any]) -> list[str]:
    if len(document["categories"]) > WIDEST_CONFUSION:
        return [f"The confusion matrices of {len(document['categories'])} categories are in compare.json."]
    labels = [*document["categories"], BACKGROUND]
    parts = ["## Confusion", "Rows are annotated, columns found, at an IoU of 0.5 whatever the category; sums over the seeds."]
    for name, row in document["versions"].items():
        cells = [[label, *map(str, counts)] for label, counts in zip(labels, row["confusion"], strict=True)]
        parts.append(f"### {_escape(name)}\n\n{_as_markdown(['annotated', *labels], cells)}")
    return parts


def _as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(header) - 1)]
    lines = [[_escape(cell) for cell in header], ruler, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    """Names of categories are data: nothing in them is a table, a link, a picture or a tag. Our own intervals stay readable."""
    plain = html.escape(clean_text(text).replace("\n", " "), quote=False)
    return re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|!(?=\[)|\](?=[(\[:])|://)", lambda found: "".join(f"\\{c}" for c in found[0]), plain)


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib as it comes: its settings are looked for in the run folder, where somebody may have put some that run TeX."""
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        yield


@_own_style()
def draw_comparison(document: Mapping[str, Any], path: Path) -> None:
    """One picture: mAP50 of every version with its interval and each seed as a dot, and the differences to the given labels and random."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    versions = document["versions"]
    figure = Figure(figsize=(12, 0.5 * len(versions) + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_figures(left, document)
    _draw_differences(right, document)
    figure.suptitle("Does training on cleaned labels help?", fontsize=13)
    _save(figure, path)


@_own_style()
def draw_confusions(document: Mapping[str, Any], path: Path) -> None:
    """One picture: the confusion matrices of the labels as given and the strategies side by side, each row as shares of what is annotated.

    The background has no number of its own: its row is shares of all that is found where nothing is annotated. Counts stand in the cells
    of up to WIDEST_CONFUSION categories.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: row for name, row in document["versions"].items() if not row["control_of"]}
    labels = [_shorten(name) for name in (*document["categories"], BACKGROUND)]
    lines = -(-len(shown) // MATRICES_A_LINE)
    columns = min(len(shown), MATRICES_A_LINE)
    side = min(2.2 + 0.32 * len(labels), 9)
    figure = Figure(figsize=(side * columns, side * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, row) in zip(panels, shown.items(), strict=False):
        _draw_confusion(panel, np.array(row["confusion"]), labels)
        panel.set_title(_as_plain(name), fontsize=10)
    for panel in panels[len(shown) :]:
        panel.axis("off")
    figure.suptitle("What is taken for what? Rows annotated, columns found", fontsize=12)
    _save(figure, path)


def _draw_confusion(panel: Any, counts: Ints, labels: Sequence[str]) -> None:
    """counts: (K+1, K+1)."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    few = len(labels) <= WIDEST_CONFUSION + 1
    for i, k in np.argwhere(counts > 0).tolist() if few else ():
        panel.text(k, i, str(counts[i, k]), ha="center", va="center", fontsize=7, color="white" if share[i, k] > 0.5 else GIVEN)
    step = 1 if few else -(-len(labels) // 30)
    panel.set_xticks(range(0, len(labels), step), labels[::step], fontsize=7, rotation=90)
    panel.set_yticks(range(0, len(labels), step), labels[::step], fontsize=7)


def _shorten(name: str) -> str:
    plain = clean_text(name).replace("\n", " ")
    return _as_plain(plain if len(plain) <= LONGEST_LABEL else f"{plain[: LONGEST_LABEL - 1]}…")


def _as_plain(text: str) -> str:
    """A dollar sign would begin a formula."""
    return clean_text(text).replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    beside = path.with_name(f"{path.name}.partial")
    figure.savefig(beside, format="png", dpi=110)
    os.replace(beside, path)


def _draw_figures(panel: Any, document: Mapping[str, Any]) -> None:
    for i, (name, row) in enumerate(document["versions"].items()):
        found = row["figures"]["map50"]
        colour = GIVEN if name == document["reference"] else STRATEGY if not row["control_of"] else CONTROL
        known = [value for value in found["by_seed"] if value is not None]
        _draw_interval(panel, found, i, colour)
        panel.plot(known, [i + 0.22] * len(known), "o", color=colour, markersize=3.5, fillstyle="none")
    _label_rows(panel, list(document["versions"]))
    of_seeds = "small circles: single seeds; " if document["seeds"] > 1 else ""
    panel.set_title(f"mAP50 on {document['images']} test images\n{of_seeds}line: 95 % over the images", fontsize=9)


def _draw_differences(panel: Any, document: Mapping[str, Any]) -> None:
    """Points over the labels as given (blue circle, line through) and over the random control (grey diamond, dashed)."""
    rows = {name: row for name, row in document["versions"].items() if not row["control_of"] and row["over_given"] is not None}
    looks = {
        "over_given": (STRATEGY, -0.12, "-", "over the labels as given"),
        "over_control": (CONTROL, 0.15, "--", "over as much at random"),
    }
    named = set()
    for i, row in enumerate(rows.values()):
        for key, (colour, shift, line, label) in looks.items():
            gap = row[key] and row[key]["map50"]
            if gap and gap["mean"] is not None:
                _draw_interval(panel, gap, i + shift, colour, line, label=None if key in named else label)
                named.add(key)
    panel.axvline(0, color=GIVEN, linewidth=1)
    _label_rows(panel, list(rows))
    panel.set_title("difference in mAP50, points\na line that crosses 0 shows no difference", fontsize=9)
    if named:
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)


def _draw_interval(panel: Any, found: Mapping[str, Any], y: float, colour: str, line: str = "-", label: str | None = None) -> None:
    if found["mean"] is None:
        panel.text(0.01, y, "no annotations", va="center", fontsize=7, color=colour, transform=panel.get_yaxis_transform())
        return
    if found["low"] is not None:
        panel.plot([found["low"], found["high"]], [y, y], line, color=colour, linewidth=1.8)
    panel.plot(found["mean"], y, MARKERS[colour], color=colour, markersize=6, label=label)


def _label_rows(panel: Any, names: Sequence[str]) -> None:
    """The first version on top."""
    panel.set_yticks(range(len(names)), [_as_plain(name) for name in names], fontsize=9)
    panel.set_ylim(max(len(names), 1) - 0.4, -0.6)
    panel.grid(axis="x", color="#DDDDDD")
