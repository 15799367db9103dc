"""The place in a picture that an issue is about: which square of it to show, how sharp that is, and cut out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from PIL import Image

MARGIN = 0.6  # of the boxes' extent, shown around them
LEAST_EXTENT = 48  # px of the photograph, however small the boxes
BEYOND = "#DDDDDD"  # where a box reaches over the border

Corners = tuple[float, float, float, float]
Window = tuple[float, float, float]


def box_corners(row: dict[str, Any], prefix: str = "") -> Corners | None:
    """The given box of an issue's row, or with the prefix suggested_ the proposed one; None where there is none."""
    box = tuple(row[f"{prefix}{side}"] for side in ("x1", "y1", "x2", "y2"))
    if any(side is None for side in box):
        return None
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)  # an inverted box may be the very issue


def issue_boxes(row: dict[str, Any]) -> list[Corners]:
    """The given box and the proposed one, as far as there are any."""
    return [box for prefix in ("", "suggested_") if (box := box_corners(row, prefix)) is not None]


def find_window(boxes: list[Corners], width: float, height: float) -> Window:
    """Left, top and side of the square of the photograph to show; it reaches over the border only where a box does or it must."""
    x1, y1 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x2, y2 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    side = max(max(x2 - x1, y2 - y1) * (1 + 2 * MARGIN), LEAST_EXTENT)
    left = min(max((x1 + x2 - side) / 2, min(0.0, x1)), max(width, x2) - side)
    top = min(max((y1 + y2 - side) / 2, min(0.0, y1)), max(height, y2) - side)
    return left if side <= width else (x1 + x2 - side) / 2, top if side <= height else (y1 + y2 - side) / 2, side


def scale_box(box: Corners, window: Window, scale: float) -> Corners:
    """A box in the pixels of a cut-out that shows the window `scale` times as large."""
    left, top, _ = window
    return (box[0] - left) * scale, (box[1] - top) * scale, (box[2] - left) * scale, (box[3] - top) * scale


def needed_share(rows: Iterable[dict[str, Any]], size: int) -> float:
    """Of its full size, how large a picture has to be read for the windows of these issues to be sharp at `size` pixels."""
    sides = [find_window(boxes, 0, 0)[2] for row in rows if (boxes := issue_boxes(row))]
    return min(size / min(sides), 1.0) if sides else 1.0


def cut_window(photo: Image.Image, window: Window, size: int, ratio: float = 1.0) -> Image.Image:
    """The window of a photograph as a square of `size` pixels, BEYOND where it reaches over the border.

    ratio: how large `photo` is of the photograph in whose pixels the window is.
    """
    left, top, side = (value * ratio for value in window)
    scale = size / side
    if scale >= 1:
        matrix = (1 / scale, 0, left, 0, 1 / scale, top)
        return photo.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=BEYOND)
    view = Image.new("RGB", (size, size), BEYOND)
    shown = max(left, 0.0), max(top, 0.0), min(left + side, photo.width), min(top + side, photo.height)
    if shown[0] < shown[2] and shown[1] < shown[3]:
        x1, y1, x2, y2 = (round(value) for value in scale_box(shown, (left, top, side), scale))
        small = photo.resize((max(x2 - x1, 1), max(y2 - y1, 1)), Image.Resampling.BICUBIC, box=shown, reducing_gap=2.0)
        view.paste(small, (x1, y1))
    return view
