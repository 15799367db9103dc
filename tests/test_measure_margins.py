"""The table of margins: of each figure the seeds' least and most, and how far the worst of them is from what is expected."""

from pathlib import Path

import orjson
import pytest
import trained
from measure_margins import print_table


def test_the_worst_seed_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(trained, "NOTES", str(tmp_path / "notes.jsonl"))
    for value in (0.9, 0.7, 0.8):
        trained.expect("a share", value, least=0.5)
        trained.expect("a count", 10 * value, least=1, most=10)
    with pytest.raises(AssertionError, match=r"a share: 0\.4, at least 0\.5 expected"):
        trained.expect("a share", 0.4, least=0.5)
    with pytest.raises(AssertionError, match="a share: 2, at most 1 expected"):
        trained.expect("a share", 2, most=1)
    notes = [orjson.loads(line) for line in (tmp_path / "notes.jsonl").read_bytes().splitlines()]
    assert {note["test"] for note in notes} == {"test_measure_margins.py::test_the_worst_seed_decides"}
    print_table([note for note in notes if note["value"] not in (0.4, 2)])
    rows = [line.strip("| ").split(" | ")[1:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["a share", "at least 0.5", "0.7", "0.9", "0.2"],
        ["a count", "at least 1 and at most 10", "7", "9", "1"],
    ]
