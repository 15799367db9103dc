"""Run folders of this version and of others, what is applied in them, and what comes back from annotation tools."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from detclean.edit.changes import find_changes
from detclean.edit.decisions import read_decisions
from detclean.handover import export_run, import_decisions
from detclean.health import measure_health, open_groupings, read_health, write_health
from detclean.pipeline.apply import apply_decisions, undo_decisions
from detclean.report.compared import gather_compared
from detclean.runfolder import open_run
from fuzzing import mutations as mutate
from fuzzing.folders import LINKS, mutate_folder, put_oddity
from fuzzing.inputs import Place, change, change_json, change_xml, copy_plain
from fuzzing.mutations import Random
from fuzzing.template import APPLIED, RUN, move_run
from fuzzing.usage import require_sound

HOME = "@HOME@"  # stands in a case for the folder that it will be copied to
KINDS = (".json", ".jsonl", ".yaml", ".parquet")  # of files that are damaged
VICTIM = b"what no patch may touch\n"


def make_run(rng: Random, case: Path, template: Path) -> None:
    """A finished run of which one file is damaged, or that another version made: hard links, but for that file."""
    shutil.copytree(template / RUN, case / "run", symlinks=True, copy_function=os.link)
    files = [path for path in sorted((case / "run").rglob("*")) if path.is_file() and path.suffix in KINDS]
    files = [path for path in files if path.suffix != ".parquet"] if mutate.chance(rng, 2) else files
    path = case / "run" / "summary.json" if mutate.chance(rng, 8) else rng.choice(files)
    content = path.read_bytes()
    path.unlink()
    act = rng.randrange(8)
    if act == 0:
        put_oddity(rng.choice([kind for kind in LINKS if kind != "file"]), path)
    elif path.name == "summary.json" and act < 4:
        path.write_bytes(json.dumps(of_another_version(rng, json.loads(content))).encode())
    elif path.suffix == ".json" and act < 6:
        path.write_bytes(change_json(rng, json.loads(content), "stages"))
    elif path.suffix == ".parquet" and act < 6:
        write_changed_table(rng, content, path)
    else:
        path.write_bytes(change(rng, content))


def of_another_version(rng: Random, summary: dict[str, Any]) -> dict[str, Any]:
    """What versions before and after this one may have written: without a format, without the stages' names, of a higher format."""
    act = rng.randrange(5)
    for key in (("format",), ("format", "stages"), ("format", "data", "split", "calibrated", "crops"), (), ())[act]:
        summary.pop(key, None)
    later = {"format": rng.choice((0, 1, 3, 99, -1, "2", 2.0, None)), "detclean": rng.choice(("9.9", "0.1.0", None))}
    return summary | later if act > 2 else summary


def write_changed_table(rng: Random, content: bytes, path: Path) -> None:
    """A Parquet file that is whole, and whose table is not what it was."""
    table = pl.read_parquet(content)
    name, other = rng.choice(table.columns), rng.choice(table.columns)
    act = rng.randrange(8)
    if act == 0:
        table = table.drop(name)
    elif act == 1:
        table = table.rename({name: f"{name}s"})
    elif act == 2:
        table = table.with_columns(pl.lit(rng.choice((None, "x", 1.5, -1, True))).alias(name))
    elif act == 3:
        table = table.head(rng.randrange(table.height + 1))
    elif act == 4:
        table = table.with_columns(pl.col(other).alias(name))
    elif act == 5 and table[name].dtype.is_numeric():
        table = table.with_columns(pl.col(name) * rng.choice((-1, 1_000_000)))
    elif act == 6 and table[name].dtype.is_float():
        table = table.with_columns(pl.lit(rng.choice((mutate.NAN, mutate.INFINITY, 1e308))).alias(name))
    else:
        table = pl.concat([table, table.head(1)])
    table.write_parquet(path)


def read_run(place: Place, rng: Random) -> None:
    """Everything of a run folder that a command would read, and one of the commands."""
    folder = place.work / "run"
    shutil.copytree(place.case / "run", folder, symlinks=True, copy_function=copy_plain)
    try:
        run = open_run(folder)
        for name in ("annotations", "candidates", "images", "detections"):
            run.table(name)
        find_changes(run.dataset, run.issues, read_decisions(folder))
        require_sound(run.dataset)
    finally:
        health = read_health(folder)
        if health is not None:
            open_groupings(health)
    gather_compared(run)
    act = rng.randrange(4)
    if act == 0:
        write_health(run, measure_health(run, pictures=False))
    elif act == 1:
        export_run(run, rng.choice(("coco", "cvat", "labelstudio", "yolo", "voc", "csv")))
    elif act == 2:
        apply_decisions(folder, auto=rng.choice((None, 0.3)))
    undo_decisions(folder)


# Patches


