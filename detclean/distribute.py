"""Other machines to work on: jobs and functions as tasks of a Ray cluster. The only room that imports ray, and only when asked to.

What is handed over is a folder, never an array: every machine has to see the run folder and the data set under the same paths. So a
task that is lost with its process or its machine starts again on another one and goes on after the last epoch that it finished.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import orjson
import yaml

from detclean.detect.yolo_process import end_job, start_job
from detclean.errors import ConfigError, DetcleanError, StageError
from detclean.files import write_whole
from detclean.formats.plainfile import read_plain
from detclean.formats.yamlfile import read_yaml_text

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 5  # of a task that was lost: on machines that are taken back at any moment one is not enough
KNOCK_SECONDS = 10.0  # for a cluster's port to answer; Ray itself would try for minutes
ANSWER_SECONDS = 120.0  # for a node to start a process that looks around, all of them busy
ARRIVAL_TRIES = 10  # a second apart, for what this machine wrote to be seen on another one
AHEAD = 4  # tasks of `map` that wait for each CPU
SAMPLES = 20  # pictures that every task looks for, in different folders
OBJECT_BYTES = 256 * 2**20  # of shared memory for a cluster of our own: little passes through it
SAME_VERSIONS = ("detclean", "ultralytics", "torch")  # or a result would depend on which machine did what
SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would tell its makers
    "RAY_worker_niceness": "0",  # of a cluster of our own: like the children of this machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about what a task without a GPU sees
}


@contextmanager
def open_executor(
    folder: Path,
    *,
    kind: str,
    address: str,
    cpus: int | str,
    gpus: float,
    at_once: int | None,
    paths: Sequence[Path],
    say: Callable[[str], None],
) -> Iterator[Cluster | None]:
    """The machines of a run; None for this one alone. Connects when there is work, so that a run that is done needs no cluster.

    kind: local or ray. address: auto (the cluster that this machine belongs to), local (one of this machine's own), HOST:PORT or
    ray://HOST:PORT. cpus: threads of each task; "auto": as many as it would have here, which makes the results the same to the bit.
    gpus: the share of a GPU for each task that needs one. folder, paths: what each machine has to see. Raises ConfigError without Ray.
    """
    if kind == "local":
        yield None
        return
    if find_spec("ray") is None:
        raise ConfigError("executor.kind: ray, but Ray is not installed here; pip install 'ray[client]', or set executor.kind=local")
    cluster = Cluster(folder.resolve(), address, None if cpus == "auto" else int(cpus), gpus, at_once, paths, say)
    try:
        yield cluster
    finally:
        cluster.close()


def refuse_strange_cluster(run: Path) -> None:
    """Raises ConfigError where a run folder, which may be somebody else's, names a cluster: whoever leads it runs what he likes here."""
    try:
        document, _ = read_yaml_text(read_plain(run / "config.yaml").decode())
        kind, address = document["executor"]["kind"], str(document["executor"]["address"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return  # it names none, or whoever reads it next says what is wrong
    if kind == "ray" and address not in ("auto", "local", os.environ.get("RAY_ADDRESS")):
        remedy = f"if that is yours, set RAY_ADDRESS={address} in the environment, else executor.kind to local there"
        raise ConfigError(f"{run / 'config.yaml'}: executor.address: {address} is a cluster that the run folder names; {remedy}")


@dataclass
class Cluster:
    """A Ray cluster that is connected to when it is first needed: the `Executor` of the detect room."""

    folder: Path
    address: str
    cpus: int | None
    gpus: float
    at_once: int | None
    paths: Sequence[Path]
    say: Callable[[str], None]
    _pictures: Sequence[str] = ()
    _nodes: Sequence[Mapping[str, Any]] = ()
    _ours: bool = False

    def expect_pictures(self, paths: Sequence[str]) -> None:
        """Tells which pictures the tasks from here on need; a few in each folder are looked for where a task runs."""
        by_folder = {os.path.dirname(path): path for path in paths}
        self._pictures = sorted(by_folder.values())[:: 1 + len(by_folder) // SAMPLES]

    def count_gpus(self) -> int:
        """CUDA devices on all machines together. Raises StageError where the cluster cannot be used."""
        return int(sum(node["Resources"].get("GPU", 0) for node in self._connect()))

    def start(self, job: dict[str, Any], folder: Path) -> RayTask:
        """A job as a task, its threads as CPUs. Raises StageError where no machine has what it needs."""
        import ray

        job = job if self.cpus is None else job | {"threads": self.cpus}
        cpus, gpus = job["threads"], self.gpus if job["device"].isdigit() else 0
        self._check_room(cpus, gpus)
        write_whole(folder / "job.json", orjson.dumps(job))  # by which the task knows that it sees the folder
        lost = {"max_retries": RETRIES, "retry_exceptions": [ChildKilled]}
        task = ray.remote(do_job).options(num_cpus=cpus, num_gpus=gpus, name=f"detclean {job['task']}", **lost)
        return RayTask(task.remote(job, str(folder), self._wanted(folder / "job.json")), job["task"])

    def map(self, function: Callable[[T], R], arguments: Sequence[T]) -> Iterator[R]:
        """A function of each argument, in order, as tasks of one CPU each. function: importable, arguments and results small."""
        import ray

        if not arguments:
            return
        nodes, wanted = self._connect(), self._wanted()
        task = ray.remote(do_call).options(num_cpus=1, max_retries=RETRIES, name=f"detclean {function.__name__}")
        ahead = AHEAD * max(1, int(sum(node["Resources"].get("CPU", 0) for node in nodes)))
        waiting: deque[Any] = deque()
        try:
            for argument in arguments:
                waiting.append(task.remote(function, argument, wanted))
                if len(waiting) >= ahead:
                    yield _get(waiting.popleft(), function.__name__)
            while waiting:
                yield _get(waiting.popleft(), function.__name__)
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def close(self) -> None:
        if self._ours:
            import ray

            ray.shutdown()
        self._nodes, self._ours = (), False

    def _connect(self) -> Sequence[Mapping[str, Any]]:
        """The machines that tasks can run on."""
        if self._nodes:
            return self._nodes
        os.environ.update(SURROUNDINGS)
        import ray

        if not ray.is_initialized():  # else it is the user's own program that works on a cluster
            _knock(os.environ.get("RAY_ADDRESS", self.address) if self.address == "auto" else self.address)
            own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_BYTES} if self.address == "local" else {}
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **own)
            except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
                raise StageError(
                    f"executor.address: {self.address}: {_one_line(error)}; start a cluster with `ray start --head`, or name its address"
                ) from error
            self._ours = True
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        if not nodes:
            raise StageError(f"executor.address: {self.address}: no machine of this Ray cluster has a CPU to work with; start a worker")
        self._check_nodes(nodes)
        self._nodes = nodes
        cpus, gpus = (int(sum(node["Resources"].get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
        self.say(f"Ray: {len(nodes)} machine{'s' * (len(nodes) > 1)} with {cpus} CPUs and {gpus} GPUs")
        return nodes

    def _check_nodes(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """That every machine sees the folders and has the same versions. Raises StageError."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = self.folder / f"probe-{uuid.uuid4().hex}"
        write_whole(probe, "")
        try:
            task, wanted = ray.remote(look_around), self._wanted(probe)
            places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            looks = [task.options(num_cpus=0, scheduling_strategy=place).remote(wanted) for place in places]
            for node, look in zip(nodes, looks, strict=True):
                try:
                    _get(look, f"a look around on {node['NodeManagerHostname']}", ANSWER_SECONDS)
                except ray.exceptions.RayTaskError as error:
                    host, reason = node["NodeManagerHostname"], _one_line(error.cause)
                    raise StageError(f"executor: detclean cannot be used on {host} ({reason}); install the same on all machines") from error
        finally:
            probe.unlink()

    def _wanted(self, *more: Path) -> Wanted:
        paths = [*map(str, (*more, *self.paths)), *self._pictures]
        return Wanted(tuple(paths), {name: _public_version(name) for name in SAME_VERSIONS})

    def _check_room(self, cpus: int, gpus: float) -> None:
        able = [node["Resources"]["CPU"] for node in self._connect() if node["Resources"].get("GPU", 0) >= gpus]
        if max(able, default=0) < cpus:
            need = f"{cpus} CPUs" + (f" and {gpus:g} GPU" if gpus else "")
            most = int(max(able, default=1))
            raise StageError(f"executor.cpus: no machine of the Ray cluster has {need} for a task; set executor.cpus={most}, or start one")


@dataclass(frozen=True)
class Wanted:
    """What a machine must have for its work: files, and versions of packages."""

    paths: tuple[str, ...]
    versions: Mapping[str, str | None]


@dataclass(frozen=True)
class RayTask:
    """A task that runs a job's child somewhere, and is started again where it gets lost: the `Child` of the detect room."""

    reference: Any
    name: str

    def poll(self) -> int | None:
        """The child's exit status, None while it works. Raises StageError for a task that was lost too often, or cannot run."""
        import ray

        return self.wait() if ray.wait([self.reference], timeout=0)[0] else None

    def kill(self) -> None:
        import ray

        ray.cancel(self.reference, force=True)  # ends the worker, and the child with it

    def wait(self) -> int:
        import ray

        try:
            return int(_get(self.reference, self.name))
        except ray.exceptions.TaskCancelledError:
            return -signal.SIGKILL
        except ChildKilled as error:
            return -error.signal


class ChildKilled(Exception):
    """A child that a signal ended, as when its machine ran out of memory or is being taken back."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def do_job(job: dict[str, Any], folder: str, wanted: Wanted) -> int:
    """In a task: does a job in a child, as `run_jobs` does it -> its exit status. Raises StageError and ChildKilled."""
    look_around(wanted)
    if job["device"].isdigit():
        job = job | {"device": "0"}  # a task sees no other GPU than its own
    with open(Path(folder) / "train.log", "ab") as log:
        log.write(f"on {socket.gethostname()}, process {os.getpid()}, {job['threads']} threads\n".encode())
    child = start_job(job, Path(folder))
    try:
        code = child.wait()
    finally:
        end_job(child)
    if code < 0:
        raise ChildKilled(-code)
    return code


def do_call(function: Callable[[T], R], argument: T, wanted: Wanted) -> R:
    """In a task: a function of an argument. Raises StageError, and what the function raises."""
    look_around(wanted)
    return function(argument)


def look_around(wanted: Wanted) -> None:
    """In a task: whether this machine can do the work. Raises StageError."""
    host = socket.gethostname()
    for name, here in wanted.versions.items():
        if (there := _public_version(name)) != here:
            raise StageError(f"executor: {host} has {name} {there}, and the machine that asks has {here}; install the same on all")
    for attempt in range(ARRIVAL_TRIES):
        absent = [path for path in wanted.paths if not os.path.exists(path)]
        if not absent:
            return
        if attempt < ARRIVAL_TRIES - 1:
            time.sleep(1)
    raise StageError(f"executor: {host} does not see {absent[0]}; put run folder and data set on storage that all see under one path")


def _public_version(package: str) -> str | None:
    """Without what stands behind a plus: a build for CUDA and one without are of one version."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _knock(address: str) -> None:
    """Raises StageError where nobody listens at HOST:PORT."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise StageError(
            f"executor.address: {address}: nobody answers ({_one_line(error)}); start one with `ray start --head`, or name its address"
        ) from error


def _get(reference: Any, what: str, seconds: float | None = None) -> Any:
    """What a task has answered, or raises what it raised: a DetcleanError or ChildKilled as they are, StageError for a task lost."""
    import ray

    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.TaskCancelledError:
        raise
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (DetcleanError, ChildKilled)):
            raise error.cause from None
        if isinstance(error.cause, ray.exceptions.RayError):  # the task could not even begin
            raise StageError(f"executor: {what}: {_one_line(error.cause)}; install the same on all machines") from error
        raise
    except ray.exceptions.GetTimeoutError as error:
        raise StageError(f"executor: {what}: no answer from the Ray cluster in {seconds:.0f} s; see `ray status`") from error
    except ray.exceptions.RayError as error:
        raise StageError(
            f"executor: {what}: lost {RETRIES + 1} times on the Ray cluster ({_one_line(error)}); run again to resume"
        ) from error


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")
