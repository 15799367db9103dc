"""A whole run on a real Ray cluster, two raylets on this machine; one loses a worker in the middle of a training, one is killed itself.

Ray is an extra: where it is not installed, nothing of this is tested.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tiny import hold_at, start_detclean, write_config
from warm import answer_warm

from detclean.detect import yolo_process
from detclean.detect.yolo import share_threads
from detclean.detect.yolo_process import Job, Silence, run_jobs
from detclean.detect.yolo_settings import complete_predict
from detclean.distribute import open_executor
from detclean.errors import ConfigError, StageError

ray = pytest.importorskip("ray", reason="Ray is not installed (make install-dev): work on other machines is NOT tested")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}:ray.*") for kind in ("DeprecationWarning", "FutureWarning")]

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "data" / "digits"
IMAGES, FOLDS, EPOCHS = 16, 2, 3
# each of two folds at a time gets this many threads here, and so it does there: a node has as many CPUs
THREADS = share_threads(["cpu"] * FOLDS)
NODE = {"num_cpus": THREADS, "object_store_memory": 80 * 2**20, "include_dashboard": False}
RUN = {
    "data": "digits/data.yaml",
    "model": str(ROOT / "data" / "letters.pt"),
    "folds": {"k": FOLDS, "seed": 1},
    "train": {"epochs": EPOCHS, "imgsz": 96, "batch": 4, "device": "cpu", "workers": 0, "optimizer": "AdamW", "lr0": 0.002, "fliplr": 0.0},
    "predict": {"conf": 0.001},
    "score": {"planting_rounds": 4},
    "issues": {"budget": 20},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a few of the digits."""
    root = tmp_path_factory.mktemp("ray")
    for image in sorted((DIGITS / "images" / "train").iterdir())[:IMAGES]:
        for path in (image, DIGITS / "labels" / "train" / f"{image.stem}.txt"):
            copy = root / path.relative_to(DIGITS.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    (root / "digits" / "data.yaml").write_text((DIGITS / "data.yaml").read_text().replace("images/test", "images/train"))
    write_config(root / "digits.yaml", **RUN)
    return root


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two nodes, each with room for one fold. A training waits to be lost after its first epoch; one that goes on does not wait."""
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name, value in hold_at("state.pt", 2).items():
            patch.setenv(name, value)
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would take minutes where the machine has other work
        nodes = Nodes(initialize_head=True, head_node_args=NODE)
        nodes.add_node(**NODE)
        yield nodes
        nodes.shutdown()


def open_cluster(machines: Any, folder: Path, **changed: Any) -> Any:
    settings = {"kind": "ray", "address": machines.address, "cpus": "auto", "gpus": 1.0, "at_once": None, "paths": [], "say": str}
    return open_executor(folder, **(settings | changed))


def read_epochs(folder: Path, fold: int, kind: str = "epoch") -> list[int]:
    """The epochs that a fold has finished, in order; kind "start": those after which its processes began."""
    files = list((folder / "stages").glob(f"train-*/folds/fold-{fold}/progress.jsonl"))
    lines = [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]
    return [line["done"] for line in lines if line["kind"] == kind]


def find_worker(folder: Path, fold: int) -> tuple[int, int]:
    """The Ray worker that has a fold's child, and the raylet that has the worker, by their process ids."""
    (job,) = (folder / "stages").glob(f"train-*/folds/fold-{fold}/job.json")
    worker = orjson.loads(job.read_bytes())["parent"]
    return worker, int((Path("/proc") / str(worker) / "stat").read_text().rpartition(") ")[2].split()[1])


def lose_both(folder: Path, process: subprocess.Popen[str], machines: Any) -> list[list[int]]:
    """Kills the worker of the fold on the first node and the whole second node, each in the middle of a training -> the epochs by then."""
    second = next(node for node in machines.list_all_nodes() if node is not machines.head_node)
    raylet = second.all_processes["raylet"][0].process.pid
    pending, before = {*range(FOLDS)}, [[0]] * FOLDS
    while pending and process.poll() is None:
        for fold in [fold for fold in pending if read_epochs(folder, fold)]:
            worker, parent = find_worker(folder, fold)
            if parent == raylet:
                machines.remove_node(second, allow_graceful=False)
            else:
                os.kill(worker, signal.SIGKILL)
            before[fold] = read_epochs(folder, fold)
            pending.remove(fold)
        time.sleep(0.02)
    assert not pending, process.communicate()
    return before


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_a_run_that_loses_a_worker_and_a_node_ends_with_the_same_issues(place: Path, machines: Any) -> None:
    answer_warm(place, "run", "digits.yaml", "name=here")
    folder = place / "runs" / "there"
    settings = ("name=there", "executor.kind=ray", f"executor.address={machines.address}")
    process = start_detclean("run", "digits.yaml", *settings, home=place / "home", cwd=place)
    before = lose_both(folder, process, machines)
    machines.add_node(**NODE)  # one that comes later is used as well
    said, complained = process.communicate()
    assert (process.returncode, complained) == (0, "")
    assert "Ray: 2 machines" in said

    for fold in range(FOLDS):
        epochs, starts = read_epochs(folder, fold), read_epochs(folder, fold, "start")
        assert before[fold] == [1]
        assert starts == [0, 1]  # it was lost once, and went on where it was
        assert len(set(epochs)) == len(epochs)  # none was trained twice
        assert {*epochs, *starts} == set(range(EPOCHS + 1))
    log = (folder / "run.log").read_text()
    for job in ("fold 1/2", "looking with fold 2/2", "features of fold 1/2"):
        assert f"  {job}: on " in log
    for name in ("issues.csv", "annotations.parquet", "candidates.parquet", "images.parquet", "detections.parquet"):
        assert (folder / name).read_bytes() == (place / "runs" / "here" / name).read_bytes(), name
    stages = [{path.name for path in (place / "runs" / name / "stages").glob("*-*")} for name in ("here", "there")]
    assert [name.split("-")[0] for name in stages[0] ^ stages[1]] == ["export"] * 2  # which is told where the run folder is


def test_functions_answer_in_order_and_errors_come_home(machines: Any, tmp_path: Path) -> None:
    said: list[str] = []
    names = [f"{n}.{n % 7}" for n in range(40)]
    with open_cluster(machines, tmp_path, say=said.append) as cluster:
        assert list(cluster.map(os.path.splitext, names)) == [(str(n), f".{n % 7}") for n in range(40)]
        assert list(cluster.map(os.path.splitext, [])) == []
        assert cluster.count_gpus() == 0
        with pytest.raises(ConfigError, match=r"^predict\.cnf: no such setting; did you mean predict\.conf\?$"):
            list(cluster.map(complete_predict, [{"cnf": 0.5}]))
    assert said == [f"Ray: 2 machines with {2 * THREADS} CPUs and 0 GPUs"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_machine_lacks_is_told_in_one_line(machines: Any, tmp_path: Path) -> None:
    absent = tmp_path / "absent.yaml"
    with (
        open_cluster(machines, tmp_path, paths=[absent]) as cluster,
        pytest.raises(StageError, match=rf"^executor: \S+ does not see {absent}; put run folder and data set on storage") as caught,
    ):
        cluster.count_gpus()
    assert "\n" not in str(caught.value)
    with open_cluster(machines, tmp_path, cpus=1000) as cluster, pytest.raises(StageError, match=f"set executor.cpus={THREADS},"):
        cluster.start({"task": "nothing", "threads": 1, "device": "cpu"}, tmp_path)


def test_a_job_that_fails_is_not_tried_again_and_stops_the_others(machines: Any, tmp_path: Path) -> None:
    """On a node that says it has GPUs, of which a task sees its own only."""
    node = machines.add_node(**NODE, num_gpus=2)
    jobs = [Job(f"job {n}", tmp_path / "folds" / str(n), tmp_path / "folds" / str(n) / "marker", {}) for n in range(2)]
    for job in jobs:
        job.folder.mkdir(parents=True)
    try:
        with open_cluster(machines, tmp_path, gpus=0.5) as cluster:
            assert cluster.count_gpus() == 2
            with pytest.raises(StageError, match=r"^job \d: nothing failed: KeyError: '\w+'; see .*train\.log, then run again to resume$"):
                run_jobs(jobs, ["0", "1"], {"task": "nothing", "threads": THREADS}, Silence(), cluster)
    finally:
        machines.remove_node(node)
    logs = [job.folder / "train.log" for job in jobs if (job.folder / "train.log").exists()]
    (failed,) = [log for log in logs if "KeyError" in log.read_text()]
    assert failed.read_text().count("\nKeyError") == 1
    assert orjson.loads((failed.parent / "job.json").read_bytes())["device"] == "0"


def test_a_killed_task_ends(machines: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folds" / "fold-0"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "train.log")  # so that the task waits at its first word, however busy this machine is
    with open_cluster(machines, tmp_path) as cluster:
        task = cluster.start({"task": "nothing", "threads": 1, "device": "cpu"}, folder)
        yolo_process.end_job(task)
        assert task.poll() == -signal.SIGKILL


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself, which would try for minutes, is not even asked."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked"))
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "auto"):
        settings = {"kind": "ray", "address": address, "cpus": "auto", "gpus": 1.0, "at_once": None, "paths": [], "say": str}
        with (
            pytest.raises(StageError, match=r"^executor\.address: \S+: nobody answers .* `ray start --head`") as caught,
            open_executor(tmp_path, **settings) as cluster,  # type: ignore[arg-type]
        ):
            cluster.count_gpus()
        assert "\n" not in str(caught.value)
