"""The command line: exit statuses, one line an error, and what a person reads meanwhile and at the end."""

import errno
import io
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from rich.console import Console

from detclean import __version__
from detclean.cli import answer
from detclean.dataset import Finding
from detclean.errors import DatasetError
from detclean.show import progress
from detclean.show.findings import print_findings
from detclean.show.progress import Display, clean_text, describe_seconds, open_display
from detclean.show.summary import print_summary


def issue(rank: int, issue_type: str = "swap", probability: float = 0.9, **more: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "issue_type": issue_type,
        "probability": probability,
        "file_name": f"{rank}.png",
        "source": f"labels/{rank}.txt:3",
        "reason": f"Reason {rank}.",
        **more,
    }


SUMMARY = {
    "folds": [{"fold": 0, "images": 48, "map50": 0.8123, "map": 0.61}, {"fold": 1, "images": 47, "map50": None, "map": None}],
    "answers": {
        "per_type": {
            "swap": {"planted": 10, "found": 8, "recall": 0.8, "issues": 9, "correct": 8, "precision": 8 / 9},
            "badloc": {"planted": 0, "found": 0, "recall": None, "issues": 0, "correct": 0, "precision": None},
        },
        "all": {"planted": 10, "found": 8, "recall": 0.8, "issues": 9, "correct": 8, "precision": 8 / 9},
        "hard_flagged": 1,
    },
}
Pipeline = Callable[[Callable[[Any, Display], Any]], None]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Puts a function in the pipeline's place, and a configuration `c.yaml` into the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: .\n")

    def replace(run_pipeline: Callable[[Any, Display], Any]) -> None:
        fake = types.ModuleType("detclean.pipeline")
        fake.run_pipeline = run_pipeline  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "detclean.pipeline", fake)

    return replace


