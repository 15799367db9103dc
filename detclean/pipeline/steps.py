"""The stages' work: each a function from the folders of the stages before it, and its settings, to its own folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.audit import Cache, audit_dataset
from detclean.boxes import Boxes, Ints, read_boxes, write_boxes
from detclean.dataset import Dataset, Finding, open_dataset, write_dataset
from detclean.detect import folds as folding
from detclean.detect.quality import measure_quality
from detclean.distribute import Cluster
from detclean.edit.proposals import propose_cleaning
from detclean.errors import DatasetError
from detclean.files import write_whole
from detclean.formats import read_dataset, write_cleaned
from detclean.formats.results import read_detections
from detclean.machine import count_cores
from detclean.pipeline.sources import add_file_state
from detclean.runfolder import read_table
from detclean.score.crop_opinion import CropOpinion, find_weak_categories
from detclean.score.dynamics import compute_dynamics_evidence
from detclean.score.hardness import find_objects, rank_images
from detclean.score.issues import select_issues
from detclean.score.looks import leave_out_crowds
from detclean.score.scores import Scores, draw_dataset_looks, score_dataset
from detclean.score.sources import SECOND_OPINION, Gathered, spread_over_looks
from detclean.show.drawing import draw_issues
from detclean.show.hard_table import write_hard
from detclean.show.issue_lists import write_issues
from detclean.show.progress import Display
from detclean.stages import StageContext

PICTURED_ISSUES = 20  # worst issues in worst.jpg
MOST_AUDITORS = 8
WITHOUT_PICTURES = (
    "no pictures: sizes are those of the annotation file; left out are faults and duplicates of pictures, crops, and worst.jpg"
)


def load(context: StageContext) -> None:
    """The data set as it is now: all/ every split, part/ what is to be cleaned."""
    settings = context.settings
    whole = read_dataset(settings["data"], settings["images"])
    whole = replace(whole, images=add_file_state(whole.images))
    part = whole.select_split(settings["split"])
    if part.image_count == 0:
        known = ", ".join(sorted({split for split in whole.images["split"].to_list() if split}))
        raise DatasetError(f"{settings['data']}: no image in split '{settings['split']}'; set split to one of {known or 'all'}, or all")
    for name, dataset in (("all", whole), ("part", part)):
        (context.out / name).mkdir(exist_ok=True)
        write_dataset(dataset, context.out / name)
    boxes, images = len(part.annotations), part.image_count
    context.display.say(f"{images:,} images with {boxes:,} annotations of {len(part.categories)} categories")
    if part.images["path"].null_count() == images:
        context.display.say(WITHOUT_PICTURES)


def _open(context: StageContext, which: str, executor: Cluster | None) -> Dataset:
    """What `load` has read: "all" or "part". An executor's machines are told which pictures they will need."""
    dataset = open_dataset(context.inputs["load"] / which)
    if executor is not None:
        executor.expect_pictures(dataset.images["path"].drop_nulls().to_list())
    return dataset


def audit(context: StageContext, cache: Path | None = None, executor: Cluster | None = None) -> None:
    """Findings, and which pictures repeat each other. What cannot be lived with stops the run here, before any training.

    cache: a folder that outlives the stage, since it runs anew when a single label changes, and the pictures are as they were.
    executor, here and in the other stages: machines that work instead of this one.
    """
    dataset = _open(context, "all", executor)
    remembered = Cache(cache, context.display.log) if cache else None
    mapper = executor.map if executor else None
    audit = audit_dataset(dataset, workers=count_auditors(), progress=_bar(context.display, "pictures"), cache=remembered, mapper=mapper)
    errors = [finding for finding in audit.findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; `python -m detclean check` lists them)" if len(errors) > 1 else ""
        raise DatasetError(f"{errors[0]}{more}")
    _write_findings(audit.findings, context.out / "findings.parquet")
    audit.duplicates.write_parquet(context.out / "duplicates.parquet")
    counts = Counter(finding.severity for finding in audit.findings)
    told = (f"{count} {severity}{'' if count == 1 else 's'}" for severity in ("warning", "note") for count in [counts[severity]])
    context.display.say(f"audit: {', '.join(told)}")


def count_auditors() -> int:
    """Processes that read pictures."""
    return min(count_cores(), MOST_AUDITORS)


