"""Pictures as a browser can show them, upright, as the detector saw them."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from detclean.formats.imagefiles import ORIENTATION_TAG

SHOWN_AS_THEY_ARE = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp"}
PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # neither 16 bits nor the colours of a printer
LARGEST = 40_000_000  # pixels; what is larger is sent smaller: a browser would take 160 MB and more for each of several
QUALITY = 92
BROKEN = (OSError, SyntaxError, ValueError, TypeError, OverflowError, EOFError, MemoryError, Image.DecompressionBombError)  # Pillow's


@dataclass(frozen=True)
class Picture:
    """What is sent: the file at `path` as it is, or `content`; media_type says what it is."""

    media_type: str
    path: Path | None = None
    content: bytes = b""


def read_picture(path: Path) -> Picture | None:
    """A picture for a browser: the file itself where every browser shows it upright, else turned into a JPEG. None where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged EXIF blocks
            with Image.open(path) as image:
                kind, mode, pixels = image.format or "", image.mode, image.width * image.height
                turned = _is_turned(image)
            if kind in SHOWN_AS_THEY_ARE and mode in PLAIN_MODES and not turned and pixels <= LARGEST:
                return Picture(SHOWN_AS_THEY_ARE[kind], path=path)
            return _convert(path, mode)
    except BROKEN:
        return None


def _is_turned(image: Image.Image) -> bool:
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return False  # Pillow would decode the whole picture to look for the block behind it
    return int(image.getexif().get(ORIENTATION_TAG, 1) or 1) != 1


def _convert(path: Path, mode: str) -> Picture:
    """As OpenCV decodes it, for so the detector saw it; more than 8 bits are stretched to what the picture uses, or it may be all black."""
    photo = _open_deep(path) if mode.startswith(("I", "F")) else _open_with_opencv(path)
    if photo is None:
        with Image.open(path) as image:
            photo = ImageOps.exif_transpose(image).convert("RGB")
    if photo.width * photo.height > LARGEST:
        share = (LARGEST / (photo.width * photo.height)) ** 0.5
        photo = photo.resize((max(int(photo.width * share), 1), max(int(photo.height * share), 1)), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=QUALITY)
    return Picture("image/jpeg", content=out.getvalue())


def _open_with_opencv(path: Path) -> Image.Image | None:
    import cv2

    try:
        pixels: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if pixels is None else Image.fromarray(pixels[:, :, ::-1].copy())


def _open_deep(path: Path) -> Image.Image:
    with Image.open(path) as image:
        values = np.asarray(ImageOps.exif_transpose(image), dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 1.0)
    grey = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
