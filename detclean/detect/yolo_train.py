# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, no-untyped-call, operator, union-attr"

"""Training one fold, in the child process of `yolo_worker.py`: Ultralytics' trainer, made resumable to the bit."""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from ultralytics.data import dataset as ultralytics_dataset
from ultralytics.data import utils as ultralytics_data
from ultralytics.data.augment import BaseMixTransform, Compose, Mosaic
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import LOGGER, torch_utils
from ultralytics.utils.torch_utils import unwrap_model

from detclean.boxes import Ints
from detclean.detect.draws import draw_epoch, find_part
from detclean.detect.yolo_settings import WEIGHTS
from detclean.detect.yolo_view import GONE
from detclean.detect.yolo_weights import describe_model, open_weights, rebuild_model, save_whole
from detclean.errors import StageError

NAN_ATTEMPTS = 3  # as often as Ultralytics' own trainer tries an epoch anew
DRAWING = 1  # sets the drawing of images apart from all else that is random in an epoch
REPORT_SECONDS = 2.0  # between two reports from inside an epoch


def report(folder: Path, kind: str, done: int, total: int, note: str) -> None:
    """One more line of the fold's progress file, which the parent follows. kind: start, batch, epoch or predict."""
    line = {"kind": kind, "done": done, "total": total, "note": note}
    with open(folder / "progress.jsonl", "ab") as f:
        f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


