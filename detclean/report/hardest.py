"""Hard samples in the report: are wrong detections harder than right ones, are hard categories found worse, and the hardest as pictures."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from detclean.boxes import Boxes, Floats, Ints, Mask, read_boxes
from detclean.detect.quality import find_partners
from detclean.errors import StageError
from detclean.report.drawn import draw_svg, label
from detclean.report.pictures import SHARPNESS, VIEW, Rectangle, encode_jpeg, place_box
from detclean.report.plots import BLUE, ORANGE, Plot
from detclean.report.words import number, percent, plural, shorten
from detclean.runfolder import Run, read_table
from detclean.score.hardness import SAME_OBJECT, SeenObjects, find_objects
from detclean.score.issues import NOISY
from detclean.score.matching import overlapping_pairs
from detclean.show.crops import Window, cut_window, find_window
from detclean.show.photos import READING_FAILS, open_photo

CONFIDENT = 0.25  # of a detection that counts as right or wrong; the confidence at which Ultralytics shows detections
LEAST = 5  # right and wrong detections, or detections of a category, below which nothing is compared
LEAST_CATEGORIES = 3  # that are a picture; from 5 on their order is a figure
CORRELATED = 5
NAMED_CATEGORIES = 15  # points with their names; more cannot be read
SHOWN = 4  # of the hardest right and of the hardest wrong detections
BINS = np.linspace(0, 1, 21)
QUALITY = 76  # of a JPEG


@dataclass(frozen=True)
class Shot:
    """One detection. picture: a JPEG as a data URI, None where it cannot be shown. Over it seen, its box, and given, the annotation's."""

    title: str
    words: str
    file_name: str
    picture: str | None
    seen: Rectangle
    given: Rectangle | None


@dataclass(frozen=True)
class Hardest:
    """right, wrong: detections. left_out: those whose annotation, or want of one, is itself more likely wrong than right. models: whether
    several looked at an image, so that they could disagree. shots: wrong and right, hardest first."""

    right: int
    wrong: int
    left_out: int
    models: bool
    plots: tuple[Plot, ...]
    shots: dict[str, tuple[Shot, ...]]


@dataclass(frozen=True)
class _Judged:
    """Detections: right (d,), wrong (d,), neither where what they are held against is doubtful; partner (d,): an annotation or -1."""

    boxes: Boxes
    hardness: Floats
    right: Mask
    wrong: Mask
    partner: Ints


def gather_hardest(run: Run) -> Hardest | None:
    """What the report shows of hard samples; None where the stages of the run are gone."""
    with suppress(StageError):
        detect, score = run.stage("detect"), run.stage("score")
        annotations, candidates = read_table(score / "annotations.parquet"), read_table(score / "candidates.parquet")
        detections = read_boxes(detect / "detections.parquet")
        objects = find_objects(detections, len(run.dataset.categories), detections.repeat)
        judged = _judge(run, objects, annotations, candidates)
        precision = run.summary.get("per_category") or {}
        plots = (_plot_right_and_wrong(judged), _plot_categories(objects, run.dataset.categories, precision))
        shots = {name: _take_shots(run, judged, chosen) for name, chosen in (("wrong", judged.wrong), ("right", judged.right))}
        left_out = int((~(judged.right | judged.wrong)).sum())
        models = bool(np.isfinite(objects.disagreement).any())
        return Hardest(int(judged.right.sum()), int(judged.wrong.sum()), left_out, models, plots, shots)
    return None


def _judge(run: Run, objects: SeenObjects, annotations: pl.DataFrame, candidates: pl.DataFrame) -> _Judged:
    """Right takes an annotation of its category at an IoU of 0.5. Where detclean itself doubts the annotation, or believes that one was
    forgotten, neither is said."""
    confident = np.asarray(objects.boxes.score) >= CONFIDENT
    boxes, hardness = objects.boxes[confident], objects.hardness[confident]
    given = run.dataset.annotations
    partner = find_partners(run.dataset, boxes)
    trusted = np.zeros(len(given) + 1, bool)  # crowds are in no table and say nothing about single objects
    trusted[annotations.filter(pl.col("p_any") < NOISY)["annotation"].to_numpy()] = True
    believed = candidates.filter(pl.col("probability") >= NOISY).sort("image_index")
    position = {name: i for i, name in enumerate(run.dataset.categories)}
    category = np.array([position[name] for name in believed["category"].to_list()], np.int64)
    forgotten = Boxes(believed["image_index"].to_numpy(), category, believed.select("x1", "y1", "x2", "y2").to_numpy())
    mine, theirs, _ = overlapping_pairs(boxes, forgotten, SAME_OBJECT)
    counted = np.where(partner >= 0, trusted[partner], True)
    counted[mine[(partner[mine] < 0) & (boxes.category[mine] == forgotten.category[theirs])]] = False
    same = (partner >= 0) & (np.append(given.category, -1)[partner] == boxes.category)
    return _Judged(boxes, hardness, counted & same, counted & ~same, partner)


