"""What fuzzing found, each once: input that once was a traceback, a hang or gigabytes is told in one line, or read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny import make_coco, make_scenes, write_coco, write_voc, write_yolo

from detclean.audit import audit_dataset
from detclean.audit.images import MOST_BYTES, hash_chunk
from detclean.config import read_config
from detclean.dataset import Dataset
from detclean.edit.decisions import FILE_NAME, read_decisions
from detclean.errors import ConfigError, DatasetError, StageError
from detclean.formats import read_dataset, read_detections
from detclean.formats.imagefiles import drop_ending, read_image_sizes, safe_parts
from detclean.handover.names import read_url
from detclean.runfolder import read_table
from detclean.score.answers import read_answers
from detclean.show.photos import READING_FAILS, open_photo

SCENES = make_scenes()[:2] + make_scenes()[-1:]
SWELLING = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
YAMLS = {
    "deep": ("names: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "swelling": (SWELLING + "names: *h", "stands for more than 200,000 values"),
    "endless": ("names: &x [*x]", "holds itself"),
    "endless keys": ("names: &x {0: *x}", "holds itself"),
    "a date that is none": ("names: 2026-99-99", "a value that is none"),
    "more names than memory": ("nc: 999999999", "no whole number up to 100,000"),
    "a number of 5,000 digits": ("nc: '" + "9" * 5000 + "'", "no whole number"),
    "keys of 900 digits": ("names: {'" + "9" * 900 + "': a}", "names has the keys"),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_a_data_yaml_that_swells(tmp_path: Path, kind: str) -> None:
    text, said = YAMLS[kind]
    path = tmp_path / "data.yaml"
    path.write_text(f"train: images\n{text}\n")
    with pytest.raises(DatasetError, match=said) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", ["deep", "swelling", "endless", "endless keys"])
def test_a_configuration_that_swells(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"data: x\n{YAMLS[kind][0]}\n")
    with pytest.raises(ConfigError, match=YAMLS[kind][1]):
        read_config(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "é/" * 3000])
def test_paths_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps({"path": str(tmp_path), "train": name, "names": ["a"]}))
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(path)
    (tmp_path / "c.yaml").write_text(json.dumps({"data": name}))
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "c.yaml")


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_pipes_among_the_files_of_a_data_set_are_not_waited_for(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "yolo", SCENES)
    pipe(tmp_path / "yolo" / "images" / "train" / "00.png")
    assert "unreadable-image" in {finding.kind for finding in read_dataset(source).findings}
    pipe(tmp_path / "yolo" / "labels" / "train" / "01.txt")
    with pytest.raises(DatasetError, match=r"01.txt: cannot be read \(is a pipe or a device"):
        read_dataset(source)
    folder = write_voc(tmp_path / "voc", SCENES)
    pipe(folder / "Annotations" / "train_00.xml")
    with pytest.raises(DatasetError, match="is a pipe"):
        read_dataset(folder)


def test_pipes_and_devices_beside_a_data_set_are_not_waited_for(tmp_path: Path) -> None:
    dataset = read_dataset(write_coco(tmp_path / "coco", SCENES))
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", FILE_NAME, "labels/a.txt", "a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pipe(tmp_path / name)
    asked: list[Callable[[], Any]] = [
        lambda: read_dataset(tmp_path / "pipe.json"),
        lambda: read_dataset(tmp_path / "zero.json"),
        lambda: read_detections(tmp_path / "pipe.json", dataset),
        lambda: read_decisions(tmp_path),
        lambda: read_answers(tmp_path / "pipe.json"),
        lambda: read_table(tmp_path / "a.parquet"),
    ]
    for ask in asked:
        with pytest.raises((DatasetError, StageError), match="is a pipe or a device"):
            ask()


def coco_of(tmp_path: Path, **changes: Any) -> Dataset:
    document = make_coco(SCENES)
    for key, value in changes.items():
        document["annotations"][0][key] = value
    (tmp_path / "a.json").write_text(json.dumps(document))
    return read_dataset(tmp_path / "a.json", "none")


@pytest.mark.parametrize("bbox", [[1e308, 0, 1e308, 1], [0, 0, 1e200, 1e200], [-1e30, 0, 5, 5]])
def test_coordinates_beyond_any_picture_are_an_error_and_not_infinite(tmp_path: Path, bbox: list[float]) -> None:
    dataset = coco_of(tmp_path, bbox=bbox)
    assert [finding.severity for finding in dataset.findings if finding.kind == "coordinate-too-large"] == ["error"]
    assert np.isfinite(dataset.annotations.xyxy).all()
    assert audit_dataset(dataset).findings[0].kind == "coordinate-too-large"


def test_such_coordinates_in_yolo_voc_and_results(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "yolo", SCENES)
    (tmp_path / "yolo" / "labels" / "train" / "00.txt").write_text("0 1e308 0.5 1e308 0.5\n")
    folder = write_voc(tmp_path / "voc", SCENES)
    path = folder / "Annotations" / "train_00.xml"
    path.write_text(re.sub(r"<xmax>\d+", "<xmax>1e30", path.read_text(), count=1))
    for dataset in (read_dataset(source), read_dataset(folder)):
        assert "coordinate-too-large" in {finding.kind for finding in dataset.findings}
    rows = [{"image_id": 1000, "category_id": 2, "bbox": [1e308, 0, 1e308, 1], "score": 0.5}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=r"record 0: bbox .* lies beyond any picture"):
        read_detections(tmp_path / "results.json", coco_of(tmp_path))


def test_a_width_that_is_infinite_is_measured(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "voc", SCENES)
    path = folder / "Annotations" / "train_00.xml"
    path.write_text(path.read_text().replace(f"<width>{SCENES[0].width}", "<width>inf"))
    assert read_dataset(folder).images["width"].to_list()[0] == SCENES[0].width


def test_half_a_character_is_told_with_its_line(tmp_path: Path) -> None:
    document = make_coco(SCENES)
    document["categories"][0]["name"] = "a\ud800"
    (tmp_path / "a.json").write_text(json.dumps(document, indent=1))
    with pytest.raises(DatasetError, match=r"a.json:\d+: holds half of a character \(\\ud800\)"):
        read_dataset(tmp_path / "a.json", "none")
    document["categories"][0]["name"], document["annotations"][0]["area"] = (
        "😀",
        float("nan"),
    )  # two halves are one, in the slower reader too
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert read_dataset(tmp_path / "a.json", "none").categories[0] == "😀"


def test_ids_that_are_the_same_as_text_are_told(tmp_path: Path) -> None:
    document = make_coco(SCENES)
    document["images"][1]["id"] = str(document["images"][0]["id"])
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = read_dataset(tmp_path / "a.json", "none")
    assert "duplicate-image-id" in {finding.kind for finding in dataset.findings}
    assert dataset.images["image_id"].n_unique() == dataset.image_count


def test_names_of_files_that_cannot_be() -> None:
    assert [drop_ending(name) for name in ("", ".", "/", "a/b.c.jpg")] == ["", ".", "/", "a/b.c"]
    long, zero = safe_parts("a/" + "x" * 5000), safe_parts("/../b\0c")
    assert max(len(part) for part in long) <= 240
    assert zero == ("bc",)
    assert read_url("http://[") == "http://["


def test_damaged_headers_and_bombs_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuzz_pictures import make_pictures

    lies = {
        name: content for name, content in make_pictures().items() if name.startswith(("lie0", "lie3", "bomb")) and not name.endswith("jpg")
    }
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    assert len(lies) == 7
    for name, content in lies.items():
        (tmp_path / name).write_bytes(content)
        digest, phash, *_, thumbnail = hash_chunk([(0, str(tmp_path / name))])[0][1:]
        assert digest
        assert phash is thumbnail is None
    assert MOST_BYTES <= 1 << 29


def test_odd_pictures_are_read_or_told(tmp_path: Path) -> None:
    from fuzz_pictures import make_pictures

    for name, content in make_pictures().items():
        if name != "bomb.png":
            path = tmp_path / name
            path.write_bytes(content)
            row = hash_chunk([(0, str(path))])[0]
            assert row[1]
            assert (row[3] is None) <= (row[5] is not None)  # no size only with a problem
            assert read_image_sizes([str(path)]).min() >= 0
            try:
                with open_photo(str(path)) as (photo, _):
                    assert photo.mode == "RGB"
            except READING_FAILS:
                assert name.startswith(("lie", "empty"))


LINE = {"issue": "a", "verdict": "reject", "image_id": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": {}},
        {"image_id": True},
        {"annotation_id": [1]},
        {"by": 5},
        {"at": None},
        {"given_category": 3},
        {"given_xyxy": [0, 0, 1e300, 1]},
    ],
)
def test_decisions_of_wrong_types_are_no_decisions(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(DatasetError, match="jsonl:2: is no decision"):
        read_decisions(tmp_path)


@pytest.mark.parametrize("entry", [{"file_name": 5, "bbox": [1, 2, 3, 4]}, {"file_name": "a", "bbox": [1e308, 0, 1e308, 1]}])
def test_answer_keys_with_odd_values(tmp_path: Path, entry: dict[str, Any]) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"planted": [entry], "hard": []}))
    with pytest.raises(DatasetError, match=r"key.json: no answer key"):
        read_answers(tmp_path / "key.json")


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": range(100)}).write_parquet(path)
    content = path.read_bytes()
    for cut in (0, 3, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(StageError, match=r"a.parquet: cannot be read"):
            read_table(path)


def test_merged_keys_are_no_repeated_keys(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "c.yaml").write_text("data: data\nmodel: x.pt\nfolds: &f {k: 3, seed: 1}\npredict: {conf: 0.5}\n")
    assert read_config(tmp_path / "c.yaml").folds.k == 3
    (tmp_path / "c.yaml").write_text("data: data\nmodel: x.pt\nfolds: {<<: {k: 3}, k: 4}\n")
    assert read_config(tmp_path / "c.yaml").folds.k == 4
