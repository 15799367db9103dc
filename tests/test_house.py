"""The house stands as docs/design.md draws it: rooms import only from rooms above them, and none outgrows its size."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import detclean

ROOMS = (
    "errors",
    "boxes",
    "dataset",
    "files",
    "machine",
    "formats",
    "audit",
    "detect",
    "score",
    "measure",
    "edit",
    "runfolder",
    "health",
    "handover",
    "show",
    "report",
    "review",
    "config",
    "stages",
    "distribute",
    "pipeline",
    "plan",
    "cli",
)
MAX_LINES = 400
OUTSIDE = {
    "ultralytics": re.compile(r"detect/yolo\w*\.py"),
    "ray": re.compile(r"distribute\.py"),
    "cleanlab": re.compile(r"score/objectlab\.py|score/crops\.py|measure/baselines\.py"),
    "cleanvision": re.compile(r"health/pictures\.py"),
}
HOUSE = Path(detclean.__file__).parent
FILES = sorted(path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py"))


def imports(file: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse((HOUSE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            names = [f"detclean.{alias.name}" for alias in node.names] if node.module == "detclean" else [node.module]
            yield from ((node.lineno, name) for name in names)


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def wrong_imports(file: str, found: Iterator[tuple[int, str]]) -> list[str]:
    """Imports of rooms that stand below, or of nothing that is a room."""
    own = ROOMS.index(room_of(file))
    wrong = []
    for line, name in found:
        parts = name.split(".")
        if parts[0] != "detclean" or len(parts) == 1 or parts[1] == "__version__":
            continue
        if parts[1] not in ROOMS or ROOMS.index(parts[1]) > own:
            wrong.append(f"detclean/{file}:{line} imports {name}")
    return wrong


def test_every_file_is_in_a_room() -> None:
    assert {room_of(file) for file in FILES} - {"__init__", "__main__"} <= set(ROOMS)
    assert len(FILES) > 10


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("__")])
def test_rooms_import_only_from_above(file: str) -> None:
    assert wrong_imports(file, imports(file)) == []


def test_the_design_draws_these_rooms_in_this_order() -> None:
    design = (HOUSE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^  (\w+)(?:\.py|/) ", design.partition("\ndetclean/\n")[2].partition("\n```")[0], flags=re.MULTILINE)
    assert drawn == [room for room in ROOMS if (HOUSE / room).is_dir() or (HOUSE / f"{room}.py").is_file()]


def test_the_test_sees_wrong_imports() -> None:
    below = iter([(1, "detclean.config"), (2, "detclean.boxes"), (3, "numpy"), (4, "detclean.__version__"), (5, "detclean.elsewhere")])
    assert wrong_imports("score/x.py", below) == [
        "detclean/score/x.py:1 imports detclean.config",
        "detclean/score/x.py:5 imports detclean.elsewhere",
    ]


@pytest.mark.parametrize("library", sorted(OUTSIDE))
def test_a_library_has_one_door(library: str) -> None:
    users = {file for file in FILES for _, name in imports(file) if name.split(".")[0] == library}
    assert users, f"nobody imports {library}"
    assert {file for file in users if not OUTSIDE[library].fullmatch(file)} == set()


@pytest.mark.parametrize("file", FILES)
def test_no_room_outgrows_its_size(file: str) -> None:
    assert len((HOUSE / file).read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_changelog_knows_this_version() -> None:
    changelog = HOUSE.parent / "CHANGELOG.md"
    versions = re.findall(r"^##\s+\[?v?(\d+\.\d+\.\d+)", changelog.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[:1] == [detclean.__version__]


def test_the_package_says_this_version() -> None:
    text = (HOUSE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{detclean.__version__}"\n' in text or 'dynamic = ["version"]' in text
