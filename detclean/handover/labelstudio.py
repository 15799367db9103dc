"""Label Studio: tasks with predictions to import, and its JSON export read back. Units are percent of the image, top left."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import orjson
import polars as pl

from detclean import __version__
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.formats.jsonfile import is_number
from detclean.handover.names import clean_text, read_url
from detclean.handover.returns import BOX_SCHEMA, IMAGE_SCHEMA, Returned
from detclean.handover.sheet import Sheet

URL = "/data/local-files/?d="
SHAPES = ("polygon", "brush", "ellipse", "keypoint", "vector", "bitmask", "rectangle")  # how the types of drawn regions begin
README = """detclean to Label Studio
========================

1. Start the server so that it may serve the pictures, which stay where they are:
     LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true
     LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}
2. New project: Settings, Labeling Interface, Code: paste label_config.xml.
3. Settings, Cloud Storage, Add Source Storage, Local files, with the path
     {folder}
   Save it, and do not sync it: the tasks come with step 4.
4. Import: tasks.json. Settings, Annotation: use predictions to pre-label tasks, model version "{version}".
   Order the tasks by prediction score: the worst come first.
5. In each task leave what is right, and move, rename or delete what is wrong; suspected boxes say why in their text (meta), and all
   issues of the image stand above it. Boxes of overlooked objects are drawn already: leave or delete them. Write "hard" to a box that
   is right though difficult. Submit the task. A task that was not submitted, or was skipped, counts as not looked at.
6. Export as JSON (not JSON-MIN, which forgets what each box was), then:
     python -m detclean import-decisions {run} EXPORT.json
"""


def write_labelstudio(sheet: Sheet, folder: Path, run_folder: Path) -> None:
    """tasks.json, label_config.xml and README.txt in `folder`."""
    root, below = find_document_root([path or "" for path in sheet.images["path"].to_list()])
    write_whole(folder / "tasks.json", orjson.dumps(_make_tasks(sheet, root), option=orjson.OPT_INDENT_2))
    write_whole(folder / "label_config.xml", make_label_config(sheet.categories))
    text = README.format(root=root or "/", folder=below or "/", version=model_version(), run=run_folder)
    write_whole(folder / "README.txt", text)


def model_version() -> str:
    return f"detclean {__version__}"


def find_document_root(paths: list[str]) -> tuple[str, str]:
    """The folder that Label Studio is to serve, and the one of the pictures below it (it refuses to serve the very root)."""
    folders = {os.path.dirname(path) for path in paths if path}
    below = os.path.commonpath(folders) if folders else ""
    return os.path.dirname(below), below


def make_label_config(categories: tuple[str, ...]) -> str:
    """The labelling interface: one RectangleLabels with the categories, and a word on a box that is right but hard.

    Not Choices: Label Studio's own exports would count "hard" among the categories.
    """
    labels = "".join(f"    <Label value={quoteattr(clean_text(name))}/>\n" for name in categories)
    return (
        '<View>\n  <Text name="issues" value="$issues"/>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n'
        '  <TextArea name="verdict" toName="image" perRegion="true" maxSubmissions="1" placeholder="hard?"/>\n</View>\n'
    )


def to_percent(xyxy: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Corners in pixels to x, y, width and height in percent of the image: (n, 4), (n, 2) -> (n, 4)."""
    low, high = xyxy[:, :2] / sizes * 100, xyxy[:, 2:] / sizes * 100
    return np.concatenate([low, high - low], axis=1)


def _make_tasks(sheet: Sheet, root: str) -> list[dict[str, Any]]:
    percent = to_percent(sheet.xyxy, sheet.sizes).tolist()
    columns = ("box_id", "category", "probability", "note", "verdict")
    boxes = list(zip(*(sheet.boxes[name].to_list() for name in columns), percent, strict=True))
    tasks = []
    for image, rows in zip(sheet.images.iter_rows(named=True), sheet.rows_by_image(), strict=True):
        size = {"original_width": image["width"], "original_height": image["height"], "image_rotation": 0}
        regions = [region for box in boxes[rows] for region in _make_regions(sheet, size, *box)]
        path = os.path.relpath(image["path"], root or "/") if image["path"] else image["name"]
        data = {
            "image": URL + quote(path),
            "detclean_image": image["name"],
            "detclean_image_id": image["image_id"],
            "issues": "\n".join(note for *_, note, _, _ in boxes[rows] if note) or "nothing is open here",
        }
        if image["settled"]:
            tasks.append({"data": data, "annotations": [{"result": regions, "was_cancelled": False}]})
        else:
            tasks.append({"data": data, "predictions": [{"model_version": model_version(), "score": image["quality"], "result": regions}]})
    return tasks


def _make_regions(
    sheet: Sheet,
    size: dict[str, int],
    box_id: str,
    category: int,
    probability: float | None,
    note: str | None,
    verdict: str | None,
    percent: list[float],
) -> list[dict[str, Any]]:
    """A box as Label Studio has it, and the word "hard" on it where it was called so."""
    place = {**dict(zip(("x", "y", "width", "height"), percent, strict=True)), "rotation": 0}
    head = {"id": box_id, "from_name": "label", "to_name": "image", "type": "rectanglelabels", **size}
    region: dict[str, Any] = head | {"value": place | {"rectanglelabels": [clean_text(sheet.categories[category])]}}
    if note is not None and probability is not None:
        region |= {"score": 1 - probability, "meta": {"text": [note]}}
    if verdict != "hard":
        return [region]
    return [region, head | {"from_name": "verdict", "type": "textarea", "value": place | {"text": ["hard"]}}]


# Reading


