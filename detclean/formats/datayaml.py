"""A data.yaml: the categories it names, the pictures its splits list, and its text with other places in it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from detclean.errors import DatasetError
from detclean.formats.imagefiles import drop_ending, is_image_name, list_images, safe_parts
from detclean.formats.plainfile import read_plain
from detclean.formats.records import FindingLog, make_unique
from detclean.formats.yamlfile import read_yaml_text

SPLITS = ("train", "val", "test")
LOCATION_KEYS = ("path", "train", "val", "validation", "test")
BOM = b"\xef\xbb\xbf"
MOST_CATEGORIES = 100_000  # no detector knows so many; a damaged nc would fill the memory with names
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Split:
    """One part of a data.yaml: n pictures as columns, and the folders that were searched for them."""

    name: str
    paths: list[str]
    image_ids: list[str]  # relative to the data set's root
    places: list[str]  # where each goes below images/<split>/ of a copy
    folders: list[Path]


def label_path_of(image_path: str) -> str:
    """Where Ultralytics looks for a picture's labels: the last `/images/` becomes `/labels/`, the ending `.txt`."""
    head, folder, tail = image_path.rpartition(f"{os.sep}images{os.sep}")
    moved = f"{head}{os.sep}labels{os.sep}{tail}" if folder else image_path
    return moved.rpartition(".")[0] + ".txt"


def printable(name: str) -> str:
    """A file name as text that can be written down; one that is not UTF-8 comes out changed."""
    return name.encode("utf-8", "replace").decode()


