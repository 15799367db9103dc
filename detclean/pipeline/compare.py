"""Whether cleaning helps, on the user's own data: the same model trained on each version of the labels, judged on images nobody cleaned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean import __version__
from detclean.boxes import Boxes, read_boxes, write_boxes
from detclean.config import Config, read_config
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.detect.yolo import predict_out_of_fold
from detclean.distribute import Cluster
from detclean.edit.changes import as_edits, find_changes
from detclean.edit.decisions import read_decisions
from detclean.edit.proposals import Cleaning, Strategy, propose_cleaning
from detclean.edit.versions import clean_in_memory, draw_control, join_with_test
from detclean.errors import ConfigError, DatasetError
from detclean.files import write_whole
from detclean.measure.comparison import Version, compare_versions
from detclean.pipeline.run import find_machines, stage_settings
from detclean.pipeline.steps import train_models
from detclean.runfolder import Run, open_run, read_table
from detclean.score.issues import NOISY
from detclean.show.comparison_table import draw_comparison, draw_confusions, write_comparison_markdown
from detclean.show.progress import Display
from detclean.stages import Stage, StageContext, StageResult, lock_run, run_stages

GIVEN = "as given"
STRATEGIES: tuple[Strategy, ...] = ("fix", "drop_boxes", "drop_images")
CONTROL = "random, as much as {}"
TEST_SPLITS = ("test", "val")


@dataclass(frozen=True)
class Labels:
    """One version of the labels: its name, the slug of its stages, what is done to the labels as given, and of what it is the control."""

    name: str
    slug: str
    cleaning: Cleaning
    control_of: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and what compare.json says."""

    folder: Path
    document: dict[str, Any]


