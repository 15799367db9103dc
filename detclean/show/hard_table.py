"""Hard samples as files, hard.csv and hard.txt, and as tables on the terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclean.errors import StageError
from detclean.files import write_whole
from detclean.show.progress import clean_text
from detclean.show.summary import open_console

CSV, LIST = "hard.csv", "hard.txt"
SCHEMA = {
    "category": pl.String,
    "rank": pl.Int64,
    "image_id": pl.String,
    "file_name": pl.String,
    "hardness": pl.Float64,
    "entropy": pl.Float64,
    "disagreement": pl.Float64,
    "objects": pl.Int64,
    "issues": pl.Int64,
    "similar_to": pl.String,  # where new images are ranked
}
DECIMALS = 4
HARDEST_SHOWN = 10
CATEGORIES_SHOWN = 30


def write_hard(ranked: pl.DataFrame, images: pl.DataFrame, categories: Sequence[str], folder: Path, *, listed: int | None = None) -> None:
    """hard.csv and hard.txt, a YOLO list of the images, hardest first.

    ranked: as `rank_images` has it, with issues, and similar_to where it applies. images: image_id, file_name, path. listed: the most
    images in hard.txt, all if not said. A path with a line break in it is no line of a list, and stands in hard.csv alone.
    """
    names = pl.Series("category", categories, dtype=pl.String)
    position = ranked["image_index"]
    identity = [images[name].gather(position).cast(pl.String) for name in ("image_id", "file_name")]
    table = ranked.with_columns(names.gather(ranked["category"]), *identity)
    table = table.select(name for name in SCHEMA if name in table.columns)
    places = images.select(pl.coalesce("path", "file_name")).to_series().gather(position.filter(ranked["category"].is_null())).to_list()
    write_whole(folder / CSV, table.write_csv(float_precision=DECIMALS))
    lines = [place for place in places if len(place.splitlines()) == 1]
    write_whole(folder / LIST, "".join(f"{place}\n" for place in lines[:listed]).encode("utf-8", "surrogateescape"))


def read_hard(folder: Path) -> pl.DataFrame:
    """The rows of a folder's hard.csv. Raises StageError where there is none."""
    path = folder / CSV
    try:
        return pl.read_csv(path, schema_overrides=SCHEMA, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        remedy = "repeat the run with this version, which keeps what it can"
        raise StageError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {remedy}") from None


def print_hard(
    ranked: pl.DataFrame, folder: Path, precision: Mapping[str, float | None] | None = None, console: Console | None = None
) -> None:
    """The hardest images, the categories, and what to open. ranked: rows of hard.csv; precision: AP50 by category, of a run."""
    console = console or open_console()
    whole = ranked.filter(pl.col("category").is_null())
    _print_hardest(whole, console)
    _print_categories(ranked.filter(pl.col("category").is_not_null()), precision, console)
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    console.print(Text("\nOpen next", style="bold"))
    for name, what in {CSV: "every image, and every category's", LIST: "the images as a list, hardest first"}.items():
        console.print(Text(f"{clean_text(str(shown / name))}  {what}"), soft_wrap=True)
    if precision is not None:
        place = shlex.quote(str(shown))
        console.print(
            Text(clean_text(f"\nOf new images, which to annotate first: python -m detclean hard --images FOLDER --run {place}")),
            soft_wrap=True,
        )


def _print_hardest(whole: pl.DataFrame, console: Console) -> None:
    """Where no model disagrees with another, or no label is known, the column is left out."""
    shown = whole.head(HARDEST_SHOWN)
    columns = {"image": "file_name", "hardness": "hardness", "entropy": "entropy", "disagreement": "disagreement", "objects": "objects"}
    columns |= {"noisy issues": "issues"}
    absent = {name for name in ("disagreement", "issues") if whole[name].is_null().all()}
    absent |= {"entropy"} if "disagreement" in absent else set()  # alone it is the hardness
    known = {title: name for title, name in columns.items() if name not in absent}
    rows = [[_say(row[name]) for name in known.values()] for row in shown.iter_rows(named=True)]
    title = f"The {shown.height} hardest of {whole.height} images" if shown.height > 1 else "The hardest image"
    _print_table(title, [*known], rows, console)


def _print_categories(ranked: pl.DataFrame, precision: Mapping[str, float | None] | None, console: Console) -> None:
    """Of each category how hard its objects are on average, the hardest category first."""
    weighted = (pl.col("hardness") * pl.col("objects")).sum() / pl.col("objects").filter(pl.col("hardness").is_not_null()).sum()
    table = ranked.group_by("category", maintain_order=True).agg(
        weighted.fill_nan(None).alias("hardness"),
        pl.len().alias("images"),
        pl.col("objects").sum(),
        pl.col("file_name").first().alias("hardest"),
    )
    table = table.sort("hardness", descending=True, nulls_last=True, maintain_order=True)
    if table.is_empty():
        return
    header = ["category", "hardness", "images", "objects", *(["AP50"] if precision is not None else []), "hardest image"]
    rows = []
    for row in table.head(CATEGORIES_SHOWN).iter_rows(named=True):
        figures = [_say(row[name]) for name in ("hardness", "images", "objects")]
        rows.append([row["category"], *figures, *([_say(precision.get(row["category"]))] if precision is not None else []), row["hardest"]])
    title = (
        "Hardness of each category" if table.height <= CATEGORIES_SHOWN else f"The {CATEGORIES_SHOWN} hardest of {table.height} categories"
    )
    _print_table(title, header, rows, console)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 2), show_edge=False)
    for name in header:
        words = name in ("image", "category", "hardest image")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean_text(" ".join(cell.split()))) for cell in row))
    console.print(Text(f"\n{title}", style="bold"))
    console.print(table, highlight=False)


def _say(value: float | int | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
