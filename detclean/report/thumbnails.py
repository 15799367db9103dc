"""Pictures whose quality is doubtful, small, inside the page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from detclean.report.pictures import encode_jpeg
from detclean.show.photos import READING_FAILS, open_photo
from detclean.show.words import PICTURE_KINDS

SIDE = 104  # px of a thumbnail's longer side
QUALITY = 70  # of its JPEG
SHOWN = 8  # of a kind


@dataclass(frozen=True)
class PictureIssue:
    """A kind of picture issue: its name, how many pictures have it, and the worst as (file name, data URI or None)."""

    name: str
    count: int
    worst: tuple[tuple[str, str | None], ...]


def picture_issues(health: Mapping[str, Any]) -> list[PictureIssue]:
    """The kinds of picture issues that occur, most frequent first, with the worst pictures of each; of a document of health.json."""
    if not health["pictures"]:
        return []
    found = []
    for kind, entry in health["pictures"]["kinds"].items():
        if entry["count"]:
            worst = tuple((row["file_name"], _shrink(row["path"])) for row in entry["worst"][:SHOWN])
            found.append(PictureIssue(PICTURE_KINDS.get(kind, kind), entry["count"], worst))
    return sorted(found, key=lambda issue: -issue.count)


def _shrink(path: str | None) -> str | None:
    """A picture as a small JPEG in a data URI; None where it cannot be read."""
    if path is None:
        return None
    with suppress(*READING_FAILS), open_photo(path, 0.25) as (photo, _):
        return _encode(photo)
    return None


def _encode(photo: Image) -> str:
    small = photo.copy()
    small.thumbnail((SIDE, SIDE))
    return encode_jpeg(small, QUALITY)
