"""A run: the tuple of stages, and what a person finds in the run folder afterwards."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import yaml

from detclean import __version__
from detclean.config import Config, config_as_yaml
from detclean.config.sections import Report
from detclean.dataset import ISSUE_TYPES, open_dataset
from detclean.distribute import Cluster, open_executor
from detclean.edit.decisions import FILE_NAME as DECISIONS
from detclean.files import settle, write_whole
from detclean.health import FILE_NAME as HEALTH
from detclean.health import measure_health, write_health
from detclean.pipeline import steps
from detclean.pipeline.sources import find_lost, watch_labels, watch_pictures
from detclean.report import write_report
from detclean.runfolder import FORMAT, Run, open_run, read_table, refuse_newer
from detclean.score.answers import compare_with_answers, read_answers
from detclean.show.progress import Display
from detclean.stages import Stage, StageResult, lock_run, run_stages

SHOWN = (HEALTH, "compare/compare.json", "hard.csv")  # files of the run folder that the report shows beside its tables
PACKAGES = ("ultralytics", "torch", "cleanlab", "numpy", "scikit-learn", "polars", "opencv-python")


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, what summary.json says, the issues as in issues.csv."""

    folder: Path
    summary: dict[str, Any]
    issues: pl.DataFrame


def run_pipeline(config: Config, display: Display) -> RunResult:
    """Everything from the data set to the run folder; stages that are complete and not stale are not repeated."""
    folder = config.folder
    refuse_newer(folder)
    if config.answers is not None:
        read_answers(config.answers)  # a key that cannot be read should not first be noticed after the training
    with lock_run(folder), find_machines(config, display) as executor:
        results = run_stages(all_stages(config, executor), folder, stage_settings(config), display)
        _publish(results["export"], folder)
        write_whole(folder / "config.yaml", config_as_yaml(config), settled=True)  # not before: it says what the results came from
        issues = read_table(folder / "issues.parquet")
        summary = _summarise(config, results, issues)
        write_whole(folder / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2), settled=True)
        renew_report(folder, display)
    return RunResult(folder, summary, issues)


def find_machines(config: Config, display: Display) -> AbstractContextManager[Cluster | None]:
    """Where the configuration has the work done; it must not change what comes out, so no stage is named by it."""
    paths = [path for path in (config.data, config.images, Path(config.model)) if isinstance(path, Path) and path.is_absolute()]
    return open_executor(config.folder, **config.executor.model_dump(), at_once=_workers(config), paths=paths, say=display.say)


def _workers(config: Config) -> int | None:
    return None if config.workers == "auto" else config.workers


def detection_stages(config: Config, executor: Cluster | None = None) -> tuple[Stage, ...]:
    """The stages from the data set to all that is gathered about its boxes. Nothing is trained for detections that the user brings."""
    reading = partial(steps.audit, cache=config.folder / "cache" / "pictures", executor=executor)
    audit = Stage("audit", watch_pictures(reading, "load", "all"), needs=("load",))
    before = (Stage("load", steps.load, content_addressed=True), audit)
    places: dict[str, Any] = {"workers": _workers(config), "device": config.train.get("device"), "executor": executor}
    folds = Stage("folds", steps.fold, needs=("load", "audit"))
    classifying = watch_pictures(partial(steps.classify, **places), "load", "part")
    crops = Stage("crops", classifying, needs=("load", "folds", "detect"), resumable=True)
    if config.predictions is not None:
        brought = (*before, Stage("detect", steps.bring, needs=("load",)))
        return (*brought, folds, crops) if config.crops == "always" else brought
    training, cycles = partial(steps.train, workers=places["workers"], executor=executor), partial(steps.record_dynamics, executor=executor)
    train = Stage("train", watch_pictures(training, "load", "part"), needs=("load", "folds"), resumable=True)
    dynamics = Stage("dynamics", watch_pictures(cycles, "load", "part"), needs=("load",), resumable=True)
    trained = {"kfold": (train,), "loss": (dynamics,), "both": (train, dynamics)}[config.method]
    look = watch_pictures(partial(steps.detect, **places), "load", "part")
    looking = Stage("detect", look, needs=("load", "folds", trained[0].name), version=2, resumable=True)
    looked = (*before, folds, *trained, looking)
    return looked if config.crops == "never" else (*looked, replace(crops, needs=(*crops.needs, trained[0].name)))


def score_stage(stages: Sequence[Stage], name: str = "score") -> Stage:
    """Scoring, with whatever evidence the stages before it gather."""
    gathered = tuple(stage.name for stage in stages if stage.name in ("dynamics", "crops"))
    return Stage(name, steps.score, needs=("load", "detect", *gathered), version=5)


def all_stages(config: Config, executor: Cluster | None) -> tuple[Stage, ...]:
    before = detection_stages(config, executor)
    folds = ("folds",) if any(stage.name == "folds" for stage in before) else ()
    loading, exporting = watch_labels(steps.load, watch_pictures(steps.export, "load", "part"))
    return (
        replace(before[0], run=loading),
        *before[1:],
        score_stage(before),
        Stage("issues", steps.issues, needs=("load", "score")),
        Stage("export", exporting, needs=("load", "audit", *folds, "detect", "score", "issues"), version=2),
    )


