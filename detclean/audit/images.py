"""Faults of the pictures: unreadable ones, sizes that disagree with the labels, and the same picture more than once."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from detclean.audit.cache import Cache
from detclean.audit.geometry import list_findings
from detclean.audit.reading import Chunk, Mapper, Rows, map_where_it_pays, read_pictures
from detclean.boxes import Floats, Ints
from detclean.dataset import Dataset, Finding, Severity, shorten_path
from detclean.formats.imagefiles import (
    ORIENTATION_TAG,
    UNREADABLE,
    any_size_allowed,
    find_orientation,
    open_image,
    read_image_sizes,
    refuse_claim,
)
from detclean.formats.plainfile import read_plain

SIDE = 32  # px a side of the thumbnail: what imagehash.phash reduces a picture to as well
CHUNK = 64  # pictures a task
POOL_PAYS = 5.0  # s of work below which starting processes, each of which imports polars and more, costs more than it brings
MOST_BYTES = 1 << 29  # a picture may take decoded; of what is larger (134 megapixels of RGB, JPEGs apart) nothing but the bytes is compared
FLAT = 2.0  # grey levels of standard deviation; below it the hash and the correlation are made of noise alone
MAX_DISTANCE = 10  # of 64 bits; see find_duplicates for how this and MIN_CORRELATION were measured
MIN_CORRELATION = 0.93
BLOCK_BITS = 16  # a 64-bit hash falls into four blocks
PAIRS_AT_ONCE = 1 << 20  # candidates held in memory, a few tens of MiB
CONFIRMED_AT_ONCE = 1 << 13  # pairs of thumbnails, 64 MiB as float32

HASHES = pl.Schema(
    {
        "image_index": pl.Int64,
        "digest": pl.String,
        "phash": pl.UInt64,
        "width": pl.Int64,
        "height": pl.Int64,
        "problem": pl.String,
        "rotated": pl.Boolean,
        "thumbnail": pl.Binary,
    }
)
DUPLICATES = pl.Schema({"image_a": pl.Int64, "image_b": pl.Int64, "kind": pl.String})


def hash_images(
    dataset: Dataset,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    mapper: Mapper | None = None,
    cache: Cache | None = None,
) -> pl.DataFrame:
    """One pass over the pictures that exist; one row a picture, in the order of the data set.

    image_index; digest of the file's bytes (null where there is no file to read); phash, 64 bits (null where the picture is unreadable
    of one colour, or very large); width and height in pixels after EXIF rotation (null where the header is unreadable); problem in
    words, or null; rotated: EXIF says that the picture is to be turned; thumbnail: 32 x 32 grey values as bytes (null as phash).

    workers: processes here; mapper: who does the work instead of them. cache: pictures that it knows are not read again, where the
    images table says how large and how old the files are (bytes, modified_ns).
    """

    def hash_all(chunks: Sequence[Chunk]) -> Iterator[Rows]:
        return mapper(hash_chunk, chunks) if mapper else map_where_it_pays(hash_chunk, chunks, workers, POOL_PAYS)

    return read_pictures(dataset.images, HASHES, hash_all, chunk=CHUNK, progress=progress, cache=cache)


def find_duplicates(hashes: pl.DataFrame, *, max_distance: int = MAX_DISTANCE, min_correlation: float = MIN_CORRELATION) -> pl.DataFrame:
    """The pictures that are there more than once: image_a < image_b and kind, "exact" (the same bytes) or "near".

    A group of m pictures comes as m - 1 pairs that hold it together, so a group that lies in two splits has a pair that does.

    Near is a Hamming distance of the phashes of at most `max_distance` and a Pearson correlation of the thumbnails of at least
    `min_correlation`. Measured on 182 microscope photographs (BCCD) and 300 scenes over two photographs: copies 0.7 to 1.3 times as
    bright, with less contrast, JPEG quality 30, half size or another aspect stay within 10 bits, and 99 % of them above 0.93. Of 2,500
    scenes over those two photographs, 3.1 million pairs, 179 come within 10 bits and three of those above 0.93, all three the same
    crop under other glyphs; of 66,000 pairs in BCCD one, the same cell photographed twice. What it does not see is a shifted picture:
    by 2 % of the side is enough to hide a copy.
    """
    hashes = hashes.sort("image_index")
    first = hashes.filter(pl.col("digest").is_not_null()).with_columns(first=pl.col("image_index").min().over("digest"))
    exact = first.filter(pl.col("first") != pl.col("image_index"))
    alone = hashes.filter(pl.col("phash").is_not_null() & ~pl.col("image_index").is_in(exact["image_index"].implode()))
    near = alone["image_index"].to_numpy()[_find_near(alone, max_distance, min_correlation)]
    parts = [
        exact.select(image_a="first", image_b="image_index", kind=pl.lit("exact")),
        pl.DataFrame({"image_a": near[:, 0], "image_b": near[:, 1]}).with_columns(kind=pl.lit("near")),
    ]
    return pl.concat([part.cast(DUPLICATES) for part in parts]).sort("image_a", "image_b")


def find_image_faults(dataset: Dataset, hashes: pl.DataFrame, duplicates: pl.DataFrame) -> list[Finding]:
    """Unreadable and rotated pictures, sizes that disagree with the labels, duplicates, and duplicates across splits."""
    names, splits = dataset.images["file_name"].to_list(), dataset.images["split"].to_list()
    counts = np.bincount(dataset.annotations.image_index, minlength=dataset.image_count)
    labelled = dataset.images.select("path", labelled_width="width", labelled_height="height").with_row_index("image_index")
    known = hashes.join(labelled.cast({"image_index": pl.Int64}), on="image_index", maintain_order="left")
    pairs = duplicates.with_columns(
        leak=pl.Series([splits[a] != splits[b] for a, b in duplicates.select("image_a", "image_b").iter_rows()], dtype=pl.Boolean)
    )

    def place(row: dict[str, Any]) -> str:
        return shorten_path(row["path"], dataset.source)

    def describe_unreadable(row: dict[str, Any]) -> tuple[str, str]:
        return place(row), f"{row['problem']}: replace the file, or take the image out of the data set"

    def describe_size(row: dict[str, Any]) -> tuple[str, str]:
        turned = " once turned as its EXIF says" if row["rotated"] else ""
        given = f"{row['labelled_width']}x{row['labelled_height']}"
        return place(
            row
        ), f"is {row['width']}x{row['height']} px{turned}, but the labels say {given}: correct them, or the boxes are misplaced"

    def describe_rotated(row: dict[str, Any]) -> tuple[str, str]:
        return place(row), "EXIF turns this picture: its boxes are read on the turned picture, as OpenCV and Ultralytics show it"

    def describe_pair(row: dict[str, Any]) -> tuple[str, str]:
        a, b = row["image_a"], row["image_b"]
        alike = "the same file as" if row["kind"] == "exact" else "nearly the same picture as"
        where = shorten_path(dataset.images["path"][b], dataset.source)
        if row["leak"]:
            return where, f"{alike} {names[a]}, but one is in {splits[a]} and one in {splits[b]}: take one out, or results there mislead"
        remedy = "keep one" if row["kind"] == "exact" else "both go into one fold"
        return where, f"{alike} {names[a]} ({counts[b]} and {counts[a]} annotations): {remedy}"

    def report(kind: str, severity: Severity, frame: pl.DataFrame, describe: Callable[[dict[str, Any]], tuple[str, str]]) -> list[Finding]:
        return list_findings(kind, severity, np.arange(frame.height), lambda i: describe(frame.row(i, named=True)), dataset.source.name)

    size_known = (pl.col("labelled_width") > 0) & (pl.col("labelled_height") > 0)
    size_differs = (pl.col("width") != pl.col("labelled_width")) | (pl.col("height") != pl.col("labelled_height"))
    return [
        *report("unreadable-image", "warning", known.filter(pl.col("problem").is_not_null()), describe_unreadable),
        *report("image-size-mismatch", "warning", known.filter(pl.col("problem").is_null(), size_known, size_differs), describe_size),
        *report("image-rotated", "note", known.filter(pl.col("rotated")), describe_rotated),
        *report("leak-across-splits", "warning", pairs.filter("leak"), describe_pair),
        *report("image-duplicate", "warning", pairs.filter(~pl.col("leak"), pl.col("kind") == "exact"), describe_pair),
        *report("image-near-duplicate", "note", pairs.filter(~pl.col("leak"), pl.col("kind") == "near"), describe_pair),
    ]


def hash_chunk(jobs: Chunk) -> Rows:
    """Rows of HASHES for (image_index, path); plain data in and out, for other processes and machines."""
    with any_size_allowed():
        return [(index, *_hash_image(Path(path))) for index, path in jobs]


def _hash_image(path: Path) -> tuple[Any, ...]:
    """digest, phash, width, height, problem, rotated, thumbnail of one picture.

    Of the 1.8 ms for a JPEG of 640 x 480 and 0.14 MB undoing its Huffman code takes 1.0, whoever does it; OpenCV's reduced decoding
    would save 0.35 and give other thumbnails than those on which the limits of `find_duplicates` were measured.
    """
    from PIL import Image, ImageOps

    try:
        content = read_plain(path)
    except OSError as error:
        return None, None, None, None, f"cannot be read ({error.strerror or error})", False, None
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        image = open_image(io.BytesIO(content))
        width, height = image.size
    except UNREADABLE:
        return digest, None, None, None, "is no image that Pillow can open", False, None
    try:
        refuse_claim(width, height, len(content))
        image.draft("L", (2 * SIDE, 2 * SIDE))  # JPEGs only: decodes at a quarter or an eighth where that suffices
        if (
            image.width * image.height * (16 if image.mode.startswith(("I", "F")) else 1 if image.mode in ("1", "L", "P") else 4)
            > MOST_BYTES
        ):
            return digest, None, width, height, None, False, None
        turned = find_orientation(image)  # asked before, as Pillow turns a TIFF while it reads it and forgets that it did
        image.load()
        rotated = turned in range(2, 9) or image.getexif().get(ORIENTATION_TAG, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if rotated else image
        thumbnail = to_grey(upright).resize((SIDE, SIDE), Image.Resampling.BOX)
    except UNREADABLE as error:
        return digest, None, width, height, f"is truncated or damaged ({error})", False, None
    if rotated:
        width, height = (int(side) for side in read_image_sizes([str(path)])[0])
        if not (width and height):
            return digest, None, None, None, "is no image that OpenCV can open", False, None
    if np.asarray(thumbnail).std() < FLAT:
        return digest, None, width, height, None, rotated, None
    return digest, _hash_thumbnail(thumbnail), width, height, None, rotated, thumbnail.tobytes()


def to_grey(image: Any) -> Any:
    """8-bit grey. Values of more than 8 bits are stretched from their lowest to their highest, since Pillow would cut them at 255."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image if image.mode == "L" else image.convert("L")
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(np.uint8(255 * (values - low) / max(high - low, 1e-9)))


