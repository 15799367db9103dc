"""Pascal VOC folders: one XML file a picture, read as a tree and patched as text."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import polars as pl

from detclean.boxes import Boxes, clip_boxes
from detclean.dataset import Dataset, Edit, shorten_path
from detclean.errors import DatasetError
from detclean.files import share_image, write_whole
from detclean.formats.imagefiles import drop_ending, list_files, list_images, read_image_sizes
from detclean.formats.plainfile import read_plain
from detclean.formats.records import FindingLog, group_by_label_file, is_within_reach, require

SPLITS = ("train", "val", "test")
SIDES = ("xmin", "ymin", "xmax", "ymax")
COMMENT = re.compile(r"<!--.*?-->|<!\[CDATA\[.*?\]\]>", re.DOTALL)
OBJECT = re.compile(r"<object\b[^>]*/>|<object\b[^>]*>.*?</object\s*>", re.DOTALL)
PART = re.compile(r"<part\b[^>]*>.*?</part\s*>", re.DOTALL)
ENCODING = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)["']""")


@dataclass(frozen=True)
class _Files:
    """Where a VOC folder keeps what: annotations and pictures as folders, and the file names in them."""

    annotations: Path
    pictures: Path | None
    stems: list[str]  # annotation files below `annotations`, without ending: the image ids
    picture_of: dict[str, str]  # pictures below `pictures`, by their path without ending


# Reading


def read_voc(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """The data set of a Pascal VOC folder: Annotations/ (or the folder itself), JPEGImages/, and splits from ImageSets/Main/.

    image_id is the annotation file's path without its ending, annotation_id counts over all files, categories are sorted by name.
    Corners are taken as they are written, without a shift by one. images: another folder of pictures, or "none".
    Raises DatasetError where there is no annotation file or the folder of pictures holds none of them.
    """
    source = Path(os.path.abspath(folder))
    log = FindingLog(source.name)
    files = _find_files(source, images)
    split_of = _read_splits(source, files.stems, log)
    rows: list[dict[str, Any]] = []
    objects: list[tuple[int, int, str, list[float]]] = []
    for stem in files.stems:
        label_path = files.annotations / f"{stem}.xml"
        shown = shorten_path(label_path, source)
        root = _parse(label_path, shown, log)
        if root is None:
            continue
        file_name = _find_picture(root, stem, files)
        path = None if files.pictures is None else str(files.pictures / file_name)
        if path is not None and not os.path.isfile(path):
            log.add("image-missing", "warning", shown, f"its picture {file_name} does not exist; the image is kept without it")
            path = None
        width, height = _read_size(root, path)
        if not (width and height):
            log.add("image-size-missing", "error", shown, "has no width and height, nor a picture to measure; add <size>")
            continue
        objects += [(len(rows), *found) for found in _read_objects(root, shown, log)]
        paths = {"path": path, "label_path": str(label_path)}
        rows.append({"image_id": stem, "file_name": file_name, **paths, "width": width, "height": height, "split": split_of.get(stem)})
    if not rows:
        raise DatasetError(f"{source}: none of its {len(files.stems)} annotation files can be used; check the first, {files.stems[0]}.xml")
    if files.pictures is not None and not any(row["path"] for row in rows):
        name = rows[0]["file_name"]
        raise DatasetError(f"{files.pictures}: holds no image of the data set ({name} is the first); name their folder with images=")
    _find_unlabelled(files, rows, log)
    text = dict.fromkeys(("image_id", "file_name", "path", "label_path"), pl.String)
    table = pl.DataFrame(rows, schema={**text, "width": pl.Int64, "height": pl.Int64, "split": pl.String})
    categories = sorted({name for _, _, name, _ in objects})
    number_of = {name: i for i, name in enumerate(categories)}
    annotations = Boxes(
        image_index=np.array([index for index, _, _, _ in objects], dtype=np.int64),
        category=np.array([number_of[name] for _, _, name, _ in objects], dtype=np.int64),
        xyxy=np.array([box for _, _, _, box in objects], dtype=np.float64),
        annotation_id=np.arange(len(objects)),
        is_crowd=np.zeros(len(objects), bool),
    )
    positions = np.array([position for _, position, _, _ in objects], dtype=np.int64)
    return Dataset(table, tuple(categories), annotations, positions, "voc", source, tuple(categories), log.finish())


def _find_files(source: Path, images: str | Path | None) -> _Files:
    if not source.is_dir():
        raise DatasetError(f"{source}: is no folder; name the folder that holds Annotations and JPEGImages")
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    names = list_files(annotations) if annotations != source else sorted(path.name for path in source.glob("*.xml"))
    stems = [drop_ending(name) for name in names if name.endswith(".xml")]
    if not stems:
        raise DatasetError(f"{annotations}: holds no .xml file; name the folder that holds Annotations and JPEGImages")
    if str(images) == "none":
        return _Files(annotations, None, stems, {})
    if images is not None and not Path(images).is_dir():
        raise DatasetError(f"{images}: is no folder; name with images= the folder of the images, or images=none where there are none")
    near = [source / "JPEGImages", source / "images", source]
    pictures = Path(os.path.abspath(images)) if images is not None else next(place for place in near if place.is_dir())
    picture_of = {drop_ending(name): name for name in reversed(list_images(pictures))}
    if not picture_of:
        raise DatasetError(f"{pictures}: holds no images; name their folder with images=, or images=none where there are none")
    return _Files(annotations, pictures, stems, picture_of)


def _parse(path: Path, shown: str, log: FindingLog) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(read_plain(path))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        line = getattr(error, "position", (1, 0))[0]
        log.add("unreadable-annotation-file", "error", f"{shown}:{line}", f"is not valid XML ({error}); correct or remove the file")
        return None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); a readable XML file belongs here") from None
    if root.tag != "annotation":
        log.add("unreadable-annotation-file", "error", shown, f"starts with <{root.tag}>, not <annotation>; remove what is no VOC file")
        return None
    return root


