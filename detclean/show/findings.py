"""What a check has found: in words for people, as JSON lines for programs, as annotations for GitHub Actions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from detclean.audit import count_faults
from detclean.audit.places import Place, find_places
from detclean.dataset import Dataset, Finding
from detclean.errors import ConfigError
from detclean.formats.records import as_text
from detclean.show.progress import clean_text
from detclean.show.summary import open_console

FORMATS = ("text", "json", "github")
FINDINGS_SHOWN = 5  # of a kind, where not all are asked for
COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}  # of GitHub's workflows, by severity
MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})  # what GitHub wants escaped in the words of a command
PROPERTY = MESSAGE | str.maketrans({":": "%3A", ",": "%2C"})  # and in its properties


def require_format(name: str) -> None:
    """Raises ConfigError where findings cannot be printed so."""
    if name not in FORMATS:
        raise ConfigError(f"--format {name}: is no format of findings; choose text, json or github")


def print_check(findings: Sequence[Finding], dataset: Dataset, data: str, form: str = "text", show_all: bool = False) -> None:
    """The findings of a check in one of FORMATS, and a closing line that counts. data: the data set as its user named it.

    Where programs read the findings, all of them come out and nothing else: the closing line then goes to standard error.
    """
    faults = count_faults(findings)
    told = f"{dataset.image_count} images, {len(dataset.annotations)} annotations, {faults or 'no'} fault{'' if faults == 1 else 's'}"
    closing = f"{' '.join(clean_text(data).split())}: {told}"
    if form == "text":
        print_findings(findings, show_all)
        print(f"\n{closing}")
        return
    write = _write_json if form == "json" else _write_command
    for finding, place in zip(findings, find_places(findings, dataset), strict=True):
        print(write(finding, place))
    print(closing, file=sys.stderr)


def print_findings(findings: Sequence[Finding], show_all: bool = False, console: Console | None = None) -> None:
    """The findings of a check by severity and kind, FINDINGS_SHOWN of each kind or all. They come sorted by both."""
    console = console or open_console()
    for severity, same_severity in groupby(findings, key=lambda finding: finding.severity):
        group = list(same_severity)
        console.print(Text(f"\n{len(group)} {severity}{'s' if len(group) > 1 else ''}", style="bold"))
        for kind, same_kind in groupby(group, key=lambda finding: finding.kind):
            members = list(same_kind)
            shown = members if show_all else members[:FINDINGS_SHOWN]
            console.print(Text(f"  {clean_text(kind)}: {len(members)}"))
            for finding in shown:
                console.print(Text(f"    {clean_text(str(finding))}"), soft_wrap=True)
            if len(members) > len(shown):
                console.print(Text(f"    and {len(members) - len(shown)} more; --all shows them", style="dim"))


def _write_json(finding: Finding, place: Place) -> str:
    """A JSON object on one line, in ASCII, so that no terminal's encoding changes it."""
    document = {
        "kind": finding.kind,
        "severity": finding.severity,
        "file": _show_path(place.file),
        "line": place.line,
        "image": place.image,
        "where": finding.where,
        "message": finding.message,
    }
    return json.dumps({name: as_text(value) if isinstance(value, str) else value for name, value in document.items()})


def _write_command(finding: Finding, place: Place) -> str:
    """A workflow command: `::warning file=labels/a.txt,line=3,title=box-empty::labels/a.txt:3: ...`. The log shows its message alone."""
    known = {"file": _show_path(place.file), "line": place.line, "title": finding.kind}
    properties = ",".join(f"{name}={str(value).translate(PROPERTY)}" for name, value in known.items() if value is not None)
    return clean_text(f"::{COMMANDS[finding.severity]} {properties}::{str(finding).translate(MESSAGE)}")


def _show_path(file: Path | None) -> str | None:
    """Relative to the current directory where the file lies below it, as GitHub wants it of a repository's files, else absolute."""
    if file is None:
        return None
    for path, folder in ((os.path.abspath(file), os.getcwd()), (os.path.realpath(file), os.path.realpath(os.getcwd()))):
        if Path(path).is_relative_to(folder):
            return Path(path).relative_to(folder).as_posix()
    return Path(os.path.abspath(file)).as_posix()
