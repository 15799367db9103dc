"""What a training is told: Ultralytics' arguments with detclean's own rules, the devices to use, weights that are really there."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from detclean.dataset import Dataset
from detclean.detect.yolo_process import SAFE_LOAD, Display, describe_end, end_job, start_job
from detclean.errors import ConfigError, StageError
from detclean.files import write_whole
from detclean.machine import count_cores, count_free_memory

THREADS_A_FOLD = 8  # as many as Ultralytics itself uses for a training on a CPU
RAM_CACHE_BYTES = 2**30  # decoded images are kept in memory up to this size, by a fold on each core together
WEIGHTS = ".weights"  # ends the name of weights that are numbers and text alone; a .pt can run code when it is opened
TRUE = ("1", "true", "yes", "on", "y", "t")  # as Ultralytics reads its variables
JOBS_A_CORE = 1.5  # at most, as each job needs its own memory
ROOMY = 6 * 2**30  # bytes: what a training of a small model takes on a CPU at 640 px and 16 images a batch
MEMORY_SHARE = 0.8  # of a GPU's free memory that trainings side by side may be expected to take: what one batch takes varies
PREDICT_DEFAULTS: dict[str, Any] = {"conf": 0.01, "iou": 0.6, "max_det": 300, "imgsz": None, "batch": 16}

# What detclean decides about a training, whatever the configuration says.
OVERRULED = {
    "val": False,
    "plots": False,
    "save": True,
    "save_period": -1,
    "patience": 0,
    "project": None,
    "name": None,
    "exist_ok": True,
}

# Everything of Ultralytics that would talk to a service or another package.
PRIVATE_SETTINGS = {
    "sync": False,
    "api_key": "",
    "openai_api_key": "",
    **dict.fromkeys(("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb", "vscode_msg"), False),
}


def complete_predict(predict: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of looking at images. Raises ConfigError for one that is none."""
    for name in predict:
        if name not in PREDICT_DEFAULTS:
            close = get_close_matches(name, PREDICT_DEFAULTS, 1)
            known = f"did you mean predict.{close[0]}?" if close else f"known are {', '.join(PREDICT_DEFAULTS)}"
            raise ConfigError(f"predict.{name}: no such setting; {known}")
    return PREDICT_DEFAULTS | dict(predict)


