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
from detclean.boxes import Floats, Ints, read_boxes, write_boxes
from detclean.config import Config, read_config
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.detect.yolo import predict_out_of_fold
from detclean.distribute import Cluster
from detclean.edit.changes import as_edits, find_changes
from detclean.edit.decisions import Decision, read_decisions
from detclean.edit.proposals import Cleaning, propose_cleaning, propose_pruning
from detclean.edit.strategies import STRATEGIES, Labels, compute_trust, draw_by_trust, heed_decisions, list_versions, name_state
from detclean.edit.versions import clean_in_memory, join_with_test
from detclean.errors import ConfigError, DatasetError, DetcleanError
from detclean.files import write_whole
from detclean.measure.comparison import Version, compare_versions
from detclean.pipeline.doubts import find_doubts, judge_trusted, open_test, shift_images
from detclean.pipeline.run import find_machines, keep_matplotlib_inside, renew_report, stage_settings
from detclean.pipeline.sources import watch_pictures
from detclean.pipeline.steps import open_scores, train_models
from detclean.runfolder import Run, open_run, read_table
from detclean.score.issues import NOISY
from detclean.score.scores import draw_dataset_looks
from detclean.show.comparison_table import draw_comparison, draw_confusions, write_comparison_markdown
from detclean.show.progress import Display
from detclean.stages import Stage, StageContext, StageResult, lock_run, run_stages

