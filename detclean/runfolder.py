"""A finished run as its folder holds it: what the report, the review, edits and other tools begin from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.dataset import Dataset, open_dataset
from detclean.errors import StageError
from detclean.files import find_damage
from detclean.formats.plainfile import read_plain, require_plain

SECONDS = "seconds.json"  # in a complete stage: what it took, and how long its files are; the one file that no fingerprint covers
WRITTEN_INTO = ("cache", "compare", "handover", "hard", "patches")  # no links; stages/ may be one, to a larger disk
FORMAT = 2  # of run folders; 1, which had no number, is of versions up to 0.4 and is read: it is only its weights that are not opened
DIGITS = 12  # of an issue's id: enough that a million issues hardly share one
# what reading tables raises that are damaged, or not what was written
UNUSABLE = (OSError, ValueError, TypeError, KeyError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
SIDES = ("x1", "y1", "x2", "y2")
GIVEN = ("image_id", "issue_type", "category", *SIDES)  # what an issue is about, whatever its rank
ADDED = ("suggested_category", *(f"suggested_{side}" for side in SIDES))  # and where nothing was annotated


@dataclass(frozen=True)
class Run:
    """folder: RUNS/NAME. summary: what summary.json says. dataset: the part of the data set that was looked at.

    issues: the rows of issues.csv with the positions image_index and annotation (in `dataset`), and issue_id, which stays with an issue
    when its rank changes; through another run, too, where the label is the same, and for an overlooked object the detection.
    """

    folder: Path
    summary: dict[str, Any]
    dataset: Dataset
    issues: pl.DataFrame

    def stage(self, name: str) -> Path:
        """The folder of a stage. Raises StageError where the run had none or it is gone."""
        return find_stage(self.folder, self.summary, name)

    def table(self, name: str) -> pl.DataFrame:
        """A table of the run folder: annotations, candidates, images, detections. Raises StageError where it is gone."""
        return read_table(self.folder / f"{name}.parquet")


def open_run(folder: str | Path) -> Run:
    """The run in a folder. Raises StageError where there is none, it did not finish, or an older version made it."""
    folder = Path(folder)
    try:
        summary = orjson.loads(read_plain(folder / "summary.json"))
    except OSError:
        what = "has no summary.json, so no run ended here" if folder.is_dir() else "is no folder"
        raise StageError(f"{folder}: {what}; name the folder of a finished run, such as runs/NAME") from None
    except ValueError as error:
        raise StageError(f"{folder / 'summary.json'}: is damaged ({error}); repeat the run, complete stages are not repeated") from None
    check_format(folder, summary)
    refuse_links(folder)
    place = find_stage(folder, summary, "load") / "part"
    dataset = read_part(place)
    place = find_stage(folder, summary, "issues") / "issues.parquet"
    issues = read_table(place)
    try:
        _require_positions(issues, dataset)
        return Run(folder, summary, dataset, issues.with_columns(issue_id=identify_issues(issues)))
    except UNUSABLE as error:
        raise StageError(f"{place}: is damaged ({_one_line(error)}); remove the folder {place.parent} and repeat the run") from None


def read_part(place: Path) -> Dataset:
    """The data set in a folder of the stage `load`. Raises StageError where it is damaged."""
    try:
        for name in ("dataset.json", "images.parquet", "annotations.parquet", "source_rows.parquet"):
            require_plain(place / name)
        dataset = open_dataset(place)
        _require_whole(dataset)
    except UNUSABLE as error:
        raise StageError(f"{place}: is damaged ({_one_line(error)}); remove the folder {place.parent} and repeat the run") from None
    return dataset


def _require_whole(dataset: Dataset) -> None:
    """Raises ValueError where the files of a data set do not belong together."""
    boxes, images = dataset.annotations, dataset.images
    wanted = {"image_id", "file_name", "path", "label_path", "width", "height", "split"}
    if missing := wanted - set(images.columns):
        raise ValueError(f"images.parquet lacks {', '.join(sorted(missing))}")
    index, category = np.asarray(boxes.image_index, dtype=np.int64), np.asarray(boxes.category, dtype=np.int64)
    lengths = {len(column) for column in (*boxes.columns().values(), dataset.source_rows)}
    if len(lengths) > 1 or not dataset.image_count or not np.isfinite(boxes.xyxy).all() or not (dataset.sizes > 0).all():
        raise ValueError("its tables do not belong together")
    if len(index) and (index.min() < 0 or index.max() >= dataset.image_count or (np.diff(index) < 0).any()):
        raise ValueError("annotations.parquet names images that images.parquet does not have, or not in order")
    if len(category) and (category.min() < 0 or category.max() >= len(dataset.categories)):
        raise ValueError("annotations.parquet names categories that dataset.json does not have")
    if not all(isinstance(name, str) for name in dataset.categories):
        raise ValueError("dataset.json holds a category that is no text")


def _require_positions(issues: pl.DataFrame, dataset: Dataset) -> None:
    """Raises ValueError where issues are about images or annotations that the data set does not have."""
    for name, count in (("image_index", dataset.image_count), ("annotation", len(dataset.annotations))):
        column = issues[name].cast(pl.Int64).drop_nulls()
        if len(column) and (column.min() < 0 or column.max() >= count):  # type: ignore[operator]
            raise ValueError(f"{name} is not of this data set")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def refuse_links(folder: Path) -> None:
    """Raises StageError where a folder that is written into leads elsewhere: the run may be somebody else's."""
    for name in WRITTEN_INTO:
        if (folder / name).is_symlink():
            raise StageError(f"{folder / name}: is a link, through which nothing is written; put a folder there, or remove it")


