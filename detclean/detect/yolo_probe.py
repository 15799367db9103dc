# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, misc, override, no-untyped-call, union-attr"

"""What a training and a look at images cost here, tried out for seconds in the child process of `yolo_worker.py`.

The real trainer trains, on a sample of the data set's own images; the real `predict_fold` and `embed_fold` look at them. The children of a
probe keep step: what one takes depends on what the others do at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import orjson
import polars as pl
import torch
from ultralytics.utils.nms import non_max_suppression

from detclean.detect import yolo_predict
from detclean.detect.yolo_crops import train_crops
from detclean.detect.yolo_features import embed_fold
from detclean.detect.yolo_predict import predict_fold
from detclean.detect.yolo_train import FoldTrainer, report, train_fold
from detclean.files import write_whole
from detclean.machine import peak_memory

WARM_BATCHES = 2  # before anything is timed: the first are slow
SLOW_BATCH = 6.0  # s: where the first batch takes longer, it is warm-up enough
SLOW, SLOW_PHASES = "slow", ("main", "single")  # a plan should not take longer than some stages: then only these phases are tried
LEAST_BATCHES = 3
ENDLESS = 100_000  # epochs: a probe ends by itself
CANDIDATES = 300  # locations an image above a low confidence
WARM_IMAGES, FEWEST_IMAGES, FEW_IMAGES = 2, 4, 16
LOOK_SECONDS = 2.0  # of the longer look
WAIT = 0.01  # s between two glances at what the others do


def probe(job: dict[str, Any]) -> None:
    """Tries out what the job asks for, training, looking, crops, and writes `probe.json`: seconds, bytes, times since the epoch."""
    folder = Path(job["folder"])
    answer: dict[str, Any] = {"reached": time.time()}
    if "train" in job:
        answer |= _train(job)
    steps = _Steps(job)
    yolo_predict.non_max_suppression = suppress_as_trained
    for name, task in (("prediction", predict_fold), ("features", embed_fold)):
        if name in job["looks"]:
            steps.meet(name)
            answer[name] = _look(job, folder, name, task)
            report(folder, "predict", 0, 0, "")
    if "crops" in job["looks"]:
        steps.meet("crops")
        answer["crops"] = _learn_crops(job, folder)
    answer |= {"memory": peak_memory(), "ended": time.time()}
    write_whole(folder / "probe.json", orjson.dumps(answer))


def suppress_as_trained(raw: torch.Tensor, conf: float, iou: float, **settings: Any) -> Any:
    """Suppression among as many candidates as a trained model has, where one of a few batches has none or thousands: raw (n, 4 + K, a)."""
    best = raw[:, 4:].amax(dim=1)
    least = best.topk(min(CANDIDATES, best.shape[1])).values[:, -1:]
    raw = raw.clone()
    raw[:, 4:].masked_fill_((best < least)[:, None], 0.0)
    return non_max_suppression(raw, 0.0, iou, **settings)


class _Steps:
    """Where the children of a probe wait for each other: a folder with a file for each that has come so far."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.folder, self.name, self.children = Path(job["meeting"]), str(job["fold"]), job["children"]

    def arrive(self, point: str) -> None:
        (self.folder / point).mkdir(exist_ok=True)
        (self.folder / point / self.name).touch()

    def all_arrived(self, point: str, children: int) -> bool:
        return len(list((self.folder / point).glob("*"))) >= children

    def meet(self, point: str) -> None:
        self.arrive(point)
        while not self.all_arrived(point, self.children):
            time.sleep(WAIT)