class FoldTrainer(DetectionTrainer):
    """Ultralytics' trainer, which after an interruption goes on exactly as if there had been none, and sees no held-out label.

    Three things make it so. The whole state is saved after each epoch, not Ultralytics' half-precision excerpt. Everything random in an
    epoch follows from the seed and the epoch's number alone. And no gradient is carried from one epoch to the next.
    """

    def __init__(self, job: dict[str, Any]):
        self.job = job
        self.folder = Path(job["folder"])
        self.state_path = self.folder / "state.pt"
        self.attempt = 0  # how often this epoch has ended in a loss that is no number
        self.step_every = 1
        self.batch_number = self.open_batches = 0
        self.reported = 0.0
        self.draw = np.load(job["draw"], allow_pickle=False) if job.get("draw") else None  # (parts, N)
        super().__init__(
            overrides=job["train"] | {"device": job["device"], "data": str(self.folder / "data.yaml"), "save_dir": str(self.folder)}
        )
        self.add_callback("on_train_epoch_start", FoldTrainer.begin_epoch)
        self.add_callback("on_train_batch_end", FoldTrainer.report_batch)

    def _setup_train(self) -> None:
        state = self.open_state()
        if state:  # a batch that was halved for want of memory stays halved
            self.args.batch = self.batch_size = state["batch"]
        super()._setup_train()
        if state:
            self.restore(state)
            self.start_epoch = state["epoch"] + 1
            self.scheduler.last_epoch = self.start_epoch - 1
            if self.start_epoch >= self.epochs:  # by an older version, which kept the weights as a .pt: that one is never opened
                self.save_weights()
                sys.exit()
        self.check_pictures()
        self.check_rebuilding()
        report(self.folder, "start", self.start_epoch, self.epochs, f"training from epoch {self.start_epoch + 1}")

    def open_state(self) -> dict[str, Any] | None:
        """What `save_model` saved; None where there is nothing, or nothing any more that could be gone on from."""
        if not self.state_path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError):
            LOGGER.warning(f"{self.state_path}: is damaged, so this training begins anew")
            self.state_path.unlink()
            return None
        return state

    def setup_model(self) -> Any:
        """As Ultralytics does it; but weights that were fetched are numbers alone in the run folder, where nothing else is opened."""
        if Path(self.model).suffix != WEIGHTS:
            return super().setup_model()
        weights, pretrained = open_weights(self.model)[0], self.args.pretrained
        layout = weights.yaml
        if isinstance(pretrained, (str, Path)):
            weights = load_checkpoint(pretrained)[0]
        self.model = self.get_model(cfg=layout, weights=None if pretrained is False else weights, verbose=True)
        return None

    def check_pictures(self) -> None:
        """Raises StageError where one is gone, once they have been looked through: Ultralytics would train without it."""
        listed = (self.folder / "train.txt").read_text(encoding="utf-8").split("\n")
        gone = next((path for path in listed if path and not os.path.exists(path)), None)
        if gone is not None:
            raise StageError(f"{os.path.realpath(gone)}: {GONE}")

    def check_rebuilding(self) -> None:
        """Raises StageError before hours of training for a model that could not be opened again from its layout and numbers."""
        described = describe_model(unwrap_model(self.model), self.args.imgsz, half=True)
        try:
            rebuild_model(described)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise StageError(f"model: cannot be kept as numbers and its layout ({reason}); name another model") from error

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """The images to train on, also where images to validate on are asked for: nobody will look at those."""
        return super().get_dataloader(dataset_path, batch_size, rank, mode) if mode == "train" else self.train_loader

    def _build_train_pipeline(self) -> None:
        super()._build_train_pipeline()
        self.step_every, self.accumulate = self.accumulate, 1  # optimizer_step below is then called after every batch

    def optimizer_step(self) -> None:
        """A step once enough batches have added up, and at an epoch's end: the loop's own count would straddle epochs."""
        batches = len(self.train_loader)
        warmup = self._get_warmup_iterations(batches)
        seen = self.epoch * batches + self.batch_number
        wanted = round(float(np.interp(seen, [0, warmup], [1, self.step_every]))) if warmup else self.step_every
        self.batch_number += 1
        self.open_batches += 1
        if self.open_batches >= wanted or self.batch_number == batches:
            super().optimizer_step()
            self.open_batches = 0

    def begin_epoch(self) -> None:
        """Random state, sampler and the mosaic's pool of recent images anew, so that an epoch does not depend on those before it."""
        entropy = (self.job["seed"], self.job["repeat"], self.job["fold"], self.epoch, self.attempt)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # Ultralytics' augmentation draws from it
        torch.manual_seed(seed)
        self.train_loader.reset()
        self.train_loader.generator.manual_seed(seed)
        dataset = self.train_loader.dataset
        for index in dataset.buffer:
            dataset.ims[index], dataset.im_hw0[index], dataset.im_hw[index] = None, None, None
        dataset.buffer.clear()
        self.batch_number = self.open_batches = 0
        if self.draw is not None:
            self.draw_images(np.random.default_rng((*entropy, DRAWING)))

    def draw_images(self, rng: np.random.Generator) -> None:
        """Which images this epoch sees and how often, in place of each once. Those that a mosaic mixes in come from the same ones.

        In an epoch in which all weigh the same, everything is as if nothing were drawn.
        """
        dataset = self.train_loader.dataset
        index = [int(Path(file).stem) for file in dataset.im_files]  # their names in the view
        weights = find_part(self.draw, self.epoch, self.epochs)[index]
        chosen = draw_epoch(weights, rng)
        self.train_loader.batch_sampler.sampler.sampler = ShuffledImages(chosen, self.train_loader.generator)
        alike = weights.min() == weights.max()
        for mix in _find_mixes(dataset.transforms):
            mix.__dict__.pop("get_indexes", None)
            if not alike:
                mix.get_indexes = partial(random.choices, chosen.tolist(), k=mix.n - 1 if isinstance(mix, Mosaic) else 1)

    def report_batch(self) -> None:
        """Tells the parent every few seconds how far the epoch is."""
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.reported = time.monotonic()
            batches = f"batch {self.batch_number} of {len(self.train_loader)}"
            report(self.folder, "batch", self.epoch, self.epochs, f"epoch {self.epoch + 1}, {batches}, {self.describe_loss()}")

    def describe_loss(self) -> str:
        return f"loss {float(sum(self.tloss.values())):.3g}"

    def validate(self) -> tuple[dict[str, float], float]:
        """Nothing: the last weights are used, and the labels of the held-out images must not choose among them."""
        return {}, 0.0

    def final_eval(self) -> None:
        """Nothing, as in `validate`; the weights are written by `save_model`."""

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Nothing: the loss is in the log."""

    def save_model(self) -> bool:
        """The exact state after an epoch, and after the last one the weights."""
        if self.epoch + 1 >= self.epochs:
            self.save_weights()
        state = {
            "epoch": self.epoch,
            "batch": self.batch_size,
            "model": unwrap_model(self.model).state_dict(),
            "ema": self.ema.ema.state_dict(),
            "ema_updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "criterion_updates": getattr(unwrap_model(self.model).criterion, "updates", None),
        }
        save_whole(state, self.state_path)
        report(self.folder, "epoch", self.epoch + 1, self.epochs, self.describe_loss())
        return False  # no callback of an integration

    def save_weights(self) -> None:
        """The averaged weights in half precision, as numbers alone."""
        save_whole(describe_model(unwrap_model(self.ema.ema), self.args.imgsz, half=True), Path(self.job["weights"]))

    def restore(self, state: dict[str, Any]) -> None:
        """Everything as it was when `save_model` saved it, but for `start_epoch` and the scheduler."""
        model = unwrap_model(self.model)
        model.load_state_dict(state["model"])
        self.ema.ema.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        for saved, group in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved["fused"] = group.get("fused")  # which kernel runs is this device's matter
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if state["criterion_updates"]:  # the two heads of an end-to-end model are weighted by the epoch
            model.criterion = model.init_criterion()
            model.criterion.updates = state["criterion_updates"] - 1
            model.criterion.update()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Whether the epoch must be tried again, from the saved state and with other random numbers. Raises StageError in the end."""
        if self.loss.isfinite():
            self.attempt = 0
            return False
        state = unwrap_model(self.model).state_dict().values()
        if not self.state_path.exists() and all(bool(tensor.isfinite().all()) for tensor in state):
            LOGGER.warning("the loss is no finite number in the first epoch, but the weights are: going on")
            return False
        self.attempt += 1
        remedy = "lower train.lr0, or set train.amp=false"
        if self.attempt > NAN_ATTEMPTS or not self.state_path.exists():
            raise StageError(f"the loss is no finite number in epoch {epoch + 1}; {remedy}")
        LOGGER.warning(f"the loss is no finite number in epoch {epoch + 1}: trying it again from the end of epoch {epoch}")
        self.restore(torch.load(self.state_path, map_location="cpu", weights_only=True))
        self.scheduler.last_epoch = epoch - 1
        self._model_train()
        return True


