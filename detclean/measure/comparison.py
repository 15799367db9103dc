"""What training on cleaned labels is worth: versions of the labels, each with models of several seeds, judged on the same test images.

Every version and every seed is measured on the same draws of the test images, so that the interval of a difference is that of pairs: what
makes an image hard for both sides cancels out. It says how far other test images might move the mean over these seeds; how far another
training might move it, the spread over the seeds says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detclean.boxes import Boxes, Floats, Ints, Mask
from detclean.dataset import Dataset
from detclean.detect.quality import IOU_LEVELS, RECALL_LEVELS, Matched, find_partners, match_detections
from detclean.measure.figures import INTERVAL, draw_resamples

FIGURES = {"map50": "mAP50", "map": "mAP50-95", "precision": "precision", "recall": "recall", "f1": "F1"}
THRESHOLD = 0.25  # confidence where the model of the labels as given finds nothing that could choose one: what YOLO shows unasked
CELLS_AT_ONCE = 50_000  # hits x draws: what stays in the cache of a processor
BACKGROUND = "background"
DOUBTED_ANYWAY = 0.04  # share of labels that is suspected where every one is right: 2 to 3 % of the digits', up to 3.6 % of simulated
WEAK_MODELS = 0.6  # mAP50 below which what models suspect is likely their own error: at 0.48, 12 % of right labels
NO_DIFFERENCE = "no difference that the test images could show"

Measured = dict[str, Floats]  # figure -> (B,), and "per_category" (B, K)


@dataclass(frozen=True)
class Version:
    """One version of the training labels, and what the models trained on it find.

    detections: one Boxes a seed, all on the same test images, with score; images, annotations: how many it was trained on; control_of:
    the strategies whose amount this one does at random.
    """

    name: str
    detections: Sequence[Boxes]
    images: int
    annotations: int
    control_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Test:
    """The test annotations that count (no crowds), and the draws: image and category (n,), draws (N, B), how often an image counts."""

    image: Ints
    category: Ints
    category_count: int
    draws: Floats


def compare_versions(test: Dataset, versions: Sequence[Version], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Every version's figures, and its differences to the first version (the labels as given) and to its random control.

    -> a document for JSON: images, annotations, categories, seeds, resamples, reference, thresholds (by seed), and versions by name:
    images, annotations, control_of (names, none but for a control), figures and per_category (AP50) with mean, sd, low, high and by_seed
    (shares of 1, None where there is none), confusion (K+1, K+1: rows annotated, columns found, last is background; sum over the seeds),
    over_given and over_control:
    the figures' differences in points, None for the first version and where there is no control. Precision, recall, F1 and confusion are
    those at the confidence where the labels as given have their best F1, one for each seed. Raises ValueError for versions that cannot be
    compared.
    """
    _require_comparable(test.image_count, versions)
    counted = np.ones(len(test.annotations), bool) if test.annotations.is_crowd is None else ~test.annotations.is_crowd.astype(bool)
    draws = draw_resamples(test.image_count, np.random.default_rng(seed), resamples).T.copy()
    own = _Test(test.annotations.image_index[counted], test.annotations.category[counted], len(test.categories), draws)
    thresholds = [_choose_threshold(match_detections(test, boxes), len(own.image)) for boxes in versions[0].detections]
    measured = {
        version.name: [_measure(own, match_detections(test, boxes), t) for boxes, t in zip(version.detections, thresholds, strict=True)]
        for version in versions
    }
    controls = {strategy: version.name for version in versions for strategy in version.control_of}
    given = measured[versions[0].name]
    rows = {}
    for version in versions:
        mine, control = measured[version.name], controls.get(version.name)
        rows[version.name] = {
            "images": version.images,
            "annotations": version.annotations,
            "control_of": list(version.control_of),
            "figures": {name: _summarise([seed[name] for seed in mine]) for name in FIGURES},
            "per_category": {name: _summarise([seed["per_category"][:, k] for seed in mine]) for k, name in enumerate(test.categories)},
            "confusion": sum(
                (_count_confusions(test, boxes, t) for boxes, t in zip(version.detections, thresholds, strict=True)),
                np.zeros((len(test.categories) + 1,) * 2, np.int64),
            ).tolist(),
            "over_given": None if version is versions[0] else _differ(mine, given),
            "over_control": None if control is None else _differ(mine, measured[control]),
        }
    return {
        "images": test.image_count,
        "annotations": len(own.image),
        "categories": list(test.categories),
        "seeds": len(thresholds),
        "resamples": resamples,
        "reference": versions[0].name,
        "thresholds": thresholds,
        "versions": rows,
    }


