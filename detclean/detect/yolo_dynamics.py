# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, index, misc, no-untyped-call, operator, union-attr"

"""A training whose learning rate falls and jumps back, which looks at its own images after every epoch, in the child of `yolo_worker.py`.

Where the rate is high the model forgets what it learnt by heart, where it is low it learns it again (Huang et al., O2U-Net, ICCV 2019).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import torch
from ultralytics.data.augment import LetterBox
from ultralytics.utils.torch_utils import one_cycle, unwrap_model

from detclean.boxes import Boxes, Floats, read_boxes
from detclean.detect.dynamics import RECORDED, cycle_rate
from detclean.detect.locations import LEAST_SCORE, examine_locations
from detclean.detect.yolo_predict import as_tensor, raw_locations, read_pictures
from detclean.detect.yolo_train import FoldTrainer, train_fold
from detclean.files import write_whole


def train_in_cycles(job: dict[str, Any]) -> None:
    """Trains on all images and records how well each box is fitted; goes on where an earlier process was interrupted."""
    train_fold(job, CyclicTrainer)


class CyclicTrainer(FoldTrainer):
    """Ordinary epochs, then cycles, and after every epoch of those `records/00017.npy`: (n, 6) of the boxes asked about, as RECORDED."""

    def __init__(self, job: dict[str, Any]):
        super().__init__(job)
        self.row = pl.read_parquet(self.folder / "asked.parquet", glob=False)["row"].to_numpy()
        self.asked = read_boxes(self.folder / "asked.parquet")
        images = pl.read_parquet(self.folder / "images.parquet", glob=False)  # image_index, path, width, height
        self.images = images.filter(pl.col("image_index").is_in(np.unique(self.asked.image_index)))

    def _setup_scheduler(self) -> None:
        ordinary, last = self.job["ordinary_epochs"], self.args.lrf
        falling = one_cycle(1, last, ordinary) if self.args.cos_lr else lambda epoch: (1 - epoch / ordinary) * (1 - last) + last
        self.lf = lambda epoch: falling(epoch) if epoch < ordinary else cycle_rate(epoch - ordinary, self.job["cycle_epochs"])
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self.lf)

    def save_model(self) -> bool:
        """The record before the state: an epoch that is not repeated has one, and an epoch that is repeated writes its own anew."""
        if self.epoch >= self.job["ordinary_epochs"]:
            content = io.BytesIO()
            np.save(content, self.look(unwrap_model(self.model)), allow_pickle=False)
            write_whole(self.folder / "records" / f"{self.epoch:05d}.npy", content.getvalue(), settled=True)
        return super().save_model()

    def look(self, model: Any) -> Floats:
        """How well a model fits every box now, without augmentation: (n, 6), NaN where there is no picture. The model stays as it was."""
        record = np.full((self.job["box_count"], len(RECORDED)), np.nan, np.float32)
        letterbox = LetterBox(self.args.imgsz)  # square, as in training
        training, end2end = model.training, model.end2end
        model.eval()  # batch norm is read and not updated
        model.end2end = False  # the head that reports every anchor with all its scores
        for batch in self.images.iter_slices(self.batch_size):
            self._look_at(model, batch, letterbox, record)
        model.end2end = end2end
        if training:
            self._model_train()
        return record

    def _look_at(self, model: Any, batch: pl.DataFrame, letterbox: LetterBox, record: Floats) -> None:
        pictures, places = read_pictures(batch)
        if not pictures:
            return
        tensor = as_tensor(pictures, letterbox, self.device)
        with torch.no_grad():  # not inference_mode: what the head keeps of this pass must not get into the training
            raw = model(tensor)[0]  # (images, 4 + K, anchors)
        for picture, (index, width, height), output in zip(pictures, places, raw, strict=True):
            scale = np.array([width, height] * 2) / np.array([picture.shape[1], picture.shape[0]] * 2)
            locations, scores = raw_locations(output, tensor.shape[2:], picture.shape[:2], scale)
            rows = slice(*np.searchsorted(self.asked.image_index, [index, index + 1]).tolist())
            record[self.row[rows]] = _examine(locations, scores, self.asked[rows])


def _examine(locations: Floats, scores: Floats, boxes: Boxes) -> Floats:
    """A row of RECORDED for each box of an image: (b, 6)."""
    found = examine_locations(locations, scores, boxes.xyxy.astype(np.float32), boxes.category)
    same_50, same_70, other_50 = (np.clip(found[name], LEAST_SCORE, 1 - LEAST_SCORE) for name in ("same_50", "same_70", "other_50"))
    margin_50 = np.log(same_50 / (1 - same_50)) - np.log(other_50 / (1 - other_50))
    target = [found["target_nll"], 1 - found["target_iou"], found["target_margin"]]
    return np.stack([*target, -np.log(same_50), -np.log(same_70), margin_50], axis=1)
