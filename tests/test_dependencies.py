"""What is installed is what the project names: pinned, hashed, and with a reason."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _named() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {_plain(re.split(r"[<>=;\[ ]", line)[0]) for line in lines} - {"detclean"}


def test_every_dependency_is_explained_and_nothing_else_is() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| (\w[\w.-]*) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    explained = [_plain(name) for name, _, _ in rows if name != "package"]
    assert sorted(explained) == sorted(_named())
    assert all(licence.strip() and reason.strip() for _, licence, reason in rows)


def test_every_package_is_pinned_with_hashes() -> None:
    text = (ROOT / "constraints.txt").read_text()
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    for part in parts:
        assert PINNED.match(part), part.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", part), part.splitlines()[0]
    assert _named() <= {_plain(name) for name, _ in PINNED.findall(text)}
    assert "://" not in text