def _require_comparable(image_count: int, versions: Sequence[Version]) -> None:
    names = [version.name for version in versions]
    controls = [strategy for version in versions for strategy in version.control_of]
    if not versions or not versions[0].detections:
        raise ValueError("nothing to compare: the first version is the labels as given, with the detections of at least one seed")
    if len({len(version.detections) for version in versions}) > 1:
        raise ValueError(f"every version needs as many seeds: { ({v.name: len(v.detections) for v in versions}) }")
    if any(boxes.score is None for version in versions for boxes in version.detections if len(boxes)):
        raise ValueError("detections without score cannot be compared")
    last = max((int(boxes.image_index[-1]) for version in versions for boxes in version.detections if len(boxes)), default=-1)
    if last >= image_count:
        raise ValueError(f"detections on image {last} of {image_count} test images: they are not those of this data set")
    if len(set(names)) < len(names) or len(set(controls)) < len(controls) or not set(controls) <= set(names[1:]):
        raise ValueError(f"every version needs a name of its own, and a strategy one control: {names}, controls of {controls}")


def _choose_threshold(matched: Matched, annotations: int) -> float:
    """The confidence from which on detections have the best F1 at an IoU of 0.5, the highest of equals."""
    kept = ~matched.ignored[:, 0]
    hit, score = matched.hit[kept, 0], matched.score[kept]
    if not hit.any():
        return THRESHOLD
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    f1 = 2 * np.cumsum(hit)[ends] / (ends + 1 + annotations)
    return float(score[ends[np.argmax(f1)]])


def _measure(test: _Test, matched: Matched, threshold: float) -> Measured:
    """All figures of one model for every draw."""
    precision = weighted_precision(matched, test.image, test.category, test.category_count, test.draws)  # (10, K, B)
    kept = (matched.score >= threshold) & ~matched.ignored[:, 0]
    images = len(test.draws)
    found, right = (np.bincount(matched.image[rows], minlength=images) @ test.draws for rows in (kept, kept & matched.hit[:, 0]))
    annotated = np.bincount(test.image, minlength=images) @ test.draws
    return {
        "map50": _mean_of_known(precision[:1]),
        "map": _mean_of_known(precision),
        "precision": _share(right, found),
        "recall": _share(right, annotated),
        "f1": _share(2 * right, found + annotated),
        "per_category": precision[0].T,
    }


