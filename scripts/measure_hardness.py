"""Does hardness, which needs no label, find the images in which detectors err? Ways to measure it, held against true errors.

scripts/measure_hardness.py RUN --truth data/digits/true_annotations.json
    the run's own images, by what the models saw out of fold; without --truth against the labels as given
scripts/measure_hardness.py RUN --new RUN/hard/test --truth data/digits/test_annotations.json
    images that `detclean hard --images` has looked at, with all models of the run

Errors of an image: objects missed and detections that are wrong, at a confidence of 0.25, the mean over the models that looked. Printed
are Spearman's rank correlation with that number (with half of its bootstrap interval of 95 %) and with 1 - F1, the AUROC for images with
more errors than the median, and how many times the errors of as many random images are in the hardest quarter and in the hardest 20.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from detclean.boxes import Boxes, Floats, Ints, aligned_iou, read_boxes, xywh_to_xyxy
from detclean.dataset import Dataset, open_dataset
from detclean.detect.quality import find_partners
from detclean.runfolder import open_run
from detclean.score.hardness import SAME_OBJECT, find_objects
from detclean.score.matching import best_pair_per, max_per, overlapping_pairs, sum_per

CONFIDENT = 0.25
DRAWS = 200
FIRST = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--new", type=Path, help="a folder of detclean hard --images")
    parser.add_argument("--truth", type=Path, help="a COCO file")
    parser.add_argument("--models", type=int, help="how many of the models to hear (their errors are those of all)")
    options = parser.parse_args()
    run = open_run(options.run)
    dataset, look = run.dataset, run.stage("detect")
    if options.new:
        (look,) = (folder for folder in (options.new / "stages").glob("look-*") if folder.suffix != ".partial")
        (pictures,) = (folder for folder in (options.new / "stages").glob("pictures-*") if folder.suffix != ".partial")
        dataset = open_dataset(pictures)
    if options.truth:
        dataset = replace(dataset, annotations=read_truth(options.truth, dataset))
    detections = read_boxes(look / "detections.parquet")
    made_by = detections.fold if options.new else detections.repeat
    judges = np.zeros(len(detections), np.int64) if made_by is None else made_by
    count = int(judges.max()) + 1
    missed = np.mean([count_errors(dataset, detections[judges == judge]) for judge in range(count)], axis=0)
    heard = judges < (options.models or count)
    detections, judges = detections[heard], judges[heard]
    print_table(missed[0], missed[1], list(measure(dataset, detections, judges)), int(judges.max()) + 1)


def read_truth(path: Path, dataset: Dataset) -> Boxes:
    """The annotations of a COCO file, its pictures found by their names."""
    document = orjson.loads(path.read_bytes())
    place = {Path(name).name: i for i, name in enumerate(dataset.images["file_name"].to_list())}
    index = {image["id"]: place.get(Path(image["file_name"]).name) for image in document["images"]}
    names = {category["id"]: dataset.categories.index(category["name"]) for category in document["categories"]}
    rows = [record for record in document["annotations"] if index[record["image_id"]] is not None]
    return Boxes.sorted(
        image_index=[index[row["image_id"]] for row in rows],
        category=[names[row["category_id"]] for row in rows],
        xyxy=xywh_to_xyxy(np.array([row["bbox"] for row in rows], float)),
    )


def count_errors(dataset: Dataset, boxes: Boxes) -> tuple[Floats, Floats]:
    """Of one model in each image: objects missed and wrong detections (N,), and 1 - F1 (N,)."""
    boxes = boxes[np.asarray(boxes.score) >= CONFIDENT]
    partner, n = find_partners(dataset, boxes), dataset.image_count
    right = (partner >= 0) & (np.append(dataset.annotations.category, -1)[partner] == boxes.category)
    true = np.bincount(boxes.image_index[right], minlength=n)
    seen, there = np.bincount(boxes.image_index, minlength=n), np.bincount(dataset.annotations.image_index, minlength=n)
    return (seen + there - 2 * true).astype(float), 1 - 2 * true / np.maximum(seen + there, 1)


def measure(dataset: Dataset, detections: Boxes, judges: Ints) -> Iterator[tuple[str, Floats]]:
    """Ways to rank the images: name and value (N,)."""
    n, several = dataset.image_count, bool(judges.max())
    for least in (0.1, 0.0, 0.05, 0.25):
        objects = find_objects(detections, len(dataset.categories), judges, least=least)
        image, hardness = objects.boxes.image_index, objects.hardness
        count = np.maximum(np.bincount(image, minlength=n), 1)
        yield f"**hardness: mean over objects from {least}**" if least == 0.1 else f"mean from {least}", sum_per(image, hardness, n) / count
        if least != 0.1:
            continue
        yield "sum", sum_per(image, hardness, n)
        yield "largest", max_per(image, hardness, n)
        yield (
            "mean, weighted by confidence",
            sum_per(image, hardness * np.asarray(objects.boxes.score), n)
            / np.maximum(sum_per(image, np.asarray(objects.boxes.score), n), 1e-9),
        )
        order = np.lexsort((-hardness, image))
        third = order[np.arange(len(image)) - np.searchsorted(image[order], image[order]) < 3]
        yield "sum of the three hardest", sum_per(image[third], hardness[third], n)
        if several:
            yield "entropy alone", sum_per(image, objects.entropy, n) / count
            yield "disagreement alone", sum_per(image, objects.disagreement, n) / count
            yield "how far the boxes differ (1 - IoU)", sum_per(image, measure_spread(detections, objects.boxes, judges), n) / count
    sure = find_objects(detections, len(dataset.categories), judges, least=CONFIDENT).boxes
    doubt = 1 - np.asarray(sure.score, dtype=float)
    yield (
        "baseline: mean of 1 - confidence",
        sum_per(sure.image_index, doubt, n) / np.maximum(np.bincount(sure.image_index, minlength=n), 1),
    )
    yield "baseline: largest 1 - confidence", max_per(sure.image_index, doubt, n)
    yield "baseline: number of detections", np.bincount(sure.image_index, minlength=n).astype(float)
    yield "baseline: random order", np.random.default_rng(0).random(n)


def measure_spread(detections: Boxes, objects: Boxes, judges: Ints) -> Floats:
    """1 - IoU of each model's detection with the most confident one, weighted by confidence: (o,)."""
    count = int(judges.max()) + 1
    theirs, mine, _ = overlapping_pairs(detections.without_vectors(), objects, SAME_OBJECT)
    best = best_pair_per(mine * count + judges[theirs], np.asarray(detections.score)[theirs], len(objects) * count)
    pairs = best[best >= 0]
    weight = np.asarray(detections.score)[theirs[pairs]]
    apart = 1 - aligned_iou(detections.xyxy[theirs[pairs]], objects.xyxy[mine[pairs]])
    return sum_per(mine[pairs], weight * apart, len(objects)) / np.maximum(sum_per(mine[pairs], weight, len(objects)), 1e-9)


