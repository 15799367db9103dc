"""What a plan says in sentences: the work, what its figures rest on, and what of the machine stands in the way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from detclean.config import Config
from detclean.detect.probe import Probe
from detclean.machine import count_free_memory
from detclean.plan.estimate import Facts, StageEstimate

BUSY, BUSY_SECONDS = 0.25, 0.5  # share of the machine from which on it is said to be busy, and how long it is watched


def describe_work(config: Config, facts: Facts, probe: Probe | None) -> str:
    """What there is to do, in a line."""
    if config.predictions is not None:
        return f"{facts.annotations:,} annotations, judged by the detections of {config.predictions.name}"
    if probe is None:
        return f"{facts.annotations:,} annotations, and all trainings done before"
    jobs = 1 if config.method == "loss" else config.folds.k * config.folds.repeats
    seen = facts.images if config.method == "loss" else round(facts.images * (1 - 1 / config.folds.k))
    trainings = f"{jobs} trainings" if jobs > 1 else "1 training"
    where = (
        "on the CPU" if probe.device == "cpu" else "on GPUs" if probe.slots > 1 else f"on {'GPU ' * probe.device.isdigit()}{probe.device}"
    )
    side = f", {probe.slots} at a time" if jobs > 1 else ""
    loss = ", one more for the loss dynamics" if config.method == "both" else ""
    size = f"{probe.epochs} epochs on {seen:,} images{' each' if jobs > 1 else ''} at {config.train['imgsz']} px"
    return f"{trainings} of {size}{side} {where}{loss}; {facts.annotations:,} annotations"


def describe_basis(config: Config, facts: Facts, probe: Probe | None, told: str, cores: int) -> list[str]:
    """What the figures rest on. told: how many detections are expected, and how that is known."""
    sentences = []
    if probe is not None and config.predictions is None:
        side = f"{probe.slots} trainings side by side" if probe.slots > 1 else "a training"
        alone = f", one alone {probe.alone.batch:.2g} s" if probe.alone != probe.main else ""
        sentences.append(
            f"This machine ({cores} cores) as it is now: {side} took {probe.main.batch:.2g} s a batch of {probe.batch} images{alone}. "
            "Whatever else works beside the run makes it slower."
        )
    if config.executor.kind != "local":
        sentences.append("All of it on this machine alone: what a cluster saves depends on how many of its machines are free.")
    sentences.append(f"Detections: {told}.")
    if config.crops == "auto" and config.predictions is None:
        sentences.append("Not counted: classifiers of crops, trained for a fold where some category is hardly detected.")
    return sentences


def find_warnings(config: Config, stages: Sequence[StageEstimate], busy: float) -> list[str]:
    """What a person should know before starting: other work, too little memory, too little disk."""
    found = []
    if busy > BUSY:
        found.append(f"other work takes {busy:.0%} of this machine just now: without it the run is faster than this says")
    memory = count_free_memory()
    largest = max(stages, key=lambda stage: stage.memory)
    if largest.memory > memory:
        needed, free = f"{largest.memory / 2**30:.1f} GiB", f"{memory / 2**30:.1f} GiB"
        found.append(f"{largest.name} needs {needed} of memory, {free} are free: lower train.batch or workers")
    home = next(folder for folder in (config.folder, *config.folder.absolute().parents) if folder.exists())
    room, wanted = shutil.disk_usage(home).free, sum(stage.disk + stage.passing for stage in stages)
    if wanted > room:
        found.append(f"{wanted / 2**30:.1f} GiB of disk are needed and {room / 2**30:.1f} GiB free: set runs to a folder on a larger one")
    return found


def measure_busy() -> float:
    """The share of this machine that works on something else just now; 0 where the system does not say."""

    def read() -> tuple[int, int]:
        ticks = [int(count) for count in statistics.read_text().split("\n", 1)[0].split()[1:]]
        return sum(ticks[:8]), ticks[3] + ticks[4]  # all; idle and waiting for a disk

    statistics = Path("/proc/stat")
    if not statistics.is_file():
        return 0.0
    before, idle_before = read()
    time.sleep(BUSY_SECONDS)
    after, idle_after = read()
    return 1 - (idle_after - idle_before) / max(after - before, 1)
