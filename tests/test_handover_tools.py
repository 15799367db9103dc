"""The folders that are handed over, read by the packages that they are for. A package that is absent is named by its skip."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from handed import CATEGORIES, NAMES, copy_run, edit_labelstudio, make_run

from detclean.edit.decisions import read_decisions
from detclean.errors import DatasetError
from detclean.formats.imagefiles import drop_ending
from detclean.handover import TOOLS, export_run, import_decisions
from detclean.handover.sheet import make_sheet
from detclean.runfolder import Run

READER = Path(__file__).parent / "handed_tools.py"
CLOSE = 0.011  # px: YOLO's shares and float32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("run"))
    for tool in TOOLS:
        export_run(run, tool, images="all")
    return run


def read_with(package: str, *paths: Path) -> Any:
    """What a package reads, in a process of its own; skips loudly where it is not installed."""
    python = os.environ.get(f"DETCLEAN_PYTHON_{package.upper()}", sys.executable)  # one that has a package which cannot be installed here
    if python == sys.executable and importlib.util.find_spec(package) is None:
        pytest.skip(f"NO {package}: what is handed over is NOT held against it; pip install {package.replace('_', '-')}")
    command = [python, "-W", "ignore", str(READER), package, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def expect(run: Run) -> list[tuple[str, float, float, float, float]]:
    sheet = make_sheet(run, {}, "all")
    return order([[CATEGORIES[c], *box] for c, box in zip(sheet.boxes["category"], sheet.xyxy.tolist(), strict=True)])


def order(rows: list[list[Any]]) -> list[tuple[str, float, float, float, float]]:
    return sorted((row[0], *(round(value, 1) for value in row[1:5])) for row in rows)  # type: ignore[misc]


def are_same(found: list[list[Any]], run: Run) -> bool:
    ours, theirs = expect(run), order(found)
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    return bool(np.abs(np.array([row[1:] for row in ours]) - np.array([row[1:] for row in theirs])).max() <= 0.1 + CLOSE)


def test_supervision_reads_coco_yolo_and_voc(run: Run, tmp_path: Path) -> None:
    handed = run.folder / "handover"
    shutil.copytree(handed / "coco", tmp_path / "coco")  # with copies for links: supervision follows none out of the folder
    found = read_with("supervision", tmp_path / "coco", handed / "yolo", handed / "voc")
    assert are_same([row[1:] for row in found["coco"]], run)
    assert are_same([row[1:] for row in found["yolo"]], run)
    shifted = [[name, x1 + 1, y1 + 1, x2, y2] for _, name, x1, y1, x2, y2 in found["voc"]]  # it takes VOC's corners as counted from 1
    assert are_same(shifted, run)


def test_datumaro_reads_cvat_coco_and_voc(run: Run, tmp_path: Path) -> None:
    handed = run.folder / "handover"
    shutil.copytree(handed / "coco", tmp_path / "coco")
    (tmp_path / "coco" / "annotations").mkdir()  # the folder and the name that Datumaro looks for
    (tmp_path / "coco" / "instances.json").rename(tmp_path / "coco" / "annotations" / "instances_train.json")
    found = read_with("datumaro", handed / "cvat", tmp_path / "coco", handed / "voc")
    assert found.keys() == {"cvat", "coco_instances", "voc_detection"}
    assert all(are_same([row[1:6] for row in rows], run) for rows in found.values())
    assert {row[0] for row in found["cvat"]} == {drop_ending(name) for name in NAMES[:5]}
    sheet = make_sheet(run, {}, "all").boxes
    ids = set(sheet["box_id"])
    for kind in ("cvat", "coco_instances"):  # what each box carries arrives, too
        assert {row[6]["detclean_id"] for row in found[kind]} == ids
    assert sorted(row[6]["issue"] for row in found["cvat"]) == sorted(sheet["issue_type"].fill_null("none"))
    notes = {row[6]["detclean_id"]: row[6]["note"] for row in found["cvat"] if row[6]["note"]}
    assert notes == {row["box_id"]: row["note"] for row in sheet.iter_rows(named=True) if row["note"]}


def test_label_studios_own_package_accepts_tasks_and_converts_what_comes_back(run: Run, tmp_path: Path) -> None:
    folder = run.folder / "handover" / "labelstudio"
    edit_labelstudio(folder, [])
    found = read_with("label_studio_sdk", folder / "label_config.xml", folder, tmp_path)
    assert found["tasks"] == [True] * len(NAMES)
    assert found["predictions"] == [True] * len(NAMES)
    assert found["labels"] == sorted(CATEGORIES)
    assert found["classes"] == sorted(CATEGORIES)  # and nothing that is no category
    names = {record["id"]: record["name"] for record in found["coco"]["categories"]}
    boxes = [(names[record["category_id"]], record["bbox"]) for record in found["coco"]["annotations"]]
    assert are_same([[name, x, y, x + width, y + height] for name, (x, y, width, height) in boxes], run)
    assert len(found["yolo"]["border.txt"].splitlines()) == 4


def test_pycocotools_reads_coco(run: Run) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(run.folder / "handover" / "coco" / "instances.json"))
    records = coco.loadAnns(coco.getAnnIds())
    assert min(coco.getAnnIds()) >= 1
    assert min(coco.getImgIds()) >= 1
    assert min(coco.getCatIds()) >= 1
    boxes = [(coco.cats[record["category_id"]]["name"], record["bbox"]) for record in records]
    assert are_same([[name, x, y, x + width, y + height] for name, (x, y, width, height) in boxes], run)
    assert [record["file_name"] for record in coco.loadImgs(coco.getImgIds())] == list(NAMES)


def test_fiftyone_reads_its_folder_and_what_it_exports_comes_back(run: Run, tmp_path: Path) -> None:
    """Its dependencies conflict with this environment: DETCLEAN_PYTHON_FIFTYONE names the python of another."""
    found = read_with("fiftyone", run.folder / "handover" / "fiftyone", tmp_path / "labels.json")
    assert are_same([row[1:] for row in found], run)
    document = json.loads((tmp_path / "labels.json").read_bytes())
    for record in document["annotations"]:  # far from where it was, so that only its id tells which box it is
        if record["detclean_id"] == "annotation-6":
            record["bbox"] = [34.0, 1.0, 20.0, 20.0]
        if record["detclean_id"] == "annotation-5":
            record["verdict"] = "hard"
    (tmp_path / "labels.json").write_text(json.dumps(document))
    copy = copy_run(run, tmp_path)
    result = import_decisions(copy, tmp_path / "labels.json")
    assert (result.accepted, result.rejected, result.hard, result.new_boxes, result.changed_elsewhere) == (2, 4, 1, 0, 1)
    assert read_decisions(copy.folder)["box-annotation-6"].xyxy == (34, 1, 54, 21)


def test_the_fiftyone_folder_is_as_its_documentation_has_it(run: Run) -> None:
    folder = run.folder / "handover" / "fiftyone"
    labels = json.loads((folder / "labels.json").read_bytes())["labels"]
    pictures = {drop_ending(path.relative_to(folder / "data").as_posix()) for path in (folder / "data").rglob("*.png")}
    assert labels.keys() == pictures  # keys are paths without ending, so that the two a.png stay apart
    assert labels["nothing"] is None
    sheet = make_sheet(run, {}, "all")
    found = [[one["label"], *one["bounding_box"]] for row in labels.values() for one in row or []]
    sizes = sheet.sizes
    scaled = [
        [name, x * w, y * h, (x + width) * w, (y + height) * h]
        for (name, x, y, width, height), (w, h) in zip(found, sizes.tolist(), strict=True)
    ]
    assert are_same(scaled, run)


def test_cvat_gets_labels_that_declare_all_that_boxes_carry(run: Run) -> None:
    folder = run.folder / "handover" / "cvat"
    labels = json.loads((folder / "labels.json").read_bytes())
    assert [label["name"] for label in labels] == list(CATEGORIES)
    declared = {one["name"]: one for one in labels[0]["attributes"]}
    root = ElementTree.fromstring((folder / "annotations.xml").read_bytes())
    used = {(one.get("name"), one.text or "") for one in root.iterfind("image/box/attribute")}
    assert {name for name, _ in used} == declared.keys()
    for name, value in used:
        assert declared[str(name)]["input_type"] == "text" or value in declared[str(name)]["values"]
    assert (folder / "images.txt").read_text().splitlines() == list(NAMES)


def test_label_studios_coco_is_refused_as_it_does_not_say_what_was_finished(run: Run, tmp_path: Path) -> None:
    document = json.loads((run.folder / "handover" / "coco" / "instances.json").read_bytes())
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document | {"info": {"contributor": "Label Studio"}}))
    with pytest.raises(DatasetError, match="export as JSON"):
        import_decisions(run, path)
