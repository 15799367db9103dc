"""`check --format json | github`: all findings, one a line, with file, line and image, for programs to read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_audit import GOOD, make_dataset

from detclean.audit.places import Place, find_places
from detclean.cli import answer
from detclean.dataset import Finding
from detclean.show.findings import print_check

ROW = "0 0.5 0.5 0.2 0.2\n"
FIELDS = ["kind", "severity", "file", "line", "image", "where", "message"]


def write_yolo(folder: Path, labels: dict[str, str]) -> Path:
    """A YOLO set with a picture for each name, all in train, and what is sound in val."""
    for part, texts in (("train", labels), ("val", {"sound": ROW})):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        for name, text in texts.items():
            Image.effect_noise((64, 48), 80).save(folder / "images" / part / f"{name}.png")
            (folder / "labels" / part / f"{name}.txt").write_text(text)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    return folder / "data.yaml"


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str], str]:
    """Exit status, lines of standard output, and standard error."""
    status = answer(["check", *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out.splitlines(), told.err


def check_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    """The findings of a data set that has faults."""
    status, lines, error = check(capsys, *arguments, "--format", "json")
    assert status == 1
    assert error.endswith(" faults\n") or error.endswith(" fault\n")
    found = [json.loads(line) for line in lines]
    assert all(list(row) == FIELDS for row in found)
    return found


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: seven identical boxes in a.txt, a category that is none in b.txt."""
    monkeypatch.chdir(tmp_path)
    write_yolo(tmp_path / "set", {"a": ROW * 8, "b": f"{ROW}\n9 0.5 0.5 0.2 0.2\n"})
    return tmp_path


