"""YOLO data sets: every form of data.yaml and of label rows, and cleaned copies that differ in nothing but the edits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detclean.boxes import box_iou
from detclean.dataset import Dataset, Edit, open_dataset, write_dataset
from detclean.errors import DatasetError
from detclean.formats import read_dataset, read_yolo, write_cleaned, write_yolo_issues
from detclean.formats.imagefiles import read_image_sizes

NAMES = ["cat", "dog", "owl"]
WIDTH, HEIGHT = 40, 20


def save_image(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height)).save(path, **options)
    return path


def make_yolo(root: Path, labels: dict[str, dict[str, bytes | None]], **keys: object) -> Path:
    """A data set of `{split: {file name: label file's content}}` in the usual layout."""
    for split, files in labels.items():
        for name, content in files.items():
            save_image(root / "images" / split / name)
            if content is not None:
                place = (root / "labels" / split / name).with_suffix(".txt")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
    document = {split: f"images/{split}" for split in labels} | {"names": NAMES} | keys
    (root / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return root / "data.yaml"


def make_two(root: Path, content: bytes, **keys: object) -> Dataset:
    """One training image with this label file and one validation image."""
    return read_yolo(make_yolo(root, {"train": {"a.png": content}, "val": {"v.png": b"0 0.5 0.5 0.5 0.5\n"}}, **keys))


def kinds(dataset: Dataset) -> set[str]:
    return {finding.kind for finding in dataset.findings}


def files_below(folder: Path, part: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted((folder / part).rglob("*")) if path.is_file()}


# Reading


def test_reads_boxes_sizes_and_splits(tmp_path: Path) -> None:
    dataset = make_two(tmp_path, b"1 0.5 0.5 0.25 0.5\n\n2 0.25 0.25 0.1 0.2\n")
    assert dataset.format == "yolo"
    assert dataset.categories == ("cat", "dog", "owl")
    assert dataset.category_ids == (0, 1, 2)
    assert dataset.images.drop("path", "label_path").rows() == [
        ("images/train/a.png", "images/train/a.png", WIDTH, HEIGHT, "train"),
        ("images/val/v.png", "images/val/v.png", WIDTH, HEIGHT, "val"),
    ]
    assert dataset.annotations.category.tolist() == [1, 2, 0]
    np.testing.assert_allclose(dataset.annotations.xyxy[:2], [[15, 5, 25, 15], [8, 3, 12, 7]])
    assert dataset.source_rows.tolist() == [0, 2, 0]
    assert dataset.annotations.annotation_id is not None
    assert dataset.annotations.annotation_id.tolist() == [0, 1, 2]
    assert dataset.describe_source(1) == "labels/train/a.txt:3"
    assert dataset.findings == ()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"names": ["a", "b"]}, ("a", "b")),
        ({"names": {1: "b", 0: "a"}}, ("a", "b")),
        ({"names": {"0": "a", "1": "b"}, "nc": 2}, ("a", "b")),
        ({"names": None, "nc": 2}, ("class_0", "class_1")),
        ({"names": [7, 8]}, ("7", "8")),
        ({"names": ["a", "a"]}, ("a", "a (1)")),
    ],
)
def test_names_come_as_list_dict_or_count(tmp_path: Path, keys: dict[str, object], expected: tuple[str, ...]) -> None:
    assert make_two(tmp_path, b"1 0.5 0.5 0.5 0.5", **keys).categories == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train: images/train\nval: images/val\n", "names is missing"),
        ("train: images/train\nval: images/val\nnames: [a, b]\nnc: 3\n", "nc is 3, but names lists 2"),
        ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "number them 0 to 1"),
        ("train: images/train\nval: images/val\nnames: []\n", "holds no category"),
        ("train: images/train\nval: images/val\nnc: many\n", "nc: many"),
        ("train: a\nval: b: c\n", "data.yaml:2: is not valid YAML"),
        ("names: [a]\n", "train is missing"),
        ("- a\n", "is no data.yaml"),
        ("train: images/nowhere\nval: images/val\nnames: [a]\n", "images/nowhere does not exist"),
        ("train: images/train\nval: empty\nnames: [a]\n", "empty holds no images"),
        ("path: /nowhere/at/all\ntrain: images/train\nval: images/val\nnames: [a]\n", "/nowhere/at/all does not exist"),
        ("train: 5\nval: images/val\nnames: [a]\n", "train: 5 is no path"),
    ],
)
def test_a_faulty_yaml_is_one_line_with_file_and_remedy(tmp_path: Path, text: str, part: str) -> None:
    make_two(tmp_path, b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_yolo(tmp_path / "data.yaml")
    assert part in str(caught.value)
    assert "data.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing"):
        read_dataset(tmp_path / "nothing.yaml")


def test_a_folder_with_one_yaml_is_yolo_and_takes_no_images(tmp_path: Path) -> None:
    make_two(tmp_path, b"")
    assert read_dataset(tmp_path).format == "yolo"
    with pytest.raises(DatasetError, match="leave images= out"):
        read_dataset(tmp_path / "data.yaml", images="none")


def test_roboflow_layout(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save_image(tmp_path / split / "images" / "a.rf.1.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.rf.1.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['x']\n")
    dataset = read_yolo(tmp_path / "data.yaml")
    assert dataset.images["image_id"].to_list() == ["train/images/a.rf.1.jpg", "valid/images/a.rf.1.jpg"]
    assert len(dataset.annotations) == 2


def test_list_files_try_their_folder_the_root_and_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_yolo(tmp_path / "set", {"train": {"a.png": b"0 0.5 0.5 0.5 0.5", "b c#1.PNG": None}, "val": {"v.png": b""}}).parent
    (root / "lists").mkdir()
    lines = ["../images/train/a.png", "images/train/b c#1.PNG", "set/images/val/v.png", str(root / "images/train/a.png"), "gone.png", ""]
    (root / "lists" / "train.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (root / "data.yaml").write_text("train: lists/train.txt\nval: [images/val]\nnames: [x]\n")
    monkeypatch.chdir(tmp_path)
    dataset = read_yolo("set/data.yaml")
    assert dataset.select_split("train").images["image_id"].to_list() == [
        "images/train/a.png",
        "images/train/b c#1.PNG",
        "images/val/v.png",
    ]
    assert {"image-missing", "image-listed-twice", "image-without-labels"} == kinds(dataset)
    assert Path(dataset.images["path"][0]).is_absolute()


def test_a_relative_path_is_found_beside_the_yaml(tmp_path: Path) -> None:
    make_two(tmp_path / "set", b"")
    (tmp_path / "data.yaml").write_text("path: set\ntrain: images/train\nval: images/val\nnames: [x]\n")
    assert read_yolo(tmp_path / "data.yaml").images["image_id"].to_list() == ["images/train/a.png", "images/val/v.png"]


def test_labels_lie_at_the_last_images_folder_or_beside(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "set" / "images" / "deep" / "a.png")
    (tmp_path / "images" / "set" / "labels" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "set" / "labels" / "deep" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    save_image(tmp_path / "flat" / "b.png")
    (tmp_path / "flat" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.1 0.1")
    (tmp_path / "data.yaml").write_text("train: images/set/images\nval: flat\nnames: [x]\n")
    dataset = read_yolo(tmp_path / "data.yaml")
    if "/images/" not in tmp_path.as_posix():
        assert np.bincount(dataset.annotations.image_index).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("row", "kind", "severity", "boxes"),
    [
        (b"3 0.5 0.5 0.5 0.5", "category-out-of-range", "error", 0),
        (b"-1 0.5 0.5 0.5 0.5", "category-out-of-range", "error", 0),
        (b"0.5 0.5 0.5 0.5 0.5", "category-out-of-range", "error", 0),
        (b"cat 0.5 0.5 0.5 0.5", "not-a-number", "error", 0),
        (b"0 nan 0.5 0.5 0.5", "not-a-number", "error", 0),
        (b"0 0.5 inf 0.5 0.5", "not-a-number", "error", 0),
        (b"0 0.1 0.1 0.2 x 0.3 0.3", "not-a-number", "error", 0),
        (b"0 0.5 0.5 0.5", "row-skipped", "warning", 0),
        (b"0 0.5 0.5 0.5 0.5 0.5 0.5 0.5", "row-skipped", "warning", 0),
        (b"0 0.5 0.5 0.5 0.5 0.9", "six-columns", "warning", 1),
        (b"0 1.2 0.5 0.5 0.5", "coordinate-out-of-range", "warning", 1),
        (b"0,0.5,0.5,0.5,0.5", "row-with-extras", "warning", 1),
        (b"0 0.5 0.5 0.5 0.5 # a cat", "row-with-extras", "warning", 1),
        (b"# a comment", "row-with-extras", "warning", 0),
        (b"0 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.4 0.1 0.4 0.4", "mixed-rows", "warning", 2),
        (b"\xff\xfe0\x00", "label-encoding", "error", 0),
        (b"0 0.5 0.5 0.5 0.5 # \xe9", "label-encoding", "warning", 1),
    ],
)
def test_a_faulty_row_is_a_finding_with_file_and_line(tmp_path: Path, row: bytes, kind: str, severity: str, boxes: int) -> None:
    dataset = make_two(tmp_path, row)
    finding = next(finding for finding in dataset.findings if finding.kind == kind)
    assert finding.severity == severity
    assert finding.where in ("labels/train/a.txt", "labels/train/a.txt:1")
    assert len(dataset.select_split("train").annotations) == boxes


def test_the_message_of_a_category_out_of_range(tmp_path: Path) -> None:
    dataset = make_two(tmp_path, b"0 0.5 0.5 0.5 0.5\n\n12 0.5 0.5 0.5 0.5")
    assert [str(finding) for finding in dataset.findings] == ["labels/train/a.txt:3: category 12, but data.yaml names 3 (0 to 2)"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf1 0.5 0.5 0.25 0.5\r\n",
        b"1\t0.5\t0.5\t0.25\t0.5",
        b"  1  0.5 0.5   0.25 5e-1  \n",
        b"1, 0.5, 0.5, 0.25, 0.5\n",
        b"1 0,5 0,5 0,25 0,5\n",
        b"1;0.5;0.5;0.25;0.5\n",
        b"1 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75\r",
        b"1.0 0.5 0.5 0.25 0.5\n",
    ],
)
def test_unusual_spellings_of_one_box(tmp_path: Path, content: bytes) -> None:
    dataset = make_two(tmp_path, content).select_split("train")
    np.testing.assert_allclose(dataset.annotations.xyxy, [[15, 5, 25, 15]])
    assert dataset.annotations.category.tolist() == [1]


def test_a_split_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    make_yolo(tmp_path, {"train": {"a.png": b""}}, test="images/gone")
    dataset = read_yolo(tmp_path / "data.yaml")
    assert [(finding.kind, finding.severity) for finding in dataset.findings] == [("split-missing", "warning")] * 2
    assert dataset.images["split"].to_list() == ["train"]


def test_awkward_names_and_a_way_through_a_stage(tmp_path: Path) -> None:
    """Brackets, spaces, # and letters beyond ASCII in paths; and a data set that a stage wrote and another opened."""
    root = tmp_path / "my [set] #1 ü"
    path = make_yolo(root, {"train": {"a [1]* 猫.PNG": b"0 0.5 0.5 0.5 0.5\n"}, "val": {"v.png": b""}})
    (tmp_path / "stage").mkdir()
    write_dataset(read_yolo(path), tmp_path / "stage")
    write_cleaned(open_dataset(tmp_path / "stage"), [Edit("relabel", 0, 0, 2)], root / "out")
    assert files_below(root / "out", "labels") == {"labels/train/a [1]* 猫.txt": b"2 0.5 0.5 0.5 0.5\n", "labels/val/v.txt": b""}


