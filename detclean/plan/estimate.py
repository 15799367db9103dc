"""From what single pieces of work cost to what the stages of a run will take, and to what would make it cheaper: arithmetic alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detclean.audit.images import POOL_PAYS
from detclean.config import Config
from detclean.detect.crops import BACKGROUND_SHARE, CROPS_SEEN, EPOCHS_BETWEEN, MOST_CROPS
from detclean.detect.dynamics import CYCLE_SHARE, CYCLES, ORDINARY_SHARE
from detclean.detect.probe import Look, Pace, Probe
from detclean.plan.rehearsal import FEATURES, Rehearsal, count_rounds

FEW_FOLDS = 3
SMALLER = 0.7  # of the images' side: half the pixels
LEAST_SIDE = 10.0  # px that the smaller objects must keep on smaller images: with less they are hardly detected
MACHINES = 4
WORTH_SHARE, WORTH_SECONDS = 0.15, 20.0  # of the whole, that advice must save to be given
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Facts:
    """What there is to do. images: to clean; pictures: of all splits; looks: boxes asked about; detections: of one repeat; small_side: the
    side that nine of ten annotations exceed, as a share of their image's longer one; picture_bytes: of all pictures."""

    images: int
    pictures: int
    annotations: int
    looks: int
    detections: float
    small_side: float
    picture_bytes: int


@dataclass(frozen=True)
class Costs:
    """What it costs: seconds and bytes. load, folds, bring, cleaning: of the whole; audited, shared: of a picture; memory: of this
    process; imgsz: at which the probe ran; pool: processes that the audit may use; slots: children side by side by the number of jobs,
    where it is another than the probe's."""

    load: float
    load_bytes: int
    audited: float
    folds: float
    bring: float
    shared: float
    cleaning: float
    cleaned_bytes: int
    memory: int
    imgsz: int
    pool: int
    rehearsal: Rehearsal
    probe: Probe | None
    slots: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageEstimate:
    """What a stage will take: seconds, bytes of memory at most, bytes of disk that stay and that are needed only while it runs.

    done: the share of it that an earlier run has completed already; seconds are of the rest, and where nothing is left all is nothing.
    """

    name: str
    seconds: float
    memory: int
    disk: int
    passing: int = 0
    done: float = 0.0


@dataclass(frozen=True)
class Advice:
    """A change of the configuration, the seconds that all stages will then take, and what it costs in quality or otherwise."""

    change: str
    seconds: float
    price: str


def estimate_stages(
    config: Config, names: Sequence[str], facts: Facts, costs: Costs, done: Mapping[str, float], machines: int = 1
) -> tuple[StageEstimate, ...]:
    """What each of the stages `names` takes. done: by name, the share that is complete. machines: like this one, folds spread over them."""
    estimates = []
    for name in names:
        share = done.get(name, 0.0)
        if share == 1:
            estimates.append(StageEstimate(name, 0.0, 0, 0, 0, share))
            continue
        seconds, memory, disk, passing = _STAGES[name](_Case(config, facts, costs, machines))
        estimates.append(StageEstimate(name, seconds * (1 - share), round(memory), round(disk), round(passing), share))
    return tuple(estimates)


def total_seconds(estimates: Sequence[StageEstimate]) -> float:
    return sum(estimate.seconds for estimate in estimates)


@dataclass(frozen=True)
class _Case:
    config: Config
    facts: Facts
    costs: Costs
    machines: int

    @property
    def probe(self) -> Probe:
        """The probe, which there is where anything is trained."""
        if self.costs.probe is None:
            raise ValueError("stages that train need a probe")
        return self.costs.probe

    @property
    def k(self) -> int:
        return 1 if self.config.method == "loss" and self.config.predictions is None else self.config.folds.k

    @property
    def jobs(self) -> int:
        """How many models there are."""
        return 1 if self.k == 1 else self.k * self.config.folds.repeats

    @property
    def slots(self) -> int:
        """How many of their children work side by side."""
        return self.costs.slots.get(self.jobs, min(self.probe.slots, self.jobs))

    @property
    def ratio(self) -> float:
        """How much more there is than was rehearsed."""
        return self.facts.annotations / max(self.costs.rehearsal.annotations, 1)


Cost = tuple[float, float, float, float]  # seconds, bytes of memory, bytes that stay on disk, bytes of disk for the while


def find_pace(probe: Probe, children: int) -> Pace:
    """On the line through that of one child alone and that of all slots busy, by how many there are."""
    if probe.slots <= 1:
        return probe.main
    share = (children - 1) / (probe.slots - 1)
    return Pace(
        probe.alone.fetch + (probe.main.fetch - probe.alone.fetch) * share, probe.alone.work + (probe.main.work - probe.alone.work) * share
    )