def _hash_thumbnail(thumbnail: Any) -> int:
    import imagehash

    return int.from_bytes(np.packbits(imagehash.phash(thumbnail).hash).tobytes(), "big")


def _find_near(hashes: pl.DataFrame, max_distance: int, min_correlation: float) -> Ints:
    """Positions (p, 2), first below second, that hold the groups of near-duplicates together; see find_duplicates.

    Found pairs are thinned to a spanning forest as they come in, and pairs within one tree are not looked at again: neither
    100,000 unrelated pictures nor the frames of one still camera, which are all alike, fill the memory.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    n, phash = hashes.height, hashes["phash"].to_numpy()
    if n < 2:
        return np.empty((0, 2), np.int64)
    thumbnails = np.frombuffer(b"".join(hashes["thumbnail"].to_list()), np.uint8).reshape(n, -1)
    pairs = np.empty((0, 2), np.int64)
    tree = np.arange(n)
    for a, b in _candidates(phash, max_distance):
        near = np.flatnonzero(np.bitwise_count(phash[a] ^ phash[b]) <= max_distance)
        for begin in range(0, len(near), CONFIRMED_AT_ONCE):
            part = near[begin : begin + CONFIRMED_AT_ONCE]
            part = part[tree[a[part]] != tree[b[part]]]
            sure = part[_correlate(thumbnails, a[part], b[part]) >= min_correlation]
            if not len(sure):
                continue
            edges = np.concatenate([pairs, np.stack([a[sure], b[sure]], axis=1)])
            graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
            pairs = np.stack(minimum_spanning_tree(graph).nonzero(), axis=1).astype(np.int64)
            tree = connected_components(graph, directed=False)[1]
    return pairs


def _candidates(phash: NDArray[np.uint64], max_distance: int) -> Iterator[tuple[Ints, Ints]]:
    """Positions of pairs that may lie within `max_distance` bits, all of those that do among them; (p,) and (p,) at a time.

    If two hashes differ in at most d of 64 bits, then in one of their four blocks they differ in at most d // 4: so each hash is
    looked up in a table of each block, under its own value and under every value that differs in so few bits.
    """
    blocks, radius = 64 // BLOCK_BITS, max_distance // (64 // BLOCK_BITS)
    flips = [sum(1 << bit for bit in bits) for count in range(radius + 1) for bits in itertools.combinations(range(BLOCK_BITS), count)]
    for block in range(blocks):
        value = ((phash >> np.uint64(block * BLOCK_BITS)) & np.uint64((1 << BLOCK_BITS) - 1)).astype(np.int64)
        order = np.argsort(value, kind="stable")
        edges = np.searchsorted(value[order], np.arange((1 << BLOCK_BITS) + 1))
        for flip in flips:
            start, stop = edges[value ^ flip], edges[(value ^ flip) + 1]
            yield from _expand(order, start, stop)


def _expand(order: Ints, start: Ints, stop: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs (i, order[j]) for start[i] <= j < stop[i] and i < order[j], about PAIRS_AT_ONCE at a time."""
    lengths = stop - start
    begins = np.cumsum(lengths) - lengths
    used = np.flatnonzero(lengths)
    cuts = np.flatnonzero(np.diff(begins[used] // PAIRS_AT_ONCE, prepend=-1))
    for part in np.split(used, cuts[1:]):
        a = np.repeat(part, lengths[part])
        if not len(a):
            continue
        offset = np.arange(len(a)) - np.repeat(begins[part] - begins[part[0]], lengths[part])
        b = order[start[a] + offset]
        ahead = a < b
        yield a[ahead], b[ahead]


def _correlate(thumbnails: NDArray[np.uint8], a: Ints, b: Ints) -> Floats:
    """Pearson correlation of the pictures at positions a (p,) and b (p,) -> (p,)."""
    result = np.zeros(len(a))
    for begin in range(0, len(a), CONFIRMED_AT_ONCE):
        part = slice(begin, begin + CONFIRMED_AT_ONCE)
        x, y = (_standardise(thumbnails[side[part]]) for side in (a, b))
        result[part] = np.einsum("ij,ij->i", x, y)
    return result


def _standardise(pixels: NDArray[np.uint8]) -> Floats:
    """Rows of mean 0 and length 1; a flat row stays 0."""
    centred = pixels.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    return centred
