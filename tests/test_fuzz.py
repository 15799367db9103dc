"""A few damaged inputs of every reader, as scripts/fuzz.py makes them by the ten thousand, and what that script calls a fault."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz
import pytest
from fuzz_readers import READERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detclean.config import read_config
from detclean.edit.decisions import parse_decision
from detclean.errors import ConfigError, DatasetError
from detclean.formats.datayaml import load_yaml
from detclean.formats.jsonfile import load_json

EACH = 6  # inputs of each reader
SEED = 1
FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    fuzz.make_template(folder)
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_damaged_input_is_read_or_told(reader: str, template: Path, tmp_path: Path) -> None:
    root = tmp_path / "watched" / "root"
    root.mkdir(parents=True)
    (root / "case").mkdir()
    (root / "work").mkdir()
    outcomes = [fuzz.run_case(f"{SEED}-{reader}-{number}", root, template) for number in range(EACH)]
    assert [outcome for outcome in outcomes if outcome.kind == "fault"] == []


def test_a_case_is_made_again_by_its_name(template: Path, tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "work").mkdir()
    told = []
    for name in ("1-coco-3", "1-coco-4", "1-coco-3"):
        fuzz.run_case(name, tmp_path, template)
        told.append((tmp_path / "case" / "annotations.json").read_bytes())
    assert told[0] == told[2] != told[1]


def test_a_message_without_its_file_is_a_fault(tmp_path: Path) -> None:
    assert fuzz._judge(DatasetError("something is wrong"), tmp_path, tmp_path)[0] == "fault"
    assert fuzz._judge(DatasetError(f"{tmp_path}: " + "x" * 10_000), tmp_path, tmp_path)[0] == "fault"
    assert fuzz._judge(DatasetError(f"{tmp_path / 'a'}:3: is wrong"), tmp_path, tmp_path)[0] == "error"


def test_the_table_counts_by_reader() -> None:
    outcomes = [fuzz.Outcome("0-coco-1", "result", "", 0.5, 10), fuzz.Outcome("0-coco-2", "fault", "x", 1.5, 20)]
    assert fuzz.as_table(outcomes).splitlines()[-2:] == ["| coco | 2 | 1 | 0 | 1 | 1.50 | 20 |", "| all | 2 | 1 | 0 | 1 | 1.50 | 20 |"]


@FEW
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_as_yaml_and_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    for read, refusal in ((load_yaml, DatasetError), (read_config, ConfigError), (load_json, DatasetError)):
        said = str(path)
        try:
            read(path)
        except refusal as error:
            said = str(error)
        assert str(path) in said


@FEW
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), lambda below: st.lists(below, max_size=4), max_leaves=5))
def test_any_value_in_a_decision(value: object) -> None:
    for key in ("issue", "verdict", "image_id", "annotation_id", "category", "xyxy", "at", "by", "given_category", "given_xyxy"):
        record = {"issue": "a", "verdict": "accept", "image_id": 1, "category": "a", "xyxy": [0, 0, 1, 1]} | {key: value}
        said = "decisions.jsonl:1: is no decision"
        try:
            assert isinstance(parse_decision(json.dumps(record).encode(), "decisions.jsonl:1").image_id, str | int)
        except DatasetError as error:
            said = str(error)
        assert said.startswith("decisions.jsonl:1: is no decision")
