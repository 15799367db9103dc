"""What is installed is what the project names: locked with hashes, with a reason, and nothing that detclean does not need."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LEFT_OUT = {"triton"}  # docs/dependencies.md says why
FOR_LATER = {"pycocotools"}  # nothing imports it yet; outlines will need its masks
MODULES = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "xgboost-cpu": "xgboost"}


def named(lines: list[str]) -> dict[str, Requirement]:
    """What lines of pyproject.toml ask for, by name, detclean's own extras left out."""
    asked = {canonicalize_name(one.name): one for one in map(Requirement, lines)}
    asked.pop("detclean", None)
    return asked


TO_RUN = named(PROJECT["dependencies"])
ON_TOP = named([line for extra in PROJECT["optional-dependencies"].values() for line in extra])


def read_lock(name: str) -> dict[str, list[Requirement]]:
    """The requirements of a lock by name; several where platforms differ."""
    text = (ROOT / "locks" / name).read_text(encoding="utf-8")
    assert "://" not in text
    locked: dict[str, list[Requirement]] = {}
    for part in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        line, _, hashes = part.partition("\\\n")
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", hashes), line
        one = Requirement(line)
        assert [version.operator for version in one.specifier] == ["=="], line
        locked.setdefault(canonicalize_name(one.name), []).append(one)
    return locked


def find_needed(asked: dict[str, Requirement]) -> set[str]:
    """These packages and all that they need on this platform, as they are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [(name, extra) for name, one in asked.items() if _holds(one) for extra in ("", *one.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found or name in LEFT_OUT:
            continue
        found.add((name, extra))
        for one in map(Requirement, _list_requirements(name)):
            if _holds(one, extra):
                waiting += [(canonicalize_name(one.name), more) for more in ("", *one.extras)]
    return {name for name, _ in found}


def _list_requirements(name: str) -> list[str]:
    if name == "opencv-python" and _version(name) is None:
        name = "opencv-python-headless"  # which stands in its place where there is no libGL
    return distribution(name).requires or []


def _holds(one: Requirement, extra: str = "") -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def here(locked: dict[str, list[Requirement]]) -> set[str]:
    """The names that a lock brings on this platform."""
    return {name for name, lines in locked.items() if any(map(_holds, lines))}


def test_every_dependency_is_explained_and_nothing_else_is():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    tables = page.partition("\n## To run it\n")[2].partition("\n## What they take\n")[0]
    rows = re.findall(r"^\| (\w[\w.-]*) \| ([^|]+) \| ([^|]+) \|$", tables, re.MULTILINE)
    explained = [canonicalize_name(name) for name, _, _ in rows if name != "package"]
    assert sorted(explained) == sorted(TO_RUN | ON_TOP)
    assert all(licence.strip() and reason.strip() for _, licence, reason in rows)
    assert all(f"`{name}`" in page for name in LEFT_OUT | FOR_LATER)


def test_detclean_imports_each_package_that_it_asks_for():
    imported = {name.split(".")[0] for file in (ROOT / "detclean").rglob("*.py") for name in _imports(file)}
    assert {name for name in TO_RUN if MODULES.get(name, name) not in imported} == FOR_LATER


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_lock_of_a_user_holds_what_detclean_needs_and_no_more():
    locked = read_lock("run.txt")
    assert set(TO_RUN) <= set(locked)
    assert here(locked) == find_needed(TO_RUN) | {"setuptools"}  # which installs detclean itself


def test_the_lock_of_the_tests_holds_what_they_need_on_top_and_no_more():
    run, dev = read_lock("run.txt"), read_lock("dev.txt")
    assert set(ON_TOP) <= set(dev) | set(run)
    assert set(dev) & set(run) == set()
    assert here(dev) == find_needed(TO_RUN | ON_TOP) - here(run)


def test_what_is_installed_is_what_is_locked():
    versions = {name: {str(one.specifier) for one in lines} for lock in ("run.txt", "dev.txt") for name, lines in read_lock(lock).items()}
    others = [f"{name} {_version(name)}" for name, locked in versions.items() if _version(name) not in {None, *locked}]
    assert others == []


def _version(name: str) -> str | None:
    try:
        return f"=={distribution(name).version}"
    except PackageNotFoundError:  # of another platform, or the headless OpenCV in its place
        return None


def test_the_headless_opencv_is_the_same_version():
    (headless,) = read_lock("headless.txt")["opencv-python-headless"]
    (usual,) = read_lock("run.txt")["opencv-python"]
    assert headless.specifier == usual.specifier
