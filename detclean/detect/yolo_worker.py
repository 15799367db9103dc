# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, index, misc, no-untyped-call, operator, union-attr"

"""What runs in a child process of `yolo_process.py`: check a training's settings, or do one of the tasks.

This module and those that it takes the tasks from import Ultralytics, and nothing but the child imports them: it is started as
`python -m detclean.detect.yolo_worker JOB.json`, in an environment (`yolo_process.py`) that keeps Ultralytics' settings private and
its integrations off.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import sys
import threading
import time
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import torch
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, yaml_model_load
from ultralytics.utils.checks import check_model_file_from_stem
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from detclean.detect.yolo_process import SAFE_LOAD
from detclean.detect.yolo_settings import WEIGHTS
from detclean.detect.yolo_weights import check_layout, describe_model, open_weights, save_whole
from detclean.errors import ConfigError, DetcleanError, StageError
from detclean.files import write_whole

BOXES_AN_IMAGE = 50  # in the made-up batch: mosaics hold four images' boxes
CUDA_BYTES = 700 << 20  # what a process takes on a GPU before its first tensor: context, kernels, cuDNN's and cuBLAS' workspaces

TASKS = {
    "training": "yolo_train.train_fold",
    "loss dynamics": "yolo_dynamics.train_in_cycles",
    "prediction": "yolo_predict.predict_fold",
    "features": "yolo_features.embed_fold",
    "crop training": "yolo_crops.train_crops",
    "probe": "yolo_probe.probe",
}

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
    """The model's place, the epochs, the memory of each CUDA device, what is free of it, what a training would take (None: not known).

    Raises ConfigError and StageError for what cannot be.
    """
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
        settings = get_cfg(overrides=train)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"train: {_first_line(error)}") from error
    if isinstance(train.get("pretrained"), str) and not Path(train["pretrained"]).is_file():
        raise StageError(f"train.pretrained: {train['pretrained']} is no file; name existing weights or leave it out")
    model = _find_model(str(check_model_file_from_stem(job["model"])), Path(job["weights_folder"]))
    built = _check_model(model, len(job["categories"]))
    free, taken = [0] * torch.cuda.device_count(), None
    whole = free
    if free and job["trains_on_gpu"]:
        free, whole = zip(*(torch.cuda.mem_get_info(device) for device in range(len(free))), strict=True)
        taken = measure_training(built, settings, torch.device("cuda", int(np.argmax(free))))
    return {"model": model, "epochs": settings.epochs, "cuda_free_bytes": free, "cuda_bytes": whole, "training_bytes": taken}


def measure_training(model: DetectionModel, settings: Any, device: torch.device) -> int | None:
    """Bytes of a device's memory that a training takes: two steps on made-up images, and what CUDA itself takes in each process.

    None where it cannot be said: where a training looks for its batch size itself, or not even one has room.
    """
    if settings.batch < 1:
        return None
    side = max(1, -(-int(np.max(settings.imgsz) * (1 + settings.multi_scale)) // 32)) * 32  # as the strides want it
    labels = BOXES_AN_IMAGE * settings.batch
    batch = {
        "img": torch.rand(settings.batch, 3, side, side),
        "cls": torch.zeros(labels, 1),
        "bboxes": torch.rand(labels, 4) / 4 + 0.25,
        "batch_idx": torch.arange(settings.batch).repeat_interleave(BOXES_AN_IMAGE).float(),
    }
    on_gpu = device.type == "cuda"
    half = torch.bfloat16 if settings.amp == "bf16" or not on_gpu else torch.float16
    try:
        model = model.to(device).train()
        model.args = settings
        averaged = deepcopy(model)  # as the trainer has it: it takes its place
        optimizer = torch.optim.AdamW(model.parameters())
        batch = {name: value.to(device) for name, value in batch.items()}
        for _ in range(2):  # the optimizer's own state comes with the first step
            with torch.autocast(device.type, half, enabled=on_gpu and bool(settings.amp)):
                loss = model(batch)[0].sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    except torch.OutOfMemoryError:
        return None
    del averaged
    return CUDA_BYTES + torch.cuda.max_memory_reserved(device) if on_gpu else CUDA_BYTES


def _find_model(model: str, folder: Path) -> str:
    """The model as an absolute path, fetched into `folder` where it is one that Ultralytics publishes; a .yaml may be Ultralytics' own."""
    path = Path(model)
    if path.is_absolute() and path.is_file():  # not one of that name in the working directory, which is in the run folder
        return str(path.resolve())
    if path.suffix in (".yaml", ".yml"):
        return model
    if path.suffix != ".pt":
        raise ConfigError(f"model: {model} is neither a file nor a name that Ultralytics knows; name a .pt or a .yaml of a YOLO model")
    if path.name not in GITHUB_ASSETS_NAMES:
        raise StageError(
            f"model: there is no file {model}, and Ultralytics publishes no weights of that name; name an existing .pt or .yaml"
        )
    target = folder / f"{path.stem}{WEIGHTS}"
    if target.exists():
        return str(target)
    try:
        with TemporaryDirectory(prefix="detclean-") as fresh:  # the .pt itself never lies in the run folder
            fetched, checkpoint = load_checkpoint(attempt_download_asset(str(Path(fresh) / path.name)))
            _check_head(model, fetched)
            save_whole(describe_model(fetched, int(checkpoint.get("train_args", {}).get("imgsz", 640)), half=False), target)
    except OSError as error:  # ConnectionError and everything of requests included
        reason = _first_line(error)
        raise StageError(
            f"model: {model} is no file and cannot be downloaded ({reason}); fetch it elsewhere and set model to its path"
        ) from error
    return str(target)


def _check_model(model: str, category_count: int) -> DetectionModel:
    try:
        if model.endswith(WEIGHTS):
            configuration = open_weights(model)[0].yaml
        else:
            configuration = load_checkpoint(model)[0].yaml if model.endswith(".pt") else yaml_model_load(model)
            check_layout(deepcopy(configuration))
        built = DetectionModel(configuration, nc=category_count, verbose=False)
    except (OSError, TypeError, LookupError, AttributeError, ValueError, SyntaxError, RuntimeError, ImportError) as error:
        remedy = "name another .pt or .yaml"
        if isinstance(error.__cause__, UnpicklingError) and "outside" in str(error):  # of what an Ultralytics model is made of
            remedy = f"{remedy}, or set {SAFE_LOAD}=false in the environment if you trust it: it can then run code"
        raise StageError(f"model: {model} cannot be used as a detection model ({_first_line(error)}); {remedy}") from error
    _check_head(model, built, category_count)
    return built


def _check_head(model: str, built: Any, category_count: int | None = None) -> None:
    head = built.model[-1]
    if type(head) not in (Detect, v10Detect) or category_count not in (None, head.nc):
        raise StageError(f"model: {model} ends in {type(head).__name__}; name a detection model such as yolo26n.pt")


def _first_line(error: BaseException) -> str:
    return (str(error).strip("❌ \n") or type(error).__name__).splitlines()[0].rstrip(".")


def run_task(job: dict[str, Any]) -> None:
    """Does one of the jobs that take long, and imports no more than that one needs: it is as much again as PyTorch itself."""
    module, _, function = TASKS[job["task"]].partition(".")
    getattr(import_module(f"detclean.detect.{module}"), function)(job)


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
    if job["task"] != "prepare":
        run_task(job)
        return
    try:
        answer = prepare(job)
    except DetcleanError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    write_whole(Path(job["answer"]), orjson.dumps(answer))


if __name__ == "__main__":
    main()
