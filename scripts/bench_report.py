"""How long report.html takes and how large it is, with thousands of issues as pictures.

    python scripts/bench_report.py                      2,000 issues, each in a made-up photograph of its own of 640 x 480
    python scripts/bench_report.py --run runs/NAME      2,000 boxes of a finished run's data set, called issues; the run is only read
    python scripts/bench_report.py --issues 500 --keep report.html

Times are by the clock and of the processor, on as many cores as there are.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from bench_images import HEIGHT, WIDTH, write_photos

from detclean.boxes import Boxes
from detclean.dataset import ISSUE_TYPES, Dataset
from detclean.machine import count_cores
from detclean.report import write_report
from detclean.runfolder import Run, identify_issues, open_run
from detclean.score.calibration import ANNOTATION_TYPES

ISSUES = 2000
PHOTOS = 250  # different ones; each stands for several images, which are all read
BOXES, CATEGORIES = 7, 12
SIDES = ("x1", "y1", "x2", "y2")


def make_dataset(folder: Path, paths: list[str | None], categories: int = CATEGORIES) -> Dataset:
    """A data set with BOXES random boxes in each picture. paths: of the pictures, None where there is none."""
    rng = np.random.default_rng(0)
    n = len(paths)
    side = np.exp(rng.uniform(np.log(20), np.log(HEIGHT / 2), (n * BOXES, 2)))
    corner = rng.random((n * BOXES, 2)) * ([WIDTH, HEIGHT] - side)
    ids = np.arange(n * BOXES)
    boxes = Boxes(ids // BOXES, rng.integers(categories, size=len(ids)), np.hstack([corner, corner + side]), annotation_id=ids)
    images = pl.DataFrame(
        {
            "image_id": np.arange(n),
            "file_name": [f"camera {i % 3}/{i:06d}.jpg" for i in range(n)],
            "path": pl.Series(paths, dtype=pl.String),
            "label_path": pl.Series([None] * n, dtype=pl.String),
            "width": np.full(n, WIDTH),
            "height": np.full(n, HEIGHT),
            "split": pl.Series([None] * n, dtype=pl.String),
        }
    )
    names = tuple(f"kind {i}" for i in range(categories))
    return Dataset(images, names, boxes, ids, "memory", folder / "annotations.json")


def draw_issues(dataset: Dataset, count: int, seed: int = 0) -> pl.DataFrame:
    """`count` annotations, in as many images as there are, as issues of every type with a proposed box beside the given one."""
    rng = np.random.default_rng(seed)
    boxes = dataset.annotations
    order = np.argsort(rng.random(len(boxes)), kind="stable")
    first = np.sort(np.unique(boxes.image_index[order], return_index=True)[1])  # one of each image, then the others
    chosen = np.resize(np.concatenate([order[first], np.delete(order, first)]), count)
    names = np.array(dataset.categories, dtype=object)
    kinds = np.resize(np.array(ISSUE_TYPES, dtype=object), count)
    given = boxes.xyxy[chosen]
    moved = given + rng.normal(0, 0.05, given.shape) * (given[:, [2, 3, 2, 3]] - given[:, [0, 1, 0, 1]])
    moved = np.hstack([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])])
    other = names[(boxes.category[chosen] + 1) % len(names)]
    columns = {
        "rank": np.arange(1, count + 1),
        "issue_type": kinds.tolist(),
        "probability": np.sort(rng.uniform(0.2, 1, count))[::-1],
        "action": [{"overlooked": "add", "badloc": "move", "swap": "relabel"}.get(kind, "delete") for kind in kinds],
        "image_index": boxes.image_index[chosen],
        "annotation": chosen,
        "annotation_id": (chosen if boxes.annotation_id is None else boxes.annotation_id[chosen]).tolist(),
        "category": names[boxes.category[chosen]].tolist(),
        **{side: given[:, i] for i, side in enumerate(SIDES)},
        "suggested_category": other.tolist(),
        **{f"suggested_{side}": moved[:, i] for i, side in enumerate(SIDES)},
        "source": [dataset.describe_source(i) for i in chosen.tolist()],
        "reason": ["The detector sees something else here (confidence 0.5)."] * count,
    }
    table = pl.DataFrame(columns)
    lost = ("category", "annotation", "annotation_id", "source", *SIDES)
    missing = {name: pl.when(pl.col("issue_type") != "overlooked").then(pl.col(name)) for name in lost}
    proposes = pl.col("issue_type").is_in(["overlooked", "badloc", "swap"])
    absent = {name: pl.when(proposes).then(pl.col(name)) for name in ("suggested_category", *(f"suggested_{side}" for side in SIDES))}
    verdict = pl.when(pl.col("probability") >= 0.5).then(pl.lit("noisy")).otherwise(pl.lit("hard"))
    identity = {name: dataset.images[name].gather(boxes.image_index[chosen]) for name in ("image_id", "file_name")}
    table = table.with_columns(**missing, **absent, verdict=verdict, **identity)
    return table.with_columns(issue_id=identify_issues(table))


def make_run(folder: Path, dataset: Dataset, issues: pl.DataFrame) -> Run:
    """A run folder with what a report needs, and nothing behind it."""
    rng = np.random.default_rng(1)
    boxes, names = dataset.annotations, pl.Series(dataset.categories, dtype=pl.String)
    n = len(boxes)
    parts = rng.beta(0.05, 4, (n, len(ANNOTATION_TYPES)))
    others = np.roll(np.arange(len(names)), -1)[boxes.category] if len(names) > 1 else np.zeros(0, int)
    annotations = pl.DataFrame(
        {
            "image_id": dataset.images["image_id"].gather(boxes.image_index),
            "category": names.gather(boxes.category),
            **{f"p_{kind}": parts[:, i] for i, kind in enumerate(ANNOTATION_TYPES)},
            "p_any": np.minimum(parts.sum(axis=1), 1),
            "hardness": rng.beta(2, 4, n),
            "other_category": names.gather(others) if len(others) else pl.Series([None] * n, dtype=pl.String),
        }
    )
    some = rng.integers(max(n, 1), size=n // 2)
    candidates = annotations[some].select("image_id", "category", probability=pl.Series(rng.beta(0.1, 4, len(some))))
    images = dataset.images.select("image_id", "file_name").with_columns(
        label_quality_score=pl.Series(rng.random(dataset.image_count)), expected_errors=pl.Series(rng.exponential(0.5, dataset.image_count))
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("annotations", annotations), ("candidates", candidates), ("images", images)):
        table.write_parquet(folder / f"{name}.parquet")
    counts = {"images": dataset.image_count, "annotations": n, "categories": list(dataset.categories)}
    return Run(folder, {"detclean": "0", "name": "made up", "data": str(dataset.source), **counts}, dataset, issues)


def measure(run: Run, path: Path) -> str:
    """Writes the report and says what it took."""
    wall, processor = time.perf_counter(), time.process_time()
    write_report(run, path, pictures=run.issues.height)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    images = run.issues["image_index"].n_unique()
    size = path.stat().st_size / 1e6
    return (
        f"{run.issues.height} issues in {images} pictures: {wall:.1f} s by the clock, {processor:.1f} s of the processor "
        f"({count_cores()} cores), {size:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--issues", type=int, default=ISSUES)
    parser.add_argument("--run", type=Path, help="a finished run whose data set is used")
    parser.add_argument("--keep", type=Path, help="where to keep the report")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.run is None:
            photos = write_photos(folder, min(PHOTOS, arguments.issues))
            dataset = make_dataset(folder, [photos[i % len(photos)] for i in range(arguments.issues)])
            run = make_run(folder / "run", dataset, draw_issues(dataset, arguments.issues))
        else:
            run = open_run(arguments.run)
            run = replace(run, issues=draw_issues(run.dataset, arguments.issues))
        print(measure(run, folder / "report.html"))
        if arguments.keep is not None:
            shutil.copyfile(folder / "report.html", arguments.keep)


if __name__ == "__main__":
    main()
