"""The quality of the pictures, by cleanvision: dark, light, blurred, without content, of odd shape or size, grey among coloured ones.

cleanvision's own classes measure each picture and say what counts as an issue, with its own thresholds. What is done here instead of by
its Imagelab: the reading (upright sizes, any size, more than 8 bits, files that cannot be read), the processes, and what is remembered.
Its duplicates are not asked for: it finds a picture again only if all 64 bits of the perceptual hash agree. Of 40 pictures each of digits
and BCCD it found 62 of 80 copies at JPEG quality 30, 18 of 80 that were 1.3 times as bright and 75 of 80 at half the size; the audit's
`find_duplicates`, which tolerates ten bits and confirms, found all of these, and neither took two pictures for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.audit.cache import Cache
from detclean.audit.images import to_grey
from detclean.audit.reading import Chunk, Rows, map_where_it_pays, read_pictures
from detclean.formats.imagefiles import SIDEWAYS, UNREADABLE, any_size_allowed, find_orientation, open_image, refuse_claim
from detclean.formats.plainfile import require_plain

# px that the longer side keeps at least where a picture is measured smaller: the scores of 120 photographs of 640 x 480 differ by at most
# 0.0015 from those of whole ones, for 3.7 ms of the processor instead of 21.5
SIDE = 256
CHUNK = 32  # pictures a task
POOL_PAYS = 6.0  # s of work below which starting processes, each of which imports cleanvision, costs more than it brings
MOST = 250_000_000  # pixels that are decoded of a picture; no detector saw a larger one
KINDS = ("dark", "light", "blurry", "low_information", "odd_size", "odd_aspect_ratio", "grayscale")
MEASURES = (
    "brightness_perc_99",
    "brightness_perc_5",
    "entropy",
    "blurriness",
    "blurriness_grayscale_std",
    "aspect_ratio",
    "size",
)  # cleanvision's names of its raw values
TABLE = pl.Schema(
    {
        "image_index": pl.Int64,
        "problem": pl.String,
        **dict.fromkeys(MEASURES, pl.Float64),
        "color_space": pl.String,
        "taken": pl.String,
    }
)
DATE_TAGS = (36867, 306)  # EXIF: DateTimeOriginal, in a block of its own, and DateTime
EXIF_BLOCK = 0x8769


def measure_pictures(
    images: pl.DataFrame,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
) -> pl.DataFrame:
    """One row a picture that exists, in the order of the table images: image_index; cleanvision's raw MEASURES and color_space (null
    where it cannot be read, and problem says why); taken: when EXIF says that it was, or null.

    cache: pictures that it knows are not read again, where the table says how large and how old the files are.
    """

    def measure_all(chunks: Sequence[Chunk]) -> Iterator[Rows]:
        if chunks:
            _load_properties()  # so that its import is no part of the pace
        return map_where_it_pays(measure_chunk, chunks, workers, POOL_PAYS)

    return read_pictures(images, TABLE, measure_all, chunk=CHUNK, progress=progress, cache=cache)


def open_cache(folder: Path, log: Callable[[str], None]) -> Cache:
    """What is remembered of pictures' quality in a run folder."""
    return Cache(folder / "cache" / "quality", log, software=("pillow", "cleanvision"), read="color_space")


def find_picture_issues(measured: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """For each of KINDS the pictures with that issue, the worst first: image_index and cleanvision's score, 0 bad to 1 good.

    Grey ones are left out where all are grey, or more than half: then the data set is.
    """
    found = dict.fromkeys(KINDS, pl.DataFrame(schema={"image_index": pl.Int64, "score": pl.Float64}))
    usable = measured.filter(pl.col("color_space").is_not_null())
    if usable.is_empty():
        return found
    import pandas as pd  # type: ignore[import-untyped]
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    manager = ImagePropertyIssueManager()
    index = usable["image_index"].to_numpy()
    manager.issues = pd.DataFrame(index=index)
    values: dict[str, Any] = {name: usable[name].to_numpy() for name in MEASURES} | {"color_space": usable["color_space"].to_list()}
    manager.update_issues(pd.DataFrame(values, index=index), list(KINDS))
    for kind in KINDS:
        flagged = manager.issues[f"is_{kind}_issue"].to_numpy().astype(bool)
        score = manager.issues[f"{kind}_score"].to_numpy().astype(np.float64)
        if kind == "grayscale" and 2 * flagged.sum() > len(flagged):
            continue
        rows = pl.DataFrame({"image_index": index[flagged], "score": score[flagged]})
        found[kind] = rows.sort("score", "image_index")
    return found


def measure_chunk(jobs: Chunk) -> Rows:
    """Rows of TABLE for (image_index, path); plain data in and out, for other processes."""
    properties = _load_properties()
    with any_size_allowed():
        return [(index, *_measure(Path(path), properties)) for index, path in jobs]


def _load_properties() -> list[Any]:
    from cleanvision.issue_managers.image_property import BlurrinessProperty, BrightnessProperty, EntropyProperty

    return [BrightnessProperty("dark"), EntropyProperty(), BlurrinessProperty()]


def _measure(path: Path, properties: list[Any]) -> tuple[Any, ...]:

    empty = (None,) * (len(TABLE) - 2)  # all but the position and the problem
    try:
        require_plain(path)
        with open_image(path) as image:
            width, height = image.size
            refuse_claim(width, height, path.stat().st_size)
            mode, taken = image.mode, _find_date(image)
            if find_orientation(image) in SIDEWAYS:
                width, height = height, width
            wanted = SIDE / max(width, height)
            image.draft(None, (max(int(image.width * wanted), 1), max(int(image.height * wanted), 1)))
            if image.width * image.height > MOST:
                return f"has {width} x {height} pixels, too many to look at", *empty
            image.load()
            plain = _as_plain(image)
    except (*UNREADABLE, MemoryError) as error:
        return f"cannot be read ({error})", *empty
    by = int(max(plain.size) / SIDE)
    small = plain.reduce(by) if by > 1 else plain
    values: dict[str, Any] = {
        "aspect_ratio": min(width / height, height / width),
        "size": round(float(np.sqrt(width) * np.sqrt(height)), 6),
    }
    for measure in properties:
        values |= measure.calculate(small)
    return None, *(float(values[name]) for name in MEASURES), mode, taken


def _as_plain(image: Any) -> Any:
    """RGB, or 8-bit grey, which cleanvision reads as well."""
    if image.mode.startswith(("I", "F")) or image.mode in ("1", "L", "LA"):
        return to_grey(image)
    return image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA") else image.convert("RGB")


def _find_date(image: Any) -> str | None:
    """When the picture was taken, as EXIF has it."""
    if image.format == "PNG":
        return None  # Pillow would decode the whole picture to look for it
    exif = image.getexif()
    if not exif:
        return None
    said = exif.get_ifd(EXIF_BLOCK).get(DATE_TAGS[0]) or exif.get(DATE_TAGS[1])
    return said.replace("\x00", "").strip()[:32] or None if isinstance(said, str) else None
