"""Accepted decisions reach the labels and come out again, to the byte, in every format."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from finished import finish_run
from tiny import digests

from detclean.dataset import Edit
from detclean.edit.changes import find_changes, propose_after
from detclean.edit.decisions import Decision, DecisionLog, Verdict, read_decisions
from detclean.edit.patch import Applied
from detclean.errors import DatasetError, StageError
from detclean.formats import edit_sources, read_dataset
from detclean.pipeline.apply import apply_decisions, undo_decisions
from detclean.runfolder import Run, open_run

KINDS = ("yolo", "coco", "voc")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: finish_run(tmp_path_factory.mktemp(kind) / "a [b] #ü", kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, finished: dict[str, Path]) -> Run:
    """A finished run as if nothing had been decided, with its data set beside it as it was."""
    folder = finished[request.param]
    data = folder.parent.parent / "data"
    keep = data.with_name("data.kept")
    if keep.exists():
        shutil.rmtree(data)
        shutil.copytree(keep, data)
    else:
        shutil.copytree(data, keep)
    for name in ("applied", "patches"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("decisions.jsonl", "patch.json"):
        (folder / name).unlink(missing_ok=True)
    return open_run(folder)


def source_of(run: Run) -> Path:
    return run.folder.parent.parent / "data"


def accept_all(run: Run) -> list[Decision]:
    """Every proposal accepted; nothing for an issue that proposes nothing."""
    decisions = []
    for row in run.issues.iter_rows(named=True):
        if row["action"] == "review":
            continue
        after = propose_after(row)
        decision = Decision(row["issue_id"], "accept", row["image_id"], row["annotation_id"])
        decisions.append(decision if after is None else replace(decision, category=after.category, xyxy=after.xyxy))
    DecisionLog(run.folder).append(decisions)
    return decisions


def reread(applied: Applied, run: Run) -> list[tuple[str, str, list[float]]]:
    """File name, category and box of every annotation of the applied data set."""
    target = applied.target
    place = target / "data.yaml" if (target / "data.yaml").is_file() else target / "annotations.json"
    dataset = read_dataset(place if place.is_file() else target)
    names, boxes = dataset.images["file_name"].to_list(), dataset.annotations
    return [
        (Path(names[image]).stem[-2:], dataset.categories[category], xyxy)
        for image, category, xyxy in zip(boxes.image_index, boxes.category, boxes.xyxy.tolist(), strict=True)
    ]


def test_a_cleaned_copy_and_back(run: Run) -> None:
    decisions = accept_all(run)
    before = digests(source_of(run))
    outcome = apply_decisions(run.folder)
    applied = outcome.applied
    assert (applied.edits, outcome.strangers, applied.known) == (len(decisions), 0, False)
    assert digests(source_of(run)) == before  # the user's files are as they were
    objects = reread(applied, run)
    for decision in decisions:
        if decision.xyxy is not None:
            stem = Path(str(decision.image_id)).stem[-2:] if isinstance(decision.image_id, str) else None
            close = [box for name, category, box in objects if category == decision.category and stem in (None, name)]
            assert min(max(abs(a - b) for a, b in zip(box, decision.xyxy, strict=True)) for box in close) < 1.01  # VOC has whole numbers
    deleted = sum(decision.xyxy is None for decision in decisions)
    added = sum(decision.annotation_id is None for decision in decisions)
    everything = read_dataset(run.summary["data"])
    assert len(objects) == len(everything.annotations) - deleted + added

    patch = orjson.loads((run.folder / "patch.json").read_bytes())
    assert [edit["issue"] for edit in patch["edits"]] == [decision.issue for decision in decisions]
    assert all(edit["before"] or edit["after"] for edit in patch["edits"])
    assert patch["edits"][0]["before"]["category"] in run.dataset.categories

    undone = undo_decisions(run.folder)
    assert undone.files == applied.files
    for entry in patch["files"]:
        copy = (run.folder / entry["path"]).read_bytes()
        original = next(source_of(run).rglob(Path(entry["path"]).name)).read_bytes()
        if run.dataset.format == "coco":  # in a copy the document's records are joined anew
            assert orjson.loads(copy) == orjson.loads(original)
        else:
            assert copy == original
    assert not (run.folder / "patch.json").exists()
    assert apply_decisions(run.folder).applied == applied


def test_a_folder_of_somebody_elses_is_left_alone(run: Run) -> None:
    accept_all(run)
    (run.folder / "applied").mkdir()
    (run.folder / "applied" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not as detclean left it"):
        apply_decisions(run.folder)
    assert (run.folder / "applied" / "notes.txt").read_text() == "mine"


def test_applying_twice_changes_nothing(run: Run) -> None:
    accept_all(run)
    for in_place in (False, True):
        first = apply_decisions(run.folder, in_place=in_place).applied
        after = {path: path.stat().st_mtime_ns for path in first.target.rglob("*")} or first.target.read_bytes()
        again = apply_decisions(run.folder, in_place=in_place).applied
        assert again.known
        assert ({path: path.stat().st_mtime_ns for path in first.target.rglob("*")} or first.target.read_bytes()) == after
        undo_decisions(run.folder)


def test_in_place_and_back_to_the_byte(run: Run) -> None:
    accept_all(run)
    before = digests(source_of(run))
    applied = apply_decisions(run.folder, in_place=True).applied
    changed = digests(source_of(run))
    assert {name for name in before if changed.get(name) != before[name]} == {
        Path(entry["path"]).relative_to(source_of(run).resolve()).as_posix()
        for entry in orjson.loads(applied.patch.joinpath("patch.json").read_bytes())["files"]
    }
    assert changed != before
    undo_decisions(run.folder)
    assert digests(source_of(run)) == before
    with pytest.raises(DatasetError, match="nothing is applied"):
        undo_decisions(run.folder)


def test_a_decision_taken_back_leaves_the_labels(run: Run) -> None:
    decisions = accept_all(run)
    before = digests(source_of(run))
    apply_decisions(run.folder, in_place=True)
    DecisionLog(run.folder).append([replace(decision, verdict="open", category=None, xyxy=None) for decision in decisions[1:]])
    second = apply_decisions(run.folder, in_place=True).applied
    assert (second.edits, second.files) == (1, 1)
    assert sum(before[name] != digest for name, digest in digests(source_of(run)).items()) == 1
    undo_decisions(run.folder)
    assert digests(source_of(run)) == before


def test_labels_that_changed_since_the_run_are_named(run: Run) -> None:
    decisions = accept_all(run)
    row = next(row for row in run.issues.iter_rows(named=True) if row["issue_id"] == decisions[-1].issue)
    label = run.dataset.images["label_path"][row["image_index"]]
    path = Path(label) if label else run.dataset.source
    content = path.read_bytes()
    path.write_bytes(
        {"yolo": content + b"\n1 0.5 0.5 0.1 0.1\n", "coco": content.replace(b'"category_id": 2', b'"category_id": 5', 1)}.get(
            run.dataset.format, content.replace(b"<xmax>", b"<xmax>1", 1)
        )
    )
    before = digests(source_of(run))
    for in_place in (False, True):
        with pytest.raises(DatasetError, match=r"has changed since the run; nothing was written") as refused:
            apply_decisions(run.folder, in_place=in_place)
        assert (path.name if label else "annotation ") in str(refused.value)
    assert digests(source_of(run)) == before
    assert not (run.folder / "applied").exists()


def test_undo_overwrites_nobodys_work(run: Run) -> None:
    accept_all(run)
    applied = apply_decisions(run.folder, in_place=True).applied
    path = Path(orjson.loads((applied.patch / "patch.json").read_bytes())["files"][0]["path"])
    path.write_bytes(path.read_bytes() + b"\n")
    before = digests(source_of(run))
    for again in (lambda: undo_decisions(run.folder), lambda: apply_decisions(run.folder, in_place=True)):
        with pytest.raises(DatasetError, match="changed since detclean edited it") as refused:
            again()
        assert str(path) in str(refused.value)
    assert digests(source_of(run)) == before


def test_what_was_stopped_in_the_middle_is_finished_or_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_all(run)
    before = digests(source_of(run))
    whole = apply_decisions(run.folder, in_place=True).applied
    wanted = digests(source_of(run))
    undo_decisions(run.folder)
    for finish in (True, False):
        stop_after(1 if whole.files > 1 else 0, monkeypatch, source_of(run))
        with pytest.raises(KeyboardInterrupt):
            apply_decisions(run.folder, in_place=True)
        monkeypatch.undo()
        assert digests(source_of(run)) != wanted
        if finish:
            apply_decisions(run.folder, in_place=True)
            assert digests(source_of(run)) == wanted
        undo_decisions(run.folder)
        assert digests(source_of(run)) == before


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
    """Ctrl-C at the rename of a label file, after so many."""
    real, done = os.replace, []

    def rename(source: str | Path, target: str | Path) -> None:
        if Path(target).is_relative_to(below.resolve()):
            if len(done) == count:
                Path(source).unlink()
                raise KeyboardInterrupt
            done.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", rename)


def test_issues_that_are_sure_enough_without_decisions(run: Run) -> None:
    sure = run.issues.filter(run.issues["action"] != "review")
    least = float(sure["probability"].max())  # type: ignore[arg-type]
    assert apply_decisions(run.folder, auto=least).applied.edits == 1
    worst = sure.row(0, named=True)
    DecisionLog(run.folder).append([Decision(worst["issue_id"], "reject", worst["image_id"], worst["annotation_id"])])
    with pytest.raises(DatasetError, match="no accepted decision changes anything"):
        apply_decisions(run.folder, auto=least)
    assert apply_decisions(run.folder, auto=0.0).applied.edits == sure.height - 1


def annotation_of(run: Run, position: int, verdict: Verdict = "accept", **more: Any) -> Decision:
    """A decision about an annotation that no issue names: it is to go, if nothing else is said."""
    boxes, ids = run.dataset.annotations, run.dataset.annotations.annotation_id
    assert ids is not None
    image_id = run.dataset.images["image_id"][int(boxes.image_index[position])]
    x1, y1, x2, y2 = boxes.xyxy[position].tolist()
    given = {"given_category": run.dataset.categories[boxes.category[position]], "given_xyxy": (x1, y1, x2, y2)}
    identity = ids[position].item() if hasattr(ids[position], "item") else ids[position]
    return Decision(f"box-annotation-{identity}", verdict, image_id, identity, **given, **more)


def test_boxes_that_no_issue_names(run: Run) -> None:
    image_id, name = run.dataset.images["image_id"][0], run.dataset.categories[0]
    gone = annotation_of(run, 0)
    DecisionLog(run.folder).append(
        [
            Decision("box-1", "accept", image_id, None, name, (2.0, 3.0, 20.0, 30.0)),
            gone,
            Decision("box-2", "accept", "elsewhere", None, name, (2.0, 3.0, 20.0, 30.0)),
            replace(gone, issue="0123456789ab", annotation_id=99_999, given_xyxy=(0.0, 0.0, 1.0, 1.0)),
        ]
    )
    outcome = apply_decisions(run.folder)
    assert (outcome.applied.edits, outcome.strangers) == (2, 2)
    assert len(reread(outcome.applied, run)) == len(read_dataset(run.summary["data"]).annotations)


def test_an_annotation_is_known_by_what_it_was_and_not_by_its_number(run: Run) -> None:
    other = replace(annotation_of(run, 3), annotation_id=annotation_of(run, 0).annotation_id)
    changes = find_changes(run.dataset, run.issues, {other.issue: other})
    assert [change.annotation for change in changes.all] == [3]


def test_what_stands_there_already_is_not_added_again(run: Run) -> None:
    there = annotation_of(run, 2)
    assert there.given_xyxy is not None
    x1, y1, x2, y2 = there.given_xyxy
    added = Decision("box-1", "accept", there.image_id, None, there.given_category, (x1 + 0.2, y1, x2, y2))
    elsewhere = replace(added, issue="box-2", xyxy=(x1 + 9, y1, x2 + 9, y2))
    other = replace(added, issue="box-3", category=next(name for name in run.dataset.categories if name != there.given_category))
    decisions = {decision.issue: decision for decision in (added, elsewhere, other)}
    assert [change.issue for change in find_changes(run.dataset, run.issues, decisions).all] == ["box-2", "box-3"]


def test_the_last_word_about_an_annotation_counts_whatever_its_name(run: Run) -> None:
    row = next(row for row in run.issues.iter_rows(named=True) if row["annotation"] is not None)
    by_hand = replace(annotation_of(run, row["annotation"]), issue="box-other")
    kept = Decision(row["issue_id"], "reject", row["image_id"], row["annotation_id"])
    log = DecisionLog(run.folder)
    for verdict, count in (("reject", 0), ("hard", 0), ("skip", 1), ("open", 1)):
        log.append([by_hand, replace(kept, verdict=verdict)])
        assert len(find_changes(run.dataset, run.issues, read_decisions(run.folder)).all) == count
    log.append([kept, by_hand])  # and the other way round
    assert len(find_changes(run.dataset, run.issues, read_decisions(run.folder)).all) == 1


def test_an_accepted_issue_that_is_not_listed_any_more_still_counts(run: Run) -> None:
    gone = replace(annotation_of(run, 0), issue="0123456789ab")
    missing = Decision("ba9876543210", "accept", gone.image_id, None, run.dataset.categories[0], (2.0, 3.0, 20.0, 30.0))
    changes = find_changes(run.dataset, run.issues, {decision.issue: decision for decision in (gone, missing)})
    assert [(change.annotation, change.after is None) for change in changes.all] == [(0, True), (None, False)]


def test_a_category_that_is_none_is_refused(run: Run) -> None:
    DecisionLog(run.folder).append(
        [Decision("box-1", "accept", run.dataset.images["image_id"][0], None, "unicorn", (2.0, 3.0, 20.0, 30.0))]
    )
    with pytest.raises(DatasetError, match="category 'unicorn' is not in the data set"):
        apply_decisions(run.folder)


def test_nothing_to_apply_and_no_run(tmp_path: Path, run: Run) -> None:
    with pytest.raises(DatasetError, match="--auto"):
        apply_decisions(run.folder)
    for what in (apply_decisions, undo_decisions):
        with pytest.raises(StageError):
            what(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_work_in_the_copy_is_not_replaced(run: Run) -> None:
    decisions = accept_all(run)
    applied = apply_decisions(run.folder).applied
    DecisionLog(run.folder).append([replace(decisions[0], verdict="open", category=None, xyxy=None)])
    for spoil in ("notes.txt", next(name for name in digests(applied.target) if name.endswith((".txt", ".xml", ".json")))):
        path = applied.target / spoil
        content = path.read_bytes() if path.exists() else None
        path.write_bytes((content or b"") + b"\n")
        with pytest.raises(DatasetError, match="not as detclean left it") as refused:
            apply_decisions(run.folder)
        assert spoil in str(refused.value)
        path.unlink() if content is None else path.write_bytes(content)
    again = apply_decisions(run.folder).applied
    assert (again.edits, again.replaced) == (len(decisions) - 1, len(decisions))


def test_training_on_the_copy_is_no_change_of_it(run: Run) -> None:
    if run.dataset.format != "yolo":
        return
    accept_all(run)
    cache = apply_decisions(run.folder).applied.target / "labels" / "train.cache"
    cache.write_bytes(b"of the edited labels")
    undo_decisions(run.folder)
    assert not cache.exists()  # else the next training would read it for labels of the same size
    cache.write_bytes(b"of the labels as they were")
    assert not apply_decisions(run.folder).applied.known
    assert not cache.exists()


def test_a_run_folder_that_was_moved_or_copied_undoes_its_own_copy(run: Run, tmp_path: Path) -> None:
    accept_all(run)
    applied = apply_decisions(run.folder).applied
    mine = digests(applied.target)
    elsewhere = Path(shutil.copytree(run.folder, tmp_path / "moved", symlinks=True))
    assert undo_decisions(elsewhere).target == elsewhere / "applied"
    assert digests(applied.target) == mine


def test_categories_that_were_renumbered_are_noticed(run: Run) -> None:
    accept_all(run)
    if run.dataset.format == "voc":  # has names only
        return
    path = run.dataset.source
    text = path.read_text()
    if run.dataset.format == "yolo":
        path.write_text(text.replace("0: red square", "0: blue square").replace("2: blue square", "2: red square"))
    else:
        path.write_text(text.replace('"id": 2, "name"', '"id": 99, "name"').replace('"category_id": 2,', '"category_id": 99,'))
    for in_place in (False, True):
        with pytest.raises(DatasetError, match="categories or their numbers: have changed since the run"):
            apply_decisions(run.folder, in_place=in_place)


def test_two_names_of_one_label_file(run: Run) -> None:
    if run.dataset.format != "yolo":
        return
    first, second = (Path(run.dataset.images["label_path"][i]) for i in (0, 1))
    second.unlink()
    second.symlink_to(first)
    before = first.read_bytes()
    name = run.dataset.categories[0]
    box = (2.0, 3.0, 20.0, 30.0)
    edits = [Edit("add", i, None, run.dataset.categories.index(name), box) for i in (0, 1)]
    edited = edit_sources(run.dataset, edits)
    assert list(edited) == [first.resolve()]
    assert len(edited[first.resolve()].splitlines()) == len(before.splitlines()) + 1  # the same object, seen under both names
    edits[1] = replace(edits[1], xyxy=(40.0, 3.0, 60.0, 30.0))
    assert len(edit_sources(run.dataset, edits)[first.resolve()].splitlines()) == len(before.splitlines()) + 2


def test_mode_and_owner_stay(run: Run) -> None:
    accept_all(run)
    applied = apply_decisions(run.folder, in_place=True).applied
    [path, *_] = [Path(entry["path"]) for entry in orjson.loads((applied.patch / "patch.json").read_bytes())["files"]]
    undo_decisions(run.folder)
    path.chmod(0o640)
    owner = 12345 if os.getuid() == 0 else os.getuid()
    os.chown(path, owner, -1)
    for what in (lambda: apply_decisions(run.folder, in_place=True), lambda: undo_decisions(run.folder)):
        what()
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o640, owner)


def test_read_only_labels_are_not_edited(run: Run) -> None:
    accept_all(run)
    labels = [path for path in source_of(run).rglob("*") if path.suffix in (".txt", ".json", ".xml")]
    for path in labels:
        path.chmod(0o444)
    before = digests(source_of(run))
    with pytest.raises(DatasetError, match="read-only; nothing was written"):
        apply_decisions(run.folder, in_place=True)
    assert digests(source_of(run)) == before
    assert not (run.folder / "patch.json").exists()
    assert apply_decisions(run.folder).applied.edits  # a copy can be made


def test_when_every_decision_was_taken_back_undo_is_named(run: Run) -> None:
    decisions = accept_all(run)
    apply_decisions(run.folder)
    DecisionLog(run.folder).append([replace(decision, verdict="open", category=None, xyxy=None) for decision in decisions])
    with pytest.raises(DatasetError, match="detclean undo"):
        apply_decisions(run.folder)


def test_what_applying_does_not_need_may_be_gone(run: Run) -> None:
    accept_all(run)
    results = run.folder.parent.parent / "results.json"
    results.rename(results.with_name("moved.json"))
    try:
        assert apply_decisions(run.folder).applied.edits
    finally:
        results.with_name("moved.json").rename(results)


def test_caches_of_label_folders_do_not_survive_an_edit(finished: dict[str, Path], run: Run) -> None:
    if run.dataset.format != "yolo":
        return
    accept_all(run)
    cache, elses = source_of(run) / "labels" / "train.cache", source_of(run).with_suffix(".cache")
    elses.write_bytes(b"of another program")
    cache.write_bytes(b"old")
    apply_decisions(run.folder, in_place=True)
    assert not cache.exists()
    assert elses.exists()
    cache.write_bytes(b"made anew by a training")
    undo_decisions(run.folder)
    assert cache.read_bytes() == b"old"
