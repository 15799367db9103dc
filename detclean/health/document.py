"""The health of a data set as one document, health.json: how good its labels are, what is wrong beside them, and what to do first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Ints
from detclean.dataset import ISSUE_TYPES
from detclean.edit.decisions import read_decisions
from detclean.errors import StageError
from detclean.files import write_whole
from detclean.formats.plainfile import read_plain
from detclean.health import counts
from detclean.health.balance import count_categories, find_leaks
from detclean.health.categories import describe_overlap, list_confusions, rank_categories
from detclean.health.gathering import find_gatherings
from detclean.health.groups import Group, Grouping
from detclean.health.pictures import find_picture_issues, measure_pictures, open_cache
from detclean.health.remedies import list_problems
from detclean.runfolder import Run, read_part, read_table

FILE_NAME = "health.json"
PICTURES_NAMED = 20  # of each kind of picture issue; health.json counts the rest


def measure_health(
    run: Run,
    *,
    pictures: bool = True,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All that health.json holds. pictures: whether they are looked at, too; what an earlier look saw is remembered in the run folder.

    workers: processes that look. Raises StageError where a table of the run folder is gone, DatasetError where decisions.jsonl is damaged.
    """
    annotations, candidates, images = (run.table(name) for name in ("annotations", "candidates", "images"))
    heard = counts.hear_people(annotations, candidates, run.issues, read_decisions(run.folder))
    annotations, candidates, decided = heard
    whole = read_part(run.stage("load") / "all")
    duplicates = _read_duplicates(run)
    quality, taken = None, None
    if pictures and whole.images["path"].null_count() < whole.image_count:
        measured = measure_pictures(whole.images, workers=workers, progress=progress, cache=open_cache(run.folder, log))
        quality = _describe_pictures(whole.images, measured)
        taken = _of_part(measured, whole.images, run.dataset.images)
    document: dict[str, Any] = {
        "detclean": run.summary.get("detclean"),
        "name": run.summary.get("name"),
        "data": run.summary.get("data"),
        "split": run.summary.get("split"),
        "images": run.dataset.image_count,
        "annotations": annotations.height,
        "calibrated": run.summary.get("calibrated", True),
        "decided": decided,
        **_describe_labels(run, annotations, candidates, images),
        "confusions": [asdict(pair) for pair in list_confusions(annotations)],
        "overlap": describe_overlap(run.summary.get("crops"), run.dataset.categories),
        "pictures": quality,
        "pictures_compared": duplicates is not None and whole.images["path"].null_count() < whole.image_count,
        "leaks": [] if duplicates is None else find_leaks(whole, duplicates),
        "balance": count_categories(whole),
        "gatherings": [asdict(grouping) for grouping in find_gatherings(run.dataset, images, annotations, candidates, taken)],
    }
    return {"problems": list_problems(document), **document}


