"""Files that are either complete or not there, and pictures that are shared without ever being altered."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes beside `path` and renames, so that a reader sees the old file or the new one and never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)


def replace_content(path: Path, content: bytes) -> None:
    """New content for a file that is somebody else's: whole or not at all, on disk when this returns, with the mode and owner it had."""
    beside = path.with_name(path.name + ".partial")
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
