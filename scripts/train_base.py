"""Trains the demo's base model, data/letters.pt, on scenes of letters; it never sees a digit.

    python scripts/train_base.py [--scenes 5000] [--epochs 30] [--threads 2]

The letters are drawn in matplotlib's own fonts and scanned down to 8 x 8 as scikit-learn's digits were. With the defaults it takes
about an hour on two CPU cores.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scenes import Glyph, Style, compose_scene, photographs

LETTERS = "ABCDEFGHJKLMNPQRTUVWXYacdefhkmnprtuvwxy"  # without those that pass for a digit (O, I, S, Z, b, g, l, q, z, ...)
SHAPES = ("triangle", "square", "cross", "arrow")
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
)
HELD_OUT = 200  # scenes that only measure
STYLE = Style(
    height=(15, 56),
    glyphs=(4, 8),
    hard_share=0.07,
    contact_share=0.25,
    contact=(0.05, 0.35),
    angle=0.25,
    shear=0.2,
    stretch=(0.8, 1.15),
    opacity=0.65,
)  # harder than the digits: what it learns here it need not learn there
DEPTH_WIDTH_CHANNELS = [0.5, 0.1875, 512]  # yolo11n has [0.5, 0.25, 1024]
TARGET = Path(__file__).parent.parent / "data" / "letters.pt"


def scan_glyph(rng: np.random.Generator) -> Glyph:
    """A letter or a shape of its own category, scanned as the digits were: 32 x 32 ink, counted in 4 x 4 blocks."""
    category = int(rng.integers(len(LETTERS) + len(SHAPES)))
    paper = Image.new("L", (128, 128))
    pen = ImageDraw.Draw(paper)
    if category < len(LETTERS):
        font = ImageFont.truetype(_font_file(FONTS[int(rng.integers(len(FONTS)))]), 112)
        pen.text((64, 64), LETTERS[category], fill=255, font=font, anchor="mm")
    else:
        _draw_shape(pen, SHAPES[category - len(LETTERS)])
    bounds = paper.getbbox()
    assert bounds is not None
    paper = paper.crop(bounds).filter(ImageFilter.MaxFilter(1 + 2 * int(rng.integers(0, 5))))
    width = max(paper.width / paper.height * 32, 8) * rng.uniform(0.8, 1.1)
    ink = paper.resize((int(min(width, 32)), 32), Image.Resampling.BICUBIC)
    bend = [float(v) for v in (1, rng.uniform(-0.25, 0.25), rng.uniform(-3, 3), rng.uniform(-0.1, 0.1), 1, rng.uniform(-2, 2))]
    page = Image.new("L", (32, 32))
    page.paste(ink, ((32 - ink.width) // 2, 0))
    page = page.transform((32, 32), Image.Transform.AFFINE, bend, Image.Resampling.BICUBIC)
    bitmap = np.asarray(page) > 110
    return category, _count_blocks(bitmap)


def _count_blocks(bitmap: NDArray[np.bool_]) -> NDArray[np.uint8]:
    counts: NDArray[np.uint8] = bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3)).astype(np.uint8)
    return counts


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str) -> None:
    lines = {
        "triangle": [(14, 110), (64, 14), (114, 110), (14, 110)],
        "square": [(20, 20), (108, 20), (108, 108), (20, 108), (20, 20)],
        "cross": [(20, 20), (108, 108), (64, 64), (108, 20), (20, 108)],
        "arrow": [(14, 64), (112, 64), (76, 24), (112, 64), (76, 104)],
    }
    pen.line(lines[shape], fill=255, width=14)


def _font_file(name: str) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")


def write_scenes(folder: Path, count: int, seed: int) -> None:
    """`count` scenes as a YOLO data set with the parts train and val."""
    rng, photos = np.random.default_rng(seed), photographs()
    for i in range(count + HELD_OUT):
        part = "train" if i < count else "val"
        image, placed = compose_scene(photos, scan_glyph, STYLE, rng)
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
        image.save(folder / part / "images" / f"{i:06d}.jpg", quality=90)
        rows = []
        for glyph in placed:
            x1, y1, x2, y2 = glyph.xyxy
            values = ((x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height, (x2 - x1) / image.width, (y2 - y1) / image.height)
            rows.append(f"{glyph.category} " + " ".join(f"{v:.6f}" for v in values))
        (folder / part / "labels" / f"{i:06d}.txt").write_text("\n".join(rows) + "\n")
    names = "\n".join(f"  - '{name}'" for name in [*LETTERS, *SHAPES])
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: train/images\nval: val/images\nnames:\n{names}\n")


def save_without_places(source: Path, target: Path) -> None:
    """The checkpoint without the folders, the repository and the history of the machine that it was trained on."""
    import torch

    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    for name in ("git", "train_results", "date"):
        checkpoint.pop(name, None)
    checkpoint["train_args"] = checkpoint["model"].args = {"task": "detect", "imgsz": 160}
    checkpoint["model"].yaml["yaml_file"] = "yolo11n-letters.yaml"
    torch.save(checkpoint, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["YOLO_CONFIG_DIR"] = temporary
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
        write_scenes(folder, arguments.scenes, seed=1)
        import torch
        import yaml
        from ultralytics import YOLO  # type: ignore[attr-defined]
        from ultralytics.utils import ROOT, SETTINGS

        SETTINGS["sync"] = False
        torch.set_num_threads(arguments.threads)
        shape = yaml.safe_load((ROOT / "cfg" / "models" / "11" / "yolo11.yaml").read_text())
        shape["scales"] = {"n": DEPTH_WIDTH_CHANNELS}
        (folder / "yolo11n-letters.yaml").write_text(yaml.safe_dump(shape))
        model = YOLO(folder / "yolo11n-letters.yaml", task="detect")
        model.train(
            data=str(folder / "data.yaml"),
            epochs=arguments.epochs,
            imgsz=160,
            batch=16,
            nbs=16,
            optimizer="AdamW",  # Ultralytics' automatic choice has a rate for fine-tuning, a tenth of what a model from scratch needs
            lr0=0.003,
            cos_lr=True,
            warmup_epochs=1.0,
            device="cpu",
            project=str(folder),
            name="base",
            fliplr=0.0,
            scale=0.3,
            close_mosaic=5,
            plots=False,
            seed=0,
            cache="ram",
        )
        save_without_places(folder / "base" / "weights" / "last.pt", arguments.target)


if __name__ == "__main__":
    main()