def write_health(run: Run, document: Mapping[str, Any]) -> None:
    """health.json in the run folder; the same document gives the same bytes."""
    write_whole(run.folder / FILE_NAME, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def read_health(folder: Path) -> dict[str, Any] | None:
    """What `write_health` wrote; None where there is nothing to read."""
    try:
        document = orjson.loads(read_plain(folder / FILE_NAME))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "problems" in document else None


def open_groupings(document: Mapping[str, Any]) -> list[Grouping]:
    """The groupings of a document, as `find_gatherings` gave them."""
    return [Grouping(**{**row, "groups": tuple(Group(**group) for group in row["groups"])}) for row in document["gatherings"]]


def _describe_labels(run: Run, annotations: pl.DataFrame, candidates: pl.DataFrame, images: pl.DataFrame) -> dict[str, Any]:
    """The number of errors and the quality of the labels, with intervals: in all, by type, by category."""
    names = run.dataset.categories
    suspects = counts.list_suspects(images, names, annotations, candidates)
    drawn = counts.draw_counts(suspects, len(names))
    expected = np.bincount(suspects.kind * len(names) + suspects.category, suspects.probability, len(ISSUE_TYPES) * len(names))
    expected = expected.reshape(len(ISSUE_TYPES), len(names))
    given = dict(annotations["category"].value_counts().iter_rows())
    at = [given.get(name, 0) for name in names]
    scores = dict(
        annotations.select("image_id", "category")
        .unique()
        .join(images.select("image_id", "label_quality_score"), on="image_id")
        .group_by("category")
        .agg(pl.col("label_quality_score").mean())
        .iter_rows()
    )
    with_any = dict(annotations.group_by("category").agg(pl.col("image_id").n_unique()).iter_rows())
    rows = []
    for row in rank_categories(run, annotations, candidates):
        k = names.index(row.name)
        rows.append(
            {
                "name": row.name,
                "annotations": row.annotations,
                "images": with_any.get(row.name, 0),
                "ap": row.ap,
                "hardness": row.hardness,
                "errors": asdict(counts.make_count(float(expected[:, k].sum()), drawn[:, :, k].sum(axis=1))),
                "quality": _describe_quality(expected[:, k], drawn[:, :, k], at[k]),
                "label_quality_score": scores.get(row.name),
                "by_type": {kind: float(expected[i, k]) for i, kind in enumerate(ISSUE_TYPES)},
            }
        )
    return {
        "errors": asdict(counts.make_count(float(expected.sum()), drawn.sum(axis=(1, 2)))),
        "errors_by_type": {
            kind: asdict(counts.make_count(float(expected[i].sum()), drawn[:, i].sum(axis=1))) for i, kind in enumerate(ISSUE_TYPES)
        },
        "quality": _describe_quality(expected.sum(axis=1), drawn.sum(axis=2), annotations.height),
        "label_quality_score": images["label_quality_score"].drop_nulls().drop_nans().mean(),
        "categories": rows,
    }


def _describe_quality(expected: Any, drawn: Ints, annotations: int) -> dict[str, float] | None:
    """The share of right labels among all that are there or should be: expected (5,), drawn (draws, 5). None where there is none."""
    if not annotations:
        return None
    overlooked = ISSUE_TYPES.index("overlooked")

    def share(numbers: Any) -> Any:
        missed, wrong = numbers[..., overlooked], numbers.sum(axis=-1) - numbers[..., overlooked]
        return np.maximum(annotations - wrong, 0) / (annotations + missed)

    return asdict(counts.make_count(float(share(np.asarray(expected))), share(drawn)))


def _describe_pictures(images: pl.DataFrame, measured: pl.DataFrame) -> dict[str, Any]:
    """Counts of each kind of issue, and the worst pictures with their path and split."""
    names, paths, splits = (images[column].to_list() for column in ("file_name", "path", "split"))
    unreadable = measured.filter(pl.col("problem").is_not_null())

    def name(index: int) -> dict[str, Any]:
        return {"file_name": names[index], "path": paths[index], "split": splits[index]}

    kinds = {
        kind: {
            "count": rows.height,
            "worst": [name(i) | {"score": round(score, 4)} for i, score in rows.head(PICTURES_NAMED).iter_rows()],
        }
        for kind, rows in find_picture_issues(measured).items()
    }
    first = unreadable.head(PICTURES_NAMED).select("image_index", "problem").iter_rows()
    return {
        "looked_at": measured.height,
        "unreadable": {"count": unreadable.height, "worst": [name(i) | {"problem": problem} for i, problem in first]},
        "kinds": kinds,
    }


def _of_part(measured: pl.DataFrame, whole: pl.DataFrame, part: pl.DataFrame) -> pl.Series:
    """When each picture of the part was taken (N,)."""
    taken = measured.select("taken", path=whole["path"].gather(measured["image_index"])).unique("path", keep="first")
    return part.select("path").join(taken, on="path", how="left", maintain_order="left")["taken"]


def _read_duplicates(run: Run) -> pl.DataFrame | None:
    """The pairs of pictures that the audit found; None where its folder is gone."""
    try:
        return read_table(run.stage("audit") / "duplicates.parquet")
    except StageError:
        return None