def compare_strategies(folder: str | Path, strategies: Sequence[str], seeds: int, display: Display) -> Comparison:
    """Trains on the labels as given, on each strategy's version and on a random control of each -> compare.json, .md, two pictures.

    All with the run's own model and training settings, the same seeds, and judged on the same images of another split, which no stage has
    cleaned. What is trained already is not trained again. Raises ConfigError, DatasetError and StageError.
    """
    run = open_run(folder)
    config = read_config(run.folder / "config.yaml", [])
    if unknown := [name for name in strategies if name not in STRATEGIES]:
        raise ConfigError(f"--strategies {unknown[0]}: is none of {', '.join(STRATEGIES)}")
    if config.predictions is not None:
        raise ConfigError(
            f"{run.folder}: its detections were brought, so there are no training settings to compare with; set model and train"
        )
    out = run.folder / "compare"
    test = _find_test(run)
    split = str(test.images["split"][0])
    display.say(f"compare: judged on the {test.image_count} images of '{split}', {seeds} seeds")
    versions = _list_versions(run, config, strategies)
    with lock_run(out), find_machines(config, display) as executor:
        results = run_stages(_stages(config, versions, executor), out, _settings(config, run, versions, split, seeds), display)
        judged = [_read_version(version, results) for version in versions]
        document = compare_versions(test, judged)
        document |= {"detclean": __version__, "name": run.summary["name"], "model": config.model, "test": split}
        document["seconds"] = {name: round(result.seconds, 2) for name, result in results.items()}
        write_whole(out / "compare.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        write_whole(out / "compare.md", write_comparison_markdown(document))
        draw_comparison(document, out / "compare.png")
        draw_confusions(document, out / "confusion.png")
    return Comparison(out, document)


def _find_test(run: Run) -> Dataset:
    """The images to judge on: the test split, or val, but never the one that was cleaned."""
    whole = open_dataset(run.stage("load") / "all")
    for split in TEST_SPLITS:
        chosen = (whole.images["split"] == split).fill_null(False).to_numpy()
        if split != run.summary["split"] and run.summary["split"] != "all" and chosen.any():
            return whole.select_images(chosen)
    remedy = "give the data set a split test or val, and run with split=train"
    raise DatasetError(f"{run.summary['data']}: has no images beside those that were cleaned ('{run.summary['split']}'); {remedy}")


def _list_versions(run: Run, config: Config, strategies: Sequence[str]) -> list[Labels]:
    versions = [Labels(GIVEN, "given", Cleaning((), ()))]
    for strategy in strategies:
        cleaning = _clean(run, strategy, config.clean.min_probability)
        if not (cleaning.edits or cleaning.drop_images):
            continue
        slug = strategy.replace("_", "-")
        control = draw_control(run.dataset, cleaning, np.random.default_rng(config.folds.seed))
        versions.append(Labels(strategy, slug, cleaning))
        versions.append(Labels(CONTROL.format(strategy), f"random-{slug}", control, control_of=strategy))
    if len(versions) == 1:
        raise DatasetError(f"{run.folder}: no strategy changes anything, so there is nothing to compare")
    return versions


def _clean(run: Run, strategy: str, min_probability: float | None) -> Cleaning:
    """What a strategy does, heeding what people decided: what they called right stays, what they accepted counts as sure."""
    decisions = read_decisions(run.folder)
    if strategy == "fix":
        least = NOISY if min_probability is None else min_probability
        return Cleaning(tuple(as_edits(find_changes(run.dataset, run.issues, decisions, least).all, run.dataset)), ())
    verdict = pl.Series([decisions[name].verdict if name in decisions else "" for name in run.issues["issue_id"].to_list()])
    issues = run.issues.with_columns(
        probability=pl.when(verdict == "accept").then(1.0).otherwise("probability"),
        verdict=pl.when(verdict == "accept").then(pl.lit("noisy")).otherwise("verdict"),
    ).filter(~verdict.is_in(["reject", "hard"]))
    return propose_cleaning(run.dataset, issues, strategy, min_probability)  # type: ignore[arg-type]


def _stages(config: Config, versions: Sequence[Labels], executor: Cluster | None) -> list[Stage]:
    workers = None if config.workers == "auto" else config.workers
    places: dict[str, Any] = {"workers": workers, "executor": executor}
    stages = []
    for version in versions:
        load, train = f"labels-{version.slug}", f"train-{version.slug}"
        stages += [
            Stage(load, partial(_write_labels, version=version), content_addressed=True),
            Stage(train, partial(_train, source=load, **places), needs=(load,), resumable=True),
            Stage(
                f"detect-{version.slug}",
                partial(_detect, source=load, trained=train, device=config.train.get("device"), **places),
                needs=(load, train),
                resumable=True,
            ),
        ]
    return stages


def _settings(config: Config, run: Run, versions: Sequence[Labels], split: str, seeds: int) -> dict[str, Any]:
    common = stage_settings(config)
    settings: dict[str, Any] = {}
    for version in versions:
        settings[f"labels-{version.slug}"] = {"load": str(run.stage("load")), "split": split}
        settings[f"train-{version.slug}"] = common["train"] | {"seeds": seeds}
        settings[f"detect-{version.slug}"] = {"predict": config.model_dump(mode="json")["predict"], "seeds": seeds}
    return settings


def _write_labels(context: StageContext, version: Labels) -> None:
    """A version's images to train on, with its labels, and behind them those of the test."""
    load = Path(context.settings["load"])
    test = open_dataset(load / "all").select_split(context.settings["split"])
    joined, is_test = join_with_test(clean_in_memory(open_dataset(load / "part"), version.cleaning), test)
    write_dataset(joined, context.out)
    pl.DataFrame({"is_test": is_test}).write_parquet(context.out / "test.parquet")


def _open_labels(folder: Path, seeds: int) -> tuple[Dataset, np.ndarray]:
    """A version, and the fold of each image, once a seed: 0 for those of the test, -1 for those that every model is trained on."""
    is_test = read_table(folder / "test.parquet")["is_test"].to_numpy()
    return open_dataset(folder), np.tile(np.where(is_test, 0, -1), (seeds, 1))


def _train(context: StageContext, source: str, workers: int | None, executor: Cluster | None) -> None:
    dataset, folds = _open_labels(context.inputs[source], context.settings["seeds"])
    train_models(context, dataset, folds, workers, executor)


def _detect(context: StageContext, source: str, trained: str, device: Any, workers: int | None, executor: Cluster | None) -> None:
    dataset, folds = _open_labels(context.inputs[source], context.settings["seeds"])
    nothing = dataset.annotations[np.zeros(len(dataset.annotations), bool)]
    seen = predict_out_of_fold(
        dataset,
        folds,
        context.inputs[trained],
        context.out,
        looks=nothing,
        predict=context.settings["predict"],
        device=device,
        workers=workers,
        executor=executor,
        display=context.display,
    )
    write_boxes(seen.detections, context.out / "detections.parquet")


def _read_version(version: Labels, results: Mapping[str, StageResult]) -> Version:
    """What the models of a version saw in the test's images, numbered as the test numbers them."""
    labels = results[f"labels-{version.slug}"].folder
    dataset, folds = _open_labels(labels, 1)
    trained = int((folds[0] < 0).sum())
    boxes = read_boxes(results[f"detect-{version.slug}"].folder / "detections.parquet")
    repeat = boxes.repeat if boxes.repeat is not None else np.zeros(len(boxes), np.int64)
    seeds = range(int(repeat.max()) + 1 if len(repeat) else 1)
    own = int((dataset.annotations.image_index < trained).sum())
    return Version(version.name, [_shift(boxes[repeat == seed], trained) for seed in seeds], trained, own, version.control_of)


def _shift(boxes: Boxes, by: int) -> Boxes:
    columns = boxes.columns()
    return Boxes(**columns | {"image_index": boxes.image_index - by})