def read_labelstudio(tasks: list[Any], path: Path) -> Returned:
    """The annotated tasks of a JSON export. Raises DatasetError where it is none, or a record is damaged."""
    images: list[tuple[Any, ...]] = []
    boxes: list[tuple[Any, ...]] = []
    told: Counter[str] = Counter()
    untouched = 0
    for position, task in enumerate(tasks):
        where = f"task {task['id']}" if isinstance(task, dict) and isinstance(task.get("id"), int) else f"task [{position}]"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            what = "is no task: it has no data and annotations; in Label Studio, export as JSON (not JSON-MIN)"
            raise DatasetError(f"{path}: {where}: {what}")
        result = _last_result(task, f"{path}: {where}", told)
        if result is None:
            untouched += 1
            continue
        rows = _read_regions(result, len(images), where, path, told)
        data = task["data"]
        names = [name for name in (data.get("detclean_image"), _as_path(data.get("image"))) if isinstance(name, str) and name]
        if not names:
            raise DatasetError(f"{path}: {where}: its data names no image; keep `image` as it was handed over")
        identity = data.get("detclean_image_id")
        image_id = None if identity is None else str(identity)
        images.append((where, names, image_id, *_one_size(result)))
        boxes += rows
    notes = tuple(f"{count} {what}" for what, count in told.items())
    return Returned(
        path,
        "labelstudio",
        True,
        pl.DataFrame(images, schema=IMAGE_SCHEMA, orient="row"),
        pl.DataFrame(boxes, schema=BOX_SCHEMA, orient="row"),
        untouched,
        notes,
        tells_finished=True,
    )


def _as_path(value: object) -> str | None:
    return read_url(value) if isinstance(value, str) else None


def _last_result(task: dict[str, Any], where: str, told: Counter[str]) -> list[Any] | None:
    """What the task's last annotation that was not cancelled holds; None where nobody submitted one."""
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
        raise DatasetError(f"{where}: its annotations are no list of records; export as JSON, with annotations in full")
    done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if not done:
        return None
    if len(done) > 1:
        told["images were annotated more than once; the last annotation counts"] += 1
    last = max(enumerate(done), key=lambda pair: (str(pair[1].get("updated_at") or pair[1].get("created_at") or ""), pair[0]))[1]
    result = last.get("result")
    if not isinstance(result, list) or not all(isinstance(region, dict) for region in result):
        raise DatasetError(f"{where}: its annotation has no list `result`; export as JSON")
    return result


def _read_regions(result: list[dict[str, Any]], image: int, where: str, path: Path, told: Counter[str]) -> list[tuple[Any, ...]]:
    words = [(str(region.get("id")), word) for region in result for word in (*_texts(region, "text"), *_texts(region, "choices"))]
    hard = {region_id for region_id, word in words if word.strip().lower() == "hard"}
    rows = []
    for region in result:
        kind = str(region.get("type"))
        if kind != "rectanglelabels":
            if kind.startswith(SHAPES):
                told[f"regions of the type {kind} are no boxes and left out"] += 1
            continue
        place = f"{where}, region {region.get('id')}"
        labels = _texts(region, "rectanglelabels")
        if not labels:
            raise DatasetError(f"{path}: {place}: has no label; give it one or delete it")
        if len(labels) > 1:
            told["boxes have several labels; the first counts"] += 1
        if region.get("image_rotation") not in (None, 0, 360):
            raise DatasetError(f"{path}: {place}: the image was rotated in the tool; turn it back and save it again")
        corners = _read_corners(region, f"{path}: {place}", told)
        box_id = str(region["id"]).partition("#")[0] if region.get("id") is not None else None
        rows.append((image, place, labels[0], *corners, box_id, None, str(region.get("id")) in hard, False))
    return rows


def _texts(region: dict[str, Any], key: str) -> list[str]:
    value = region.get("value")
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, str):
        return [found]
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _read_corners(region: dict[str, Any], where: str, told: Counter[str]) -> list[float]:
    """x1, y1, x2, y2 in percent; of a rotated box the box around it."""
    value = region["value"]
    numbers = [value.get(name) for name in ("x", "y", "width", "height")]
    rotation = value.get("rotation") or 0
    if not all(_is_number(number) for number in (*numbers, rotation)):
        raise DatasetError(f"{where}: x, y, width and height have to be numbers, not {str(numbers)[:80]}; correct the region")
    x, y, width, height = map(float, numbers)
    if rotation % 360 == 0:
        (x1, x2), (y1, y2) = sorted((x, x + width)), sorted((y, y + height))  # older versions wrote sides below zero
        return [x1, y1, x2, y2]
    across, down = region.get("original_width"), region.get("original_height")
    if not (_is_number(across) and _is_number(down) and across > 0 and down > 0):  # type: ignore[operator]
        raise DatasetError(f"{where}: is rotated and has no original_width and original_height; draw it without rotation")
    told["rotated boxes are taken as the upright boxes around them"] += 1
    angle = math.radians(rotation)
    sides = np.array([[0, 0], [width * across, 0], [0, height * down], [width * across, height * down]])  # type: ignore[operator]
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # about the top left corner, clockwise
    points = sides @ turn / np.array([across, down], dtype=np.float64) + np.array([x, y])
    return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]


def _is_number(value: object) -> bool:
    return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]


def _one_size(result: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """The image's width and height as the tool saw it, for a check; nothing where there is no region that says so."""
    for region in result:
        width, height = region.get("original_width"), region.get("original_height")
        if _is_number(width) and _is_number(height):
            return float(width), float(height)  # type: ignore[arg-type]
    return None, None
