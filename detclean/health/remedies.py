"""What to do first: one sentence a problem, with its remedy, the most pressing first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detclean.health.balance import FEW, UNEVEN

NAMES = 3  # in a sentence
LONGEST = 40  # characters of a name
POOR_QUALITY = 0.95  # share of right labels, below which the labels are the first thing to work on
MANY_CONFUSED = 0.02  # of a category's annotations that cleanlab counts as another one
LEAST_CONFUSED = 3  # annotations
TYPE_WORDS = {
    "overlooked": "overlooked objects",
    "badloc": "badly placed boxes",
    "swap": "wrong categories",
    "spurious": "boxes where there is nothing",
    "duplicate": "objects drawn twice",
}
KIND_WORDS = {
    "dark": ("too dark", "brighten them, or leave them out if the camera will not be used in the dark"),
    "light": ("too bright", "look whether anything can be seen in them"),
    "blurry": ("blurred", "leave them out where their objects cannot be told"),
    "low_information": ("nearly empty", "look whether they are pictures of anything"),
    "odd_size": ("of an unusual size", "look whether they are thumbnails or scans among photographs"),
    "odd_aspect_ratio": ("of an unusual shape", "cut them: squeezed into the detector's square, their objects become tiny"),
    "grayscale": ("grey among coloured ones", "a note only: see to it that the detector will meet such pictures"),
}


def list_problems(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Records of kind, severity (warning or note) and text, from the document of `measure_health` without its problems."""
    parts = (_leaks, _unreadable, _absent, _gatherings, _errors, _confusions, _pictures, _balance)
    told = [{"kind": kind, "severity": severity, "text": text} for part in parts for kind, severity, text in part(document)]
    return sorted(told, key=lambda problem: problem["severity"] != "warning")


Told = Iterator[tuple[str, str, str]]


def _leaks(document: Mapping[str, Any]) -> Told:
    for leak in document["leaks"]:
        same, near = leak["exact"], leak["pictures"] - leak["exact"]
        what = [f"{same:,} the very same file" if near else "the very same file"] if same else []
        what += [f"{near:,} nearly the same" if same else "nearly the same"] if near else []
        first = f"{shorten(leak['files'][0][0])} and {shorten(leak['files'][0][1])}"
        many = leak["pictures"] > 1
        yield (
            "leak",
            "warning",
            f"{count(leak['pictures'], 'picture')} of {leak['in']} {'are' if many else 'is'} in {leak['of']} as well "
            f"({' and '.join(what)}; first {first}): take {'them' if many else 'it'} out of {leak['in']}, "
            "or results there look better than they are.",
        )


def _unreadable(document: Mapping[str, Any]) -> Told:
    if document["pictures"] and (n := document["pictures"]["unreadable"]["count"]):
        first = document["pictures"]["unreadable"]["worst"][0]["file_name"]
        yield (
            "unreadable",
            "warning",
            f"{count(n, 'picture')} cannot be read (first {shorten(first)}): replace the files, or take the images out.",
        )


def _absent(document: Mapping[str, Any]) -> Told:
    if names := document["balance"]["only_outside"]:
        yield (
            "absent",
            "warning",
            f"{name_some(names)} {'is' if len(names) == 1 else 'are'} annotated in other splits and never in train: "
            "no detector can learn that; move some images over.",
        )


def _gatherings(document: Mapping[str, Any]) -> Told:
    for grouping in document["gatherings"]:
        bad = [group for group in grouping["groups"] if group["stands_out"]]
        if not bad:
            continue
        worst = max(bad, key=lambda group: sum(group["rates"].values()))
        rate = sum(worst["rates"].values())
        yield (
            "gathering",
            "warning",
            f"By {say_by(grouping['by'])}, {name_some([group['name'] or '(none)' for group in bad])} "
            f"{'has' if len(bad) == 1 else 'have'} more errors than chance explains ({rate:.0f} per 100 annotations"
            f"{'' if len(bad) == 1 else ' in the worst'}, {grouping['overall']:.0f} overall): look at that batch first, "
            "and at how it was made.",
        )


