"""From opinions and the truth to one document of figures: every method, every seed, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from detclean.boxes import Floats
from detclean.dataset import ISSUE_TYPES
from detclean.measure.figures import (
    RESAMPLES,
    Ranking,
    draw_resamples,
    measure_calibration,
    measure_ranking,
    reliability,
    summarise_resamples,
)
from detclean.measure.opinion import ANY, Opinion
from detclean.measure.truth import Truth, rank_annotations, rank_candidates, rank_hard, rank_images, rank_listed

OURS = "detclean"  # the row that the others are held against; rows whose name begins so give probabilities
LISTS = ("swap", "badloc", "spurious", "duplicate", ANY, "overlooked", "images")  # what is ranked
POOLED = "pooled"  # annotations and overlooked objects together
HARD = "noisy or hard"  # planted errors against objects that are right but hard
FIGURES = {
    "ap": "average precision",
    "auroc": "AUROC",
    "recall_at_10": "recall where 10 % of the good are flagged",
    "precision_at_n": "precision among the first N",
}
CALIBRATION = {
    "ece": "calibration error",
    "ece_listed": "of those from 0.05",
    "realised": "realised where 0.8 was promised",
    "listed": "listed",
}

Figures = dict[str, dict[str, Floats]]  # list -> figure -> (b,) resamples


def is_ours(method: str) -> bool:
    return method == OURS or method.startswith(f"{OURS}: ")


def measure_style(seeds: Sequence[tuple[Truth, Mapping[str, Opinion]]]) -> dict[str, Any]:
    """The document of one style of planting: what each method says of each seed's planted errors.

    Every seed has the same images and the same methods. An interval comes from resampling the images, the same images for every method
    and every seed: it says how far another choice of pictures might move the mean over the seeds. differences: AP of each other method
    less that of detclean, with the interval of the difference; beaten: those whose interval lies above 0.
    """
    draws = draw_resamples(seeds[0][0].image_count, np.random.default_rng(0), RESAMPLES)
    methods = {name: [_measure(opinions[name], truth, draws, is_ours(name)) for truth, opinions in seeds] for name in seeds[0][1]}
    differences = {name: _differ(figures, methods[OURS]) for name, figures in methods.items() if name != OURS}
    return {
        "images": seeds[0][0].image_count,
        "annotations": [len(truth.kind) for truth, _ in seeds],
        "planted": {kind: [_count(truth, kind) for truth, _ in seeds] for kind in ISSUE_TYPES},
        "hard": [int(truth.hard.sum()) for truth, _ in seeds],
        "methods": {name: _summarise(figures) for name, figures in methods.items()},
        "differences": differences,
        "beaten": [
            {"list": row, "method": name, **difference}
            for name, rows in differences.items()
            for row, difference in rows.items()
            if not is_ours(name) and difference["low"] is not None and difference["low"] > 0
        ],
        "reliability": {
            name: reliability(_join([_rank(opinions[OURS], truth, name) for truth, opinions in seeds])) for name in (*ISSUE_TYPES, POOLED)
        },
    }


def _count(truth: Truth, kind: str) -> int:
    return len(truth.removed) if kind == "overlooked" else int((truth.kind == kind).sum())


def _rank(opinion: Opinion, truth: Truth, name: str) -> Ranking:
    if name == "overlooked":
        boxes = opinion.candidates
        return rank_candidates(truth, boxes, np.zeros(0) if boxes.score is None else boxes.score)
    if name == POOLED:
        return _join([_rank(opinion, truth, ANY), _rank(opinion, truth, "overlooked")])
    return rank_images(truth, opinion.images) if name == "images" else rank_annotations(truth, name, opinion.annotations[name])


def _join(rankings: Sequence[Ranking]) -> Ranking:
    return Ranking(*(np.concatenate([getattr(ranking, name) for ranking in rankings]) for name in ("wrong", "score", "image", "missed")))


def _measure(opinion: Opinion, truth: Truth, draws: Floats, probabilities: bool) -> Figures:
    """Everything about one method and one seed. Types that the method does not know are missing."""
    known = [name for name in LISTS if name in ("overlooked", "images") or name in opinion.annotations]
    rankings = {name: _rank(opinion, truth, name) for name in known}
    figures = {name: measure_ranking(ranking, draws) for name, ranking in rankings.items()}
    for figure in ("auroc", "recall_at_10"):  # among the candidates only, these would praise a method that proposes few
        del figures["overlooked"][figure]
    if truth.hard.any():
        figures[HARD] = {"auroc": measure_ranking(rank_hard(truth, opinion.annotations[ANY]), draws)["auroc"]}
    if probabilities:
        for name in (*ISSUE_TYPES, ANY, POOLED):
            figures[name] = figures.get(name, {}) | measure_calibration(_rank(opinion, truth, name), draws)
        if opinion.listed is not None:  # what a person gets promised something for: each annotation once, of two twins one
            listed = measure_calibration(rank_listed(truth, opinion.listed), draws)
            figures[POOLED] |= {name: listed[name] for name in ("ece_listed", "realised", "listed")}
    return figures


def _summarise(seeds: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    return {
        name: {figure: summarise_resamples([figures[name][figure] for figures in seeds]) for figure in figures}
        for name, figures in seeds[0].items()
    }


def _differ(theirs: Sequence[Figures], ours: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    """list -> mean difference of AP and its interval, resample by resample."""
    return {
        name: summarise_resamples([a[name]["ap"] - b[name]["ap"] for a, b in zip(theirs, ours, strict=True)])
        for name in LISTS
        if name in theirs[0]
    }


def write_markdown(document: Mapping[str, Any]) -> str:
    """The tables of a benchmark document, with what a reader has to know to read them."""
    parts = [
        f"# Benchmark: {document['name']}",
        f"Planted errors, {document['rate']:.0%} of the boxes each type; seeds {', '.join(map(str, document['seeds']))}; every row on the "
        f"same out-of-fold detections. A figure is the mean over the seeds, in brackets the 95 % interval over {document['resamples']} "
        "resamples of the images. AP is average precision, equal scores counted as one threshold; N is the number that was "
        "planted; a dash: the method does not know the type.",
    ]
    for style, section in document["styles"].items():
        parts += [f"## Planting: {style}", _describe_planted(section), *_describe_tables(section), _describe_beaten(section)]
    parts.append(_describe_seconds(document["seconds"].values()))
    return "\n\n".join(parts) + "\n"


def _describe_planted(section: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{_either(section['planted'][kind])} {kind}" for kind in ISSUE_TYPES)
    return f"{section['images']} images, {_either(section['annotations'])} annotations; planted: {counts}."


def _describe_seconds(runs: Collection[Mapping[str, float]]) -> str:
    stages = {name: np.mean([seconds[name] for seconds in runs]) for name in next(iter(runs))}
    return f"Seconds a seed: {', '.join(f'{name} {mean:.0f}' for name, mean in stages.items() if mean >= 1)}."


def _either(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def table_of_figure(section: Mapping[str, Any], figure: str, interval: bool) -> tuple[list[str], list[list[str]]]:
    """One figure of every list that has it: header, and a row a method."""
    methods = section["methods"]
    lists = [name for name in (*LISTS, HARD) if any(figure in figures.get(name, {}) for figures in methods.values())]
    rows = [[method, *(describe_figure(own.get(name, {}).get(figure), interval) for name in lists)] for method, own in methods.items()]
    return [FIGURES[figure], *lists], rows


def table_of_probabilities(section: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What detclean's probabilities are worth: header, and a row a list; columns for every variant."""
    ours = {method: figures for method, figures in section["methods"].items() if is_ours(method)}
    rows = [
        [method, name, *(describe_figure(figures[name][figure], figure == "realised") for figure in CALIBRATION)]
        for method, figures in ours.items()
        for name in (*ISSUE_TYPES, ANY, POOLED)
    ]
    return ["probabilities", "list", *CALIBRATION.values()], rows


