"""The engine: what runs again, what does not, and what a crash leaves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detclean.errors import StageError
from detclean.show.progress import Display, open_display
from detclean.stages import Stage, StageContext, StageResult, lock_run, run_stages


@pytest.fixture
def display(tmp_path: Path) -> Iterator[Display]:
    with open_display(tmp_path / "run.log") as display:
        yield display


class Recorder:
    """Three stages, a <- b, and c on its own, that note when they run and can be told to crash."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.crash_in = ""
        self.outside = "1"

    def stage(self, name: str, *needs: str, **more: Any) -> Stage:
        def work(context: StageContext) -> None:
            self.ran.append(name)
            before = "".join((folder / "out.txt").read_text() for folder in context.inputs.values())
            (context.out / "half.txt").write_text("half")
            if self.crash_in == name:
                raise RuntimeError("crash")
            (context.out / "out.txt").write_text(
                f"{before}{name}{context.settings}{self.outside if more.get('content_addressed') else ''};"
            )

        return Stage(name, work, needs, **more)

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


def text(result: StageResult) -> str:
    return (result.folder / "out.txt").read_text()


def test_a_finished_stage_runs_once(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    stages = (recorder.stage("a"), recorder.stage("b", "a"))
    first = run_stages(stages, tmp_path, {"a": 1, "b": 2}, display)
    assert recorder.take() == ["a", "b"]
    assert text(first["b"]) == "a1;b2;"
    second = run_stages(stages, tmp_path, {"a": 1, "b": 2}, display)
    assert recorder.take() == []
    assert [result.reused for result in (*first.values(), *second.values())] == [False, False, True, True]
    assert [result.folder for result in first.values()] == [result.folder for result in second.values()]
    assert [result.seconds for result in first.values()] == [result.seconds for result in second.values()]


def test_a_change_reruns_only_what_depends_on_it(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    stages = (recorder.stage("a"), recorder.stage("b", "a"), recorder.stage("c"), recorder.stage("d", "b", "c"))
    settings = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": 1, "d": 1}
    old = run_stages(stages, tmp_path, settings, display)
    assert recorder.take() == ["a", "b", "c", "d"]
    run_stages(stages, tmp_path, settings | {"a": {"y": [1, 2], "x": 1}}, display)  # the order of keys means nothing
    assert recorder.take() == []
    run_stages(stages, tmp_path, settings | {"c": 2}, display)
    assert recorder.take() == ["c", "d"]
    run_stages(stages, tmp_path, settings | {"a": {"x": 2, "y": [1, 2]}}, display)
    assert recorder.take() == ["a", "b", "d"]
    newer = (stages[0], recorder.stage("b", "a", version=2), *stages[2:])
    run_stages(newer, tmp_path, settings, display)
    assert recorder.take() == ["b", "d"]
    again = run_stages(stages, tmp_path, settings, display)  # back to what it was: all there
    assert recorder.take() == []
    assert again["d"].folder == old["d"].folder


def test_a_crash_leaves_nothing_that_passes_for_complete(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    stages = (recorder.stage("a"), recorder.stage("b", "a"))
    recorder.crash_in = "b"
    with pytest.raises(RuntimeError, match="crash"):
        run_stages(stages, tmp_path, {}, display)
    left = sorted(path.name for path in (tmp_path / "stages").iterdir() if path.suffix != ".partial")
    assert [name.split("-")[0] for name in left] == ["a"]
    (stale,) = (tmp_path / "stages").glob("b-*.partial")
    (stale / "stale.txt").touch()
    recorder.crash_in = ""
    recorder.take()
    results = run_stages(stages, tmp_path, {}, display)
    assert recorder.take() == ["b"]
    assert sorted(path.name for path in results["b"].folder.iterdir()) == ["half.txt", "out.txt", "seconds.json"]
    assert not list((tmp_path / "stages").glob("*.partial"))


def test_a_resumable_stage_finds_what_it_left(tmp_path: Path, display: Display) -> None:
    found: list[list[str]] = []

    def train(context: StageContext) -> None:
        done = sorted(path.name for path in context.out.iterdir())
        found.append(done)
        (context.out / f"fold{len(done)}").touch()
        if len(done) < 2:
            raise KeyboardInterrupt

    stage = Stage("detect", train, resumable=True)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stages((stage,), tmp_path, {"detect": 1}, display)
    with pytest.raises(KeyboardInterrupt):
        run_stages((stage,), tmp_path, {"detect": 2}, display)  # other settings: a folder of their own, and the first stays
    result = run_stages((stage,), tmp_path, {"detect": 1}, display)["detect"]
    assert found == [[], ["fold0"], [], ["fold0", "fold1"]]
    assert sorted(path.name for path in result.folder.iterdir()) == ["fold0", "fold1", "fold2", "seconds.json"]


def test_stale_partials_go_but_not_those_of_others(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    home = tmp_path / "stages"
    (home / "a-000000000000.partial").mkdir(parents=True)
    (home / "a-long-000000000000.partial").mkdir()
    run_stages((recorder.stage("a"),), tmp_path, {}, display)
    assert [path.name for path in home.glob("*.partial")] == ["a-long-000000000000.partial"]


def test_content_addressed_stage_follows_the_world_outside(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    stages = (recorder.stage("load", content_addressed=True), recorder.stage("b", "load"))
    first = run_stages(stages, tmp_path, {}, display)
    recorder.take()
    second = run_stages(stages, tmp_path, {}, display)
    assert recorder.take() == ["load"]  # it looked, found the same, and nothing downstream moved
    assert (first["load"].reused, second["load"].reused, second["b"].reused) == (False, True, True)
    recorder.outside = "2"
    third = run_stages(stages, tmp_path, {}, display)
    assert recorder.take() == ["load", "b"]
    assert text(third["b"]) == "loadNone2;bNone;"
    assert text(first["b"]) == "loadNone1;bNone;"
    assert not list((tmp_path / "stages").glob("*.partial"))


def test_stages_must_stand_in_order(tmp_path: Path, display: Display) -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="stage b: stands twice, or before"):
        run_stages((recorder.stage("b", "a"), recorder.stage("a")), tmp_path, {}, display)


HOLDER = """
import sys, time
from pathlib import Path
from detclean.stages import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_second_process_is_turned_away_until_the_first_is_dead(tmp_path: Path) -> None:
    run = tmp_path / "digits"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StageError, match=rf"digits: another detclean \(process {holder.pid}\) is working") as caught, lock_run(run):
            pass
        assert "\n" not in str(caught.value)
        os.kill(holder.pid, signal.SIGKILL)
    with lock_run(run):  # the dead process's lock is nobody's
        assert (run / "lock").read_text() == str(os.getpid())
    with lock_run(run):
        pass


KILLED = """
import sys, time
from pathlib import Path
from detclean.show.progress import open_display
from detclean.stages import Stage, lock_run, run_stages
def quick(context): (context.out / "x").write_text("x")
def slow(context):
    (context.out / "y").write_text("half")
    print("in slow", flush=True)
    time.sleep(3600)
run = Path(sys.argv[1])
with lock_run(run), open_display(run / "run.log") as display:
    run_stages((Stage("quick", quick), Stage("slow", slow, ("quick",))), run, {}, display)
"""


def test_sigkill_loses_only_the_stage_it_met(tmp_path: Path, display: Display) -> None:
    run = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(run)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("in slow" in line for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    ran: list[str] = []
    stages = (Stage("quick", lambda context: ran.append("quick")), Stage("slow", lambda context: ran.append("slow"), ("quick",)))
    with lock_run(run):
        results = run_stages(stages, run, {}, display)
    assert ran == ["slow"]
    assert (results["quick"].reused, results["slow"].reused) == (True, False)
    assert not (results["slow"].folder / "y").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_lives_on_does_not_keep_the_run(tmp_path: Path) -> None:
    """Libraries fork workers while a run is held, and a fork shares the open lock file."""
    with lock_run(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(3600)
            os._exit(0)
    try:
        with lock_run(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
