# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, index, misc, no-untyped-call, operator, union-attr"

"""What runs in a child process of `yolo.py`: check a training's settings, or train one fold and look at its held-out images.

Only this module and `yolo_train.py` import Ultralytics, and nothing but the child imports them: it is started as
`python -m detclean.detect.yolo_worker JOB.json`, in an environment (`yolo.py`) that keeps Ultralytics' settings private and its
integrations off.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import torch
from numpy.typing import NDArray
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
from ultralytics.data.augment import LetterBox
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, yaml_model_load
from ultralytics.utils.checks import check_model_file_from_stem
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes
from ultralytics.utils.patches import imread

from detclean.boxes import Boxes, write_boxes
from detclean.detect.yolo_train import report, train_fold
from detclean.errors import ConfigError, DetcleanError, StageError
from detclean.files import write_whole

ROWS_A_PART = 100_000  # detections kept in memory before they go to disk
NO_TIME_LIMIT = 1e9  # seconds: Ultralytics' suppression gives up on a slow machine, and results would depend on its speed

# Arguments that a training per fold cannot have, and why.
REFUSED = {
    "data": "each fold has a data.yaml of its own",
    "model": "name the model as `model`",
    "mode": "detclean trains and predicts",
    "task": "only detection models find label errors of boxes",
    "resume": "a run resumes by itself",
    "split": "held-out labels are never looked at in training",
    "cfg": "name the arguments themselves",
    "save_dir": "the run folder is chosen by detclean",
    "single_cls": "the model must tell the categories apart",
    "time": "with a limit in hours folds would differ and could not be resumed; use epochs",
    "distill_model": "its training cannot be resumed exactly",
    "quantize": "its training cannot be resumed exactly",
}


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """The model's place, the epochs and the number of CUDA devices. Raises ConfigError and StageError for what cannot be."""
    train: dict[str, Any] = job["train"]
    known = [*DEFAULT_CFG_DICT, "augmentations"]
    for name, value in train.items():
        if name in REFUSED and value != DEFAULT_CFG_DICT.get(name):
            raise ConfigError(f"train.{name}: cannot be set, {REFUSED[name]}")
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean train.{close[0]}?" if close else "see Ultralytics' list of training settings"
            raise ConfigError(f"train.{name}: Ultralytics knows no such training argument; {hint}")
    try:
        epochs = get_cfg(overrides=train).epochs
    except (TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"train: {_first_line(error)}") from error
    if isinstance(train.get("pretrained"), str) and not Path(train["pretrained"]).is_file():
        raise StageError(f"train.pretrained: {train['pretrained']} is no file; name existing weights or leave it out")
    model = _find_model(str(check_model_file_from_stem(job["model"])), Path(job["weights_folder"]))
    _check_model(model, len(job["categories"]))
    return {"model": model, "epochs": epochs, "cuda_devices": torch.cuda.device_count()}


def _find_model(model: str, folder: Path) -> str:
    """The model as an absolute path, fetched into `folder` where it is one that Ultralytics publishes; a .yaml may be Ultralytics' own."""
    path = Path(model)
    if path.is_file():
        return str(path.resolve())
    if path.suffix in (".yaml", ".yml"):
        return model
    if path.suffix != ".pt":
        raise ConfigError(f"model: {model} is neither a file nor a name that Ultralytics knows; name a .pt or a .yaml of a YOLO model")
    if path.name not in GITHUB_ASSETS_NAMES:
        raise StageError(
            f"model: there is no file {model}, and Ultralytics publishes no weights of that name; name an existing .pt or .yaml"
        )
    target = folder / path.name
    try:
        attempt_download_asset(str(target))
    except OSError as error:  # ConnectionError and everything of requests included
        reason = _first_line(error)
        raise StageError(
            f"model: {model} is no file and cannot be downloaded ({reason}); fetch it elsewhere and set model to its path"
        ) from error
    return str(target)


def _check_model(model: str, category_count: int) -> None:
    try:
        configuration = load_checkpoint(model)[0].yaml if model.endswith(".pt") else yaml_model_load(model)
        built = DetectionModel(configuration, nc=category_count, verbose=False)
    except (OSError, TypeError, KeyError, AttributeError, ValueError, SyntaxError, RuntimeError, NotImplementedError) as error:
        raise StageError(f"model: {model} cannot be used as a detection model ({_first_line(error)}); name another .pt or .yaml") from error
    head = built.model[-1]
    if type(head) not in (Detect, v10Detect) or head.nc != category_count:
        raise StageError(f"model: {model} ends in {type(head).__name__}; name a detection model such as yolo26n.pt")


def _first_line(error: BaseException) -> str:
    return (str(error).strip("❌ \n") or type(error).__name__).splitlines()[0].rstrip(".")


