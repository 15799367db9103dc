"""Loss dynamics: one training on all images, and how well it fits each box while its learning rate falls and jumps back.

A network learns what many labels agree on before it learns single labels by heart, and forgets these first. So a wrong label keeps a
high loss while the rate is high, and loses it, if ever, where the rate is low (Huang et al., O2U-Net, ICCV 2019). No image is held out:
one training takes the place of one a fold.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detclean.boxes import Boxes, Floats
from detclean.dataset import Dataset
from detclean.detect.yolo import Fold, find_usual_slots, share_threads
from detclean.detect.yolo_process import Display, Executor, Job, Silence, is_done, run_jobs
from detclean.detect.yolo_settings import complete_train, prepare, warn_of_code
from detclean.detect.yolo_view import find_names, write_fold_lists, write_questions, write_view
from detclean.errors import StageError
from detclean.files import write_whole

# -log p of the category and 1 - IoU at the box's best location, and the logit margin there; then, where the first three may be read far
# from the box, as a wrong category is often seen better elsewhere: -log p at IoU >= 0.5 and >= 0.7, and the logit margin at IoU >= 0.5
RECORDED = ("nll", "box", "margin", "nll_50", "nll_70", "margin_50")
ORDINARY_SHARE = 0.6  # of train.epochs before the cycles: what a whole training learns by heart is no longer told apart
CYCLES = 3
CYCLE_SHARE = 0.2  # of train.epochs in a cycle
LOWEST_RATE = 0.01  # at a cycle's end, as a share of that at its start, as in O2U-Net
THE_ONE = Fold(0, 0, "loss dynamics", "fold-0")  # named as the only model of a cross-validation, so that it can also predict


def record_losses(
    dataset: Dataset,
    boxes: Boxes,
    out: Path,
    *,
    model: str,
    train: Mapping[str, Any],
    seed: int = 0,
    cycles: int = CYCLES,
    cycle_epochs: int | None = None,
    executor: Executor | None = None,
    display: Display | None = None,
) -> Floats:
    """Trains on all images and records after every epoch of the cycles how well each of `boxes` is fitted: (epochs, n, 6), as RECORDED.

    boxes: the annotations as given and any others, such as corrupted copies, which are looked at and not trained on. NaN where an
    image has no picture. cycle_epochs: by default a share of train.epochs, as are the ordinary epochs before the cycles. out: a folder
    that survives a crash, as in `train_folds`; it holds records.npy and `weights/fold-0.weights` afterwards, so that
    `predict_out_of_fold(..., zeros, out, ...)` can look with this model. Raises ConfigError and StageError.
    """
    display = display or Silence()
    out = out.resolve()
    place = out / "records.npy"
    recorded = out / "folds" / THE_ONE.name / "records"
    trained = is_done(THE_ONE.key, [THE_ONE.weights(out)], display)
    if not (trained and place.exists()):
        if not (trained and any(recorded.glob("*.npy"))):
            _train(dataset, boxes, out, model, dict(train), seed, cycles, cycle_epochs, display, executor)
        epochs = [_open(path, out) for path in sorted(recorded.glob("*.npy"))]
        content = io.BytesIO()
        np.save(content, np.stack(epochs), allow_pickle=False)
        write_whole(place, content.getvalue(), settled=True)
    records = _open(place, out)
    _tidy(out)
    return records


def _open(path: Path, out: Path) -> Floats:
    """A file of records. Raises StageError where it is damaged: what the model had forgotten by then nobody can ask it again."""
    try:
        records: Floats = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StageError(f"{path}: is damaged; remove the folder {out} and repeat the run, which trains anew") from error
    return records


def cycle_rate(epoch: int, cycle_epochs: int) -> float:
    """The learning rate's factor in an epoch counted from the first cycle's start: linear to LOWEST_RATE (O2U-Net, equation 1)."""
    passed = (1 + epoch % cycle_epochs) / cycle_epochs
    return (1 - passed) + passed * LOWEST_RATE


def _train(
    dataset: Dataset,
    boxes: Boxes,
    out: Path,
    model: str,
    train: dict[str, Any],
    seed: int,
    cycles: int,
    cycle_epochs: int | None,
    display: Display,
    executor: Executor | None,
) -> None:
    if isinstance(train.get("pretrained"), str):
        train["pretrained"] = os.path.abspath(train["pretrained"])  # the child works in another folder
    names, everything = find_names(dataset), np.ones(dataset.image_count, bool)
    if not any(names[image] is not None for image in np.unique(dataset.annotations.image_index)):
        raise StageError(f"{dataset.source.name}: no image has a picture and an annotation, so there is nothing to train on")
    warn_of_code(model, train, display)
    prepared = prepare(dataset, out, model, train)
    slots = find_usual_slots(prepared, train.get("device"), 1, executor)  # the one that there is
    settings = complete_train(train, dataset, slots, seed, display)
    ordinary = max(1, round(ORDINARY_SHARE * prepared["epochs"]))
    cycle_epochs = cycle_epochs or max(2, round(CYCLE_SHARE * prepared["epochs"]))
    settings["epochs"] = ordinary + cycles * cycle_epochs
    folder = out / "folds" / THE_ONE.name
    write_fold_lists(dataset, names, ~everything, write_view(dataset, names, out), folder)
    write_questions(dataset, everything, boxes, folder)
    common = {
        "task": "loss dynamics",
        "train": settings | {"model": prepared["model"]},
        "seed": settings["seed"],
        "epochs": settings["epochs"],
        "ordinary_epochs": ordinary,
        "cycle_epochs": cycle_epochs,
        "box_count": len(boxes),
        "threads": share_threads(slots),
    }
    display.task(THE_ONE.key, "epoch", settings["epochs"])
    weights = THE_ONE.weights(out)
    run_jobs([Job(THE_ONE.key, folder, weights, {"repeat": 0, "fold": 0, "weights": str(weights)})], slots, common, display, executor)


def _tidy(out: Path) -> None:
    """Leaves records, weights, logs and progress files."""
    folder = out / "folds" / THE_ONE.name
    for place in (out / "view", out / "prepare", out / "ultralytics", folder / "records", folder / "weights"):
        shutil.rmtree(place, ignore_errors=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("train.log", "progress.jsonl"):
            path.unlink()
