"""What fuzzing found in run folders and in what comes back to them: a patch touches nothing but what it is about, and damage is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from finished import finish_run
from PIL import Image
from tiny import digests

from detclean.edit.decisions import Decision, DecisionLog
from detclean.errors import DatasetError, StageError
from detclean.handover import import_decisions
from detclean.health import measure_health, read_health
from detclean.health.pictures import TABLE, measure_chunk
from detclean.pipeline.apply import apply_decisions, undo_decisions
from detclean.runfolder import open_run, refuse_newer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finish_run(tmp_path_factory.mktemp("runs"))
    run = open_run(folder)
    row = run.issues.filter(run.issues["annotation"].is_not_null()).row(0, named=True)
    decision = Decision(row["issue_id"], "accept", row["image_id"], row["annotation_id"], "red square", (1.0, 2.0, 30.0, 40.0))
    DecisionLog(folder).append([decision])
    shutil.copytree(data_of(folder), data_of(folder).with_name("kept"))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, which is about the same data set."""
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def data_of(finished: Path) -> Path:
    return finished.parent.parent / "data"


def change_patch(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    place = folder / "patches" / "0001" / "patch.json"
    document = orjson.loads(place.read_bytes())
    change(document)
    place.write_bytes(orjson.dumps(document))
    return place


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def aim(folder: Path, path: str, before: bytes | None, now: bytes | None) -> None:
    """The first file of the patch is another one: undoing is to make `before` of it, which is `now`."""
    entry = {"path": path, "before": None if before is None else sha(before), "after": None if now is None else sha(now), "derived": False}
    change_patch(folder, lambda document: document["files"].__setitem__(0, entry))
    (folder / "patches" / "0001" / "before" / "0").write_bytes(before or b"")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["{outside}", "../victim.txt", "applied/../../victim.txt", "applied/link/victim.txt", "run/../victim.txt"])
def test_no_patch_reaches_beyond_its_data_set(finished: Path, folder: Path, in_place: bool, name: str) -> None:
    apply_decisions(folder, in_place=in_place)
    before, victim = digests(data_of(finished)), folder.parent / "victim.txt"
    victim.write_bytes(b"mine")
    (folder / "applied").mkdir(exist_ok=True)
    (folder / "applied" / "link").symlink_to(folder.parent)
    try:
        for wanted, now in ((b"evil", b"mine"), (None, b"mine")):
            aim(folder, name.format(outside=victim), wanted, now)
            with pytest.raises(DatasetError, match=r"0001/patch.json: names .* which is not a (label )?file"):
                undo_decisions(folder)
            assert victim.read_bytes() == b"mine"
        victim.unlink()
        aim(folder, name.format(outside=victim), b"evil", None)
        with pytest.raises(DatasetError, match="nothing was written"):
            undo_decisions(folder)
        assert not victim.exists()
        assert digests(data_of(finished)) == before
    finally:
        shutil.rmtree(data_of(finished))
        shutil.copytree(data_of(finished).with_name("kept"), data_of(finished))


@pytest.fixture(autouse=True)
def _nobody_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sync", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: None)


def test_a_copy_that_became_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    apply_decisions(folder)
    os.rename(folder / "applied", tmp_path / "elsewhere")
    (folder / "applied").symlink_to(tmp_path / "elsewhere")
    before = digests(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="is not a file of applied"):
        undo_decisions(folder)
    assert digests(tmp_path / "elsewhere") == before


def test_a_link_beside_a_label_file_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    patch = apply_decisions(folder).applied.patch
    label = folder / orjson.loads((patch / "patch.json").read_bytes())["files"][0]["path"]
    (tmp_path / "victim").write_bytes(b"mine")
    label.with_name(label.name + ".partial").symlink_to(tmp_path / "victim")
    undo_decisions(folder)
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert not label.is_symlink()