def test_many_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    dataset = make_two(tmp_path, b"9 0.5 0.5 0.5 0.5\n" * 70)
    assert len(dataset.findings) == 51
    assert "20 more" in dataset.findings[-1].message


def test_unreadable_pictures_and_lonely_labels_are_findings(tmp_path: Path) -> None:
    path = make_yolo(tmp_path, {"train": {"a.png": b"", "bad.jpg": b"0 0.5 0.5 0.5 0.5"}, "val": {"v.png": None}})
    (tmp_path / "images/train/bad.jpg").write_bytes(b"no picture")
    (tmp_path / "labels/train/lonely.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "labels/train/classes.txt").write_text("cat")
    dataset = read_yolo(path)
    assert {(finding.kind, finding.severity, finding.where) for finding in dataset.findings} == {
        ("unreadable-image", "warning", "images/train/bad.jpg"),
        ("image-without-labels", "note", "images/val/v.png"),
        ("label-without-image", "warning", "labels/train/lonely.txt"),
    }
    assert dataset.image_count == 2


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[274] = 6
    paths = [save_image(tmp_path / f"a.{ending}", exif=turned) for ending in ("jpg", "png", "webp")]
    plain = save_image(tmp_path / "plain.bmp")
    sizes = read_image_sizes([str(path) for path in [*paths, plain, tmp_path / "none.jpg"]])
    assert sizes[:2].tolist() == [[HEIGHT, WIDTH]] * 2
    assert sizes[3:].tolist() == [[WIDTH, HEIGHT], [0, 0]]
    import cv2

    assert list(cv2.imread(str(paths[2])).shape[1::-1]) == sizes[2].tolist()  # its reading varies, and Ultralytics follows it


# Cleaned copies

WEIRD = (
    b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n",
    b"0  0.500 0.5\t0.5 .5 \n\n1 0.25 0.25 0.1 0.1",
    b"2 0.1 0.1 0.4 0.1 0.4 0.4\n1 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\r\n",
    b"",
    b"\n",
    b"# nothing\n0 0.5 0.5 0.5 0.5 0.8\n",
    None,
)


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(WEIRD), min_size=1, max_size=4), st.booleans())
def test_without_an_edit_labels_are_equal_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], part: bool
) -> None:
    root = tmp_path_factory.mktemp("set")
    train = {f"{'sub/' if i % 2 else ''}{i}.png": content for i, content in enumerate(contents)}
    dataset = read_yolo(make_yolo(root, {"train": train, "val": {"0.png": b"1 0.5 0.5 0.5 0.5"}}))
    write_cleaned(dataset.select_split("train") if part else dataset, [], root / "out")
    assert files_below(root / "out", "labels") == files_below(root, "labels")
    assert files_below(root / "out", "images") == files_below(root, "images")
    again = read_yolo(root / "out" / "data.yaml")
    assert again.images.drop("path", "label_path").equals(dataset.images.drop("path", "label_path"))
    np.testing.assert_array_equal(again.annotations.xyxy, dataset.annotations.xyxy)


