"""A run: the tuple of stages, and what a person finds in the run folder afterwards.

The only room that knows both the configuration and the domain.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean import __version__
from detclean.audit import audit_dataset
from detclean.boxes import Boxes, Ints, read_boxes, write_boxes
from detclean.config import Config, config_as_yaml
from detclean.dataset import ISSUE_TYPES, Dataset, Finding, open_dataset, write_dataset
from detclean.detect import folds as folding
from detclean.detect.quality import category_quality, held_out_quality
from detclean.edit.proposals import propose_cleaning
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.formats import read_dataset, write_cleaned
from detclean.formats.results import read_detections
from detclean.score.answers import compare_with_answers, read_answers
from detclean.score.issues import select_issues
from detclean.score.scores import Scores, score_dataset
from detclean.show.drawing import draw_issues
from detclean.show.issue_lists import write_issues
from detclean.show.progress import Display
from detclean.stages import Stage, StageContext, StageResult, lock_run, run_stages

PACKAGES = ("ultralytics", "torch", "cleanlab", "numpy", "scikit-learn", "polars", "opencv-python")
PICTURED_ISSUES = 20  # worst issues in worst.jpg


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, what summary.json says, the issues as in issues.csv."""

    folder: Path
    summary: dict[str, Any]
    issues: pl.DataFrame


