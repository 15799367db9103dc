"""How the report says things: types of issues, probabilities, categories, figures."""

from __future__ import annotations

import math
from typing import Any

from detclean.show.words import say_likeliness

MEANING = {
    "overlooked": "an object that nobody annotated",
    "badloc": "the box does not fit its object",
    "swap": "the object is of another category",
    "spurious": "a box where there is no such object",
    "duplicate": "two boxes on the same object",
}
# Of the Okabe-Ito palette, without the two colours that boxes have.
COLOURS = {"overlooked": "#56B4E9", "badloc": "#009E73", "swap": "#CC79A7", "spurious": "#D55E00", "duplicate": "#F0E442"}
VERDICTS = {"accept": "confirmed as wrong", "reject": "found right", "hard": "found right, but hard", "skip": "left for later"}
NARROW = "\N{NARROW NO-BREAK SPACE}"
SPACE = "\N{NO-BREAK SPACE}"
LONGEST_NAME = 40  # characters of a name inside a sentence


def say_probability(probability: float) -> str:
    """In words and percent: almost certainly wrong, 97 %."""
    return f"{say_likeliness(probability)}, {percent(min(probability, 0.99))}"


def say_categories(row: dict[str, Any]) -> str:
    """What is annotated and what it looks like, from an issue's row."""
    given, suggested = _quote(row["category"]), _quote(row["suggested_category"])
    kind = row["issue_type"]
    if kind == "overlooked":
        return f"looks like {suggested}, not annotated"
    if kind == "swap":
        return f"annotated {given}, looks like {suggested if row['suggested_category'] is not None else 'something else'}"
    return {
        "badloc": f"annotated {given}, the box fits badly",
        "spurious": f"annotated {given}, there seems to be none",
        "duplicate": f"annotated {given} where another box is already",
    }.get(kind, f"annotated {given}")


def percent(share: float | None) -> str:
    """A share as percent, with a decimal near nothing and near all, which it names only if it is; a dash where it is not known."""
    if share is None or math.isnan(share):
        return "–"
    value = 100 * share
    if 0 < value < 0.05:
        return f"< 0.1{SPACE}%"
    if 99.95 <= value < 100:
        return f"> 99.9{SPACE}%"
    return f"{value:.1f}{SPACE}%" if 0 < value < 9.95 or 99.5 <= value < 100 else f"{value:.0f}{SPACE}%"


def number(value: float | None) -> str:
    """A whole number with thin spaces between thousands: 12 345. A dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{round(value):,}".replace(",", NARROW)


def expected(value: float) -> str:
    """An expected number: whole from ten on, one decimal below, and nothing at all as a dash."""
    if value < 0.05:
        return "–"
    return number(value) if value >= 9.95 else f"{value:.1f}"


def decimals(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def plural(count: float, one: str, many: str | None = None) -> str:
    """1 image, 2 images, 12 345 images."""
    return f"{number(count)} {one if round(count) == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """For a person: 0.3 s, 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shorten(text: str, length: int = LONGEST_NAME) -> str:
    """A text on one line, with its middle left out where it is too long."""
    text = " ".join(text.split())
    keep = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - keep]}…{text[len(text) - keep :]}"


def _quote(name: str | None) -> str:
    return "–" if name is None else f"‘{shorten(name)}’"
