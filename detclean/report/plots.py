"""The report's figures: each answers a question, in a sentence and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from detclean.boxes import Floats
from detclean.dataset import ISSUE_TYPES
from detclean.health.groups import LEAST_IMAGES, Grouping
from detclean.report.drawn import INK, draw_svg, label
from detclean.report.words import COLOURS, number, percent, plural
from detclean.score.issues import NOISY
from detclean.show.words import TYPES

BIN = 0.05  # of probability and of label quality
CATEGORIES_SHOWN = 20
POOR_FOLD = 0.1  # mAP50 below the others' mean, from which a fold is called worse: folds of 50 images differ by half of it by chance
BLUE, ORANGE = "#0072B2", "#D55E00"
MOST_ERRORS = 6  # expected in an image; more are one bar


@dataclass(frozen=True)
class Plot:
    """title: the question. answer: what can be seen, in words. svg: the picture, None where there is nothing to draw."""

    name: str
    title: str
    answer: str
    svg: Markup | None = None


def plot_probabilities(issues: pl.DataFrame) -> Plot:
    """How many issues at which probability, stacked by type; where the verdict changes is marked."""
    title = "How sure is detclean?"
    if issues.is_empty():
        return Plot("probability", title, "There are no issues.")
    noisy = issues.filter(pl.col("probability") >= NOISY).height
    edges = np.linspace(0, 1, round(1 / BIN) + 1)
    kinds = [kind for kind in ISSUE_TYPES if (issues["issue_type"] == kind).any()]
    counts = [np.histogram(issues.filter(pl.col("issue_type") == kind)["probability"].to_numpy(), edges)[0] for kind in kinds]

    def draw(axes: Axes) -> None:
        floor = np.zeros(len(edges) - 1)
        for kind, count in zip(kinds, counts, strict=True):
            axes.bar(edges[:-1], count, BIN * 0.9, floor, align="edge", color=COLOURS[kind], label=TYPES[kind])
            floor = floor + count
        axes.axvline(NOISY, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        top = 1.08 * max(floor.max(), 1)
        axes.set_ylim(0, top)
        axes.text(NOISY - 0.015, top, "probably hard", ha="right", va="top", fontsize=9)
        axes.text(NOISY + 0.015, top, "noisy", ha="left", va="top", fontsize=9)
        axes.set(xlim=(0, 1), xlabel="probability of being wrong", ylabel="issues")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.92))

    rest = issues.height - noisy
    answer = f"{number(noisy)} of {plural(issues.height, 'issue')} {'is' if noisy == 1 else 'are'} more likely wrong than right"
    tail = f"; {plural(rest, 'is', 'are')} more likely hard than wrong." if rest else "."
    return Plot("probability", title, answer + tail, draw_svg("probability", draw))


def plot_precision(issues: pl.DataFrame, realised: Mapping[str, tuple[Floats, Floats] | None]) -> Plot:
    """The mean probability of the first n issues, with what came true. realised: by name, numbers of issues and shares."""
    title = "How far down the list is it worth looking?"
    if issues.is_empty():
        return Plot("precision", title, "There are no issues.")
    probability = issues.sort("rank")["probability"].to_numpy()
    count = np.arange(1, len(probability) + 1)
    promised = np.cumsum(probability) / count
    drawn = {name: curve for name, curve in realised.items() if curve is not None}

    def draw(axes: Axes) -> None:
        axes.plot(count, promised, color=BLUE, linewidth=2, label="expected", marker="o" if len(count) == 1 else None)
        for (name, (at, share)), dashes in zip(drawn.items(), ((0, (5, 2)), (0, (1, 1.5))), strict=False):
            axes.plot(at, share, color=ORANGE, linewidth=1.6, linestyle=dashes, label=name)
        axes.set(ylim=(0, 1.02), xlim=(0, len(count) + 0.5), xlabel="issues looked at, worst first", ylabel="share that is wrong")
        axes.grid(axis="y")
        axes.legend(loc="lower left")

    shown = min(100, len(count))
    answer = f"Of the first {number(shown)} about {percent(promised[shown - 1])} are wrong"
    answer += f", of all {number(len(count))} about {percent(promised[-1])}." if shown < len(count) else "."
    for name, (_, share) in drawn.items():
        answer += f" {name[:1].upper()}{name[1:]}: {percent(float(share[-1]))}."
    return Plot("precision", title, answer, draw_svg("precision", draw))


def plot_folds(folds: Sequence[Mapping[str, Any]]) -> Plot:
    """mAP50 of each fold's detector on the images it never saw, and their mean."""
    title = "Is one fold worse than the others?"
    known = [fold for fold in folds if fold.get("map50") is not None]
    if len(known) < 2:
        alone = f" Its mAP50 is {known[0]['map50']:.2f}." if known else ""
        return Plot("folds", title, f"All images were looked at by one detector, so there is nothing to compare.{alone}")
    repeats = len({fold.get("repeat", 0) for fold in known}) > 1
    names = [f"{fold['fold'] + 1}" + (f" ({fold.get('repeat', 0) + 1})" if repeats else "") for fold in known]
    score = np.array([fold["map50"] for fold in known])
    others = (score.sum() - score) / (len(score) - 1)
    poor = score < others - POOR_FOLD

    def draw(axes: Axes) -> None:
        at = range(len(score))
        axes.bar(at, score, 0.62, color=[ORANGE if bad else BLUE for bad in poor])
        if len(score) <= 12:
            for x, value in zip(at, score.tolist(), strict=True):
                axes.text(x, value - 0.02, f"{value:.2f}", ha="center", va="top", fontsize=9, color="white")
        axes.axhline(float(score.mean()), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(ylim=(0, 1.05), xlabel="fold (repeat)" if repeats else "fold", ylabel="mAP50 on unseen images")
        axes.set_xticks(at[:: 1 + len(at) // 15], names[:: 1 + len(at) // 15])

    listed = ", ".join(name for name, bad in zip(names, poor, strict=True) if bad)
    answer = f"The folds reach {score.min():.2f} to {score.max():.2f}, {score.mean():.2f} on average"
    answer += f"; fold {listed} stands out, look at its images first." if listed else "; none stands out."
    return Plot("folds", title, answer, draw_svg("folds", draw))


def plot_quality(images: pl.DataFrame) -> Plot:
    """How many images have which label quality score."""
    title = "How good are the labels of whole images?"
    quality = _finite(images["label_quality_score"])
    if not quality.size:
        return Plot("quality", title, "No image has a label quality score.")
    edges = np.linspace(0, 1, round(1 / BIN) + 1)

    def draw(axes: Axes) -> None:
        axes.bar(edges[:-1], np.histogram(quality, edges)[0], BIN * 0.9, align="edge", color=BLUE)
        axes.axvline(float(np.median(quality)), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 1), xlabel="label quality score (1 is good)", ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))

    answer = (
        f"Half of the images score at least {np.median(quality):.2f}, a tenth at most {np.quantile(quality, 0.1):.2f} (cleanlab’s score)."
    )
    return Plot("quality", title, answer, draw_svg("quality", draw))


def plot_errors(images: pl.DataFrame) -> Plot:
    """How many images have how many expected errors, and in how few of them half of all errors are."""
    title = "In how few images are the errors?"
    errors = np.sort(_finite(images["expected_errors"]))[::-1]
    if not errors.size or errors.sum() <= 0:
        return Plot("errors", title, "No errors are expected in any image.")
    half = int(np.searchsorted(np.cumsum(errors), errors.sum() / 2) + 1)
    count = np.bincount(np.minimum(np.rint(errors).astype(int), MOST_ERRORS), minlength=2)

    def draw(axes: Axes) -> None:
        at = range(len(count))
        axes.bar(at, count, 0.72, color=BLUE)
        for x, value in zip(at, count.tolist(), strict=True):
            axes.text(x, value + 0.015 * count.max(), number(value), ha="center", fontsize=9)
        axes.set_xticks(at, [f"{x}+" if x == MOST_ERRORS else str(x) for x in at])
        axes.set(ylim=(0, 1.1 * count.max()), xlabel="expected errors in an image (rounded)", ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))

    share = percent(half / len(errors))
    answer = f"Half of all expected errors are in {number(half)} of {plural(len(errors), 'image')} ({share})."
    return Plot("errors", title, answer, draw_svg("errors", draw))