def _write_findings(findings: Sequence[Finding], path: Path) -> None:
    schema = dict.fromkeys(("kind", "severity", "where", "message"), pl.String)
    pl.DataFrame([asdict(finding) for finding in findings], schema=schema).write_parquet(path)


def fold(context: StageContext) -> None:
    """Which fold holds out which image, groups kept together."""
    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    if settings["k"] == 1:  # one model for all, by its loss dynamics: no image is held out
        pl.DataFrame({"repeat_0": np.zeros(dataset.image_count, np.int64)}).write_parquet(context.out / "folds.parquet")
        _write_findings([], context.out / "findings.parquet")
        write_whole(context.out / "facts.json", orjson.dumps({"groups": None, "leaks_prevented": 0}))
        return
    groups: Ints = np.arange(dataset.image_count)
    if settings["group_by"] != "none":
        whole = open_dataset(context.inputs["load"] / "all")
        pattern = None if settings["group_by"] == "auto" else settings["group_by"]
        all_groups = folding.group_images(whole, read_table(context.inputs["audit"] / "duplicates.parquet"), pattern)
        groups = all_groups[whole.split_mask(settings["split"])]
    folds = folding.make_folds(dataset, groups, k=settings["k"], repeats=settings["repeats"], seed=settings["seed"])
    leaks = folding.count_prevented_leaks(groups, k=settings["k"], seed=settings["seed"])
    _write_findings(folding.find_fold_faults(dataset, folds), context.out / "findings.parquet")
    pl.DataFrame({f"repeat_{i}": row for i, row in enumerate(folds)}).write_parquet(context.out / "folds.parquet")
    write_whole(context.out / "facts.json", orjson.dumps({"groups": len(np.unique(groups)), "leaks_prevented": leaks}))
    context.display.say(f"folds: {leaks} pairs of near-duplicate images kept together that a plain split would have torn apart")


def train(context: StageContext, workers: int | None, executor: Cluster | None = None) -> None:
    """A model a fold, trained by Ultralytics."""
    train_models(context, _open(context, "part", executor), open_folds(context.inputs["folds"]), workers, executor)


def train_models(
    context: StageContext, dataset: Dataset, folds: Ints, workers: int | None, executor: Cluster | None, **drawing: Any
) -> None:
    """A model for each fold that `folds` (repeats, N) holds out, with the stage's settings: model, train, seed.

    drawing: draw and seeds of `train_folds`.
    """
    from detclean.detect.yolo import train_folds

    settings = context.settings
    train_folds(
        dataset,
        folds,
        context.out,
        model=settings["model"],
        train=settings["train"],
        seed=settings["seed"],
        workers=workers,
        executor=executor,
        display=context.display,
        **drawing,
    )


def record_dynamics(context: StageContext, executor: Cluster | None = None) -> None:
    """One model on all images, and how well it fits every box that will be judged while its learning rate rises and falls."""
    from detclean.detect.dynamics import record_losses

    settings = context.settings
    dataset = _open(context, "part", executor)
    looks = draw_dataset_looks(dataset, settings["looks"])
    records = record_losses(
        dataset,
        looks.boxes,
        context.out,
        model=settings["model"],
        train=settings["train"],
        seed=settings["seed"],
        executor=executor,
        display=context.display,
    )
    compute_dynamics_evidence(records, looks.kind == "").write_parquet(context.out / "dynamics.parquet")


def detect(context: StageContext, workers: int | None, device: Any, executor: Cluster | None = None) -> None:
    """What each fold's model sees in the images that it does not know, and what its raw output says at every box that will be judged."""
    from detclean.detect.yolo import predict_out_of_fold

    dataset = _open(context, "part", executor)
    folds = open_folds(context.inputs["folds"])
    predictions = predict_out_of_fold(
        dataset,
        folds,
        context.inputs["train" if "train" in context.inputs else "dynamics"],
        context.out,
        looks=draw_dataset_looks(dataset, context.settings["seed"]).boxes,
        predict=context.settings["predict"],
        everyone=context.settings["votes"] == "all",
        device=device,
        workers=workers,
        executor=executor,
        display=context.display,
    )
    predictions.at_detections.write_parquet(context.out / "at_detections.parquet")
    predictions.looks.write_parquet(context.out / "looks.parquet")
    finish_detections(dataset, predictions.detections, folds, context.out)


