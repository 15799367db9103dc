"""What detclean itself costs on a data set of COCO's shape, without any training: time, memory, and how both grow.

    python scripts/bench_scale.py                       a hundredth, a tenth and all of COCO: a table
    python scripts/bench_scale.py --sizes 0.01 --cleanlab 0.01
    python scripts/bench_scale.py --sizes 1 --skip engine read score --profile
    python scripts/bench_scale.py --sizes 0.1 --skip engine read run score --rows 5000 20000 40000 80000

The data set is made up: 118,000 images, 860,000 annotations with polygons, 3.5 million detections, 80 categories (and shares of that),
written as a COCO file and a results file. Each figure is taken in a process of its own. cleanlab is run in the same process as the fast
engine, at the sizes that --cleanlab names; at full size it would take most of a day.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import pstats
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes, clip_boxes, xyxy_to_xywh
from detclean.dataset import Dataset
from detclean.machine import peak_memory

IMAGES, ANNOTATIONS, DETECTIONS, CATEGORIES = 118_000, 860_000, 3_500_000, 80
FULL_SIZE_TARGETS = {"engine s": 15, "run s": 120, "run GiB": 6}
CLEANLAB_TARGET, READING_TARGET = 200, 3
PROFILED = 40  # functions that a profile shows


def make_boxes(share: float, rng: np.random.Generator) -> tuple[Boxes, Boxes, np.ndarray]:
    """Annotations, detections and sizes (N, 2): few images with many objects, many categories that are rare, mostly weak detections."""
    images, n, m = (max(1, round(share * count)) for count in (IMAGES, ANNOTATIONS, DETECTIONS))
    sizes = np.where(rng.random((images, 1)) < 0.7, [640, 480], [480, 640]).astype(float)
    crowdedness = rng.lognormal(0, 0.9, images)
    image = np.sort(rng.choice(images, n, p=crowdedness / crowdedness.sum()))
    popularity = 1 / np.arange(1, CATEGORIES + 1)
    category = rng.choice(CATEGORIES, n, p=popularity / popularity.sum())
    side = np.exp(rng.normal(4.0, 0.9, (n, 1))) * np.exp(rng.normal(0, 0.3, (n, 2)))
    side = np.clip(side, 4, sizes[image] - 1)
    corner = rng.random((n, 2)) * (sizes[image] - side)
    annotations = Boxes(image, category, np.hstack([corner, corner + side]))

    seen = np.flatnonzero(rng.random(n) < 0.85)
    again = rng.choice(n, m // 4)  # a second, weaker detection at an object
    stray = rng.choice(n, m - len(seen) - len(again))  # of an object's size, somewhere
    source = np.concatenate([seen, again, stray])
    jitter = np.repeat([0.05, 0.15, 0.0], [len(seen), len(again), len(stray)])[:, None]
    base, extent = annotations.xyxy[source], np.tile(side[source], 2)
    xyxy = base + rng.normal(0, 1, base.shape) * jitter * extent
    where = np.concatenate([image[seen], image[again], rng.choice(images, len(stray), p=crowdedness / crowdedness.sum())])
    moved = rng.random((len(stray), 2)) * np.maximum(sizes[where[-len(stray) :]] - side[stray], 0)
    xyxy[-len(stray) :] = np.hstack([moved, moved + side[stray]])
    xyxy = clip_boxes(xyxy, sizes[where])
    named = np.where(rng.random(m) < 0.9, category[source], rng.integers(0, CATEGORIES, m))
    score = np.concatenate([rng.beta(5, 3, len(seen)), rng.beta(1, 6, len(again)), rng.beta(0.5, 12, len(stray))])
    score = np.round(np.clip(score, 0.001, 0.99), 5)  # as results files have them
    return annotations, Boxes.sorted(image_index=where, category=named, xyxy=xyxy, score=score), sizes


def write_files(share: float, folder: Path) -> None:
    """annotations.json and results.json."""
    annotations, detections, sizes = make_boxes(share, np.random.default_rng(0))
    folder.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": 1000 + i, "file_name": f"{1000 + i:012d}.jpg", "width": w, "height": h}
        for i, (w, h) in enumerate(sizes.astype(int).tolist())
    ]
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2
    xywh = np.round(xyxy_to_xywh(annotations.xyxy), 2)
    records = []
    rows = zip(annotations.image_index.tolist(), annotations.category.tolist(), xywh.tolist(), strict=True)
    for i, (image, category, box) in enumerate(rows):
        outline = np.round(circle * box[2:] + box[:2] + np.array(box[2:]) / 2, 2).ravel().tolist()
        records.append(
            {"segmentation": [outline], "area": box[2] * box[3], "iscrowd": 0, "image_id": 1000 + image, "bbox": box}
            | {"category_id": category + 1, "id": 5000 + i}
        )
    categories = [{"id": i + 1, "name": f"category {i + 1}", "supercategory": "thing"} for i in range(CATEGORIES)]
    (folder / "annotations.json").write_bytes(orjson.dumps({"images": images, "annotations": records, "categories": categories}))
    found = zip(
        detections.image_index.tolist(),
        detections.category.tolist(),
        np.round(xyxy_to_xywh(detections.xyxy), 2).tolist(),
        np.asarray(detections.score).tolist(),
        strict=True,
    )
    results = [{"image_id": 1000 + image, "category_id": c + 1, "bbox": box, "score": score} for image, c, box, score in found]
    (folder / "results.json").write_bytes(orjson.dumps(results))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and what it answered."""
    start = time.perf_counter()
    answer = function()
    return time.perf_counter() - start, answer


