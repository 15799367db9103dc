"""Pictures of every odd kind, small, and their headers: what a data set may hold beside plain 8-bit RGB."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detclean.formats.imagefiles import any_size_allowed

SIDE = 24
FAR = 200_000  # bytes by which a picture is known again
LIES = ((50_000, 50_000), (2**31 - 1, 1), (1, 2**31 - 1), (200_000, 200_000), (0, 0), (0, 24), (65_535, 65_535))
KINDS = {
    "16-bit": ("deep",),
    "CMYK": ("cmyk",),
    "RGBA": ("rgba",),
    "palette": ("palette", "gif"),
    "animated": ("animated", "several", "gif"),
    "EXIF-rotated": ("turned",),
    "decompression bomb": ("bomb", "lie0", "lie1", "lie2", "lie3"),
}


def _save(image: Image.Image, kind: str, **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def _noise(*shape: int, kind: Any = np.uint8) -> np.ndarray[Any, Any]:
    high = 256 if kind == np.uint8 else 60_000
    return np.random.default_rng(0).integers(0, high, shape).astype(kind)


@cache
def make_pictures() -> dict[str, bytes]:
    """Pictures by name, each ending as its format does."""
    rgb = Image.fromarray(_noise(SIDE, SIDE + 8, 3))
    exif = Image.Exif()
    exif[274] = 6
    frames = [Image.fromarray(_noise(SIDE, SIDE, 3) // (i + 1)) for i in range(3)]
    pictures = {
        "plain.png": _save(rgb, "PNG"),
        "plain.jpg": _save(rgb, "JPEG"),
        "grey.jpg": _save(rgb.convert("L"), "JPEG"),
        "progressive.jpg": _save(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _save(rgb.convert("CMYK"), "JPEG"),
        "turned.jpg": _save(rgb, "JPEG", exif=exif),
        "turned.png": _save(rgb, "PNG", exif=exif),
        "turned.tif": _save(rgb, "TIFF", tiffinfo={274: 6}),
        "turned.webp": _save(rgb, "WEBP", exif=exif),
        "rgba.png": _save(rgb.convert("RGBA"), "PNG"),
        "palette.png": _save(rgb.convert("P"), "PNG", transparency=3),
        "bits.png": _save(rgb.convert("1"), "PNG"),
        "deep.png": _save(Image.fromarray(_noise(SIDE, SIDE, kind=np.uint16)), "PNG"),
        "deep.tif": _save(Image.fromarray(_noise(SIDE, SIDE, kind=np.uint16)), "TIFF"),
        "float.tif": _save(Image.fromarray(np.where(_noise(SIDE, SIDE) > 128, np.nan, 3e38).astype(np.float32)), "TIFF"),
        "signed.tif": _save(Image.fromarray(_noise(SIDE, SIDE, kind=np.int32)), "TIFF"),
        "lzw.tif": _save(rgb, "TIFF", compression="tiff_lzw"),
        "animated.png": _save(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated.webp": _save(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "several.tif": _save(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "plain.bmp": _save(rgb, "BMP"),
        "plain.webp": _save(rgb, "WEBP"),
        "plain.jp2": _save(rgb, "JPEG2000"),
        "plain.mpo": _save(rgb, "MPO", save_all=True, append_images=frames),
        "plain.avif": _save(rgb, "AVIF"),
        "gif.png": _save(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "thin.png": _save(Image.new("RGB", (1, 3000)), "PNG"),
        "one.png": _save(Image.new("RGB", (1, 1)), "PNG"),
        "empty.png": b"",
        "bomb.png": _make_png(30_000, 30_000, rows=30_000),
    }
    for i, (width, height) in enumerate(LIES):
        pictures[f"lie{i}.png"] = _make_png(width, height)
        pictures[f"lie{i}.bmp"] = lie_in_bmp(pictures["plain.bmp"], width, height)
        pictures[f"lie{i}.tif"] = lie_in_tiff(pictures["deep.tif"], width, height)
        pictures[f"lie{i}.jpg"] = lie_in_jpeg(pictures["turned.jpg"], width, height)
    return pictures


def _make_png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG of one bit a pixel that says so large a picture, and holds `rows` of its rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + min(width, 100_000) // 8)
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def lie_in_bmp(content: bytes, width: int, height: int) -> bytes:
    return content[:18] + struct.pack("<ii", width, height) + content[26:]


def lie_in_tiff(content: bytes, width: int, height: int) -> bytes:
    """The tags 256 and 257 of a little-endian TIFF say another size; so does the one strip that all rows lie in."""
    entries, at = bytearray(content), struct.unpack_from("<I", content, 4)[0]
    for i in range(struct.unpack_from("<H", content, at)[0]):
        place = at + 2 + 12 * i
        value = {256: width, 257: height, 278: height}.get(struct.unpack_from("<H", content, place)[0])
        if value is not None:
            struct.pack_into("<HII", entries, place + 2, 4, 1, value)
    return bytes(entries)


def lie_in_jpeg(content: bytes, width: int, height: int) -> bytes:
    at = content.find(b"\xff\xc0")
    return content[: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + content[at + 9 :]


def pick_picture(rng: random.Random, plain: bool = False) -> tuple[str, bytes]:
    """A picture's ending and its bytes; plain: one that any reader reads."""
    pictures = make_pictures()
    name = rng.choice(("plain.png", "plain.jpg", "grey.jpg", "turned.jpg")) if plain else rng.choice(list(pictures))
    return "." + name.rpartition(".")[2], pictures[name]


def find_kinds(content: bytes) -> set[str]:
    """Which of KINDS a file is, if it is one of `make_pictures` as it was made."""
    names = _names().get(content[:FAR], ())
    return {kind for kind, begins in KINDS.items() if any(name.startswith(begins) for name in names)}


def is_cut(content: bytes) -> bool:
    """Whether a file is the beginning of one of `make_pictures`."""
    return any(len(content) < len(whole) and whole.startswith(content) for whole in make_pictures().values())


@cache
def _names() -> dict[bytes, tuple[str, ...]]:
    pictures = make_pictures()
    return {content[:FAR]: tuple(name for name in pictures if pictures[name] == content) for content in pictures.values()}


def list_sides(path: Path) -> tuple[int, int]:
    """Width and height from a header, as it lies there. Raises OSError or ValueError."""
    with any_size_allowed(), Image.open(path) as opened:
        return opened.size