def classify(context: StageContext, workers: int | None, device: Any, executor: Cluster | None = None) -> None:
    """What classifiers of single boxes make of every box that will be judged and of every detection.

    The light one works on the features of the fold's own detector. One of its own is trained where a category's detections are too poor
    to be trusted, or always; where it knows such a category better, it takes over from the detector.
    """
    from detclean.detect.crops import classify_crops, embed_boxes

    settings, inputs, display = context.settings, context.inputs, context.display
    dataset = _open(context, "part", executor)
    folds = open_folds(inputs["folds"])
    looks = draw_dataset_looks(dataset, settings["seed"])
    detections = read_boxes(inputs["detect"] / "detections.parquet")
    quality = orjson.loads((inputs["detect"] / "quality.json").read_bytes())["per_category"]
    opinion = CropOpinion(looks, detections, len(dataset.categories))
    places: dict[str, Any] = {"device": device, "workers": workers, "executor": executor, "display": display}
    trained = inputs.get("train", inputs.get("dynamics"))
    if trained is not None:
        features = embed_boxes(dataset, folds, trained, opinion.boxes, context.out / "features", **places)
        opinion.hear_features(features, folds, settings["seed"])
    weak = find_weak_categories(dataset.annotations.category, [quality[name] for name in dataset.categories])
    if settings["crops"] == "always" or weak.any():
        flips = float(settings["fliplr"])
        probability = classify_crops(
            dataset, folds, opinion.boxes, opinion.background, context.out / "crops", fliplr=flips, seed=settings["seed"], **places
        )
        opinion.hear_probability(probability)
    opinion.looks.write_parquet(context.out / "looks.parquet")
    opinion.detections.write_parquet(context.out / "detections.parquet")
    facts = opinion.describe(dataset.categories, weak, quality)
    write_whole(context.out / "facts.json", orjson.dumps(facts))
    for taken in facts["took_over"]:
        display.say(f"crops: '{taken['category']}' is judged by its crops, as the detectors' average precision there is {taken['ap']:.2f}")


def open_folds(folder: Path) -> Ints:
    """The fold of each image, once a repeat: (repeats, N)."""
    folds: Ints = read_table(folder / "folds.parquet").to_numpy().T
    return folds


def bring(context: StageContext) -> None:
    """Detections that the user brought; the images count as one fold."""
    dataset = open_dataset(context.inputs["load"] / "part")
    detections = read_detections(context.settings["predictions"], dataset)
    zeros = np.zeros(len(detections), np.int64)
    detections = replace(detections, fold=zeros, repeat=zeros)
    finish_detections(dataset, detections, np.zeros((1, dataset.image_count), np.int64), context.out)


def finish_detections(dataset: Dataset, detections: Boxes, folds: Any, out: Path) -> None:
    write_boxes(detections, out / "detections.parquet")
    pl.DataFrame({"fold": folds[0]}).write_parquet(out / "folds.parquet")
    write_whole(out / "quality.json", orjson.dumps(measure_quality(dataset, detections, folds)))


def score(context: StageContext) -> None:
    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    detections = read_boxes(context.inputs["detect"] / "detections.parquet")
    scores = score_dataset(
        dataset,
        detections,
        gathered=gather_evidence(dataset, context.inputs, settings),
        planting_rounds=settings["planting_rounds"],
        seed=settings["seed"],
        engine=settings["engine"],
        progress=_bar(context.display, "planting rounds"),
    )
    scores.annotations.write_parquet(context.out / "annotations.parquet")
    scores.candidates.write_parquet(context.out / "candidates.parquet")
    scores.images.write_parquet(context.out / "images.parquet")
    write_whole(context.out / "calibration.json", scores.calibration)
    write_whole(context.out / "facts.json", orjson.dumps(scores.facts))
    if not scores.facts["calibrated"]:
        context.display.say("score: too little data to learn how far the detector may be believed; simple rules decide instead")


