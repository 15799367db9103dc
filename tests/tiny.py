"""A data set, a detector and a command line small enough for a test: coloured shapes with a few wrong labels, a YOLO of 90,000 weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

CATEGORIES = ("red square", "green circle", "blue square")
COLOURS = ((220, 30, 30), (30, 200, 30), (40, 40, 230))
TRAIN_IMAGES, VAL_IMAGES = 24, 4
FRESH = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR", "YOLO_OFFLINE", "TORCH_HOME", "OMP_NUM_THREADS")
HOLD = "DETCLEAN_HOLD"


@dataclass
class Scene:
    """A picture: its name, its size, what is in it, and what was annotated; each object (category, x1, y1, x2, y2)."""

    name: str
    width: int
    height: int
    objects: list[tuple[int, int, int, int, int]]
    annotated: list[tuple[int, int, int, int, int]]

    @property
    def split(self) -> str:
        return self.name.split("/")[0]


def make_scenes(seed: int = 0) -> list[Scene]:
    """The scenes of train, with wrong labels, and of val, without."""
    rng = np.random.default_rng(seed)
    scenes = []
    for index in range(TRAIN_IMAGES + VAL_IMAGES):
        width, height = (int(side) for side in rng.integers(64, 97, 2))
        split = "train" if index < TRAIN_IMAGES else "val"
        objects = [_place(int(cell), width, height, rng) for cell in rng.permutation(4)[: int(rng.integers(3, 5))]]
        scenes.append(Scene(f"{split}/{index:02d}.png", width, height, objects, list(objects)))
    _plant(scenes)
    return scenes


def _place(cell: int, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
    """An object in one quarter of the picture, so that no two overlap."""
    side = int(rng.integers(14, min(width, height) // 2 - 3))
    left = int(rng.integers(0, width // 2 - side)) + cell % 2 * (width // 2)
    top = int(rng.integers(0, height // 2 - side)) + cell // 2 * (height // 2)
    return int(rng.integers(len(CATEGORIES))), left, top, left + side, top + side


def _plant(scenes: list[Scene]) -> None:
    """One wrong label of each type: swap in 01, overlooked in 04, badloc in 07, spurious in 10, duplicate in 13."""
    category, *box = scenes[1].annotated[0]
    scenes[1].annotated[0] = ((category + 1) % len(CATEGORIES), *box)
    del scenes[4].annotated[0]
    category, x1, y1, x2, y2 = scenes[7].annotated[0]
    scenes[7].annotated[0] = (category, x1, y1, (x1 + x2) // 2, y2)
    del scenes[10].objects[3:]
    free = min({0, 1, 2, 3} - {_cell_of(thing, scenes[10]) for thing in scenes[10].objects})
    left, top = free % 2 * (scenes[10].width // 2), free // 2 * (scenes[10].height // 2)
    scenes[10].annotated = [*scenes[10].objects, (0, left + 3, top + 3, left + 22, top + 22)]
    category, x1, y1, x2, y2 = scenes[13].annotated[0]
    scenes[13].annotated.append((category, x1 + 1, y1, x2, y2))


def _cell_of(thing: tuple[int, int, int, int, int], scene: Scene) -> int:
    return (thing[1] >= scene.width // 2) + 2 * (thing[2] >= scene.height // 2)


def write_images(scenes: list[Scene], folder: Path, seed: int = 0) -> None:
    """A noisy background, so that no two pictures are alike, and the objects on it."""
    rng = np.random.default_rng(seed)
    for scene in scenes:
        coarse = rng.integers(60, 180, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((scene.width, scene.height), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for category, x1, y1, x2, y2 in scene.objects:
            draw = pen.ellipse if category == 1 else pen.rectangle
            draw((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[category])
        (folder / scene.name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / scene.name)


def write_yolo(folder: Path, scenes: list[Scene] | None = None) -> Path:
    """A YOLO data set -> its data.yaml. Rows are written in ways that only a byte-wise copy keeps."""
    scenes = make_scenes() if scenes is None else scenes
    write_images(scenes, folder / "images")
    for i, scene in enumerate(scenes):
        rows = [
            f"{category} {(x1 + x2) / 2 / scene.width:.7f} {(y1 + y2) / 2 / scene.height:.6f}"
            f"{' ' * (1 + i % 2)}{(x2 - x1) / scene.width:.9f} {(y2 - y1) / scene.height:.6f}"
            for category, x1, y1, x2, y2 in scene.annotated
        ]
        path = folder / "labels" / Path(scene.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(("\r\n" if i % 3 == 1 else "\n").join(rows).encode() + (b"\n" if i % 5 else b""))
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": dict(enumerate(CATEGORIES))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "data.yaml"


def make_coco(scenes: list[Scene]) -> dict[str, Any]:
    """The scenes as a COCO document with keys of its own at every level, and ids that neither start at 0 nor follow each other."""
    images = [
        {"id": 1000 + 7 * i, "file_name": scene.name, "width": scene.width, "height": scene.height, "licence": {"by": f"p{i}"}}
        for i, scene in enumerate(scenes)
    ]
    categories = [{"id": 3 * i + 2, "name": name, "supercategory": "shape", "colour": COLOURS[i]} for i, name in enumerate(CATEGORIES)]
    annotations = [
        {
            "id": 50_000 - 3 * number,
            "image_id": 1000 + 7 * i,
            "category_id": 3 * category + 2,
            "bbox": [x1, y1, x2 - x1 + 0.0, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            "drawn_by": {"who": "ü", "when": [number, None, 1e-7]},
        }
        for number, (i, (category, x1, y1, x2, y2)) in enumerate((i, row) for i, scene in enumerate(scenes) for row in scene.annotated)
    ]
    return {"info": {"seed": 0}, "images": images, "annotations": annotations, "categories": categories, "extra": [1, {"a": None}]}


def write_coco(folder: Path, scenes: list[Scene] | None = None) -> Path:
    """A COCO data set, annotations.json and images/ -> the .json."""
    scenes = make_scenes() if scenes is None else scenes
    write_images(scenes, folder / "images")
    (folder / "annotations.json").write_text(json.dumps(make_coco(scenes), ensure_ascii=False))
    return folder / "annotations.json"


def write_voc(folder: Path, scenes: list[Scene] | None = None) -> Path:
    """A Pascal VOC data set -> its folder."""
    scenes = make_scenes() if scenes is None else scenes
    flat = [Scene(scene.name.replace("/", "_"), scene.width, scene.height, scene.objects, scene.annotated) for scene in scenes]
    write_images(flat, folder / "JPEGImages")
    (folder / "Annotations").mkdir(parents=True)
    for scene in flat:
        things = "".join(
            f"\t<object>\n\t\t<name>{CATEGORIES[category]}</name><difficult>0</difficult>\n\t\t<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n\t</object>\n"
            for category, x1, y1, x2, y2 in scene.annotated
        )
        size = f"<size><width>{scene.width}</width><height>{scene.height}</height><depth>3</depth></size>"
        text = f"<annotation>\n\t<filename>{scene.name}</filename>\n\t{size}\n{things}</annotation>\n"
        (folder / "Annotations" / Path(scene.name).with_suffix(".xml")).write_text(text)
    for split in ("train", "val"):
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{Path(scene.name).stem}\n" for scene in flat if scene.name.startswith(split)))
    return folder


def detect_objects(scenes: list[Scene], seed: int = 0) -> list[tuple[int, int, float, list[float]]]:
    """What a good detector would say: (scene, category, confidence, [x, y, width, height]) of each object, and now and then of nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for i, scene in enumerate(scenes):
        for category, x1, y1, x2, y2 in scene.objects:
            xywh = np.array([x1, y1, x2 - x1, y2 - y1]) + rng.normal(0, 0.5, 4)
            found.append((i, category, round(float(rng.uniform(0.7, 0.9)), 4), xywh.round(3).tolist()))
            other = (category + 1) % len(CATEGORIES)
            found.append((i, other, round(float(rng.uniform(0.02, 0.08)), 4), (xywh + rng.normal(0, 1, 4)).round(3).tolist()))
    return found


