"""Out to a tool, edited there as a person would, and back: the decisions that follow, whichever the tool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from finished import finish_run
from handed import CATEGORIES, EDITORS, IDS, NAMES, Edit, edit_coco, edit_cvat, edit_labelstudio, forget_ids, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from detclean.edit.decisions import Decision, DecisionLog, read_decisions
from detclean.formats import read_coco, read_voc, read_yolo
from detclean.handover import TOOLS, export_run, import_decisions
from detclean.handover.labelstudio import to_percent
from detclean.handover.names import find_image, know_images, make_unique_names, place_images, read_url
from detclean.handover.plain import _annotation_ids
from detclean.handover.returns import is_close
from detclean.handover.sheet import make_sheet, name_annotations
from detclean.runfolder import Run, open_run

BOX = dict(zip(IDS, name_annotations(pl.Series(list(IDS))).to_list(), strict=True))  # the box_id of each annotation
SWAP, BADLOC, TWIN, SPURIOUS, MISSED, GHOST, WHOLE = (f"1ss0e000000{i}" for i in range(1, 8))
EDITS = (
    Edit(BOX["x#1"], category=CATEGORIES[1]),
    Edit(BOX["x 2"], xyxy=(55, 20, 95, 60)),
    Edit(BOX["ä"]),
    Edit(BOX["5"], hard=True),
    Edit(f"issue-{MISSED}", xyxy=(41, 41, 63, 62)),
    Edit(f"issue-{GHOST}"),
    Edit(BOX["6"], xyxy=(9, 9, 33, 32)),
    Edit(BOX["8/9"]),
)
NEW = ((NAMES[4], CATEGORIES[2], (270.0, 5.0, 290.0, 25.5)),)
EXPECTED = {
    SWAP: ("accept", CATEGORIES[1], (10, 10, 40, 40)),
    BADLOC: ("accept", CATEGORIES[1], (55, 20, 95, 60)),
    TWIN: ("accept", None, None),
    SPURIOUS: ("hard", None, None),
    MISSED: ("accept", CATEGORIES[2], (41, 41, 63, 62)),
    GHOST: ("reject", None, None),
    WHOLE: ("reject", None, None),
    f"box-{BOX['6']}": ("accept", CATEGORIES[1], (9, 9, 33, 32)),
    f"box-{BOX['8/9']}": ("accept", None, None),
    "new": ("accept", CATEGORIES[2], (270, 5, 290, 25.5)),
}


def hand_over(run: Run, tool: str, images: str = "all") -> Path:
    return export_run(run, tool, images=images).folder


def decided(run: Run) -> dict[str, tuple[str, str | None, tuple[float, ...] | None]]:
    """What counts now; a box that people drew goes by "new"."""
    known = {BOX[name] for name in IDS}
    table = {}
    for name, one in read_decisions(run.folder).items():
        drawn = name.startswith("box-") and name.removeprefix("box-") not in known
        table["new" if drawn else name] = (one.verdict, one.category, one.xyxy)
    return table


def is_as_expected(found: dict[str, tuple[str, str | None, tuple[float, ...] | None]], expected: dict[str, object] = EXPECTED) -> bool:
    assert found.keys() == expected.keys()
    for name, (verdict, category, xyxy) in expected.items():  # type: ignore[misc]
        assert found[name][:2] == (verdict, category), name
        assert (found[name][2] is None) == (xyxy is None), name
        assert xyxy is None or np.abs(np.array(found[name][2]) - xyxy).max() < 0.011, name
    return True


@pytest.mark.parametrize("tool", EDITORS)
def test_what_a_person_did_becomes_decisions_once(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    back = EDITORS[tool](hand_over(run, tool), EDITS, NEW)
    result = import_decisions(run, back)
    assert is_as_expected(decided(run))
    assert (result.accepted, result.rejected, result.hard) == (4, 2, 1)
    assert (result.new_boxes, result.changed_elsewhere, result.known, result.untouched, result.unknown) == (1, 2, 0, 0, 0)
    assert {one.by for one in read_decisions(run.folder).values()} == {tool}
    content = (run.folder / "decisions.jsonl").read_bytes()
    again = import_decisions(run, back)
    assert (again.accepted, again.rejected, again.hard, again.new_boxes, again.changed_elsewhere, again.known) == (0, 0, 0, 0, 0, 10)
    assert (run.folder / "decisions.jsonl").read_bytes() == content


def test_what_nobody_moved_stays_to_the_last_digit(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    import_decisions(
        run, edit_cvat(hand_over(run, "cvat"), [Edit(BOX["x 2"], category=CATEGORIES[2]), Edit(BOX["9"], category=CATEGORIES[0])])
    )
    found = read_decisions(run.folder)
    assert found[BADLOC].xyxy == (50, 20, 90, 60.5)
    assert found[f"box-{BOX['9']}"].xyxy == (150, -3, 200, 30)  # handed over without the part outside its image


@pytest.mark.parametrize("second", EDITORS)
def test_the_same_work_in_another_tool_says_nothing_new(second: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    handed = hand_over(run, second)
    import_decisions(run, edit_labelstudio(hand_over(run, "labelstudio"), EDITS, NEW))
    size = (run.folder / "decisions.jsonl").stat().st_size
    assert import_decisions(run, EDITORS[second](handed, EDITS, NEW)).known == 10
    assert (run.folder / "decisions.jsonl").stat().st_size == size


@pytest.mark.parametrize("tool", EDITORS)
def test_what_was_decided_goes_out_and_comes_back_as_it_is(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    import_decisions(run, EDITORS[tool](hand_over(run, tool), EDITS, NEW))
    assert export_run(run, tool, images="open").images == 0
    handed = hand_over(run, tool)
    if tool == "labelstudio":
        tasks = json.loads((handed / "tasks.json").read_text())
        assert [("annotations" in task, "predictions" in task) for task in tasks] == [(True, False)] * 5 + [(False, True)]
        assert import_decisions(run, handed / "tasks.json").known == 10
    assert import_decisions(run, EDITORS[tool](handed, [])).known == 10
    assert is_as_expected(decided(run))


@pytest.mark.parametrize("tool", EDITORS)
def test_a_mind_that_changes(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    import_decisions(run, EDITORS[tool](hand_over(run, tool), EDITS, NEW))
    drawn = next(name for name in read_decisions(run.folder) if name.startswith("box-") and name.removeprefix("box-") not in BOX.values())
    back_to_source = (Edit(BOX["x#1"], category=CATEGORIES[0]), Edit(BOX["6"], xyxy=(8, 8, 30, 30)), Edit(drawn))
    import_decisions(run, EDITORS[tool](hand_over(run, tool), back_to_source, [(NAMES[1], CATEGORIES[2], (6, 6, 60, 101))]))
    rejected = ("reject", None, None)
    assert is_as_expected(decided(run), EXPECTED | {SWAP: rejected, TWIN: rejected, f"box-{BOX['6']}": rejected, "new": rejected})


@pytest.mark.parametrize("tool", EDITORS)
def test_a_box_that_went_far_is_still_the_same_by_its_id(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result = import_decisions(run, EDITORS[tool](hand_over(run, tool), [Edit(BOX["6"], xyxy=(34, 1, 54, 20))]))
    assert (result.new_boxes, result.changed_elsewhere) == (0, 1)
    assert decided(run)[f"box-{BOX['6']}"][2] == pytest.approx((34, 1, 54, 20))


def test_what_was_called_hard_stays_hard_where_nothing_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    import_decisions(run, edit_coco(hand_over(run, "coco"), [Edit(BOX["5"], hard=True)]))
    back = edit_coco(hand_over(run, "coco"), [])
    forget_ids(back)
    assert import_decisions(run, back).rejected == 0
    assert decided(run)[SPURIOUS][0] == "hard"


def test_tasks_are_known_by_their_pictures_address_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    far = (34.0, 1.0, 54.0, 20.0)
    back = edit_labelstudio(hand_over(run, "labelstudio"), [*EDITS[:6], Edit(BOX["6"], xyxy=far), EDITS[7]], NEW)
    tasks = json.loads(back.read_text())
    for task in tasks:
        task["data"] = {"image": task["data"]["image"]}
        for region in task["annotations"][0]["result"]:
            region["id"] += "#Xy1"  # as the editor's own ids are
    back.write_text(json.dumps(tasks))
    import_decisions(run, back)
    assert is_as_expected(decided(run), EXPECTED | {f"box-{BOX['6']}": ("accept", CATEGORIES[1], far)})


def test_boxes_are_handed_over_inside_their_images(tmp_path: Path) -> None:
    sheet = make_sheet(make_run(tmp_path, pictures=False), {}, "all")
    assert sheet.xyxy.min() == 0
    assert (sheet.xyxy[:, 2:] <= sheet.sizes).all()


def test_coco_ids_are_the_sources_where_they_can_be() -> None:
    assert _annotation_ids([7, None, 3, None]) == [7, 8, 3, 9]
    assert _annotation_ids([0, 1]) == [1, 2]
    assert _annotation_ids(["a", None]) == [1, 2]
    assert _annotation_ids([4, 4]) == [1, 2]


def test_boxes_whose_ids_were_lost_are_known_by_their_place(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    back = edit_coco(hand_over(run, "coco"), EDITS, NEW)
    forget_ids(back)
    import_decisions(run, back)
    assert is_as_expected(decided(run), EXPECTED | {SPURIOUS: ("reject", None, None)})  # "hard" was lost with the attributes
    assert import_decisions(run, back).known == 10


@pytest.mark.parametrize("tool", EDITORS)
def test_images_that_were_not_looked_at_stay_open(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result = import_decisions(run, EDITORS[tool](hand_over(run, tool), EDITS, NEW, skip=[NAMES[0], NAMES[3]]))
    found = decided(run)
    assert not {SWAP, BADLOC, MISSED, f"box-{BOX['6']}"} & found.keys()
    assert {TWIN, SPURIOUS, GHOST, WHOLE} <= found.keys()
    assert result.images == 4
    assert result.untouched == (2 if tool == "labelstudio" else 0)


def test_a_cancelled_task_was_not_looked_at_and_of_two_annotations_the_later_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    back = edit_labelstudio(hand_over(run, "labelstudio"), EDITS, NEW)
    tasks = json.loads(back.read_text())
    tasks[0]["annotations"][0]["was_cancelled"] = True
    first = {"id": 1, "was_cancelled": False, "updated_at": "2025-01-01T00:00:00Z", "result": []}
    tasks[1]["annotations"].append(first)
    back.write_text(json.dumps(tasks))
    result = import_decisions(run, back)
    assert result.untouched == 1
    assert not {SWAP, BADLOC} & decided(run).keys()
    assert decided(run)[TWIN] == EXPECTED[TWIN]
    assert f"box-{BOX['<3>']}" not in decided(run)
    assert result.notes == ("1 images were annotated more than once; the last annotation counts",)


def test_a_copied_box_is_a_new_one(tmp_path: Path) -> None:
    """CVAT copies attributes with a box, and so its id."""
    run = make_run(tmp_path)
    back = edit_cvat(hand_over(run, "cvat"), [])
    root = ElementTree.fromstring(back.read_bytes())
    image = root.findall("image")[3]
    copy = ElementTree.fromstring(ElementTree.tostring(image.findall("box")[0]))
    for side, value in zip(("xtl", "ytl", "xbr", "ybr"), ("2", "40", "24", "62"), strict=True):
        copy.set(side, value)
    image.insert(0, copy)
    ElementTree.ElementTree(root).write(back, encoding="utf-8")
    assert import_decisions(run, back).new_boxes == 1
    assert decided(run)["new"] == ("accept", CATEGORIES[1], (2, 40, 24, 62))
    assert f"box-{BOX['6']}" not in decided(run)


def test_rotated_boxes_and_other_shapes_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    back = edit_labelstudio(hand_over(run, "labelstudio"), [])
    tasks = json.loads(back.read_text())
    size = {"original_width": 64, "original_height": 64}
    value = {"x": 50, "y": 10, "width": 25, "height": 12.5, "rotation": 90, "rectanglelabels": [CATEGORIES[0]]}
    tasks[2]["annotations"][0]["result"] += [
        {"id": "r", "type": "rectanglelabels", "value": value, **size},
        {"id": "p", "type": "polygonlabels", "value": {"points": [], "polygonlabels": [CATEGORIES[0]]}, **size},
    ]
    back.write_text(json.dumps(tasks))
    notes = import_decisions(run, back).notes
    assert decided(run)["new"][2] == pytest.approx((24, 6.4, 32, 22.4))  # a quarter turn clockwise about its top left corner
    assert any("rotated" in note for note in notes)
    assert any("polygonlabels" in note for note in notes)

    root = ElementTree.fromstring(edit_cvat(hand_over(run, "cvat"), []).read_bytes())
    box = root.findall("image")[2].findall("box")[0]
    box.set("rotation", "90")
    ElementTree.SubElement(root.findall("image")[2], "polygon", label=CATEGORIES[0], points="1,1;2,2;3,1")
    (tmp_path / "r.xml").write_bytes(ElementTree.tostring(root))
    notes = import_decisions(run, tmp_path / "r.xml").notes
    assert any("rotated" in note for note in notes)
    assert any("<polygon>" in note for note in notes)


def test_images_that_come_back_empty_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    notes = import_decisions(run, edit_cvat(hand_over(run, "cvat"), [Edit(BOX["5"])])).notes
    assert notes == (f"1 images came back without any box, so all their boxes are decided to go: {NAMES[2]}",)


def test_a_box_that_cannot_be_drawn_is_not_deleted_by_its_absence(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    boxes = run.dataset.annotations
    xyxy = boxes.xyxy.copy()
    xyxy[5] = (30, 30, 30, 40)
    run = replace(run, dataset=replace(run.dataset, annotations=replace(boxes, xyxy=xyxy)))
    result = export_run(run, "cvat", images="all")
    assert (result.left_out, result.boxes) == (1, 10)
    import_decisions(run, edit_cvat(result.folder, []))
    assert f"box-{BOX['6']}" not in decided(run)


def test_three_choices_of_images(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    DecisionLog(run.folder).append([Decision(MISSED, "reject", "id:3"), Decision(TWIN, "skip", "id:1", "ä")])
    counts = {choice: export_run(run, "cvat", images=choice).images for choice in ("open", "issues", "all")}
    assert counts == {"open": 4, "issues": 5, "all": 6}


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_real_run_of_each_format_goes_to_all_tools_and_reads_back_the_same(kind: str, tmp_path: Path) -> None:
    run = open_run(finish_run(tmp_path, kind))
    for tool in TOOLS:
        count = run.issues["image_index"].n_unique() if tool == "csv" else run.dataset.image_count
        assert export_run(run, tool, images="all").images == count
    sheet = make_sheet(run, {}, "all")
    expected = sorted(
        (run.dataset.categories[c], *box) for c, box in zip(sheet.boxes["category"], sheet.xyxy.round(2).tolist(), strict=True)
    )
    handed = run.folder / "handover"
    for read in (read_coco(handed / "coco" / "instances.json"), read_yolo(handed / "yolo" / "data.yaml"), read_voc(handed / "voc")):
        train = read.select_split("train")
        boxes = zip(train.annotations.category, train.annotations.xyxy.round(2).tolist(), strict=True)
        found = sorted((train.categories[category], *box) for category, box in boxes)
        assert [row[0] for row in found] == [row[0] for row in expected]
        assert np.abs(np.array([row[1:] for row in found]) - np.array([row[1:] for row in expected])).max() <= 0.011
        assert not [finding for finding in read.findings if finding.severity == "error"]
    flags = pl.read_csv(handed / "yolo" / "flags.csv").sort("issue_id")
    assert flags["issue_id"].to_list() == sorted(run.issues["issue_id"])
    flagged = sheet.boxes.filter(pl.col("issue_type").is_not_null()).sort("issue_id")
    lines = [(handed / "yolo" / file).read_text().splitlines()[line - 1] for file, line in flags.select("file", "line").iter_rows()]
    assert [int(line.split()[0]) for line in lines] == flagged["category"].to_list()
    width = (flagged["x2"] - flagged["x1"]).to_numpy() / run.dataset.sizes[flagged["image_index"].to_numpy(), 0]
    assert np.abs(np.array([float(line.split()[3]) for line in lines]) - width).max() < 1e-7
    files = [ElementTree.fromstring(path.read_bytes()) for path in (handed / "voc" / "Annotations").glob("*.xml")]
    assert {one.text for root in files for one in root.iterfind("object/issue/id")} == set(run.issues["issue_id"])
    back = import_decisions(run, handed / "cvat" / "annotations.xml")
    overlooked = run.issues.filter(pl.col("issue_type") == "overlooked").height
    assert (back.accepted, back.rejected) == (overlooked, run.issues.height - overlooked)
    table = pl.read_csv(export_run(run, "csv", images="issues").folder / "issues.csv")
    assert sorted(table["decision"]) == ["accept"] * overlooked + ["reject"] * (run.issues.height - overlooked)
    assert table["decided_x1"].count() == overlooked


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_percent_and_back(size: tuple[int, int], shares: list[float]) -> None:
    sizes = np.array([size], dtype=np.float64)
    low, high = np.minimum(shares[:2], shares[2:]), np.maximum(shares[:2], shares[2:])
    xyxy = np.concatenate([low, high])[None] * np.tile(sizes, 2)
    x, y, width, height = to_percent(xyxy, sizes)[0]
    back = np.array([[x, y, x + width, y + height]]) * np.tile(sizes, 2) / 100
    assert np.abs(back - xyxy).max() <= 1e-9 * max(size)
    assert is_close(xyxy, back).all()


@pytest.mark.parametrize(
    ("side", "shift", "close"),
    [
        (400, 14, False),  # in four thousand pixels as in four hundred
        (400, 1.1, False),
        (400, 1, True),  # whole pixels
        (6, 0.5, False),  # half of what covers the object is not rounding
        (6, 0.3, True),
        (0.1, 0.01, True),  # two decimals of a corner and of a side
    ],
)
def test_rounding_is_no_move_and_a_correction_is_one(side: float, shift: float, close: bool) -> None:
    box = np.array([[1000.0, 1000, 1000 + side, 1000 + side]])
    assert is_close(box, box + shift * 0.999999).all() == close


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("one/a.png", [0]),
        ("two/a.png", [1]),
        ("a.png", [0, 1]),
        ("three/a.png", []),
        ("data/one/a.png", [0]),
        ("/srv/pictures/two/a.png", [1]),
        ("b c#.png", [2]),
        ("/data/upload/3/0a1b2c3d-b_c.png", [2]),
        ("/data/upload/3/0a1b2c3d-a.png", [0, 1]),
        ("deep\\b c#.png", [2]),
        ("x.png", []),
        ("", []),
    ],
)
def test_images_are_recognised(asked: str, found: list[int]) -> None:
    known = know_images(["one/a.png", "two/a.png", "deep/b c#.png"], [None, "/srv/pictures/two/a.png", None], [1, 2, 3])
    assert find_image(known, asked) == found


def test_addresses_are_decoded_once() -> None:
    assert read_url("/data/local-files/?d=p/50%2520%2B%23.png") == "p/50%20+#.png"
    assert read_url("s3://bucket/a%20b.png") == "/a b.png"
    assert read_url("/data/upload/1/x%20y.png") == "/data/upload/1/x y.png"
    assert read_url("plain%20.png") == "plain%20.png"


def test_no_two_pictures_share_a_place() -> None:
    names = ["a/x.jpg", "a/x.png", "A/X.jpg", "a_x.jpg", "images/a/x.jpg", "../a/x.jpg", "/a/x.jpg", "b.jpg"]
    for flat in (False, True):
        places = place_images(names, flat=flat)
        assert len({place.rpartition(".")[0].lower() for place in places}) == len(names)
        assert not any(place.startswith(("/", "..")) for place in places)
        assert places[7] == "b.jpg"
    assert place_images(names, flat=False)[0] == "a/x.jpg"
    assert place_images(["../b.jpg", "b.jpg"], flat=False) == ["2/b.jpg", "b.jpg"]  # whose own name it is
    assert len(place_images(["ü" * 300 + ".jpg"], flat=True)[0].encode()) <= 200
    assert make_unique_names(["a.jpg", "a.jpg", "b/a.jpg", "2/a.jpg"]) == ["a.jpg", "3/a.jpg", "b/a.jpg", "2/a.jpg"]


def test_ids_that_repeat_or_that_a_tool_might_cut_are_hashed() -> None:
    names = name_annotations(pl.Series(["1", "1", "a#b", "c", "d" * 65])).to_list()
    assert names[0] == "annotation-1"
    assert names[3] == "annotation-c"
    assert len(set(names)) == 5
    assert not any("#" in name for name in names)
