"""Files as they should be: what is no plain file is refused, since reading a pipe waits for ever and a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain(path: str | Path) -> bytes:
    """A file's content. Raises OSError where it cannot be read, be it that it is a pipe or a device."""
    require_plain(path)
    with open(path, "rb") as file:
        return file.read()


def require_plain(path: str | Path) -> None:
    """Raises OSError where a path leads to no file, or to a folder, a pipe, a socket or a device; opening is another matter."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a zero byte, or half of a character
        raise FileNotFoundError(errno.ENOENT, "no file can have this name", repr(str(path))[:80]) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe or a device, no file", str(path))