def write_results(path: Path, scenes: list[Scene], kind: str) -> Path:
    """`detect_objects` as COCO results for the copy of the data set in a format."""
    image_ids: list[Any] = {
        "coco": [1000 + 7 * i for i in range(len(scenes))],
        "yolo": [f"images/{scene.name}" for scene in scenes],
        "voc": [scene.name.replace("/", "_").removesuffix(".png") for scene in scenes],
    }[kind]
    category_ids: list[Any] = {"coco": [2, 5, 8], "yolo": [0, 1, 2], "voc": list(CATEGORIES)}[kind]
    rows = [
        {"image_id": image_ids[i], "category_id": category_ids[category], "bbox": xywh, "score": score}
        for i, category, score, xywh in detect_objects(scenes)
    ]
    path.write_text(json.dumps(rows))
    return path


def write_model(path: Path, family: str = "11") -> Path:
    """Ultralytics' own YOLO11 or YOLO26, an eighth as wide and a third as deep. path: should have the n of the scale in its name."""
    package = Path(importlib.util.find_spec("ultralytics").submodule_search_locations[0])  # type: ignore[union-attr, index]
    content = yaml.safe_load((package / "cfg" / "models" / family / f"yolo{family}.yaml").read_text())
    content["scales"] = {"n": [0.33, 0.125, 128]}
    path.write_text(yaml.safe_dump(content))
    return path


def write_config(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def describe_tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and digest of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def digests(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder, by its name below it; links as what they lead to."""
    return {Path(path).relative_to(folder).as_posix(): digest for path, (_, digest) in describe_tree(folder).items()}


def environment(home: Path) -> dict[str, str]:
    """This process's environment with a home of its own and nothing that says where Ultralytics keeps its settings."""
    home.mkdir(parents=True, exist_ok=True)
    return {name: value for name, value in os.environ.items() if name not in (*FRESH, HOLD)} | {"HOME": str(home)}


def start_detclean(*arguments: str | Path, home: Path, cwd: Path, **more: str) -> subprocess.Popen[str]:
    """`python -m detclean ARGUMENTS` as the leader of a process group of its own. more: variables of its environment."""
    command = [sys.executable, "-m", "detclean", *map(str, arguments)]
    pipe, own = subprocess.PIPE, environment(home) | more
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=own, start_new_session=True)


def hold_at(pattern: str, number: int = 1) -> dict[str, str]:
    """Variables with which a process and its children wait to be killed: as a file gets a path that matches, for the `number`th time.

    So what is complete by then does not depend on how fast the machine is. A training that goes on from its checkpoint does not wait.
    """
    places = [str(Path(__file__).parent / "hold"), os.environ.get("PYTHONPATH", "")]
    return {HOLD: f"{pattern}={number}", "PYTHONPATH": os.pathsep.join(filter(None, places))}


def find_children(folder: Path) -> list[int]:
    """The processes that work on a job in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"yolo_worker" in (told := path.read_bytes()) and os.fsencode(folder) in told:
                found.append(int(path.parent.name))
    return found
