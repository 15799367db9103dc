"""Data sets, a few pictures each: COCO, YOLO, Pascal VOC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from detclean.formats import read_dataset
from detclean.formats.origins import read_origins
from fuzzing import mutations as mutate
from fuzzing.folders import mutate_folder
from fuzzing.inputs import Place, change, change_json, change_xml, make_yaml, put_pictures
from fuzzing.mutations import Random
from fuzzing.usage import use_dataset

NAMES = ("cat", "dog", "bird")


def make_coco(rng: Random, case: Path) -> None:
    paths = put_pictures(rng, case / "images", 3)
    images = [{"id": 10 + i, "file_name": path.name, "width": 32, "height": 24} for i, path in enumerate(paths)]
    annotations = [
        {"id": i, "image_id": 10 + i % 3, "category_id": 1 + i % 3, "bbox": [1 + i, 2.5, 8, 9], "area": 72, "iscrowd": 0}
        | ({"segmentation": [[1, 2, 3, 4, 5, 6]], "created_by": "ann", "attributes": {"worker": "x"}} if i % 2 else {})
        for i in range(6)
    ]
    document = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)],
    }
    by_name = mutate.chance(rng, 6)
    if by_name:
        mutate_folder(rng, case / "images")
    plain = by_name and mutate.chance(rng, 2)
    content = json.dumps(document).encode() if plain else change_json(rng, document, rng.choice(("images", "annotations", "categories")))
    (case / "annotations.json").write_bytes(content)
    if mutate.chance(rng, 40):
        mutate_folder(rng, case)


def make_yolo(rng: Random, case: Path) -> None:
    listed = mutate.chance(rng, 4)
    for split, count in (("train", 3), ("val", 1)):
        paths = put_pictures(rng, case / "images" / split, count)
        (case / "labels" / split).mkdir(parents=True)
        for path in paths:
            rows = [f"{i % 3} 0.{4 + i} 0.5 0.{2 + i} 0.25" for i in range(2)]
            rows += ["1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6"] if mutate.chance(rng, 8) else []
            content = "\n".join(rows).encode() + b"\n"
            (case / "labels" / split / f"{path.stem}.txt").write_bytes(change(rng, content) if mutate.chance(rng, 2) else content)
        if listed:
            content = "".join(f"./images/{split}/{path.name}\n" for path in paths).encode()
            (case / f"{split}.txt").write_bytes(change(rng, content) if mutate.chance(rng, 2) else content)
    document: Any = {split: f"{split}.txt" if listed else f"images/{split}" for split in ("train", "val")} | {"names": list(NAMES), "nc": 3}
    if mutate.chance(rng, 3):
        document = {"path": str(case)} | document
    if mutate.chance(rng, 3):
        document["names"] = dict(enumerate(NAMES))
    odd = mutate.chance(rng, 3)
    (case / "data.yaml").write_bytes(make_yaml(rng, document) if odd else yaml.safe_dump(document).encode())
    if mutate.chance(rng, 4):
        mutate_folder(rng, case)


def make_voc(rng: Random, case: Path) -> None:
    paths = put_pictures(rng, case / "JPEGImages", 3)
    (case / "Annotations").mkdir()
    for path in paths:
        things = "".join(
            f"\t<object>\n\t\t<name>{NAMES[i]}</name><difficult>0</difficult>\n\t\t<bndbox><xmin>{i + 1}</xmin><ymin>2</ymin>"
            f"<xmax>{i + 9}.5</xmax><ymax>14</ymax></bndbox>\n\t</object>\n"
            for i in range(2)
        )
        size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
        text = f"<annotation>\n\t<filename>{path.name}</filename>\n\t{size}\n{things}</annotation>\n".encode()
        (case / "Annotations" / f"{path.stem}.xml").write_bytes(change_xml(rng, text) if mutate.chance(rng, 2) else text)
    for split, stems in (("train", paths[:2]), ("val", paths[2:])):
        listed = case / "ImageSets" / "Main" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{path.stem}\n" for path in stems).encode()
        listed.write_bytes(change(rng, content) if mutate.chance(rng, 8) else content)
    if mutate.chance(rng, 4):
        mutate_folder(rng, case)


def read_coco(place: Place, rng: Random) -> None:
    whole = read_dataset(place.case / "annotations.json", rng.choice((None, None, None, "none", place.case / "images")))
    read_origins(whole)
    use_dataset(whole, place, rng)


def read_yolo(place: Place, rng: Random) -> None:
    use_dataset(read_dataset(place.case / "data.yaml"), place, rng)


def read_voc(place: Place, rng: Random) -> None:
    use_dataset(read_dataset(place.case, rng.choice((None, None, None, "none"))), place, rng)
