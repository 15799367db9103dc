"""The commands that follow a run, as a person types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from finished import share_run

from detclean.cli import BAD_INPUT, answer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return share_run(tmp_path_factory)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(finished, tmp_path / "a run's folder", symlinks=True))


def test_apply_and_undo(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["apply", run, "--auto", "0"]) == 0
    said = capsys.readouterr().out
    assert " edits in " in said
    assert f"{run}/applied" in said
    assert "detclean undo '" in said  # quoted, so that the line can be pasted
    assert "yolo detect train data='" in said
    assert (Path(run) / "applied" / "data.yaml").is_file()
    assert answer(["apply", run, "--auto", "0"]) == 0
    assert "applied already, nothing to do" in capsys.readouterr().out
    assert answer(["undo", run]) == 0
    assert "as before to the byte" in capsys.readouterr().out


def test_the_way_to_a_tool_and_back(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["export", run, "--to", "coco"]) == 0
    said = capsys.readouterr().out
    place = Path(run) / "handover" / "coco"
    assert str(place) in said
    document = place / "instances.json"
    assert answer(["import-decisions", run, str(document)]) == 0
    said = capsys.readouterr().out
    assert "detclean apply" in said
    assert (Path(run) / "decisions.jsonl").is_file()


REFUSED = {
    "apply without decisions": (["apply", "RUN"], "no accepted decision changes anything"),
    "undo of nothing": (["undo", "RUN"], "nothing is applied"),
    "a probability of two": (["apply", "RUN", "--auto", "2"], "--auto"),
    "apply of no run": (["apply", "RUN/stages"], "no run ended here"),
    "undo of no run": (["undo", "nowhere"], "is not the folder of a finished run"),
    "review of no run": (["review", "nowhere"], "is no folder"),
    "export of no run": (["export", "nowhere", "--to", "coco"], "is no folder"),
    "export to an unknown tool": (["export", "RUN", "--to", "paint"], "labelstudio"),
    "export without a tool": (["export", "RUN"], "to"),
    "export of unknown images": (["export", "RUN", "--to", "coco", "--images", "some"], "open"),
    "import of nothing": (["import-decisions", "RUN", "nowhere.json"], "nowhere.json"),
    "import of no annotations": (["import-decisions", "RUN", "RUN/config.yaml"], "config.yaml"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_said_in_one_line(run: str, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, word = REFUSED[case]
    assert answer([part.replace("RUN", run) for part in arguments]) == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert word in said.err
