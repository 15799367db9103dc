"""Damage to the folder that files lie in: links, pipes and folders where a file was, odd names, the same stem twice, nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzzing.mutations import TEXTS, Random

NAMES = ("a b", "a[1]", 'it\'s "a"', "a#b", "# a", "a\nb", "😀", "\u202eabc", "é*?")
LINKS = ("itself", "parent", "nowhere", "pair", "device", "pipe", "folder", "empty", "file")


def mutate_folder(rng: Random, folder: Path) -> None:
    """One change to the files of a folder: a link, a pipe or a folder where a file was, an odd name, the same stem twice, nothing."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    if not files:
        return
    path = rng.choice(files)
    act = rng.randrange(10)
    if act < 3:
        rename_oddly(rng, path)
    elif act == 3:
        path.unlink()
    elif act == 4:
        path.write_bytes(b"")
    elif act == 5:
        other = path.with_suffix(rng.choice((".jpg", ".JPG", ".png", ".txt", ".xml", ".bmp")))
        if not other.exists():
            shutil.copyfile(path, other)
    elif act == 6:
        loop = path.parent / rng.choice(("loop", "loop.jpg", "loop.txt", "loop.xml", "a.b"))
        if not loop.is_symlink() and not loop.exists():
            loop.symlink_to(rng.choice((Path("."), Path(".."), loop, folder)))
    else:
        path.unlink()
        put_oddity(rng.choice(LINKS), path)


def rename_oddly(rng: Random, path: Path) -> None:
    """An odd name with the same ending; nothing where no file can be called so."""
    name = rng.choice((rng.choice(TEXTS), rng.choice(NAMES))).replace("/", "-").replace("\0", "")[:80]
    target = path.with_name(rng.choice((name + path.suffix, name + path.name, path.stem + name, path.name.upper())))
    try:
        path.rename(target)
    except (OSError, UnicodeError):
        raw = os.fsencode(path.parent) + b"/\xff\xfe" + os.fsencode(path.suffix)  # not UTF-8
        os.rename(os.fsencode(path), raw)


def put_oddity(kind: str, path: Path) -> None:
    """What is no plain file, where one was."""
    makers: dict[str, Callable[[], object]] = {
        "itself": lambda: path.symlink_to(path.name),
        "parent": lambda: path.symlink_to(".."),
        "nowhere": lambda: path.symlink_to("not-there"),
        "pair": lambda: _link_to_each_other(path, path.with_name(path.name + ".2")),
        "device": lambda: path.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "empty": path.touch,
        "file": lambda: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    }
    makers[kind]()


def _link_to_each_other(one: Path, other: Path) -> None:
    one.symlink_to(other.name)
    other.symlink_to(one.name)
