"""CVAT for images 1.1: its XML written, and read back. Units are pixels."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import orjson
import polars as pl

from detclean.dataset import ISSUE_TYPES
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.handover.names import clean_text
from detclean.handover.returns import BOX_SCHEMA, IMAGE_SCHEMA, Returned
from detclean.handover.sheet import Sheet

DECIMALS = 4  # of pixels
LONGEST_NOTE = 1000  # characters; CVAT keeps 4096
SHAPES = ("polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")
CORNERS = ("xtl", "ytl", "xbr", "ybr")
UPLOADED = "file"  # the source of a box that CVAT was given; the first edit of it makes it "manual"
README = """detclean to CVAT
================

1. New task: in the constructor's Raw tab paste labels.json. Without it CVAT drops what each box carries.
2. Give the task the {count} pictures that images.txt lists, with their folders as they are there, so that names stay unique:{folder}
3. In the task: Actions, Upload annotations, "CVAT 1.1", annotations.xml.
4. In each image leave what is right, and move, rename or delete what is wrong. A suspected box has its kind in the attribute `issue` and
   the reason in `note`; boxes with issue=overlooked are objects that nobody annotated: leave or delete them. verdict=hard is for a box
   that is right though difficult. Leave `detclean_id` alone: it says which box is which.
5. When ALL images are done (each image in the file counts as looked at): Actions, Export task dataset, "CVAT for images 1.1", then, with
   the .zip or the annotations.xml in it:
     python -m detclean import-decisions {run} FILE
