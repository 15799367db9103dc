"""The one reader of pictures for people: upright, as the labels are read, in 8 bits, of any size, and no larger than is needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from detclean.formats.imagefiles import LARGE, TURNED_ALIKE, UNREADABLE, any_size_allowed, find_orientation, open_image, refuse_claim
from detclean.formats.plainfile import require_plain

PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # neither more than 8 bits nor the colours of a printer
DEEP_MODES = ("I", "F")  # and whatever begins like them
MOST = 250_000_000  # pixels that are read of a picture, 1 GB; what is larger is read smaller
REDUCTIONS = (1, 2, 4, 8)  # of JPEG decoders
TAILS = (0.1, 99.9)  # percent of a deep picture's values that may be cut at each end
SAMPLED = 1_000_000  # values from which its range is taken
BAND = 4_000_000  # values that are stretched at once
READING_FAILS = UNREADABLE

_ALONE = threading.Lock()


@contextmanager
def open_photo(path: str, share: float = 1.0) -> Iterator[tuple[Image.Image, float]]:
    """A picture, upright and RGB, and how large it is of its full size; with `share` below 1 it may be read that much smaller.

    JPEG decoders leave out what a half or a quarter of the size does not need, which is several times as fast. More than 8 bits are
    stretched to what the picture uses, or it might be all black or all white. While one of more than LARGE pixels is open, another thread
    that wants such a one waits. Raises READING_FAILS.
    """
    require_plain(path)
    with any_size_allowed(), open_image(path) as opened:
        width, height = opened.size
        refuse_claim(width, height, os.path.getsize(path))
        fitting = (by for by in REDUCTIONS if -(-width // by) * -(-height // by) <= MOST)
        share = min(share, 1 / next(fitting, (width * height / MOST) ** 0.5))
        alike = opened.format in TURNED_ALIKE or find_orientation(opened) == 1
        plain = opened.mode in PLAIN_MODES and alike
        if plain and opened.format in ("JPEG", "MPO"):
            opened.draft(opened.mode, (max(int(width * share), 1), max(int(height * share), 1)))
        drafted, decoded = opened.width / width, opened.width * opened.height
        by = int(1 / share) if decoded > MOST else 1
        with _ALONE if decoded > LARGE else nullcontext():
            if plain:
                yield _read_plain(opened, by), drafted / by
            else:
                yield Image.fromarray(_as_bytes(_shrink(_read_values(opened, path, alike), by))).convert("RGB"), 1 / by


def _read_plain(opened: Image.Image, by: int) -> Image.Image:
    """Pillow's own, without a second copy where none is needed: a picture of many pixels is as many times 4 bytes."""
    photo = opened if by == 1 else _as_rgb(opened).reduce(by)
    ImageOps.exif_transpose(photo, in_place=True)
    return _as_rgb(photo)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _read_values(opened: Image.Image, path: str, alike: bool) -> NDArray[Any]:
    """Upright, grey (h, w) or RGB (h, w, 3), of any type: from OpenCV, as the detector saw it, where Pillow's own is not the same.

    alike: whether Pillow turns it as OpenCV does; TIFFs of some modes it scrambles.
    """
    deep = opened.mode.startswith(DEEP_MODES)
    if not (deep and alike):
        values = _ask_opencv(path)
        if values is not None:
            return values
    upright = ImageOps.exif_transpose(opened)
    return np.asarray(upright if deep else upright.convert("RGB"))


def _ask_opencv(path: str) -> NDArray[Any] | None:
    import cv2

    try:
        values: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        return None
    return None if values is None else cv2.cvtColor(values, cv2.COLOR_BGR2RGB, dst=values)


def _shrink(values: NDArray[Any], by: int) -> NDArray[Any]:
    if by == 1:
        return values
    import cv2

    size = max(values.shape[1] // by, 1), max(values.shape[0] // by, 1)
    native = values if values.dtype in (np.uint8, np.uint16, np.float32) else values.astype(np.float32)
    small: NDArray[Any] = cv2.resize(native, size, interpolation=cv2.INTER_AREA)
    return small


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of any depth, from what is nearly the lowest value to what is nearly the highest, a band of rows at a time."""
    if values.dtype == np.uint8:
        return values
    step = max(int((values.size / SAMPLED) ** 0.5), 1)
    sample = values[::step, ::step].astype(np.float64)
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, TAILS) if finite.size else (0.0, 1.0)
    grey = np.empty(values.shape, np.uint8)
    rows = max(BAND // values[0].size, 1)
    for top in range(0, len(values), rows):
        band = np.nan_to_num(values[top : top + rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        grey[top : top + rows] = np.clip((band - low) / max(high - low, 1e-9) * 255, 0, 255)
    return grey