def predict_fold(job: dict[str, Any]) -> None:
    """What the fold's model sees in its held-out images, to `detections.parquet`, a part at a time."""
    folder, settings = Path(job["folder"]), job["predict"]
    held_out = pl.read_parquet(folder / "held_out.parquet", glob=False)  # image_index, path, width, height
    device = torch.device(f"cuda:{job['device']}" if job["device"].isdigit() else job["device"])
    model, checkpoint = load_checkpoint(job["weights"], device=device)
    model.end2end = False  # the head that reports every anchor with all its scores
    model.fuse(verbose=False)
    letterbox = LetterBox(settings["imgsz"] or checkpoint["train_args"]["imgsz"])  # square, as in training
    parts = folder / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    waiting: list[dict[str, NDArray[Any]]] = []
    part_count = done = 0
    for batch in held_out.iter_slices(settings["batch"]):
        waiting.extend(_look(model, batch, letterbox, settings, device))
        done += batch.height
        report(folder, "predict", job["epochs"], job["epochs"], f"looking at image {done} of {held_out.height}")
        if sum(len(found["score"]) for found in waiting) >= ROWS_A_PART or done == held_out.height:
            write_boxes(_join(waiting, job), parts / f"{part_count:05d}.parquet")
            part_count, waiting = part_count + 1, []
    if not part_count:
        write_boxes(_join([], job), parts / "00000.parquet")
    pl.scan_parquet(sorted(parts.glob("*.parquet")), glob=False).sink_parquet(parts / "all")
    os.replace(parts / "all", folder / "detections.parquet")
    shutil.rmtree(parts)


def _look(
    model: Any, batch: pl.DataFrame, letterbox: LetterBox, settings: dict[str, Any], device: torch.device
) -> list[dict[str, NDArray[Any]]]:
    """The detections in each image of a batch, most confident first, in the pixels of its labels."""
    pictures, places = [], []
    for index, path, width, height in batch.rows():
        picture = imread(path)  # as in training: three channels, turned as EXIF says
        if picture is None:
            print(f"image {index} cannot be read: no detections there", flush=True)
        else:
            pictures.append(picture)
            places.append((index, width, height))
    if not pictures:
        return []
    channels_first = np.stack([letterbox(image=picture) for picture in pictures])[..., ::-1].transpose(0, 3, 1, 2)
    tensor = torch.from_numpy(np.ascontiguousarray(channels_first)).to(device).float() / 255
    with torch.inference_mode():
        raw = model(tensor)[0]  # (images, 4 + K, anchors)
        kept, anchors = non_max_suppression(
            raw,
            settings["conf"],
            settings["iou"],
            max_det=settings["max_det"],
            nc=raw.shape[1] - 4,
            max_time_img=NO_TIME_LIMIT,
            return_idxs=True,
        )
        found = []
        for position, (detections, anchor) in enumerate(zip(kept, anchors, strict=True)):
            if not len(detections):
                continue
            shape, (index, width, height) = pictures[position].shape[:2], places[position]
            xyxy = scale_boxes(tensor.shape[2:], detections[:, :4], shape).cpu().numpy().astype(np.float64)
            solid = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
            found.append(
                {
                    "image_index": np.full(int(solid.sum()), index),
                    "category": detections[:, 5].cpu().numpy().astype(np.int64)[solid],
                    "xyxy": xyxy[solid] * (np.array([width, height] * 2) / np.array([shape[1], shape[0]] * 2)),
                    "score": detections[:, 4].cpu().numpy()[solid],
                    "class_scores": raw[position, 4:, anchor].T.cpu().numpy()[solid],
                }
            )
    return found


def _join(found: list[dict[str, NDArray[Any]]], job: dict[str, Any]) -> Boxes:
    none = {
        "image_index": np.empty(0, np.int64),
        "category": np.empty(0, np.int64),
        "xyxy": np.empty((0, 4)),
        "score": np.empty(0, np.float32),
        "class_scores": np.empty((0, len(job["categories"])), np.float32),
    }
    columns = {name: np.concatenate([empty, *(each[name] for each in found)]) for name, empty in none.items()}
    count = len(columns["score"])
    return Boxes(**columns, fold=np.full(count, job["fold"]), repeat=np.full(count, job["repeat"]))


def run_fold(job: dict[str, Any]) -> None:
    """Trains where the weights are not there yet, then predicts; `detections.parquet` is there when all is done."""
    if not Path(job["weights"]).exists():
        train_fold(job)
    predict_fold(job)


def die_with(parent: int) -> None:
    """Ends this process when its parent is gone, so that no training goes on unseen and beside its own restart."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Runs the job that the file on the command line describes."""
    job = orjson.loads(Path(sys.argv[1]).read_bytes())
    die_with(job["parent"])
    torch.set_num_threads(job["threads"])
    if job["task"] == "fold":
        run_fold(job)
        return
    try:
        answer = prepare(job)
    except DetcleanError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    write_whole(Path(job["answer"]), orjson.dumps(answer))


if __name__ == "__main__":
    main()