TEST_SPLITS = ("test", "val")
DRAWING = ("reweight", "curriculum")  # strategies that leave the labels as they are
DRAW = "draw.npy"  # beside a version's labels: how often each image is drawn
DOUBTS = "doubts"  # the stage that looks for errors in the test's labels


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and what compare.json says."""

    folder: Path
    document: dict[str, Any]


def compare_strategies(folder: str | Path, strategies: Sequence[str], seeds: int, display: Display) -> Comparison:
    """Trains on the labels as given, on each strategy's version and on random controls -> compare.json, .md, two pictures, test_issues.csv.

    All with the run's own model and training settings, the same seeds, and judged on the same images of another split, which no stage has
    cleaned; and once more without those of them whose labels look wrong. Strategies that do equally much share a control. What is trained
    already is not trained again. The run's report is renewed. Raises ConfigError, DatasetError and StageError.
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
    keep_matplotlib_inside(run.folder)
    test = _find_test(run)
    split = str(test.images["split"][0])
    display.say(f"compare: judged on the {test.image_count} images of '{split}', {seeds} seeds")
    state = name_state(run.stage("issues").name, read_decisions(run.folder))
    versions = list_strategies(run, config, strategies, display)
    display.say(f"compare: {len(versions)} versions of the labels, {len(versions) * seeds} trainings")
    with lock_run(out), find_machines(config, display) as executor:
        results = run_stages(_stages(config, versions, executor), out, _settings(config, run, versions, split, seeds), display)
        judged = [read_version(version, results, seeds) for version in versions]
        document = compare_versions(test, judged) | judge_trusted(test, judged, results[DOUBTS].folder)
        document |= {"detclean": __version__, "name": run.summary["name"], "model": config.model, "test": split, "state": state}
        document["seconds"] = {name: round(result.seconds, 2) for name, result in results.items()}
        write_whole(out / "compare.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        write_whole(out / "compare.md", write_comparison_markdown(document))
        write_whole(out / "test_issues.csv", (results[DOUBTS].folder / "issues.csv").read_bytes())
        draw_comparison(document, out / "compare.png")
        draw_confusions(document, out / "confusion.png")
    _renew(run.folder, display)
    return Comparison(out, document)


def _renew(folder: Path, display: Display) -> None:
    """The run's report, with the comparison in it. What was compared is not lost where somebody else is working on the run."""
    try:
        with lock_run(folder):
            renew_report(folder, display)
    except DetcleanError as error:
        display.say(f"report.html: not renewed ({error})")


def _find_test(run: Run) -> Dataset:
    """The images to judge on: the test split, or val, but never the one that was cleaned."""
    whole = open_dataset(run.stage("load") / "all")
    for split in TEST_SPLITS:
        chosen = (whole.images["split"] == split).fill_null(False).to_numpy()
        if split != run.summary["split"] and run.summary["split"] != "all" and chosen.any():
            return whole.select_images(chosen)
    remedy = "give the data set a split test or val, and run with split=train"
    raise DatasetError(f"{run.summary['data']}: has no images beside those that were cleaned ('{run.summary['split']}'); {remedy}")


def list_strategies(run: Run, config: Config, strategies: Sequence[str], display: Display) -> list[Labels]:
    """Every version to train on. A strategy that cannot be told from the labels as given is left out, and that is said."""
    decisions = read_decisions(run.folder)
    does: dict[str, Cleaning | Floats] = {}
    for strategy in dict.fromkeys(strategies):
        if strategy in DRAWING and config.train.get("rect"):
            display.say(f"compare: {strategy} is left out, as with train.rect no image can be drawn more often than another")
            continue
        done = _apply(run, strategy, config.clean.min_probability, decisions)
        if done is None or (isinstance(done, Cleaning) and not (done.edits or done.drop_images)):
            display.say(f"compare: {strategy} is left out, as it changes nothing")
        elif isinstance(done, Cleaning) and not len(clean_in_memory(run.dataset, done).annotations):
            display.say(f"compare: {strategy} is left out, as it leaves nothing to train on")
        else:
            does[strategy] = done
    if not does:
        raise DatasetError(f"{run.folder}: no strategy changes anything, so there is nothing to compare")
    return list_versions(run.dataset, does, config.folds.seed)


def _apply(run: Run, strategy: str, min_probability: float | None, decisions: dict[str, Decision]) -> Cleaning | Floats | None:
    """What a strategy does to the labels or how it draws the images, heeding what people decided."""
    verdicts = {name: decision.verdict for name, decision in decisions.items()}
    if strategy == "fix":
        least = NOISY if min_probability is None else min_probability
        return Cleaning(tuple(as_edits(find_changes(run.dataset, run.issues, decisions, least).all, run.dataset)), ())
    if strategy in DRAWING:
        scores = open_scores(run.stage("score"))
        trust = compute_trust(run.dataset.image_count, scores.annotations, scores.candidates, run.issues, verdicts)
        return draw_by_trust(trust, strategy)
    issues = heed_decisions(run.issues, verdicts)
    if strategy in ("drop_hard", "keep_hard"):
        return propose_pruning(issues, run.table("images")["hardness"].to_numpy(), strategy)  # type: ignore[arg-type]
    return propose_cleaning(run.dataset, issues.filter(pl.col("decided") != "hard"), strategy, min_probability)  # type: ignore[arg-type]


def _stages(config: Config, versions: Sequence[Labels], executor: Cluster | None) -> list[Stage]:
    workers = None if config.workers == "auto" else config.workers
    places: dict[str, Any] = {"workers": workers, "executor": executor}
    device = config.train.get("device")
    stages = []
    for version in versions:
        load, train = f"labels-{version.slug}", f"train-{version.slug}"
        stages += [
            Stage(load, partial(write_labels, version=version), content_addressed=True),
            Stage(train, watch_pictures(partial(_train, source=load, **places), load), needs=(load,), resumable=True),
            Stage(
                f"detect-{version.slug}",
                watch_pictures(partial(_detect, source=load, trained=train, device=device, **places), load),
                needs=(load, train),
                resumable=True,
            ),
        ]
    seen_in = [(f"labels-{version.slug}", f"detect-{version.slug}") for version in versions]
    return [*stages, Stage(DOUBTS, partial(find_doubts, seen_in=seen_in), needs=tuple(name for pair in seen_in for name in pair))]


def _settings(config: Config, run: Run, versions: Sequence[Labels], split: str, seeds: int) -> dict[str, Any]:
    common = stage_settings(config)
    settings: dict[str, Any] = {}
    for version in versions:
        settings[f"labels-{version.slug}"] = {"load": str(run.stage("load")), "split": split}
        settings[f"train-{version.slug}"] = common["train"] | {"seeds": seeds}
        settings[f"detect-{version.slug}"] = {"predict": common["detect"]["predict"], "seeds": seeds, "looks": config.score.seed}
    test = {"load": str(run.stage("load")), "split": split}
    settings[DOUBTS] = common["score"] | test | {"types": common["issues"]["types"]}
    return settings


def write_labels(context: StageContext, version: Labels) -> None:
    """A version's images to train on, with its labels, and behind them those of the test; how they are drawn."""
    part = open_dataset(Path(context.settings["load"]) / "part")
    joined, is_test = join_with_test(clean_in_memory(part, version.cleaning), open_test(context.settings))
    write_dataset(joined, context.out)
    pl.DataFrame({"is_test": is_test}).write_parquet(context.out / "test.parquet")
    if version.draw is not None:
        never = np.zeros((len(version.draw), int(is_test.sum())))
        np.save(context.out / DRAW, np.concatenate([version.draw, never], axis=1), allow_pickle=False)


def _open_labels(folder: Path, seeds: int, executor: Cluster | None = None) -> tuple[Dataset, Ints]:
    """A version, and the fold of each image, once a seed: 0 for those of the test, -1 for those that every model is trained on."""
    is_test = read_table(folder / "test.parquet")["is_test"].to_numpy()
    dataset = open_dataset(folder)
    if executor is not None:
        executor.expect_pictures(dataset.images["path"].drop_nulls().to_list())
    return dataset, np.tile(np.where(is_test, 0, -1), (seeds, 1))


def _train(context: StageContext, source: str, workers: int | None, executor: Cluster | None) -> None:
    folder = context.inputs[source]
    dataset, folds = _open_labels(folder, context.settings["seeds"], executor)
    draw = np.load(folder / DRAW, allow_pickle=False) if (folder / DRAW).exists() else None
    train_models(context, dataset, folds, workers, executor, draw=draw, seeds=True)


def _detect(context: StageContext, source: str, trained: str, device: Any, workers: int | None, executor: Cluster | None) -> None:
    """What the models see in the test's images, and what they say of every box there, whose labels they never saw."""
    settings = context.settings
    dataset, folds = _open_labels(context.inputs[source], settings["seeds"], executor)
    test = dataset.select_images(folds[0] == 0)
    looks = shift_images(draw_dataset_looks(test, settings["looks"]).boxes, test.image_count - dataset.image_count)
    seen = predict_out_of_fold(
        dataset,
        folds,
        context.inputs[trained],
        context.out,
        looks=looks,
        predict=settings["predict"],
        seeds=True,
        device=device,
        workers=workers,
        executor=executor,
        display=context.display,
    )
    write_boxes(seen.detections, context.out / "detections.parquet")
    seen.looks.write_parquet(context.out / "looks.parquet")
    seen.at_detections.write_parquet(context.out / "at_detections.parquet")


def read_version(version: Labels, results: Mapping[str, StageResult], seeds: int) -> Version:
    """What the models of a version saw in the test's images, numbered as the test numbers them; some may have seen nothing."""
    labels = results[f"labels-{version.slug}"].folder
    dataset, folds = _open_labels(labels, 1)
    trained = int((folds[0] < 0).sum())
    boxes = read_boxes(results[f"detect-{version.slug}"].folder / "detections.parquet")
    repeat = boxes.repeat if boxes.repeat is not None else np.zeros(len(boxes), np.int64)
    own = int((dataset.annotations.image_index < trained).sum())
    return Version(version.name, [shift_images(boxes[repeat == seed], trained) for seed in range(seeds)], trained, own, version.control_of)