def measure_engine(share: float, with_cleanlab: bool) -> dict[str, float]:
    """The three box scores, image scores and flags: seconds, pairs compared and how often cleanlab's time, where it was run."""
    from detclean.score.objectlab import compute_objectlab_scores

    annotations, detections, sizes = make_boxes(share, np.random.default_rng(0))
    arguments = (annotations, detections, len(sizes), CATEGORIES)
    seconds, fast = timed(lambda: compute_objectlab_scores(*arguments))
    figures = {"engine s": seconds, "engine GiB": peak_gib()}
    if with_cleanlab:
        slow_seconds, slow = timed(lambda: compute_objectlab_scores(*arguments, engine="cleanlab"))
        for name in ("swap", "badloc", "overlooked", "image", "image_flag"):
            np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=0, atol=1e-6)
        figures |= {"cleanlab s": slow_seconds, "cleanlab / engine": slow_seconds / seconds}
    return figures


def measure_reading(folder: Path) -> dict[str, float]:
    """The annotation file: seconds by detclean, and how often that by pycocotools."""
    from pycocotools.coco import COCO

    from detclean.formats.coco import read_coco

    ours, theirs = [], []
    for _ in range(2):
        ours.append(timed(lambda: read_coco(folder / "annotations.json", "none"))[0])
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.append(timed(lambda: COCO(str(folder / "annotations.json")))[0])
    return {"read s": min(ours), "pycocotools / read": min(theirs) / min(ours)}


def measure_run(folder: Path) -> dict[str, float]:
    """`detclean run` from the files to issues.csv: wall seconds, of its stages, peak memory."""
    from detclean.config import read_config
    from detclean.pipeline import run_pipeline
    from detclean.show.progress import open_display

    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "config.yaml").write_text(f"name: run\nruns: {folder}\ndata: annotations.json\nimages: none\npredictions: results.json\n")
    config = read_config(folder / "config.yaml")
    with open_display(config.folder / "run.log") as display:
        seconds, result = timed(lambda: run_pipeline(config, display))
    if not (result.folder / "issues.csv").is_file():
        raise SystemExit("no issues.csv was written")
    return {"run s": seconds, "run GiB": peak_gib(), "issues": result.issues.height} | {
        f"{stage} s": spent for stage, spent in result.summary["seconds"].items()
    }


def profile_run(folder: Path) -> None:
    """Prints where the time of a run goes, by detclean's own functions."""
    profile = cProfile.Profile()
    profile.runcall(measure_run, folder)
    pstats.Stats(profile).sort_stats("cumulative").print_stats("detclean/", PROFILED)


