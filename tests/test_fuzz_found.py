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
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.edit.decisions import FILE_NAME, read_decisions
from detclean.errors import ConfigError, DatasetError, StageError
from detclean.formats import read_dataset, read_detections, write_cleaned
from detclean.formats.imagefiles import drop_ending, read_image_sizes, refuse_claim, safe_parts
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
    "half of a character": ('names: [a, "\\ud800"]', "line 2 holds half of a character"),
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
    from fuzzing.pictures import make_pictures

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
    from fuzzing.pictures import make_pictures

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


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_folders_and_pipes_that_are_called_like_pictures_are_not_copied(tmp_path: Path, kind: str) -> None:
    source = {"yolo": write_yolo, "voc": write_voc}[kind](tmp_path / "data", SCENES)
    dataset = read_dataset(source)
    paths = [Path(path) for path in dataset.images["path"].to_list()]
    paths[0].unlink()
    paths[0].mkdir()
    pipe(paths[1])
    folder = paths[2].parent / "folder.jpg"
    folder.mkdir()
    write_cleaned(read_dataset(source), (), tmp_path / "cleaned", copy_images=True)
    copied = {path.name for path in (tmp_path / "cleaned").rglob("*.png")} | {path.name for path in (tmp_path / "cleaned").rglob("*.jpg")}
    assert paths[2].name in copied
    assert not {paths[0].name, paths[1].name, "folder.jpg"} & copied


def test_the_whole_file_system_is_no_folder_of_images(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    for name in ("/", "../" * 40):
        path.write_text(f"train: {name}\nnames: [a]\n")
        with pytest.raises(DatasetError, match=r"data.yaml: train: .* is the whole file system; name the folder"):
            read_dataset(path)


def test_a_bomb_is_told_by_how_much_it_says_to_unfold_to() -> None:
    refuse_claim(6000, 6000, 1)  # so many pixels are believed of any file
    refuse_claim(30_000, 30_000, 900_000)
    for size in (1, 109_445, 899_999):  # the second is of a PNG that holds all these pixels, of one colour
        with pytest.raises(ValueError, match="30000 x 30000 pixels are no picture's"):
            refuse_claim(30_000, 30_000, size)
    with pytest.raises(ValueError, match="no picture's"):
        refuse_claim(40_000, 40_000, 10**12)


def test_an_override_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: x\n")
    with pytest.raises(ConfigError, match=r"command line: 'name=\\udcff' holds what is no text in UTF-8"):
        read_config(tmp_path / "c.yaml", ["name=\udcff"])


def test_names_that_are_no_text_are_told_as_far_as_they_are(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "voc", SCENES)
    picture = Path(read_dataset(folder).images["path"][0])
    os.rename(picture, os.fsencode(picture.parent) + b"/\xff.png")
    dataset = read_dataset(folder)
    assert [finding.where for finding in dataset.findings if finding.kind == "image-without-labels"] == ["\\udcff.png"]
    (tmp_path / "stage").mkdir()
    write_dataset(dataset, tmp_path / "stage")
    assert open_dataset(tmp_path / "stage").findings == dataset.findings


def test_half_a_character_as_bytes_is_told_with_its_line(tmp_path: Path) -> None:
    document = make_coco(SCENES)
    document["annotations"][0]["image_id"] = "\ud800"
    (tmp_path / "a.json").write_bytes(json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass"))
    with pytest.raises(DatasetError, match=r"a.json:\d+: holds half of a character \(.xed.xa0.x80\)"):
        read_dataset(tmp_path / "a.json", "none")


@pytest.mark.parametrize("identity", ["-9223372036854775809", "18446744073709551615", "1e308", "NaN"])
def test_ids_of_categories_that_64_bits_do_not_hold(tmp_path: Path, identity: str) -> None:
    document = make_coco(SCENES)
    document["categories"][0]["id"] = "@"
    (tmp_path / "a.json").write_text(json.dumps(document).replace('"@"', identity))
    with pytest.raises(DatasetError, match=r"a.json: categories\[0\] has the id .*, which 64 bits do not hold"):
        read_dataset(tmp_path / "a.json", "none")


@pytest.mark.parametrize("line", ["lr0: 1e999", "lr0: .nan", "batch: .inf", "mosaic: [.inf]"])
def test_numbers_that_no_configuration_can_hold(tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "c.yaml").write_text(f"data: data\nmodel: x.pt\ntrain:\n  {line}\n")
    with pytest.raises(ConfigError, match=rf"c.yaml:4: train.{line.split(':')[0]} is .*, but should be"):
        read_config(tmp_path / "c.yaml")
