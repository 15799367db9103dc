"""A finished run as its folder holds it: what the report, the review, edits and other tools begin from."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from detclean.dataset import Dataset, open_dataset
from detclean.errors import StageError

DIGITS = 12  # of an issue's id: enough that a million issues hardly share one
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
        summary = orjson.loads((folder / "summary.json").read_bytes())
    except OSError:
        what = "has no summary.json, so no run ended here" if folder.is_dir() else "is no folder"
        raise StageError(f"{folder}: {what}; name the folder of a finished run, such as runs/NAME") from None
    except ValueError as error:
        raise StageError(f"{folder / 'summary.json'}: is damaged ({error}); repeat the run, complete stages are not repeated") from None
    dataset = open_dataset(find_stage(folder, summary, "load") / "part")
    issues = read_table(find_stage(folder, summary, "issues") / "issues.parquet")
    return Run(folder, summary, dataset, issues.with_columns(issue_id=identify_issues(issues)))


def find_stage(folder: Path, summary: dict[str, Any], name: str) -> Path:
    """The folder of a stage of a run. Raises StageError."""
    if "stages" not in summary:
        made = summary.get("detclean", "an older version")
        raise StageError(f"{folder}: was made by detclean {made}; repeat the run with this version, nothing is trained again")
    place = folder / "stages" / str(summary["stages"].get(name, name))
    if not place.is_dir():
        raise StageError(f"{place}: is gone; repeat the run, complete stages are not repeated")
    return place


def read_table(path: Path) -> pl.DataFrame:
    """A Parquet file; brackets in its path are no pattern. Raises StageError where it is missing or damaged."""
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StageError(f"{path}: cannot be read ({str(error).splitlines()[0]}); repeat the run") from None


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