def stage_settings(config: Config) -> dict[str, Any]:
    """What of the configuration each stage depends on."""
    common = config.model_dump(mode="json")
    train = {name: common[name] for name in ("model", "train")} | {"seed": config.folds.seed, "weights": _digest_of(config.model)}
    if isinstance(config.train.get("pretrained"), str):
        train["pretrained"] = _digest_of(config.train["pretrained"])
    brought = {"predictions": str(config.predictions), "digest": _digest_of(config.predictions)} if config.predictions else None
    return {
        "load": {"data": str(config.data), "images": common["images"], "split": config.split},
        "folds": {**common["folds"], "split": config.split} | ({"k": 1, "repeats": 1} if config.method == "loss" else {}),
        "train": train,
        "dynamics": train | {"looks": config.score.seed},
        "detect": brought or {"predict": common["predict"], "seed": config.score.seed, "votes": config.votes},
        "crops": {"crops": config.crops, "seed": config.score.seed, "fliplr": config.train.get("fliplr", 0.5)},
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


def _publish(export: StageResult, folder: Path) -> None:
    """The export stage's files at the top of the run folder. A marker, written last, says which export they are."""
    marker = folder / "stages" / "published"
    entries = [entry for entry in sorted(export.folder.iterdir()) if entry.name not in ("seconds.json", "facts.json")]
    if marker.exists() and marker.read_bytes() == export.fingerprint.encode() and all(_is_as_long(folder / e.name, e) for e in entries):
        return
    marker.unlink(missing_ok=True)  # from here until the end the folder may hold files of two exports
    for entry in entries:
        place, beside = folder / entry.name, folder / f"{entry.name}.partial"
        _remove(beside)
        if entry.is_dir():
            shutil.copytree(entry, beside, symlinks=True)
            settle(beside)
            _remove(place)
        else:
            shutil.copyfile(entry, beside)
            settle(beside)
        os.replace(beside, place)
    published = {entry.name for entry in entries}
    for name in ("issues.csv", "issues.coco.json", "issues_yolo", "worst.jpg"):  # left by an export with other formats
        if name not in published:
            _remove(folder / name)
    write_whole(marker, export.fingerprint, settled=True)


def _is_as_long(place: Path, entry: Path) -> bool:
    """Whether what was published is there still; a file with all its bytes, while people may work in a folder."""
    return place.is_dir() if entry.is_dir() else place.is_file() and place.stat().st_size == entry.stat().st_size


def renew_report(folder: Path, display: Display) -> None:
    """health.json and report.html of a finished run, unless those that are there show the very same. Markers say what they show.

    How many pictures the page has, and whether all pictures are looked at, is what RUN/config.yaml says under `report`.
    """
    run, settings = open_run(folder), _read_report_settings(folder)
    shown = {name: value for name, value in run.summary.items() if name != "seconds"}
    decided = _digest_of(folder / DECISIONS)
    keep_matplotlib_inside(folder)
    if _is_news(folder, "healthy", folder / HEALTH, [shown, settings.image_quality, decided]):
        renew_health(run, settings.image_quality, display)
        _remember_shown(run, "healthy", [shown, settings.image_quality, decided])
    state = [shown, settings.pictures, decided, *(_digest_of(folder / name) for name in SHOWN)]
    if _is_news(folder, "reported", folder / "report.html", state):
        write_report(run, folder / "report.html", pictures=settings.pictures)
        _remember_shown(run, "reported", state)
        display.say("report.html: written")


def find_health(folder: Path, display: Display) -> dict[str, Any]:
    """The health of a finished run, measured anew, as it stands in health.json. Raises StageError."""
    run, settings = open_run(folder), _read_report_settings(folder)
    keep_matplotlib_inside(folder)
    with lock_run(folder):
        return renew_health(run, settings.image_quality, display)


def renew_health(run: Run, pictures: bool, display: Display) -> dict[str, Any]:
    """Measures the health of a run and writes health.json; pictures that an earlier look knows are not read again."""

    def progress(done: int, total: int) -> None:
        display.advance("image quality", done, total)

    document = measure_health(run, pictures=pictures, workers=steps.count_auditors(), progress=progress, log=display.log)
    write_health(run, document)
    return document


def keep_matplotlib_inside(folder: Path) -> None:
    """Before it is imported: else it would write what it remembers of fonts into the home folder."""
    os.environ.setdefault("MPLCONFIGDIR", os.path.abspath(folder / "cache" / "matplotlib"))


def _read_report_settings(folder: Path) -> Report:
    """The section `report` of the run's own config.yaml, what is missing or damaged there as by default."""
    try:
        section = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["report"]
        return Report.model_validate(section)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return Report.model_validate({})


def _is_news(folder: Path, marker: str, made: Path, state: list[Any]) -> bool:
    place = folder / "stages" / marker
    return not (made.exists() and place.exists() and place.read_bytes() == _digest_state(state).encode())


def _remember_shown(run: Run, marker: str, state: list[Any]) -> None:
    """What was made without pictures that the run has had is made again with them."""
    if find_lost(run.stage("load") / "part" / "images.parquet") is None:
        write_whole(run.folder / "stages" / marker, _digest_state(state))


def _digest_state(state: list[Any]) -> str:
    return hashlib.sha256(orjson.dumps(state, option=orjson.OPT_SORT_KEYS)).hexdigest()


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
        "format": FORMAT,
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
        "cleaned": orjson.loads((folders["export"] / "facts.json").read_bytes())
        | config.clean.model_dump(include={"strategy", "min_probability"}),
        "findings": {severity: findings.filter(pl.col("severity") == severity).height for severity in ("error", "warning", "note")},
        "folds": quality["folds"],
        "per_category": quality["per_category"],
        **scored,
        "seconds": {name: round(result.seconds, 2) for name, result in results.items()},
        "stages": {name: folder.name for name, folder in folders.items()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
    if "folds" in folders:
        summary["grouping"] = orjson.loads((folders["folds"] / "facts.json").read_bytes())
    if "crops" in folders:
        summary["crops"] = orjson.loads((folders["crops"] / "facts.json").read_bytes())
    if config.answers is not None:
        summary["answers"] = compare_with_answers(issues, config.answers)
    return summary


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