class ProbeTrainer(FoldTrainer):
    """The fold's trainer for a few batches a phase. Phases: name, children that train, threads of each, whether with mosaic, seconds."""

    def __init__(self, job: dict[str, Any]):
        self.steps = _Steps(job)
        self.phases: list[dict[str, Any]] = job["phases"]
        self.phase = -1  # warming up
        self.phase_batches: list[tuple[float, float]] = []
        self.epoch_seconds: list[float] = []
        self.first_batch = 0.0
        self.set_up = self.phase_start = 0.0
        self.began = self.ended = 0.0
        self.new_epoch = True
        self.scan_seconds = 0.0
        self.found: dict[str, list[tuple[float, float]]] = {}
        super().__init__(job)
        self.add_callback("on_train_batch_start", ProbeTrainer.begin_batch)
        self.add_callback("on_train_batch_end", ProbeTrainer.end_batch)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """As it is, timed: it reads every label, and every picture where they are kept in memory."""
        start = time.perf_counter()
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        self.scan_seconds += time.perf_counter() - start
        return loader

    def build_optimizer(self, model: Any, name: str = "auto", **settings: Any) -> Any:
        """The one of the whole training: `auto` chooses by the number of iterations."""
        settings["iterations"] = max(1, -(-self.job["images"] // max(self.batch_size, self.args.nbs))) * self.job["epochs"]
        return super().build_optimizer(model, name, **settings)

    def begin_batch(self) -> None:
        self.began = time.perf_counter()
        self.set_up = self.set_up or time.time()

    def end_batch(self) -> None:
        """Notes what the batch took, and goes on to the next phase once everybody is done with this one."""
        now = time.perf_counter()
        fetched, worked = self.began - self.ended if self.ended else 0.0, now - self.began
        self.first_batch = self.first_batch or worked
        if self.new_epoch and self.phase_batches:  # the fetch was an epoch's end and the next one's beginning as well
            self.epoch_seconds.append(fetched - median(fetch for fetch, _ in self.phase_batches))
            fetched = median(fetch for fetch, _ in self.phase_batches)
        self.new_epoch = self.batch_number >= len(self.train_loader)
        self.phase_batches.append((fetched, worked))
        if self._is_over(now):
            self._next_phase()
        self.ended = time.perf_counter()

    def _is_over(self, now: float) -> bool:
        """Whether the phase is: this child has enough, and the others, too, for until then they are to be disturbed as in a training."""
        if self.phase < 0:
            return len(self.phase_batches) >= WARM_BATCHES or self.first_batch > SLOW_BATCH
        phase = self.phases[self.phase]
        point = f"end of {self.phase}"
        enough = LEAST_BATCHES if self.first_batch <= SLOW_BATCH else 1
        if point not in self.found and len(self.phase_batches) >= enough and now - self.phase_start >= phase["seconds"]:
            self.found[point] = self.phase_batches
            self.found[phase["name"]] = list(self.phase_batches)
            self.steps.arrive(point)
        return point in self.found and self.steps.all_arrived(point, phase["children"])

    def _next_phase(self) -> None:
        """The next phase in which this child trains; those without it are waited for."""
        if self.phase < 0 and self.first_batch > SLOW_BATCH:
            self.steps.arrive(SLOW)
        self.phase += 1
        self.steps.meet(f"begin of {self.phase}")
        if self.phase == 0 and (self.steps.folder / SLOW).exists():  # whoever is slow, all try out less
            self.phases = [phase for phase in self.phases if phase["name"] in SLOW_PHASES]
        while self.phase < len(self.phases) and int(self.steps.name) >= self.phases[self.phase]["children"]:
            self.phase += 1
            self.steps.meet(f"begin of {self.phase}")
        if self.phase >= len(self.phases):
            self.stop = True
            return
        phase = self.phases[self.phase]
        if self.device.type == "cpu":
            torch.set_num_threads(phase["threads"])
        if not phase["mosaic"]:
            self._close_dataloader_mosaic()
        self.phase_batches, self.phase_start = [], time.perf_counter()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        return False  # whatever the loss is, it costs the same


def _train(job: dict[str, Any]) -> dict[str, Any]:
    """A few batches in every phase, the saving of states and weights; with `set_up`, the time at which the first batch came."""
    trainers: list[ProbeTrainer] = []

    def make(job: dict[str, Any]) -> ProbeTrainer:
        trainers.append(ProbeTrainer(job))
        return trainers[0]

    train_fold({**job, "train": job["train"] | {"epochs": ENDLESS}}, make)
    torch.set_num_threads(job["threads"])
    trainer = trainers[0]
    start = time.perf_counter()
    trainer.save_weights()
    saved = time.perf_counter() - start
    gpu = torch.cuda.max_memory_reserved() if trainer.device.type == "cuda" else 0
    return {
        "set_up": trainer.set_up,
        "scan": trainer.scan_seconds,
        "sampled": len(trainer.train_loader.dataset),
        "batch": trainer.batch_size,
        "phases": {
            phase["name"]: {
                "fetch": fmean(fetch for fetch, _ in batches),
                "work": fmean(work for _, work in batches),
                "batches": len(batches),
            }
            for phase in trainer.phases
            if (batches := trainer.found.get(phase["name"]))
        },
        "epoch": max(0.0, median(trainer.epoch_seconds)) if trainer.epoch_seconds else 0.0,
        "save": saved,
        "state_bytes": trainer.state_path.stat().st_size,
        "weights_bytes": Path(job["weights"]).stat().st_size,
        "training_memory": peak_memory(),
        "gpu_memory": gpu,
    }


def _look(job: dict[str, Any], folder: Path, name: str, task: Callable[[dict[str, Any]], None]) -> dict[str, float]:
    """Seconds an image and seconds whatever their number, of a task with the images and questions in `folder`."""
    available = pl.read_parquet(folder / "images.parquet", glob=False)

    def take(count: int) -> float:
        place = folder / f"{name} {count}"
        place.mkdir(exist_ok=True)
        chosen = available.head(count)
        chosen.write_parquet(place / "images.parquet")
        asked = pl.read_parquet(folder / "asked.parquet", glob=False)
        asked.filter(pl.col("image_index").is_in(chosen["image_index"].implode())).write_parquet(place / "asked.parquet")
        start = time.perf_counter()
        task({**job, "folder": str(place)})
        return time.perf_counter() - start

    warm = min(WARM_IMAGES, available.height)
    few = min(max(FEWEST_IMAGES, min(FEW_IMAGES, round(LOOK_SECONDS * warm / take(warm)))), available.height)
    short = take(few)
    many = min(available.height, round(few * LOOK_SECONDS / short))
    if many < 2 * few:
        return {"image": short / few, "once": 0.0}
    image = max((take(many) - short) / (many - few), 0.0)
    return {"image": image, "once": max(short - image * few, 0.0)}


def _learn_crops(job: dict[str, Any], folder: Path) -> dict[str, float]:
    """Seconds a crop seen in training, and seconds a crop that is read and asked about."""
    place = folder / "crops"
    crops = pl.read_parquet(place / "training.parquet", glob=False).height + pl.read_parquet(place / "asked.parquet", glob=False).height
    learnt = pl.read_parquet(place / "training.parquet", glob=False).height

    def take(epochs: int) -> float:
        start = time.perf_counter()
        train_crops({**job, **job["crop_training"], "epochs": epochs, "folder": str(place)})
        return time.perf_counter() - start

    take(1)
    one, three = take(1), take(3)
    seen = max((three - one) / (2 * learnt), 0.0)
    return {"seen": seen, "read": max((one - seen * learnt) / crops, 0.0)}