def measure_scoring(share: float) -> dict[str, float]:
    """Scoring alone, of detections with a full score vector each, as detclean's own detectors give them."""
    from detclean.score.scores import score_dataset

    annotations, detections, sizes = make_boxes(share, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    vectors = rng.random((len(detections), CATEGORIES), dtype=np.float32)
    vectors *= 0.2 * np.asarray(detections.score, dtype=np.float32)[:, None]
    vectors[np.arange(len(detections)), detections.category] = np.asarray(detections.score)
    seconds, _ = timed(lambda: score_dataset(as_dataset(annotations, sizes), replace(detections, class_scores=vectors)))
    return {"score with vectors s": seconds, "score with vectors GiB": peak_gib()}


def measure_rows(share: float, rows: int) -> dict[str, float]:
    """How well planted errors are found (average precision), and the time, where the models learn from so many given rows."""
    from sklearn.metrics import average_precision_score

    from detclean.score import calibration
    from detclean.score.looks import draw_looks
    from detclean.score.planting import plant_errors
    from detclean.score.sources import Sources

    rng = np.random.default_rng(5)
    annotations, detections, sizes = make_boxes(share, rng)
    rates = dict.fromkeys(("overlooked", "badloc", "swap", "spurious", "duplicate"), 0.01)
    planted = plant_errors(annotations, sizes, CATEGORIES, rates, rng)
    sources = Sources(draw_looks(planted.annotations, sizes, CATEGORIES), detections, sizes, CATEGORIES)
    calibration.MOST_ROWS = rows
    seconds, found = timed(lambda: calibration.compute_probabilities(sources, rounds=1))
    told = found.annotations | {"any": np.sum(list(found.annotations.values()), axis=0)}
    wrong = {kind: planted.kind == kind for kind in found.annotations} | {"any": planted.kind != ""}
    return {f"AP {kind}": float(average_precision_score(wrong[kind], told[kind])) for kind in told} | {"s": seconds}


def as_dataset(annotations: Boxes, sizes: np.ndarray) -> Dataset:
    images = pl.DataFrame({"image_id": np.arange(len(sizes)), "width": sizes[:, 0], "height": sizes[:, 1]}).with_columns(
        file_name=pl.col("image_id").cast(pl.String), path=pl.lit(None, pl.String), split=pl.lit(None, pl.String)
    )
    names = tuple(f"category {i}" for i in range(CATEGORIES))
    return Dataset(images, names, annotations, np.arange(len(annotations)), "memory", Path("memory"))


def peak_gib() -> float:
    return peak_memory() / 2**30


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function answers in a fresh process, so that peaks are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def print_table(figures: dict[float, dict[str, float]]) -> None:
    names = dict.fromkeys(name for column in figures.values() for name in column)
    print("| | " + " | ".join(f"{round(share * IMAGES):,} images" for share in figures) + " | target |")
    print("|---|" + "---|" * (len(figures) + 1))
    targets: dict[str, str] = {name: f"≤ {limit}" for name, limit in FULL_SIZE_TARGETS.items()}
    targets |= {"cleanlab / engine": f"≥ {CLEANLAB_TARGET}", "pycocotools / read": f"≥ {READING_TARGET}"}
    for name in names:
        cells = [f"{column[name]:,.4g}" if name in column else "" for column in figures.values()]
        print(f"| {name} | " + " | ".join(cells) + f" | {targets.get(name, '')} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="shares of COCO's size")
    parser.add_argument("--cleanlab", type=float, nargs="*", default=[0.01], help="the sizes at which cleanlab is run as well")
    parser.add_argument("--skip", nargs="*", default=[], choices=["engine", "read", "run", "score"])
    parser.add_argument("--profile", action="store_true", help="print the profile of a run at the last size")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="numbers of rows to learn from, compared at the last size")
    parser.add_argument("--folder", type=Path, help="where the files are made and kept; by default a temporary folder")
    parser.add_argument("--json", type=Path, help="the figures go there as well")
    arguments = parser.parse_args()
    figures: dict[float, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for share in arguments.sizes:
            folder = (arguments.folder or Path(temporary)) / f"{share:g}"
            if not (folder / "results.json").exists() and not set(arguments.skip) >= {"read", "run"}:
                alone(write_files, share, folder)
            figures[share] = {}
            if "engine" not in arguments.skip:
                figures[share] |= alone(measure_engine, share, share in arguments.cleanlab)
            if "read" not in arguments.skip:
                figures[share] |= alone(measure_reading, folder)
            if "run" not in arguments.skip:
                figures[share] |= alone(measure_run, folder)
            if "score" not in arguments.skip:
                figures[share] |= alone(measure_scoring, share)
            print(f"{share:g}: {figures[share]}", file=sys.stderr)
        if arguments.profile:
            alone(profile_run, folder)
    print_table(figures)
    for rows in arguments.rows:
        found = alone(measure_rows, arguments.sizes[-1], rows)
        print(f"learning from {rows:,} rows: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