def print_table(errors: Floats, lost: Floats, ways: list[tuple[str, Floats]], models: int) -> None:
    n = len(errors)
    draws = np.random.default_rng(0).integers(n, size=(DRAWS, n))
    print(f"{n} images, {models} model{'s' * (models > 1)} an image; {errors.mean():.2f} errors an image, mean 1 - F1 {lost.mean():.3f}\n")
    print(f"| ranked by | errors (Spearman) | 1 - F1 (Spearman) | AUROC | errors in the hardest quarter | in the hardest {FIRST} |")
    print("|---|---|---|---|---|---|")
    for name, value in ways:
        spread = np.nanpercentile([correlate(value[rows], errors[rows]) for rows in draws], [2.5, 97.5])
        order = np.argsort(-value, kind="stable")
        shares = [errors[order[:count]].mean() / errors.mean() for count in (max(n // 4, 1), min(FIRST, n))]
        area = roc_auc_score(errors > np.median(errors), value)
        figures = f"{correlate(value, errors):.2f} ± {np.ptp(spread) / 2:.2f} | {correlate(value, lost):.2f} | {area:.2f}"
        print(f"| {name} | {figures} | x {shares[0]:.2f} | x {shares[1]:.2f} |")


def correlate(a: Floats, b: Floats) -> float:
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


if __name__ == "__main__":
    main()