def spread_jobs(jobs: int, slots: int, machines: int, one: Callable[[int], float]) -> float:
    """Seconds until all jobs are done, as many at a time as there are slots; one: seconds of a job by how many run beside it."""
    rounds, rest = divmod(jobs, slots * machines)
    return rounds * one(slots) + (one(math.ceil(rest / machines)) if rest else 0.0)


def train_seconds(probe: Probe, pace: Pace, images: int, epochs: int, scale: float = 1.0) -> float:
    """Seconds of one child that trains on so many images. scale: pixels of an image, as a share of those in the probe."""

    def batch(one: Pace) -> float:
        return one.fetch + one.work * scale

    slower, closed_epochs = _slower(probe, pace), min(probe.closed_epochs, epochs)
    without_mosaic = batch(pace) * _slower(probe, probe.closed)
    batches = images / probe.batch
    trained = batches * ((epochs - closed_epochs) * batch(pace) + closed_epochs * without_mosaic)
    return slower * (probe.start + probe.set_up + probe.scan * images + probe.epoch * epochs) + trained + probe.end


def _scale(case: _Case) -> float:
    return (int(case.config.train["imgsz"]) / case.costs.imgsz) ** 2


def _train(case: _Case) -> Cost:
    probe, facts = case.probe, case.facts
    seen = max(1, round(facts.images * (1 - 1 / case.k)))
    slots = case.slots
    seconds = spread_jobs(
        case.jobs, slots, case.machines, lambda busy: train_seconds(probe, find_pace(probe, busy), seen, probe.epochs, _scale(case))
    )
    memory = case.costs.memory + slots * probe.training_memory
    links = case.costs.shared * facts.images
    return probe.prepare + links + seconds, memory, case.jobs * probe.weights_bytes, case.jobs * probe.state_bytes


def count_cycle_epochs(epochs: int) -> tuple[int, int]:
    """Epochs of a training with loss dynamics, and those of them after which all boxes are looked at."""
    cycles = CYCLES * max(2, round(CYCLE_SHARE * epochs))
    return max(1, round(ORDINARY_SHARE * epochs)) + cycles, cycles


def _dynamics(case: _Case) -> Cost:
    probe, facts = case.probe, case.facts
    epochs, cycles = count_cycle_epochs(probe.epochs)
    trained = train_seconds(probe, probe.single, facts.images, epochs, _scale(case))
    looked = cycles * facts.images * probe.prediction.image * _slower(probe, probe.single) * _scale(case)
    records = cycles * facts.looks * 6 * FLOAT
    memory = case.costs.memory + probe.training_memory + records
    return probe.prepare + trained + looked, memory, probe.weights_bytes + records, probe.state_bytes + records


def _slower(probe: Probe, pace: Pace) -> float:
    """What anything takes at this pace, as a share of what it takes with all slots busy."""
    return pace.batch / probe.main.batch if probe.main.batch else 1.0


def look_seconds(case: _Case, look: Look, images: float) -> float:
    """Seconds until all models have looked at so many images each."""
    probe, scale = case.probe, _scale(case) if case.config.predict.model_dump().get("imgsz") is None else 1.0

    def one(busy: int) -> float:
        slower = _slower(probe, probe.single if case.jobs == 1 else find_pace(probe, busy))
        return slower * (probe.start + look.once + look.image * images * scale) + probe.end

    return spread_jobs(case.jobs, case.slots, case.machines, one)


def _detect(case: _Case) -> Cost:
    rehearsal, facts = case.costs.rehearsal, case.facts
    quality = rehearsal.quality * case.ratio
    disk = rehearsal.written["detect"] * case.ratio
    if case.config.predictions is not None:
        return case.costs.bring + quality, case.costs.memory, disk, 0
    images = facts.images if case.config.votes == "all" else facts.images / case.k
    looked = look_seconds(case, case.probe.prediction, images)
    memory = case.costs.memory + case.slots * case.probe.memory
    return case.probe.prepare + looked + quality, memory, 2 * disk, 0  # a part for each fold, and all of them joined


def _crops(case: _Case) -> Cost:
    probe, facts, config = case.probe, case.facts, case.config
    boxes = facts.looks + facts.detections * config.folds.repeats
    seconds = case.costs.rehearsal.opinions * case.ratio
    disk = case.costs.rehearsal.written["crops"] * case.ratio
    if config.predictions is None:
        seconds += probe.prepare + look_seconds(case, probe.features, facts.images / case.k)
        disk += config.folds.repeats * boxes * FEATURES * FLOAT
    if config.crops == "always":
        seconds += probe.prepare + spread_jobs(case.jobs, case.slots, case.machines, lambda busy: _learn_crops(case, boxes / case.k))
    return seconds, case.costs.memory + case.slots * probe.memory, disk, 0