def weighted_precision(matched: Matched, image: Ints, category: Ints, category_count: int, draws: Floats) -> Floats:
    """COCO's average precision where images count several times: (10 IoU levels, K, B), NaN for categories without annotations.

    image, category: (n,) of the annotations that count; draws: (N, B), how often each image counts. An image that counts twice is two
    images with the same boxes: with nothing but ones it is the average precision of `measure_quality`.
    """
    precision = np.full((len(IOU_LEVELS), category_count, draws.shape[1]), np.nan)
    for k in np.unique(category):
        given = np.bincount(image[category == k], minlength=len(draws)) @ draws
        rows = np.flatnonzero(matched.category == k)
        hit, ignored = matched.hit[rows] & ~matched.ignored[rows], matched.ignored[rows]
        stops = np.flatnonzero(hit.any(axis=1))  # precision is read at hits only
        step = max(1, CELLS_AT_ONCE // max(len(stops), 1))
        for low in range(0, draws.shape[1], step):
            part = slice(low, low + step)
            precision[:, k, part] = _average(matched.image[rows], hit, ignored, stops, draws[:, part], given[part])
    return precision


def _average(image: Ints, hit: Mask, ignored: Mask, stops: Ints, draws: Floats, given: Floats) -> Floats:
    """One category's average precision at each IoU level: image (d,), hit and ignored (d, 10), draws (N, B), given (B,) -> (10, B)."""
    precision = np.zeros((len(IOU_LEVELS), draws.shape[1]))
    weight = draws[image[stops]]
    passed: Floats = np.zeros((0, 0))
    of_level = -1
    for level in range(len(IOU_LEVELS)):
        if of_level < 0 or (ignored[:, level] != ignored[:, of_level]).any():
            passed, of_level = _sum_up_to(image, ~ignored[:, level], stops, draws), level
        mine = hit[stops, level]
        hits = np.cumsum(weight[mine], axis=0)
        best = np.maximum.accumulate((hits / (passed[mine] + np.spacing(1)))[::-1], axis=0)[::-1]
        recall = np.divide(hits, given, out=np.zeros_like(hits), where=given > 0)
        reached = (100 * recall + 1e-6).astype(np.int64)  # the last level so far, but for rounding; ten times as quick as a search
        reached += RECALL_LEVELS[reached] <= recall  # how many levels so far
        gained = np.diff(reached, axis=0, prepend=0)  # how many of the recall levels are first reached here
        precision[level] = (best * gained).sum(axis=0) / len(RECALL_LEVELS)
    return np.where(given > 0, precision, np.nan)


def _sum_up_to(image: Ints, counted: Mask, stops: Ints, draws: Floats) -> Floats:
    """The weight of the counted detections from the first up to each stop: image and counted (d,), stops (s,), draws (N, B) -> (s, B)."""
    from scipy.sparse import coo_array

    rows = np.flatnonzero(counted)
    piece = np.searchsorted(stops, rows, side="left")
    rows, piece = rows[piece < len(stops)], piece[piece < len(stops)]
    often = coo_array((np.ones(len(rows)), (piece, image[rows])), shape=(len(stops), len(draws))).tocsr()
    summed: Floats = np.cumsum(often @ draws, axis=0)
    return summed


def _mean_of_known(precision: Floats) -> Floats:
    """Over levels and the categories that a draw has: (levels, K, B) -> (B,), NaN where it has none."""
    known = ~np.isnan(precision)
    return _share(np.where(known, precision, 0).sum(axis=(0, 1)), known.sum(axis=(0, 1)))


def _share(part: Floats, whole: Floats | Ints) -> Floats:
    share: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return share


def _differ(mine: Sequence[Measured], theirs: Sequence[Measured]) -> dict[str, Any]:
    """The difference of every figure in points, seed by seed and draw by draw."""
    pairs = list(zip(mine, theirs, strict=True))
    return {name: _summarise([100 * (a[name] - b[name]) for a, b in pairs]) for name in FIGURES}


def _summarise(by_seed: Sequence[Floats]) -> dict[str, Any]:
    """A figure of every seed, (B,) each with the data as they are first -> mean, sd over seeds, the mean's interval, and each seed's."""
    whole = [None if np.isnan(values[0]) else float(values[0]) for values in by_seed]
    known = [values for values in by_seed if not np.isnan(values[0])]
    if not known:
        return {"mean": None, "sd": None, "low": None, "high": None, "by_seed": whole}
    own = np.array([values[0] for values in known])
    drawn = np.mean(known, axis=0)[1:]
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, INTERVAL).tolist() if len(drawn) else (None, None)
    sd = float(own.std(ddof=1)) if len(own) > 1 else None
    return {"mean": float(own.mean()), "sd": sd, "low": low, "high": high, "by_seed": whole}


def _count_confusions(test: Dataset, boxes: Boxes, threshold: float) -> Ints:
    """(K+1, K+1): rows annotated, columns found, last is background; the most confident takes the best free annotation of any category."""
    size = len(test.categories) + 1
    annotations = test.annotations
    crowd = np.zeros(len(annotations), bool) if annotations.is_crowd is None else annotations.is_crowd.astype(bool)
    found = boxes[np.asarray(boxes.score) >= threshold] if len(boxes) else boxes
    partner = find_partners(test, found) if len(found) else np.zeros(0, np.int64)
    matched = partner >= 0
    kept = ~matched | ~crowd[partner] if len(crowd) else np.ones(len(partner), bool)  # what took a crowd is neither right nor wrong
    annotated = np.full(len(found), size - 1)
    annotated[matched] = annotations.category[partner[matched]]
    missed = ~crowd
    missed[partner[matched]] = False
    cells = np.concatenate([annotated[kept] * size + found.category[kept], annotations.category[missed] * size + size - 1])
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def rank_strategies(document: Mapping[str, Any]) -> list[str]:
    """The names of the strategies, neither the labels as given nor controls, the best mAP50 first; unknown ones last."""
    versions = document["versions"]
    names = [name for name, row in versions.items() if name != document["reference"] and not row["control_of"]]

    def worth(name: str) -> float:
        mean = versions[name]["figures"]["map50"]["mean"]
        return -np.inf if mean is None else float(mean)

    return sorted(names, key=worth, reverse=True)


