"""Work on other machines, as far as it can be seen without Ray: jobs that others start, looks in pieces, what is said without a cluster."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from detclean import distribute
from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect import yolo_pieces, yolo_process
from detclean.detect.yolo import Predictions, predict_out_of_fold
from detclean.detect.yolo_pieces import cut_job
from detclean.detect.yolo_process import Child, Job, Silence, run_jobs, start_job
from detclean.distribute import Cluster, Wanted, look_around, open_executor
from detclean.errors import ConfigError, StageError

LETTERS = Path(__file__).parents[1] / "data" / "letters.pt"
IMAGES, SIDE, BATCH = 9, 96, 2
CATEGORIES = 43  # of letters.pt
KEEP = """
import sys
from pathlib import Path
from ultralytics.nn.tasks import load_checkpoint
from detclean.detect.yolo_weights import describe_model, save_whole
save_whole(describe_model(load_checkpoint(sys.argv[1])[0], 160, half=True), Path(sys.argv[2]))
"""
CLUSTER: dict[str, Any] = {"kind": "ray", "address": "auto", "cpus": "auto", "gpus": 1.0, "at_once": None, "paths": [], "say": str}


class Elsewhere:
    """An executor whose other machines are this one. begin: what starts the child of a job."""

    def __init__(self, begin: Callable[[dict[str, Any], Path], Child] = start_job, at_once: int | None = None) -> None:
        self.begin, self.at_once = begin, at_once
        self.most = 0
        self.children: list[Child] = []

    def count_gpus(self) -> int:
        return 0

    def start(self, job: dict[str, Any], folder: Path) -> Child:
        self.children.append(self.begin(job, folder))
        self.most = max(self.most, sum(child.poll() is None for child in self.children))
        return self.children[-1]


def make_jobs(folder: Path, count: int) -> list[Job]:
    jobs = [Job(f"job {n}", folder / str(n), folder / str(n) / "marker", {"number": n}) for n in range(count)]
    for job in jobs:
        job.folder.mkdir()
    return jobs


def begin(code: str) -> Callable[[dict[str, Any], Path], Child]:
    """Children that run Python code in the job's folder; `n` is the job's number."""

    def start(job: dict[str, Any], folder: Path) -> Child:
        return subprocess.Popen([sys.executable, "-c", f"n = {job['number']}\n{code}"], cwd=folder, stderr=subprocess.DEVNULL)

    return start


def test_an_executor_gets_all_jobs_and_as_many_at_a_time_as_it_may(tmp_path: Path) -> None:
    """No child ends before as many have begun as may; more at a time would be seen as well."""
    for at_once, expected in ((None, 4), (2, 2)):
        folder = tmp_path / str(at_once)
        folder.mkdir()
        waiting = f"""
