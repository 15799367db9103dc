"""Where a run is, for the person who waits: live bars on a terminal, plain lines elsewhere, and all of it in run.log."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from detclean.errors import DetcleanError
from detclean.files import refuse_following

SECONDS_BETWEEN_LINES = 10.0  # of one task, where the output is no terminal
LEAST_SECONDS_BETWEEN_LINES = 1.0
SHARE_BETWEEN_LINES = 0.1
SECONDS_BETWEEN_SIGNS_OF_LIFE = 60.0  # of a task that reports but has not come a step further


@dataclass
class _Task:
    description: str
    total: float
    done: float = 0
    begun_at: float | None = None  # `done` of the first report: an earlier run may have done that, so no rate counts it
    bar: TaskID | None = None
    shown_done: float = 0
    shown_time: float = field(default=float("-inf"))


class Display:
    """Stages, tasks inside them, and words for the person. Several threads may report at once."""

    def __init__(self, console: Console, log: TextIO | None) -> None:
        self._console, self._log = console, log
        self._lock = threading.RLock()
        self._stage: str | None = None
        self._stage_start = 0.0
        self._tasks: dict[str, _Task] = {}
        self._work_start = 0.0
        self._bars: Progress | None = None
        self._headline: TaskID | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bars = Progress(*columns, console=console, transient=True)
            self._bars.start()

    def stage(self, name: str, note: str = "") -> None:
        """A stage begins; the one before it is done."""
        with self._lock:
            self._end_stage("done in")
            self._stage, self._stage_start = name, time.monotonic()
            if self._bars is None:
                self._print(f"{name}: begins{_after(note)}")
            else:
                self._headline = self._bars.add_task(clean_text(name), total=None, note=clean_text(note))
            self.log(f"{name}: begins{_after(note)}")

    def reused(self, name: str) -> None:
        """A stage that an earlier run completed."""
        with self._lock:
            self._end_stage("done in")
            self.say(f"{name}: done before")

    def task(self, key: str, description: str, total: float) -> None:
        """A task of the stage, such as "fold 3/5" with "epoch" for its description.

        Announce all tasks of a stage before the first advances: the remaining time is that of all announced tasks.
        """
        with self._lock:
            if key in self._tasks:
                self._drop_bar(self._tasks[key])
            task = _Task(description, total)
            if self._bars is not None:
                task.bar = self._bars.add_task(clean_text(key), total=total, note="")
            self._tasks[key] = task

    def advance(self, key: str, done: float, total: float | None = None, note: str = "") -> None:
        """`done` of `total` steps of a task are behind it, counted from its beginning and not since the last call."""
        with self._lock:
            if key not in self._tasks:
                self.task(key, "", total or done)
            task = self._tasks[key]
            if all(other.begun_at is None for other in self._tasks.values()):
                self._work_start = time.monotonic()
            if task.begun_at is None:
                task.begun_at = done
            task.done = done
            task.total = task.total if total is None else total
            text = ", ".join(part for part in (self._describe_steps(task), note, self._describe_pace()) if part)
            if self._bars is not None and task.bar is not None:
                self._bars.update(task.bar, completed=done, total=task.total, note=clean_text(text))
            if self._is_due(task):
                task.shown_done, task.shown_time = done, time.monotonic()
                line = f"{self._stage or ''} {key}: {text}".strip()
                self.log(line)
                if self._bars is None:
                    self._print(f"  {line}")

    def say(self, text: str) -> None:
        """A line for the person."""
        with self._lock:
            self._print(text)
            self.log(text)

    def log(self, text: str) -> None:
        """Lines for run.log only."""
        if self._log is None:
            return
        with self._lock:
            stamp = datetime.now().isoformat(" ", timespec="seconds")
            self._log.writelines(f"{stamp}  {line}\n" for line in text.splitlines())
            self._log.flush()

    def close(self, ending: str = "done in") -> None:
        """Ends the stage that runs and gives the terminal back."""
        with self._lock:
            self._end_stage(ending)
            if self._bars is not None:
                self._bars.stop()

    def _end_stage(self, ending: str) -> None:
        if self._stage is None:
            return
        for task in self._tasks.values():
            self._drop_bar(task)
        if self._bars is not None and self._headline is not None:
            self._bars.remove_task(self._headline)
        name, seconds = self._stage, time.monotonic() - self._stage_start
        self._stage, self._headline, self._tasks = None, None, {}
        self.say(f"{name}: {ending} {describe_seconds(seconds)}")

    def _drop_bar(self, task: _Task) -> None:
        if self._bars is not None and task.bar is not None:
            self._bars.remove_task(task.bar)

    def _print(self, text: str) -> None:
        self._console.print(clean_text(text), markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _describe_steps(self, task: _Task) -> str:
        return f"{task.description} {task.done:.10g}/{task.total:.10g}".strip()

    def _describe_pace(self) -> str:
        """Rate and remaining time over all tasks of the stage: tasks run side by side, so no single one tells."""
        elapsed = time.monotonic() - self._work_start
        done_now = sum(task.done - task.begun_at for task in self._tasks.values() if task.begun_at is not None)
        left = sum(max(task.total - task.done, 0) for task in self._tasks.values())
        if done_now <= 0 or elapsed <= 0:
            return ""
        pace = elapsed / done_now
        rate = f"{pace:.1f} s each" if pace >= 1 else f"{1 / pace:.1f}/s"
        return f"{rate}, {describe_seconds(pace * left)} left" if left else rate

    def _is_due(self, task: _Task) -> bool:
        """Whether a task has come far enough since its last line to be worth another."""
        waited = time.monotonic() - task.shown_time
        if task.done == task.shown_done:
            return waited >= SECONDS_BETWEEN_SIGNS_OF_LIFE
        stride = (task.done - task.shown_done) >= SHARE_BETWEEN_LINES * task.total
        return task.done >= task.total or waited >= SECONDS_BETWEEN_LINES or (stride and waited >= LEAST_SECONDS_BETWEEN_LINES)


@contextmanager
def open_display(log_path: Path | None = None, console: Console | None = None) -> Iterator[Display]:
    """A display that writes to standard output, or to `console`, and appends to the log; what ends it is logged, too."""
    log = None
    if log_path is not None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = open(log_path, "a", encoding="utf-8", errors="backslashreplace", opener=refuse_following)  # noqa: SIM115
    display = Display(console or Console(file=sys.stdout), log)
    try:
        yield display
    except BaseException as error:
        display.close("failed after" if isinstance(error, Exception) else "stopped after")
        display.log(f"error: {error}" if isinstance(error, DetcleanError) else traceback.format_exc())
        raise
    else:
        display.close()
    finally:
        if log is not None:
            log.close()


def describe_seconds(seconds: float) -> str:
    """A duration as a person reads it: `8.4 s`, `3:12`, `1:02:07`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clean_text(text: str) -> str:
    """Text that a terminal only shows: a file name may hold escape sequences, and obeys nobody's markup either."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _after(note: str) -> str:
    return f", {note}" if note else ""
