"""YOLO labels as Ultralytics reads them: one file a picture, one row an object."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Boxes, Floats, Ints, clip_boxes, cxcywhn_to_xyxy, xyxy_to_cxcywhn
from detclean.dataset import Dataset, shorten_path
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.formats.datayaml import BOM, Split, label_path_of, list_splits, load_yaml, printable, read_names
from detclean.formats.imagefiles import drop_ending, is_image_name, list_files, read_image_sizes, safe_parts
from detclean.formats.plainfile import read_plain
from detclean.formats.records import FindingLog, is_within_reach, issue_boxes

TOLERANCE = 0.01  # how far outside 0..1 a coordinate may lie before Ultralytics drops the whole picture (verify_image_label)
DECIMALS = 8  # a box moves by less than 1e-3 pixel even in a picture of 100,000 pixels
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
DECIMAL_COMMA = r"^\s*\d+(\s+\d*,\d+){4,}\s*$"
NOT_LABELS = ("classes.txt", "labels.txt", "readme.txt")  # what labelling tools put among the label files


# Reading


def read_yolo(path: str | Path) -> Dataset:
    """The data set of a data.yaml, all its splits.

    image_id and file_name are the picture's path below the data set's root, annotation_id counts over all splits. A picture that two
    splits list is in the table twice. A polygon row becomes its bounding box. Sizes are those of the picture seen upright.
    Raises DatasetError where the yaml, a folder it names or its pictures are missing.
    """
    source = Path(os.path.abspath(path))
    document = load_yaml(source)
    categories = read_names(document, source)
    log = FindingLog(source.name)
    splits = list_splits(document, source, log)
    images = _read_images(splits, source, log)
    if not images.height:
        raise DatasetError(f"{source}: none of its images can be read; check the picture files")
    annotations, source_rows = _read_labels(images, len(categories), source, log)
    _find_orphans(splits, source, log)
    return Dataset(images, categories, annotations, source_rows, "yolo", source, tuple(range(len(categories))), log.finish())


def _read_images(splits: list[Split], source: Path, log: FindingLog) -> pl.DataFrame:
    """The images table of Dataset, without the pictures whose size cannot be read or whose name cannot be written down."""
    listed = [row for split in splits for row in zip(split.paths, split.image_ids, [split.name] * len(split.paths), strict=True)]
    for path, image_id, _ in listed:
        if printable(path) != path:
            log.add("unreadable-image", "warning", printable(image_id), "its name is not UTF-8; rename it, it is left out")
    rows = [row for row in listed if printable(row[0]) == row[0]]
    distinct = list(dict.fromkeys(path for path, _, _ in rows))
    sizes = read_image_sizes(distinct)
    for i in np.flatnonzero(sizes[:, 0] == 0):
        log.add(
            "unreadable-image", "warning", shorten_path(distinct[i], source), "is no picture that can be read; replace it, it is left out"
        )
    size_of = dict(zip(distinct, sizes.tolist(), strict=True))
    images = pl.DataFrame(
        {
            "image_id": pl.Series([image_id for _, image_id, _ in rows], dtype=pl.String),
            "file_name": pl.Series([image_id for _, image_id, _ in rows], dtype=pl.String),
            "path": pl.Series([path for path, _, _ in rows], dtype=pl.String),
            "label_path": pl.Series([label_path_of(path) for path, _, _ in rows], dtype=pl.String),
            "width": pl.Series([size_of[path][0] for path, _, _ in rows], dtype=pl.Int64),
            "height": pl.Series([size_of[path][1] for path, _, _ in rows], dtype=pl.Int64),
            "split": pl.Series([split for _, _, split in rows], dtype=pl.String),
        }
    ).filter(pl.col("width") > 0)
    owners: dict[str, str] = {}
    for path, label_path in zip(images["path"].to_list(), images["label_path"].to_list(), strict=True):
        if owners.setdefault(label_path, path) != path:
            message = f"is the label file of both {Path(owners[label_path]).name} and {Path(path).name}; rename one of the pictures"
            log.add("shared-label-file", "warning", shorten_path(label_path, source), message)
    return images


def _read_labels(images: pl.DataFrame, category_count: int, source: Path, log: FindingLog) -> tuple[Boxes, Ints]:
    """The annotations of all images, and the line that each stands on."""
    rows = _read_rows(images, source, log)
    where = _place_namer(images, rows, source)
    values, widths = rows["values"], rows["width"].to_numpy()
    image_index, lines = rows["image"].to_numpy(), rows["line"].to_numpy()
    polygon = (widths >= 7) & (widths % 2 == 1)
    countable = (widths == 5) | (widths == 6) | polygon
    for i in np.flatnonzero(~countable):
        log.add("row-skipped", "warning", where(i), f"{widths[i]} columns, but a row is `class cx cy w h` or a polygon; it is left out")
    for i in np.flatnonzero(widths == 6):
        log.add("six-columns", "warning", where(i), "6 columns; the sixth is not read, and Ultralytics drops the whole image: remove it")
    has_polygon = np.isin(image_index, image_index[polygon])
    for i in np.flatnonzero(has_polygon & (widths == 5)):
        log.add("mixed-rows", "warning", where(i), "a box row in a file with polygon rows; Ultralytics drops the whole image: use one kind")

    category = _column(values, 0)
    boxes = np.stack([_column(values, i) for i in range(1, 5)], axis=1)
    boxes[polygon] = _bound_polygons(values.filter(pl.Series(polygon)))
    finite = np.isfinite(np.column_stack([category, boxes])).all(axis=1)
    for i in np.flatnonzero(countable & ~finite):
        log.add(
            "not-a-number", "error", where(i), f"`{rows['text'][int(i)].strip()[:60]}` holds what is no number; correct or remove the row"
        )
    sizes = images.select("width", "height").to_numpy().astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = cxcywhn_to_xyxy(boxes, sizes[image_index])
    near = is_within_reach(xyxy)
    for i in np.flatnonzero(countable & finite & ~near):
        log.add(
            "coordinate-too-large", "error", where(i), f"`{rows['text'][int(i)].strip()[:60]}` lies beyond any picture; correct the row"
        )
    finite &= near
    known = (category == np.floor(category)) & (category >= 0) & (category < category_count)
    for i in np.flatnonzero(countable & finite & ~known):
        message = f"category {category[i]:g}, but {source.name} names {category_count} (0 to {category_count - 1})"
        log.add("category-out-of-range", "error", where(i), message)
    good = countable & finite & known
    for i in np.flatnonzero(good & ((boxes < -TOLERANCE) | (boxes > 1 + TOLERANCE)).any(axis=1)):
        log.add("coordinate-out-of-range", "warning", where(i), "a coordinate lies outside 0 to 1; Ultralytics drops the whole image")

    count = int(good.sum())
    annotations = Boxes(
        image_index=image_index[good],
        category=category[good].astype(np.int64),
        xyxy=xyxy[good],
        annotation_id=np.arange(count),
        is_crowd=np.zeros(count, bool),
    )
    return annotations, lines[good]


def _read_rows(images: pl.DataFrame, source: Path, log: FindingLog) -> pl.DataFrame:
    """Every row that holds something: image, line from 0, text, values (its numbers, null where it is none), width (its columns)."""
    texts: list[str] = []
    counts: list[int] = []
    for label_path, image_id in images.select("label_path", "image_id").iter_rows():
        lines = split_rows(_read_label_file(label_path, image_id, source, log))
        texts += [line.decode("latin-1") for line in lines]  # numbers are ASCII; whatever else a row holds must not stop the reading
        counts.append(len(lines))
    rows = pl.DataFrame(
        {
            "image": np.repeat(np.arange(len(counts)), counts),
            "line": np.concatenate([np.arange(count) for count in counts]),
            "text": pl.Series(texts, dtype=pl.String),
        }
    ).filter(pl.col("text").str.contains(r"\S"))
    where = _place_namer(images, rows, source)
    for i in rows["text"].str.contains("[#,;]").arg_true():
        log.add("row-with-extras", "warning", where(i), "holds a comma or a comment; it is read, but Ultralytics drops the whole image")
    plain = pl.col("text").str.replace("#.*", "")
    spaced = pl.when(plain.str.contains(DECIMAL_COMMA)).then(plain.str.replace_all(",", ".")).otherwise(plain.str.replace_all("[,;]", " "))
    numbers = pl.col("tokens").cast(pl.List(pl.Float64), strict=False)
    width = pl.col("tokens").list.len().cast(pl.Int64)
    rows = rows.with_columns(tokens=spaced.str.extract_all(r"\S+"))
    return rows.filter(pl.col("tokens").list.len() > 0).select("image", "line", "text", values=numbers, width=width)


def _read_label_file(label_path: str, image_id: str, source: Path, log: FindingLog) -> bytes:
    """A label file's bytes without its byte-order mark; empty where there is no such file."""
    try:
        content = read_plain(label_path)
    except FileNotFoundError:
        shown = shorten_path(label_path, source)
        log.add("image-without-labels", "note", image_id, f"{shown} does not exist; the image counts as background")
        return b""
    except OSError as error:
        raise DatasetError(f"{label_path}: cannot be read ({error.strerror}); a readable text file belongs here") from None
    if content.startswith(UTF16_BOMS):
        log.add("label-encoding", "error", shorten_path(label_path, source), "is UTF-16, which no trainer reads; save it as UTF-8")
        return b""
    if not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            message = "is not UTF-8; Ultralytics drops the whole image: save it as UTF-8"
            log.add("label-encoding", "warning", shorten_path(label_path, source), message)
    return content.removeprefix(BOM)


