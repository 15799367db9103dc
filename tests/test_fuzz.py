"""A few damaged inputs of every reader, as scripts/fuzz.py makes them by the ten thousand, and what that script calls a fault."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fuzz
import pytest
from fuzzing import checklist, children, folders
from fuzzing.readers import READERS
from fuzzing.template import make_template

from detclean.errors import DatasetError

EACH = 6  # inputs of each reader
SEED = 1
SCRIPTS = str(Path(fuzz.__file__).parent)
MOST = 1200  # inputs among which every kind of damage has to be


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    make_template(folder)
    return folder


@pytest.fixture(autouse=True)
def _nobody_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sync", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "watched" / "root"
    for name in ("case", "work"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_damaged_input_is_read_or_told(reader: str, template: Path, root: Path) -> None:
    outcomes = [children.run_case(f"{SEED}-{reader}-{number}", root, template) for number in range(EACH)]
    assert [outcome for outcome in outcomes if outcome.kind == "fault"] == []


def test_every_kind_of_damage_is_made(root: Path) -> None:
    missing = set(checklist.WORDS)
    rng = random.Random(SEED)
    for number in range(MOST // 10):  # odd names are rare among the cases
        folder = root / "case" / str(number)
        folder.mkdir()
        (folder / "a.png").touch()
        folders.rename_oddly(rng, folder / "a.png")
    missing -= set(checklist.list_damage(root / "case"))
    readers = [reader for reader in ("coco", "yolo", "voc", "results", "images") for _ in range(READERS[reader].share)]
    for number in range(MOST):
        children.make_case(f"{SEED}-{readers[number % len(readers)]}-{number}", root, root)
        missing -= set(checklist.list_damage(root / "case"))
        if not missing:
            break
    assert not missing


def test_a_case_is_made_again_by_its_name(template: Path, root: Path) -> None:
    told = []
    for name in ("1-coco-3", "1-coco-4", "1-coco-3"):
        children.run_case(name, root, template)
        told.append((root / "case" / "annotations.json").read_bytes())
    assert told[0] == told[2] != told[1]


def test_the_tables_count_by_reader_and_by_damage() -> None:
    outcomes = [children.Outcome("0-coco-1", "result", "", 0.5, 10, ["BOM"]), children.Outcome("0-coco-2", "fault", "x", 1.5, 20, ["BOM"])]
    assert fuzz.as_table(outcomes).splitlines()[-2:] == ["| coco | 2 | 1 | 0 | 1 | 1.50 | 20 |", "| all | 2 | 1 | 0 | 1 | 1.50 | 20 |"]
    assert "| BOM | 2 | 1 |" in fuzz.as_checklist(outcomes).splitlines()


def test_a_message_without_its_file_is_a_fault(tmp_path: Path) -> None:
    assert children.judge(DatasetError("something is wrong"), tmp_path, tmp_path)[0] == "fault"
    assert children.judge(DatasetError(f"{tmp_path}: " + "x" * 10_000), tmp_path, tmp_path)[0] == "fault"
    assert children.judge(DatasetError(f"{tmp_path / 'a'}:3: is wrong"), tmp_path, tmp_path)[0] == "error"


@pytest.mark.parametrize("place", ["case/a", "b", "../c"])
def test_a_file_that_appears_elsewhere_is_a_fault(place: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        (root / place).write_text("x")

    monkeypatch.setitem(READERS, "answers", replace(READERS["answers"], read=read))
    outcome = children.run_case("1-answers-1", root, root)
    assert outcome.kind == "fault"
    assert outcome.detail.startswith(("written outside", "the source was changed"))


WRITES = """
import os, sys
from pathlib import Path
from fuzzing.watch import Watch
root = Path(sys.argv[1])
watch = Watch(root)
(root / "work" / "a").write_text("allowed")
os.rename(root / "work" / "a", root / "work" / "b")
(root / "work" / "b").unlink()
assert watch.strange == [], watch.strange
(root / "work" / "link").symlink_to(root / "case")
(root / "case" / "c").write_text("")
(root / "work" / "link" / "c").unlink()
os.mkdir(root.parent / "d")
print(*watch.strange, sep=chr(10))
"""


def test_writes_that_leave_nothing_behind_are_noticed(root: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WRITES, str(root)], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": SCRIPTS}
    ).stdout.splitlines()
    case = root / "case"
    assert told == [f"open {case}/c", f"os.remove {root}/work/link/c", f"os.mkdir {root.parent}/d"]
