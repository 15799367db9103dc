"""What is remembered of pictures from one run to the next, so that only new and changed ones are read again.

A picture is taken for the same if its path, its size in bytes and its time of change are, and if the same software looked at it: its
bytes are not read. What is remembered lies in several files, which are whole and of bounded size; each begins with a digest of the
rest, as of a damaged file some rows might still be readable, and wrong.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from detclean.files import write_whole

FORMAT = 1  # raised when `hash_images` comes to answer differently
SAVE_EVERY = 2048  # pictures, a few seconds of work: what a crash can cost
ROWS_A_FILE = 16_384  # about 18 MiB, as pictures' thumbnails cannot be compressed
DIGEST_BYTES = 16
ENDING = ".hashes"
FILE_STATE = ("path", "bytes", "modified_ns")  # columns of the data set's images, as the stage `load` adds them


@dataclass(frozen=True)
class Cache:
    """A folder of remembered pictures, and where a line about a damaged file goes.

    software: the packages whose versions the rows depend on; read: the column that is null where a picture's file could not be read.
    """

    folder: Path
    log: Callable[[str], None]
    software: tuple[str, ...] = ("pillow", "imagehash")
    read: str = "digest"


def recall(cache: Cache, present: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """The remembered rows of the pictures in `present` (image_index and FILE_STATE): those of `schema`, image_index among them."""
    state = pl.Schema({"path": pl.String, "bytes": pl.Int64, "modified_ns": pl.Int64, "made_by": pl.String})
    stored = pl.Schema([*state.items(), *((name, kind) for name, kind in schema.items() if name != "image_index")])
    parts = [part for path in _list_files(cache.folder) if (part := _read_part(path, cache.log)) is not None]
    known = pl.concat([pl.DataFrame(schema=stored), *(part for part in parts if part.schema == stored)])
    known = known.filter(pl.col("made_by") == _made_by(cache)).unique(FILE_STATE, keep="last", maintain_order=True)
    return present.select("image_index", *FILE_STATE).join(known, on=FILE_STATE, how="inner").select(*schema).cast(schema)


def remember(cache: Cache, present: pl.DataFrame, hashes: pl.DataFrame, forget_others: bool = False) -> None:
    """Adds rows of `hashes` (as in `recall`) to what is remembered; forget_others: nothing else is remembered from then on.

    A picture whose file could not be read is not remembered: whether it can be does not show in its size and time.
    """
    before = _list_files(cache.folder)
    rows = present.select("image_index", *FILE_STATE).join(hashes, on="image_index", how="inner").drop("image_index")
    rows = rows.filter(pl.all_horizontal(pl.col(*FILE_STATE, cache.read).is_not_null())).with_columns(made_by=pl.lit(_made_by(cache)))
    rows = rows.select(*FILE_STATE, "made_by", *(name for name in hashes.columns if name != "image_index"))
    number = int(before[-1].stem) + 1 if before else 0
    for place, part in enumerate(rows.iter_slices(ROWS_A_FILE), start=number):
        content = io.BytesIO()
        part.write_parquet(content)
        write_whole(cache.folder / f"{place:06d}{ENDING}", _digest(content.getvalue()) + content.getvalue())
    if forget_others:
        for path in before:
            path.unlink()


def _list_files(folder: Path) -> list[Path]:
    """In the order in which they were written."""
    return sorted(path for path in folder.glob(f"*{ENDING}") if path.stem.isdigit() and path.is_file())


def _read_part(path: Path, log: Callable[[str], None]) -> pl.DataFrame | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        log(f"{path} cannot be read ({error.strerror or error}): its pictures are read anew")
        return None
    if _digest(content[DIGEST_BYTES:]) != content[:DIGEST_BYTES]:
        log(f"{path} is damaged: its pictures are read anew")
        return None
    return pl.read_parquet(io.BytesIO(content[DIGEST_BYTES:]))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _made_by(cache: Cache) -> str:
    """Another version of what decodes and hashes may come to other numbers."""
    return " ".join([str(FORMAT), *(f"{name} {version(name)}" for name in cache.software)])