def split_rows(content: bytes) -> list[bytes]:
    """Lines with their ends, and so numbered as `source_rows` counts them."""
    return content.splitlines(keepends=True)


def _place_namer(images: pl.DataFrame, rows: pl.DataFrame, source: Path) -> Callable[[Any], str]:
    """A function that names the place of a row by its position, `labels/a.txt:3`."""
    label_paths, image_index, lines = images["label_path"], rows["image"].to_numpy(), rows["line"].to_numpy()
    return lambda i: f"{shorten_path(label_paths[int(image_index[i])], source)}:{lines[i] + 1}"


def _column(values: pl.Series, position: int) -> Floats:
    """One column of rows of different widths: (n,), NaN where a row has none or what stands there is no number."""
    return values.list.get(position, null_on_oob=True).to_numpy().astype(np.float64)


def _bound_polygons(values: pl.Series) -> Floats:
    """Bounding boxes of polygon rows `class x y x y ...`: (n,) lists -> (n, 4) cx cy w h, NaN where a point is no number."""
    if values.is_empty():
        return np.empty((0, 4))
    coordinates = values.list.slice(1)
    points = coordinates.explode().to_numpy().astype(np.float64).reshape(-1, 2)
    counts = coordinates.list.len().to_numpy().astype(np.int64) // 2
    starts = np.cumsum(counts) - counts
    low, high = np.minimum.reduceat(points, starts, axis=0), np.maximum.reduceat(points, starts, axis=0)
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _find_orphans(splits: list[Split], source: Path, log: FindingLog) -> None:
    """Notes label files that no picture stands beside, in the label folders of all splits."""
    known = {label_path_of(path) for split in splits for path in split.paths}
    folders = {(str(folder), True) for split in splits for folder in split.folders}
    folders |= {(os.path.dirname(path), False) for split in splits if not split.folders for path in split.paths}
    orphans: set[str] = set()
    for folder, deep in folders:
        twin = os.path.dirname(label_path_of(os.path.join(folder, "x.jpg")))
        if twin == folder or not os.path.isdir(twin):
            continue
        names = list_files(Path(twin)) if deep else os.listdir(twin)
        unmatched = [name for name in names if name.endswith(".txt") and os.path.join(twin, name) not in known]
        pictures = {drop_ending(name) for name in (list_files(Path(folder)) if unmatched else []) if is_image_name(name)}
        orphans |= {os.path.join(twin, name) for name in unmatched if drop_ending(name) not in pictures and name.lower() not in NOT_LABELS}
    for orphan in sorted(orphans):
        shown = printable(shorten_path(orphan, source))
        log.add("label-without-image", "warning", shown, "no image belongs to this label file; add the image or remove the file")