def describe_figure(figure: Mapping[str, Any] | None, interval: bool = False) -> str:
    """`0.912`, `0.912 [0.88, 0.94]`, or `-` where there is none; counts without a fraction."""
    if figure is None or figure["mean"] is None:
        return "-"
    if figure["mean"] > 1:
        return f"{figure['mean']:.0f}"
    return f"{figure['mean']:.3f}" + (f" [{figure['low']:.2f}, {figure['high']:.2f}]" if interval and figure["low"] is not None else "")


def _describe_tables(section: Mapping[str, Any]) -> list[str]:
    tables = [table_of_figure(section, figure, figure == "ap") for figure in FIGURES]
    return [_as_markdown(*table) for table in (*tables, table_of_probabilities(section))]


def _as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _describe_beaten(section: Mapping[str, Any]) -> str:
    return "\n".join(f"- {sentence}" for sentence in describe_rivals(section))


def describe_rivals(section: Mapping[str, Any]) -> list[str]:
    """One sentence a list: does another method beat detclean by more than the interval of the difference, and which comes nearest."""
    sentences = []
    for name in LISTS:
        rivals = {
            m: rows[name]
            for m, rows in section["differences"].items()
            if name in rows and not is_ours(m) and rows[name]["mean"] is not None
        }
        if not rivals:
            continue
        nearest = max(rivals, key=lambda method: rivals[method]["mean"])
        gap = rivals[nearest]
        beaten = [row["method"] for row in section["beaten"] if row["list"] == name]
        verdict = f"beaten by {', '.join(beaten)}" if beaten else "no other method is better by more than the interval"
        sentences.append(f"{name}: {verdict}; nearest is {nearest}, AP {gap['mean']:+.3f} [{gap['low']:+.2f}, {gap['high']:+.2f}]")
    return sentences
