"""What training on each version of the labels was worth, in the report: where the strategies of a run were compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from matplotlib.axes import Axes

from detclean.edit.decisions import read_decisions
from detclean.edit.strategies import STRATEGIES, name_state
from detclean.formats.plainfile import read_plain
from detclean.measure.comparison import BACKGROUND, rank_strategies, say_verdict
from detclean.report.drawn import INK, draw_svg, label
from detclean.report.plots import BLUE, ORANGE, Plot
from detclean.runfolder import Run
from detclean.show.comparison_table import HEADER, WIDEST_CONFUSION, rows_of_versions, say_test, say_trusted

NO_COMPARISON = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)  # none was made, or its file is damaged
LONGEST_LABEL = 14  # letters of a category in a matrix
DARKEST = 0.55  # of a cell: its number has to be read on it, by day and by night
DRAWN = {"over_given": (BLUE, "o", -0.13, "over the labels as given"), "over_control": (ORANGE, "D", 0.13, "over as much at random")}


@dataclass(frozen=True)
class Matrix:
    """What was taken for what after training on one version: rows (K+1) of cells (K+1), each a count and how dark it is."""

    name: str
    rows: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class Compared:
    """verdict: sentences, the first of the best strategy. rows: as `header` has it; trusted: the same where the test's labels are trusted,
    under the sentence trusted_on. labels: of the matrices' rows and columns, none where they are too wide. strategies: what those do.
    stale: the run or what was decided has changed since, as far as that is known."""

    verdict: tuple[str, ...]
    judged_on: str
    header: tuple[str, ...]
    rows: list[list[str]]
    trusted_on: str
    trusted: list[list[str]]
    plot: Plot
    labels: tuple[str, ...]
    matrices: tuple[Matrix, ...]
    strategies: dict[str, str]
    stale: bool


def gather_compared(run: Run) -> Compared | None:
    """What compare/compare.json says; None where there is none that can be read."""
    with suppress(*NO_COMPARISON):
        document = orjson.loads(read_plain(run.folder / "compare" / "compare.json"))
        trusted = document.get("trusted")
        narrow = len(document["categories"]) <= WIDEST_CONFUSION
        shown = {name: row for name, row in document["versions"].items() if not row["control_of"]}
        return Compared(
            verdict=tuple(say_verdict(document).splitlines()),
            judged_on=say_test(document),
            header=tuple(HEADER),
            rows=rows_of_versions(document),
            trusted_on=say_trusted(document) if trusted else "",
            trusted=rows_of_versions(trusted) if trusted else [],
            plot=_plot_gaps(document),
            labels=tuple(label(name, LONGEST_LABEL) for name in (*document["categories"], BACKGROUND)) if narrow else (),
            matrices=tuple(_shade(name, row["confusion"]) for name, row in shown.items()) if narrow else (),
            strategies={name: STRATEGIES[name] for name in shown if name in STRATEGIES},
            stale=_is_stale(run, document),
        )
    return None


def _is_stale(run: Run, document: Mapping[str, Any]) -> bool:
    state = name_state(run.stage("issues").name, read_decisions(run.folder))
    return bool(document.get("state", state) != state)


def _shade(name: str, counts: Sequence[Sequence[int]]) -> Matrix:
    """A row as shares of all that is annotated there; the background's of all that is found where nothing is."""
    rows = tuple(tuple((int(count), round(DARKEST * count / max(sum(row), 1), 3)) for count in row) for row in counts)
    return Matrix(name, rows)


def _plot_gaps(document: Mapping[str, Any]) -> Plot:
    """Points of mAP50 over the labels as given and over the random control, the best strategy on top."""
    title = "How many points of mAP50 is each strategy worth?"
    names = rank_strategies(document)
    drawn = [
        (i, key, gap)
        for i, name in enumerate(names)
        for key in DRAWN
        if (row := document["versions"][name][key]) and (gap := row["map50"])["mean"] is not None
    ]
    if not drawn:
        return Plot("compared", title, "No strategy could be measured.")

    def draw(axes: Axes) -> None:
        named = set()
        for i, key, gap in drawn:
            colour, marker, shift, words = DRAWN[key]
            if gap["low"] is not None:
                axes.plot([gap["low"], gap["high"]], [i + shift] * 2, color=colour, linewidth=1.8)
            axes.plot(gap["mean"], i + shift, marker, color=colour, markersize=6, label=None if key in named else words)
            named.add(key)
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="points of mAP50")
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)

    answer = "The lines are 95 % intervals over the test images; one that crosses 0 shows no difference."
    return Plot("compared", title, answer, draw_svg("compared", draw, 1.5 + 0.45 * len(names)))
