"""Decisions brought into the data set that a run was made on, and taken out again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detclean.edit.changes import find_changes
from detclean.edit.decisions import read_decisions
from detclean.edit.patch import Applied, apply_in_place, apply_to_copy, undo_newest
from detclean.errors import DatasetError, StageError
from detclean.formats import read_dataset
from detclean.formats.plainfile import read_plain
from detclean.formats.yamlfile import read_yaml_text
from detclean.runfolder import Run, open_run, refuse_newer
from detclean.stages import lock_run


@dataclass(frozen=True)
class Outcome:
    """What `apply_decisions` did. strangers: decisions left out, as the run lists no such issue."""

    applied: Applied
    strangers: int


def apply_decisions(folder: str | Path, *, auto: float | None = None, in_place: bool = False) -> Outcome:
    """The accepted decisions of a run, as a cleaned copy of its data set or in the data set's own files.

    auto: also the proposals of undecided issues of at least this probability. Raises DatasetError where there is nothing to apply or the
    labels have changed since the run, StageError where the folder holds no finished run or another process works on it.
    """
    run = open_run(folder)
    if missing := [name for name in ("data", "split") if not isinstance(run.summary.get(name), str)]:
        raise StageError(f"{run.folder / 'summary.json'}: does not say {' and '.join(missing)}; repeat the run")
    with lock_run(run.folder):
        changes = find_changes(run.dataset, run.issues, read_decisions(run.folder), auto)
        if not changes.all:
            raise DatasetError(f"{folder}: {_say_nothing(run, len(changes.strangers))}")
        document, load = _read_config(run.folder), run.summary["stages"]["load"]
        images = None if document.get("images") is None else str(document["images"])
        now = read_dataset(run.summary["data"], images).select_split(str(run.summary["split"]))
        if in_place:
            applied = apply_in_place(run.folder, run.dataset, now, changes.all, load=load)
        else:
            copy_images = bool(document.get("clean", {}).get("copy_images"))
            applied = apply_to_copy(run.folder, run.dataset, now, changes.all, load=load, copy_images=copy_images)
    return Outcome(applied, len(changes.strangers))


def undo_decisions(folder: str | Path) -> Applied:
    """Takes the newest application of a run's decisions back. Raises DatasetError where there is none or a file was changed since."""
    if not (Path(folder) / "summary.json").is_file():
        raise StageError(f"{folder}: is not the folder of a finished run; name the one that was given to apply")
    refuse_newer(Path(folder))
    with lock_run(Path(folder)):
        return undo_newest(Path(folder))


def _say_nothing(run: Run, strangers: int) -> str:
    left_out = f" ({strangers} left out, about what this run does not know)" if strangers else ""
    if (run.folder / "patch.json").exists():
        return (
            f"no accepted decision changes anything any more{left_out}; `python -m detclean undo {run.folder}` takes back what is applied"
        )
    remedy = f"`python -m detclean review {run.folder}` makes some, --auto 0.8 applies what is likelier than that"
    return f"no accepted decision changes anything{left_out}; {remedy}"


def _read_config(folder: Path) -> dict[str, Any]:
    """The run's configuration as it stands; the whole of it need not hold any more, as weights or detections may be gone."""
    try:
        document, _ = read_yaml_text(read_plain(folder / "config.yaml").decode())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StageError(f"{folder / 'config.yaml'}: cannot be read ({' '.join(str(error).split())[:200]}); repeat the run") from None
    if not isinstance(document, dict) or not isinstance(document.get("clean", {}), dict):
        raise StageError(f"{folder / 'config.yaml'}: is no configuration as detclean writes it; repeat the run")
    return document
