"""The health of a data set for a person at a terminal: what to do first, then how good the labels are, and where what is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from detclean.health import FILE_NAME
from detclean.health.remedies import count, say_by, say_interval, shorten
from detclean.show.progress import clean_text
from detclean.show.summary import open_console
from detclean.show.words import PICTURE_KINDS, TYPES

WIDTH = 80
ROWS_SHOWN = 12  # of a table; health.json has all
NAME_LENGTH = 22
SPLITS_SHOWN = 3
OVERLAPS_SHOWN = 3


def print_health(document: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """What to do first, the number of errors, the quality of labels by category, and everything else that was found, 80 columns wide."""
    console = console or open_console()
    if not console.is_terminal:
        console.width = min(console.width, WIDTH)
    _print_head(document, console)
    _print_problems(document["problems"], console)
    _print_types(document, console)
    _print_categories(document["categories"], console)
    _print_overlap(document["overlap"], console)
    _print_pictures(document["pictures"], console)
    _print_splits(document, console)
    for grouping in document["gatherings"]:
        _print_gathering(grouping, console)
    if not document["gatherings"]:
        _print_title("Where errors gather", console)
        _print_line("No folder, name, key or date tells batches of images apart.", console)
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    console.print()
    console.print(Text(clean_text(f"Every figure: {shown / FILE_NAME}")), soft_wrap=True)


def _print_head(document: Mapping[str, Any], console: Console) -> None:
    quality, errors = document["quality"], document["errors"]
    _print_title(
        f"Health of {document['name']}: {count(document['images'], 'image')}, {count(document['annotations'], 'annotation')}", console
    )
    if quality is None:
        _print_line("There are no annotations to judge.", console)
        return
    be = "is" if round(errors["expected"]) == 1 else "are"
    _print_line(
        f"{quality['expected']:.1%} of the labels are right ({quality['low']:.0%} to {quality['high']:.0%}); about "
        f"{errors['expected']:,.0f} {be} wrong or missing ({say_interval(errors)}, 95 % confidence).",
        console,
    )
    if document["label_quality_score"] is not None:
        _print_line(f"cleanlab's label quality score is {document['label_quality_score']:.2f} on average (1 is good).", console)
    if document["decided"]:
        _print_line(f"{count(document['decided'], 'issue')} decided by people counted as they said.", console)
    if not document["calibrated"]:
        _print_line("Too little data to learn how far the detector may be believed: all figures are rough.", console)


def _print_problems(problems: Sequence[Mapping[str, str]], console: Console) -> None:
    _print_title("What to do first", console)
    if not problems:
        _print_line("Nothing calls for work.", console)
    for i, problem in enumerate(problems, 1):
        first, *others = _wrap(problem["text"], console.width - 6, console) or [""]
        style = "bold" if problem["severity"] == "warning" else "dim"
        console.print(Text(f"  {i:>2}. ", style=style) + Text(first, style=""), highlight=False)
        for line in others:
            console.print(Text(f"      {line}"), highlight=False)


def _print_types(document: Mapping[str, Any], console: Console) -> None:
    rows = [[TYPES.get(kind, kind), _number(row["expected"]), say_interval(row)] for kind, row in document["errors_by_type"].items()]
    rows.append(["all", _number(document["errors"]["expected"]), say_interval(document["errors"])])
    _print_table("Wrong labels by type", ["type", "expected", "95 %"], rows, console)


def _print_categories(categories: Sequence[Mapping[str, Any]], console: Console) -> None:
    header = ["category", "annot.", "images", "right", "wrong", "95 %", "cleanlab", "AP50"]
    rows = [
        [
            shorten(row["name"], NAME_LENGTH),
            f"{row['annotations']:,}",
            f"{row['images']:,}",
            "-" if row["quality"] is None else f"{row['quality']['expected']:.1%}",
            _number(row["errors"]["expected"]),
            say_interval(row["errors"]),
            _decimals(row["label_quality_score"]),
            _decimals(row["ap"]),
        ]
        for row in categories
    ]
    _print_table("Labels by category, worst first", header, rows, console)


def _print_overlap(overlap: Mapping[str, Any], console: Console) -> None:
    title = "Annotated as one category, looks like another (cleanlab on the crops)"
    if overlap["why"]:
        _print_title(title, console)
        _print_line(overlap["why"], console)
        return
    rows = [
        [shorten(pair["given"], NAME_LENGTH), shorten(pair["shown"], NAME_LENGTH), f"{pair['annotations']:,}", f"{pair['share']:.1%}"]
        for pair in overlap["pairs"]
    ]
    if not rows:
        _print_title(title, console)
        _print_line("None: cleanlab's confident joint has nothing beside its diagonal.", console)
        return
    _print_table(title, ["annotated", "looks like", "annotations", "of category"], rows, console, words=2)
    if more := overlap["all_pairs"] - len(rows):
        _print_line(f"and {count(more, 'more pair')} with fewer annotations", console)
    shares = [
        f"{shorten(pair['first'], NAME_LENGTH)} and {shorten(pair['second'], NAME_LENGTH)} ({pair['share']:.1%})"
        for pair in overlap["overlapping"][:OVERLAPS_SHOWN]
    ]
    if shares:
        _print_line(f"Categories that overlap most, of all annotations: {', '.join(shares)}.", console)


def _print_pictures(pictures: Mapping[str, Any] | None, console: Console) -> None:
    title = "Pictures (cleanvision)"
    if pictures is None:
        _print_title(title, console)
        _print_line("Not looked at: there are none, or report.image_quality is false.", console)
        return
    kinds = {"cannot be read": pictures["unreadable"], **{PICTURE_KINDS[kind]: found for kind, found in pictures["kinds"].items()}}
    rows = [[kind, f"{found['count']:,}", shorten(found["worst"][0]["file_name"])] for kind, found in kinds.items() if found["count"]]
    if not rows:
        _print_title(title, console)
        _print_line(f"{count(pictures['looked_at'], 'picture')} looked at, none with an issue.", console)
        return
    _print_table(f"{title}: {pictures['looked_at']:,} looked at", ["issue", "pictures", "worst"], rows, console, last=True)


def _print_splits(document: Mapping[str, Any], console: Console) -> None:
    balance = document["balance"]
    names = list(balance["splits"])
    header = ["category", *(f"{shorten(name, 9)} / images" for name in names[:SPLITS_SHOWN])]
    order = sorted(range(len(balance["categories"])), key=lambda k: -balance["annotations"][k])
    rows = [
        [
            shorten(balance["categories"][k], NAME_LENGTH),
            *(f"{row['annotations'][k]:,} / {row['images_with'][k]:,}" for row in list(balance["splits"].values())[:SPLITS_SHOWN]),
        ]
        for k in order
    ]
    _print_table("Balance: annotations / images with any", header, rows, console)
    if len(names) > SPLITS_SHOWN:
        _print_line(f"and {count(len(names) - SPLITS_SHOWN, 'more split')}; {FILE_NAME} has all", console)
    if balance["ratio"] is not None and sum(n > 0 for n in balance["annotations"]) > 1:
        _print_line(
            f"The largest has {balance['ratio']:.1f} times as many as the smallest; as diverse as {balance['effective']:.1f} equal ones.",
            console,
        )
    if len(names) > 1:
        leaks = [
            [leak["in"], leak["of"], f"{leak['pictures']:,}", f"{leak['exact']:,}", shorten(leak["files"][0][0])]
            for leak in document["leaks"]
        ]
        if leaks:
            _print_table(
                "Pictures in two splits", ["of", "as well in", "pictures", "same file", "first"], leaks, console, words=2, last=True
            )
        elif document["pictures_compared"]:
            _print_line("No picture of a split is in another one, nor nearly the same as one there.", console)
        else:
            _print_line("Nobody looked whether a picture is in two splits: there are no pictures.", console)


def _print_gathering(grouping: Mapping[str, Any], console: Console) -> None:
    rows = [
        [
            f"{'!' if group['stands_out'] else ' '} {shorten(group['name'] or '(none)')}",
            f"{group['images']:,}",
            f"{group['annotations']:,}",
            f"{sum(group['rates'].values()):.1f}",
            f"{max(sum(group['rates'].values()) - group['spread'], 0):.1f} to {sum(group['rates'].values()) + group['spread']:.1f}",
        ]
        for group in _choose_groups(grouping["groups"])
    ]
    title = f"Errors by {shorten(say_by(grouping['by']))}, per 100 annotations ({grouping['overall']:.1f} overall)"
    _print_table(title, ["  group", "images", "annot.", "errors", "95 %"], rows, console)
    if any(group["stands_out"] for group in grouping["groups"]):
        _print_line("! more than chance explains", console)
    if more := grouping["all"] - len(rows):
        _print_line(f"and {more:,} more, with fewer errors or too few images to compare", console)


def _choose_groups(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As many as are shown, in the order that they have, as that may be of time: those that stand out, then the worst."""
    worst = sorted(range(len(groups)), key=lambda i: (not groups[i]["stands_out"], -sum(groups[i]["rates"].values())))
    return [groups[i] for i in sorted(worst[:ROWS_SHOWN])]


def _print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], console: Console, *, words: int = 1, last: bool = False
) -> None:
    """A table whose first `words` columns are words and the others figures; the last one is words, too, if `last`."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 1), show_edge=False)
    for i, name in enumerate(header):
        is_text = i < words or (last and i == len(header) - 1)
        table.add_column(clean_text(name), justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*(Text(clean_text(cell)) for cell in row))
    _print_title(title, console)
    console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)
    if len(rows) > ROWS_SHOWN:
        _print_line(f"and {len(rows) - ROWS_SHOWN:,} more", console)


def _print_title(title: str, console: Console) -> None:
    console.print(Text(f"\n{clean_text(title)}", style="bold"))


def _print_line(text: str, console: Console) -> None:
    for line in _wrap(text, console.width - 2, console):
        console.print(Text(f"  {line}"), highlight=False)


def _wrap(text: str, width: int, console: Console) -> list[str]:
    """Lines of at most `width` columns, of which a Chinese character takes two."""
    return [line.plain.rstrip() for line in Text(clean_text(text)).wrap(console, width)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