def _find_picture(root: ElementTree.Element, stem: str, files: _Files) -> str:
    """The picture of an annotation file, below the folder of pictures: the one of the same name, else the one that the file names."""
    named = (root.findtext("filename") or "").strip()
    if named.startswith("/") or ".." in PurePosixPath(named).parts:  # where it lay on another machine
        named = PurePosixPath(named).name
    return files.picture_of.get(stem) or files.picture_of.get(drop_ending(named) if named else "") or named or f"{stem}.jpg"


def _read_size(root: ElementTree.Element, path: str | None) -> tuple[int, int]:
    """Width and height as the file says, else as the picture has them; zeros where neither can tell."""
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if 1 <= width < 2**31 and 1 <= height < 2**31:
        return int(width), int(height)
    measured = read_image_sizes([path])[0].tolist() if path is not None else [0, 0]
    return measured[0], measured[1]


def _read_objects(root: ElementTree.Element, shown: str, log: FindingLog) -> list[tuple[int, str, list[float]]]:
    """Position among the file's objects, category name and corners of every object that can be used."""
    usable = []
    for position, element in enumerate(root.findall("object")):
        where = f"{shown} object {position + 1}"
        name = (element.findtext("name") or "").strip()
        bndbox = element.find("bndbox")
        if not name or bndbox is None:
            log.add("row-skipped", "warning", where, f"has no {'bndbox' if name else 'name'}; it is left out")
            continue
        corners = [_number(bndbox.findtext(side)) for side in SIDES]
        if not np.isfinite(corners).all():
            log.add("not-a-number", "error", where, f"its bndbox holds {[bndbox.findtext(side) for side in SIDES]}; write four numbers")
            continue
        if not is_within_reach(np.array([corners])).all():
            log.add("coordinate-too-large", "error", where, f"its bndbox {corners} lies beyond any picture; correct it")
            continue
        usable.append((position, name, corners))
    return usable


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _read_splits(source: Path, stems: list[str], log: FindingLog) -> dict[str, str]:
    """The split of every image that ImageSets/Main names; the first of train, val and test that does."""
    known = set(stems)
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for number, line in enumerate(_read_set(source / "ImageSets" / "Main" / f"{split}.txt"), 1):
            stem = _listed_id(line, known)
            where = f"ImageSets/Main/{split}.txt:{number}"
            if stem and stem not in known:
                log.add("annotations-missing", "warning", where, f"{stem} has no annotation file; it is left out")
            elif stem and split_of.setdefault(stem, split) != split:
                log.add("image-in-two-splits", "warning", where, f"{stem} is in {split_of[stem]} too, where it is counted")
    return split_of