def test_help_answers_at_once() -> None:
    """In little more than the time that the library of the command line takes to be imported."""

    def take(*command: str) -> tuple[float, str]:
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        return time.perf_counter() - begin, done.stdout

    helped, imported = zip(*((take("-m", "detclean", "--help"), take("-c", "import typer")) for _ in range(5)), strict=True)
    assert "run" in helped[0][1]
    assert "check" in helped[0][1]
    assert min(helped)[0] < 4 * min(imported)[0]


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys, detclean.cli; print([m for m in ('torch', 'numpy', 'polars', 'pydantic', 'cv2', 'ultralytics') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["--version"]) == 0
    assert capsys.readouterr().out == f"detclean {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["runn"], "No such command"),
        (["run"], "Missing argument 'config'"),
        (["check", "--wrong", "x"], "No such option"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "c.yaml", "modle=x"], "command line: unknown key 'modle'; did you mean 'model'?"),
        (["check", "x", "imgs=y"], "command line: 'imgs=y' is no option of check"),
        (["check", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], words: str, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert words in error
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_run_gives_the_pipeline_its_configuration_and_prints_the_summary(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_pipeline(config: Any, display: Display) -> Any:
        display.stage("load")
        display.say(f"{config.train['epochs']} epochs")
        (config.folder / "issues.csv").touch()
        return types.SimpleNamespace(folder=config.folder, summary=SUMMARY, issues=pl.DataFrame([issue(1)]))

    pipeline(run_pipeline)
    assert answer(["run", "c.yaml", "train.epochs=7", "name=x"]) == 0
    out = capsys.readouterr().out
    assert "7 epochs\n" in out
    assert "Reason 1. (labels/1.txt:3)" in out
    assert "runs/x/issues.csv" in out
    log = (tmp_path / "runs" / "x" / "run.log").read_text()
    assert "load: begins" in log
    assert "7 epochs" in log


def failing(error: BaseException) -> Callable[[Any, Display], Any]:
    def run_pipeline(config: Any, display: Display) -> Any:
        display.stage("detect")
        raise error

    return run_pipeline


def test_an_error_of_the_input_is_a_line_and_status_2(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(failing(DatasetError("labels/a.txt:3: category 12,\nbut data.yaml names 10")))
    assert answer(["run", "c.yaml"]) == 2
    assert capsys.readouterr().err == "error: labels/a.txt:3: category 12, but data.yaml names 10\n"
    assert "Traceback" not in (tmp_path / "runs" / "c" / "run.log").read_text()


def test_a_full_disk_is_no_bug(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(failing(OSError(errno.ENOSPC, "No space left on device", "runs/c/x")))
    assert answer(["run", "c.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: runs/c/x: No space left on device;")


def test_a_stop_by_hand_says_how_to_go_on(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(failing(KeyboardInterrupt()))
    assert answer(["run", "c.yaml"]) == 130
    assert capsys.readouterr().err == "\nstopped; the same command goes on from here\n"
    assert "detect: stopped after" in (tmp_path / "runs" / "c" / "run.log").read_text()


def test_a_bug_is_one_line_with_the_details_in_a_file(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(failing(KeyError("x")))
    assert answer(["run", "c.yaml"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: a bug in detclean: KeyError: 'x' (details: ")
    details = Path(error.split("details: ")[1].rstrip(")\n"))
    assert "Traceback" in details.read_text()
    details.unlink()
    assert "Traceback" in (tmp_path / "runs" / "c" / "run.log").read_text()


def write_yolo(folder: Path, rows: str) -> Path:
    """A YOLO set of three unlike pictures, the first of them with `rows` as its labels."""
    for part, names in (("train", ("a", "b")), ("val", ("c",))):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        for name in names:
            Image.effect_noise((64, 48), 80).save(folder / "images" / part / f"{name}.png")
            (folder / "labels" / part / f"{name}.txt").write_text(rows if name == "a" else "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    return data


def test_check_of_a_sound_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n")
    assert answer(["check", str(data)]) == 0
    assert capsys.readouterr().out.endswith(f"{data}: 3 images, 5 annotations, no faults\n")


def test_check_names_the_faults_and_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n" * 2)
    assert answer(["check", str(data)]) == 1
    out = capsys.readouterr().out
    assert "labels/train/a.txt:2" in out
    assert out.splitlines()[-1].endswith("fault") or out.splitlines()[-1].endswith("faults")


def test_check_of_a_set_without_any_annotation_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_yolo(tmp_path, "")
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text("")
    assert answer(["check", str(data)]) == 1
    out = capsys.readouterr().out
    assert "1 warning\n  dataset-without-annotations: 1\n    data.yaml: none of the 3 images has an annotation" in out
    assert "note" not in out
    assert out.endswith(f"{data}: 3 images, 0 annotations, 1 fault\n")


def shown(width: int = 100, terminal: bool = False) -> tuple[Console, Callable[[], str]]:
    stream = io.StringIO()
    return Console(file=stream, width=width, force_terminal=terminal), stream.getvalue


def test_findings_are_grouped_and_cut() -> None:
    findings = [Finding("bad", "error", f"a.txt:{i}", "[red]wrong[/red]") for i in range(7)] + [Finding("odd", "note", "b.txt:1", "odd")]
    console, text = shown()
    print_findings(findings, console=console)
    assert "7 errors\n  bad: 7\n    a.txt:0: [red]wrong[/red]\n" in text()
    assert "    and 2 more; --all shows them\n" in text()
    assert "a.txt:5" not in text()
    assert "1 note\n  odd: 1\n    b.txt:1: odd\n" in text()
    console, text = shown()
    print_findings(findings, show_all=True, console=console)
    assert "a.txt:6: [red]wrong[/red]\n" in text()
    assert "--all" not in text()


def test_summary_of_a_run(tmp_path: Path) -> None:
    for name in ("issues.csv", "summary.json"):
        (tmp_path / name).touch()
    (tmp_path / "cleaned").mkdir()
    (tmp_path / "cleaned" / "data.yaml").touch()
    rows = [
        issue(1, "overlooked", 0.97, source=None, reason="[bold]Nobody[/bold] drew it."),
        issue(2),
        *(issue(i, "badloc", 0.5) for i in range(3, 14)),
    ]
    console, text = shown()
    print_summary(SUMMARY, pl.DataFrame(rows), tmp_path, console)
    lines = [" ".join(line.split()) for line in text().splitlines()]
    for line in (
        "badloc 11 5.5",
        "all 13 7.4",
        "1. overlooked 0.97 [bold]Nobody[/bold] drew it. (1.png)",
        "10. badloc 0.50 Reason 10. (labels/10.txt:3)",
        "swap 10 8 80% 9 8 89%",
        "badloc 0 0 - 0 0 -",
        "all 10 8 80% 9 8 89%",
        "Hard but right objects among the issues: 1",
        "1 48 0.812 0.610",
        "2 47 - -",
        f"{tmp_path}/issues.csv every issue, worst first",
        f"To decide issue by issue: python -m detclean review {tmp_path}",
        f"To train on what is cleaned: yolo detect train data={tmp_path}/cleaned/data.yaml",
    ):
        assert line in lines
    assert "11." not in text()
    assert "report.html" not in text()
    assert max(len(line) for line in text().splitlines() if str(tmp_path) not in line) <= 100


def test_summary_without_issues(tmp_path: Path) -> None:
    console, text = shown()
    columns = {
        "rank": pl.Int64,
        "issue_type": pl.String,
        "probability": pl.Float64,
        "file_name": pl.String,
        "source": pl.String,
        "reason": pl.String,
    }
    print_summary({}, pl.DataFrame(schema=columns), tmp_path, console)
    assert "No label was found that is likely enough to be wrong." in text()
    assert "answer key" not in text()


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_lines_name_stage_fold_epoch_rate_and_remaining_time(clock: Clock, tmp_path: Path) -> None:
    console, text = shown()
    with open_display(tmp_path / "run.log", console) as display:
        display.reused("load")
        display.stage("detect", "2 folds")
        display.task("fold 1/2", "epoch", 10)
        display.task("fold 2/2", "epoch", 10)
        clock.now += 20
        display.advance("fold 1/2", 1, note="loss 1.23")
        display.advance("fold 2/2", 5)  # resumed: five epochs of an earlier run are no part of today's rate
        clock.now += 20
        display.advance("fold 1/2", 3)
        display.advance("fold 2/2", 7, 10, "loss 0.9")
        display.log("chatter\nof two lines")
        clock.now += 160
    assert text().splitlines() == [
        "load: done before",
        "detect: begins, 2 folds",
        "  detect fold 1/2: epoch 1/10, loss 1.23",
        "  detect fold 2/2: epoch 5/10",
        "  detect fold 1/2: epoch 3/10, 10.0 s each, 2:00 left",
        "  detect fold 2/2: epoch 7/10, loss 0.9, 5.0 s each, 50.0 s left",
        "detect: done in 3:20",
    ]
    log = (tmp_path / "run.log").read_text().splitlines()
    assert [line[21:] for line in log if "chatter" in line or "two lines" in line] == ["chatter", "of two lines"]
    assert log[-1].endswith("detect: done in 3:20")


def test_plain_lines_do_not_flood(clock: Clock) -> None:
    console, text = shown()
    with open_display(console=console) as display:
        display.stage("read")
        for done in range(1, 100_001):
            clock.now += 0.001
            display.advance("images", done, 100_000)
    lines = text().splitlines()
    assert 5 <= len(lines) <= 25
    assert "images: 100000/100000" in lines[-2]


def test_a_slow_step_gives_a_sign_of_life_a_minute(clock: Clock) -> None:
    console, text = shown()
    with open_display(console=console) as display:
        display.stage("detect")
        for batch in range(300):
            display.advance("fold 1/2", 0, 30, f"batch {batch}")
            clock.now += 1
    assert [line.split(", ")[1] for line in text().splitlines() if "fold" in line] == [f"batch {batch}" for batch in range(0, 300, 60)]


def test_terminal_shows_bars_and_no_markup_of_file_names(tmp_path: Path) -> None:
    console, text = shown(terminal=True)
    with open_display(tmp_path / "run.log", console) as display:
        display.stage("[red]read[/red]", "a\x1b[2Jb")
        display.task("fold 1/2", "epoch", 3)
        threads = [threading.Thread(target=display.advance, args=("fold 1/2", done, 3, "[bold]x[/bold]")) for done in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        display.say("[b]said[/b] \x1b[2J")
    assert "[red]read[/red]: done in" in text()
    assert "[b]said[/b] \\x1b[2J" in text()
    assert "\x1b[2J" not in text()
    assert "fold 1/2" in text()


def test_the_log_goes_on_where_an_earlier_run_left_it(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with open_display(tmp_path / "run.log", shown()[0]) as display:
            display.say(word)
    assert [line[21:] for line in (tmp_path / "run.log").read_text().splitlines()] == ["first", "second"]


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (8.44, "8.4 s"), (59.97, "1:00"), (192, "3:12"), (3727, "1:02:07")])
def test_durations(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_clean_text_keeps_letters_and_shows_control_characters() -> None:
    assert clean_text("V\u00f6gel \u9e1f #1 [a]\n") == "V\u00f6gel \u9e1f #1 [a]\n"
    assert clean_text("a\x1b[31m\x07\r") == "a\\x1b[31m\\x07\\r"
