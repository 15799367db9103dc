"""Files that are either complete or not there, and pictures that are shared without ever being altered."""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

MANY = 32  # files: more are brought to the disk by one call for their file system, as each on its own takes some milliseconds
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # as libraries written in Rust end their messages
PARQUET_MARK = b"PAR1"
JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


def write_whole(path: Path, content: str | bytes, *, settled: bool = False) -> None:
    """Writes beside `path` and renames, so that a reader sees the old file or the new one and never a half.

    settled: also after a power failure, which costs some milliseconds; without it such a one may leave an empty file under the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _make_way(path.with_name(path.name + ".partial"))
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    if settled:
        _settle_one(beside)
    os.replace(beside, path)


def _make_way(place: Path) -> Path:
    """`place`, under which no link lies any more: it would be written through, and a run folder may come from somebody else."""
    if place.is_symlink():
        place.unlink()
    return place


def refuse_following(path: str, flags: int) -> int:
    """An `opener` for what is written to in place: raises OSError where it is a link, which may lead to anything."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def settle(*places: Path) -> None:
    """Brings files, and folders with all that is below them, to the disk: a name that they get afterwards stands for all of their content.

    Links are left alone, and so is what they lead to.
    """
    for place in places:
        found = [place]
        if place.is_dir() and not place.is_symlink():
            found += [Path(here, name) for here, folders, files in os.walk(place) for name in (*folders, *files)]
        if len(found) > MANY:
            _settle_file_system(place)
            continue
        for path in found:
            if not path.is_symlink():
                _settle_one(path)


def _settle_file_system(place: Path) -> None:
    """All that is waiting for the file system of a folder: others, a slow share of the network say, are not waited for."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):  # Linux alone has it
        os.sync()
        return
    handle = os.open(place, os.O_RDONLY)
    try:
        if library.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(place))
    finally:
        os.close(handle)


def _settle_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by its path there. Left out are links, and logs, which no answer depends on."""
    sizes = {}
    for here, _, names in os.walk(folder):
        for path in (os.path.join(here, name) for name in names):
            if not path.endswith((".log", ".jsonl")) and not os.path.islink(path):
                sizes[os.path.relpath(path, folder)] = os.stat(path).st_size
    return sizes


def find_damage(folder: Path, sizes: dict[str, int]) -> str | None:
    """What is wrong with the first file that is not as `list_sizes` found it; None where all are."""
    for name, size in sizes.items():
        try:
            now = os.stat(folder / name).st_size
        except OSError as error:
            return f"{folder / name}: cannot be read ({error.strerror})"
        if now != size:
            return f"{folder / name}: cannot be read as it was written ({now:,} bytes, and not {size:,})"
    return None


def is_whole(path: Path) -> bool:
    """Whether a file is there and not cut: Parquet ends in its mark; weights, checkpoints and .npz are zips, whose directory is last."""
    import zipfile

    if path.suffix != ".parquet":
        return zipfile.is_zipfile(path)
    try:
        with open(path, "rb") as f:
            f.seek(-len(PARQUET_MARK), os.SEEK_END)
            return f.read() == PARQUET_MARK
    except OSError:  # gone, or shorter than its mark
        return False


def as_system_error(error: Exception, place: Path) -> OSError | None:
    """What the system refused below a library's error of its own, such as polars' where a disk is full; None where it is none of that."""
    found = SYSTEM_ERROR.search(str(error))
    if found is None or (isinstance(error, OSError) and error.errno is not None):
        return None
    number = int(found[1])
    return OSError(number, os.strerror(number), str(place))


def replace_content(path: Path, content: bytes) -> None:
    """New content for a file that is somebody else's: whole or not at all, on disk when this returns, with the mode and owner it had."""
    beside = _make_way(path.with_name(path.name + ".partial"))
    with open(beside, "wb") as f:
        if path.exists():
            state = path.stat()
            os.fchmod(f.fileno(), stat.S_IMODE(state.st_mode))
            with suppress(PermissionError):  # only root may give a file away; who is not, owns what it may replace, or shares the folder
                os.fchown(f.fileno(), state.st_uid, state.st_gid)
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.replace(beside, path)


def share_image(original: Path, place: Path, copy: bool = False) -> None:
    """A picture at `place` that may be read there and never lets a write through to the original.

    It is a symbolic link, but a copy where asked for, where links cannot be made, and for a JPEG without its end marker: Ultralytics
    rewrites those in place, through any link.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()  # copying onto a link would write into the picture that it leads to
    if not copy and not _is_unfinished_jpeg(original):
        try:
            place.symlink_to(original.resolve())
            return
        except OSError:  # no links on this file system, or not allowed
            pass
    shutil.copyfile(original, place)


def _is_unfinished_jpeg(path: Path) -> bool:
    if path.suffix.lower() not in JPEG_ENDINGS:
        return False
    with open(path, "rb") as f:
        f.seek(0, os.SEEK_END)
        if f.tell() < 2:
            return True
        f.seek(-2, os.SEEK_END)
        return f.read() != b"\xff\xd9"