def complete_train(train: Mapping[str, Any], dataset: Dataset, slots: list[str], seed: int, display: Display) -> dict[str, Any]:
    """The training arguments as each fold gets them, but for the data and the device. slots: as usual, and not those of today."""
    settings = {"seed": seed} | dict(train)
    for name in settings.keys() & OVERRULED.keys():
        if settings[name] != OVERRULED[name]:
            display.log(f"train.{name} is not used: each fold's model is its last, and no held-out label is looked at in training")
    settings |= OVERRULED
    if settings.get("cache") == "disk":
        display.log("train.cache=disk is not used: folds share one copy of the images")
        settings["cache"] = False
    imgsz, batch = settings.get("imgsz", 640), settings.get("batch", 16)
    if "cache" not in settings and isinstance(imgsz, int):
        copies = min(len(slots), count_cores())
        settings["cache"] = "ram" if 3 * imgsz**2 * dataset.image_count * copies <= RAM_CACHE_BYTES else False
    # One step a batch: Ultralytics' nominal batch of 64 leaves a small data set with a handful of steps an epoch.
    if isinstance(batch, int) and batch > 0:
        settings.setdefault("nbs", batch)
    settings.setdefault("workers", min(8, max(1, count_cores() // len(slots))))
    return settings


def choose_slots(device: Any, cuda_devices: int | Sequence[int], job_count: int, workers: int | None) -> list[str]:
    """One device name for each fold that is worked on at a time, dealt in turn where a device has several.

    cuda_devices: how many there are, or how many folds each has room for. workers: so many at a time, whatever the room.
    """
    room = [1] * cuda_devices if isinstance(cuda_devices, int) else list(cuda_devices)
    text = ",".join(map(str, device)) if isinstance(device, (list, tuple)) else str("auto" if device is None else device).lower()
    names = [name.strip().removeprefix("cuda:") for name in text.split(",")]
    if text in ("auto", "", "-1", "cuda"):
        names = [str(index) for index in range(len(room))] or ["cpu"]
        if text == "cuda" and not room:
            raise ConfigError("train.device: cuda, but PyTorch finds no CUDA device here; use train.device=cpu")
    for name in names:
        if name not in ("cpu", "mps") and not name.isdigit():
            raise ConfigError(f"train.device: {text} is no device; use auto, cpu, mps, or numbers of CUDA devices such as 0,1")
        if name.isdigit() and int(name) >= len(room):
            raise ConfigError(f"train.device: {text}, but PyTorch finds {len(room)} CUDA devices here; use auto or cpu")
    if names == ["cpu"]:
        return names * max(1, min(job_count, workers or count_side_by_side(job_count, count_cores(), count_free_memory())))
    wanted = max(1, min(job_count, workers or max(count_cores(), len(names))))  # a fold without a core would slow down the others
    if workers and all(name.isdigit() for name in names):
        return [names[i % len(names)] for i in range(wanted)]
    places = [room[int(name)] if name.isdigit() else 1 for name in names]
    return [name for turn in range(max(places)) for name, place in zip(names, places, strict=True) if place > turn][:wanted]


def count_side_by_side(job_count: int, cores: int, memory: float = math.inf) -> int:
    """How many jobs at a time end soonest, where each keeps a core busy: five on two cores by threes, not by twos and one alone at last.

    More than there are cores only where the memory, in bytes, leaves ROOMY to each.
    """

    def rounds(at_a_time: int) -> float:
        full, rest = divmod(job_count, at_a_time)
        return full * max(1.0, at_a_time / cores) + (max(1.0, rest / cores) if rest else 0.0)

    fewest, most = min(job_count, cores), min(job_count, int(JOBS_A_CORE * cores))
    if memory < most * ROOMY:
        return fewest
    return min(range(fewest, most + 1), key=rounds)


def count_room(free_bytes: Sequence[int], training_bytes: int | None) -> list[int]:
    """How many trainings each CUDA device has room for, from what is free on it and what one takes; one each where that is not known."""
    if not training_bytes:
        return [1] * len(free_bytes)
    return [max(1, int(MEMORY_SHARE * free) // training_bytes) for free in free_bytes]


def prepare(dataset: Dataset, out: Path, model: str, train: Mapping[str, Any]) -> dict[str, Any]:
    """Checks arguments and weights in a child, as Ultralytics must be imported for it -> the model's place, the epochs, and for each CUDA
    device how many trainings it has room for, now and where nothing else is on it. Raises ConfigError and StageError.
    """
    folder = out / "prepare"
    for place in (folder, out / "ultralytics"):  # where Ultralytics looks for models by their names, and might find what somebody put there
        shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (out / "weights").mkdir(exist_ok=True)
    write_whole(out / "ultralytics" / "Ultralytics" / "settings.json", orjson.dumps(_private_settings(out)))
    chosen = {name: value for name, value in train.items() if name != "device"}
    job = {
        "task": "prepare",
        "model": os.path.abspath(model) if Path(model).is_file() else model,
        "weights_folder": str(out / "weights"),
        "train": chosen,
        "trains_on_gpu": bool(train) and str(train.get("device", "auto")).lower() not in ("cpu", "mps"),
        "categories": dataset.categories,
        "threads": 1,
        "answer": str(folder / "answer.json"),
    }
    (folder / "answer.json").unlink(missing_ok=True)
    process = start_job(job, folder, offline=Path(model).exists() or model.endswith((".yaml", ".yml")))
    try:
        code = process.wait()
    finally:
        end_job(process)
    if code or not (folder / "answer.json").exists():
        raise StageError(f"Ultralytics cannot be used: {describe_end(code, folder / 'train.log')}")
    answer: dict[str, Any] = orjson.loads((folder / "answer.json").read_bytes())
    if "error" in answer:
        raise {"ConfigError": ConfigError}.get(answer["error"], StageError)(answer["message"])
    rooms = {"cuda_devices": "cuda_free_bytes", "usual_cuda_devices": "cuda_bytes"}
    return answer | {name: count_room(answer[bytes_of], answer["training_bytes"]) for name, bytes_of in rooms.items()}


def warn_of_code(model: str, train: Mapping[str, Any], display: Display) -> None:
    """Says of the user's own weights what opening them means, where Ultralytics was told to open them whatever they hold."""
    named = [name for name in (model, train.get("pretrained")) if isinstance(name, str) and name.endswith(".pt")]
    if named and os.environ.get(SAFE_LOAD, "true").strip().lower() not in TRUE:
        display.log(f"{' and '.join(named)}: opened with {SAFE_LOAD} off, so that it can run code; use none whose origin you do not trust")


def _private_settings(out: Path) -> dict[str, Any]:
    places = {name: str(out / "ultralytics") for name in ("datasets_dir", "weights_dir")} | {"runs_dir": str(out / "ultralytics" / "runs")}
    return PRIVATE_SETTINGS | places
