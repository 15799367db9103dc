"""Who writes where: what Python tells of it, and folders as they were before and are after."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS = ("/dev/", "/proc/")


class Watch:
    """Which writes of this process go where they should not; Python tells of every one that it makes itself."""

    def __init__(self, root: Path) -> None:
        self.root, self.allowed, self.strange = root, root / "work", list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            targets = [path] if isinstance(flags, int) and flags & WRITING else []
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"):
            below = event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] != -1  # of an open folder: shutil.rmtree told of it
            targets = [] if below else [arguments[0]]
        elif event in ("os.rename", "os.link"):
            targets = list(arguments[:2]) if event == "os.rename" else [arguments[1]]
        elif event == "os.symlink":
            targets = [arguments[1]]
        else:
            return
        for target in targets:
            if isinstance(target, str | bytes | os.PathLike) and self.root.exists():
                name = os.path.abspath(os.fsdecode(target))
                parent = os.path.realpath(os.path.dirname(name))
                if not f"{parent}/".startswith(f"{self.allowed}/") and name != str(self.allowed) and not name.startswith(HARMLESS):
                    self.strange.append(f"{event} {name}")


def list_tree(folder: Path) -> dict[str, Any]:
    """Every file, folder and link below a folder with its content, or what tells that this is another one."""
    found: dict[str, Any] = {}
    for here, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(here, name)
            state = os.lstat(path)
            key = os.fsdecode(path)
            found[key] = os.readlink(path) if os.path.islink(path) else (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino)
    return found


def list_names(root: Path) -> set[str]:
    """What lies beside a folder, and in it."""
    return {f"{folder.name}/{entry.name}" for folder in (root.parent, root) for entry in folder.iterdir()}
