"""Pictures as files: which files are pictures, and how large they are seen upright."""

from __future__ import annotations

import glob
import hashlib
import os
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

import numpy as np
from PIL import Image

from detclean.boxes import Ints
from detclean.formats.plainfile import require_plain
from detclean.machine import count_cores

# IMG_FORMATS of ultralytics/data/utils.py: what is not in it is not trained on either
IMAGE_ENDINGS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
ORIENTATION_TAG = 274
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap width and height
TURNED_ALIKE = ("JPEG", "MPO", "PNG", "AVIF")  # formats that are turned as EXIF says whoever reads them
# what Pillow raises for damaged files
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, TypeError, ArithmeticError, EOFError, LookupError, RuntimeError),
    *(MemoryError, struct.error, zlib.error),
)
PROGRAMS = ("EPS",)  # formats that Pillow hands to a program that it finds, Ghostscript, whatever the file is called
LARGEST = 1 << 30  # pixels; OpenCV reads no more, so no detector saw such a picture, and it is a damaged file that says so
DENSEST = 1_000  # pixels of a byte; more come only to pictures of one colour, to damaged headers, and to bombs that unfold to gigabytes
LARGE = 40_000_000  # pixels; so many are believed of any file
LONGEST_NAME = 240  # bytes of a file's name, of the 255 that file systems allow, as endings come to it
READER_THREADS = 4  # where files must come from the disk four are fastest (11,000 headers a second; 7,000 with one or with eight)
HEADERS_A_TURN = 64  # of a thread: with one each, handing over costs three times what reading does
HEADERS_A_TASK = 4096  # of a process
PROCESSES_PAY = 50_000  # headers, two seconds of reading; below it starting processes costs more than it brings
MAX_PROCESSES = 8  # that read headers

T = TypeVar("T")
R = TypeVar("R")


def is_image_name(name: str) -> bool:
    """Whether a file name ends like a picture's, in any case."""
    return "." in name and name.rpartition(".")[2].lower() in IMAGE_ENDINGS


def list_files(folder: Path) -> list[str]:
    """All files below a folder, as sorted paths relative to it; hidden ones are left out, as Ultralytics leaves them out."""
    return sorted(Path(name).as_posix() for name in glob.glob("**/*.*", root_dir=folder, recursive=True))


def list_images(folder: Path) -> list[str]:
    """All pictures below a folder, as sorted paths relative to it."""
    return [name for name in list_files(folder) if is_image_name(name)]


def drop_ending(name: str) -> str:
    """`a/b.c.jpg` -> `a/b.c`."""
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.name else name


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a file's name that stay below a folder they are joined to: without the root and without `..`.

    What no file can be called, as a COCO file without pictures may name it, becomes what one can: without zero bytes, and not too long.
    """
    return tuple(_shorten(part) for part in PurePosixPath(name.replace("\0", "")).parts if part not in ("/", "//", ".."))


def _shorten(part: str) -> str:
    """The end of a name, with a digest of the whole."""
    content = part.encode("utf-8", "surrogateescape")
    if len(content) <= LONGEST_NAME:
        return part
    return hashlib.blake2b(content, digest_size=6).hexdigest() + "-" + content[-LONGEST_NAME // 2 :].decode("utf-8", "ignore")


def map_in_processes(function: Callable[[T], R], arguments: Sequence[T], workers: int) -> Iterator[R]:
    """`function` of each argument, in order, computed by so many processes; it must be a module's, and what goes in and out plain data.

    Not fork: polars has threads running, and a forked child may wait for ever for a lock that one of them holds. Not the standard
    library's spawn, which runs the user's script anew in every child: one without `if __name__ == "__main__"` would fail there.
    """
    from joblib.externals.loky import ProcessPoolExecutor  # type: ignore[import-untyped]  # comes with scikit-learn

    with ProcessPoolExecutor(workers, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        yield from pool.map(function, arguments)


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent: one whose parent was killed would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_image_sizes(paths: Sequence[str]) -> Ints:
    """Width and height in pixels of each picture, upright, from its header: (n,) paths -> (n, 2); zeros where it cannot be read."""
    workers = min(count_cores(), MAX_PROCESSES) if len(paths) >= PROCESSES_PAY else 1
    if workers == 1:
        return _read_headers(paths)
    tasks = [paths[i : i + HEADERS_A_TASK] for i in range(0, len(paths), HEADERS_A_TASK)]
    return np.concatenate(list(map_in_processes(_read_headers, tasks, workers)))


def _read_headers(paths: Sequence[str]) -> Ints:
    """`read_image_sizes` in this process."""
    turns = [paths[i : i + HEADERS_A_TURN] for i in range(0, len(paths), HEADERS_A_TURN)]
    with any_size_allowed(), ThreadPoolExecutor(READER_THREADS) as pool:
        sizes = [size for turn in pool.map(lambda turn: [_read_image_size(path) for path in turn], turns) for size in turn]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _read_image_size(path: str) -> tuple[int, int]:
    try:
        require_plain(path)
        with open_image(path) as image:
            width, height = image.size
            if min(width, height) <= 0:
                return 0, 0
            if find_orientation(image) not in SIDEWAYS:
                return width, height
            if image.format in TURNED_ALIKE:
                return height, width
            refuse_claim(width, height, os.path.getsize(path))
        return _decoded_size(path)
    except UNREADABLE:
        return 0, 0


def refuse_claim(width: int, height: int, size: int) -> None:
    """Raises ValueError where a header says more pixels than a file of `size` bytes can hold, before room is made for them."""
    if width * height > min(LARGEST, max(LARGE, DENSEST * size)):
        raise ValueError(f"{width} x {height} pixels are no picture's")


def open_image(source: str | Path | IO[bytes]) -> Image.Image:
    """A picture of which nothing but the header is read, in no format that runs a program. Raises UNREADABLE."""
    return Image.open(source, formats=_list_formats())


@cache
def _list_formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in PROGRAMS]


def find_orientation(image: Image.Image) -> int:
    """How EXIF says that an opened picture is to be turned, from its header: 1 is not at all."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # Pillow would decode the whole picture to look for the block behind it
    return int(image.getexif().get(ORIENTATION_TAG, 1) or 1)


def _decoded_size(path: str) -> tuple[int, int]:
    """For the few formats where the versions of OpenCV turn a picture or do not: as the installed one reads it."""
    import cv2

    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return 0, 0
    return (0, 0) if pixels is None else (pixels.shape[1], pixels.shape[0])


class _Readers:
    """How many read with Pillow's limit lifted, in any thread, and how it is put back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.lifted = ExitStack()


_READERS = _Readers()


@contextmanager
def any_size_allowed() -> Iterator[None]:
    """Lets Pillow open pictures of any size, in all threads until the last one leaves: aerial and slide images are huge and the user's own.

    Warnings are silenced as well: they are of size, of damaged EXIF blocks and the like, which change nothing here.
    """
    with _READERS.lock:
        if _READERS.count == 0:
            _READERS.lifted.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _READERS.lifted.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            Image.MAX_IMAGE_PIXELS = None
        _READERS.count += 1
    try:
        yield
    finally:
        with _READERS.lock:
            _READERS.count -= 1
            if _READERS.count == 0:
                _READERS.lifted.close()