def make_patch(rng: Random, case: Path, template: Path) -> None:
    """patch.json of decisions that are applied in a copy or in place, damaged or made to reach for what is not the data set's."""
    mode = rng.choice(("copy", "in place"))
    (case / "victim.txt").write_bytes(VICTIM)
    (case / "mode.txt").write_text(mode)
    folder = template / (RUN if mode == "copy" else APPLIED)
    text = (folder / "patches" / "0001" / "patch.json").read_text().replace(str(template), HOME)
    document = json.loads(text)
    if mutate.chance(rng, 3):
        (case / "patch.json").write_bytes(change_json(rng, document, "files"))
        return
    targets = (
        *(str(case / "victim.txt"), "../../case/victim.txt", "applied/../../../case/victim.txt", "applied/link/victim.txt"),
        *(f"{HOME}/new.txt", "../new.txt", "applied/../new.txt", str(case / "new.txt"), "applied/link/new.txt", ".", "..", "applied", ""),
        *(f"{HOME}/data/data.yaml", "a\0b", "x" * 5000, "run/summary.json", "applied/labels/new.txt", f"{HOME}/data/labels/train/new.txt"),
    )
    entry: dict[str, Any] = {"path": rng.choice(targets), "derived": mutate.chance(rng, 3)}
    contents = ((None, digest(VICTIM)), (None, None), (digest(b"evil"), None), (digest(b"evil"), digest(VICTIM)))
    entry["before"], entry["after"] = rng.choice(contents)
    files = document["files"]
    if mutate.chance(rng, 2):
        files[rng.randrange(len(files))] = entry
    else:
        files.append(entry)
    if mutate.chance(rng, 4):
        document["target"] = rng.choice((str(case), "..", "../..", "applied/link", "/", f"{HOME}/data", 5, None, ""))
    if mutate.chance(rng, 6):
        document["mode"] = rng.choice(("copy", "in place", "elsewhere", None))
    if mutate.chance(rng, 6):
        document["load"] = rng.choice(("..", "../..", str(case), "load-000000000000", None))
    (case / "patch.json").write_text(json.dumps(document))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_patch(place: Place, rng: Random) -> None:
    """Undoing, and applying anew. That nothing but the run and its data set is touched is told by whoever watches the process."""
    mode = (place.case / "mode.txt").read_text()
    folder = place.work / "run"
    shutil.copytree(place.template / (RUN if mode == "copy" else APPLIED), folder, symlinks=True)
    shutil.copytree(place.template / ("data" if mode == "copy" else "applied-data"), place.work / "data", symlinks=True)
    move_run(folder, str(place.template / ("data" if mode == "copy" else "applied-data")), str(place.work / "data"))
    text = (place.case / "patch.json").read_bytes().replace(f"{HOME}/applied-data".encode(), f"{HOME}/data".encode())
    (folder / "patches" / "0001" / "patch.json").write_bytes(text.replace(HOME.encode(), str(place.work).encode()))
    for i in range(len(list((folder / "patches" / "0001" / "after").iterdir())) + 1):
        for which in ("before", "after"):
            if not (folder / "patches" / "0001" / which / str(i)).exists():
                (folder / "patches" / "0001" / which / str(i)).write_bytes(b"evil")
    if (folder / "applied").is_dir():
        (folder / "applied" / "link").symlink_to(place.case)
    if mutate.chance(rng, 3):
        apply_decisions(folder, in_place=mode == "in place")
    undo_decisions(folder)


# Imports


def make_imports(rng: Random, case: Path, template: Path) -> None:
    kind = rng.choice(("labelstudio.json", "cvat.xml", "coco.json", "cvat.zip"))
    content = (template / "back" / kind).read_bytes()
    if kind.endswith("json"):
        content = change_json(rng, json.loads(content), rng.choice(("annotations", "images", "data")))
    elif kind.endswith("xml"):
        content = change_xml(rng, content)
    else:
        content = change(rng, content) if mutate.chance(rng, 2) else make_archive(rng, template)
    (case / kind).write_bytes(content)
    if mutate.chance(rng, 40):
        mutate_folder(rng, case)


def make_archive(rng: Random, template: Path) -> bytes:
    """A .zip with a changed annotations.xml, and other members; some unfold to far more than they are, or lead elsewhere."""
    out = io.BytesIO()
    text = (template / "back" / "cvat.xml").read_bytes()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if mutate.chance(rng, 12):
            bomb = text.replace(b"</annotations>", b" " * rng.choice((1 << 24, 1 << 27)) + b"</annotations>")
            archive.writestr("annotations.xml", bomb)
        else:
            name = rng.choice(("annotations.xml", "../../annotations.xml", "/annotations.xml", "a/ANNOTATIONS.XML", *mutate.TEXTS[:20]))
            archive.writestr(name.replace("\ud800", "").replace("\0", "") or "a.xml", change_xml(rng, text))
        if mutate.chance(rng, 3):
            archive.writestr(rng.choice(("images/a.png", "annotations.xml", "b.xml", "x/")), b"")
    return out.getvalue()


def read_imports(place: Place, rng: Random) -> None:
    run = replace(open_run(place.template / RUN), folder=place.work)
    for path in sorted(place.case.iterdir()):
        import_decisions(run, path)
        if mutate.chance(rng, 3) and import_decisions(run, path).accepted:
            raise AssertionError("a second import of the same file accepts something")
    find_changes(run.dataset, run.issues, read_decisions(place.work))