def _learn_crops(case: _Case, asked: float) -> float:
    probe = case.probe
    objects = min(case.facts.annotations * (1 - 1 / max(case.k, 2)), MOST_CROPS * (1 - BACKGROUND_SHARE))
    learnt = max(objects / (1 - BACKGROUND_SHARE), 1.0)
    epochs = min(max(CROPS_SEEN // learnt, EPOCHS_BETWEEN[0]), EPOCHS_BETWEEN[1])
    return probe.start + epochs * learnt * probe.crop + (learnt + asked) * probe.crop_read + probe.end


def _load(case: _Case) -> Cost:
    return case.costs.load, case.costs.memory, case.costs.load_bytes, 0


def _audit(case: _Case) -> Cost:
    seconds = case.costs.audited * case.facts.pictures
    return seconds / case.costs.pool if seconds > POOL_PAYS else seconds, case.costs.memory, 0, 0


def _folds(case: _Case) -> Cost:
    return case.costs.folds, case.costs.memory, 0, 0


def _score(case: _Case) -> Cost:
    """Planting goes on until there are rows enough to learn from; the rest grows with the annotations."""
    rehearsal, annotations = case.costs.rehearsal, case.facts.annotations
    rounds = count_rounds(annotations, case.config.score.planting_rounds)
    first, most = rehearsal.score[1], max(rehearsal.score)
    row = max((rehearsal.score[most] - first) / ((most - 1) * rehearsal.annotations), 0.0) if most > 1 else 0.0
    rest = max(first - row * rehearsal.annotations, 0.0) * case.ratio
    seconds = rehearsal.starting + row * rounds * annotations + rest
    if rehearsal.beyond:
        seconds = first + rehearsal.beyond * (annotations - rehearsal.annotations)
    memory = case.costs.memory + rehearsal.grown * case.ratio
    return seconds, memory, rehearsal.written["score"] * case.ratio, 0


def _issues(case: _Case) -> Cost:
    rehearsal = case.costs.rehearsal
    return rehearsal.issues * case.ratio, case.costs.memory, rehearsal.written["issues"] * case.ratio, 0


def _export(case: _Case) -> Cost:
    """The cleaned data set was written as a whole, the lists for the part that was rehearsed; both stand in the run folder as well."""
    rehearsal, costs = case.costs.rehearsal, case.costs
    lists = max(rehearsal.export - costs.cleaning, 0.0) * case.ratio
    disk = max(rehearsal.written["export"] - costs.cleaned_bytes, 0) * case.ratio + costs.cleaned_bytes
    copied = case.facts.picture_bytes if case.config.clean.copy_images else 0
    copying = costs.shared * case.facts.pictures if case.config.clean.copy_images else 0.0
    return costs.cleaning + lists + copying, costs.memory, 2 * (disk + copied), 0


_STAGES: dict[str, Callable[[_Case], Cost]] = {
    "load": _load,
    "audit": _audit,
    "folds": _folds,
    "train": _train,
    "dynamics": _dynamics,
    "detect": _detect,
    "crops": _crops,
    "score": _score,
    "issues": _issues,
    "export": _export,
}


def list_changes(config: Config, facts: Facts, imgsz: int) -> list[tuple[str, Config, str]]:
    """Changes that may make a run cheaper: how to write it, the configuration with it, and what it costs otherwise."""
    changes = []

    def change(text: str, price: str, **values: Any) -> None:
        changes.append((text, config.model_copy(update=values), price))

    if config.predictions is None and config.method != "loss":
        if config.folds.repeats > 1:
            folds = config.folds.model_copy(update={"repeats": 1})
            change("folds.repeats=1", "fewer opinions on each label", folds=folds)
        if config.folds.k > FEW_FOLDS:
            seen = f"{1 - 1 / FEW_FOLDS:.0%} instead of {1 - 1 / config.folds.k:.0%}"
            folds = config.folds.model_copy(update={"k": FEW_FOLDS})
            change(f"folds.k={FEW_FOLDS}", f"each detector learns from {seen} of the images", folds=folds)
        if config.method == "both":
            change("method=kfold", "no second opinion from the loss", method="kfold")
        else:
            change("method=loss", "one training on all images, which finds fewer errors", method="loss")
    if config.predictions is None:
        smaller = max(32, round(imgsz * SMALLER / 32) * 32)
        if smaller < imgsz and facts.small_side * smaller >= LEAST_SIDE:
            text = f"the smaller objects are then {facts.small_side * smaller:.0f} px instead of {facts.small_side * imgsz:.0f} px"
            change(f"train.imgsz={smaller}", text, train={**config.train, "imgsz": smaller})
        if config.votes == "all":
            change("votes=out_of_fold", "no opinion of the detectors that know the label", votes="out_of_fold")
    if config.crops != "never":
        change("crops=never", "no evidence from what single boxes look like", crops="never")
    return changes
