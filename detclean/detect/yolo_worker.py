# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, assignment, attr-defined, index, misc, no-untyped-call, operator, union-attr"

"""What runs in a child process of `yolo_process.py`: check a training's settings, or do one of the TASKS.

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
from pathlib import Path
from typing import Any

import orjson
import torch
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg
from ultralytics.nn.modules.head import Detect, v10Detect
from ultralytics.nn.tasks import DetectionModel, load_checkpoint, yaml_model_load
from ultralytics.utils.checks import check_model_file_from_stem
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from detclean.detect.yolo_crops import train_crops
from detclean.detect.yolo_dynamics import train_in_cycles
from detclean.detect.yolo_features import embed_fold
from detclean.detect.yolo_predict import predict_fold
from detclean.detect.yolo_train import train_fold
from detclean.errors import ConfigError, DetcleanError, StageError
from detclean.files import write_whole

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


TASKS = {
    "training": train_fold,
    "loss dynamics": train_in_cycles,
    "prediction": predict_fold,
    "features": embed_fold,
    "crop training": train_crops,
}


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
    if job["task"] in TASKS:
        TASKS[job["task"]](job)
        return
    try:
        answer = prepare(job)
    except DetcleanError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    write_whole(Path(job["answer"]), orjson.dumps(answer))


if __name__ == "__main__":
    main()
