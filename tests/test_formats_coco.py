"""COCO files: what is read, and cleaned copies whose records equal the source's but for the edits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from tiny import write_coco

from detclean.dataset import Dataset, Edit
from detclean.errors import DatasetError
from detclean.formats import read_coco, read_dataset, write_cleaned, write_coco_issues

Document = dict[str, Any]


def make_document() -> Document:
    return {
        "info": {"year": 2024, "extra": [1.50, None]},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "b.png", "width": 40, "height": 20, "license": 3},
            {"id": 0, "file_name": "deep/a.png", "width": 40, "height": 20, "coco_url": "x"},
            {"id": 9, "file_name": "empty.png", "width": 40, "height": 20},
        ],
        "categories": [
            {"id": 5, "name": "dog", "supercategory": "animal", "keypoints": ["nose"]},
            {"id": 2, "name": "cat", "color": "#fff"},
        ],
        "annotations": [
            {"id": 11, "image_id": 0, "category_id": 2, "bbox": [1, 2, 10, 5], "area": 50, "iscrowd": 0, "attributes": {"who": "me"}},
            {"id": 10, "image_id": 7, "category_id": 5, "bbox": [0.5, 0.25, 4.0, 4.0], "segmentation": [[0, 0, 4, 0, 4, 4]], "score": 1e-7},
            {
                "id": 30,
                "image_id": 7,
                "category_id": 5,
                "bbox": [3, 3, 6, 6],
                "iscrowd": 1,
                "segmentation": {"counts": [1], "size": [2, 2]},
            },
            {"id": 31, "image_id": 7, "category_id": 2, "bbox": [4, 4, 6, 6], "note": "Ä"},
        ],
    }


def make_coco(root: Path, document: Any, folder: str = "images") -> Path:
    if isinstance(document, dict):
        for record in document.get("images", []):
            if isinstance(record.get("file_name"), str):
                place = root / folder / record["file_name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (40, 20)).save(place)
    (root / "a.json").write_text(json.dumps(document))
    return root / "a.json"


def clean(dataset: Dataset, out: Path, *edits: Edit, drop: tuple[int, ...] = ()) -> Document:
    write_cleaned(dataset, edits, out, drop_images=drop)
    written: Document = json.loads((out / "annotations.json").read_text())
    return written


def by_id(document: Document) -> dict[Any, Document]:
    return {record["id"]: record for record in document["annotations"]}


# Reading


def test_reads_ids_boxes_and_crowds(tmp_path: Path) -> None:
    dataset = read_dataset(make_coco(tmp_path, make_document()))
    assert dataset.format == "coco"
    assert dataset.categories == ("dog", "cat")
    assert dataset.category_ids == (5, 2)
    assert dataset.images["image_id"].to_list() == [7, 0, 9]
    assert dataset.images["image_id"].dtype == pl.Int64
    assert dataset.images["split"].null_count() == 3
    assert dataset.images["path"][1] == str(tmp_path / "images/deep/a.png")
    boxes = dataset.annotations
    assert boxes.image_index.tolist() == [0, 0, 0, 1]
    assert boxes.category.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(boxes.xyxy, [[0.5, 0.25, 4.5, 4.25], [3, 3, 9, 9], [4, 4, 10, 10], [1, 2, 11, 7]])
    assert boxes.annotation_id is not None
    assert boxes.annotation_id.tolist() == [10, 30, 31, 11]
    assert boxes.is_crowd is not None
    assert boxes.is_crowd.tolist() == [False, True, False, False]
    assert dataset.source_rows.tolist() == [1, 2, 3, 0]
    assert dataset.findings == ()


def test_text_ids_stay_text(tmp_path: Path) -> None:
    document = make_document()
    for record in document["images"]:
        record["id"] = f"i{record['id']}"
    for record in document["annotations"]:
        record |= {"id": f"a{record['id']}", "image_id": f"i{record['image_id']}"}
    dataset = read_coco(make_coco(tmp_path, document))
    assert dataset.images["image_id"].to_list() == ["i7", "i0", "i9"]
    assert dataset.annotations.annotation_id is not None
    assert dataset.annotations.annotation_id.tolist() == ["a10", "a30", "a31", "a11"]
    added = clean(dataset, tmp_path / "out", Edit("add", 1, None, 0, (0, 0, 4, 5)))["annotations"][-1]
    assert (added["id"], added["image_id"]) == ("detclean-1", "i0")


@pytest.mark.parametrize("folder", [".", "images", "train2017", "images/train2017", "../images", "../train2017", "../images/train2017"])
def test_images_are_found_in_the_usual_places(tmp_path: Path, folder: str) -> None:
    home = tmp_path / "annotations"
    home.mkdir()
    path = make_coco(home, make_document(), folder).rename(home / "instances_train2017.json")
    dataset = read_coco(path)
    assert dataset.images["path"].null_count() == 0
    assert Path(dataset.images["path"][0]).samefile(home / folder / "b.png")


def test_images_can_be_named_or_absent(tmp_path: Path) -> None:
    path = make_coco(tmp_path, make_document(), "elsewhere")
    assert read_coco(path, tmp_path / "elsewhere").images["path"].null_count() == 0
    assert read_coco(path, "none").images["path"].null_count() == 3
    with pytest.raises(DatasetError, match="images=none"):
        read_coco(path)
    with pytest.raises(DatasetError, match="nowhere: is no folder"):
        read_coco(path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"images": [],\n "annotations": [}', "a.json:2: is not valid JSON"),
        ("[]", "is a list"),
        ("5", "is no COCO file"),
        ('{"images": [], "annotations": []}', "`categories`"),
        ('{"images": [], "annotations": [], "categories": []}', "is empty"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable image"),
        ('{"images": [], "annotations": [3], "categories": [{"id": 1, "name": "a"}]}', "annotations[0]"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}, {"id": 1}]}', "second time"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_faulty_file_is_one_line_with_place_and_remedy(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError) as caught:
        read_coco(tmp_path / "a.json")
    assert part in str(caught.value)
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json"):
        read_dataset(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="does not exist; name a YOLO"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DatasetError, match="not exactly one"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "severity"),
    [
        ({"image_id": 99}, "unknown-image", "error"),
        ({"category_id": 99}, "unknown-category", "error"),
        ({"category_id": [1]}, "unknown-category", "error"),
        ({"bbox": [1, 2, float("nan"), 4]}, "not-a-number", "error"),
        ({"bbox": [1, 2, "3", 4]}, "not-a-number", "error"),
        ({"bbox": [1, 2, 3]}, "not-a-number", "error"),
        ({"bbox": "1 2 3 4"}, "not-a-number", "error"),
        ({"bbox": []}, "annotation-without-bbox", "warning"),
    ],
)
def test_a_faulty_annotation_is_a_finding_and_left_out(tmp_path: Path, change: Document, kind: str, severity: str) -> None:
    document = make_document()
    document["annotations"][1] |= change
    dataset = read_coco(make_coco(tmp_path, document))
    assert [(finding.kind, finding.severity, finding.where) for finding in dataset.findings] == [(kind, severity, "annotation 10")]
    assert dataset.source_rows.tolist() == [2, 3, 0]


def test_faulty_image_records_and_repeated_ids_are_findings(tmp_path: Path) -> None:
    document = make_document()
    document["images"] += [{"id": 7, "file_name": "b.png", "width": 1, "height": 1}, {"id": 50}, {"id": 51, "file_name": "c.png"}]
    document["images"].append({"id": 52, "file_name": "gone.png"})
    document["annotations"].append({"image_id": 51, "category_id": 2, "bbox": [1, 1, 2, 2], "id": 11})
    path = make_coco(tmp_path, document)
    (tmp_path / "images" / "gone.png").unlink()
    dataset = read_coco(path)
    assert {(finding.kind, finding.severity) for finding in dataset.findings} == {
        ("duplicate-image-id", "error"),
        ("bad-image-record", "error"),
        ("image-missing", "warning"),
        ("image-size-missing", "error"),
        ("duplicate-annotation-id", "warning"),
    }
    assert dataset.images.select("image_id", "width", "height").rows()[-1] == (51, 40, 20)  # measured
    assert len(dataset.annotations) == 5


def test_no_annotation_at_all(tmp_path: Path) -> None:
    dataset = read_coco(make_coco(tmp_path, make_document() | {"annotations": []}))
    assert len(dataset.annotations) == 0
    written = clean(dataset, tmp_path / "out", Edit("add", 0, None, 1, (0, 0, 4, 5)))
    assert written["annotations"][0]["id"] == 1


# Cleaned copies

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(values, values, values, values)
def test_without_an_edit_records_are_equal_with_all_unknown_keys(
    tmp_path_factory: pytest.TempPathFactory, top: Any, image: Any, category: Any, annotation: Any
) -> None:
    root = tmp_path_factory.mktemp("set")
    document = make_document() | {"zusatz": top}
    for key, extra in (("images", image), ("categories", category), ("annotations", annotation)):
        document[key][1]["zusatz"] = extra
    dataset = read_coco(make_coco(root, document))
    assert clean(dataset, root / "out") == document
    assert sorted(path.name for path in (root / "out/images").rglob("*.png")) == ["a.png", "b.png", "empty.png"]
    again = read_coco(root / "out/annotations.json")
    assert again.images.drop("path").equals(dataset.images.drop("path"))
    np.testing.assert_array_equal(again.annotations.xyxy, dataset.annotations.xyxy)


def test_nan_in_an_unknown_key_survives(tmp_path: Path) -> None:
    document = make_document()
    document["annotations"][0]["score"] = float("nan")
    written = clean(read_coco(make_coco(tmp_path, document)), tmp_path / "out")
    assert np.isnan(written["annotations"][0]["score"])


def test_a_relabelled_record_differs_in_its_category_only(tmp_path: Path) -> None:
    document = make_document()
    written = clean(read_coco(make_coco(tmp_path, document)), tmp_path / "out", Edit("relabel", 0, 0, 1))
    document["annotations"][1]["category_id"] = 2
    assert written == document


def test_a_moved_record_gets_box_and_area_and_loses_its_outline(tmp_path: Path) -> None:
    document = make_document()
    edits = (Edit("move", 0, 0, None, (-1, 2, 9, 50)), Edit("move", 0, 2, None, (1, 2, 9, 5)))
    written = clean(read_coco(make_coco(tmp_path, document)), tmp_path / "out", *edits)
    document["annotations"][1] |= {"bbox": [0.0, 2.0, 9.0, 18.0], "area": 162.0, "segmentation": []}
    document["annotations"][3] |= {"bbox": [1.0, 2.0, 8.0, 3.0], "area": 24.0}
    assert written == document


def test_a_deleted_record_is_gone_and_an_added_one_is_complete(tmp_path: Path) -> None:
    document = make_document()
    edits = (Edit("delete", 0, 1), Edit("add", 1, None, 0, (1, 2, 3, 5)), Edit("review", 0, 0), Edit("add", 2, None, 1, (1, 2, 3, 5)))
    written = clean(read_coco(make_coco(tmp_path, document)), tmp_path / "out", *edits)
    del document["annotations"][2]
    added = {"bbox": [1.0, 2.0, 2.0, 3.0], "area": 6.0, "iscrowd": 0, "segmentation": []}
    document["annotations"] += [{"id": 32, "image_id": 0, "category_id": 5, **added}, {"id": 33, "image_id": 9, "category_id": 2, **added}]
    assert written == document


def test_a_dropped_image_takes_its_annotations_along(tmp_path: Path) -> None:
    document = make_document()
    written = clean(read_coco(make_coco(tmp_path, document)), tmp_path / "out", drop=(0,))
    assert [record["id"] for record in written["images"]] == [0, 9]
    assert written["annotations"] == document["annotations"][:1]
    assert not (tmp_path / "out/images/b.png").exists()
    assert (tmp_path / "out/images/deep/a.png").is_symlink()


def test_a_part_is_cleaned_and_the_rest_comes_along(tmp_path: Path) -> None:
    document = make_document()
    part = read_coco(make_coco(tmp_path, document)).select_images(np.array([False, True, False]))
    written = clean(part, tmp_path / "out", Edit("delete", 0, 0))
    assert written["images"] == document["images"]
    assert written["annotations"] == document["annotations"][1:]
    assert (tmp_path / "out/images/b.png").exists()


def test_without_pictures_only_the_records_are_written(tmp_path: Path) -> None:
    document = make_document()
    assert clean(read_coco(make_coco(tmp_path, document), "none"), tmp_path / "out") == document
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["annotations.json"]


def test_no_picture_is_put_outside_the_folder(tmp_path: Path) -> None:
    document = make_document()
    document["images"][0]["file_name"] = "../../b.png"
    dataset = read_coco(make_coco(tmp_path / "x" / "y", document, "images"))
    assert dataset.images["path"].null_count() == 0
    write_cleaned(dataset, [], tmp_path / "out" / "deep" / "er")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "deep/er/annotations.json",
        "deep/er/images/deep/a.png",
        "deep/er/images/empty.png",
    ]


def test_the_cleaned_file_opens_with_pycocotools(tmp_path: Path) -> None:
    edits = (Edit("delete", 0, 1), Edit("add", 1, None, 0, (1, 2, 3, 5)), Edit("move", 0, 0, None, (1, 2, 9, 10)))
    clean(read_coco(make_coco(tmp_path, make_document())), tmp_path / "out", *edits)
    coco = COCO(str(tmp_path / "out/annotations.json"))
    assert sorted(coco.getAnnIds()) == [10, 11, 31, 32]
    assert coco.getImgIds(catIds=[5]) in ([0, 7], [7, 0])


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    dataset = read_coco(make_coco(tmp_path, make_document()))
    make_coco(tmp_path, make_document() | {"annotations": []})
    with pytest.raises(DatasetError, match="changed"):
        write_cleaned(dataset, [Edit("delete", 0, 0)], tmp_path / "out")
    make_coco(tmp_path, make_document() | {"images": []})
    with pytest.raises(DatasetError, match="has no image 7"):
        write_cleaned(dataset, [], tmp_path / "out2")


# The issue list


def make_issues(rows: list[Document], id_type: Any) -> pl.DataFrame:
    sides = {f"{prefix}{side}": pl.Float64 for prefix in ("", "suggested_") for side in ("x1", "y1", "x2", "y2")}
    columns = ("file_name", "category", "suggested_category", "issue_type", "verdict", "action", "reason")
    ids = {"image_id": id_type, "annotation_id": id_type}
    return pl.DataFrame(rows, schema={"rank": pl.Int64, "probability": pl.Float64, **ids, **dict.fromkeys(columns, pl.String), **sides})


def issue_rows(image_ids: list[Any]) -> list[Document]:
    proposed = {"suggested_x1": 1.0, "suggested_y1": 2.0, "suggested_x2": 4.0, "suggested_y2": 4.0, "suggested_category": "dog"}
    given = {"x1": 0.5, "y1": 0.25, "x2": 4.5, "y2": 4.25, "category": "cat", "annotation_id": image_ids[0]}
    return [
        {"rank": 1, "image_id": image_ids[1], "issue_type": "overlooked", "probability": 0.9, "action": "add", **proposed},
        {
            "rank": 2,
            "image_id": image_ids[0],
            "issue_type": "badloc",
            "probability": 0.5,
            "action": "move",
            "reason": "loose",
            **given,
            **proposed,
        },
        {"rank": 3, "image_id": image_ids[0], "issue_type": "spurious", "probability": 0.4, "action": "delete", **given},
    ]


def test_issues_as_coco(tmp_path: Path) -> None:
    dataset = read_coco(make_coco(tmp_path, make_document()))
    write_coco_issues(dataset, make_issues(issue_rows([7, 0]), pl.Int64), tmp_path / "issues.coco.json")
    coco = COCO(str(tmp_path / "issues.coco.json"))
    assert sorted(coco.getImgIds()) == [0, 7]
    assert coco.loadCats([5, 2])[0]["name"] == "dog"
    first, second, third = coco.loadAnns([1, 2, 3])
    assert (first["image_id"], first["category_id"], first["bbox"], first["area"]) == (0, 5, [1, 2, 3, 2], 6)
    assert (second["image_id"], second["category_id"], second["bbox"]) == (7, 2, [0.5, 0.25, 4, 4])
    assert second["attributes"] == {
        "issue_type": "badloc",
        "probability": 0.5,
        "verdict": None,
        "action": "move",
        "annotation_id": 7,
        "suggested_category": "dog",
        "suggested_bbox": [1, 2, 3, 2],
        "reason": "loose",
    }
    assert third["attributes"]["suggested_bbox"] is None
    assert third["iscrowd"] == 0


def test_issues_of_a_source_with_other_ids_get_integers(tmp_path: Path) -> None:
    document = make_document()
    for record in document["images"]:
        record["id"] = f"i{record['id']}"
    document["annotations"] = []
    document["categories"][1]["id"] = 0
    dataset = read_coco(make_coco(tmp_path, document))
    write_coco_issues(dataset, make_issues(issue_rows(["i7", "i0"]), pl.String), tmp_path / "issues.coco.json")
    written = json.loads((tmp_path / "issues.coco.json").read_text())
    assert [(image["id"], image["source_id"], image["file_name"]) for image in written["images"]] == [
        (1, "i0", "deep/a.png"),
        (2, "i7", "b.png"),
    ]
    assert [category["id"] for category in written["categories"]] == [1, 2]
    assert [annotation["category_id"] for annotation in written["annotations"]] == [1, 2, 2]
    COCO(str(tmp_path / "issues.coco.json"))


def test_no_issue_at_all(tmp_path: Path) -> None:
    write_coco_issues(read_coco(make_coco(tmp_path, make_document())), make_issues([], pl.Int64), tmp_path / "issues.coco.json")
    written = json.loads((tmp_path / "issues.coco.json").read_text())
    assert written["images"] == written["annotations"] == []
    assert len(written["categories"]) == 2


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_of_hundreds_of_digits_is_told_in_a_line(tmp_path: Path, digits: int) -> None:
    path = write_coco(tmp_path)
    path.write_text(re.sub(r'"bbox": \[\d+', f'"bbox": [{"9" * digits}', path.read_text(), count=1))
    if digits > 4300:  # Python itself reads no such integer
        with pytest.raises(DatasetError, match=r"annotations\.json: holds a number that is none"):
            read_coco(path)
    else:
        assert [finding.kind for finding in read_coco(path).findings if finding.severity == "error"] == ["not-a-number"]