def _read_set(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.is_file() else []


def _listed_id(line: str, known: set[str]) -> str:
    """The image id of a line of an image set, which may carry 1, 0 or -1 behind it."""
    line = line.strip()
    return line if line in known or not line else re.sub(r"\s+-?[01]$", "", line)


def _find_unlabelled(files: _Files, rows: list[dict[str, Any]], log: FindingLog) -> None:
    used = {drop_ending(row["file_name"]) for row in rows} | set(files.stems)
    for place in sorted(files.picture_of.keys() - used):
        log.add("image-without-labels", "note", files.picture_of[place], "has no annotation file; it is left out")


# Writing the cleaned data set


def write_cleaned_voc(dataset: Dataset, edits: Sequence[Edit], out: Path, *, drop_images: Sequence[int], copy_images: bool) -> None:
    """Annotations/, JPEGImages/ and ImageSets/; arguments as in `formats.write_cleaned`. Objects that no edit names keep their bytes."""
    source = dataset.source
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    edits_of: dict[int, list[Edit]] = defaultdict(list)
    for edit in edits:
        edits_of[edit.image_index].append(edit)
    index_of = {label_path: i for i, label_path in enumerate(dataset.images["label_path"].to_list())}
    dropped = {index for index in drop_images}
    names = list_files(annotations) if annotations != source else sorted(path.name for path in source.glob("*.xml"))
    for name in names:
        label_path, place = annotations / name, out / "Annotations" / name
        index = index_of.get(str(label_path), -1)
        if not name.endswith(".xml") or index in dropped:
            continue
        if edits_of.get(index):
            write_whole(place, _edit_file(dataset, label_path, edits_of[index]))
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(label_path, place)
    _share_pictures(dataset, dropped, out / "JPEGImages", copy_images)
    _copy_sets(source / "ImageSets", out / "ImageSets", {dataset.images["image_id"][index] for index in dropped})


def edit_voc(dataset: Dataset, edits: Sequence[Edit]) -> dict[Path, bytes]:
    """The annotation files that the edits change, with their new content."""
    return {path: _edit_file(dataset, path, mine) for path, mine in group_by_label_file(dataset, edits).items()}


def _share_pictures(dataset: Dataset, dropped: set[int], folder: Path, copy_images: bool) -> None:
    """All pictures of the source's folder but those of dropped images, under the names they have there."""
    rows = list(dataset.images.select("path", "file_name").iter_rows())
    path, file_name = next(((path, name) for path, name in rows if path is not None), (None, ""))
    if path is None:
        return
    pictures = Path(path.removesuffix(file_name))
    unwanted = {rows[index][0] for index in dropped} - {path for index, (path, _) in enumerate(rows) if index not in dropped}
    for name in list_images(pictures):
        if str(pictures / name) not in unwanted and os.path.isfile(pictures / name):  # a folder may be called like a picture
            share_image(pictures / name, folder / name, copy_images)


def _copy_sets(source: Path, out: Path, dropped: set[str]) -> None:
    """The image sets, byte for byte but for the lines of dropped images."""
    for name in list_files(source) if source.is_dir() else []:
        if not (source / name).is_file():
            continue
        content = (source / name).read_bytes()
        if dropped:
            lines = content.splitlines(keepends=True)
            content = b"".join(line for line in lines if _listed_id(line.decode("utf-8", "replace"), dropped) not in dropped)
        write_whole(out / name, content)


def _edit_file(dataset: Dataset, path: Path, edits: Sequence[Edit]) -> bytes:
    """An annotation file's bytes after its edits."""
    content = path.read_bytes()
    text, encoding = _decode(content, path)
    masked = COMMENT.sub(lambda match: " " * len(match[0]), text)
    spans = [match.span() for match in OBJECT.finditer(masked)]
    expected = len(ElementTree.fromstring(content).findall("object"))
    end = masked.rfind("</annotation")
    if len(spans) != expected or end < 0:
        raise DatasetError(f"{path}: its objects cannot be told apart as text; save it with one plain <object> element an object")
    whole = not re.search(r"<[xy](?:min|max)>\s*-?\d*\.\d", masked)
    pieces: list[tuple[int, int, str]] = []  # start, end, and what stands there instead
    by_object: dict[int, list[Edit]] = defaultdict(list)
    for edit in edits:
        if edit.annotation is not None:
            by_object[int(dataset.source_rows[edit.annotation])].append(edit)
    for position, changes in by_object.items():
        if position >= len(spans):
            raise DatasetError(f"{path}: has {len(spans)} objects, but object {position + 1} is to be edited; it has changed, run again")
        start, stop = spans[position]
        if any(edit.action == "delete" for edit in changes):
            pieces.append((len(text[:start].rstrip()), stop, ""))
        else:
            pieces += _edit_object(dataset, masked, start, stop, changes, whole)
    added = [edit for edit in edits if edit.action == "add"]
    place = len(text[:end].rstrip())
    break_before = _indentation(text, spans[-1][0] if spans else place)
    pieces.append((place, place, "".join(_new_object(dataset, edit, break_before, whole) for edit in added)))
    for start, stop, replacement in sorted(pieces, reverse=True):
        text = text[:start] + replacement + text[stop:]
    return text.encode(encoding, "xmlcharrefreplace")


def _decode(content: bytes, path: Path) -> tuple[str, str]:
    """The text and the encoding that turns it into the very same bytes."""
    declared = ENCODING.match(content.removeprefix(b"\xef\xbb\xbf"))
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else declared[1].decode() if declared else "utf-8"
    try:
        text = content.decode(encoding)
        same = text.encode(encoding) == content
    except (UnicodeError, LookupError):
        same = False
    if not same:
        raise DatasetError(f"{path}: cannot be edited in its encoding {encoding}; save it as UTF-8")
    return text, encoding


def _edit_object(dataset: Dataset, masked: str, start: int, stop: int, edits: Sequence[Edit], whole: bool) -> list[tuple[int, int, str]]:
    """What changes in the text from `start` to `stop`, one <object>, as (start, end, replacement)."""
    text = masked[:start] + PART.sub(lambda match: " " * len(match[0]), masked[start:stop])
    pieces = {}
    for edit in edits:
        if edit.action == "relabel":
            pieces["name"] = escape(dataset.categories[require(edit.category)])
        elif edit.action == "move":
            pieces |= dict(zip(SIDES, _format_corners(dataset, edit, whole), strict=True))
    changes = []
    for tag, replacement in pieces.items():
        found = re.compile(rf"<{tag}\b[^>]*>(.*?)</{tag}\s*>", re.DOTALL).search(text, start)
        if found:
            changes.append((*found.span(1), replacement))
    return changes


def _format_corners(dataset: Dataset, edit: Edit, whole: bool) -> list[str]:
    """xmin ymin xmax ymax of an edit's box, cut at the image's border; whole numbers where the file has only such."""
    size = np.array(dataset.images.select("width", "height").row(edit.image_index), dtype=np.float64)
    xyxy = clip_boxes(np.array(require(edit.xyxy), dtype=np.float64), size)
    if not whole:
        return [f"{number:.3f}" for number in xyxy]
    low = np.minimum(np.rint(xyxy[:2]), size - 1)
    return [str(int(number)) for number in np.concatenate([low, np.maximum(np.rint(xyxy[2:]), low + 1)])]


def _indentation(text: str, place: int) -> str:
    """The line break and white space that stand before a place: how the file sets its objects apart."""
    blank = text[len(text[:place].rstrip()) : place]
    newline = "\r\n" if "\r\n" in text else "\n"
    if "\n" in blank:
        return newline + blank.rpartition("\n")[2]
    return newline + "\t" if "\n" in text else ""


def _new_object(dataset: Dataset, edit: Edit, break_before: str, whole: bool) -> str:
    tab = break_before.lstrip("\r\n") or ("\t" if break_before else "")
    deeper, deepest = (break_before + tab, break_before + 2 * tab) if break_before else ("", "")
    name = escape(dataset.categories[require(edit.category)])
    corners = zip(SIDES, _format_corners(dataset, edit, whole), strict=True)
    box = "".join(f"{deepest}<{side}>{number}</{side}>" for side, number in corners)
    fields = f"{deeper}<name>{name}</name>{deeper}<pose>Unspecified</pose>{deeper}<truncated>0</truncated>{deeper}<difficult>0</difficult>"
    return f"{break_before}<object>{fields}{deeper}<bndbox>{box}{deeper}</bndbox>{break_before}</object>"
