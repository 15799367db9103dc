"""The worst issues as cards: what a person needs to see, as small pictures inside the page and boxes drawn over them."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from PIL.Image import Image

from detclean.boxes import Floats
from detclean.dataset import Dataset
from detclean.edit.decisions import Decision
from detclean.machine import count_cores
from detclean.report.words import VERDICTS, say_categories, say_probability, shorten
from detclean.show.crops import Corners, Window, box_corners, cut_window, find_window, issue_boxes, needed_share, scale_box
from detclean.show.photos import READING_FAILS, open_photo
from detclean.show.words import TYPES

VIEW = 260  # units of a card's picture, and the most pixels it has
SHARPNESS = 2.0  # pixels at most for one of the photograph: more would add bytes and nothing to see
QUALITY, QUALITY_OF_MANY = 74, 62  # of the JPEGs: 2,000 of grainy photographs stay below 30 MB
MANY = 1000  # pictures
MOST_NEIGHBOURS = 30
TAG = 18  # characters of a category over a picture
FRINGE = 12.0  # units by which a box may reach out of the view

Rectangle = tuple[float, float, float, float]  # x, y, width, height in units of the view


@dataclass(frozen=True)
class Card:
    """One issue. picture: a JPEG as a data URI, None where the picture cannot be shown. given, proposed, neighbours: over the picture."""

    rank: int
    kind: str
    title: str
    probability: str
    categories: str
    reason: str
    file_name: str
    source: str | None
    decided: str | None
    picture: str | None = None
    given: Rectangle | None = None
    proposed: Rectangle | None = None
    neighbours: tuple[Rectangle, ...] = ()
    given_tag: str = ""
    proposed_tag: str = ""


def make_cards(dataset: Dataset, issues: pl.DataFrame, decisions: dict[str, Decision]) -> list[Card]:
    """A card for each issue, in their order. Each picture is read once for all its issues, several pictures at a time."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in issues.iter_rows(named=True):
        by_image.setdefault(row["image_index"], []).append(row)
    paths = dataset.images["path"].gather(list(by_image)).to_list()
    bounds = (
        np.searchsorted(dataset.annotations.image_index, np.stack([list(by_image), np.array(list(by_image)) + 1])) if by_image else None
    )
    spans = [] if bounds is None else [range(*span) for span in bounds.T.tolist()]
    quality = QUALITY if issues.height <= MANY else QUALITY_OF_MANY
    work = partial(_make_cards_of_image, xyxy=dataset.annotations.xyxy, decisions=decisions, quality=quality)
    with ThreadPoolExecutor(count_cores()) as pool:  # Pillow lets go of the interpreter while it reads, scales and writes
        cards = list(chain.from_iterable(pool.map(work, by_image.values(), paths, spans)))
    return sorted(cards, key=lambda card: card.rank)


def _make_cards_of_image(
    rows: list[dict[str, Any]], path: str | None, span: range, *, xyxy: Floats, decisions: dict[str, Decision], quality: int
) -> list[Card]:
    """Cards of the issues of one picture. span: its annotations' positions in xyxy (n, 4)."""
    with ExitStack() as stack:
        photo = None
        if path is not None:
            with suppress(*READING_FAILS):
                photo = stack.enter_context(open_photo(path, needed_share(rows, VIEW)))
        return [Card(**_describe(row, decisions), **_picture(row, photo, xyxy, span, quality)) for row in rows]


def _picture(row: dict[str, Any], photo: tuple[Image, float] | None, xyxy: Floats, span: range, quality: int) -> dict[str, Any]:
    """What a card shows of a photograph and over it; nothing where there is none, or no box to show."""
    boxes = issue_boxes(row)
    if photo is None or not boxes:
        return {}
    image, ratio = photo
    window = find_window(boxes, image.width / ratio, image.height / ratio)
    size = int(min(VIEW, max(round(SHARPNESS * window[2] * ratio), 16)))
    near = _find_neighbours(xyxy[[i for i in span if i != row["annotation"]]], window)
    return {"picture": encode_jpeg(cut_window(image, window, size, ratio), quality), **_place_boxes(row, window), "neighbours": near}


def _describe(row: dict[str, Any], decisions: dict[str, Decision]) -> dict[str, Any]:
    decision = decisions.get(row["issue_id"])
    return {
        "rank": row["rank"],
        "kind": row["issue_type"],
        "title": TYPES.get(row["issue_type"], row["issue_type"]),
        "probability": say_probability(row["probability"]),
        "categories": say_categories(row),
        "reason": row["reason"] or "",
        "file_name": row["file_name"],
        "source": row["source"],
        "decided": VERDICTS.get(decision.verdict) if decision else None,
    }


def _place_boxes(row: dict[str, Any], window: Window) -> dict[str, Any]:
    given, proposed = box_corners(row), box_corners(row, "suggested_")
    moved = row["action"] != "relabel"
    other = row["suggested_category"] is not None and row["suggested_category"] != row["category"]
    return {
        "given": None if given is None else place_box(given, window),
        "proposed": None if proposed is None or not moved else place_box(proposed, window),
        "given_tag": "" if given is None else shorten(row["category"] or "", TAG),
        "proposed_tag": shorten(row["suggested_category"], TAG) if other else "",
    }


def _find_neighbours(xyxy: Floats, window: Window) -> tuple[Rectangle, ...]:
    """The other annotations (k, 4) that show in a window: of a thing that is drawn twice, the second box."""
    left, top, side = window
    low, high = np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])
    seen = ((low < [left + side, top + side]) & (high > [left, top])).all(axis=1)
    corners = np.hstack([low, high])[seen][:MOST_NEIGHBOURS].tolist()
    return tuple(place_box((x1, y1, x2, y2), window) for x1, y1, x2, y2 in corners)


def place_box(box: Corners, window: Window) -> Rectangle:
    """Where a box lies in the view of a window; an inverted one has no extent."""
    x1, y1, x2, y2 = (min(max(value, -FRINGE), VIEW + FRINGE) for value in scale_box(box, window, VIEW / window[2]))
    return round(x1, 1), round(y1, 1), round(max(x2 - x1, 0), 1), round(max(y2 - y1, 0), 1)


def encode_jpeg(view: Any, quality: int) -> str:
    """A picture as a JPEG in a data URI."""
    out = io.BytesIO()
    view.save(out, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
