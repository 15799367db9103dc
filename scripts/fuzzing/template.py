"""Good inputs of the readers that need a finished run: it is made once, by tests/finished.py."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

import orjson
import polars as pl

RUN, APPLIED = "run", "applied-run"  # of the one decisions are applied in a copy, of the other in its data set's own files
TESTS = Path(__file__).resolve().parent.parent.parent / "tests"


def make_template(folder: Path) -> None:
    """A run with a health report, a comparison and an applied decision; the same with the decision in place; what tools would give back."""
    sys.path.insert(0, str(TESTS))
    finished = import_module("finished")
    from detclean.edit.decisions import Decision, DecisionLog
    from detclean.handover import export_run
    from detclean.health import measure_health, write_health
    from detclean.pipeline.apply import apply_decisions
    from detclean.runfolder import open_run

    run = open_run(finished.finish_run(folder))
    back = folder / "back"
    back.mkdir()
    for tool in ("labelstudio", "cvat", "coco"):
        export_run(run, tool, folder / tool)
    tasks = enumerate(orjson.loads((folder / "labelstudio" / "tasks.json").read_bytes()))
    answered = [{"id": i, "data": task["data"], "annotations": task.get("annotations") or task["predictions"]} for i, task in tasks]
    (back / "labelstudio.json").write_bytes(orjson.dumps(answered))
    shutil.copyfile(folder / "cvat" / "annotations.xml", back / "cvat.xml")
    shutil.copyfile(folder / "coco" / "instances.json", back / "coco.json")
    shutil.make_archive(str(back / "cvat"), "zip", folder / "cvat", "annotations.xml")
    write_health(run, measure_health(run, pictures=False))
    _write_comparison(run.folder / "compare")
    row = run.issues.filter(run.issues["annotation"].is_not_null()).row(0, named=True)
    decision = Decision(row["issue_id"], "accept", row["image_id"], row["annotation_id"], "red square", (1.0, 2.0, 30.0, 40.0))
    DecisionLog(run.folder).append([decision])
    shutil.copytree(folder / "data", folder / "applied-data", symlinks=True)
    shutil.copytree(run.folder, folder / APPLIED, symlinks=True)
    move_run(folder / APPLIED, str(folder / "data"), str(folder / "applied-data"))
    apply_decisions(folder / APPLIED, in_place=True)
    apply_decisions(run.folder)
    os.rename(run.folder, folder / RUN)


def _write_comparison(folder: Path) -> None:
    simulated = import_module("simulated")
    from detclean.measure.comparison import Version, compare_versions

    truth, sizes = simulated.make_truth(6, categories=3)
    found = [simulated.detect(truth, sizes, 3, seed=0, seen=0.9)]
    versions = [Version("as given", found, 6, 18), Version("fix", found, 6, 17)]
    folder.mkdir()
    compared = compare_versions(simulated.as_dataset(truth, sizes, 3), versions, resamples=5)
    (folder / "compare.json").write_bytes(orjson.dumps(compared))


def move_run(run: Path, old: str, new: str) -> None:
    """A copy of a run is made to be about a copy of its data set; how long its files were is forgotten."""
    for path in [*sorted(run.rglob("*.*")), Path(new) / "data.yaml"]:
        if path.name == "seconds.json":
            path.write_bytes(b'{"seconds": 1.0}')
        elif path.suffix in (".json", ".yaml") and path.is_file():
            path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
        elif path.name == "images.parquet" and path.parent.parent.name.startswith("load-"):
            table = pl.read_parquet(path, glob=False)
            table.with_columns(pl.col(pl.String).str.replace(old, new, literal=True)).write_parquet(path)