import pathlib, time
pathlib.Path("begun").touch()
while len(list(pathlib.Path("..").glob("*/begun"))) < {expected}: time.sleep(0.01)
pathlib.Path("marker").touch()
"""
        elsewhere = Elsewhere(begin(waiting), at_once)
        jobs = make_jobs(folder, 4)
        run_jobs(jobs, ["cpu"], {"task": "waiting"}, Silence(), elsewhere)
        assert all(job.marker.exists() for job in jobs)
        assert elsewhere.most == expected


def test_what_another_machine_wrote_may_be_seen_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', \"import time; time.sleep(1.5); open('marker', 'w').close()\"])"
    run_jobs(make_jobs(tmp_path, 1), ["cpu"], {"task": "writing"}, Silence(), Elsewhere(begin(late)))
    monkeypatch.setattr(yolo_process, "ARRIVAL_SECONDS", 0.5)
    shutil.rmtree(tmp_path / "0")
    with pytest.raises(StageError, match=r"^job 0: writing failed: .*train\.log, then run again to resume$"):
        run_jobs(make_jobs(tmp_path, 1), ["cpu"], {"task": "writing"}, Silence(), Elsewhere(begin("")))


def test_where_one_job_fails_elsewhere_the_others_are_ended(tmp_path: Path) -> None:
    elsewhere = Elsewhere(begin("import sys, time; time.sleep(0.2); sys.exit(1) if n == 1 else time.sleep(3600)"))
    with pytest.raises(StageError, match=r"^job 1: waiting failed"):
        run_jobs(make_jobs(tmp_path, 3), ["cpu"], {"task": "waiting"}, Silence(), elsewhere)
    assert [child.poll() for child in elsewhere.children] == [-9, 1, -9]


# --- a look in pieces ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Pictures for a detector of letters, one of them unreadable and one absent; and the folder of its training."""
    folder = tmp_path_factory.mktemp("letters")
    rng = np.random.default_rng(0)
    paths: list[str | None] = [str(folder / f"{i}.png") for i in range(IMAGES)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(str(path))
    Path(str(paths[3])).write_bytes(b"no picture")
    paths[6] = None
    columns = {"image_id": range(IMAGES), "file_name": map(str, range(IMAGES)), "path": paths, "label_path": [None] * IMAGES}
    images = pl.DataFrame({name: list(column) for name, column in columns.items()}, schema_overrides={"label_path": pl.String})
    images = images.with_columns(width=pl.lit(SIDE), height=pl.lit(SIDE), split=pl.lit(None, pl.String))
    index = np.repeat(np.arange(IMAGES), 2)
    low = rng.uniform(0, SIDE / 2, (2 * IMAGES, 2))
    boxes = Boxes(index, index % CATEGORIES, np.concatenate([low, low + 20], axis=1), annotation_id=np.arange(2 * IMAGES))
    (folder / "weights").mkdir()
    subprocess.run([sys.executable, "-c", KEEP, str(LETTERS), str(folder / "weights" / "fold-0.weights")], check=True)
    return Dataset(images, tuple(map(str, range(CATEGORIES))), boxes, np.arange(2 * IMAGES), "memory", folder), folder


def look(letters: tuple[Dataset, Path], out: Path, executor: Elsewhere | None) -> Predictions:
    dataset, trained = letters
    predict = {"conf": 0.0001, "max_det": 20, "batch": BATCH}
    whole = np.zeros((1, IMAGES), np.int64)
    return predict_out_of_fold(
        dataset, whole, trained, out, looks=dataset.annotations, predict=predict, device="cpu", workers=2, executor=executor
    )


@pytest.mark.usefixtures("warm")
def test_pieces_see_what_the_fold_sees(letters: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_pieces, "PIECE_IMAGES", 5)  # two batches
    stray = tmp_path / "pieces" / "folds" / "fold-0-piece-7-of-9"
    stray.mkdir(parents=True)
    elsewhere = Elsewhere()
    pieces, whole = look(letters, tmp_path / "pieces", elsewhere), look(letters, tmp_path / "whole", None)
    assert len(elsewhere.children) == 2  # of eight pictures, four each
    assert len(whole.detections) > IMAGES
    for name, column in whole.detections.columns().items():
        assert np.array_equal(column, pieces.detections.columns()[name]), name
    assert pieces.looks.equals(whole.looks)
    assert pieces.at_detections.equals(whole.at_detections)
    names = [{path.relative_to(tmp_path / which).as_posix() for path in (tmp_path / which).rglob("*")} for which in ("pieces", "whole")]
    assert names[0] == names[1]
    assert "image 3 cannot be read" in (tmp_path / "pieces" / "folds" / "fold-0" / "train.log").read_text()


def test_pieces_that_are_done_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo_pieces, "PIECE_IMAGES", 4)
    folder = tmp_path / "fold-0"
    folder.mkdir()
    pl.DataFrame({"image_index": range(10)}).write_parquet(folder / "images.parquet")
    pl.DataFrame({"row": range(20), "image_index": [i // 2 for i in range(20)]}).write_parquet(folder / "asked.parquet")
    job = Job("looking", folder, folder / "detections.parquet", {"fold": 0})
    assert cut_job(job, 16, Silence()) == [job]
    pieces = cut_job(job, 2, Silence())
    assert [piece.key for piece in pieces] == [f"looking, piece {n}/3" for n in (1, 2, 3)]
    assert all(piece.settings == job.settings for piece in pieces)
    tables = [
        [pl.read_parquet(piece.folder / f"{name}.parquet")["image_index"].to_list() for piece in pieces] for name in ("images", "asked")
    ]
    assert tables == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], [[i // 2 for i in range(8 * n, min(8 * n + 8, 20))] for n in range(3)]]
    for name in ("images", "asked"):
        (pieces[1].folder / f"{name}.parquet").rename(pieces[1].folder / f"{'looks' if name == 'images' else 'detections'}.parquet")
    assert cut_job(job, 2, Silence()) == pieces
    assert sorted(path.name for path in pieces[1].folder.iterdir()) == ["detections.parquet", "looks.parquet"]
    pieces[1].marker.write_bytes(pieces[1].marker.read_bytes()[:-1])  # cut by what becomes of disks: it is to be done again
    assert cut_job(job, 2, Silence()) == pieces
    assert sorted(path.stem for path in pieces[1].folder.iterdir()) == ["asked", "images", "looks"]


# --- what is said without a cluster -------------------------------------------------------------------------------------------------


def test_local_is_this_machine_alone(tmp_path: Path) -> None:
    with open_executor(tmp_path, **(CLUSTER | {"kind": "local"})) as executor:
        assert executor is None


def test_without_ray_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribute, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^executor\.kind: ray, but Ray is not installed here; pip install 'ray\[client\]', or"):
        open_executor(tmp_path, **CLUSTER).__enter__()


def test_a_cluster_is_not_asked_before_there_is_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribute, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_executor(tmp_path, **CLUSTER) as executor:
        assert isinstance(executor, Cluster)
        with pytest.raises(ImportError):
            executor.count_gpus()


def test_a_machine_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribute.time, "sleep", lambda seconds: (tmp_path / "late").touch())
    here = {name: distribute._public_version(name) for name in distribute.SAME_VERSIONS}
    look_around(Wanted((str(tmp_path),), here))
    look_around(Wanted((str(tmp_path / "late"),), here))  # another machine's file, a second later
    with pytest.raises(StageError, match=r"^executor: \S+ does not see /no/where; put run folder and data set on storage that all see"):
        look_around(Wanted((str(tmp_path), "/no/where"), here))
    with pytest.raises(StageError, match=r"^executor: \S+ has torch \S+, and the machine that asks has 0\.1; install the same on all$"):
        look_around(Wanted((), here | {"torch": "0.1"}))


def test_a_few_pictures_of_each_folder_are_looked_for(tmp_path: Path) -> None:
    executor = Cluster(tmp_path, "auto", None, 1.0, None, [tmp_path / "data.yaml"], str)
    executor.expect_pictures([f"/a/{i}.jpg" for i in range(1000)] + ["/b/0.jpg"])
    assert executor._wanted().paths == (str(tmp_path / "data.yaml"), "/a/999.jpg", "/b/0.jpg")
    executor.expect_pictures([f"/{i:04}/0.jpg" for i in range(1000)])
    assert 10 <= len(executor._wanted().paths) <= 1 + distribute.SAMPLES
    assert os.path.dirname(executor._wanted().paths[1]) == "/0000"
