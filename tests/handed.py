"""A run to hand over, made by hand in no time: hostile names, ids that are text, and one issue of every type; and people at their tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
from PIL import Image

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.runfolder import Run
from detclean.score.issues import COLUMNS, POSITIONS

NAMES = ("a b/#1 & <x> \"q\" 'z'.png", "ü/日本 50%20+.png", "one/a.png", "two/a.png", "deep/er/border.png", "nothing.png")
SIZES = ((120, 80), (90, 200), (64, 64), (64, 64), (333, 77), (50, 50))
CATEGORIES = ("red & <square>", 'it\'s "x"', "緑", "unused")
BOXES = (  # image, category, corners
    (0, 0, (10, 10, 40, 40)),
    (0, 1, (50, 20, 90, 60.5)),
    (1, 2, (5.25, 5.75, 60, 100)),
    (1, 2, (6, 6, 60, 101)),  # nearly the one above
    (2, 0, (8, 8, 30, 30)),
    (3, 1, (8, 8, 30, 30)),  # the same place in the other a.png
    (4, 0, (0, 0, 100.3, 77)),  # touches three borders
    (4, 1, (300, 50, 333, 77)),
    (4, 2, (150, -3, 200, 30)),  # sticks out
)
IDS = ("x#1", "x 2", "<3>", "ä", "5", "6", "7", "8/9", "9")
ISSUES = (  # id, type, action, image, annotation, suggested category and box
    ("1ss0e0000001", "swap", "relabel", 0, 0, 1, (10, 10, 40, 40)),
    ("1ss0e0000002", "badloc", "move", 0, 1, 1, (55, 20, 95, 60)),
    ("1ss0e0000003", "duplicate", "delete", 1, 3, None, None),
    ("1ss0e0000004", "spurious", "delete", 2, 4, None, None),
    ("1ss0e0000005", "overlooked", "add", 3, None, 2, (40, 40, 60, 60)),
    ("1ss0e0000006", "overlooked", "add", 4, None, 0, (220, 10, 260, 70)),
    ("1ss0e0000007", "badloc", "review", 4, 6, None, None),
)
REASON = "Annotated 'red & <square>', but \"it's\" else </note>]]>."


def make_run(root: Path, *, pictures: bool = True) -> Run:
    """The run, its pictures below `root`/pictures, its folder `root`/run."""
    home = root / "pictures"
    for name, size in zip(NAMES, SIZES, strict=True) if pictures else ():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(home / name)
    count = len(NAMES)
    images = pl.DataFrame(
        {
            "image_id": [f"id:{i}" for i in range(count)],
            "file_name": NAMES,
            "path": [str(home / name) if pictures else None for name in NAMES],
            "label_path": pl.Series([None] * count, dtype=pl.String),
            "width": [width for width, _ in SIZES],
            "height": [height for _, height in SIZES],
            "split": pl.Series([None] * count, dtype=pl.String),
        },
        schema_overrides={"path": pl.String},
    )
    boxes = Boxes(
        image_index=np.array([image for image, _, _ in BOXES]),
        category=np.array([category for _, category, _ in BOXES]),
        xyxy=np.array([xyxy for _, _, xyxy in BOXES], dtype=np.float64),
        annotation_id=np.array(IDS, dtype=object),
        is_crowd=np.zeros(len(BOXES), bool),
    )
    ids = tuple(range(len(CATEGORIES)))
    dataset = Dataset(images, CATEGORIES, boxes, np.arange(len(BOXES)), "coco", root / "annotations.json", ids)
    (root / "run").mkdir(parents=True, exist_ok=True)
    return Run(root / "run", {}, dataset, make_issues(dataset))


def make_issues(dataset: Dataset) -> pl.DataFrame:
    rows = []
    for rank, (issue_id, kind, action, image, annotation, category, box) in enumerate(ISSUES, 1):
        _, given, corners = BOXES[annotation] if annotation is not None else (0, None, (None,) * 4)
        rows.append(
            {
                "rank": rank,
                "issue_type": kind,
                "probability": 0.95 - rank / 20,
                "verdict": "noisy",
                "action": action,
                "image_id": dataset.images["image_id"][image],
                "file_name": NAMES[image],
                "annotation_id": None if annotation is None else IDS[annotation],
                "category": None if given is None else CATEGORIES[given],
                **dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)),
                "suggested_category": None if category is None else CATEGORIES[category],
                **{f"suggested_{side}": v for side, v in zip(("x1", "y1", "x2", "y2"), box or (None,) * 4, strict=True)},
                "detector_score": 0.5,
                "iou": 0.1,
                "votes": 2,
                "source": None if annotation is None else f"annotation {IDS[annotation]}",
                "reason": REASON,
                "image_index": image,
                "annotation": annotation,
                "issue_id": issue_id,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None).select(*COLUMNS, *POSITIONS, "issue_id")


# People


@dataclass(frozen=True)
class Edit:
    """What a person does with one box, told by its box_id: moves it, renames it, calls it hard; with nothing of these, deletes it."""

    box_id: str
    xyxy: tuple[float, float, float, float] | None = None
    category: str | None = None
    hard: bool = False

    @property
    def deletes(self) -> bool:
        return self.xyxy is None and self.category is None and not self.hard


New = tuple[str, str, tuple[float, float, float, float]]  # image name, category, corners


def edit_labelstudio(folder: Path, edits: Sequence[Edit], new: Sequence[New] = (), skip: Sequence[str] = ()) -> Path:
    """Every task submitted as Label Studio exports it, those of the images in `skip` left alone."""
    by_id = {edit.box_id: edit for edit in edits}
    tasks = json.loads((folder / "tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        task["id"] = number
        name = task["data"]["detclean_image"]
        shown = task.get("predictions") or task["annotations"]
        task.setdefault("annotations", [])
        if name in skip:
            continue
        width, height = SIZES[NAMES.index(name)]
        result = []
        for region in shown[0]["result"]:
            edit = by_id.get(region["id"])
            if edit is not None and edit.deletes:
                continue
            if edit is not None and edit.xyxy is not None:
                region["value"] |= percent(edit.xyxy, width, height)
            if edit is not None and edit.category is not None:
                region["value"]["rectanglelabels"] = [edit.category]
            result.append(region | {"origin": "prediction"})
            if edit is not None and edit.hard:
                value = {side: region["value"][side] for side in ("x", "y", "width", "height")} | {"text": ["Hard"]}
                result.append({"id": region["id"], "type": "textarea", "from_name": "verdict", "to_name": "image", "value": value})
        for place, category, xyxy in new:
            if place == name:
                value = percent(xyxy, width, height) | {"rotation": 0, "rectanglelabels": [category]}
                size = {"original_width": width, "original_height": height, "image_rotation": 0}
                head = {"id": f"n{len(result)}", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "origin": "manual"}
                result.append(head | size | {"value": value})
        task["annotations"] = [{"id": 10 + number, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z", "result": result}]
    (folder.parent / "back.json").write_text(json.dumps(tasks))
    return folder.parent / "back.json"


def percent(xyxy: Sequence[float], width: float, height: float) -> dict[str, float]:
    x1, y1, x2, y2 = xyxy
    return {"x": x1 / width * 100, "y": y1 / height * 100, "width": (x2 - x1) / width * 100, "height": (y2 - y1) / height * 100}


def edit_cvat(folder: Path, edits: Sequence[Edit], new: Sequence[New] = (), skip: Sequence[str] = ()) -> Path:
    """The XML as CVAT writes it, with two decimals; images in `skip` are in another job."""
    by_id = {edit.box_id: edit for edit in edits}
    root = ElementTree.fromstring((folder / "annotations.xml").read_bytes())
    for image in root.findall("image"):
        if image.get("name") in skip:
            root.remove(image)
        for box in image.findall("box"):
            texts = {one.get("name"): one for one in box.findall("attribute")}
            edit = by_id.get(str(texts["detclean_id"].text))
            if edit is not None and edit.deletes:
                image.remove(box)
            if edit is not None:
                box.set("source", "manual")
            if edit is not None and edit.xyxy is not None:
                _place(box, edit.xyxy)
            if edit is not None and edit.category is not None:
                box.set("label", edit.category)
            if edit is not None and edit.hard:
                texts["verdict"].text = "hard"
            for side in ("xtl", "ytl", "xbr", "ybr"):
                box.set(side, f"{float(box.attrib[side]):.2f}")
        for place, category, xyxy in new:
            if place == image.get("name"):
                box = ElementTree.SubElement(image, "box", label=category, source="manual", occluded="0", z_order="0")
                _place(box, xyxy)
                for name, value in (("issue", "none"), ("verdict", "none"), ("note", ""), ("detclean_id", "")):
                    ElementTree.SubElement(box, "attribute", name=name).text = value
    path = folder.parent / "back.xml"
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def _place(box: ElementTree.Element, xyxy: Sequence[float]) -> None:
    for side, value in zip(("xtl", "ytl", "xbr", "ybr"), xyxy, strict=True):
        box.set(side, str(value))


def edit_coco(folder: Path, edits: Sequence[Edit], new: Sequence[New] = (), skip: Sequence[str] = ()) -> Path:
    by_id = {edit.box_id: edit for edit in edits}
    document = json.loads((folder / "instances.json").read_text())
    category_of = {record["name"]: record["id"] for record in document["categories"]}
    document["images"] = [record for record in document["images"] if record["file_name"] not in skip]
    owner_of = {record["file_name"]: record["id"] for record in document["images"]}
    kept = []
    for record in document["annotations"]:
        edit = by_id.get(record["attributes"]["detclean_id"])
        if (edit is not None and edit.deletes) or record["image_id"] not in owner_of.values():
            continue
        if edit is not None and edit.xyxy is not None:
            record["bbox"] = as_bbox(edit.xyxy)
        if edit is not None and edit.category is not None:
            record["category_id"] = category_of[edit.category]
        if edit is not None and edit.hard:
            record["attributes"]["verdict"] = "hard"
        record["bbox"] = [round(value, 2) for value in record["bbox"]]
        kept.append(record)
    for name, category, xyxy in new:
        kept.append({"id": 1000 + len(kept), "image_id": owner_of[name], "category_id": category_of[category], "bbox": as_bbox(xyxy)})
    path = folder.parent / "back.coco.json"
    path.write_text(json.dumps(document | {"annotations": kept}))
    return path


def as_bbox(xyxy: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = xyxy
    return [x1, y1, x2 - x1, y2 - y1]


EDITORS: dict[str, Any] = {"labelstudio": edit_labelstudio, "cvat": edit_cvat, "coco": edit_coco}


def forget_ids(path: Path) -> None:
    """A COCO file as a tool leaves it that keeps no attributes and numbers everything anew."""
    document = json.loads(path.read_text())
    for number, record in enumerate(document["annotations"], 1):
        record["id"] = number
        record.pop("attributes", None)
    for record in document["images"]:
        record.pop("detclean_image", None)
    path.write_text(json.dumps(document))


def list_twice(run: Run) -> Run:
    """The same run on a data set whose first two pictures are listed by a second split, with an issue of one of those annotations.

    The swap is listed for both images, the moved box for the second one only.
    """
    data, twice = run.dataset, (0, 1)
    labels = pl.Series("label_path", [f"{name}.txt" for name in NAMES])
    images = data.images.with_columns(labels, split=pl.lit("train"))
    images = pl.concat([images, images[list(twice)].with_columns(split=pl.lit("val"))])
    again = np.flatnonzero(np.isin(data.annotations.image_index, twice))
    boxes = data.annotations
    doubled = Boxes(
        np.concatenate([boxes.image_index, boxes.image_index[again] + len(NAMES)]),
        np.concatenate([boxes.category, boxes.category[again]]),
        np.concatenate([boxes.xyxy, boxes.xyxy[again]]),
        annotation_id=np.array([*IDS, *(f"second {IDS[i]}" for i in again)], dtype=object),
    )
    rows = np.concatenate([data.source_rows, data.source_rows[again]])
    second = (pl.col("image_index") + len(NAMES), pl.col("annotation") + len(IDS))
    moved = pl.col("issue_id") == ISSUES[1][0]
    issues = run.issues.with_columns(
        pl.when(moved).then(value).otherwise(value.meta.output_name()).alias(value.meta.output_name()) for value in second
    )
    swap = run.issues.filter(pl.col("issue_id") == ISSUES[0][0]).with_columns(*second, issue_id=pl.lit("1ss0e0000011"))
    return replace(run, dataset=replace(data, images=images, annotations=doubled, source_rows=rows), issues=pl.concat([issues, swap]))


def copy_run(run: Run, root: Path) -> Run:
    """The same run in a folder of its own."""
    shutil.copytree(run.folder, root / "run", dirs_exist_ok=True)
    return Run(root / "run", run.summary, run.dataset, run.issues)
