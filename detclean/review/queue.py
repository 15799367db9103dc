"""Which issues a person wants to see, and in what order: filters and orders over columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import polars as pl

from detclean.boxes import Floats, Ints, Mask

Order = Literal["probability", "image"]
ORDERS: tuple[str, ...] = get_args(Order)
STATES = ("open", "accept", "reject", "hard", "skip")  # codes of a state are positions in this
OPEN, ACCEPT, REJECT, HARD, SKIP = range(len(STATES))
WANTED = {
    "open": (OPEN,),
    "decided": (ACCEPT, REJECT, HARD),
    "accepted": (ACCEPT,),
    "rejected": (REJECT,),
    "hard": (HARD,),
    "skipped": (SKIP,),
    "all": tuple(range(len(STATES))),
}
LONGEST_TEXT = 1000  # characters of a filter


@dataclass(frozen=True)
class Filters:
    """What is to be shown. An empty text means any. low, high: of the probability as the run promised it, both included.

    category: given or suggested. image: a part of the file's name, in any case. state: a key of WANTED.
    """

    type: str = ""
    category: str = ""
    verdict: str = ""
    image: str = ""
    low: float = 0.0
    high: float = 1.0
    state: str = "open"
    order: Order = "probability"


def read_filters(query: Mapping[str, str]) -> Filters:
    """Filters from an address; what is no filter is passed over. Raises ValueError."""
    texts = {name: query.get(name, "") for name in ("type", "category", "verdict", "image")}
    if long := [name for name, text in texts.items() if len(text) > LONGEST_TEXT]:
        raise ValueError(f"{long[0]}: is longer than {LONGEST_TEXT} characters")
    state, order = query.get("state") or "open", query.get("order") or "probability"
    if state not in WANTED:
        raise ValueError(f"state: is none of {', '.join(WANTED)}")
    if order not in ORDERS:
        raise ValueError(f"order: is none of {', '.join(ORDERS)}")
    low, high = (_read_share(query.get(name), name, absent) for name, absent in (("low", 0.0), ("high", 1.0)))
    return Filters(**texts, low=low, high=high, state=state, order="image" if order == "image" else "probability")


def _read_share(text: str | None, name: str, absent: float) -> float:
    if not text:
        return absent
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}: is no number") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: is not between 0 and 1")
    return value


def about_issues(filters: Filters) -> Filters:
    """The filters without what changes while decisions are made: what a progress is counted over."""
    return replace(filters, state="all", order="probability")


def find_matches(issues: pl.DataFrame, filters: Filters) -> Mask:
    """The issues (n,) that filters ask for, whatever their state."""
    rule = pl.col("probability").is_between(filters.low, filters.high)
    if filters.type:
        rule &= pl.col("issue_type") == filters.type
    if filters.category:
        rule &= (pl.col("category").fill_null("") == filters.category) | (pl.col("suggested_category").fill_null("") == filters.category)
    if filters.verdict:
        rule &= pl.col("verdict") == filters.verdict
    if filters.image:
        rule &= pl.col("file_name").str.to_lowercase().str.contains(filters.image.lower(), literal=True)
    mask: Mask = issues.select(rule.fill_null(False)).to_series().to_numpy()
    return mask


def find_in_state(state: Ints, name: str) -> Mask:
    """The issues (n,) whose state (n,), a code, is one that `name` stands for."""
    return np.isin(state, WANTED[name])


def sort_positions(positions: Ints, probability: Floats, image_index: Ints, order: Order) -> Ints:
    """Positions (m,) in order: the likeliest errors first, or image by image, images by their worst issue. The other columns are (n,)."""
    own, image = probability[positions], image_index[positions]
    if order == "probability" or not len(positions):
        return positions[np.argsort(-own, kind="stable")]
    worst = np.full(int(image.max()) + 1, -np.inf)
    np.maximum.at(worst, image, own)
    return positions[np.lexsort((-own, image, -worst[image]))]
