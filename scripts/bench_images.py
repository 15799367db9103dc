"""How fast the audit gets through pictures on one core: hashes (bytes, thumbnail, duplicates' marks) and sizes from headers.

    python scripts/bench_images.py [--images 600]
    python scripts/bench_images.py --hashes 118000      how long the search for duplicates takes among so many unrelated pictures
    python scripts/bench_images.py --write FOLDER       only writes them, as a YOLO data set of COCO's density, for `detclean plan`

The pictures are made up: smooth colours, texture, shapes and grain at 640 x 480, JPEG quality 90, as large as the photographs of COCO
(0.14 MB each). Times are of one process; beside the wall clock stands the processor's time, which a busy machine does not stretch.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detclean.audit.images import SIDE, find_duplicates, hash_images
from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.formats.imagefiles import read_image_sizes

WIDTH, HEIGHT, QUALITY = 640, 480, 90
TARGET = 300.0  # pictures a second and core
COARSE = (4, 16, 64)  # px of the grids that are blown up to the whole picture: large shades, and finer ones on them
AMPLITUDE = (70.0, 30.0, 14.0)  # grey levels of each grid, falling with its fineness as in photographs
GRAIN = 12.0  # grey levels of the sensor's noise; with it the files are as large as those of COCO, 0.14 MB
SHAPES = 12
BOXES, CATEGORIES = 7, 80  # of an image of COCO


@dataclass(frozen=True)
class Pace:
    """What was measured: how many pictures, and the seconds by the clock and of the processor."""

    task: str
    images: int
    wall: float
    processor: float


def make_photo(rng: np.random.Generator) -> Image.Image:
    """A picture of WIDTH x HEIGHT with the spectrum of a photograph, and shapes with sharp edges."""
    pixels = np.full((HEIGHT, WIDTH, 3), 120.0)
    for side, amplitude in zip(COARSE, AMPLITUDE, strict=True):
        grid = np.clip(rng.normal(128, amplitude, (side * 3 // 4, side, 3)), 0, 255).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(grid).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float64) - 128
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        x, y, width, height = (int(value) for value in (rng.integers(WIDTH), rng.integers(HEIGHT), *rng.integers(20, 160, 2)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + width, y + height), fill=colour)
    grain: NDArray[np.float64] = np.asarray(image, dtype=np.float64) + rng.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def write_photos(folder: Path, count: int) -> list[str]:
    """`count` JPEGs -> their paths."""
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number:06d}.jpg") for number in range(count)]
    for path in paths:
        make_photo(rng).save(path, quality=QUALITY)
    return paths


def write_yolo_set(folder: Path, count: int) -> None:
    """`count` pictures with BOXES random boxes each, and data.yaml: enough to see what work on such a set costs."""
    rng = np.random.default_rng(1)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in write_photos(folder / "images", count):
        side = np.exp(rng.uniform(np.log(0.03), np.log(0.5), (BOXES, 2)))
        centre = side / 2 + rng.random((BOXES, 2)) * (1 - side)
        rows = np.hstack([rng.integers(CATEGORIES, size=(BOXES, 1)), centre, side])
        text = "".join(f"{int(row[0])} {row[1]:.6f} {row[2]:.6f} {row[3]:.6f} {row[4]:.6f}\n" for row in rows)
        (folder / "labels" / f"{Path(path).stem}.txt").write_text(text)
    names = [f"category {number}" for number in range(CATEGORIES)]
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames: {names}\n")


def as_dataset(paths: list[str], folder: Path) -> Dataset:
    """The pictures as a data set without annotations."""
    table = {"image_id": paths, "file_name": paths, "path": paths, "width": WIDTH, "height": HEIGHT, "split": "train"}
    return Dataset(pl.DataFrame(table), ("thing",), Boxes.empty(), np.zeros(0, np.int64), "memory", folder)


def measure(task: str, images: int, work: Callable[[], object]) -> Pace:
    """The better of two runs: the first one warms the disk's cache, imports and tables."""
    paces = []
    for _ in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        paces.append(Pace(task, images, time.perf_counter() - wall, time.process_time() - processor))
    return min(paces, key=lambda pace: pace.processor)


def measure_all(folder: Path, count: int) -> list[Pace]:
    """Every measurement on `count` pictures that are written to `folder`."""
    paths = write_photos(folder, count)
    dataset = as_dataset(paths, folder)
    hashes = hash_images(dataset)
    return [
        measure("hash_images", count, lambda: hash_images(dataset)),
        measure("read_image_sizes", count, lambda: read_image_sizes(paths)),
        measure("find_duplicates", count, lambda: find_duplicates(hashes)),
    ]


def measure_search(count: int) -> Pace:
    """The search for duplicates among made-up hashes, which are as far apart as chance has it."""
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (count, SIDE * SIDE), dtype=np.uint8)
    hashes = pl.DataFrame(
        {
            "image_index": np.arange(count),
            "digest": np.arange(count).astype(str),
            "phash": rng.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + rng.integers(0, 2, count, dtype=np.uint64),
            "thumbnail": pl.Series([row.tobytes() for row in thumbnails], dtype=pl.Binary),
        }
    )
    wall, processor = time.perf_counter(), time.process_time()
    find_duplicates(hashes)
    return Pace("find_duplicates", count, time.perf_counter() - wall, time.process_time() - processor)


def as_table(paces: list[Pace]) -> str:
    """Rows of a Markdown table, the target in the last column."""
    rows = ["| task | images | images/s (clock) | images/s (processor) | target |", "| --- | ---: | ---: | ---: | ---: |"]
    for pace in paces:
        rows.append(
            f"| {pace.task} | {pace.images} | {pace.images / pace.wall:,.0f} | {pace.images / pace.processor:,.0f} | {TARGET:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--hashes", type=int, nargs="+")
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.hashes:
        print(as_table([measure_search(count) for count in arguments.hashes]))
        return
    if arguments.write:
        write_yolo_set(arguments.write, arguments.images)
        return
    count = arguments.images
    with tempfile.TemporaryDirectory() as folder:
        print(as_table(measure_all(Path(folder), count)))


if __name__ == "__main__":
    main()
