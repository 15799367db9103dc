"""Any values at all in what detclean reads, drawn by Hypothesis: each file is read as something sound, or told in a line that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape

import numpy as np
import orjson
import pytest
from finished import copy_run
from fuzzing.beside import CONFIG
from fuzzing.usage import require_sound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detclean.audit import audit_dataset
from detclean.config import config_as_yaml, read_config
from detclean.dataset import Dataset
from detclean.edit.decisions import parse_decision
from detclean.errors import ConfigError, DatasetError, DetcleanError
from detclean.formats import read_dataset, read_detections
from detclean.formats.datayaml import load_yaml
from detclean.formats.jsonfile import load_json
from detclean.handover import import_decisions
from detclean.runfolder import Run, open_run
from detclean.score.answers import read_answers

T = TypeVar("T")
FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WIDTH, HEIGHT = 32, 24
ODD = st.sampled_from((1e308, -1e308, 1e-320, 2**31, 2**63, -(2**64), 10**30, "1", "nan", "", [], {}, [1, 2, 3, 4]))
VALUES = st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=6) | ODD
BOXES = st.lists(st.floats(-5, 40) | VALUES, min_size=3, max_size=5) | st.just([1, 2, 8.5, 9]) | VALUES
IDS = st.integers(1, 3) | VALUES
JSON = st.recursive(
    VALUES, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3), max_leaves=6
)
TOKENS = st.floats(-1, 2).map(str) | st.integers(-2, 5).map(str) | st.text("0123456789.,-+eEnaif _\t\r\x00é\u2028", max_size=6)
ROWS = st.lists(st.lists(TOKENS, max_size=7).map(" ".join), max_size=4).map("\n".join)


def told(path: Path | str, read: Callable[[], T]) -> T | None:
    """What is read, or nothing where a message names the file. What else is raised passes through."""
    try:
        return read()
    except DetcleanError as error:
        said = str(error)
    assert str(path) in said
    return None


def look(dataset: Dataset | None) -> None:
    if dataset is not None:
        require_sound(dataset)
        assert all(finding.message for finding in audit_dataset(dataset).findings)


def draw_picture(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)).save(folder / "a.png")
    return "a.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(copy_run(tmp_path_factory))


def records(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields), max_size=3)


IMAGES = records(id=IDS, file_name=st.just("a.png") | VALUES, width=st.just(WIDTH) | VALUES, height=st.just(HEIGHT) | VALUES)
ANNOTATIONS = records(id=IDS, image_id=IDS, category_id=IDS, bbox=BOXES, iscrowd=VALUES, attributes=JSON)
CATEGORIES = records(id=IDS, name=st.just("cat") | VALUES)
DOCUMENTS = st.fixed_dictionaries({"images": IMAGES | JSON, "annotations": ANNOTATIONS, "categories": CATEGORIES})


@FEW
@given(DOCUMENTS)
def test_any_values_in_a_coco_file(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    look(told(path, lambda: read_dataset(path, "none")))


@FEW
@given(ROWS, st.lists(st.sampled_from(("a.png", "./a.png", "b.png", "")) | st.text(max_size=8), max_size=3))
def test_any_rows_in_label_files_and_lists(tmp_path: Path, rows: str, listed: list[str]) -> None:
    draw_picture(tmp_path / "images")
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.txt").write_text(rows)
    (tmp_path / "train.txt").write_text("\n".join(["./images/a.png", *listed]))
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: images\nnames: [a, b]\n")
    look(told(tmp_path, lambda: read_dataset(tmp_path / "data.yaml")))


@FEW
@given(st.dictionaries(st.sampled_from(("path", "train", "val", "test", "names", "nc")), JSON, max_size=4))
def test_any_values_in_a_data_yaml(tmp_path: Path, document: dict[str, Any]) -> None:
    draw_picture(tmp_path / "images")
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps({"train": "images", "names": ["a", "b"]} | document))
    look(told(tmp_path, lambda: read_dataset(path)))


@FEW
@given(st.lists(st.tuples(st.just("cat") | st.text(max_size=5), *([TOKENS] * 4)), max_size=3), TOKENS, TOKENS, st.booleans())
def test_any_texts_in_voc_files(tmp_path: Path, things: list[tuple[str, ...]], width: str, height: str, plain: bool) -> None:
    name = draw_picture(tmp_path / "JPEGImages")
    (tmp_path / "Annotations").mkdir(exist_ok=True)
    text: Callable[[str], str] = (lambda value: value) if plain else escape
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = ["".join(f"<{side}>{text(value)}</{side}>" for side, value in zip(sides, thing[1:], strict=True)) for thing in things]
    objects = [f"<object><name>{text(thing[0])}</name><bndbox>{box}</bndbox></object>" for thing, box in zip(things, boxes, strict=True)]
    size = f"<size><width>{text(width)}</width><height>{text(height)}</height></size>"
    content = f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"
    (tmp_path / "Annotations" / "a.xml").write_text(content)
    look(told(tmp_path, lambda: read_dataset(tmp_path)))


@FEW
@given(records(image_id=IDS, category_id=IDS, bbox=BOXES, score=st.floats(-0.1, 1.1) | VALUES, class_scores=BOXES) | JSON, ROWS)
def test_any_values_in_detections(tmp_path: Path, rows: Any, lines: str) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)]
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    dataset = read_dataset(tmp_path / "a.json", "none")
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "1.txt").write_text(lines)
    for path in (tmp_path / "results.json", tmp_path / "labels"):
        found = told(path, lambda path=path: read_detections(path, dataset))  # type: ignore[misc]
        if found is not None:
            assert np.isfinite(found.xyxy).all()
            assert found.score is not None
            assert ((found.score >= 0) & (found.score <= 1)).all()


KEYS = [*CONFIG, *(f"{section}.{key}" for section, keys in CONFIG.items() if isinstance(keys, dict) for key in keys)]
OVERRIDES = st.tuples(st.sampled_from(KEYS) | st.text(max_size=8), JSON.map(json.dumps) | TOKENS | st.text(max_size=8)).map("=".join)


@FEW
@given(st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_overrides_of_a_configuration(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "c.yaml"
    (tmp_path / "annotations.json").write_text("{}")
    path.write_text(json.dumps(CONFIG))
    try:
        config = read_config(path, overrides)
    except ConfigError as error:
        said = str(error)
    else:
        (tmp_path / "again.yaml").write_text(config_as_yaml(config))
        assert read_config(tmp_path / "again.yaml") == config
        return
    assert "command line" in said or str(path) in said


@FEW
@given(st.dictionaries(st.sampled_from(("format", "stages", "detclean", "data", "split", "name", "crops")), JSON), st.booleans(), JSON)
def test_any_values_in_a_summary(run: Run, changes: dict[str, Any], one_stage: bool, stage: Any) -> None:
    path = run.folder / "summary.json"
    good = path.read_bytes()
    summary = orjson.loads(good) | changes
    if one_stage and isinstance(summary["stages"], dict):
        summary["stages"]["load"] = stage
    path.write_text(json.dumps(summary))
    try:
        opened = told(run.folder, lambda: open_run(run.folder))
        assert opened is None or opened.dataset.image_count == run.dataset.image_count
    finally:
        path.write_bytes(good)


@FEW
@given(st.sampled_from(("coco", "labelstudio")), IMAGES, ANNOTATIONS, JSON)
def test_any_values_in_what_comes_back_from_tools(run: Run, tmp_path: Path, tool: str, images: Any, rows: Any, more: Any) -> None:
    name, ours = run.dataset.images["file_name"][0], [{"id": i, "name": name} for i, name in enumerate(run.dataset.categories, 1)]
    if tool == "coco":
        images = [{"id": 1, "file_name": name}, *images]
        document: Any = {"images": images, "annotations": rows, "categories": ours}
    else:
        value = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": [ours[0]["name"]]}
        kinds = ({"value": value | row, "type": "rectanglelabels", "id": row.get("id")} for row in [*rows, *images])
        document = [{"data": {"image": name}, "annotations": [{"result": [*kinds], "created_at": more}]}]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(document))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").mkdir()
    there = Run(tmp_path / "run", run.summary, run.dataset, run.issues)
    if told(path, lambda: import_decisions(there, path)) is not None:
        assert import_decisions(there, path).accepted == 0


@FEW
@given(st.fixed_dictionaries({"planted": records(file_name=VALUES, category=VALUES, bbox=BOXES, issue_type=VALUES) | JSON, "hard": JSON}))
def test_any_values_in_an_answer_key(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(key))
    told(path, lambda: read_answers(path))


@FEW
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_as_yaml_and_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(content)
    for read in (load_yaml, read_config, load_json):
        told(path, lambda read=read: read(path))  # type: ignore[misc]


@FEW
@given(st.recursive(VALUES, lambda below: st.lists(below, max_size=4), max_leaves=5))
def test_any_value_in_a_decision(value: object) -> None:
    for key in ("issue", "verdict", "image_id", "annotation_id", "category", "xyxy", "at", "by", "given_category", "given_xyxy"):
        record = {"issue": "a", "verdict": "accept", "image_id": 1, "category": "a", "xyxy": [0, 0, 1, 1]} | {key: value}
        said = "decisions.jsonl:1: is no decision"
        try:
            assert isinstance(parse_decision(json.dumps(record).encode(), "decisions.jsonl:1").image_id, str | int)
        except DatasetError as error:
            said = str(error)
        assert said.startswith("decisions.jsonl:1: is no decision")