def _errors(document: Mapping[str, Any]) -> Told:
    quality, errors = document["quality"], document["errors"]
    if errors["expected"] < 1:
        return
    kind = max(document["errors_by_type"], key=lambda name: document["errors_by_type"][name]["expected"])
    poor = quality is None or quality["expected"] < POOR_QUALITY  # without annotations all that is there was overlooked
    yield (
        "errors",
        "warning" if poor else "note",
        f"About {count(round(errors['expected']), 'label')} "
        f"{'is' if round(errors['expected']) == 1 else 'are'} wrong or missing ({say_interval(errors)} with 95 % confidence), "
        f"most often {TYPE_WORDS[kind]}: review the issues, worst first.",
    )
    rows = [row for row in document["categories"] if quality and row["quality"] and row["quality"]["high"] < quality["low"]]
    if rows:
        names = name_some([row["name"] for row in rows])
        yield "category", "warning", f"The labels of {names} are worse than the others by more than chance: begin the review there."


def _confusions(document: Mapping[str, Any]) -> Told:
    for pair in document["overlap"].get("pairs", [])[:NAMES]:
        if pair["annotations"] >= LEAST_CONFUSED and pair["share"] >= MANY_CONFUSED:
            yield (
                "overlap",
                "warning",
                f"{pair['share']:.0%} of what is annotated {quote(pair['given'])} looks like {quote(pair['shown'])} to cleanlab "
                f"({count(pair['annotations'], 'annotation')}): say in the guidelines how the two are told apart, and check these.",
            )


def _pictures(document: Mapping[str, Any]) -> Told:
    if document["pictures"] is None:
        return
    for kind, found in document["pictures"]["kinds"].items():
        if n := found["count"]:
            what, remedy = KIND_WORDS[kind]
            first = shorten(found["worst"][0]["file_name"])
            severity = "note" if kind == "grayscale" else "warning"
            yield kind, severity, f"{count(n, 'picture')} {'is' if n == 1 else 'are'} {what} (worst {first}): {remedy}."


def _balance(document: Mapping[str, Any]) -> Told:
    balance = document["balance"]
    if few := balance["few"]:
        have = "has" if len(few) == 1 else "have"
        yield "few", "warning", f"{name_some(few)} {have} fewer than {FEW} annotations: collect more, or merge, or expect little there."
    if balance["ratio"] is not None and balance["ratio"] >= UNEVEN:
        yield (
            "uneven",
            "note",
            f"The largest category has {balance['ratio']:.0f} times as many annotations as the smallest; together they weigh like "
            f"{balance['effective']:.1f} equal ones: judge by the mean over categories.",
        )
    if empty := balance["empty"]:
        yield (
            "empty",
            "note",
            f"{name_some(empty)} {'is' if len(empty) == 1 else 'are'} never annotated: take the name out, or add examples.",
        )


def say_by(by: str) -> str:
    """What a grouping is by, for a person."""
    return {"prefix": "the beginning of file names"}.get(by, by)


def say_interval(figure: Mapping[str, float]) -> str:
    """`120 to 180`."""
    return f"{figure['low']:,.0f} to {figure['high']:,.0f}"


def count(n: int, one: str) -> str:
    """1 picture, 1,200 pictures."""
    return f"{n:,} {one if n == 1 else one + 's'}"


def quote(name: str) -> str:
    return f"‘{shorten(name)}’"


def name_some(names: Sequence[str]) -> str:
    """The first NAMES of some names, and how many more there are."""
    first = [quote(name) for name in names[:NAMES]]
    if len(names) > NAMES:
        return f"{', '.join(first)} and {len(names) - NAMES:,} more"
    return first[0] if len(first) == 1 else f"{', '.join(first[:-1])} and {first[-1]}"


def shorten(text: str, longest: int = LONGEST) -> str:
    """On one line, its middle left out where it is long."""
    text = " ".join(text.split())
    keep = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - keep]}…{text[len(text) - keep :]}"