def _plot_right_and_wrong(judged: _Judged) -> Plot:
    title = "Are wrong detections the undecided ones?"
    right, wrong = judged.hardness[judged.right], judged.hardness[judged.wrong]
    if len(right) < LEAST or len(wrong) < LEAST:
        count = f"{plural(len(right), 'right detection')} and {number(len(wrong))} wrong"
        return Plot("right-and-wrong", title, f"{count} with a confidence of at least {CONFIDENT}: too few to compare.")

    def draw(axes: Axes) -> None:
        for values, colour, name in ((right, BLUE, "right"), (wrong, ORANGE, "wrong")):
            share = np.histogram(values, BINS)[0] / len(values)
            axes.stairs(share, BINS, fill=True, color=colour, alpha=0.3)
            axes.stairs(share, BINS, color=colour, linewidth=1.8, label=f"{name} ({number(len(values))})")
        axes.set(xlim=(0, 1), xlabel="hardness (0 easy, 1 undecided)", ylabel="share of them")
        axes.legend(loc="upper right")

    harder = _share_above(wrong, right)
    answer = f"Wrong detections have a median hardness of {np.median(wrong):.2f}, right ones of {np.median(right):.2f}; of a wrong and "
    answer += f"a right one drawn at random the wrong one is the harder in {percent(harder)} of cases (by chance 50{chr(160)}%)."
    return Plot("right-and-wrong", title, answer, draw_svg("right-and-wrong", draw))


def _share_above(high: Floats, low: Floats) -> float:
    """How often a value of the first is above one of the second, ties by half: (a,), (b,)."""
    below = np.sort(low)
    above = (np.searchsorted(below, high, "left") + np.searchsorted(below, high, "right")) / 2
    return float(above.mean() / len(low))


def _plot_categories(objects: SeenObjects, categories: tuple[str, ...], precision: dict[str, float | None]) -> Plot:
    title = "Are hard categories found worse?"
    count = np.bincount(objects.boxes.category, minlength=len(categories))
    total = np.bincount(objects.boxes.category, weights=objects.hardness, minlength=len(categories))
    rows = [
        (name, total[i] / count[i], ap)
        for i, name in enumerate(categories)
        if count[i] >= LEAST and (ap := precision.get(name)) is not None
    ]
    if len(rows) < LEAST_CATEGORIES:
        return Plot(
            "hard-categories", title, f"{plural(len(rows), 'category has', 'categories have')} enough detections: too few to compare."
        )
    names, hardness, found = [row[0] for row in rows], np.array([row[1] for row in rows]), np.array([row[2] for row in rows])

    def draw(axes: Axes) -> None:
        axes.plot(hardness, found, "o", color=BLUE, markersize=6)
        if len(rows) <= NAMED_CATEGORIES:
            for name, x, y in zip(names, hardness, found, strict=True):
                axes.annotate(label(name, 14), (x, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5)
        room = max(float(np.ptp(hardness)), 0.02)
        axes.set(
            xlim=(hardness.min() - 0.1 * room, hardness.max() + 0.3 * room), xlabel="mean hardness of what is seen as it", ylabel="AP50"
        )
        axes.grid()

    hardest, easiest = int(hardness.argmax()), int(hardness.argmin())
    answer = f"Hardest is ‘{label(names[hardest], 40)}’ ({hardness[hardest]:.2f}, AP50 {found[hardest]:.2f}), "
    answer += f"easiest ‘{label(names[easiest], 40)}’ ({hardness[easiest]:.2f}, AP50 {found[easiest]:.2f})."
    if len(rows) >= CORRELATED and np.ptp(hardness) > 0 and np.ptp(found) > 0:
        from scipy.stats import spearmanr

        answer += f" Rank correlation over {number(len(rows))} categories: {float(spearmanr(hardness, found).statistic):.2f}."
    return Plot("hard-categories", title, answer, draw_svg("hard-categories", draw))


def _take_shots(run: Run, judged: _Judged, chosen: Mask) -> tuple[Shot, ...]:
    """The hardest of the chosen detections, one an image."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-judged.hardness[rows], kind="stable")]
    _, first = np.unique(judged.boxes.image_index[rows], return_index=True)
    return tuple(_take_shot(run, judged, int(row)) for row in rows[np.sort(first)[:SHOWN]])


def _take_shot(run: Run, judged: _Judged, row: int) -> Shot:
    boxes, partner = judged.boxes, int(judged.partner[row])
    given = run.dataset.annotations
    seen: Any = tuple(boxes.xyxy[row].tolist())
    beside: Any = tuple(given.xyxy[partner].tolist()) if partner >= 0 else None
    names = run.dataset.categories
    words = f"annotated ‘{shorten(names[int(given.category[partner])])}’" if partner >= 0 else "nothing annotated there"
    image = run.dataset.images.row(int(boxes.image_index[row]), named=True)
    shown = [seen] if beside is None else [seen, beside]
    window = find_window(shown, float(image["width"]), float(image["height"]))
    return Shot(
        title=f"seen as ‘{shorten(names[int(boxes.category[row])])}’",
        words=f"{words}; hardness {judged.hardness[row]:.2f}, confidence {np.asarray(boxes.score)[row]:.2f}",
        file_name=image["file_name"],
        picture=_cut(image["path"], window),
        seen=place_box(seen, window),
        given=None if beside is None else place_box(beside, window),
    )


def _cut(path: str | None, window: Window) -> str | None:
    if path is None:
        return None
    with suppress(*READING_FAILS), open_photo(path, min(VIEW / window[2], 1.0)) as (photo, ratio):
        size = int(min(VIEW, max(round(SHARPNESS * window[2] * ratio), 16)))
        return encode_jpeg(cut_window(photo, window, size, ratio), QUALITY)
    return None
