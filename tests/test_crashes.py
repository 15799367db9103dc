"""Kills, full disks, damaged files and two at once: the end is the same, or one line says what to do."""

import errno
import os
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import polars as pl
import pytest
from finished import SETTINGS, finish_run, share_run
from rich.console import Console

from detclean.boxes import Boxes
from detclean.config import read_config
from detclean.dataset import Dataset
from detclean.detect.dynamics import record_losses
from detclean.detect.yolo_process import Silence, describe_end, is_done
from detclean.edit.decisions import Decision, DecisionLog
from detclean.errors import DatasetError, StageError
from detclean.files import as_system_error, list_sizes, settle, write_whole
from detclean.pipeline import run_pipeline
from detclean.pipeline.apply import apply_decisions, undo_decisions
from detclean.runfolder import open_run, read_completion
from detclean.show.progress import open_display
from detclean.stages import Stage, StageContext, run_stages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share_run(tmp_path_factory)


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """The same finished run in a place of its own, where its stages may be damaged; it is not to be run there."""
    shutil.copytree(finished.parents[1], tmp_path / "own", symlinks=True)
    return tmp_path / "own"


def repeat(root: Path) -> Path:
    with open_display(console=Console(quiet=True)) as display:
        return run_pipeline(read_config(root / "config.yaml", SETTINGS), display).folder


def stages_of(folder: Path) -> dict[str, Path]:
    return {path.name.split("-")[0]: path for path in sorted((folder / "stages").glob("*-????????????"))}


# --- damaged files -----------------------------------------------------------------------------------------------------------------------