def run_pipeline(config: Config, display: Display) -> RunResult:
    """Everything from the data set to the run folder; stages that are complete and not stale are not repeated."""
    folder = config.folder
    if config.answers is not None:
        read_answers(config.answers)  # a key that cannot be read should not first be noticed after the training
    with lock_run(folder):
        results = run_stages(_stages(config), folder, _stage_settings(config), display)
        _publish(results["export"], folder)
        write_whole(folder / "config.yaml", config_as_yaml(config))  # not before: it has to say what the results beside it came from
        issues = _read_table(folder / "issues.parquet")
        summary = _summarise(config, results, issues)
        write_whole(folder / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return RunResult(folder, summary, issues)


def _stages(config: Config) -> tuple[Stage, ...]:
    """The stages in order. Where the user brings detections nothing is trained, so there is nothing to fold."""
    brought = config.predictions is not None
    train = partial(_detect, workers=None if config.workers == "auto" else config.workers)
    detect = Stage("detect", _bring, needs=("load",)) if brought else Stage("detect", train, needs=("load", "folds"), resumable=True)
    folds = () if brought else (Stage("folds", _fold, needs=("load", "audit")),)
    return (
        Stage("load", _load, content_addressed=True),
        Stage("audit", _audit, needs=("load",)),
        *folds,
        detect,
        Stage("score", _score, needs=("load", "detect")),
        Stage("issues", _issues, needs=("load", "score")),
        Stage("export", _export, needs=("load", "audit", *(stage.name for stage in folds), "detect", "score", "issues")),
    )


def _stage_settings(config: Config) -> dict[str, Any]:
    """What of the configuration each stage depends on."""
    common = config.model_dump(mode="json")
    if config.predictions is None:
        detect = {name: common[name] for name in ("model", "train", "predict")} | {
            "seed": config.folds.seed,
            "weights": _digest_of(config.model),
        }
        if isinstance(config.train.get("pretrained"), str):
            detect["pretrained"] = _digest_of(config.train["pretrained"])
    else:
        detect = {"predictions": str(config.predictions), "digest": _digest_of(config.predictions)}
    return {
        "load": {"data": str(config.data), "images": common["images"], "split": config.split},
        "folds": {**common["folds"], "split": config.split},
        "detect": detect,
        "score": common["score"],
        "issues": common["issues"],
        "export": {**common["clean"], **common["export"], "final": os.path.abspath(config.folder)},
    }


def _digest_of(path: str | Path) -> str | None:
    """A digest of a file's bytes, or of a folder's names, sizes and times; None where the name is no file here."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    if path.is_dir():
        entries = sorted((file.as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file())
        return hashlib.sha256(repr(entries).encode()).hexdigest()
    return None


# --- the stages ---------------------------------------------------------------------------------------------------------------------


def _load(context: StageContext) -> None:
    """The data set as it is now: all/ every split, part/ what is to be cleaned."""
    settings = context.settings
    whole = read_dataset(settings["data"], settings["images"])
    whole = replace(whole, images=_with_file_state(whole.images))
    part = whole.select_split(settings["split"])
    if part.image_count == 0:
        known = ", ".join(sorted({split for split in whole.images["split"].to_list() if split}))
        raise DatasetError(f"{settings['data']}: no image in split '{settings['split']}'; set split to one of {known or 'all'}, or all")
    for name, dataset in (("all", whole), ("part", part)):
        (context.out / name).mkdir(exist_ok=True)
        write_dataset(dataset, context.out / name)
    boxes, images = len(part.annotations), part.image_count
    context.display.say(f"{images:,} images with {boxes:,} annotations of {len(part.categories)} categories")


def _with_file_state(images: pl.DataFrame) -> pl.DataFrame:
    """Size and time of every picture: when one changes, what was made from it is stale."""
    states = []
    for path in images["path"].to_list():
        try:
            state = os.stat(path) if path else None
        except OSError:
            state = None
        states.append((state.st_size, state.st_mtime_ns) if state else (None, None))
    size, modified = zip(*states, strict=True) if states else ((), ())
    return images.with_columns(bytes=pl.Series(size, dtype=pl.Int64), modified_ns=pl.Series(modified, dtype=pl.Int64))


def _audit(context: StageContext) -> None:
    """Findings, and which pictures repeat each other. What cannot be lived with stops the run here, before any training."""
    dataset = open_dataset(context.inputs["load"] / "all")
    workers = min(os.cpu_count() or 1, 8)
    audit = audit_dataset(dataset, workers=workers, progress=_bar(context.display, "pictures"))
    errors = [finding for finding in audit.findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; `python -m detclean check` lists them)" if len(errors) > 1 else ""
        raise DatasetError(f"{errors[0]}{more}")
    _write_findings(audit.findings, context.out / "findings.parquet")
    audit.duplicates.write_parquet(context.out / "duplicates.parquet")
    counts = Counter(finding.severity for finding in audit.findings)
    told = (f"{count} {severity}{'' if count == 1 else 's'}" for severity in ("warning", "note") for count in [counts[severity]])
    context.display.say(f"audit: {', '.join(told)}")


def _write_findings(findings: Sequence[Finding], path: Path) -> None:
    schema = dict.fromkeys(("kind", "severity", "where", "message"), pl.String)
    pl.DataFrame([asdict(finding) for finding in findings], schema=schema).write_parquet(path)


def _fold(context: StageContext) -> None:
    """Which fold holds out which image, groups kept together."""
    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    groups: Ints = np.arange(dataset.image_count)
    if settings["group_by"] != "none":
        whole = open_dataset(context.inputs["load"] / "all")
        pattern = None if settings["group_by"] == "auto" else settings["group_by"]
        all_groups = folding.group_images(whole, _read_table(context.inputs["audit"] / "duplicates.parquet"), pattern)
        groups = all_groups[whole.split_mask(settings["split"])]
    folds = folding.make_folds(dataset, groups, k=settings["k"], repeats=settings["repeats"], seed=settings["seed"])
    leaks = folding.count_prevented_leaks(groups, k=settings["k"], seed=settings["seed"])
    _write_findings(folding.find_fold_faults(dataset, folds), context.out / "findings.parquet")
    pl.DataFrame({f"repeat_{i}": row for i, row in enumerate(folds)}).write_parquet(context.out / "folds.parquet")
    write_whole(context.out / "facts.json", orjson.dumps({"groups": len(np.unique(groups)), "leaks_prevented": leaks}))
    context.display.say(f"folds: {leaks} pairs of near-duplicate images kept together that a plain split would have torn apart")


def _detect(context: StageContext, workers: int | None) -> None:
    """Out-of-fold detections by Ultralytics YOLO, trained here."""
    from detclean.detect.yolo import detect_out_of_fold

    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    folds = _read_table(context.inputs["folds"] / "folds.parquet").to_numpy().T
    detections = detect_out_of_fold(
        dataset,
        folds,
        context.out,
        model=settings["model"],
        train=settings["train"],
        predict=settings["predict"],
        seed=settings["seed"],
        workers=workers,
        display=context.display,
    )
    _finish_detections(dataset, detections, folds, context.out)


def _bring(context: StageContext) -> None:
    """Detections that the user brought; the images count as one fold."""
    dataset = open_dataset(context.inputs["load"] / "part")
    detections = read_detections(context.settings["predictions"], dataset)
    zeros = np.zeros(len(detections), np.int64)
    detections = replace(detections, fold=zeros, repeat=zeros)
    _finish_detections(dataset, detections, np.zeros((1, dataset.image_count), np.int64), context.out)


def _finish_detections(dataset: Dataset, detections: Boxes, folds: Any, out: Path) -> None:
    write_boxes(detections, out / "detections.parquet")
    pl.DataFrame({"fold": folds[0]}).write_parquet(out / "folds.parquet")
    quality = {"folds": held_out_quality(dataset, detections, folds), "per_category": category_quality(dataset, detections)}
    write_whole(out / "quality.json", orjson.dumps(quality))


def _score(context: StageContext) -> None:
    dataset = open_dataset(context.inputs["load"] / "part")
    detections = read_boxes(context.inputs["detect"] / "detections.parquet")
    scores = score_dataset(dataset, detections, **context.settings, progress=_bar(context.display, "planting rounds"))
    scores.annotations.write_parquet(context.out / "annotations.parquet")
    scores.candidates.write_parquet(context.out / "candidates.parquet")
    scores.images.write_parquet(context.out / "images.parquet")
    write_whole(context.out / "facts.json", orjson.dumps(scores.facts))
    if not scores.facts["calibrated"]:
        context.display.say("score: too little data to learn how far the detector may be believed; simple rules decide instead")


def _open_scores(folder: Path) -> Scores:
    annotations, candidates, images = (_read_table(folder / f"{name}.parquet") for name in ("annotations", "candidates", "images"))
    return Scores(annotations, candidates, images, orjson.loads((folder / "facts.json").read_bytes()))


def _issues(context: StageContext) -> None:
    dataset = open_dataset(context.inputs["load"] / "part")
    issues = select_issues(_open_scores(context.inputs["score"]), dataset, **context.settings)
    issues.write_parquet(context.out / "issues.parquet")


def _export(context: StageContext) -> None:
    """All that the run folder shows of the results, and the cleaned data set."""
    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    scores = _open_scores(context.inputs["score"])
    issues = _read_table(context.inputs["issues"] / "issues.parquet")
    write_issues(issues, dataset, context.out, settings["formats"])
    _write_tables(dataset, scores, context.inputs["detect"], context.out)
    findings = [_read_table(context.inputs[name] / "findings.parquet") for name in ("audit", "folds") if name in context.inputs]
    pl.concat(findings).write_csv(context.out / "findings.csv")
    draw_issues(dataset, issues.head(PICTURED_ISSUES), context.out / "worst.jpg")
    cleaning = propose_cleaning(dataset, issues, settings["strategy"], settings["min_probability"])
    final = Path(settings["final"]) / "cleaned"
    write_cleaned(
        dataset, cleaning.edits, context.out / "cleaned", drop_images=cleaning.drop_images, copy_images=settings["copy_images"], final=final
    )
    counts = Counter(edit.action for edit in cleaning.edits)
    facts = {"edits": dict(counts), "images_dropped": len(cleaning.drop_images)}
    write_whole(context.out / "facts.json", orjson.dumps(facts))


def _write_tables(dataset: Dataset, scores: Scores, detect: Path, out: Path) -> None:
    internal = ("image_index", "annotation", "twin")
    scores.annotations.drop(internal).write_parquet(out / "annotations.parquet")
    scores.candidates.drop("image_index").write_parquet(out / "candidates.parquet")
    fold = _read_table(detect / "folds.parquet")["fold"]
    scores.images.with_columns(fold=fold).write_parquet(out / "images.parquet")
    boxes = _read_table(detect / "detections.parquet")
    image = boxes["image_index"]
    names = pl.Series(dataset.categories, dtype=pl.String)
    identity = {name: dataset.images[name].gather(image) for name in ("image_id", "file_name")}
    pl.DataFrame(identity).hstack(boxes.drop("image_index").with_columns(category=names.gather(boxes["category"]))).write_parquet(
        out / "detections.parquet"
    )


def _read_table(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, glob=False)  # brackets in a path are no pattern


def _bar(display: Display, what: str) -> Any:
    def progress(done: int, total: int) -> None:
        display.advance(what, done, total)

    return progress


# --- the run folder -----------------------------------------------------------------------------------------------------------------


def _publish(export: StageResult, folder: Path) -> None:
    """The export stage's files at the top of the run folder. A marker, written last, says which export they are."""
    marker = folder / "stages" / "published"
    entries = [entry for entry in sorted(export.folder.iterdir()) if entry.name not in ("seconds.json", "facts.json")]
    if marker.exists() and marker.read_text() == export.fingerprint and all((folder / entry.name).exists() for entry in entries):
        return
    marker.unlink(missing_ok=True)  # from here until the end the folder may hold files of two exports
    for entry in entries:
        place, beside = folder / entry.name, folder / f"{entry.name}.partial"
        _remove(beside)
        if entry.is_dir():
            shutil.copytree(entry, beside, symlinks=True)
            _remove(place)
        else:
            shutil.copyfile(entry, beside)
        os.replace(beside, place)
    published = {entry.name for entry in entries}
    for name in ("issues.csv", "issues.coco.json", "issues_yolo", "worst.jpg"):  # left by an export with other formats
        if name not in published:
            _remove(folder / name)
    write_whole(marker, export.fingerprint)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _summarise(config: Config, results: dict[str, StageResult], issues: pl.DataFrame) -> dict[str, Any]:
    """What summary.json holds: counts, expected and realised figures, seconds per stage, versions."""
    folders = {name: result.folder for name, result in results.items()}
    dataset = open_dataset(folders["load"] / "part")
    quality = orjson.loads((folders["detect"] / "quality.json").read_bytes())
    scored = orjson.loads((folders["score"] / "facts.json").read_bytes())
    findings = pl.read_csv(config.folder / "findings.csv", infer_schema=False, glob=False)
    per_type = {
        kind: {
            "issues": (mine := issues.filter(pl.col("issue_type") == kind)).height,
            "expected_wrong": round(float(mine["probability"].sum()), 2),
            "noisy": mine.filter(pl.col("verdict") == "noisy").height,
        }
        for kind in ISSUE_TYPES
    }
    summary: dict[str, Any] = {
        "detclean": __version__,
        "name": config.name,
        "data": str(config.data),
        "split": config.split,
        "images": dataset.image_count,
        "annotations": len(dataset.annotations),
        "categories": list(dataset.categories),
        "issues": {
            "total": issues.height,
            "expected_wrong": round(float(issues["probability"].sum()), 2),
            "expected_precision": round(float(issues["probability"].to_numpy().mean()), 4) if issues.height else None,
            "per_type": per_type,
        },
        "cleaned": orjson.loads((folders["export"] / "facts.json").read_bytes()) | {"strategy": config.clean.strategy},
        "findings": {severity: findings.filter(pl.col("severity") == severity).height for severity in ("error", "warning", "note")},
        "folds": quality["folds"],
        "per_category": quality["per_category"],
        **scored,
        "seconds": {name: round(result.seconds, 2) for name, result in results.items()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
    if "folds" in folders:
        summary["grouping"] = orjson.loads((folders["folds"] / "facts.json").read_bytes())
    if config.answers is not None:
        summary["answers"] = compare_with_answers(issues, config.answers)
    return summary


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
