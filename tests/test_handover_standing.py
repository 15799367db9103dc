"""What is handed over is what the labels are to be, and what comes back untouched changes none of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from finished import finish_run
from handed import CATEGORIES, EDITORS, IDS, ISSUES, NAMES, SIZES, Edit, edit_coco, edit_cvat, edit_labelstudio, list_twice, make_run

from detclean.edit.changes import find_changes, read_annotation
from detclean.edit.decisions import VERDICTS, Decision, DecisionLog, read_decisions
from detclean.formats import read_dataset
from detclean.handover import export_run, import_decisions
from detclean.handover.sheet import make_sheet, name_annotations, stand
from detclean.pipeline.apply import apply_decisions
from detclean.runfolder import Run, open_run

BOX = dict(zip(IDS, name_annotations(pl.Series(list(IDS))).to_list(), strict=True))
SWAP, BADLOC, TWIN, SPURIOUS, MISSED, GHOST, WHOLE = (issue[0] for issue in ISSUES)
SECOND_SWAP = "1ss0e0000011"  # in the second listing of the same picture


def decide(run: Run, *decisions: Decision) -> None:
    DecisionLog(run.folder).append(decisions)


def about(
    run: Run, annotation: int, name: str, verdict: str, category: str | None = None, xyxy: tuple[float, ...] | None = None
) -> Decision:
    """A decision about an annotation, told by what it is."""
    boxes, given = run.dataset.annotations, read_annotation(run.dataset, annotation)
    image_id = run.dataset.images["image_id"][int(boxes.image_index[annotation])]
    identity = None if boxes.annotation_id is None else boxes.annotation_id[annotation : annotation + 1].tolist()[0]
    return Decision(name, verdict, image_id, identity, category, xyxy, given_category=given.category, given_xyxy=given.xyxy)  # type: ignore[arg-type]


def draw_decisions(run: Run, rng: np.random.Generator) -> list[Decision]:
    """Decisions as several people may leave them: about issues, about boxes under names of all kinds, and new boxes."""
    data = run.dataset
    number_of = {row["issue_id"]: row for row in run.issues.iter_rows(named=True)}
    made = []
    for _ in range(25):
        width, height = data.sizes[0]
        corner = rng.integers(0, 20, 2)
        xyxy = tuple(float(value) for value in (*corner, *(corner + rng.integers(5, 30, 2))))
        category = data.categories[int(rng.integers(len(data.categories)))]
        assert xyxy[2] <= width
        assert xyxy[3] <= height
        verdict = VERDICTS[int(rng.choice(5, p=(0.6, 0.15, 0.1, 0.1, 0.05)))]
        after = (category, xyxy) if verdict == "accept" and rng.random() < 0.7 else (None, None)
        kind = rng.integers(4)
        if kind == 0:
            name = list(number_of)[int(rng.integers(len(number_of)))]
            row = number_of[name]
            made.append(Decision(name, verdict, row["image_id"], row["annotation_id"], *after))
        elif kind == 1:
            made.append(Decision(f"box-new{rng.integers(3)}", verdict, data.images["image_id"][int(rng.integers(2))], None, *after))
        else:
            listed = run.issues["annotation"].drop_nulls().to_list()
            annotation = int(rng.choice(listed)) if rng.random() < 0.5 else int(rng.integers(len(data.annotations)))
            name = f"box-annotation-{annotation}" if kind == 2 else f"an issue of old, {annotation}"
            made.append(about(run, annotation, name, verdict, *after))
    return made


def count_labels(names: list[str], categories: list[str], xyxy: np.ndarray) -> Counter[tuple[str, str]]:
    assert len(names) == len(xyxy)
    return Counter(zip((Path(name).stem for name in names), categories, strict=True))


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_what_is_handed_over_is_what_apply_writes(kind: str, tmp_path: Path) -> None:
    run = open_run(finish_run(tmp_path, kind))
    rng = np.random.default_rng(5)
    seen = Counter[str]()
    for _ in range(6):
        (run.folder / "decisions.jsonl").unlink(missing_ok=True)
        twice = read_annotation(run.dataset, 0)  # an object that is to be added and stands there
        first = run.dataset.images["image_id"][int(run.dataset.annotations.image_index[0])]
        decide(run, *draw_decisions(run, rng), Decision("box-twice", "accept", first, None, twice.category, twice.xyxy))
        decisions = read_decisions(run.folder)
        sheet = make_sheet(run, decisions, "all")
        boxes = sheet.boxes.filter(~((pl.col("kind") == "overlooked") & pl.col("open")))  # drawn to be judged, in no label yet
        seen.update(boxes.filter("changed")["kind"])
        ours = [sheet.images["file_name"][i] for i in boxes["image"]]
        target = apply_decisions(run.folder).applied.target
        place = {"coco": target / "annotations.json", "yolo": target / "data.yaml", "voc": target}[kind]
        theirs = read_dataset(place).select_split(str(run.summary["split"]))
        names = [theirs.images["file_name"][int(i)] for i in theirs.annotations.image_index]
        a, b = boxes.select("x1", "y1", "x2", "y2").to_numpy(), theirs.annotations.xyxy
        a_categories = [run.dataset.categories[i] for i in boxes["category"]]
        b_categories = [theirs.categories[int(i)] for i in theirs.annotations.category]
        assert count_labels(ours, a_categories, a) == count_labels(names, b_categories, b)
        same = np.array([Path(name).stem for name in ours])[:, None] == np.array([Path(name).stem for name in names])
        same &= np.array(a_categories)[:, None] == np.array(b_categories)
        far = np.where(same, np.abs(a[:, None] - b).max(axis=2), np.inf)
        assert max(far.min(axis=0).max(), far.min(axis=1).max()) < (1.01 if kind == "voc" else 0.02)  # VOC has whole numbers
    assert seen.keys() >= {"given", "added"}


def test_of_several_names_for_one_annotation_the_last_decision_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    swap = about(run, 0, SWAP, "accept", CATEGORIES[1], (10, 10, 40, 40))
    by_hand = about(run, 0, "box-other", "accept", CATEGORIES[2], (1, 1, 9, 9))

    def shown() -> tuple[int, list[float], bool]:
        row = make_sheet(run, read_decisions(run.folder), "all").boxes.row(0, named=True)
        return row["category"], [row[side] for side in ("x1", "y1", "x2", "y2")], row["open"]

    decide(run, by_hand)
    assert shown() == (2, [1, 1, 9, 9], True)
    decide(run, swap)
    assert shown() == (1, [10, 10, 40, 40], False)
    decide(run, by_hand)
    assert shown() == (2, [1, 1, 9, 9], False)
    decide(run, about(run, 0, SWAP, "reject"))
    assert shown() == (0, [10, 10, 40, 40], False)


def test_an_older_decision_under_another_name_does_not_come_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    by_hand = about(run, 1, "box-other", "accept", CATEGORIES[0], (1, 1, 9, 9))
    decide(run, by_hand)
    back = edit_cvat(
        export_run(run, "cvat", images="all").folder, [Edit(BOX["x 2"], (50, 20, 90, 60.5), CATEGORIES[1])]
    )  # as in the source
    import_decisions(run, back)
    decisions = read_decisions(run.folder)
    assert decisions[BADLOC].verdict == "reject"
    assert not [change for change in find_changes(run.dataset, run.issues, decisions).all if change.annotation == 1]
    assert import_decisions(run, back).known == 7
    decide(run, by_hand)
    import_decisions(run, back)
    assert not [change for change in find_changes(run.dataset, run.issues, read_decisions(run.folder)).all if change.annotation == 1]


@pytest.mark.parametrize("tool", EDITORS)
def test_what_was_annotated_is_kept_with_each_decision(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    edits = [Edit(BOX["x#1"], category=CATEGORIES[1]), Edit(BOX["ä"]), Edit(BOX["9"], xyxy=(140, 1, 190, 29))]
    import_decisions(run, EDITORS[tool](export_run(run, tool, images="all").folder, edits, [(NAMES[0], CATEGORIES[2], (60, 1, 80, 15))]))
    decisions = read_decisions(run.folder)
    found = {name: (one.given_category, one.given_xyxy) for name, one in decisions.items()}
    assert found[SWAP] == (CATEGORIES[0], (10, 10, 40, 40))
    assert found[TWIN] == (CATEGORIES[2], (6, 6, 60, 101))
    assert found[WHOLE] == (CATEGORIES[0], (0, 0, 100.3, 77))  # rejected
    assert found[f"box-{BOX['9']}"] == (CATEGORIES[2], (150, -3, 200, 30))
    assert found[MISSED] == found[GHOST] == (None, None)
    assert [found[name] for name, one in decisions.items() if one.annotation_id is None] == [(None, None)] * 3


@pytest.mark.parametrize("tool", EDITORS)
def test_an_untouched_round_trip_keeps_a_small_correction(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    small = (50.8, 20.8, 89.2, 59.7)  # less than a pixel from the source's
    decide(
        run, about(run, 1, BADLOC, "accept", CATEGORIES[1], small), about(run, 5, "box-hand", "accept", CATEGORIES[1], (8.5, 8.5, 30, 30))
    )
    import_decisions(run, EDITORS[tool](export_run(run, tool, images="all").folder, []))
    decisions = read_decisions(run.folder)
    assert (decisions[BADLOC].verdict, decisions[BADLOC].xyxy) == ("accept", small)
    assert (decisions["box-hand"].verdict, decisions["box-hand"].xyxy) == ("accept", (8.5, 8.5, 30, 30))


def test_a_box_changed_by_hand_keeps_its_change_when_its_issue_is_decided(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    decide(run, about(run, 1, "box-hand", "accept", CATEGORIES[1], (55, 20, 95, 60)))
    import_decisions(run, edit_coco(export_run(run, "coco", images="all").folder, []))
    assert read_decisions(run.folder)[BADLOC].verdict == "accept"
    change = next(one for one in find_changes(run.dataset, run.issues, read_decisions(run.folder)).all if one.annotation == 1)
    assert change.after is not None
    assert change.after.xyxy == (55, 20, 95, 60)


# A picture that two splits list


def test_a_picture_in_two_splits_is_handed_over_once_with_the_issues_of_both(tmp_path: Path) -> None:
    once, run = make_run(tmp_path), list_twice(make_run(tmp_path))
    sheet = make_sheet(run, {}, "all")
    assert sheet.images["name"].to_list() == list(NAMES)
    assert sheet.boxes["issue_id"].to_list() == make_sheet(once, {}, "all").boxes["issue_id"].to_list()
    assert stand(run, {}).filter(pl.col("issue_id") == SWAP)["issues"].to_list() == [[SWAP, SECOND_SWAP]]
    edits = [Edit(BOX["x#1"], category=CATEGORIES[1]), Edit(BOX["x 2"], xyxy=(55, 20, 95, 60))]
    back = edit_coco(export_run(run, "coco").folder, edits)
    import_decisions(run, back)
    decisions = read_decisions(run.folder)
    assert {name: decisions[name].category for name in (SWAP, SECOND_SWAP, BADLOC)} == {
        SWAP: CATEGORIES[1],
        SECOND_SWAP: CATEGORIES[1],
        BADLOC: CATEGORIES[1],
    }
    assert export_run(run, "coco").images == 0
    assert import_decisions(run, back).accepted == 0
    shown = make_sheet(run, decisions, "all").boxes
    assert shown.filter(pl.col("box_id") == BOX["x 2"]).select("x1", "y1", "x2", "y2").row(0) == (55, 20, 95, 60)
    assert export_run(run, "csv", images="issues").issues == run.issues.height


def test_an_issue_that_only_one_listing_still_has_open_keeps_the_picture_open(tmp_path: Path) -> None:
    run = list_twice(make_run(tmp_path))
    decide(run, about(run, 0, SWAP, "reject"), about(run, 1, BADLOC, "reject"))
    boxes = make_sheet(run, read_decisions(run.folder)).boxes
    assert boxes.filter(pl.col("box_id") == BOX["x#1"])["issue_type"].to_list() == ["swap"]
    import_decisions(run, edit_labelstudio(export_run(run, "labelstudio").folder, []))
    assert read_decisions(run.folder)[SECOND_SWAP].verdict == "reject"


# What a person should know


@pytest.mark.parametrize("tool", ["cvat", "coco"])
def test_images_in_which_nothing_was_changed_are_counted_on_their_own(tool: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    handed = export_run(run, tool, images="all").folder
    edits = [Edit(BOX["x#1"], category=CATEGORIES[1]), Edit(BOX["5"], hard=True)]
    result = import_decisions(run, EDITORS[tool](handed, edits, [(NAMES[3], CATEGORIES[0], (1, 33, 20, 60))]))
    assert (result.accepted, result.rejected, result.hard) == (3, 3, 1)
    assert result.unchanged == 3  # of images 1, 4 and 5; in the fourth one a box was added
    assert (result.unchanged_accepted, result.unchanged_rejected) == (1, 2)
    again = import_decisions(run, EDITORS[tool](handed, edits, [(NAMES[3], CATEGORIES[0], (1, 33, 20, 60))]))
    assert (again.unchanged_accepted, again.unchanged_rejected) == (0, 0)


def test_a_box_that_was_worked_on_in_cvat_shows_that_its_image_was_opened(tmp_path: Path) -> None:
    """CVAT calls the source of an uploaded box `file`, and `manual` from its first edit on, be it taken back."""
    run = make_run(tmp_path)
    back = edit_cvat(export_run(run, "cvat", images="all").folder, [Edit(BOX["5"], xyxy=(8, 8, 30, 30))])
    result = import_decisions(run, back)
    assert (result.rejected, result.unchanged, result.unchanged_rejected) == (5, 5, 4)
    (run.folder / "decisions.jsonl").unlink()
    back.write_text(back.read_text().replace('source="file"', 'source="manual"'))  # by a tool between
    assert import_decisions(run, back).unchanged == 6


def test_a_submitted_task_was_looked_at(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result = import_decisions(run, edit_labelstudio(export_run(run, "labelstudio", images="all").folder, []))
    assert (result.rejected, result.unchanged, result.unchanged_rejected) == (5, 0, 0)


def test_label_studios_sides_below_zero(tmp_path: Path) -> None:
    """Its older versions wrote a box that was drawn from right to left with them."""
    run = make_run(tmp_path)
    back = edit_labelstudio(export_run(run, "labelstudio", images="all").folder, [])
    tasks = json.loads(back.read_text())
    value = tasks[0]["annotations"][0]["result"][1]["value"]
    value |= {"x": value["x"] + value["width"], "width": -value["width"]}
    back.write_text(json.dumps(tasks))
    import_decisions(run, back)
    assert read_decisions(run.folder)[BADLOC].verdict == "reject"


@pytest.mark.parametrize(("images", "listed"), [("open", {SWAP, BADLOC, MISSED, GHOST, WHOLE}), ("issues", {issue[0] for issue in ISSUES})])
def test_the_list_of_issues_holds_those_of_the_chosen_images(images: str, listed: set[str], tmp_path: Path) -> None:
    run = make_run(tmp_path, pictures=False)
    decide(run, about(run, 3, TWIN, "reject"), about(run, 4, SPURIOUS, "accept"), Decision(GHOST, "reject", "id:4"))
    result = export_run(run, "csv", images=images)
    table = pl.read_csv(result.folder / "issues.csv")
    assert set(table["issue_id"]) == listed
    assert (result.images, result.boxes, result.issues) == (table["image_id"].n_unique(), table.height, table.height)
    assert table.filter(pl.col("issue_id") == GHOST)["decision"].to_list() == ["reject"]  # the image has another one that is open
    assert len(SIZES) > result.images