def check_format(folder: Path, summary: Any) -> None:
    """Raises StageError for a summary.json of a newer version, whose run folder may mean other things, and for one that is none at all."""
    made = summary.get("format", 1) if isinstance(summary, dict) else None
    if type(made) is not int or made < 1:
        raise StageError(f"{folder / 'summary.json'}: is damaged; repeat the run, complete stages are not repeated")
    if made > FORMAT:
        version = f"detclean {summary.get('detclean', '')}".strip()
        raise StageError(f"{folder}: was made by {version}, which is newer than this one; update detclean, or use another name=...")


def refuse_newer(folder: Path) -> None:
    """Raises StageError where a newer version has made a run in this folder; whatever else is there is no matter here."""
    try:
        summary = orjson.loads(read_plain(folder / "summary.json"))
    except (OSError, ValueError):
        return
    if isinstance(summary, dict) and type(summary.get("format")) is int:
        check_format(folder, summary)


def find_stage(folder: Path, summary: dict[str, Any], name: str) -> Path:
    """The folder of a stage of a run. Raises StageError."""
    if not isinstance(summary.get("stages"), dict):
        made = summary.get("detclean", "an older version")
        raise StageError(f"{folder}: was made by detclean {made}; repeat the run with this version, which keeps what it can")
    called = str(summary["stages"].get(name, name))
    if called in (".", "..") or Path(called).name != called or "\0" in called:
        raise StageError(f"{folder / 'summary.json'}: names no stage {name}; repeat the run, complete stages are not repeated")
    place = folder / "stages" / called
    if not os.path.isdir(place):
        raise StageError(f"{place}: is gone; repeat the run, complete stages are not repeated")
    if (place / SECONDS).exists():
        read_completion(place)
    return place


def read_completion(place: Path) -> float:
    """The seconds that a complete stage took, if its files are still as long as they were then.

    Raises StageError, which names the file and what to do, where one is cut, empty or gone. Stages of older versions did not note lengths.
    """
    try:
        noted = orjson.loads(read_plain(place / SECONDS))
        seconds, sizes, resumable = float(noted["seconds"]), noted.get("files", {}), noted.get("resumable", False)
        damage = find_damage(place, sizes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        damage, resumable = f"{place / SECONDS}: cannot be read", False
    if damage is None:
        return seconds
    remedy = f"remove the folder {place} and repeat the run, which makes it anew"
    if resumable:
        remedy = f"remove that file if it is there, rename {place} to {place.name}.partial, and repeat the run, which makes what is missing"
    raise StageError(f"{damage}; {remedy}")


def read_table(path: Path) -> pl.DataFrame:
    """A Parquet file; brackets in its path are no pattern. Raises StageError where it is missing or damaged."""
    try:
        require_plain(path)
        return pl.read_parquet(path, glob=False)
    except UNUSABLE as error:
        raise StageError(f"{path}: cannot be read ({_one_line(error)}); repeat the run") from None


def identify_issues(issues: pl.DataFrame) -> pl.Series:
    """An id of each issue (n,), of what it is about alone: image, type, and the given box or the one that is missing."""
    numbers = [pl.col(name).cast(pl.Float64).round(2).cast(pl.String).fill_null("") for name in (*SIDES, *ADDED[1:])]
    given, added = numbers[:4], numbers[4:]
    texts = [pl.col(name).cast(pl.String).fill_null("") for name in GIVEN[:3]]
    about = pl.when(pl.col("issue_type") == "overlooked")
    missing = [about.then(part).otherwise(pl.lit("")) for part in (pl.col(ADDED[0]).fill_null(""), *added)]
    keys = issues.select(pl.concat_str([*texts, *given, *missing], separator="\x1f")).to_series().to_list()
    seen: Counter[str] = Counter()
    names = []
    for key in keys:
        seen[key] += 1
        again = f"\x1f{seen[key]}" if seen[key] > 1 else ""  # the very same row twice in a label file
        names.append(hashlib.blake2b((key + again).encode(), digest_size=DIGITS // 2).hexdigest())
    return pl.Series("issue_id", names, dtype=pl.String)
