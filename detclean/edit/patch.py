"""Changes brought into label files, and taken back to the byte.

Every application is a folder of the run, patches/NNNN: patch.json with every edit and every file, and the files as they were and as
they became. It is complete before the first label file is touched, so whatever dies in the middle can be finished or taken back.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from detclean import __version__
from detclean.dataset import Dataset
from detclean.edit.changes import Change, as_edits, find_source_changes
from detclean.edit.journal import (
    COPY,
    INVENTORY,
    Mode,
    PatchFile,
    Which,
    digest,
    home_of,
    list_caches,
    list_files,
    list_patches,
    read_inventory,
    read_patch,
    require_contents,
)
from detclean.errors import DatasetError
from detclean.files import refuse_following, replace_content, settle, write_whole
from detclean.formats import edit_sources, write_cleaned

HISTORY = "history.jsonl"  # in the patches' folder: every application and every undoing, append-only
PICTURES = ("images", "JPEGImages")  # folders of a copy that hold nothing else
REMEDY = "save those changes elsewhere, put the file back, and try again"
WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
SHOWN = 5  # file names in an error


@dataclass(frozen=True)
class Applied:
    """What an application or its undoing came to: the data set that now holds it, the patch, and how much of it there is.

    known: it was there already, and nothing was written. replaced: so many edits of an earlier application are not there any more.
    """

    target: Path
    patch: Path
    edits: int
    files: int
    known: bool = False
    replaced: int = 0


# Applying


def apply_to_copy(folder: Path, then: Dataset, now: Dataset, changes: Sequence[Change], *, load: str, copy_images: bool = False) -> Applied:
    """A cleaned copy of the data set below `folder`/applied; the source stays as it is.

    then: the data set as the run has read it, which the changes are about. now: as it is; the whole of it or the same part. load: what
    names the state that the run has read. A copy that is there already is replaced, unless somebody has added, changed or removed a file
    of it. Raises DatasetError, which names what has changed since the run.
    """
    target = folder / COPY
    _show_newest(folder)
    document = _describe(then, changes, "copy", COPY, load)
    standing = _find_patch(folder, "in place")
    if standing is not None and read_patch(standing)["load"] == load:
        raise DatasetError(f"{then.source}: holds edits of apply --in-place; `python -m detclean undo {folder}` takes them back")
    _refuse_changed_source(find_source_changes(then, now))
    newest = _find_patch(folder, "copy")
    earlier = None if newest is None else read_patch(newest)
    if target.is_symlink():
        raise DatasetError(f"{target}: is a link; remove it, so that the copy can be made there")
    fresh, plain, old = (folder / f"{COPY}{what}.partial" for what in ("", ".plain", ".old"))
    for place in (fresh, plain, old):
        shutil.rmtree(place, ignore_errors=True)
    if newest is not None and earlier is not None and target.is_dir():
        _refuse_foreign(target, read_inventory(newest))
        if _same_edits(earlier, document):
            return _applied(newest, known=True)
    write_cleaned(then, as_edits(changes, then), fresh, copy_images=copy_images, final=target)
    write_cleaned(then, (), plain, final=target)
    before, after = _take_inventory(plain), _take_inventory(fresh)
    if newest is None and target.exists():  # nothing but what undoing leaves may be replaced
        _refuse_foreign(target, before)
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    contents = [(f"{COPY}/{name}", _content(plain / name), _content(fresh / name)) for name in changed]
    if target.is_dir():
        os.replace(target, old)
    if newest is not None:
        _remove_patch(folder, newest)
    patch = _write_patch(folder, document, contents, inventory=after)
    settle(fresh)
    os.replace(fresh, target)  # wherever this is stopped, the next try finds either no copy or one with its patch
    for place in (plain, old):
        shutil.rmtree(place, ignore_errors=True)
    return _applied(patch, replaced=0 if earlier is None else len(earlier["edits"]))


def apply_in_place(folder: Path, then: Dataset, now: Dataset, changes: Sequence[Change], *, load: str) -> Applied:
    """The changes in the source's own label files, with all that is needed to take them back kept in `folder`/patches.

    Arguments as in `apply_to_copy`. Other edits that this run has brought in earlier are taken back first, so that every application
    begins with the labels that the run has read. Raises DatasetError, and then writes nothing, where a file has changed since.
    """
    _show_newest(folder)
    document = _describe(then, changes, "in place", str(then.source), load)
    newest, replaced = _find_patch(folder, "in place"), 0
    if newest is not None and read_patch(newest)["load"] == load:
        earlier, files = read_patch(newest), list_files(newest)
        _refuse_strangers(files)
        _refuse_changed_source(find_source_changes(then, now, {entry.path for entry in files}))
        if _same_edits(earlier, document):
            known = _is_whole(files)
            if not known:  # it was stopped in the middle
                _bring(newest, "after")
            return _applied(newest, known)
        _bring(newest, "before")
        _remove_patch(folder, newest)
        replaced = len(earlier["edits"])
    else:
        _refuse_changed_source(find_source_changes(then, now))
    edited = edit_sources(then, as_edits(changes, then))
    contents = [(str(path), _content(path), content) for path, content in edited.items()]
    _refuse_protected([path for path, before, after in contents if before != after])
    caches = [(str(path), _content(path), None) for path in _find_caches(then)]
    patch = _write_patch(folder, document, [entry for entry in contents if entry[1] != entry[2]], caches)
    os.sync()  # the journal is on disk before the first file is touched
    _bring(patch, "after")
    return _applied(patch, replaced=replaced)


def undo_newest(folder: Path) -> Applied:
    """Takes the newest application back: every file is to the byte what it was before. Raises DatasetError, and then writes nothing.

    Of a copy: its label files are the source's again. Where a file was changed by somebody else since, it is named.
    """
    _show_newest(folder)
    newest = _find_patch(folder)
    if newest is None:
        raise DatasetError(f"{folder}: nothing is applied, so there is nothing to undo")
    undone = _applied(newest)
    if os.path.exists(undone.target):  # a copy that was removed needs no undoing
        _refuse_strangers(list_files(newest))
        _bring(newest, "before")
        labels = undone.target / "labels"
        if read_patch(newest)["mode"] == "copy" and not labels.is_symlink():
            for cache in labels.rglob("*.cache"):  # Ultralytics would believe it where a file kept its size
                if cache.is_file():
                    cache.unlink()
    _remove_patch(folder, newest)
    return undone


# The patch as a folder


def _describe(dataset: Dataset, changes: Sequence[Change], mode: Mode, target: str, load: str) -> dict[str, Any]:
    image_ids, file_names = dataset.images["image_id"], dataset.images["file_name"]
    ids = dataset.annotations.annotation_id
    edits = [
        {
            "issue": change.issue,
            "why": change.why,
            "issue_type": change.issue_type,
            "probability": change.probability,
            "image_id": image_ids[change.image_index],
            "file_name": file_names[change.image_index],
            "annotation_id": None if change.annotation is None or ids is None else ids[change.annotation],
            "source": None if change.annotation is None else dataset.describe_source(change.annotation),
            "before": None if change.before is None else asdict(change.before),
            "after": None if change.after is None else asdict(change.after),
        }
        for change in changes
    ]
    head = {"detclean": __version__, "mode": mode, "source": str(dataset.source), "target": target, "load": load}
    document: dict[str, Any] = orjson.loads(orjson.dumps(head | {"edits": edits, "files": []}, option=orjson.OPT_SERIALIZE_NUMPY))
    return document


def _write_patch(
    folder: Path,
    document: dict[str, Any],
    contents: Sequence[tuple[str, bytes | None, bytes | None]],
    caches: Sequence[tuple[str, bytes | None, None]] = (),
    inventory: Mapping[str, str | None] | None = None,
) -> Path:
    """The folder of a patch, whole or not at all. contents and caches: path, content before, content after."""
    home = folder / "patches"
    number = max((int(path.name) for path in list_patches(folder)), default=0) + 1
    place, partial = home / f"{number:04d}", home / f"{number:04d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    files = []
    for i, (path, before, after) in enumerate([*contents, *caches]):
        for name, content in (("before", before), ("after", after)):
            if content is not None:
                write_whole(partial / name / str(i), content)
        files.append(asdict(PatchFile(path, digest(before), digest(after), derived=i >= len(contents))))
    if inventory is not None:
        write_whole(partial / INVENTORY, orjson.dumps(inventory))
    text = orjson.dumps(document | {"files": files}, option=orjson.OPT_INDENT_2)
    write_whole(partial / "patch.json", text)
    settle(partial)  # the journal is on disk before the first file is touched
    _remember(place, "applied", document)  # before it can have any effect: whatever was ever applied stands there
    os.replace(partial, place)
    _show_newest(folder)
    return place


def _remove_patch(folder: Path, patch: Path) -> None:
    gone = patch.with_name(patch.name + ".partial")
    shutil.rmtree(gone, ignore_errors=True)
    _remember(patch, "taken back", read_patch(patch))
    os.replace(patch, gone)
    _show_newest(folder)


def _remember(patch: Path, what: Literal["applied", "taken back"], document: Mapping[str, Any]) -> None:
    """One more line of the history: when, which patch, and each of its edits with the decision or the rule that it goes back to."""
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "what": what, "patch": patch.name}
    line |= {name: document[name] for name in ("mode", "target", "edits")}
    with open(patch.parent / HISTORY, "ab+", opener=refuse_following) as f:
        if f.seek(0, os.SEEK_END) and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b"\n":
            f.write(b"\n")  # after a writer that died in the middle of its line
        f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        f.flush()
        os.fsync(f.fileno())


def _show_newest(folder: Path) -> None:
    """RUN/patch.json: what is applied now. Also mends it where it was left behind by a process that died just after the patch itself."""
    newest, shown = _find_patch(folder), folder / "patch.json"
    if newest is None:
        shown.unlink(missing_ok=True)
    elif read_patch(newest) and (text := (newest / "patch.json").read_bytes()) != _content(shown):
        write_whole(shown, text, settled=True)
    for gone in (folder / "patches").glob("*.partial"):
        shutil.rmtree(gone, ignore_errors=True)


def _find_patch(folder: Path, mode: Mode | None = None) -> Path | None:
    """The newest patch, or the newest of a mode."""
    return next((path for path in reversed(list_patches(folder)) if mode in (None, read_patch(path)["mode"])), None)


def _same_edits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["edits"] == b["edits"]) and a["load"] == b["load"]


def _applied(patch: Path, known: bool = False, replaced: int = 0) -> Applied:
    document = read_patch(patch)
    return Applied(home_of(patch) / document["target"], patch, len(document["edits"]), len(document["files"]), known, replaced)


# Files


def _bring(patch: Path, which: Which) -> None:
    """Every file of a patch to its content before or after."""
    files = list_files(patch)
    require_contents(patch, files, which)
    for i, entry in enumerate(files):
        path, wanted = Path(entry.path), getattr(entry, which)
        if wanted is None:
            path.unlink(missing_ok=True)
        elif digest(_content(path)) != wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_content(path, (patch / which / str(i)).read_bytes())


def _refuse_strangers(files: Sequence[PatchFile]) -> None:
    """Raises DatasetError where a file is neither as it was before its patch nor as the patch made it."""
    own = [entry for entry in files if not entry.derived]
    if strange := [entry.path for entry in own if digest(_content(Path(entry.path))) not in (entry.before, entry.after)]:
        raise DatasetError(f"{_list(strange)}: changed since detclean edited it; nothing was written; {REMEDY}")


def _refuse_protected(paths: Sequence[str]) -> None:
    """Raises DatasetError for files that nobody may write: replacing one would get round that, as only its folder has to be writable."""
    if protected := [path for path in paths if os.path.exists(path) and not os.stat(path).st_mode & WRITABLE]:
        raise DatasetError(f"{_list(protected)}: read-only; nothing was written; apply to a copy, or allow writing first")


def _refuse_foreign(target: Path, known: Mapping[str, str | None]) -> None:
    """Raises DatasetError where a copy is not to the file what detclean left there."""
    here = _take_inventory(target)
    if strange := [name for name in sorted({*here, *known}) if here.get(name, "") != known.get(name, "")]:
        raise DatasetError(f"{target}: {_list(strange)}: not as detclean left it; move the folder elsewhere, then a new copy can be made")


def _refuse_changed_source(changes: Sequence[str]) -> None:
    if changes:
        raise DatasetError(f"{_list(changes)} since the run; nothing was written; repeat the run, or put the labels back as they were")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _is_whole(files: Sequence[PatchFile]) -> bool:
    """Whether every file is as its patch made it."""
    return all(digest(_content(Path(entry.path))) == entry.after for entry in files if not entry.derived)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _take_inventory(folder: Path) -> dict[str, str | None]:
    """Every file of a cleaned copy with a digest, pictures by their names alone; caches of other tools are not counted."""
    inventory: dict[str, str | None] = {}
    for place, _, names in os.walk(folder):
        inside = os.path.relpath(place, folder)
        pictured = inside.split(os.sep)[0] in PICTURES
        for name in names:
            if not name.endswith(".cache"):
                inventory[os.path.normpath(os.path.join(inside, name))] = None if pictured else digest(_content(Path(place, name)))
    return inventory


def _find_caches(dataset: Dataset) -> list[Path]:
    """Ultralytics' caches of label folders: they know a label file by its size alone, and an edit that keeps it would not be seen."""
    if dataset.format != "yolo":
        return []
    return [cache for cache in list_caches(dataset.images["label_path"].drop_nulls().to_list()) if cache.is_file()]