unit = st.floats(0.0, 1.0)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), unit, unit, unit, unit), min_size=1, max_size=5), st.data())
def test_edits_change_their_rows_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float, float, float]], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("set")
    lines = [" ".join(map(str, row)).encode() + b"\r\n" for row in rows]
    whole = make_two(root, b"".join(lines))
    dataset = whole.select_split("train")
    action = data.draw(st.sampled_from(["add", "delete", "relabel", "move"]))
    row = data.draw(st.integers(0, len(rows) - 1))
    box = (3.0, 2.0, 3.0 + data.draw(st.floats(1, 60)), 2.0 + data.draw(st.floats(1, 60)))
    edit = Edit(action, 0, None if action == "add" else row, 2, box)
    write_cleaned(dataset, [edit], root / "out")
    written = (root / "out/labels/train/a.txt").read_bytes().splitlines(keepends=True)
    expected = list(lines)
    clipped = np.array([[3, 2, min(box[2], WIDTH), min(box[3], HEIGHT)]])
    if action == "delete":
        del expected[row]
        assert written == expected
        return
    if action == "add":
        row = len(expected)
        expected.append(b"")
    if action == "relabel":
        expected[row] = b"2" + expected[row][1:]
    else:
        expected[row] = written[row]
        assert written[row].endswith(b"\r\n")
        assert len(written[row].split()) == 5
        after = read_yolo(root / "out/data.yaml").select_split("train")
        np.testing.assert_allclose(after.annotations.xyxy[row], clipped[0], atol=1e-4)
        assert after.annotations.category[row] == (2 if action == "add" else rows[row][0])
    assert written == expected
    assert (root / "out/labels/val/v.txt").read_bytes() == b"0 0.5 0.5 0.5 0.5\n"


