"""What may come back from a tool in a bad state, and folders that are not detclean's: one line each, and nothing written."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handed import CATEGORIES, NAMES, edit_coco, edit_cvat, edit_labelstudio, make_run

from detclean.errors import ConfigError, DatasetError
from detclean.handover import export_run, import_decisions
from detclean.runfolder import Run

BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotations>&y;</annotations>'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path, pictures=False)


def refuse(run: Run, path: Path, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        import_decisions(run, path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (run.folder / "decisions.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither JSON nor XML"),
        (b"image_id,x1\n", "neither JSON nor XML"),
        (b"[{", ":1: is not valid JSON"),
        (b'[{"data": {}}\n, \xff\xfe]', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", r"task \[0\]: is no task"),
        (b'[{"image": "a.png", "label": []}]', "JSON-MIN"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "COCO results"),
        (b'{"a": 1}', "JSON of another kind"),
        (b'{"images": [], "annotations": 3, "categories": []}', "no list `annotations`"),
        (b'{"images": [3], "annotations": [], "categories": []}', r"images\[0\] is no record"),
        (b'{"images": [{"id": [1], "file_name": "a"}], "annotations": [], "categories": []}', "needs an id and a file_name"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1}]}', "needs an id and a name"),
        (b'{"images": [{"id": 1, "file_name": "zz.png"}], "annotations": [], "categories": []}', "none of its images"),
        (b"<annotations><image", "not valid XML"),
        (b"<annotation><object/></annotation>", "CVAT for images 1.1"),
        (b"<annotations/>", "holds no image"),
        (b"<annotations><track/></annotations>", "CVAT for video"),
        (b'<annotations><image id="0"/></annotations>', "has no name"),
        (BOMB, "DOCTYPE"),
        (BOMB.decode().encode("utf-16"), "DOCTYPE"),
        (b'<?xml version="1.0" encoding="nonsense"?><annotations/>', "not valid XML"),
        (b"PK\x03\x04 and no more", "cannot be unpacked"),
    ],
)
def test_what_is_no_export_is_refused_in_one_line(run: Run, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refuse(run, path, words)


def test_a_missing_file_and_a_folder(run: Run, tmp_path: Path) -> None:
    refuse(run, tmp_path / "absent.json", "No such file")
    refuse(run, tmp_path, "is a folder")


def spoil(region: dict[str, Any], **values: Any) -> None:
    region["value"] |= values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task, region: spoil(region, x="1"), "have to be numbers"),
        (lambda task, region: spoil(region, x=float("nan")), "have to be numbers"),
        (lambda task, region: spoil(region, width=None), "have to be numbers"),
        (lambda task, region: spoil(region, width=True), "have to be numbers"),
        (lambda task, region: spoil(region, width=10**400), "have to be numbers"),
        (lambda task, region: spoil(region, rectanglelabels=[]), "has no label"),
        (lambda task, region: spoil(region, rectanglelabels=["zebra"]), "'zebra' is not in the data set; it has red"),
        (lambda task, region: region.update(value=7), "has no label"),
        (lambda task, region: region.update(image_rotation=90), "image was rotated"),
        (lambda task, region: region.update(original_width=80, original_height=120), "EXIF"),
        (lambda task, region: task.update(annotations={}), "no list of records"),
        (lambda task, region: task["annotations"][0].update(result="x"), "no list `result`"),
        (lambda task, region: task.update(data={"picture": "x"}), "names no image"),
        (lambda task, region: task.update(data={"image": "a.png"}), "can be one/a.png, two/a.png"),
    ],
)
def test_a_damaged_task_is_named(run: Run, change: Callable[[dict[str, Any], dict[str, Any]], None], words: str) -> None:
    back = edit_labelstudio(export_run(run, "labelstudio", images="all").folder, [])
    tasks = json.loads(back.read_text())
    change(tasks[0], tasks[0]["annotations"][0]["result"][0])
    back.write_text(json.dumps(tasks))
    refuse(run, back, words)
    with pytest.raises(DatasetError, match=r"task 1\b"):
        import_decisions(run, back)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('xtl="50.00"', 'xtl="nan"'), "box 2: needs a label and four numbers"),
        (lambda text: text.replace('xtl="50.00"', 'xtl="9e999"'), "box 2: needs a label and four numbers"),
        (lambda text: text.replace('xtl="50.00"', ""), "box 2: needs a label and four numbers"),
        (lambda text: text.replace('label="緑"', 'label="zebra"', 1), "'zebra' is not in the data set"),
        (lambda text: text.replace('width="120" height="80"', 'width="80" height="120"'), "image 0: is 80 x 120 there and 120 x 80"),
        (lambda text: text.replace('width="120"', 'width="x"'), "no numbers"),
        (lambda text: text.replace('width="120"', 'width="0"'), "is 0 x 80 there"),
        (lambda text: text.replace('name="one/a.png"', 'name="a.png"'), "can be one/a.png, two/a.png"),
        (lambda text: text[: len(text) // 2], "not valid XML"),
    ],
)
def test_a_damaged_cvat_file_is_named(run: Run, change: Callable[[str], str], words: str) -> None:
    back = edit_cvat(export_run(run, "cvat", images="all").folder, [])
    text = back.read_text()
    assert change(text) != text
    back.write_text(change(text))
    refuse(run, back, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(bbox=[1, 2, 3]), "not four numbers"),
        (lambda record: record.update(bbox=[1, 2, 3, float("nan")]), "not four numbers"),
        (lambda record: record.update(bbox=[1, 2, 3, "4"]), "not four numbers"),
        (lambda record: record.update(bbox=[1, 2, 3, 10**400]), "not four numbers"),
        (lambda record: record.update(image_id=99), "not among the images"),
        (lambda record: record.update(image_id={}), "not among the images"),
        (lambda record: record.update(category_id=99), "not among the categories"),
    ],
)
def test_a_damaged_coco_record_is_named(run: Run, change: Callable[[dict[str, Any]], None], words: str) -> None:
    back = edit_coco(export_run(run, "coco", images="all").folder, [])
    document = json.loads(back.read_text())
    change(document["annotations"][2])
    back.write_text(json.dumps(document))
    refuse(run, back, f"annotation 3: .*{words}")


def test_images_of_other_runs_and_boxes_without_area_are_told(run: Run) -> None:
    back = edit_coco(export_run(run, "coco", images="all").folder, [])
    document = json.loads(back.read_text())
    document["images"].append({"id": 77, "file_name": "other/x.png"})
    document["annotations"].append({"id": 900, "image_id": 77, "category_id": 1, "bbox": [0, 0, 1, 1]})
    document["annotations"].append({"id": 901, "image_id": 1, "category_id": 1, "bbox": [500, 0, 1, 1]})
    document["annotations"].append({"id": 902, "image_id": 1, "category_id": 1})
    document["images"].append(document["images"][0] | {"id": 78})
    back.write_text(json.dumps(document))
    result = import_decisions(run, back)
    assert result.unknown == 1
    text = " | ".join(result.notes)
    assert "1 annotations have no bbox" in text
    assert "other/x.png" in text
    assert "image 1 and image 78 are the same image; the later counts" in text


def test_cvats_archive_is_read_as_it_comes(run: Run, tmp_path: Path) -> None:
    back = edit_cvat(export_run(run, "cvat").folder, [])
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.write(back, "annotations.xml")
        archive.writestr("images/x.png", b"")
    assert import_decisions(run, tmp_path / "task.zip").rejected == 5
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(back, "a.xml")
        archive.write(back, "b.xml")
    with pytest.raises(DatasetError, match=r"holds 2 \.xml files"):
        import_decisions(run, tmp_path / "two.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused(run: Run, tmp_path: Path, method: int) -> None:
    back = edit_cvat(export_run(run, "cvat").folder, [])
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.write(back, "annotations.xml")
    content = bytearray(path.read_bytes())
    for i in range(60, 90):
        content[i] ^= 0xFF
    path.write_bytes(content)
    refuse(run, path, "cannot be unpacked")


def test_edits_in_folders_of_an_export_are_not_lost(run: Run, tmp_path: Path) -> None:
    """A person may go on with the plain formats by hand."""
    for tool, place in (("yolo", "labels"), ("voc", "Annotations")):
        folder = export_run(run, tool, tmp_path / tool).folder
        export_run(run, tool, tmp_path / tool)
        file = next((folder / place).rglob("one_a.*"))
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        with pytest.raises(DatasetError, match=rf"{place}/one_a\.\w+: was not left as detclean wrote it"):
            export_run(run, tool, tmp_path / tool)
        assert file.read_bytes() == content + b"\n"
        file.write_bytes(content)
        (folder / place / "deep").mkdir()
        export_run(run, tool, tmp_path / tool)
        (folder / place / "deep").mkdir()
        (folder / place / "deep" / "mine.txt").write_text("")
        with pytest.raises(DatasetError, match=r"deep/mine\.txt: was not left"):
            export_run(run, tool, tmp_path / tool)


def test_a_pictures_link_counts_by_where_it_leads(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = export_run(run, "coco").folder
    picture = folder / "images" / NAMES[2]
    assert picture.is_symlink()
    picture.resolve().write_bytes(b"another picture")
    export_run(run, "coco")
    picture.unlink()
    picture.symlink_to(tmp_path)  # a folder, which must not be walked through
    with pytest.raises(DatasetError, match=r"images/one/a\.png: was not left"):
        export_run(run, "coco")


def test_only_its_own_unchanged_export_is_replaced(run: Run, tmp_path: Path) -> None:
    folder = export_run(run, "cvat", tmp_path / "out").folder
    assert export_run(run, "labelstudio", tmp_path / "out").folder == folder  # its own, whatever the tool
    assert not (folder / "annotations.xml").exists()
    (folder / "tasks.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"tasks\.json: was not left as detclean wrote it"):
        export_run(run, "cvat", tmp_path / "out")
    export_run(run, "cvat", tmp_path / "second")
    (tmp_path / "second" / "mine.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"mine\.json: was not left"):
        export_run(run, "cvat", tmp_path / "second")
    with pytest.raises(DatasetError, match="no export of detclean"):
        export_run(run, "cvat", run.folder.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is no folder"):
        export_run(run, "cvat", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert export_run(run, "cvat", tmp_path / "empty").boxes == 11
    assert {path.name for path in tmp_path.iterdir()} == {"out", "second", "file", "empty", "run"}  # nothing half-written stays


def test_what_a_killed_export_left_is_replaced(run: Run, tmp_path: Path) -> None:
    export_run(run, "cvat", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    (tmp_path / "out.partial" / "annotations.xml").write_text("half")
    assert export_run(run, "cvat", tmp_path / "out").folder.is_dir()
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "mine").write_text("")
    with pytest.raises(DatasetError, match="no export of detclean"):
        export_run(run, "cvat", tmp_path / "other")


def test_an_unknown_tool_or_choice(run: Run) -> None:
    with pytest.raises(ConfigError, match="labelme: is none of labelstudio, cvat"):
        export_run(run, "labelme")
    with pytest.raises(ConfigError, match="some: is none of open, issues, all"):
        export_run(run, "cvat", images="some")


def test_without_pictures_everything_but_the_links_is_written(run: Run) -> None:
    result = export_run(run, "coco", images="all")
    assert result.without_picture == len(NAMES)
    document = json.loads((result.folder / "instances.json").read_bytes())
    assert [record["name"] for record in document["categories"]] == list(CATEGORIES)
    task = json.loads((export_run(run, "labelstudio").folder / "tasks.json").read_bytes())[2]
    assert task["data"]["image"] == "/data/local-files/?d=one/a.png"
