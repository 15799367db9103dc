# Ultralytics says that it is typed, but most of its attributes start as None and most of its methods are bare.
# mypy: disable-error-code="arg-type, index, no-untyped-call, union-attr"

"""Weights as a run folder keeps them: numbers and text, so that opening them runs nobody's code. In the child of `yolo_worker.py`.

Ultralytics' own .pt is a pickled model, which is a program: whoever opens one lets it do what it says. Only weights that the user names
are opened like that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn import tasks
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel

from detclean.errors import StageError

FORMAT = 1
ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z]\w*\([\w\s=,.+-]*\)", re.ASCII)  # Ultralytics evaluates it as Python
LAYERS = ("ultralytics.nn.modules.", "torch.nn.modules.", "torchvision.ops.")  # where layers come from; all else might do anything
PLAIN = (str, int, float, bool, type(None))


def save_whole(content: dict[str, Any], path: Path) -> None:
    """Writes what PyTorch can read as plain data, whole or not at all, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(beside, "wb") as f:
            torch.save(content, f)
            f.flush()
            os.fsync(f.fileno())  # a power failure must not leave an empty file under the final name
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)  # on a full disk it would be in the way of the next try, which has a name of its own
        if isinstance(error.__context__, OSError):  # PyTorch's own words for it name a position in the file
            raise error.__context__ from None
        raise
    os.replace(beside, path)


def describe_model(model: DetectionModel, imgsz: int, *, half: bool) -> dict[str, Any]:
    """A detection model as plain data: what it is built from, its categories, the side it was trained at, its numbers.

    half: floating numbers in half precision. Raises StageError where its layout is not plain.
    """
    if not _is_plain(model.yaml) or not _is_plain(model.names):
        raise StageError("model: its layout holds more than numbers and text, so that it cannot be kept; use the .yaml it was made from")
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    state = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    return {"format": FORMAT, "layout": deepcopy(model.yaml), "names": dict(model.names), "imgsz": imgsz, "state": state}


def open_weights(path: str | Path, device: torch.device | None = None) -> tuple[DetectionModel, int]:
    """The model in full precision, ready to look, and the side it was trained at.

    Raises StageError for a file that holds anything but a model's numbers: nothing of what it says is run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] > FORMAT:
            raise StageError(f"{path}: was written by a newer detclean; use that one, or a run folder of its own")
        model = rebuild_model(content)
        return model.to(device), content["imgsz"]
    except StageError:
        raise
    except FileNotFoundError as error:
        raise StageError(f"{path}: is gone; remove the folder {_stage_of(path)} and run again, which trains anew") from error
    except Exception as error:  # whatever a hostile or damaged file makes PyTorch stumble over
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        raise StageError(
            f"{path}: is damaged or holds more than numbers ({type(error).__name__}: {reason}), so it was not opened, as such a file can "
            f"run code; remove the folder {_stage_of(path)} and run again, which trains anew"
        ) from error


def _stage_of(path: str | Path) -> Path:
    return Path(path).parent.parent


def rebuild_model(content: Mapping[str, Any]) -> DetectionModel:
    """The model of `describe_model`'s content, built from its layout, filled with its numbers. Raises ValueError and what PyTorch does."""
    layout, names, imgsz, state = (content[name] for name in ("layout", "names", "imgsz", "state"))
    if not (_is_plain(layout) and _is_plain(names) and _is_plain(imgsz) and isinstance(layout, dict) and isinstance(names, dict)):
        raise ValueError("its layout is no plain data")
    layout = deepcopy(layout)
    check_layout(layout)
    channels = int(layout.get("channels", 3))
    model = DetectionModel(deepcopy(layout), ch=channels, verbose=False)
    _fit_classes(model, layout, channels, state)
    model.load_state_dict(state, strict=True)
    model.names = names
    return model.float().eval()


def check_layout(layout: dict[str, Any]) -> None:
    """Raises ValueError for a layout that names anything but layers: Ultralytics calls what it names. Pretrained parts are not fetched."""
    activation = layout.get("activation")
    if activation and not (isinstance(activation, str) and ACTIVATION.fullmatch(activation)):
        raise ValueError(f"its activation is {str(activation)[:40]!r}")
    for _, _, name, arguments in [*layout["backbone"], *layout["head"]]:
        layer = _find_layer(str(name))
        if not (isinstance(layer, type) and issubclass(layer, torch.nn.Module) and layer.__module__.startswith(LAYERS)):
            raise ValueError(f"it names {str(name)[:40]!r}, which is no layer")
        if name == "TorchVision":  # channels, model, weights: these are in the state, and would be fetched where nothing is said, too
            arguments[2:3] = [None]


def _find_layer(name: str) -> Any:
    """As Ultralytics' `parse_model` finds it."""
    if name.startswith("torchvision.ops."):
        import torchvision  # which takes as long as PyTorch itself, for every child

        return getattr(torchvision.ops, name.removeprefix("torchvision.ops."), None)
    if name.startswith("nn."):
        return getattr(torch.nn, name.removeprefix("nn."), None)
    return getattr(tasks, name, None)


def _fit_classes(model: DetectionModel, layout: dict[str, Any], channels: int, state: Mapping[str, torch.Tensor]) -> None:
    """The branches that tell categories apart as wide as in the state: how wide they are depends on the number of categories, and a
    training keeps those of the model that it begins with, which may have had more."""
    head: Any = model.model[-1]
    for name in ("cv3", "one2one_cv3"):
        branch = getattr(head, name, None) if isinstance(head, Detect) else None
        if branch is None:
            continue
        width = int(state[f"model.{head.i}.{name}.0.2.weight"].shape[1])
        if width == branch[0][-1].in_channels:
            continue
        wide = getattr(DetectionModel(deepcopy(layout) | {"nc": width}, ch=channels, verbose=False).model[-1], name)
        for level in wide:
            level[-1] = torch.nn.Conv2d(width, head.nc, 1)
        setattr(head, name, wide)


def _is_plain(value: Any) -> bool:
    """Whether it is made of numbers, text, lists and dictionaries alone."""
    if type(value) is dict:
        return all(type(key) in PLAIN and _is_plain(inner) for key, inner in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in PLAIN