def test_json_is_a_finding_a_line_with_file_line_and_image(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check_json(capsys, "set/data.yaml")
    where = [(row["kind"], row["severity"], row["file"], row["line"], row["image"]) for row in found]
    assert where == [
        ("category-out-of-range", "error", "set/labels/train/b.txt", 3, "images/train/b.png"),
        *(("box-identical", "warning", "set/labels/train/a.txt", line, "images/train/a.png") for line in range(2, 9)),
        ("category-only-one", "note", "set/data.yaml", None, None),
    ]
    assert found[0]["where"] == "labels/train/b.txt:3"
    assert "category 9" in found[0]["message"]


def test_the_closing_line_stands_beside_it_and_all_changes_nothing(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "github"):
        status, lines, error = check(capsys, "set/data.yaml", "--format", form)
        assert (status, len(lines)) == (1, 9)
        assert error == "set/data.yaml: 3 images, 10 annotations, 8 faults\n"
        assert check(capsys, "set/data.yaml", "--format", form, "--all") == (status, lines, error)


def test_github_gets_commands(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = check(capsys, "set/data.yaml", "--format", "github")
    assert status == 1
    assert lines[0].startswith("::error file=set/labels/train/b.txt,line=3,title=category-out-of-range::labels/train/b.txt:3: category 9")
    assert lines[1].startswith("::warning file=set/labels/train/a.txt,line=2,title=box-identical::labels/train/a.txt:2: cat in ")
    assert lines[-1].startswith("::notice file=set/data.yaml,title=category-only-one::data.yaml: there is only one category")


def test_a_sound_set_is_silent_and_text_is_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_yolo(tmp_path, {"a": ROW})
    data.write_text(data.read_text().replace("[cat]", "[cat, dog]"))
    (tmp_path / "labels" / "val" / "sound.txt").write_text(f"{ROW}1 0.2 0.2 0.1 0.1\n")
    for form in ("json", "github"):
        assert check(capsys, data, "--format", form) == (0, [], f"{data}: 2 images, 3 annotations, no faults\n")
    assert check(capsys, data, "--format", "text") == check(capsys, data) == (0, ["", f"{data}: 2 images, 3 annotations, no faults"], "")


def test_paths_outside_the_working_directory_are_absolute(faulty: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (faulty / "elsewhere").mkdir()
    monkeypatch.chdir(faulty / "elsewhere")
    assert check_json(capsys, "../set/data.yaml")[0]["file"] == str(faulty / "set" / "labels" / "train" / "b.txt")
    (faulty / "link").symlink_to(faulty / "set")
    monkeypatch.chdir(faulty / "set")
    assert check_json(capsys, faulty / "link" / "data.yaml")[0]["file"] == "labels/train/b.txt"


@pytest.mark.parametrize("name", ["xml", "JSON", ""])
def test_another_format_is_refused_in_a_sentence(name: str, faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, error = check(capsys, "set/data.yaml", "--format", name)
    assert (status, lines) == (2, [])
    assert error == f"error: --format {name}: is no format of findings; choose text, json or github\n".replace("  ", " ")


def test_odd_names_are_escaped_for_github_and_plain_in_json(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_yolo(tmp_path / "100%: a,b", {"V\u00f6gel": ROW * 2})
    row = check_json(capsys, "100%: a,b/data.yaml")[0]
    assert (row["file"], row["line"]) == ("100%: a,b/labels/train/V\u00f6gel.txt", 2)
    line = check(capsys, "100%: a,b/data.yaml", "--format", "github")[1][0]
    assert line.startswith("::warning file=100%25%3A a%2Cb/labels/train/V\u00f6gel.txt,line=2,title=box-identical::labels/train/V")


def test_a_message_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding("odd", "note", "a\nb", "50 %,\r\nsaid: \x1b[2J \udce4")
    print_check([finding], make_dataset(GOOD), "made", "github")
    assert capsys.readouterr().out == "::notice title=odd::a%0Ab: 50 %25,%0D%0Asaid: \\x1b[2J \\udce4\n"
    print_check([finding], make_dataset(GOOD), "made", "json")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert json.loads(line) == {
        "kind": "odd",
        "severity": "note",
        "file": None,
        "line": None,
        "image": None,
        "where": "a\nb",
        "message": "50 %,\r\nsaid: \x1b[2J \\udce4",
    }


def test_the_terminals_encoding_breaks_no_json(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"V\u00f6gel": ROW * 2})
    command = [sys.executable, "-m", "detclean", "check", str(data), "--format", "json"]
    done = subprocess.run(command, capture_output=True, env={"PYTHONIOENCODING": "latin-1", "PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["image"] == "images/train/V\u00f6gel.png"


def test_a_coco_file_is_named_with_the_image_of_the_record(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    record = {"image_id": 7, "category_id": 1, "bbox": [1, 1, 20, 20]}
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (7, 8)] + [{"id": 9, "file_name": "9.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1} | record,
            {"id": 2} | record,
            {"id": 3, "image_id": 8, "category_id": 2, "bbox": [60, 1, 30, 20]},
            {"id": 4, "image_id": 8, "category_id": 5, "bbox": [1, 1, 20, 20]},
            {"id": 5, "image_id": 7, "category_id": 2, "bbox": [30, 30, 0, 20]},
            {"id": 5, "image_id": 8, "category_id": 2, "bbox": [30, 30, 0, 20]},
        ],
    }
    (tmp_path / "labels.json").write_text(json.dumps(document))
    rows = {(row["kind"], row["where"]): row for row in check_json(capsys, "labels.json", "images=none")}
    assert {row["file"] for row in rows.values()} == {"labels.json"}
    assert {row["line"] for row in rows.values()} == {None}
    images = {key: row["image"] for key, row in rows.items()}
    assert images["box-identical", "annotation 2"] == "7.png"
    assert images["box-partly-outside", "annotation 3"] == "8.png"
    assert images["unknown-category", "annotation 4"] is None  # which is left out, with its image
    assert images["box-empty", "annotation 5"] is None  # of two that are called so
    assert images["image-size-missing", "image 9"] is None  # left out as well


def test_a_voc_object_is_named_with_its_file(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    thing = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"
    for name, things in {"a": ("cat", "cat"), "b": ("dog",)}.items():
        Image.effect_noise((64, 48), 80).save(tmp_path / "voc" / "JPEGImages" / f"{name}.jpg")
        size = "<size><width>64</width><height>48</height></size>"
        text = f"<annotation>{size}{''.join(map(thing.format, things))}</annotation>"
        (tmp_path / "voc" / "Annotations" / f"{name}.xml").write_text(text)
    (tmp_path / "voc" / "Annotations" / "c.xml").write_text("<annotation>\n<object>\n</annotation>\n")
    (tmp_path / "voc" / "JPEGImages" / "d.jpg").write_bytes((tmp_path / "voc" / "JPEGImages" / "b.jpg").read_bytes())
    (tmp_path / "voc" / "ImageSets" / "Main" / "train.txt").write_text("a\nb\ngone\n")
    found = {row["kind"]: (row["file"], row["line"], row["image"]) for row in check_json(capsys, "voc")}
    assert found == {
        "unreadable-annotation-file": ("voc/Annotations/c.xml", 3, None),
        "box-identical": ("voc/Annotations/a.xml", None, "a.jpg"),
        "annotations-missing": ("voc/ImageSets/Main/train.txt", 3, None),
        "image-without-labels": ("voc/JPEGImages/d.jpg", None, None),
    }


def test_what_a_finding_names_is_looked_up(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"a": ROW, "b": ROW})
    (tmp_path / "labels" / "train" / "a.txt:3").write_text("a file of such a name")
    names = ["a.png", "b.png", "b.png"]
    paths = [tmp_path / "images" / "train" / name for name in names]
    dataset = make_dataset([], paths=paths)
    labels = [str(tmp_path / "labels" / "train" / name) for name in ("a.txt", "b.txt", "a.txt")]
    table = dataset.images.with_columns(label_path=np.array(labels), image_id=np.array(["p", "q", "r"]))
    dataset = replace(dataset, images=table, source=data, format="yolo")
    wheres = ["labels/train/b.txt:2", "labels/train/a.txt:2", "labels/train/a.txt:3", "labels/train/gone.txt:3", "p", "a.png", "data.yaml"]
    places = find_places([Finding("odd", "note", where, "") for where in wheres], dataset)
    assert places == [
        Place(Path(labels[1]), 2, "b.png"),
        Place(Path(labels[0]), 2, None),  # two images share it
        Place(tmp_path / "labels" / "train" / "a.txt:3", None, None),
        Place(data, None, None),
        Place(paths[0], None, "a.png"),
        Place(paths[0], None, "a.png"),
        Place(data, None, None),
    ]
