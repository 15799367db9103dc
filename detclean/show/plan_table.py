"""A plan for a person: a table that is understood in seconds, what would be cheaper, and what the figures rest on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from detclean.show.progress import clean_text
from detclean.show.summary import open_console

LITTLE = 0.02  # of the whole time, below which a stage is greyed


def print_plan(plan: Mapping[str, Any], console: Console | None = None) -> None:
    """One line a stage, the total, when it would end, warnings, advice and the basis. plan: a document of `describe_plan`."""
    console = console or open_console()
    console.print(Text(f"\nPlan for {clean_text(plan['name'])}: {clean_text(plan['headline'])}", style="bold"), soft_wrap=True)
    for warning in plan["warnings"]:
        console.print(Text(f"warning: {clean_text(warning)}", style="yellow"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, padding=(0, 2), show_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in ("time", "memory", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in plan["stages"]:
        little = "dim" if stage["seconds"] < LITTLE * plan["seconds"] else None
        if stage["done"] == 1:
            table.add_row(stage["name"], "done before", "-", "-", style=little)
            continue
        before = f" ({stage['done']:.0%} done before)" if stage["done"] else ""
        figures = describe_duration(stage["seconds"]), describe_bytes(stage["memory"]), describe_bytes(stage["disk"])
        table.add_row(stage["name"] + before, *figures, style=little)
    whole = describe_duration(plan["seconds"])
    table.add_row("all", whole, describe_bytes(plan["memory"]), describe_bytes(plan["disk"]), style="bold")
    console.print()
    console.print(table, highlight=False)
    console.print(Text(f"\n{_describe_end(plan)}"), soft_wrap=True)
    if plan["advice"]:
        console.print(Text("\nCheaper", style="bold"))
        grid = Table.grid(padding=(0, 2), pad_edge=False)
        for overflow in (None, None, "fold"):
            grid.add_column(no_wrap=overflow is None, overflow=overflow or "ellipsis")
        for advice in plan["advice"]:
            times = f"{describe_duration(advice['seconds'])} instead of {whole}"
            grid.add_row(Text(f"  {clean_text(advice['change'])}"), times, Text(clean_text(advice["price"])))
        console.print(grid, highlight=False)
    console.print(Text("\nWhat this rests on", style="bold"))
    for sentence in plan["basis"]:
        console.print(Padding(Text(clean_text(sentence)), (0, 0, 0, 2)))


def _describe_end(plan: Mapping[str, Any]) -> str:
    start, end = (datetime.fromisoformat(plan[name]) for name in ("starts", "ends"))
    day = "" if end.date() == start.date() else f"on {end:%A}, {end:%Y-%m-%d}, "
    passing = f"; up to {describe_bytes(plan['disk_needed'])} of disk while it runs" if plan["disk_needed"] > 1.2 * plan["disk"] else ""
    return f"Started now it would end {day}at about {end:%H:%M}{passing}."


def describe_duration(seconds: float) -> str:
    """A duration as one says it: `34 s`, `4 min 50 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 0.95:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 3595:
        minutes, rest = divmod(round(seconds / 10) * 10, 60)
        return _join(minutes, "min", rest, "s")
    if seconds < 86370:
        hours, rest = divmod(round(seconds / 60), 60)
        return _join(hours, "h", rest, "min")
    days, rest = divmod(round(seconds / 3600), 24)
    return _join(days, "d", rest, "h")


def _join(large: int, name: str, small: int, part: str) -> str:
    return f"{large} {name} {small} {part}" if small else f"{large} {name}"


def describe_bytes(count: float) -> str:
    """A size as one says it: `12 MB`, `1.4 GB`."""
    if count < 5e5:
        return "< 1 MB"
    if count < 9.95e8:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 9.95e10 else f"{count / 1e9:.0f} GB"