def test_every_file_of_every_stage_is_missed_and_named_when_it_is_cut_or_gone(root: Path) -> None:
    stages = stages_of(root / "runs" / "done")
    assert set(stages) == {"load", "audit", "detect", "score", "issues", "export"}
    checked = 0
    for stage in stages.values():
        for name in list_sizes(stage):
            path, content = stage / name, (stage / name).read_bytes()
            for damage in (content[: len(content) // 2], b"", None):
                if damage == content:
                    continue
                path.unlink() if damage is None else path.write_bytes(damage)
                with pytest.raises(StageError, match=re.escape(f"{path}: cannot be read")) as caught:
                    read_completion(stage)
                assert f"remove the folder {stage} and repeat the run" in str(caught.value)
                path.write_bytes(content)
                checked += 1
        assert read_completion(stage) >= 0
    assert checked > 60


def test_a_run_says_which_file_is_damaged_and_its_remedy_works(tmp_path: Path) -> None:
    folder = finish_run(tmp_path)
    issues = (folder / "issues.csv").read_bytes()
    for name in ("audit", "detect", "score", "issues", "export"):
        stage = stages_of(folder)[name]
        path = next(stage / file for file in list_sizes(stage) if file.endswith((".parquet", ".csv")))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StageError, match=re.escape(str(path))):
            repeat(tmp_path)
        shutil.rmtree(stage)
    repeat(tmp_path)
    assert (folder / "issues.csv").read_bytes() == issues
    assert all(read_completion(stage) >= 0 for stage in stages_of(folder).values())


def test_what_a_run_has_read_is_put_right_by_reading_it_again(tmp_path: Path) -> None:
    folder = finish_run(tmp_path)
    path = stages_of(folder)["load"] / "part" / "annotations.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StageError, match=r"part/annotations\.parquet: cannot be read"):
        open_run(folder)
    repeat(tmp_path)
    assert open_run(folder).issues.height


def test_a_published_table_that_was_cut_is_published_again(tmp_path: Path) -> None:
    folder = finish_run(tmp_path)
    issues = (folder / "issues.parquet").read_bytes()
    (folder / "issues.parquet").write_bytes(issues[:50])
    repeat(tmp_path)
    assert (folder / "issues.parquet").read_bytes() == issues


def test_a_stage_of_an_older_version_has_no_lengths_and_is_believed(root: Path) -> None:
    stage = stages_of(root / "runs" / "done")["score"]
    (stage / "seconds.json").write_bytes(b'{"seconds": 1.5}')
    assert read_completion(stage) == 1.5
    (stage / "seconds.json").write_bytes(b'{"sec')
    with pytest.raises(StageError, match=r"seconds\.json: cannot be read; remove the folder"):
        read_completion(stage)


def test_of_a_long_stage_only_what_is_missing_is_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def train(context: StageContext) -> None:
        for name in ("fold-0.pt", "fold-1.pt"):
            if not (context.out / name).exists():
                made.append(name)
                write_whole(context.out / name, "weights " * 9)

    def run() -> Path:
        with open_display(console=Console(quiet=True)) as display:
            return run_stages((Stage("train", train, resumable=True),), tmp_path, {}, display)["train"].folder

    folder = run()
    (folder / "fold-1.pt").write_text("wei")
    with pytest.raises(StageError, match=rf"fold-1\.pt: .*; remove that file .* rename {folder} to {folder.name}\.partial") as caught:
        run()
    assert str(folder / "fold-1.pt") in str(caught.value)
    (folder / "fold-1.pt").unlink()
    folder.rename(folder.with_name(folder.name + ".partial"))
    assert run() == folder
    assert made == ["fold-0.pt", "fold-1.pt", "fold-1.pt"]
    assert sorted(orjson.loads((folder / "seconds.json").read_bytes())["files"]) == ["fold-0.pt", "fold-1.pt"]


def test_what_a_job_left_is_believed_if_it_is_whole(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "detections.parquet")
    with zipfile.ZipFile(tmp_path / "fold-0.weights", "w") as archive:
        archive.writestr("numbers", bytes(1000))
    files = [tmp_path / "detections.parquet", tmp_path / "fold-0.weights"]
    assert is_done("fold 1", files, Silence())
    assert not is_done("fold 1", [*files, tmp_path / "absent.npz"], Silence())
    for path in files:
        content = path.read_bytes()
        for bad in (content[:-1], content[:3], b""):
            path.write_bytes(bad)
            assert not is_done("fold 1", files, Silence())
            assert not path.exists()
        path.write_bytes(content)
    assert is_done("fold 1", files, Silence())


def test_damaged_records_of_a_training_are_named(tmp_path: Path) -> None:
    empty = Dataset(pl.DataFrame(), (), Boxes.empty(), np.empty(0, np.int64), "memory", tmp_path)
    np.save(tmp_path / "records.npy", np.zeros((2, 3, 6)))
    (tmp_path / "weights").mkdir()
    with zipfile.ZipFile(tmp_path / "weights" / "fold-0.weights", "w") as archive:
        archive.writestr("numbers", bytes(1000))
    for bad in ((tmp_path / "records.npy").read_bytes()[:-1], b""):
        (tmp_path / "records.npy").write_bytes(bad)
        with pytest.raises(StageError, match=rf"^{tmp_path}/records\.npy: is damaged; remove the folder {tmp_path} and repeat the run"):
            record_losses(empty, Boxes.empty(), tmp_path, model="yolo11n.yaml", train={})


# --- power failure -----------------------------------------------------------------------------------------------------------------------


def test_a_stage_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync, rename = os.fsync, os.rename

    def note(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def named(source: Path, target: Path) -> None:
        synced.append("named")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", named)
    with open_display(console=Console(quiet=True)) as display:
        stage = Stage("a", lambda context: write_whole(context.out / "below" / "x", "1"))
        folder = run_stages((stage,), tmp_path, {}, display)["a"].folder
    partial = f"{folder}.partial"
    assert {f"{partial}/below/x", f"{partial}/below", f"{partial}/seconds.json", partial} <= set(synced[: synced.index("named")])


def test_many_files_are_settled_at_once_and_links_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for i in range(40):
        (tmp_path / "really" / str(i)).mkdir(parents=True)
    settle(tmp_path / "really")
    shutil.rmtree(tmp_path / "really")
    monkeypatch.setattr("detclean.files._settle_file_system", lambda place: calls.append(f"the disk of {place}"))
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}")))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    settle(tmp_path)
    assert calls == [str(tmp_path)]
    for i in range(40):
        (tmp_path / str(i)).touch()
    calls.clear()
    settle(tmp_path)
    assert calls == [f"the disk of {tmp_path}"]


# --- a full disk -------------------------------------------------------------------------------------------------------------------------


def test_polars_words_for_a_full_disk_are_the_systems(tmp_path: Path) -> None:
    error = pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")
    refused = as_system_error(error, tmp_path)
    assert refused is not None
    assert (refused.errno, refused.filename) == (errno.ENOSPC, str(tmp_path))
    assert as_system_error(OSError(errno.ENOENT, "none (os error 2)"), tmp_path) is None  # it says so itself
    assert as_system_error(ValueError("os error 28"), tmp_path) is None

    def work(context: StageContext) -> None:
        raise error

    with open_display(console=Console(quiet=True)) as display, pytest.raises(OSError, match="No space left") as caught:
        run_stages((Stage("a", work),), tmp_path, {}, display)
    assert caught.value.errno == errno.ENOSPC


def test_a_child_that_could_not_even_say_so_had_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.log").write_text("epoch 3\n")
    assert describe_end(1, tmp_path / "train.log").startswith("epoch 3; see ")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    assert describe_end(1, tmp_path / "train.log").startswith("No space left on device (last line: epoch 3); see ")


# --- what is applied ---------------------------------------------------------------------------------------------------------------------


def test_patch_json_is_put_right_after_a_kill_between_the_patch_and_it(root: Path) -> None:
    folder = root / "runs" / "done"
    issue = open_run(folder).issues.filter(pl.col("action") == "delete").row(0, named=True)
    given = (issue["x1"], issue["y1"], issue["x2"], issue["y2"])
    about = {"annotation_id": issue["annotation_id"], "given_category": issue["category"], "given_xyxy": given}
    DecisionLog(folder).append([Decision(issue["issue_id"], "accept", issue["image_id"], **about)])
    apply_decisions(folder)
    shown = (folder / "patch.json").read_bytes()
    (folder / "patch.json").unlink()  # killed after the patch had its name
    assert apply_decisions(folder).applied.known
    assert (folder / "patch.json").read_bytes() == shown
    undo_decisions(folder)
    (folder / "patch.json").write_bytes(shown)  # killed after the patch was taken away
    (folder / "patches" / "0001.partial").mkdir()
    with pytest.raises(DatasetError, match="nothing is applied"):
        undo_decisions(folder)
    assert not (folder / "patch.json").exists()
    assert not list((folder / "patches").glob("0*"))
