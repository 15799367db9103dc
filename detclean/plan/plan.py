"""A plan: what each stage of a run will take on this machine, in time, memory and disk, and what would make it cheaper.

Nothing is typed in: for about half a minute the machine trains, looks, reads and scores as the run would, on a sample of the data set, in
a temporary folder. The run folder is only read, to see what is complete already.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.boxes import Boxes
from detclean.config import Config
from detclean.dataset import Dataset, open_dataset
from detclean.detect import folds as folding
from detclean.detect.probe import Probe, probe_crops, probe_training
from detclean.detect.yolo_settings import choose_slots
from detclean.errors import StageError
from detclean.formats.results import read_detections
from detclean.machine import count_cores, peak_memory
from detclean.pipeline import steps
from detclean.pipeline.run import all_stages, stage_settings
from detclean.plan import rehearsal
from detclean.plan.estimate import (
    MACHINES,
    WORTH_SECONDS,
    WORTH_SHARE,
    Advice,
    Costs,
    Facts,
    StageEstimate,
    estimate_stages,
    list_changes,
    total_seconds,
)
from detclean.plan.words import describe_basis, describe_work, find_warnings, measure_busy
from detclean.score.scores import draw_dataset_looks
from detclean.show.progress import Display
from detclean.stages import PARTIAL, Stage, StageContext, compute_content, compute_fingerprint

# Detections an annotation by least confidence, for a model that nobody has trained yet: 2.9 and 4.5 were seen on data/digits and BCCD at
# 0.01, and with 0.25 little is left but what is annotated.
DETECTIONS_AN_ANNOTATION = {0.001: 8.0, 0.01: 4.0, 0.25: 1.2}
SMALL = 10  # percentile of the annotations' sides that stands for the smaller objects
MOST_ADVICE = 5
CHILDREN = ("train", "dynamics", "detect", "crops")  # stages that are tried out, unless all of them are done


@dataclass(frozen=True)
class Plan:
    """stages in order; advice, the most that can be saved first; basis: sentences on what the figures rest on; warnings: sentences."""

    name: str
    headline: str
    stages: tuple[StageEstimate, ...]
    advice: tuple[Advice, ...]
    basis: tuple[str, ...]
    warnings: tuple[str, ...]
    probed_seconds: float

    @property
    def seconds(self) -> float:
        return total_seconds(self.stages)

    @property
    def memory(self) -> int:
        return max(stage.memory for stage in self.stages)

    @property
    def disk(self) -> int:
        """What stays."""
        return sum(stage.disk for stage in self.stages)

    @property
    def disk_needed(self) -> int:
        """The most that lies there at a time."""
        stays = np.cumsum([stage.disk for stage in self.stages])
        return int(max(kept + stage.passing for kept, stage in zip(stays.tolist(), self.stages, strict=True)))


def make_plan(config: Config, display: Display) -> Plan:
    """Reads the data set, tries out every kind of work for seconds, and answers what a run of this configuration takes.

    Raises what the run would raise: ConfigError and DatasetError for what is given, StageError where no training can start.
    """
    begin = time.monotonic()
    busy = measure_busy()
    place = Path(tempfile.mkdtemp(prefix="detclean-plan-"))
    kept = False
    try:
        return _plan_in(place, config, display, busy, begin)
    except StageError as error:
        kept = str(place) in str(error)  # a log there says more
        raise StageError(str(error).removesuffix(", then run again to resume")) from error
    finally:
        if not kept:
            shutil.rmtree(place, ignore_errors=True)


def describe_plan(plan: Plan, start: datetime | None = None) -> dict[str, Any]:
    """The plan as a document: seconds, bytes, sentences; start: of the run, now where None."""
    start = start or datetime.now().astimezone()
    return asdict(plan) | {
        "seconds": plan.seconds,
        "memory": plan.memory,
        "disk": plan.disk,
        "disk_needed": plan.disk_needed,
        "starts": start.isoformat(timespec="seconds"),
        "ends": (start + timedelta(seconds=plan.seconds)).isoformat(timespec="seconds"),
    }


def _plan_in(place: Path, config: Config, display: Display, busy: float, begin: float) -> Plan:
    stages = all_stages(config, None)
    names = [stage.name for stage in stages]
    display.say("reading the data set")
    load, content = _load(config, place / "load", display)
    whole, part = open_dataset(place / "load" / "all"), open_dataset(place / "load" / "part")
    done = find_done(config, stages, content)
    looks = draw_dataset_looks(part, config.score.seed).boxes
    brought, bring = _bring(config, part)
    per_annotation, told = _expect_detections(config, part, brought)
    facts = _gather_facts(whole, part, looks, per_annotation)
    wanted = any(name in names and done[name] < 1 for name in CHILDREN)
    probe = _probe(config, part, looks, per_annotation, place / "probe", names, display) if wanted else None
    display.say("scoring detections that are made up")
    costs = Costs(
        load=load,
        load_bytes=rehearsal.count_bytes(place / "load"),
        audited=rehearsal.time_audit(whole),
        folds=_time_folds(config, part) if "folds" in names else 0.0,
        bring=bring,
        shared=rehearsal.time_sharing(whole, place / "shared", config.clean.copy_images),
        cleaning=_time_cleaning(part, place),
        cleaned_bytes=rehearsal.count_bytes(place / "cleaned"),
        rehearsal=rehearsal.rehearse(config, part, brought, per_annotation, set(names), place / "rehearsal"),
        memory=peak_memory(),
        imgsz=int(config.train["imgsz"]),
        pool=steps.count_auditors(),
        probe=probe,
        slots=_find_slots(config, probe),
    )
    estimates = estimate_stages(config, names, facts, costs, done)
    advice = advise(config, stages, content, facts, costs)
    cores = count_cores()
    return Plan(
        name=config.name,
        headline=describe_work(config, facts, probe),
        stages=estimates,
        advice=advice,
        basis=tuple(describe_basis(config, facts, probe, told, cores)),
        warnings=tuple(find_warnings(config, estimates, busy)),
        probed_seconds=round(time.monotonic() - begin, 1),
    )


def _load(config: Config, folder: Path, display: Display) -> tuple[float, str]:
    """Reads the data set into a folder as the run does; -> seconds, and what the run would name the stage by."""
    folder.mkdir(parents=True)
    start = time.perf_counter()
    steps.load(StageContext({}, folder, stage_settings(config)["load"], display))
    return time.perf_counter() - start, compute_content("load", folder)


def find_done(config: Config, stages: Sequence[Stage], content: str) -> dict[str, float]:
    """The share of each stage that the run folder holds already. content: the fingerprint of the data set as it is now."""
    settings = stage_settings(config)
    prints: dict[str, str] = {}
    done: dict[str, float] = {}
    for stage in stages:
        needed = [prints[name] for name in stage.needs]
        prints[stage.name] = content if stage.content_addressed else compute_fingerprint(stage, settings.get(stage.name), needed)
        folder = config.folder / "stages" / f"{stage.name}-{prints[stage.name]}"
        if stage.content_addressed:
            done[stage.name] = 0.0  # it runs every time
        elif folder.is_dir():
            done[stage.name] = 1.0
        else:
            jobs = 1 if config.method == "loss" or stage.name == "dynamics" else config.folds.k * config.folds.repeats
            done[stage.name] = _measure_partial(folder.with_name(folder.name + PARTIAL), jobs) if stage.resumable else 0.0
    return done


def _measure_partial(folder: Path, jobs: int) -> float:
    """How much of an interrupted stage is done, by what its children reported: whole folds, and epochs of a fold."""
    reached = []
    for progress in folder.glob("folds/*/progress.jsonl"):
        lines = [orjson.loads(line) for line in progress.read_bytes().splitlines() if line.endswith(b"}")]
        kept = [line["done"] / max(line["total"], 1) for line in lines if line["kind"] == "epoch"]
        kept += [1.0 for line in lines if line["kind"] == "predict" and line["done"] == line["total"]]
        reached.append(kept[-1] if kept else 0.0)
    return min(sum(reached) / jobs, 1.0)


def _bring(config: Config, part: Dataset) -> tuple[Boxes | None, float]:
    if config.predictions is None:
        return None, 0.0
    start = time.perf_counter()
    detections = read_detections(config.predictions, part)
    return detections, time.perf_counter() - start


def _expect_detections(config: Config, part: Dataset, brought: Boxes | None) -> tuple[float, str]:
    """Detections an annotation and repeat, and how that is known."""
    annotations = max(len(part.annotations), 1)
    if brought is not None:
        return len(brought) / annotations, f"the {len(brought):,} detections of {config.predictions}"
    earlier = config.folder / "detections.parquet"
    if earlier.is_file():
        found = pl.scan_parquet(earlier, glob=False).select(pl.len(), pl.col("repeat").n_unique()).collect().row(0)
        each = found[0] / max(found[1], 1) / max(part.image_count, 1)
        return found[0] / max(found[1], 1) / annotations, f"{each:.0f} detections an image, as in the run that stands in {config.folder}"
    steps_, values = zip(*DETECTIONS_AN_ANNOTATION.items(), strict=True)
    known = float(np.interp(math.log10(max(config.predict.conf, 1e-6)), np.log10(steps_), values))
    most = config.predict.max_det * part.image_count / annotations
    each = min(known, most) * annotations / max(part.image_count, 1)
    return min(known, most), f"{each:.0f} detections an image are assumed, as nothing is trained yet"


def _gather_facts(whole: Dataset, part: Dataset, looks: Boxes, per_annotation: float) -> Facts:
    sides = (part.annotations.xyxy[:, 2:] - part.annotations.xyxy[:, :2]).max(axis=1)
    longer = np.maximum(part.sizes.max(axis=1), 1.0)[part.annotations.image_index]
    shares = (sides / longer)[np.isfinite(sides / longer)]
    return Facts(
        images=int(part.images["path"].is_not_null().sum()),
        pictures=int(whole.images["path"].is_not_null().sum()),
        annotations=len(part.annotations),
        looks=len(looks),
        detections=per_annotation * len(part.annotations),
        small_side=float(np.percentile(shares, SMALL)) if len(shares) else 0.0,
        picture_bytes=int(whole.images["bytes"].sum() or 0),
    )


def _probe(
    config: Config, part: Dataset, looks: Boxes, per_annotation: float, place: Path, names: Sequence[str], display: Display
) -> Probe | None:
    """The costs of training and looking; None where nothing of the kind is done."""
    workers = None if config.workers == "auto" else config.workers
    jobs = config.folds.k * config.folds.repeats
    if config.predictions is not None:
        if "crops" not in names:
            return None
        display.say("trying out the training of crop classifiers")
        device = config.train.get("device")
        return probe_crops(part, place, asked=looks, jobs=jobs, device=device, workers=workers)
    display.say("trying out trainings")
    single = config.method == "loss"
    return probe_training(
        part,
        place,
        model=config.model,
        train=config.train,
        predict=config.predict.model_dump(mode="json"),
        asked=_with_detections(part, looks, per_annotation),
        jobs=1 if single else jobs,
        share=1.0 if single else 1 - 1 / config.folds.k,
        features="crops" in names,
        crops=config.crops == "always",
        workers=workers,
    )


def _find_slots(config: Config, probe: Probe | None) -> dict[int, int]:
    """How many children work side by side by the number of jobs, as a run would choose; on GPUs as many as were tried out."""
    if probe is None or probe.device != "cpu":
        return {}
    workers = None if config.workers == "auto" else config.workers
    return {jobs: len(choose_slots("cpu", 0, jobs, workers)) for jobs in range(1, config.folds.k * config.folds.repeats + 1)}


def _with_detections(part: Dataset, looks: Boxes, per_annotation: float) -> Boxes:
    """The looks, and for each detection that is expected one annotation more: they are examined alike."""
    more = np.random.default_rng(0).integers(len(part.annotations), size=round(per_annotation * len(part.annotations)))
    boxes = [looks, part.annotations[np.sort(more)]] if len(part.annotations) else [looks]
    columns = {name: np.concatenate([getattr(one, name) for one in boxes]) for name in ("image_index", "category", "xyxy")}
    return Boxes.sorted(**columns)


def _time_folds(config: Config, part: Dataset) -> float:
    start = time.perf_counter()
    if config.method != "loss" or config.predictions is not None:
        alone = np.arange(part.image_count)
        folding.make_folds(part, alone, k=config.folds.k, repeats=config.folds.repeats, seed=config.folds.seed)
    return time.perf_counter() - start


def _time_cleaning(part: Dataset, place: Path) -> float:
    if part.image_count > rehearsal.MANY_IMAGES:
        return rehearsal.time_sharing(part, place / "linked", copy=False) * part.image_count
    return rehearsal.time_cleaning(part, place / "cleaned")


def advise(config: Config, stages: Sequence[Stage], content: str, facts: Facts, costs: Costs) -> tuple[Advice, ...]:
    """What would save a good part of the time, the most first; nothing where all that takes long is done."""
    if costs.probe is None and config.predictions is None:
        return ()
    now = total_seconds(estimate_stages(config, [stage.name for stage in stages], facts, costs, find_done(config, stages, content)))
    found = []
    for text, changed, price in list_changes(config, facts, costs.imgsz):
        others = all_stages(changed, None)
        estimates = estimate_stages(changed, [stage.name for stage in others], facts, costs, find_done(changed, others, content))
        found.append(Advice(text, total_seconds(estimates), price))
    jobs = 1 if config.method == "loss" else config.folds.k * config.folds.repeats
    machines = (
        min(MACHINES, math.ceil(jobs / costs.slots.get(jobs, costs.probe.slots))) if costs.probe and config.executor.kind == "local" else 1
    )
    if machines > 1:
        done = find_done(config, stages, content)
        spread = estimate_stages(config, [stage.name for stage in stages], facts, costs, done, machines)
        found.append(
            Advice(
                f"{machines} machines like this one with Ray",
                total_seconds(spread),
                "with executor.kind=ray, and a run folder that all of them see",
            )
        )
    worth = [advice for advice in found if now - advice.seconds >= max(WORTH_SHARE * now, WORTH_SECONDS)]
    return tuple(sorted(worth, key=lambda advice: advice.seconds)[:MOST_ADVICE])