class ShuffledImages(torch.utils.data.Sampler[int]):
    """The images of an epoch in an order that PyTorch's own sampler would bring them in, were each there once."""

    def __init__(self, chosen: Ints, generator: torch.Generator):
        self.chosen, self.generator = torch.as_tensor(chosen), generator

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[int]:
        return iter(self.chosen[torch.randperm(len(self.chosen), generator=self.generator)].tolist())


def _find_mixes(transform: Any) -> Iterator[BaseMixTransform]:
    """All that mix other images into one, however deep they stand: mosaic, mixup, cutmix, copied objects."""
    if isinstance(transform, Compose):
        for inner in transform.transforms:
            yield from _find_mixes(inner)
    if isinstance(transform, BaseMixTransform):
        yield transform
        yield from _find_mixes(transform.pre_transform)


def train_fold(job: dict[str, Any], trainer: type[FoldTrainer] = FoldTrainer) -> None:
    """Trains on the images of the other folds; goes on where an earlier process was interrupted. Writes the weights."""
    # Ultralytics would use every core in each of several processes, and results would depend on the machine's load.
    torch_utils.NUM_THREADS = job["threads"]
    # A label cache is keyed so loosely that stale ones get used, and folds side by side would share it.
    ultralytics_dataset.save_dataset_cache_file = _keep_no_cache
    # Nor is one opened that lies there: it is a pickle, which can run code.
    ultralytics_dataset.load_dataset_cache_file = _find_no_cache
    # A JPEG without its end marker is checked as Ultralytics does, but stays as it is.
    ultralytics_data._replace_image = lambda im_file, write: write(io.BytesIO())
    ultralytics_data.check_font = lambda font: None  # a download, for plots that nobody makes
    trainer(job).train()


def _find_no_cache(path: Path) -> dict[str, Any]:
    raise FileNotFoundError(path)


def _keep_no_cache(prefix: str, path: Path, x: dict[str, Any], version: str) -> None:
    x["version"] = version
