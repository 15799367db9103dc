"""One pass over pictures: what is remembered is not read again, the rest is, a few at a time, here or in processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

from detclean.audit.cache import FILE_STATE, SAVE_EVERY, Cache, recall, remember
from detclean.formats.imagefiles import map_in_processes

Chunk = Sequence[tuple[int, str]]  # image_index and path
Rows = list[tuple[Any, ...]]  # as in the schema of the pass
Mapper = Callable[[Callable[[Chunk], Rows], Sequence[Chunk]], Iterator[Rows]]  # a function and arguments -> its results, in order


def read_pictures(
    images: pl.DataFrame,
    schema: pl.Schema,
    work: Callable[[Sequence[Chunk]], Iterator[Rows]],
    *,
    chunk: int,
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
) -> pl.DataFrame:
    """One row of `schema`, image_index first, for each picture of the table images that exists, in its order.

    work: the rows of each chunk of at most `chunk` pictures, in order. progress is called with the number of pictures read or remembered,
    and of all. cache: pictures that it knows are not read again, where the table says how large and how old the files are.
    """
    present = images.with_row_index("image_index").filter(pl.col("path").is_not_null()).cast({"image_index": pl.Int64})
    if cache and not {*FILE_STATE} <= {*present.columns}:
        cache = None
    known = recall(cache, present, schema) if cache else pl.DataFrame(schema=schema)
    unknown = present.join(known, on="image_index", how="anti", maintain_order="left")
    jobs = list(zip(unknown["image_index"].to_list(), unknown["path"].to_list(), strict=True))
    chunks = [jobs[i : i + chunk] for i in range(0, len(jobs), chunk)]
    parts, saved, done = [known], 1, known.height
    if progress and done:
        progress(done, present.height)
    for rows in work(chunks):
        parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
        done += len(rows)
        if cache and (len(parts) - saved) * chunk >= SAVE_EVERY:
            remember(cache, present, pl.concat(parts[saved:]))
            saved = len(parts)
        if progress:
            progress(done, present.height)
    table = pl.concat(parts).sort("image_index")
    if cache and jobs:
        remember(cache, present, table, forget_others=True)
    return table


def map_where_it_pays(function: Callable[[Chunk], Rows], chunks: Sequence[Chunk], workers: int, pool_pays: float) -> Iterator[Rows]:
    """The rows of each chunk, in order; in processes where the first chunk's pace says that the rest takes `pool_pays` seconds or more."""
    if not chunks:
        return
    workers = min(workers, len(chunks))
    begin = time.perf_counter()
    yield function(chunks[0])
    pace, rest = time.perf_counter() - begin, chunks[1:]
    yield from map(function, rest) if workers <= 1 or pace * len(rest) < pool_pays else map_in_processes(function, rest, workers)
