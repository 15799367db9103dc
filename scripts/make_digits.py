"""Makes data/digits, the embedded data set: scenes of scanned handwriting with planted label errors and an answer key.

    python scripts/make_digits.py [--target data/digits] [--rate 0.04]

The digits are scikit-learn's 1,797 scans (UCI ML hand-written digits), the backgrounds its two photographs. The same seed gives the
same files, byte for byte, with the versions of locks/run.txt.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scenes import Glyph, Placed, Style, compose_scene, photographs
from sklearn.datasets import load_digits

from detclean.boxes import Boxes, xyxy_to_cxcywhn, xyxy_to_xywh
from detclean.dataset import ISSUE_TYPES
from detclean.score.planting import plant_errors

TARGET = Path(__file__).parent.parent / "data" / "digits"
CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGES = {"train": 250, "test": 80}  # "train" is to be cleaned and has planted errors; no stage ever cleans "test"
RATE = 0.04  # of the boxes, each of the five types
SEED = 20
STYLE = Style(
    height=(22, 64),
    glyphs=(4, 7),
    hard_share=0.06,
    contact_share=0.2,
    contact=(0.05, 0.3),
    angle=0.12,
    shear=0.1,
    stretch=(0.85, 1.15),
    opacity=0.8,
)
JPEG_QUALITY = 88
HELD_BACK = 400  # scans that only the test scenes show


def make_digits(target: Path, rate: float = RATE) -> None:
    """Writes images/, labels/, data.yaml, annotations.json, test_annotations.json, answers.json, true_annotations.json and
    true_answers.json (nothing planted, every hard object) into `target`."""
    rng = np.random.default_rng(SEED)
    for part, count in IMAGES.items():
        sizes, placed = write_images(target / "images" / part, part, count, rng)
        boxes = as_boxes(placed)
        hard = np.array([glyph.hard for glyphs in placed for glyph in glyphs])
        names = [f"images/{part}/{i:04d}.jpg" for i in range(count)]
        rates = dict.fromkeys(ISSUE_TYPES, rate if part == "train" else 0.0)
        planted = plant_errors(boxes, sizes, len(CATEGORIES), rates, rng)
        given = Boxes(planted.annotations.image_index, planted.annotations.category, planted.annotations.xyxy.round(2))
        _write_yolo_labels(target / "labels" / part, given, sizes)
        document = json.dumps(_as_coco(given, sizes, names), indent=1)
        (target / ("annotations.json" if part == "train" else "test_annotations.json")).write_text(document + "\n")
        if part == "train":
            left_out = boxes[planted.removed]
            wrong = [_answer(names, given, int(i), str(planted.kind[i])) for i in np.flatnonzero(planted.kind != "")]
            wrong += [_answer(names, left_out, i, "overlooked") for i in range(len(left_out))]
            untouched = np.flatnonzero((planted.kind == "") & hard[planted.origin])
            answers = {"planted": wrong, "hard": [_answer(names, given, int(i)) for i in untouched]}
            (target / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
            true = Boxes(boxes.image_index, boxes.category, boxes.xyxy.round(2))
            (target / "true_annotations.json").write_text(json.dumps(_as_coco(true, sizes, names), indent=1) + "\n")
            all_hard = {"planted": [], "hard": [_answer(names, true, int(i)) for i in np.flatnonzero(hard)]}
            (target / "true_answers.json").write_text(json.dumps(all_hard, indent=1) + "\n")
    layout = {"train": "images/train", "val": "images/test", "names": dict(enumerate(CATEGORIES))}
    (target / "data.yaml").write_text(yaml.safe_dump(layout, sort_keys=False))


def write_images(folder: Path, part: str, count: int, rng: np.random.Generator) -> tuple[Any, list[list[Placed]]]:
    scans = load_digits()
    first, last = (0, len(scans.images) - HELD_BACK) if part == "train" else (len(scans.images) - HELD_BACK, len(scans.images))

    def draw_digit(rng: np.random.Generator) -> Glyph:
        i = int(rng.integers(first, last))
        return int(scans.target[i]), scans.images[i].astype(np.uint8)

    folder.mkdir(parents=True)
    photos, sizes, placed = photographs(), [], []
    for i in range(count):
        image, glyphs = compose_scene(photos, draw_digit, STYLE, rng)
        image.save(folder / f"{i:04d}.jpg", quality=JPEG_QUALITY)
        sizes.append((image.width, image.height))
        placed.append(glyphs)
    return np.array(sizes, dtype=np.float64), placed


def as_boxes(placed: list[list[Placed]]) -> Boxes:
    glyphs = [(image, glyph) for image, scene in enumerate(placed) for glyph in scene]
    return Boxes(
        image_index=np.array([image for image, _ in glyphs]),
        category=np.array([glyph.category for _, glyph in glyphs]),
        xyxy=np.array([glyph.xyxy for _, glyph in glyphs], dtype=np.float64),
    )


def _write_yolo_labels(folder: Path, boxes: Boxes, sizes: Any) -> None:
    folder.mkdir(parents=True)
    shares = xyxy_to_cxcywhn(boxes.xyxy, sizes[boxes.image_index])
    for image, rows in enumerate(boxes.by_image(len(sizes))):
        lines = (
            f"{category} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
            for category, (x, y, w, h) in zip(boxes.category[rows], shares[rows], strict=True)
        )
        (folder / f"{image:04d}.txt").write_text("".join(lines))


def _as_coco(boxes: Boxes, sizes: Any, names: list[str]) -> dict[str, Any]:
    images = [{"id": i + 1, "file_name": name, "width": int(sizes[i, 0]), "height": int(sizes[i, 1])} for i, name in enumerate(names)]
    annotations = [
        {
            "id": i + 1,
            "image_id": int(boxes.image_index[i]) + 1,
            "category_id": int(boxes.category[i]) + 1,
            "bbox": bbox,
            "area": round(bbox[2] * bbox[3], 2),
            "iscrowd": 0,
        }
        for i, bbox in enumerate(xyxy_to_xywh(boxes.xyxy).round(2).tolist())
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)]}


def _answer(names: list[str], boxes: Boxes, i: int, kind: str | None = None) -> dict[str, Any]:
    answer = {"file_name": names[int(boxes.image_index[i])]}
    if kind:
        answer["issue_type"] = kind
    return answer | {"category": CATEGORIES[int(boxes.category[i])], "bbox": xyxy_to_xywh(boxes.xyxy[i]).round(2).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument(
        "--rate", type=float, default=RATE, help="share of the boxes to train on that gets an error, for each type of error"
    )
    options = parser.parse_args()
    shutil.rmtree(options.target, ignore_errors=True)
    make_digits(options.target, options.rate)
    size = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(f"{options.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
