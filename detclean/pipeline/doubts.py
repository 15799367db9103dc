"""Which of the test's labels look wrong to models that never saw them, and the comparison without the images they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes, Ints, Mask, read_boxes
from detclean.dataset import Dataset, open_dataset
from detclean.files import write_whole
from detclean.health.counts import draw_counts, list_suspects, make_count
from detclean.measure.comparison import Version, compare_versions
from detclean.runfolder import read_table
from detclean.score.issues import NOISY, select_issues
from detclean.score.scores import draw_dataset_looks, score_dataset
from detclean.score.sources import NOTHING_GATHERED, Gathered, spread_over_looks
from detclean.show.issue_lists import write_issues
from detclean.stages import StageContext


def find_doubts(context: StageContext, seen_in: Sequence[tuple[str, str]]) -> None:
    """Which of the test's labels look wrong to the models of all versions together, which never saw them: issues.csv, facts.json.

    seen_in: of each version the stages of its labels and of its detections; the first seed of each is heard, as a repeat. Were the models
    of one version asked alone, the images on which they err would be left out, and that version be judged too well on the rest.
    """
    settings = context.settings
    test = open_test(settings)
    counts = [open_dataset(context.inputs[labels]).image_count - test.image_count for labels, _ in seen_in]
    folders = [context.inputs[detected] for _, detected in seen_in]
    seen = [read_boxes(folder / "detections.parquet") for folder in folders]
    first = [np.ones(len(boxes), bool) if boxes.repeat is None else boxes.repeat == 0 for boxes in seen]
    detections, order = _join([shift_images(boxes[own], count) for boxes, own, count in zip(seen, first, counts, strict=True)])
    gathered = NOTHING_GATHERED
    if settings["dense"]:
        looks = pl.concat([read_table(folder / "looks.parquet").filter(pl.col("repeat") == 0) for folder in folders])
        tables = [read_table(folder / "at_detections.parquet").filter(pl.Series(own)) for folder, own in zip(folders, first, strict=True)]
        answers = spread_over_looks(looks, len(draw_dataset_looks(test, settings["seed"])), "raw_")
        gathered = Gathered((answers,), (pl.concat(tables)[order].drop("raw_other_category"),))
    scores = score_dataset(
        test,
        detections,
        gathered=gathered,
        planting_rounds=settings["planting_rounds"],
        seed=settings["seed"],
        engine=settings["engine"],
    )
    issues = select_issues(scores, test, target_precision=0.0, types=settings["types"]).filter(pl.col("probability") >= NOISY)
    write_issues(issues, test, context.out, ["csv"])
    drawn = draw_counts(list_suspects(test.images, test.categories, scores.annotations, scores.candidates), len(test.categories))
    count = make_count(float(scores.images["expected_errors"].sum()), drawn.sum(axis=(1, 2)))
    facts = {
        "noisy": issues.height,
        "expected_errors": round(count.expected, 2),
        "expected_low": round(count.low, 2),
        "expected_high": round(count.high, 2),
        "calibrated": scores.facts["calibrated"],
        "images": issues["image_index"].unique().sort().to_list(),
    }
    write_whole(context.out / "facts.json", orjson.dumps(facts))


def open_test(settings: Any) -> Dataset:
    """The images to judge on, of a stage with the settings load and split."""
    return open_dataset(Path(settings["load"]) / "all").select_split(settings["split"])


def _join(parts: Sequence[Boxes]) -> tuple[Boxes, Ints]:
    """What several models see, each as a repeat of its own, sorted by image; and which row of all parts each is: (n,)."""
    columns = [part.columns() | {"repeat": np.full(len(part), number)} for number, part in enumerate(parts)]
    joined = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
    order = np.argsort(joined["image_index"], kind="stable")
    return Boxes(**{name: column[order] for name, column in joined.items()}), order


def judge_trusted(test: Dataset, versions: Sequence[Version], doubts: Path) -> dict[str, Any]:
    """What of the test's labels looks wrong, and the whole comparison on the images in which nothing does; None where that is the same."""
    facts = orjson.loads((doubts / "facts.json").read_bytes())
    trusted = np.ones(test.image_count, bool)
    trusted[facts.pop("images")] = False
    few = [replace(version, detections=[_keep(boxes, trusted) for boxes in version.detections]) for version in versions]
    again = compare_versions(test.select_images(trusted), few) if trusted.any() and not trusted.all() else None
    return {"test_labels": facts | {"images_distrusted": int((~trusted).sum())}, "trusted": again}


def shift_images(boxes: Boxes, by: int) -> Boxes:
    """The boxes with the numbers of their images `by` lower."""
    return Boxes(**boxes.columns() | {"image_index": boxes.image_index - by})


def _keep(boxes: Boxes, kept: Mask) -> Boxes:
    """Those of the images that are kept (N,), numbered anew."""
    number = np.cumsum(kept) - 1
    own = boxes[kept[boxes.image_index]]
    return Boxes(**own.columns() | {"image_index": number[own.image_index]})