def say_verdict(document: Mapping[str, Any]) -> str:
    """One sentence a strategy, the best first, each on a line of its own; one about the test's labels; one where there is a single seed."""
    lines = []
    for name in rank_strategies(document):
        row = document["versions"][name]
        gap, control = row["over_given"]["map50"], row["over_control"] and row["over_control"]["map50"]
        if gap["mean"] is None:
            lines.append(f"{name}: no mAP50, the test images have no annotations.")
            continue
        parts = [f"mAP50 {_say_points(gap, ' points')} over the labels as given{_judge(gap)}"]
        if control and control["mean"] is not None:
            parts.append(f"{_say_points(control)} over as much at random{_judge(control)}")
        lines.append(f"{name}: {', '.join(parts)}{_say_seeds(gap)}.")
    if lines and document.get("test_labels"):
        lines.append(say_test_labels(document))
    if lines and document["seeds"] == 1:
        lines.append("One seed only: how far another training would move these figures is not known.")
    return "\n".join(lines) or "No strategy was compared with the labels as given."


def say_test_labels(document: Mapping[str, Any]) -> str:
    """How many of the test's labels look wrong, how far to believe it, and what the strategies are worth on the images without them."""
    doubts, trusted = document["test_labels"], document["trusted"]
    told = _say_expected(doubts) if doubts["calibrated"] else "by simple rules: too few to learn from"
    if not doubts["noisy"]:
        return f"None of the {document['annotations']} test labels looks more wrong than right ({told})."
    one = doubts["noisy"] == 1
    sentence = f"{doubts['noisy']} {'error is' if one else 'errors are'} suspected in the {document['annotations']} test labels ({told})"
    sentence += _say_belief(document)
    if trusted is None:
        return f"{sentence}, in every test image: look at test_issues.csv before you believe these figures."
    gaps = {name: trusted["versions"][name]["over_given"]["map50"] for name in rank_strategies(trusted)}
    said = ", ".join(f"{name} {_say_points(gap)}" for name, gap in gaps.items() if gap["mean"] is not None)
    return f"{sentence}; on the {trusted['images']} images without {'it' if one else 'them'}: {said or 'no annotation is left'}."


def _say_expected(doubts: Mapping[str, Any]) -> str:
    """`12 expected, 95 %: 4 to 24`; comparisons of older versions have no interval."""
    interval = f", 95 %: {doubts['expected_low']:.0f} to {doubts['expected_high']:.0f}" if "expected_low" in doubts else ""
    return f"{doubts['expected_errors']:.0f} expected{interval}"


def _say_belief(document: Mapping[str, Any]) -> str:
    """What the models themselves may be wrong about: they suspect some labels of a test that is right in everything."""
    if document["test_labels"]["noisy"] <= DOUBTED_ANYWAY * document["annotations"]:
        return ", no more than where all labels are right"
    quality = document["versions"][document["reference"]]["figures"]["map50"]["mean"]
    weak = quality is not None and quality < WEAK_MODELS
    return f" by weak models (mAP50 {quality:.2f}), which err themselves" if weak else ", checked by nobody"


def _say_points(gap: Mapping[str, Any], unit: str = "") -> str:
    """`+4.1 points [2.9, 5.2]`"""
    return f"{gap['mean']:+.1f}{unit}" + ("" if gap["low"] is None else f" [{gap['low']:.1f}, {gap['high']:.1f}]")


def _judge(gap: Mapping[str, Any]) -> str:
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return f" ({NO_DIFFERENCE})"
    return "" if gap["low"] > 0 else " (worse)"


def _say_seeds(gap: Mapping[str, Any]) -> str:
    """Where the seeds do not even agree in the sign, what they say."""
    known = [value for value in gap["by_seed"] if value is not None]
    return f"; single seeds say {min(known):+.1f} to {max(known):+.1f}" if min(known) < 0 < max(known) else ""