# Writing the issue list


def write_yolo_issues(dataset: Dataset, issues: pl.DataFrame, folder: Path) -> None:
    """The issues of a data set of any format as YOLO files: issues.txt lists the images, worst first; labels/ has a row an issue.

    issues: the rows of issues.csv. A row has the suggested category and box where there is one and the given one otherwise.
    labels/<stem>.txt; images that share their stem keep their folders below labels/. classes.txt: the categories.
    """
    issues = issues.sort("rank")
    row_of = {image_id: i for i, image_id in reversed(list(enumerate(dataset.images["image_id"].cast(pl.String).to_list())))}
    number_of = {name: i for i, name in enumerate(dataset.categories)}
    indices = [row_of[image_id] for image_id in issues["image_id"].cast(pl.String).to_list()]
    xyxy = issue_boxes(issues, suggested_first=True)
    sizes = dataset.sizes[indices]
    numbers = xyxy_to_cxcywhn(clip_boxes(xyxy, sizes), sizes)
    names = issues.select(pl.coalesce("suggested_category", "category")).to_series().to_list()
    rows: dict[int, list[str]] = {}
    for index, name, box in zip(indices, names, numbers.tolist(), strict=True):
        rows.setdefault(index, []).append(" ".join([str(number_of[name]), *(f"{number:.{DECIMALS}f}" for number in box)]))
    listed = dataset.images.select("path", "file_name")[list(rows)]
    paths = [path or file_name for path, file_name in listed.iter_rows()]
    for lines, place in zip(rows.values(), _name_issue_files(listed["file_name"].to_list()), strict=True):
        write_whole(folder / "labels" / f"{place}.txt", "".join(f"{line}\n" for line in lines))
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    write_whole(folder / "issues.txt", "".join(f"{path}\n" for path in paths))
    write_whole(folder / "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in dataset.categories))


def _name_issue_files(file_names: Sequence[str]) -> list[str]:
    """Label files' names without ending: the stem, or with its folders where a stem is not the only one, numbered if need be."""
    places = ["/".join(safe_parts(drop_ending(name))) for name in file_names]
    count_of = Counter(place.rpartition("/")[2] for place in places)
    taken: set[str] = set()
    names = []
    for place in places:
        stem = place.rpartition("/")[2]
        chosen = wanted = stem if count_of[stem] == 1 else place
        number = 1
        while chosen in taken:
            number += 1
            chosen = f"{wanted}-{number}"
        taken.add(chosen)
        names.append(chosen)
    return names