def edit_one(root: Path, content: bytes, *edits: Edit) -> bytes:
    dataset = make_two(root, content).select_split("train")
    write_cleaned(dataset, edits, root / "out")
    return (root / "out/labels/train/a.txt").read_bytes()


POLYGON = b"2 0.1 0.1 0.4 0.1 0.4 0.4\n"


def test_a_polygon_keeps_its_points_when_relabelled(tmp_path: Path) -> None:
    assert edit_one(tmp_path, POLYGON, Edit("relabel", 0, 0, 0)) == b"0" + POLYGON[1:]


def test_a_new_box_among_polygons_is_a_polygon(tmp_path: Path) -> None:
    result = edit_one(tmp_path, POLYGON + POLYGON, Edit("move", 0, 1, None, (10, 5, 20, 10)), Edit("add", 0, None, 1, (0, 0, 40, 20)))
    rows = result.splitlines(keepends=True)
    assert rows[0] == POLYGON
    assert [float(number) for number in rows[1].split()] == [2, 0.25, 0.25, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5]
    assert [float(number) for number in rows[2].split()] == [1, 0, 0, 1, 0, 1, 1, 0, 1]


def test_a_box_is_a_box_again_where_the_last_polygon_goes(tmp_path: Path) -> None:
    assert len(edit_one(tmp_path, POLYGON, Edit("move", 0, 0, None, (10, 5, 20, 10))).split()) == 5


