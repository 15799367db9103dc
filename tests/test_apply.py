"""Accepted decisions reach the labels and come out again, to the byte, in every format."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from finished import finish_run
from tiny import digests

from detclean.edit.changes import propose_after
from detclean.edit.decisions import Decision, DecisionLog
from detclean.edit.patch import Applied
from detclean.errors import DatasetError, StageError
from detclean.formats import read_dataset
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
        copy = Path(entry["path"]).read_bytes()
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
    with pytest.raises(DatasetError, match="is not the copy that this run made"):
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


def test_boxes_that_no_issue_names(run: Run) -> None:
    image_id, name = run.dataset.images["image_id"][0], run.dataset.categories[0]
    taken = run.dataset.annotations.annotation_id
    assert taken is not None
    DecisionLog(run.folder).append(
        [
            Decision("box-1", "accept", image_id, None, name, (2.0, 3.0, 20.0, 30.0)),
            Decision(f"box-annotation-{taken[0]}", "accept", image_id, taken[0].item() if hasattr(taken[0], "item") else taken[0]),
            Decision("box-2", "accept", "elsewhere", None, name, (2.0, 3.0, 20.0, 30.0)),
            Decision("0123456789ab", "accept", image_id, None, name, (2.0, 3.0, 20.0, 30.0)),
        ]
    )
    outcome = apply_decisions(run.folder)
    assert (outcome.applied.edits, outcome.strangers) == (2, 2)
    assert len(reread(outcome.applied, run)) == len(read_dataset(run.summary["data"]).annotations)


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


def test_caches_of_label_folders_do_not_survive_an_edit(finished: dict[str, Path], run: Run) -> None:
    if run.dataset.format != "yolo":
        return
    accept_all(run)
    cache = source_of(run) / "labels" / "train.cache"
    cache.write_bytes(b"old")
    apply_decisions(run.folder, in_place=True)
    assert not cache.exists()
    cache.write_bytes(b"made anew by a training")
    undo_decisions(run.folder)
    assert cache.read_bytes() == b"old"
