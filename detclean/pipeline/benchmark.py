"""The quality benchmark: plant errors into labels that are taken as right, train on them as a user would, and see what is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean import __version__
from detclean.boxes import read_boxes, write_boxes
from detclean.config import Config
from detclean.dataset import ISSUE_TYPES, open_dataset, write_dataset
from detclean.distribute import Cluster
from detclean.files import write_whole
from detclean.measure.baselines import compute_baselines
from detclean.measure.figures import RESAMPLES
from detclean.measure.opinion import Opinion, judge_by_scores, read_opinion, write_opinion
from detclean.measure.tables import OURS, measure_style, write_markdown
from detclean.measure.truth import Truth, read_truth
from detclean.pipeline import steps
from detclean.pipeline.run import detection_stages, find_machines, score_stage, stage_settings
from detclean.score.answers import read_answers
from detclean.score.planting import STYLES, plant_errors
from detclean.show.benchmark_table import draw_benchmark
from detclean.show.progress import Display
from detclean.stages import Stage, StageContext, StageResult, lock_run, run_stages


@dataclass(frozen=True)
class BenchmarkResult:
    """A finished benchmark: its folder, and what benchmark.json says."""

    folder: Path
    document: dict[str, Any]


def run_benchmark(config: Config, display: Display) -> BenchmarkResult:
    """Plants, trains, scores and measures every style and seed -> benchmark.json, benchmark.md, benchmark.png in the run folder.

    Stages that are complete are not repeated, so that scoring again does not train again.
    """
    folder, wanted = config.folder, config.benchmark
    hard = None if config.answers is None else read_answers(config.answers)[1]
    styles, seconds = {}, {}
    with lock_run(folder), find_machines(config, display) as executor:
        for style in wanted.styles:
            judged = []
            for seed in wanted.seeds:
                display.say(f"planting: {style}, seed {seed}")
                results = _run_planted(config, folder / f"{style}-{seed}", seed, style, display, executor)
                judged.append(_read_judgement(config, results, hard))
                seconds[f"{style}-{seed}"] = {name: round(result.seconds, 2) for name, result in results.items()}
            styles[style] = measure_style(judged)
        document = {
            "detclean": __version__,
            "name": config.name,
            "data": str(config.data),
            "model": config.model,
            "seeds": wanted.seeds,
            "rate": wanted.rate,
            "resamples": RESAMPLES,
            "variants": wanted.variants,
            "styles": styles,
            "seconds": seconds,
        }
        write_whole(folder / "benchmark.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        write_whole(folder / "benchmark.md", write_markdown(document))
        draw_benchmark(document, folder / "benchmark.png")
    return BenchmarkResult(folder, document)


def _run_planted(config: Config, folder: Path, seed: int, style: str, display: Display, executor: Cluster | None) -> dict[str, StageResult]:
    """All stages on labels with errors of one seed and style, every method's judgement included."""
    first, *others = detection_stages(config, executor)
    gathering = [replace(first, run=_load_planted), *others]
    stages = list(gathering)
    settings: dict[str, Any] = stage_settings(config)
    settings["load"] |= {"seed": seed, "style": style, "rate": config.benchmark.rate}
    settings["folds"]["seed"] = settings["train"]["seed"] = settings["dynamics"]["seed"] = seed
    for name, score in _score_settings(config).items():
        stages.append(score_stage(gathering, name))
        settings[name] = score
    stages.append(Stage("baselines", _judge_by_baselines, needs=("load", "detect")))
    settings["baselines"] = {"seed": seed}
    return run_stages(stages, folder, settings, display)


def _load_planted(context: StageContext) -> None:
    """The data set with errors planted into the part to clean, and truth/: what was planted."""
    settings = context.settings
    steps.load(context)
    part = open_dataset(context.out / "part")
    clean = part.annotations
    if clean.is_crowd is not None and clean.is_crowd.any():
        clean = clean[~clean.is_crowd]
    rates = dict.fromkeys(ISSUE_TYPES, settings["rate"])
    rng = np.random.default_rng(settings["seed"])
    planted = plant_errors(clean, part.sizes, len(part.categories), rates, rng, STYLES[settings["style"]])
    given = replace(planted.annotations, annotation_id=np.arange(len(planted.annotations)))
    write_dataset(replace(part, annotations=given, source_rows=np.arange(len(given)), format="memory"), context.out / "part")
    truth = context.out / "truth"
    truth.mkdir(exist_ok=True)
    write_boxes(clean, truth / "annotations.parquet")
    pl.DataFrame({"origin": planted.origin, "kind": planted.kind}).write_parquet(truth / "planted.parquet")
    pl.DataFrame({"removed": planted.removed}).write_parquet(truth / "removed.parquet")


def _score_settings(config: Config) -> dict[str, dict[str, Any]]:
    """The settings of each scoring stage by its name: detclean as configured, and every variant."""
    score = config.score.model_dump(mode="json")
    variants = config.benchmark.variants.items()
    return {"score": score} | {_stage_of(name): config.score.model_validate(score | own).model_dump(mode="json") for name, own in variants}


def _stage_of(variant: str) -> str:
    return f"score-{variant.replace(' ', '-')}"


def _judge_by_baselines(context: StageContext) -> None:
    dataset = open_dataset(context.inputs["load"] / "part")
    detections = read_boxes(context.inputs["detect"] / "detections.parquet")
    opinions = compute_baselines(dataset, detections, **context.settings)
    for name, opinion in opinions.items():
        write_opinion(opinion, context.out / name)
    write_whole(context.out / "names.json", orjson.dumps(list(opinions)))


def _read_judgement(config: Config, results: dict[str, StageResult], hard: pl.DataFrame | None) -> tuple[Truth, dict[str, Opinion]]:
    """What was planted, and every method's opinion by the name of its row."""
    load, baselines = results["load"].folder, results["baselines"].folder
    dataset = open_dataset(load / "part")
    rows = {OURS: "score"} | {f"{OURS}: {name}": _stage_of(name) for name in config.benchmark.variants}
    opinions = {row: judge_by_scores(steps.open_scores(results[stage].folder), dataset) for row, stage in rows.items()}
    names = orjson.loads((baselines / "names.json").read_bytes())
    return read_truth(load / "truth", dataset, hard), opinions | {name: read_opinion(baselines / name) for name in names}