def test_a_file_that_loses_all_rows_is_empty(tmp_path: Path) -> None:
    assert edit_one(tmp_path, b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n\r\n", Edit("delete", 0, 0)) == b""


def test_the_mark_and_the_open_end_of_a_file_stay(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf0 0.5 0.5 0.5 0.5\r\n1 0.5 0.5 0.5 0.5"
    result = edit_one(tmp_path, content, Edit("delete", 0, 0), Edit("add", 0, None, 2, (0, 0, 40, 20)), Edit("review", 0, 1))
    assert result == b"\xef\xbb\xbf1 0.5 0.5 0.5 0.5\r\n2 0.50000000 0.50000000 1.00000000 1.00000000"


def test_two_edits_of_one_row(tmp_path: Path) -> None:
    result = edit_one(tmp_path, b"0 0.5 0.5 0.5 0.5\n", Edit("move", 0, 0, None, (0, 0, 40, 20)), Edit("relabel", 0, 0, 1))
    assert result == b"1 0.50000000 0.50000000 1.00000000 1.00000000\n"


def test_an_absent_label_file_appears_only_with_an_added_box(tmp_path: Path) -> None:
    dataset = read_yolo(make_yolo(tmp_path, {"train": {"a.png": None, "b.png": None}, "val": {"v.png": None}})).select_split("train")
    write_cleaned(dataset, [Edit("add", 1, None, 0, (0, 0, 40, 20))], tmp_path / "out")
    assert list(files_below(tmp_path / "out", "labels")) == ["labels/train/b.txt"]


def test_the_yaml_keeps_what_it_does_not_know_and_leads_to_the_final_folder(tmp_path: Path) -> None:
    make_two(tmp_path, b"")
    text = (
        "# mine\npath: .\ntrain:\n  - images/train\nval: images/val  # kept out\ntest:\nnames:\n  0: Ä#1  # first\n  1: x\nkpt: {a: [1]}\n"
    )
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    dataset = read_yolo(tmp_path / "data.yaml")
    write_cleaned(dataset.select_split("train"), [], tmp_path / "x.partial", final=tmp_path / "x")
    written = (tmp_path / "x.partial/data.yaml").read_text(encoding="utf-8")
    assert "names:\n  0: Ä#1  # first\n  1: x\nkpt: {a: [1]}\n" in written
    assert "# mine\n" in written
    assert yaml.safe_load(written) == {
        "path": str(tmp_path / "x"),
        "train": "images/train",
        "val": "images/val",
        "names": {0: "Ä#1", 1: "x"},
        "kpt": {"a": [1]},
    }


def test_a_yaml_in_flow_style_is_written_anew(tmp_path: Path) -> None:
    make_two(tmp_path, b"")
    (tmp_path / "data.yaml").write_text("{train: &t images/train, val: images/val, names: [a, b], mine: *t}")
    write_cleaned(read_yolo(tmp_path / "data.yaml"), [], tmp_path / "out")
    written = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert written["names"] == ["a", "b"]
    assert written["mine"] == "images/train"
    assert written["path"] == str(tmp_path / "out")


def test_one_list_for_train_and_val_stays_one_list(tmp_path: Path) -> None:
    make_yolo(tmp_path, {"train": {"a.png": b"0 0.5 0.5 0.5 0.5\n"}}, val="images/train", test="images/train/a.txt")
    (tmp_path / "images/train/a.txt").write_text("./a.png")
    dataset = read_yolo(tmp_path / "data.yaml")
    assert dataset.images["split"].to_list() == ["train", "val", "test"]
    write_cleaned(dataset.select_split("train"), [Edit("delete", 0, 0)], tmp_path / "out")
    written = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert [written[split] for split in ("train", "val", "test")] == ["images/train"] * 3
    assert files_below(tmp_path / "out", "labels") == {"labels/train/a.txt": b""}


def test_an_image_that_two_splits_share_is_cleaned_in_one(tmp_path: Path) -> None:
    make_yolo(tmp_path, {"train": {"a.png": b"0 0.5 0.5 0.5 0.5\n", "b.png": b""}}, val="val.txt")
    (tmp_path / "val.txt").write_text("images/train/a.png\n")
    dataset = read_yolo(tmp_path / "data.yaml")
    write_cleaned(dataset.select_split("train"), [Edit("relabel", 0, 0, 1)], tmp_path / "out")
    assert files_below(tmp_path / "out", "labels") == {
        "labels/train/a.txt": b"1 0.5 0.5 0.5 0.5\n",
        "labels/train/b.txt": b"",
        "labels/val/a.txt": b"0 0.5 0.5 0.5 0.5\n",
    }


def test_equal_stems_in_different_folders_stay_apart(tmp_path: Path) -> None:
    for folder, category in (("one", 0), ("two", 1), ("", 2)):
        save_image(tmp_path / folder / "images" / "a.png")
        (tmp_path / folder / "labels").mkdir(parents=True)
        (tmp_path / folder / "labels" / "a.txt").write_text(f"{category} 0.5 0.5 0.5 0.5")
    save_image(tmp_path / "val" / "v.png")
    document = {"train": ["one/images", "two/images", "images"], "val": "val", "names": NAMES}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(document))
    dataset = read_yolo(tmp_path / "data.yaml")
    assert dataset.annotations.category.tolist() == [0, 1, 2]
    write_cleaned(dataset, [Edit("relabel", 1, 1, 0)], tmp_path / "out", drop_images=[2])
    assert files_below(tmp_path / "out", "labels") == {
        "labels/train/one/a.txt": b"0 0.5 0.5 0.5 0.5",
        "labels/train/two/a.txt": b"0 0.5 0.5 0.5 0.5",
    }
    assert sorted(files_below(tmp_path / "out", "images")) == ["images/train/one/a.png", "images/train/two/a.png", "images/val/v.png"]


def test_dropped_images_are_left_out_and_pictures_are_links_or_copies(tmp_path: Path) -> None:
    dataset = read_yolo(make_yolo(tmp_path, {"train": {"a.png": b"", "b.png": b"0 0.5 0.5 0.5 0.5"}, "val": {"v.png": b""}}))
    write_cleaned(dataset.select_split("train"), [], tmp_path / "linked", drop_images=[0])
    write_cleaned(dataset, [], tmp_path / "copied", copy_images=True)
    assert sorted(files_below(tmp_path / "linked", "images")) == ["images/train/b.png", "images/val/v.png"]
    assert list(files_below(tmp_path / "linked", "labels")) == ["labels/train/b.txt", "labels/val/v.txt"]
    assert (tmp_path / "linked/images/train/b.png").is_symlink()
    assert not (tmp_path / "copied/images/train/b.png").is_symlink()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    dataset = make_two(tmp_path, b"")
    with pytest.raises(DatasetError, match="not empty"):
        write_cleaned(dataset, [], tmp_path)


def test_a_label_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    dataset = make_two(tmp_path, b"0 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.1 0.1\n")
    (tmp_path / "labels/train/a.txt").write_text("")
    with pytest.raises(DatasetError, match=r"a\.txt: has 0 rows"):
        write_cleaned(dataset, [Edit("delete", 0, 1)], tmp_path / "out")


def test_the_source_is_never_touched(tmp_path: Path) -> None:
    dataset = make_two(tmp_path / "set", b"0 0.5 0.5 0.5 0.5\n")
    before = files_below(tmp_path, "set")
    write_cleaned(dataset, [Edit("delete", 0, 0), Edit("add", 1, None, 1, (0, 0, 9, 9))], tmp_path / "out")
    assert files_below(tmp_path, "set") == before
    assert sorted(os.listdir(tmp_path / "set")) == ["data.yaml", "images", "labels"]


# The issue list


def make_issues(rows: list[dict[str, object]]) -> pl.DataFrame:
    sides = {f"{prefix}{side}": pl.Float64 for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")}
    columns = ("image_id", "file_name", "category", "suggested_category", "issue_type", "verdict", "action", "reason")
    schema = {"rank": pl.Int64, "probability": pl.Float64, "annotation_id": pl.Int64, **dict.fromkeys(columns, pl.String), **sides}
    return pl.DataFrame(rows, schema=schema)


def test_issues_as_image_list_and_label_rows(tmp_path: Path) -> None:
    dataset = read_yolo(make_yolo(tmp_path, {"train": {"a.png": b"", "b.png": b"", "c.png": b""}, "val": {"a.png": b""}}))
    given = {"x1": 10.0, "y1": 5.0, "x2": 20.0, "y2": 10.0}
    proposed = {f"suggested_{side}": value for side, value in zip(given, (0.0, 0.0, 40.0, 20.0), strict=True)}
    issues = make_issues(
        [
            {"rank": 1, "image_id": "images/val/a.png", "suggested_category": "owl", **proposed},
            {"rank": 2, "image_id": "images/train/b.png", "category": "dog", **given},
            {"rank": 3, "image_id": "images/train/a.png", "category": "dog", "suggested_category": "cat", **given},
            {"rank": 4, "image_id": "images/train/b.png", "category": "dog", **given, **proposed},
        ]
    )
    write_yolo_issues(dataset, issues.reverse(), tmp_path / "issues")
    folder = tmp_path / "issues"
    listed = (folder / "issues.txt").read_text().splitlines()
    assert listed == [str(tmp_path / name) for name in ("images/val/a.png", "images/train/b.png", "images/train/a.png")]
    assert (folder / "classes.txt").read_text().split() == NAMES
    rows = {name: np.loadtxt(folder / name, ndmin=2).tolist() for name in files_below(folder, "labels")}
    assert rows == {
        "labels/images/val/a.txt": [[2, 0.5, 0.5, 1, 1]],
        "labels/b.txt": [[1, 0.375, 0.375, 0.25, 0.25], [1, 0.5, 0.5, 1, 1]],
        "labels/images/train/a.txt": [[0, 0.375, 0.375, 0.25, 0.25]],
    }


def test_no_issue_at_all(tmp_path: Path) -> None:
    write_yolo_issues(make_two(tmp_path, b""), make_issues([]), tmp_path / "issues")
    assert (tmp_path / "issues/issues.txt").read_text() == ""
    assert (tmp_path / "issues/labels").is_dir()


def test_boxes_survive_writing_and_reading(tmp_path: Path) -> None:
    """Adding every box anew gives the boxes that were read."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, (WIDTH - 5, HEIGHT - 5), (50, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 5, (50, 2))], axis=1)
    dataset = make_two(tmp_path, b"")
    write_cleaned(dataset, [Edit("add", 0, None, i % 3, tuple(box)) for i, box in enumerate(boxes.tolist())], tmp_path / "out")
    after = read_yolo(tmp_path / "out/data.yaml").select_split("train").annotations
    assert np.diag(box_iou(after.xyxy, boxes)).min() > 0.99999
    assert after.category.tolist() == [i % 3 for i in range(50)]
