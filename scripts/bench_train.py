"""How long training every fold takes with detclean, and with a plain `yolo detect train` for each fold, one after the other.

    python scripts/bench_train.py [--epochs 6] [--folds 5] [--images 250] [--repeats 1]

Both train the same model with the same arguments on the same images of each fold of data/digits, on the CPU. A plain command gets what
decides about the result (`nbs`, with which detclean makes a step a batch, included) and is otherwise as it comes: it validates on the
held-out images and draws its plots, as that is what a person who types it gets. Each repeat measures one after the other, in turns, so
that a machine which other work slows down in between slows down both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from detclean.boxes import Ints
from detclean.dataset import Dataset
from detclean.detect.folds import make_folds
from detclean.detect.yolo import train_folds
from detclean.detect.yolo_settings import PRIVATE_SETTINGS
from detclean.formats import read_dataset

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "yolo.yaml"
TARGET = 0.6  # of the plain commands' time


@dataclass(frozen=True)
class Measured:
    """Seconds by the clock and of the processors, all children included."""

    wall: float
    processor: float


def prepare_data(folder: Path, images: int, folds: int) -> tuple[Dataset, Ints]:
    """A copy of data/digits in `folder` (Ultralytics writes beside the images), its first `images` to train on, and their folds."""
    shutil.copytree(ROOT / "data" / "digits", folder)
    dataset = read_dataset(folder / "data.yaml").select_split("train")
    dataset = dataset.select_images(np.arange(dataset.image_count) < images)
    return dataset, make_folds(dataset, np.arange(dataset.image_count), k=folds, repeats=1, seed=0)


def read_arguments(epochs: int) -> tuple[str, dict[str, Any]]:
    """The model and the training arguments of configs/yolo.yaml, on the CPU and with other epochs."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return str(ROOT / config["model"]), config["train"] | {"epochs": epochs, "device": "cpu"}


def train_plainly(dataset: Dataset, folds: Ints, out: Path, model: str, train: dict[str, Any]) -> None:
    """`yolo detect train` for each fold, one after the other, each with a data.yaml whose `val` are the held-out images."""
    private = out / "ultralytics"
    (private / "Ultralytics").mkdir(parents=True)
    settings = PRIVATE_SETTINGS | {"datasets_dir": str(out), "weights_dir": str(out), "runs_dir": str(out / "runs")}
    (private / "Ultralytics" / "settings.json").write_bytes(orjson.dumps(settings))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {name: str(private) for name in ("YOLO_CONFIG_DIR", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    environment |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    yolo = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()"]  # what the command `yolo` is
    paths = np.array(dataset.images["path"].to_list())
    for fold in np.unique(folds[0]):
        folder = out / f"fold-{fold}"
        folder.mkdir()
        for name, chosen in (("train", folds[0] != fold), ("val", folds[0] == fold)):
            (folder / f"{name}.txt").write_text("\n".join(paths[chosen]) + "\n")
        data = {"path": str(folder), "train": "train.txt", "val": "val.txt", "names": dict(enumerate(dataset.categories))}
        (folder / "data.yaml").write_text(yaml.safe_dump(data))
        given = train | {"nbs": train["batch"], "seed": 0, "model": model, "data": folder / "data.yaml", "project": folder, "name": "run"}
        command = [*yolo, "detect", "train", *(f"{name}={value}" for name, value in given.items())]
        with open(folder / "log", "wb") as log:
            code = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False).returncode
        if code or not (folder / "run" / "weights" / "last.pt").exists():
            sys.exit(f"{' '.join(map(str, command))} failed:\n{(folder / 'log').read_text()[-2000:]}")


def measure(work: str, folder: Path, *, epochs: int, images: int, folds: int) -> Measured:
    """One of the two, in a fresh folder."""
    dataset, parts = prepare_data(folder / "data", images, folds)
    model, train = read_arguments(epochs)
    out = folder / "out"
    out.mkdir()
    wall, before = time.perf_counter(), os.times()
    if work == "plain":
        train_plainly(dataset, parts, out, model, train)
    else:
        train_folds(dataset, parts, out, model=model, train=train)
    wall, after = time.perf_counter() - wall, os.times()
    spent = [after[i] - before[i] for i in range(4)]  # user and system, of this process and of its children
    return Measured(wall, sum(spent))


def compare(folder: Path, *, repeats: int, epochs: int, images: int, folds: int) -> list[tuple[Measured, Measured]]:
    """Plain and detclean, `repeats` times; every other time in the other order."""
    pairs = []
    for number in range(repeats):
        found: dict[str, Measured] = {}
        for work in ("plain", "detclean") if number % 2 == 0 else ("detclean", "plain"):
            place = folder / f"{work}-{number}"
            found[work] = measure(work, place, epochs=epochs, images=images, folds=folds)
            print(f"{work}: {found[work].wall:.1f} s (processors {found[work].processor:.1f} s)", flush=True)
            shutil.rmtree(place)
        pairs.append((found["plain"], found["detclean"]))
    return pairs


def as_table(pairs: list[tuple[Measured, Measured]]) -> str:
    """Rows of a Markdown table; the ratio's target in the last column."""
    rows = ["| plain s | detclean s | ratio | ratio of processor time | target |", "| ---: | ---: | ---: | ---: | ---: |"]
    for plain, ours in pairs:
        ratios = f"{ours.wall / plain.wall:.2f} | {ours.processor / plain.processor:.2f}"
        rows.append(f"| {plain.wall:.1f} | {ours.wall:.1f} | {ratios} | {TARGET} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(as_table(compare(Path(folder), **vars(given))))


if __name__ == "__main__":
    main()