def plot_hardness(annotations: pl.DataFrame) -> Plot:
    """Median, mean and quartiles of the hardness of each category's annotations; the hardest categories."""
    title = "Which categories are hard?"
    hard = pl.col("hardness")
    table = annotations.filter(hard.is_not_null() & hard.is_not_nan()).group_by("category")
    columns = {"low": hard.quantile(0.25), "middle": hard.median(), "high": hard.quantile(0.75), "mean": hard.mean()}
    rows = table.agg(**columns).sort(["middle", "category"], descending=[True, False])
    if rows.is_empty():
        return Plot("hardness", title, "There is no annotation.")
    shown = rows.head(CATEGORIES_SHOWN)
    names = [label(name) for name in shown["category"].to_list()]

    def draw(axes: Axes) -> None:
        at = np.arange(shown.height)
        axes.hlines(at, shown["low"], shown["high"], color=BLUE, linewidth=5, alpha=0.35)
        axes.plot(shown["middle"], at, "o", color=BLUE, markersize=6, label="median")
        axes.plot(shown["mean"], at, "|", color=ORANGE, markersize=11, markeredgewidth=2, label="mean")
        axes.set_yticks(at, names)
        axes.set(xlim=(0, 1), ylim=(shown.height - 0.4, -0.6), xlabel="hardness (0 easy, 1 undecided); bar: middle half")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.legend(loc="upper right")

    answer = f"The detectors are least decided about ‘{label(rows['category'][0], 40)}’ (median {rows['middle'][0]:.2f})"
    if rows.height > 1:
        answer += f" and most about ‘{label(rows['category'][-1], 40)}’ ({rows['middle'][-1]:.2f})"
    if rows.height > shown.height:
        answer += f". The {shown.height} hardest of {number(rows.height)} are shown"
    return Plot("hardness", title, f"{answer}.", draw_svg("hardness", draw, max(1.4 + 0.24 * shown.height, 2.2)))


