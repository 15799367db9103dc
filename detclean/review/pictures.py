"""Pictures as a browser can show them, upright, as the detector saw them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detclean.formats.imagefiles import any_size_allowed, find_orientation, open_image
from detclean.formats.plainfile import require_plain
from detclean.show.photos import PLAIN_MODES, READING_FAILS, open_photo

SHOWN_AS_THEY_ARE = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp"}
LARGEST = 40_000_000  # pixels; what is larger is sent smaller: a browser would take 160 MB and more for each of several
LONGEST = 65_500  # pixels of a side: no JPEG has more
QUALITY = 92


@dataclass(frozen=True)
class Picture:
    """What is sent: the file at `path` as it is, or `content`; media_type says what it is."""

    media_type: str
    path: Path | None = None
    content: bytes = b""


def read_picture(path: Path) -> Picture | None:
    """A picture for a browser: the file itself where every browser shows it upright, else turned into a JPEG. None where it is none."""
    try:
        require_plain(path)
        with any_size_allowed(), open_image(path) as image:
            kind, size, plain = image.format or "", image.size, image.mode in PLAIN_MODES and find_orientation(image) == 1
        share = min((LARGEST / (size[0] * size[1])) ** 0.5, LONGEST / max(size), 1.0)
        if kind in SHOWN_AS_THEY_ARE and plain and share == 1:
            return Picture(SHOWN_AS_THEY_ARE[kind], path=path)
        with open_photo(str(path), share) as (photo, ratio):
            return Picture("image/jpeg", content=_as_jpeg(photo, share / ratio))
    except READING_FAILS:
        return None


def _as_jpeg(photo: Image.Image, share: float) -> bytes:
    """share: how much smaller it is sent; of what was read smaller already, 1 or more."""
    if share < 1:
        size = max(int(photo.width * share), 1), max(int(photo.height * share), 1)
        photo = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
