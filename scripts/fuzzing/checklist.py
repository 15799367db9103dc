"""What damage has to be among the inputs, each told by looking at the files of a case: a list that is counted, not believed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from detclean.formats.plainfile import read_plain
from fuzzing.pictures import find_kinds, is_cut, list_sides

ENDINGS = (".json", ".jsonl", ".txt", ".xml", ".yaml")
LONGEST = 200_000  # bytes of a file that are looked at
GIANT, DEEP = 300_000, b"[" * 1000
KEYS = rb'"(?:bbox|id|width|height|score|image_id|category_id|xyxy|annotation_id|x|y)"'
TEXTS = {
    "NaN": rb"(?i)\bnan\b",
    "Infinity": rb"(?i)\binf(inity)?\b",
    "1e308": rb"1e\+?308",
    "negative number": rb"[\s\[,:>\"=]-\d",
    "huge number": rb"\d{7,}|\d[eE]\+?\d\d",
    "text for a number": KEYS + rb': ?"|"(?:bbox|xyxy)": ?\[[^\]{}]*"',
    "CRLF": rb"\r\n",
}
ROWS = {"comma": rb",", "tab": rb"\t"}  # between numbers: in label files, lists and detections
SWAPPED = (
    re.compile(rb"<xmin>(-?[\d.]+)</xmin>.{0,80}?<xmax>(-?[\d.]+)</xmax>", re.S),
    re.compile(rb"<ymin>(-?[\d.]+)</ymin>.{0,80}?<ymax>(-?[\d.]+)</ymax>", re.S),
    re.compile(rb'xtl="(-?[\d.]+)"[^>]*? xbr="(-?[\d.]+)"'),
    re.compile(rb'xyxy": \[(-?[\d.]+), [^,\]]+, (-?[\d.]+)'),
)
NAMES = {"space": " ", "bracket": "[", "quote": "\"'", "#": "#", "newline": "\n", "emoji": "😀", "right-to-left text": "\u202e"}
WORDS = (
    *TEXTS,
    *ROWS,
    *("swapped coordinates", "deep JSON", "giant JSON", "key twice", "id twice", "BOM", "not UTF-8"),
    *("loop of links", "pipe or device", *(f"name with {what}" for what in NAMES), "same stem twice"),
    *("truncated picture", "0-byte picture", "16-bit", "CMYK", "RGBA", "palette", "animated", "EXIF-rotated", "decompression bomb"),
    "picture of another size than claimed",
)
_TEXTS = {what: re.compile(pattern) for what, pattern in TEXTS.items()}


def list_damage(case: Path) -> list[str]:
    """Which of WORDS are in the files of a case."""
    found: set[str] = set()
    stems: set[tuple[str, str]] = set()
    pictures: dict[str, Path] = {}
    for path in _walk(case):
        _look_at_name(path, found)
        mode = path.stat().st_mode if path.exists() else 0
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            found.add("pipe or device")
        if not stat.S_ISREG(mode):
            continue
        if path.suffix in ENDINGS:
            _look_at_text(path, found)
            continue
        with open(path, "rb") as file:
            content = file.read(LONGEST)
        found |= find_kinds(content)
        found |= {"0-byte picture"} if not content else {"truncated picture"} if is_cut(content) else set()
        key = (str(path.parent), path.stem)
        found |= {"same stem twice"} if key in stems else set()
        stems.add(key)
        pictures[path.name] = path
    if any(width and (width, height) != sides for (width, height), sides in _list_claims(case, pictures)):
        found.add("picture of another size than claimed")
    return [word for word in WORDS if word in found]


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        if "run" in folders and here == str(folder):
            folders.remove("run")  # a whole run folder of which one file is damaged
        for name in (*folders, *files):
            yield Path(here, name)


def _look_at_name(path: Path, found: set[str]) -> None:
    found |= {f"name with {what}" for what, signs in NAMES.items() if any(sign in path.name for sign in signs)}
    if path.is_symlink():
        try:
            target = os.path.realpath(path, strict=True)
        except FileNotFoundError:
            return
        except OSError:
            found.add("loop of links")
            return
        if f"{path.parent}/".startswith(f"{target}/"):
            found.add("loop of links")


def _look_at_text(path: Path, found: set[str]) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        content = file.read(LONGEST)
    found |= {what for what, pattern in _TEXTS.items() if pattern.search(content)}
    if path.suffix == ".txt":
        found |= {what for what, sign in ROWS.items() if re.search(rb"\d" + sign + rb"[-\d]", content)}
    found |= {"BOM"} if content.startswith(b"\xef\xbb\xbf") else set()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        found |= {"not UTF-8"} if size < LONGEST or error.start < LONGEST - 4 else set()
    for pattern in SWAPPED:
        for low, high in pattern.findall(content):
            with suppress(ValueError):
                found |= {"swapped coordinates"} if float(low) > float(high) else set()
    if path.suffix in (".json", ".jsonl", ".yaml"):
        found |= {"deep JSON"} if DEEP in content or b'{"a":' * 200 in content else set()
        found |= {"giant JSON"} if size > GIANT else set()
        if size < LONGEST and path.suffix != ".yaml":
            _look_at_document(content, found)


def _look_at_document(content: bytes, found: set[str]) -> None:
    def pair(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.update(["key twice"] if len({key for key, _ in pairs}) < len(pairs) else [])
        return dict(pairs)

    with suppress(ValueError, RecursionError):
        document = json.loads(content, object_pairs_hook=pair)
        lists = [value for value in document.values() if isinstance(value, list)] if isinstance(document, dict) else []
        for records in [document, *lists] if isinstance(document, list) else lists:
            ids = [str(record["id"]) for record in records if isinstance(record, dict) and "id" in record]
            found.update(["id twice"] if len(set(ids)) < len(ids) else [])


def _list_claims(case: Path, pictures: dict[str, Path]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What a COCO file or a VOC file says of a picture's width and height, and what its header does."""
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        document = json.loads(read_plain(case / "annotations.json")[:LONGEST])
        for record in document.get("images", []):
            with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
                yield (int(record["width"]), int(record["height"])), list_sides(pictures[record["file_name"]])
    for path in pictures.values():
        with suppress(OSError, ValueError):
            text = read_plain(case / "Annotations" / f"{path.stem}.xml")[:LONGEST]
            said = re.search(rb"<width>(\d{1,9})</width>\s*<height>(\d{1,9})<", text)
            if said:
                yield (int(said[1]), int(said[2])), list_sides(path)
