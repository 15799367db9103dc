"""What a container or a person allows counts wherever work is dealt out, not what the machine has."""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from simulated import make_case

import detclean
from detclean.audit import audit_dataset
from detclean.cli import answer
from detclean.dataset import Dataset
from detclean.formats import imagefiles
from detclean.machine import CORES_AT_MOST, count_cores
from detclean.pipeline import steps
from detclean.score import boosting

CORES, ALLOWED = 64, 3  # fewer are allowed than any place would take by itself
QUOTA = "/sys/fs/cgroup/cpu.max"
HOUSE = Path(detclean.__file__).parent


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of CORES cores, on which nothing is limited."""
    monkeypatch.delenv(CORES_AT_MOST, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(CORES)), raising=False)
    set_quota(monkeypatch, "max 100000")


def set_quota(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Lets the system's file of a container's quota, as of now, hold `content`."""
    really_open, really_exists = builtins.open, os.path.exists

    def opened(file: Any, *rest: Any, **more: Any) -> Any:
        if file != QUOTA:
            return really_open(file, *rest, **more)
        readable, writable = os.pipe()
        os.write(writable, content.encode())
        os.close(writable)
        return really_open(readable, encoding="ascii")

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(os.path, "exists", lambda path: path == QUOTA or really_exists(path))


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", CORES), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", CORES)]
)
def test_a_containers_quota_counts_and_is_rounded_up(quota: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_quota(monkeypatch, quota)
    assert count_cores() == cores


def test_so_do_affinity_and_what_a_person_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6, 8}, raising=False)
    assert count_cores() == 5
    monkeypatch.setenv(CORES_AT_MOST, str(ALLOWED))
    assert count_cores() == ALLOWED


def test_a_limit_that_is_no_number_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CORES_AT_MOST, "two")
    assert answer(["check", str(write_coco(tmp_path)), "images=none"]) == 2
    assert capsys.readouterr().err == f"error: {CORES_AT_MOST} is 'two', but should be a whole number of cores; correct or unset it\n"


def write_coco(folder: Path) -> Path:
    file = folder / "labels.json"
    file.write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}], "categories": [{"id": 1, "name": "cat"}],'
        ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}'
    )
    return file


def test_check_and_run_audit_with_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def audit(dataset: Dataset, *, workers: int, progress: Any) -> Any:
        asked.append(workers)
        return audit_dataset(dataset, progress=progress)

    monkeypatch.setenv(CORES_AT_MOST, str(ALLOWED))
    monkeypatch.setattr("detclean.audit.audit_dataset", audit)
    assert answer(["check", str(write_coco(tmp_path)), "images=none"]) == 0
    assert asked == [ALLOWED]
    assert steps.count_auditors() == ALLOWED


def test_headers_are_read_by_as_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read_here(function: Any, tasks: Any, workers: int) -> Iterator[Any]:
        asked.append(workers)
        return map(function, tasks)

    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr(imagefiles, "PROCESSES_PAY", 1)
    monkeypatch.setattr(imagefiles, "map_in_processes", read_here)
    monkeypatch.setenv(CORES_AT_MOST, str(ALLOWED))
    assert imagefiles.read_image_sizes([str(tmp_path / "a.png")]).tolist() == [[7, 5]]
    assert asked == [ALLOWED]


def test_models_are_fitted_by_as_many_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int) -> None:
            asked.append(workers)
            super().__init__(workers)

    dataset, detections, _, _ = make_case(24)
    monkeypatch.setattr(boosting, "ROUNDS", 4)
    monkeypatch.setattr(boosting, "ThreadPoolExecutor", Pool)
    probabilities = []
    for allowed in (1, ALLOWED):
        monkeypatch.setenv(CORES_AT_MOST, str(allowed))
        probabilities.append(detclean.find_issues(dataset, detections, budget=30)["probability"].to_numpy())
        assert set(asked) == {allowed}
        asked.clear()
    assert len(probabilities[0]) == 30
    np.testing.assert_array_equal(*probabilities)


def test_nothing_asks_the_system_past_the_machines_room() -> None:
    asking = re.compile(r"\bcpu_count\b|\bsched_getaffinity\b")
    files = {path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py") if asking.search(path.read_text(encoding="utf-8"))}
    assert files == {"machine.py"}