"""


def write_cvat(sheet: Sheet, folder: Path, run_folder: Path) -> None:
    """annotations.xml, labels.json, images.txt and README.txt in `folder`."""
    labels = make_labels(sheet.categories)
    write_whole(folder / "annotations.xml", "".join(_make_document(sheet, labels)))
    write_whole(folder / "labels.json", orjson.dumps(labels, option=orjson.OPT_INDENT_2))
    names, paths = sheet.images["name"].to_list(), sheet.images["path"].to_list()
    write_whole(folder / "images.txt", "".join(f"{name}\n" for name in names))
    homes = {path.removesuffix(os.sep + name) for name, path in zip(names, paths, strict=True) if path and path.endswith(os.sep + name)}
    where = f"\n     {homes.pop()}" if len(homes) == 1 else ""
    write_whole(folder / "README.txt", README.format(count=len(names), folder=where, run=run_folder))


def make_labels(categories: tuple[str, ...]) -> list[dict[str, Any]]:
    """The labels of a task, as CVAT's constructor takes them: what is not declared is dropped without a word."""
    text = {"mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    choice = {"mutable": False, "input_type": "select", "default_value": "none"}
    attributes = [
        {"name": "issue", **choice, "values": ["none", *ISSUE_TYPES]},
        {"name": "verdict", **choice, "values": ["none", "hard"]},
        {"name": "probability", **text},
        {"name": "note", **text},
        {"name": "detclean_id", **text},
    ]
    return [{"name": clean_text(name), "attributes": attributes} for name in categories]


def _make_document(sheet: Sheet, labels: list[dict[str, Any]]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
    yield f"      <name>detclean</name>\n      <size>{sheet.images.height}</size>\n      <mode>annotation</mode>\n      <labels>\n"
    for label in labels:
        yield f"        <label><name>{escape(label['name'])}</name><attributes>"
        for one in label["attributes"]:
            values = escape("\n".join(one["values"]))
            yield f"<attribute><name>{one['name']}</name><mutable>False</mutable><input_type>{one['input_type']}</input_type>"
            yield f"<default_value>{one['default_value']}</default_value><values>{values}</values></attribute>"
        yield "</attributes></label>\n"
    yield "      </labels>\n    </task>\n  </meta>\n"
    boxes = list(zip(*(sheet.boxes[name].to_list() for name in BOX_COLUMNS), sheet.xyxy.round(DECIMALS).tolist(), strict=True))
    quoted = [quoteattr(clean_text(name)) for name in sheet.categories]
    images = sheet.images.select("name", "width", "height").iter_rows()
    for number, ((name, width, height), rows) in enumerate(zip(images, sheet.rows_by_image(), strict=True)):
        yield f'  <image id="{number}" name={quoteattr(clean_text(name))} width="{width}" height="{height}">\n'
        for category, box_id, issue_type, probability, note, verdict, (x1, y1, x2, y2) in boxes[rows]:
            yield f'    <box label={quoted[category]} source="{UPLOADED}" occluded="0" '
            yield f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0">\n'
            hard = "hard" if verdict == "hard" else "none"
            chance = "" if probability is None else f"{probability:.4f}"
            yield f'      <attribute name="issue">{issue_type or "none"}</attribute><attribute name="verdict">{hard}</attribute>'
            yield f'<attribute name="probability">{chance}</attribute>'
            yield f'<attribute name="note">{escape(clean_text(note or "")[:LONGEST_NOTE])}</attribute>'
            yield f'<attribute name="detclean_id">{escape(box_id)}</attribute>\n    </box>\n'
        yield "  </image>\n"
    yield "</annotations>\n"


BOX_COLUMNS = ("category", "box_id", "issue_type", "probability", "note", "verdict")


# Reading


def read_cvat(content: bytes, path: Path) -> Returned:
    """All images of a CVAT for images 1.1 file. Raises DatasetError where it is none, or a record is damaged."""
    refuse_entities(content, path)
    images: list[tuple[Any, ...]] = []
    boxes: list[tuple[Any, ...]] = []
    told: Counter[str] = Counter()
    events = ElementTree.iterparse(BytesIO(content), events=("start", "end"))
    root: ElementTree.Element | None = None
    try:
        for event, element in events:
            if root is None:
                root = element
                if root.tag != "annotations":
                    raise DatasetError(f"{path}: starts with <{root.tag}>, not <annotations>; export as CVAT for images 1.1")
            if event == "end" and element.tag == "track":
                raise DatasetError(f"{path}: has tracks, as CVAT for video has them; export as CVAT for images 1.1")
            if event == "end" and element.tag == "image":
                boxes += _read_image(element, images, path, told)
                element.clear()
                root.clear()  # what was read; a file of a million boxes is gigabytes as a tree
    except ElementTree.ParseError as error:
        raise DatasetError(f"{path}:{error.position[0]}: is not valid XML ({error}); export it again") from None
    if not images:
        raise DatasetError(f"{path}: holds no image; export as CVAT for images 1.1")
    notes = tuple(f"{count} {what}" for what, count in told.items())
    table = pl.DataFrame(boxes, schema=BOX_SCHEMA, orient="row")
    table = table.with_columns(pl.col("touched") & ~pl.col("touched").all())  # all: it was not CVAT that wrote this down
    return Returned(path, "cvat", False, pl.DataFrame(images, schema=IMAGE_SCHEMA, orient="row"), table, notes=notes)


class _Begun(Exception):
    """The document's first element: no DOCTYPE can follow."""


def refuse_entities(content: bytes, path: Path) -> None:
    """Raises DatasetError where an XML file declares a DOCTYPE: no tool writes one, and its entities can fill any memory."""

    def meet_doctype(*_: object) -> None:
        raise DatasetError(f"{path}: declares a DOCTYPE, which no annotation tool writes; remove it")

    def meet_element(*_: object) -> None:
        raise _Begun

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = meet_doctype
    parser.StartElementHandler = meet_element
    try:
        parser.Parse(content, True)
    except _Begun:
        pass
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}:{getattr(error, 'lineno', 1)}: is not valid XML ({error}); export it again") from None


def _read_image(element: ElementTree.Element, images: list[tuple[Any, ...]], path: Path, told: Counter[str]) -> list[tuple[Any, ...]]:
    """Adds the image to `images`, and answers its boxes."""
    name = element.get("name")
    where = f"image {element.get('id', len(images))}"
    if not name:
        raise DatasetError(f"{path}: {where}: has no name; export as CVAT for images 1.1")
    size = [_number(element.get(side)) for side in ("width", "height")]
    if any(value is not None and not math.isfinite(value) for value in size):
        raise DatasetError(f"{path}: {where}: its width and height are no numbers; export it again")
    rows = []
    for position, shape in enumerate(element):
        if shape.tag != "box":
            if shape.tag in SHAPES:
                told[f"shapes <{shape.tag}> are no boxes and left out"] += 1
            continue
        place = f"{where} '{name}', box {position + 1}"
        corners = [_number(shape.get(side)) for side in CORNERS]
        label = shape.get("label")
        rotation = _number(shape.get("rotation")) or 0.0
        numbers = [float("nan") if value is None else value for value in corners]
        if not label or not all(map(math.isfinite, (*numbers, rotation))):
            shown = ", ".join(f"{side}={shape.get(side)}" for side in ("label", *CORNERS))
            raise DatasetError(f"{path}: {place}: needs a label and four numbers, not {shown[:120]}; correct it")
        if rotation % 360:
            told["rotated boxes are taken as the upright boxes around them"] += 1
            numbers = _around(numbers, rotation)
        texts = {one.get("name"): one.text or "" for one in shape.iter("attribute")}
        touched = shape.get("source", UPLOADED) != UPLOADED
        rows.append((len(images), place, label, *numbers, texts.get("detclean_id") or None, None, texts.get("verdict") == "hard", touched))
    images.append((where, [name], None, *size))
    return rows


def _number(text: str | None) -> float | None:
    """A number; None where there is none, NaN where it is something else."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _around(corners: list[float], rotation: float) -> list[float]:
    """The upright box around one that is rotated about its middle by so many degrees."""
    x1, y1, x2, y2 = corners
    cos, sin = abs(math.cos(math.radians(rotation))), abs(math.sin(math.radians(rotation)))
    width, height = abs(x2 - x1), abs(y2 - y1)
    half_width, half_height = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [x - half_width, y - half_height, x + half_width, y + half_height]