def gather_evidence(dataset: Dataset, inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> Gathered:
    """What the stages before scoring found at each look and at each detection, as far as `settings` asks for it."""
    look_count = len(draw_dataset_looks(dataset, settings["seed"]))
    at_looks, at_detections = [], []
    raw = inputs["detect"] / "looks.parquet"
    if settings["dense"] and raw.exists():
        answers = read_table(raw)
        for held_out, prefix in ((True, "raw_"), (False, "seen_")):
            if (mine := answers.filter(pl.col("held_out") == held_out)).height:
                at_looks.append(spread_over_looks(mine, look_count, prefix))
        at_detections.append(read_table(inputs["detect"] / "at_detections.parquet").drop("raw_other_category"))
    if settings["dynamics"] and "dynamics" in inputs:
        recorded = read_table(inputs["dynamics"] / "dynamics.parquet").fill_null(float("nan"))
        at_looks.append(recorded.rename(lambda name: SECOND_OPINION + name))
    if not settings["crops"] or "crops" not in inputs:
        return Gathered(tuple(at_looks), tuple(at_detections))
    at_looks.append(read_table(inputs["crops"] / "looks.parquet"))
    at_detections.append(read_table(inputs["crops"] / "detections.parquet"))
    taken = {entry["category"] for entry in orjson.loads((inputs["crops"] / "facts.json").read_bytes())["took_over"]}
    return Gathered(tuple(at_looks), tuple(at_detections), np.array([name in taken for name in dataset.categories], bool))


def open_scores(folder: Path) -> Scores:
    annotations, candidates, images = (read_table(folder / f"{name}.parquet") for name in ("annotations", "candidates", "images"))
    return Scores(annotations, candidates, images, orjson.loads((folder / "facts.json").read_bytes()))


def issues(context: StageContext) -> None:
    dataset = open_dataset(context.inputs["load"] / "part")
    issues = select_issues(open_scores(context.inputs["score"]), dataset, **context.settings)
    issues.write_parquet(context.out / "issues.parquet")


def export(context: StageContext) -> None:
    """All that the run folder shows of the results, and the cleaned data set."""
    settings = context.settings
    dataset = open_dataset(context.inputs["load"] / "part")
    scores = open_scores(context.inputs["score"])
    issues = read_table(context.inputs["issues"] / "issues.parquet")
    write_issues(issues, dataset, context.out, settings["formats"])
    _write_tables(dataset, scores, context.inputs["detect"], context.out)
    _rank_hard(dataset, issues, context.inputs["detect"], context.out)
    findings = [read_table(context.inputs[name] / "findings.parquet") for name in ("audit", "folds") if name in context.inputs]
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


def _rank_hard(dataset: Dataset, issues: pl.DataFrame, detect: Path, out: Path) -> None:
    """hard.csv and hard.txt. The models of the repeats have looked at the same images."""
    detections = read_boxes(detect / "detections.parquet")
    seen = find_objects(detections, len(dataset.categories), detections.repeat)
    ranked = rank_images(seen, dataset.image_count, len(dataset.categories), leave_out_crowds(dataset.annotations))
    noisy = np.bincount(issues.filter(pl.col("verdict") == "noisy")["image_index"].to_numpy(), minlength=dataset.image_count)
    write_hard(ranked.with_columns(issues=pl.Series(noisy).gather(ranked["image_index"])), dataset.images, dataset.categories, out)


def _write_tables(dataset: Dataset, scores: Scores, detect: Path, out: Path) -> None:
    internal = ("image_index", "annotation", "twin")
    scores.annotations.drop(internal).write_parquet(out / "annotations.parquet")
    scores.candidates.drop("image_index").write_parquet(out / "candidates.parquet")
    fold = read_table(detect / "folds.parquet")["fold"]
    scores.images.with_columns(fold=fold).write_parquet(out / "images.parquet")
    boxes = read_table(detect / "detections.parquet")
    image = boxes["image_index"]
    names = pl.Series(dataset.categories, dtype=pl.String)
    identity = {name: dataset.images[name].gather(image) for name in ("image_id", "file_name")}
    pl.DataFrame(identity).hstack(boxes.drop("image_index").with_columns(category=names.gather(boxes["category"]))).write_parquet(
        out / "detections.parquet"
    )


def _bar(display: Display, what: str) -> Any:
    def progress(done: int, total: int) -> None:
        display.advance(what, done, total)

    return progress
