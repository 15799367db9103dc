"""Issues as pictures: the given box and the proposed one, in two colours that colour-blind people can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from detclean.dataset import Dataset
from detclean.show.crops import Corners, box_corners, cut_window, find_window, issue_boxes, needed_share, scale_box
from detclean.show.photos import READING_FAILS, open_photo

GIVEN, PROPOSED = "#E69F00", "#0072B2"  # orange and blue of the Okabe-Ito palette
PAPER, INK = "#FFFFFF", "#222222"
CELL, CAPTION, GAP = 260, 46, 10  # px
COLUMNS = 4


def draw_issues(dataset: Dataset, issues: pl.DataFrame, path: Path) -> None:
    """One JPEG with a cell an issue: the place in the picture, both boxes, type, probability and categories. Needs the positions' columns.

    Issues whose picture is not at hand are left out; without any the file is not written.
    """
    rows = [row for row in issues.iter_rows(named=True) if dataset.images["path"][row["image_index"]]]
    cells = [cell for row in rows if (cell := _draw_cell(row, dataset.images["path"][row["image_index"]])) is not None]
    if not cells:
        return
    lines = -(-len(cells) // COLUMNS)
    width = max(min(len(cells), COLUMNS), 2)  # room for the legend
    sheet = Image.new("RGB", (width * (CELL + GAP) + GAP, lines * (CELL + CAPTION + GAP) + GAP + 20), PAPER)
    for i, cell in enumerate(cells):
        sheet.paste(cell, (GAP + i % COLUMNS * (CELL + GAP), GAP + i // COLUMNS * (CELL + CAPTION + GAP)))
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, sheet.height - 20), "solid orange: as annotated", fill=GIVEN, font=_font(13))
    pen.text((GAP + 190, sheet.height - 20), "dashed blue: proposed", fill=PROPOSED, font=_font(13))
    sheet.save(path, quality=90)


def _draw_cell(row: dict[str, Any], path: str) -> Image.Image | None:
    boxes = issue_boxes(row)
    if not boxes:
        return None
    try:
        with open_photo(path, needed_share([row], CELL)) as (photo, ratio):
            window = find_window(boxes, photo.width / ratio, photo.height / ratio)
            view = cut_window(photo, window, CELL, ratio)
    except READING_FAILS:
        return None
    scale = CELL / window[2]
    pen = ImageDraw.Draw(view)
    if (given := box_corners(row)) is not None:
        pen.rectangle(scale_box(given, window, scale), outline=GIVEN, width=3)
    if (proposed := box_corners(row, "suggested_")) is not None and row["action"] != "relabel":
        _draw_dashes(pen, scale_box(proposed, window, scale))
    cell = Image.new("RGB", (CELL, CELL + CAPTION), PAPER)
    cell.paste(view, (0, 0))
    words = ImageDraw.Draw(cell)
    words.text((0, CELL + 4), f"{row['rank']}. {row['issue_type']}, probability {row['probability']:.2f}", fill=INK, font=_font(15))
    words.text((0, CELL + 24), _describe_categories(row)[:44], fill=INK, font=_font(13))
    return cell


def _draw_dashes(pen: ImageDraw.ImageDraw, box: Corners, dash: float = 9) -> None:
    x1, y1, x2, y2 = box
    pen.rectangle(box, outline=PAPER, width=3)  # so that blue shows on dark pictures too
    for ax, ay, bx, by in ((x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)):
        length = max(abs(bx - ax), abs(by - ay))
        steps = max(int(length / dash), 1)
        for i in range(0, steps, 2):
            start, end = i / steps, min((i + 1) / steps, 1)
            ends = [(ax + (bx - ax) * share, ay + (by - ay) * share) for share in (start, end)]
            pen.line(ends, fill=PROPOSED, width=3)


def _describe_categories(row: dict[str, Any]) -> str:
    given, suggested = row["category"], row["suggested_category"]
    return {
        "add": f"add '{suggested}'",
        "delete": f"delete '{given}'",
        "move": f"move '{given}'",
        "relabel": f"'{given}' should be '{suggested}'",
    }.get(row["action"], f"look at '{given}'")


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