def test_what_a_patch_keeps_has_to_be_what_its_journal_says(folder: Path) -> None:
    patch = apply_decisions(folder).applied.patch
    copy = digests(folder / "applied")
    kept = next(path for path in sorted((patch / "before").iterdir()))
    content = kept.read_bytes()
    kept.write_bytes(content + b"0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match=rf"before/{kept.name}: is not what .*patch.json says"):
        undo_decisions(folder)
    kept.unlink()
    with pytest.raises(DatasetError, match=rf"before/{kept.name}: cannot be read"):
        undo_decisions(folder)
    assert digests(folder / "applied") == copy
    kept.write_bytes(content)
    assert undo_decisions(folder).edits


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("files"),
        lambda document: document.update(mode="elsewhere"),
        lambda document: document.update(target="/"),
        lambda document: document.update(target=["applied"]),
        lambda document: document.update(load="../../.."),
        lambda document: document.update(edits=5),
        lambda document: document["files"][0].update(path="applied/\0"),
        lambda document: document["files"][0].update(before="0"),
        lambda document: document["files"][0].update(more=1),
    ],
)
def test_a_damaged_patch_is_told(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    apply_decisions(folder)
    place = change_patch(folder, change)
    for act in (undo_decisions, apply_decisions):
        with pytest.raises(DatasetError, match=r"0001/patch.json: cannot be read .*nothing was written") as caught:
            act(folder)
        assert str(caught.value).startswith(str(place))


def test_a_damaged_inventory_of_the_copy_is_told(folder: Path) -> None:
    (apply_decisions(folder).applied.patch / "copy.json").write_bytes(b"[")
    with pytest.raises(DatasetError, match=r"copy.json: cannot be read"):
        apply_decisions(folder, auto=0.3)


@pytest.mark.parametrize("content", [b"a: [", b"[1]", b"clean: 5", b"a: &x [*x]", b"\xff"])
def test_a_damaged_configuration_of_a_run_is_told(folder: Path, content: bytes) -> None:
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(StageError, match=r"config.yaml: (cannot be read|is no configuration).*repeat the run"):
        apply_decisions(folder)


def test_pipes_in_a_run_folder_are_not_waited_for(folder: Path) -> None:
    (folder / "health.json").unlink()
    os.mkfifo(folder / "health.json")
    assert read_health(folder) is None
    load = open_run(folder).stage("load")
    (load / "seconds.json").unlink()
    (load / "all" / "images.parquet").unlink()
    os.mkfifo(load / "all" / "images.parquet")
    with pytest.raises(StageError, match=r"all: is damaged \(.*is a pipe or a device"):
        measure_health(open_run(folder), pictures=False)
    os.mkfifo(load / "seconds.json")
    with pytest.raises(StageError, match=r"seconds.json: cannot be read"):
        open_run(folder)
    (folder / "summary.json").unlink()
    os.mkfifo(folder / "summary.json")
    refuse_newer(folder)
    with pytest.raises(StageError, match="no run ended here"):
        open_run(folder)


@pytest.mark.parametrize("name", ["..", "../../..", "a/b", "a\0b"])
def test_a_stage_is_looked_for_among_the_stages(folder: Path, name: str) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["stages"]["load"] = name
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(StageError, match="names no stage load"):
        open_run(folder)


def test_an_archive_that_unfolds_to_gigabytes_is_not_unfolded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cvat.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", b"<annotations>" + b" " * (1 << 25) + b"</annotations>")
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unfolded"))
    with pytest.raises(DatasetError, match=r"cvat.zip: 'annotations.xml' unfolds from [\d,]+ to 33,554,459 bytes; unpack it"):
        import_decisions(open_run(folder), path)


def test_a_pipe_is_no_export_of_a_tool(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "export.json")
    with pytest.raises(DatasetError, match="is a pipe or a device"):
        import_decisions(open_run(folder), tmp_path / "export.json")


def test_the_quality_of_odd_pictures_is_measured_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzzing.pictures import make_pictures

    for name, content in make_pictures().items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    names = [name for name in (*make_pictures(), "pipe.png") if name != "bomb.png"]
    measured = pl.DataFrame(measure_chunk([(i, str(tmp_path / name)) for i, name in enumerate(names)]), schema=TABLE, orient="row")
    told = dict(zip(names, measured["problem"].to_list(), strict=True))
    assert all(name.startswith(("lie", "empty", "pipe")) for name, problem in told.items() if problem is not None)
    assert "is a pipe or a device" in told["pipe.png"]
    assert "no picture's" in told["lie0.png"]
    values = measured.filter(pl.col("problem").is_null()).select(pl.col(pl.Float64))
    assert np.isfinite(values.to_numpy()).all()
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert "30000 x 30000 pixels" in measure_chunk([(0, str(tmp_path / "bomb.png"))])[0][1]


def test_a_summary_that_does_not_say_where_its_data_are(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({name: value for name, value in summary.items() if name != "data"}))
    with pytest.raises(StageError, match=r"summary.json: does not say data; repeat the run"):
        apply_decisions(folder)
