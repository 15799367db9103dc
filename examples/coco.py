"""Finds wrong labels in a COCO data set from a results file, and writes the lists that people and other tools open.

    python examples/coco.py                                                   # the embedded digits, and a detector that is played
    python examples/coco.py instances.json results.json --images val2017      # your data set, and your detector's results
    python examples/coco.py instances.json results.json --images none         # the same without pictures

RESULTS is what COCO's own evaluation reads, a list of {"image_id", "category_id", "bbox", "score"}. Keep detections down to a low score,
and let each image be looked at by a model that was not trained on it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import polars as pl
from stand_in import DIGITS, detect_digits

import detclean


def write_results(path: Path, dataset: detclean.Dataset) -> None:
    """What the played detector sees, as a COCO results file."""
    image_id = dict(dataset.images.select("file_name", "image_id").iter_rows())
    category_id = dict(zip(dataset.categories, dataset.category_ids, strict=True))
    results = [
        {"image_id": image_id[name], "category_id": category_id[category], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for name, category, x1, y1, x2, y2, score in detect_digits().iter_rows()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description="Wrong labels of a COCO data set, from a results file.")
    parser.add_argument("annotations", nargs="?", type=Path, default=DIGITS / "annotations.json", help="a COCO file")
    parser.add_argument("results", nargs="?", type=Path, help="the detections, as COCO results")
    parser.add_argument("--images", help="the folder of the images, or none; where not said, it is looked for beside the file")
    parser.add_argument("--out", type=Path, default=Path("runs/coco-example"), help="where the lists go")
    arguments = parser.parse_args()
    if arguments.results is None and arguments.annotations != parser.get_default("annotations"):
        parser.error("name the results, too: only on the embedded digits a detector is played")

    dataset = detclean.read_dataset(arguments.annotations, arguments.images)
    results = arguments.results or arguments.out / "results.json"
    if arguments.results is None:
        write_results(results, dataset)
    detections = detclean.read_detections(results, dataset)

    issues = detclean.find_issues(dataset, detections)
    detclean.write_issues(issues, dataset, arguments.out)

    print(f"{issues.height} issues among {len(dataset.annotations)} annotations of {dataset.image_count} images")
    counts = issues.group_by("issue_type").agg(pl.len(), pl.col("probability").sum()).sort("len", "issue_type", descending=True)
    for issue_type, count, expected in counts.iter_rows():
        print(f"  {issue_type:10}  {count:4}, of which about {expected:.0f} are wrong labels")
    print(f"{arguments.out / 'issues.csv'} has them all, worst first; issues.coco.json beside it is for annotation tools")


if __name__ == "__main__":
    main()