def load_yaml(source: Path) -> dict[str, Any]:
    try:
        document, _ = read_yaml_text(read_plain(source).decode("utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{source}: cannot be read ({error.strerror}); name an existing data.yaml") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{source}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DatasetError(f"{source}{line}: is not valid YAML ({problem}); correct this line") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{source}: is no data.yaml; it needs the keys train, val and names")
    return document


def read_names(document: dict[str, Any], source: Path) -> tuple[str, ...]:
    names, count = document.get("names"), document.get("nc")
    if count is not None and not _is_number_of(count):
        raise DatasetError(
            f"{source}: nc: {str(count)[:SHOWN]} is no whole number up to {MOST_CATEGORIES:,}; write how many names there are"
        )
    if names is None and count is None:
        raise DatasetError(f"{source}: names is missing; list the categories, names: [cat, dog]")
    if names is None:
        names = [f"class_{i}" for i in range(int(str(count)))]
    if isinstance(names, dict):
        names = _order_names(names, source)
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{source}: names holds no category; list the categories, names: [cat, dog]")
    if count is not None and int(count) != len(names):
        raise DatasetError(f"{source}: nc is {count}, but names lists {len(names)}; correct one of them")
    return make_unique([str(name) for name in names], list(range(len(names))))


def _is_number_of(value: Any) -> bool:
    """Whether a value can number categories."""
    text = str(value)
    return (
        isinstance(value, int | str) and not isinstance(value, bool) and len(text) < 9 and text.isdecimal() and int(text) <= MOST_CATEGORIES
    )


def _order_names(names: dict[Any, Any], source: Path) -> list[Any]:
    if not all(_is_number_of(key) for key in names):
        raise DatasetError(f"{source}: names has the keys {', '.join(map(str, names))[:60]}; number them 0 to {len(names) - 1}")
    ordered = {int(key): name for key, name in names.items()}
    if sorted(ordered) != list(range(len(names))):
        raise DatasetError(f"{source}: names numbers its {len(names)} categories {sorted(ordered)[:8]}; number them 0 to {len(names) - 1}")
    return [ordered[i] for i in range(len(ordered))]


def list_splits(document: dict[str, Any], source: Path, log: FindingLog) -> list[Split]:
    """The pictures of every split that the yaml names. Raises DatasetError where train or val leads nowhere or is empty."""
    entries = {name: document.get(name) for name in SPLITS}
    entries["val"] = entries["val"] or document.get("validation")
    listed: dict[str, list[str]] = {}
    for name, value in entries.items():
        values = [value] if isinstance(value, str) else value or []
        if not isinstance(values, list) or not all(isinstance(entry, str) for entry in values):
            raise DatasetError(
                f"{source}: {name}: {str(value)[:SHOWN]} is no path; write a folder, a .txt that lists images, or a list of these"
            )
        if any(values):
            listed[name] = [entry for entry in values if entry]
    if not listed:
        raise DatasetError(f"{source}: train is missing; name the folder of its images, train: images/train")
    for name in ("train", "val"):
        if name not in listed:
            log.add(
                "split-missing", "warning", source.name, f"{name} is missing; Ultralytics trains with train and val only: name its images"
            )
    root = _find_root(document.get("path"), [entry for values in listed.values() for entry in values], source)
    splits = []
    for name, values in listed.items():
        places = [(entry, _find_entry(entry, root, source)) for entry in values]
        absent = [entry for entry, place in places if place is None]
        if absent and name != "test":
            raise DatasetError(f"{source}: {name}: {root / absent[0]} does not exist; correct {name} or path")
        if absent:
            log.add("split-missing", "warning", source.name, f"test: {root / absent[0]} does not exist; the data set is read without it")
        if whole := next((entry for entry, place in places if place and os.path.realpath(place) == os.sep), None):
            raise DatasetError(f"{source}: {name}: {whole} is the whole file system; name the folder of the images")
        split = _list_split(name, [place for _, place in places if place], root, log)
        if not split.paths and name != "test":
            raise DatasetError(f"{source}: {name}: {root / values[0]} holds no images; correct {name} or path")
        splits.append(split)
    return splits


def _find_root(path: Any, entries: list[str], source: Path) -> Path:
    """The folder that the entries are relative to; a relative path is tried where Ultralytics tries it and beside the yaml."""
    if not path:
        return source.parent
    candidates = [Path.cwd() / str(path), source.parent / str(path), *(folder / str(path) for folder in _ultralytics_folders())]
    normal = [Path(os.path.normpath(candidate)) for candidate in candidates]
    found = [folder for folder in normal if os.path.isdir(folder)]
    for folder in found:
        if any(_find_entry(entry, folder, source) for entry in entries):
            return folder
    if not found:
        raise DatasetError(f"{source}: path: {path} does not exist; correct it, or leave path out where the images lie beside the yaml")
    return found[0]


def _ultralytics_folders() -> list[Path]:
    """The datasets folder of Ultralytics' settings, where there is one; read here because importing ultralytics takes seconds."""
    config = Path(os.environ.get("YOLO_CONFIG_DIR") or Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"))
    for settings in (config / "Ultralytics" / "settings.json", config / "settings.json"):
        try:
            return [Path(json.loads(settings.read_bytes())["datasets_dir"])]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def _find_entry(entry: str, root: Path, source: Path) -> Path | None:
    """What an entry of train, val or test leads to. Roboflow writes `../train/images` and means `train/images`."""
    tries = [root / entry, *([root / entry[3:]] if entry.startswith("../") else []), source.parent / entry]
    return next((Path(os.path.normpath(place)) for place in tries if os.path.exists(place)), None)


def _list_split(name: str, places: list[Path], root: Path, log: FindingLog) -> Split:
    shown: list[str] = []  # the paths as the yaml leads to them, which name the images
    real: list[str] = []  # with the folder's links resolved, as Ultralytics does before it looks for the labels
    folders: list[Path] = []
    for place in places:
        resolved = place.resolve()
        if place.is_dir():
            names = list_images(resolved)
            shown += [os.path.join(place, image) for image in names]
            real += [os.path.join(resolved, image) for image in names]
            folders.append(resolved)
        else:
            listed = _read_list(place, root, log)
            shown += listed
            real += listed
    chosen: dict[str, str] = {}
    for path, seen_as in zip(real, shown, strict=True):
        if path in chosen:
            log.add(
                "image-listed-twice", "warning", os.path.relpath(seen_as, root), f"{name} lists this image more than once; once is used"
            )
        chosen.setdefault(path, seen_as)
    image_ids = [Path(os.path.relpath(seen_as, root)).as_posix() for seen_as in chosen.values()]
    below = [str(folder) for folder in folders]
    if len(places) == 1 and below:
        subs = [Path(os.path.relpath(path, below[0])).as_posix() for path in chosen]
    else:
        subs = _shorten_places(image_ids)
    return Split(name, list(chosen), image_ids, _separate_places(list(chosen), subs), folders)


def _read_list(place: Path, root: Path, log: FindingLog) -> list[str]:
    """The pictures of a list file, absolute; a relative line is tried below the list's folder, the root and the working directory."""
    paths = []
    try:
        content = read_plain(place)
    except OSError as error:
        raise DatasetError(f"{place}: cannot be read ({error.strerror}); a list of images belongs here") from None
    lines = content.removeprefix(BOM).decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not is_image_name(line):
            continue
        tries = [Path(os.path.abspath(folder / line)) for folder in (place.parent, root, Path.cwd())]
        found = next((path for path in tries if os.path.isfile(path)), None)
        if found:
            paths.append(str(found))
        else:
            log.add("image-missing", "warning", f"{place.name}:{number}", f"{printable(line)} does not exist; it is left out")
    return paths


def _shorten_places(image_ids: list[str]) -> list[str]:
    """Places in a copy from paths below the root: no `images` folder (its name steers the label path), no start that all share."""
    parts = [[part for part in safe_parts(image_id)[:-1] if part != "images"] + [image_id.rpartition("/")[2]] for image_id in image_ids]
    folders = [place[:-1] for place in parts] or [[]]
    ends = zip(min(folders), max(folders), strict=False)  # what these two share, all share
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return ["/".join(place[shared:]) for place in parts]


def _separate_places(paths: list[str], places: list[str]) -> list[str]:
    """Places such that only pictures that share a label file share its place; a place that is taken goes into a numbered folder."""
    owners: dict[str, str] = {}
    separate = []
    for path, place in zip(paths, places, strict=True):
        owner, number, chosen = label_path_of(path), 1, place
        while owners.setdefault(drop_ending(chosen), owner) != owner:
            number += 1
            chosen = f"{number}/{place}"
        separate.append(chosen)
    return separate


def move_yaml(source: Path, places: dict[str, str]) -> str:
    """The text of a data.yaml with `places` in the stead of its path and splits; everything else stays as it is written.

    Where the text cannot be cut at its lines (flow style, anchors) the same content is written anew.
    """
    document = load_yaml(source)
    wanted = places | {key: value for key, value in document.items() if key not in LOCATION_KEYS}
    text = source.read_text(encoding="utf-8-sig")
    head = yaml.safe_dump(places, sort_keys=False, allow_unicode=True, width=10_000)
    patched = head + _cut_keys(text)
    try:
        if read_yaml_text(patched)[0] == wanted:
            return patched
    except (yaml.YAMLError, RecursionError):
        pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, width=10_000)


def _cut_keys(text: str) -> str:
    """A yaml's text without the lines of LOCATION_KEYS."""
    lines = text.splitlines(keepends=True)
    cut: set[int] = set()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if root else []:
        if key.value in LOCATION_KEYS:
            last = value.end_mark.line + (value.end_mark.column > 0)
            cut.update(range(key.start_mark.line, max(last, key.start_mark.line + 1)))
    return "".join(line for number, line in enumerate(lines) if number not in cut)