def plot_groups(grouping: Grouping, name: str = "groups") -> Plot:
    """Expected errors per 100 annotations of each group of images, by type; groups that are worse by more than chance are marked."""
    what = {"prefix": "beginning of the name"}.get(grouping.by, grouping.by)
    title = (
        "Is one batch of images worse than the rest?" if grouping.by in ("folder", "prefix") else f"Do errors gather by {label(what, 40)}?"
    )
    if len(grouping.groups) < 2:
        why = "they lie in one folder and begin alike" if grouping.all == 1 else f"no two groups by {what} have {LEAST_IMAGES} images"
        return Plot(name, title, f"The names of the images tell no batches apart: {why}.")
    groups = grouping.groups
    kinds = [kind for kind in ISSUE_TYPES if any(group.rates[kind] >= 0.005 for group in groups)]

    def draw(axes: Axes) -> None:
        at, left = np.arange(len(groups)), np.zeros(len(groups))
        for kind in kinds:
            width = np.array([group.rates[kind] for group in groups])
            axes.barh(at, width, 0.66, left, color=COLOURS[kind], label=TYPES[kind])
            left = left + width
        axes.errorbar(left, at, xerr=[[min(g.spread, g.rate) for g in groups], [g.spread for g in groups]], fmt="none", ecolor=INK, lw=1)
        axes.axvline(grouping.overall, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(at, [f"{'▲ ' if g.stands_out else ''}{label(g.name or '(top)', 18)} ({number(g.images)})" for g in groups])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(len(groups) - 0.4, -0.6), xlabel="expected errors per 100 annotations")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, fontsize=9, columnspacing=1.0)

    bad = [f"‘{label(group.name, 40)}’" for group in groups if group.stands_out]
    answer = f"By {label(what, 40)}, images in brackets: {', '.join(bad) or 'no group'} "
    answer += f"{'has' if len(bad) < 2 else 'have'} more errors than chance explains"
    answer += f" (marked ▲; all images: {grouping.overall:.1f} per 100)." if bad else f" (all images: {grouping.overall:.1f} per 100)."
    if grouping.all > len(groups):
        answer += f" {plural(grouping.all - len(groups), 'other group')} not shown."
    return Plot(name, title, answer, draw_svg(name, draw, max(1.9 + 0.27 * len(groups), 2.4)))


def _finite(values: pl.Series) -> Floats:
    array: Floats = values.drop_nulls().to_numpy().astype(np.float64)
    finite: Floats = array[np.isfinite(array)]
    return finite
