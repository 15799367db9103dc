"""What is said to contributors and to the repositories of data sets holds: commands, links, hooks."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_check_formats import ROW, write_yolo

from detclean.cli import answer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def examples_in_readme() -> list[dict[str, Any]]:
    """The repositories that the README's pre-commit configurations name, each with its one hook."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(repos:.*?)```", readme, re.DOTALL)]
    return [repository for block in blocks for repository in block["repos"]]


def test_the_commands_are_there() -> None:
    targets = set(re.findall(r"`make (\w+)`", PAGE))
    assert targets == {"install", "demo", "test", "check"}
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_what_the_page_names_is_there() -> None:
    links = re.findall(r"\]\(([^):]+)\)", PAGE)
    named = re.findall(r"`((?:detclean|docs|tests|scripts|configs|data|examples)/[\w./]*)`", PAGE)
    assert len(links) >= 3
    assert len(named) >= 8
    assert [name for name in {*links, *named} if not (ROOT / name).exists()] == []


def test_a_commit_is_looked_at_as_a_check_looks() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local"  # nothing is fetched
    hooks = local["hooks"]
    assert {(hook["language"], hook["pass_filenames"]) for hook in hooks} == {("system", False)}
    checked = (ROOT / "scripts" / "check").read_text(encoding="utf-8")
    python = re.findall(r"^python=(.+)$", checked, re.MULTILINE)
    commands = re.findall(r"^check (?:style|types) (.+)$", checked, re.MULTILINE)
    assert len(python) == 1
    assert [hook["entry"] for hook in hooks] == [f"{python[0]} -m {command}" for command in commands]


def test_the_hook_is_a_command_of_the_package() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert HOOK["entry"].split() == ["detclean", "check"]
    assert "detclean" in scripts
    assert HOOK["language"] == "python"
    assert HOOK["pass_filenames"] is False  # a data set is checked, not a label file


def test_the_readmes_hooks_are_this_hook() -> None:
    local, fetched = examples_in_readme()
    assert local["repo"] == "local"
    (own,) = local["hooks"]
    same = ("id", "name", "types_or", "pass_filenames")
    assert {key: own[key] for key in same} == {key: HOOK[key] for key in same}
    (named,) = fetched["hooks"]
    assert named["id"] == HOOK["id"]
    assert shlex.split(own["entry"]) == [*shlex.split(HOOK["entry"]), *named["args"]]
    assert "://" not in fetched["repo"]


@pytest.mark.parametrize(("labels", "status"), [(ROW, 0), (ROW * 2, 1), (f"{ROW}5 0.5 0.5 0.2 0.2\n", 1), ("0 0.5\n", 1)])
def test_the_hook_refuses_a_broken_label_file(labels: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path, {"a": labels})
    monkeypatch.chdir(tmp_path)
    for hook in (*examples_in_readme()[0]["hooks"], HOOK | examples_in_readme()[1]["hooks"][0]):
        command = [*shlex.split(hook["entry"]), *hook.get("args", [])]
        assert answer(command[1:]) == status
