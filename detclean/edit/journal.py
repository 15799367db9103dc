"""What a patch says, and which files it may touch: its journal is read as a stranger's, since a run folder may be one.

Of a copy that is what lies in the run's own `applied`; in place, the label files of the data set that the run has read, and the caches
beside them. A journal that names anything else writes and removes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import orjson
import polars as pl

from detclean.errors import DatasetError
from detclean.formats.plainfile import read_plain, require_plain

Mode = Literal["copy", "in place"]
Which = Literal["before", "after"]
COPY = "applied"  # the cleaned copy's folder in the run folder
INVENTORY = "copy.json"  # in a patch: every file of the copy that it made
NUMBER = re.compile(r"[0-9]{4,}")  # a patch's folder
LOAD = re.compile(r"load-[0-9a-f]+")  # a stage's
LONGEST_PART = 255  # bytes of a name in a path
DIGEST = re.compile(r"[0-9a-f]{64}")
REMEDY = "nothing was written; the files as they were lie beside it, in before/, and can be copied back by hand"


@dataclass(frozen=True)
class PatchFile:
    """One that a patch writes.

    path: absolute, of a copy's files relative to the run folder. before and after: digests of its content, None where it does not exist.
    derived: a cache of another tool's.
    """

    path: str
    before: str | None
    after: str | None
    derived: bool = False


def digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def list_patches(folder: Path) -> list[Path]:
    """The patches of a run folder, the oldest first."""
    home = folder / "patches"
    found = [path for path in home.glob("*") if NUMBER.fullmatch(path.name) and path.is_dir()] if home.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def home_of(patch: Path) -> Path:
    """The run folder of a patch."""
    return patch.absolute().parent.parent


def read_patch(patch: Path) -> dict[str, Any]:
    """patch.json. Raises DatasetError where it cannot be read, or is not as detclean writes it."""
    place = patch / "patch.json"
    try:
        document: dict[str, Any] = orjson.loads(read_plain(place))
        _require_patch(document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise DatasetError(f"{place}: cannot be read ({said}); {REMEDY}") from None
    return document


def _require_patch(document: dict[str, Any]) -> None:
    """Raises ValueError, TypeError or KeyError."""
    if document["mode"] not in get_args(Mode):
        raise ValueError("mode is neither copy nor in place")
    if not all(isinstance(document[name], str) and "\0" not in document[name] for name in ("target", "source", "load")):
        raise ValueError("target, source or load is no text")
    if document["target"] != (COPY if document["mode"] == "copy" else document["source"]):
        raise ValueError("target is another one than its mode's")
    if not LOAD.fullmatch(document["load"]):
        raise ValueError("load names no stage")
    if not isinstance(document["edits"], list) or not all(isinstance(edit, dict) for edit in document["edits"]):
        raise ValueError("edits is no list of records")
    for entry in document["files"]:
        file = PatchFile(**entry)
        if not isinstance(file.path, str) or "\0" in file.path or not isinstance(file.derived, bool):
            raise ValueError("a file has no path")
        if not all(one is None or DIGEST.fullmatch(one) for one in (file.before, file.after)):
            raise ValueError("a file has no digest")


def list_files(patch: Path) -> list[PatchFile]:
    """The files of a patch, by their absolute paths; those of a copy are found from the run folder, wherever that has moved.

    Raises DatasetError where one of them is none that a patch of this run may touch.
    """
    document, home = read_patch(patch), home_of(patch)
    entries = [PatchFile(**entry) for entry in document["files"]]
    if document["mode"] == "copy":
        strange = [entry.path for entry in entries if not _is_in_copy(home, entry.path)]
    else:
        strange = _list_strange(home, document, patch, entries)
    if strange:
        what = f"a file of {COPY}/" if document["mode"] == "copy" else "a label file of the data set that the run has read"
        raise DatasetError(f"{patch / 'patch.json'}: names {strange[0][:200]!r}, which is not {what}; {REMEDY}")
    return [replace(entry, path=str(home / entry.path)) for entry in entries]


def _is_in_copy(home: Path, name: str) -> bool:
    """Whether a path leads into the copy, and no link on the way out of it again."""
    if os.path.isabs(name) or os.path.normpath(name) != name or not name.startswith(f"{COPY}/"):
        return False
    if any(len(os.fsencode(part)) > LONGEST_PART for part in name.split("/")):
        return False
    copy = os.path.realpath(home) + f"/{COPY}"
    parent = os.path.realpath(os.path.dirname(home / name))
    return not os.path.islink(home / COPY) and f"{parent}/".startswith(f"{copy}/")


def _list_strange(home: Path, document: dict[str, Any], patch: Path, entries: list[PatchFile]) -> list[str]:
    """What is neither a label file of the data set that a patch in place is about, nor Ultralytics' cache of such files' folder."""
    stage = home / "stages" / document["load"] / "all"
    try:
        rest = orjson.loads(read_plain(stage / "dataset.json"))
        require_plain(stage / "images.parquet")
        paths = pl.read_parquet(stage / "images.parquet", columns=["label_path"], glob=False)["label_path"].drop_nulls().to_list()
        labels = {str(rest["source"])} if rest["format"] == "coco" else set(paths)
        caches = set(map(str, list_caches(paths))) if rest["format"] == "yolo" else set()
    except (OSError, ValueError, TypeError, KeyError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        said = " ".join(str(error).split())[:200]
        raise DatasetError(f"{patch / 'patch.json'}: is about {stage}, which cannot be read ({said}); {REMEDY}") from None
    strange = [entry for entry in entries if entry.path not in (caches if entry.derived else labels)]
    if strange:  # links may lead to labels, and it is their files that are edited; to ask for all of a million takes half a minute
        labels = set(map(os.path.realpath, labels))
    return [entry.path for entry in strange if entry.derived or entry.path not in labels]


def list_caches(label_paths: list[str]) -> list[Path]:
    """Where Ultralytics keeps its caches of the folders that label files lie in."""
    folders = {os.path.dirname(path) for path in label_paths}
    return sorted(Path(folder).with_suffix(".cache") for folder in folders if os.path.basename(folder))


def require_contents(patch: Path, files: list[PatchFile], which: Which) -> None:
    """Raises DatasetError where what a patch keeps of its files is not what its journal says."""
    for i, entry in enumerate(files):
        wanted, place = getattr(entry, which), patch / which / str(i)
        try:
            if wanted is not None and digest(read_plain(place)) != wanted:
                raise DatasetError(f"{place}: is not what {patch / 'patch.json'} says; restore it; nothing was written")
        except OSError as error:
            raise DatasetError(f"{place}: cannot be read ({error.strerror}); restore it; nothing was written") from None


def read_inventory(patch: Path) -> dict[str, str | None]:
    """Every file of the copy that a patch made, with its digest. Raises DatasetError."""
    place = patch / INVENTORY
    try:
        inventory = orjson.loads(read_plain(place))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{place}: cannot be read ({error}); move the folder {COPY} elsewhere, and remove the folder {patch}") from None
    if not isinstance(inventory, dict):
        raise DatasetError(f"{place}: is no inventory; move the folder {COPY} elsewhere, and remove the folder {patch}")
    return inventory
