"""Names on the way out and back: pictures in other tools' words, and text that XML can hold."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from detclean.formats.imagefiles import drop_ending, safe_parts

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # the characters that XML 1.0 has no way to write
UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file
LONGEST_NAME = 200  # bytes of a file's name, of the 255 that file systems allow


def clean_text(text: str) -> str:
    """A text with a replacement character for what XML cannot hold."""
    return NOT_XML.sub("\ufffd", text)


@dataclass(frozen=True)
class KnownImages:
    """The images of a data set by all that a tool may call them: whole names, and the last part of paths."""

    parts: list[tuple[str, ...]]  # of each image's name
    exact: dict[str, int]
    by_last: dict[str, list[int]]
    by_upload: dict[str, list[int]]
    by_id: dict[str, int]


def know_images(names: Sequence[str], paths: Sequence[str | None], image_ids: Sequence[str | int]) -> KnownImages:
    """names as they were handed over, absolute paths, and the source's ids: (N,) each."""
    parts = [tuple(part for part in PurePosixPath(name).parts if part not in ("/", ".")) for name in names]
    exact: dict[str, int] = {}
    for column in (names, [clean_text(name) for name in names], paths):
        for i, name in enumerate(column):
            if name is not None:
                exact.setdefault(name, i)
    by_last: dict[str, list[int]] = {}
    by_upload: dict[str, list[int]] = {}
    for i, own in enumerate(parts):
        by_last.setdefault(own[-1], []).append(i)
        by_upload.setdefault(_as_uploaded(own[-1]), []).append(i)
    by_id: dict[str, int] = {}
    for i, image_id in enumerate(image_ids):
        by_id.setdefault(str(image_id), i)
    return KnownImages(parts, exact, by_last, by_upload, by_id)


def find_image(known: KnownImages, name: str) -> list[int]:
    """The images that a name can stand for: one where it is clear, none where it is unknown, several where it is not clear.

    A tool may have put folders before a name or taken them away, so that one of the two is the end of the other. A name of the same
    last part in another folder is another picture.
    """
    if name in known.exact:
        return [known.exact[name]]
    asked = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "."))
    if not asked:
        return []
    shared: dict[int, int] = {}
    for i in known.by_last.get(asked[-1], []):
        length = min(len(asked), len(known.parts[i]))
        if asked[-length:] == known.parts[i][-length:]:
            shared[i] = length
    longest = max(shared.values(), default=0)
    if found := [i for i, length in shared.items() if length == longest]:
        return found
    bare = UPLOAD.sub("", asked[-1])
    return known.by_upload.get(_as_uploaded(bare), []) if bare != asked[-1] else []


def _as_uploaded(name: str) -> str:
    """A file's name as Label Studio stores it: without blanks and signs (Django's get_valid_filename)."""
    return re.sub(r"(?u)[^-\w.]", "", name.strip().replace(" ", "_"))


def read_url(url: str) -> str:
    """The path in a picture's address as Label Studio keeps it: that of `?d=`, else the path; percent signs decoded once."""
    if "/local-files/" in url and "?d=" in url:
        return unquote(url.partition("?d=")[2])
    try:
        return unquote(urlsplit(url).path) if "://" in url or url.startswith("/data/") else url
    except ValueError:  # a host that is none
        return url


def make_unique_names(file_names: Sequence[str]) -> list[str]:
    """File names that tell pictures apart; one that occurs again (a picture that two splits list) goes into a numbered folder."""
    return _number_repeats([clean_name(name) for name in file_names], "/", whole=True)


def clean_name(name: str) -> str:
    return os.path.normpath(name).replace(os.sep, "/") if name else name


def place_images(names: Sequence[str], *, flat: bool) -> list[str]:
    """Where pictures go below one folder: no two share a place without its ending. flat: without any folder, for tools that look in one."""
    places = []
    for name in names:
        parts = safe_parts(name) or ("image",)
        if flat and len(parts) > 1 and parts[0] == "images":
            parts = parts[1:]
        places.append(_shorten("_".join(parts)) if flat else "/".join(parts))
    order = sorted(range(len(names)), key=lambda i: places[i] != names[i])  # a picture keeps its own name, or it is taken for another
    numbered = _number_repeats([places[i] for i in order], "-" if flat else "/", whole=False)
    return [place for _, place in sorted(zip(order, numbered, strict=True))]


def _shorten(place: str) -> str:
    content = place.encode("utf-8", "surrogateescape")
    if len(content) <= LONGEST_NAME:
        return place
    return hashlib.blake2b(content, digest_size=6).hexdigest() + "-" + content[-LONGEST_NAME // 2 :].decode("utf-8", "ignore")


def _number_repeats(places: Sequence[str], separator: str, *, whole: bool) -> list[str]:
    """Places of which none occurs twice, with its ending (whole) or without; letters' case does not tell them apart."""
    taken = {(place if whole else drop_ending(place)).lower() for place in places}
    used: set[str] = set()
    unique = []
    for place in places:
        chosen, number = place, 1
        while (key := (chosen if whole else drop_ending(chosen)).lower()) in used or (number > 1 and key in taken):
            number += 1
            chosen = f"{number}{separator}{place}"
        used.add(key)
        unique.append(chosen)
    return unique
