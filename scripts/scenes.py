"""Composes scenes of glyphs over crops of photographs: the embedded digits and the letters that the demo's base model saw.

Only Pillow and numpy's elementwise arithmetic are used, so that a seed gives the same pixels on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

SIDE = (128, 192)  # px: shortest and longest side of a scene
INK_EDGE = 0.3  # a glyph's box holds what covers at least this much of the paper

Glyph = tuple[int, NDArray[np.uint8]]  # category and an (8, 8) scan with values 0..16


@dataclass(frozen=True)
class Style:
    """What scenes are like; ranges are drawn from uniformly."""

    height: tuple[float, float]  # px: the smallest and the largest glyph, drawn on a logarithmic scale
    glyphs: tuple[int, int]  # a scene
    hard_share: float  # of the glyphs: faint, blurred or half covered
    contact_share: float  # of the glyphs: put so that they touch or overlap an earlier one
    contact: tuple[float, float]  # the share of the smaller glyph's box that is then covered
    angle: float  # radians, either way
    shear: float
    stretch: tuple[float, float]
    opacity: float  # at least, of the ink of glyphs that are not hard


@dataclass(frozen=True)
class Placed:
    """A glyph in a scene; `xyxy` in pixels, whole numbers."""

    category: int
    xyxy: tuple[int, int, int, int]
    hard: bool


def photographs() -> list[Image.Image]:
    """The two photographs that scikit-learn ships."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def compose_scene(
    photos: list[Image.Image], draw_glyph: Callable[[np.random.Generator], Glyph], style: Style, rng: np.random.Generator
) -> tuple[Image.Image, list[Placed]]:
    """A scene of SIDE pixels with glyphs, and where they are."""
    width, height = (int(rng.integers(SIDE[0], SIDE[1] + 1)) for _ in range(2))
    paper = _background(photos[int(rng.integers(len(photos)))], width, height, rng)
    canvas = np.asarray(paper, dtype=np.float64)
    placed: list[Placed] = []
    for _ in range(int(rng.integers(style.glyphs[0], style.glyphs[1] + 1))):
        category, scan = draw_glyph(rng)
        hard = ("", "faint", "blurred", "covered")[int(rng.integers(1, 4))] if rng.random() < style.hard_share else ""
        ink = _ink(scan, hard, style, rng)
        spot = _find_spot(ink, placed, width, height, style, rng)
        if spot is None:
            continue
        left, top = spot
        rows, columns = np.nonzero(ink >= INK_EDGE)
        box = (left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1)
        canvas = _draw(canvas, np.asarray(paper, dtype=np.float64), ink, spot, hard, style, rng)
        placed.append(Placed(category, (int(box[0]), int(box[1]), int(box[2]), int(box[3])), bool(hard)))
    return Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8)), placed


def _background(photo: Image.Image, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    zoom = rng.uniform(0.8, 2.0)
    crop_width, crop_height = min(int(width * zoom), photo.width), min(int(height * zoom), photo.height)
    left = int(rng.integers(photo.width - crop_width + 1))
    top = int(rng.integers(photo.height - crop_height + 1))
    crop = photo.crop((left, top, left + crop_width, top + crop_height)).resize((width, height), Image.Resampling.BICUBIC)
    return crop.filter(ImageFilter.GaussianBlur(int(rng.integers(0, 3))))


def _ink(scan: NDArray[np.uint8], hard: str, style: Style, rng: np.random.Generator) -> NDArray[np.float64]:
    """The glyph enlarged and bent: (h, w) share of each pixel that ink covers, 0..1."""
    size = round(float(np.exp(rng.uniform(*np.log(style.height)))))
    framed = np.pad(np.minimum(scan.astype(np.uint16) * 16, 255).astype(np.uint8), 1)
    big = Image.fromarray(framed).resize((size * 2, size * 2), Image.Resampling.BICUBIC)
    angle, shear, stretch = rng.uniform(-style.angle, style.angle), rng.uniform(-style.shear, style.shear), rng.uniform(*style.stretch)
    side = int(size * 1.6)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = 2 * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 / stretch, shear], [0, 1]])
    offset = np.array([size, size]) - matrix @ np.array([side / 2, side / 2])
    affine = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    bent = big.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    if hard == "blurred":
        bent = bent.filter(ImageFilter.GaussianBlur(max(2, size // 11)))
    ink: NDArray[np.float64] = np.asarray(bent, dtype=np.float64) / 255
    return ink / max(float(ink.max()), 0.1)


def _find_spot(
    ink: NDArray[np.float64], placed: list[Placed], width: int, height: int, style: Style, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Left and top of the ink where it lies in the scene and covers no earlier glyph too much; None where there is no room."""
    wants_contact = bool(placed) and rng.random() < style.contact_share
    rows, columns = np.nonzero(ink >= INK_EDGE)
    top_edge, left_edge = int(rows.min()), int(columns.min())
    glyph_height, glyph_width = int(rows.max()) + 1 - top_edge, int(columns.max()) + 1 - left_edge
    if glyph_height >= height or glyph_width >= width:
        return None
    for _ in range(60):
        x = int(rng.integers(0, width - glyph_width + 1))
        y = int(rng.integers(0, height - glyph_height + 1))
        shares = [_covered((x, y, x + glyph_width, y + glyph_height), other.xyxy) for other in placed]
        most = max(shares, default=0.0)
        if style.contact[0] <= most <= style.contact[1] if wants_contact else most == 0:
            return x - left_edge, y - top_edge
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller of two boxes."""
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return wide * high / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _draw(
    canvas: NDArray[np.float64],
    paper: NDArray[np.float64],
    ink: NDArray[np.float64],
    spot: tuple[int, int],
    hard: str,
    style: Style,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    left, top = spot
    rows = slice(max(top, 0), min(top + ink.shape[0], canvas.shape[0]))
    columns = slice(max(left, 0), min(left + ink.shape[1], canvas.shape[1]))
    part = ink[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    here = canvas[rows, columns]
    level = float(here.mean())
    dark = level > 130 or (level > 110 and rng.random() < 0.5)
    tint = rng.uniform(0, 45, 3) if dark else 255 - rng.uniform(0, 45, 3)
    opacity = rng.uniform(0.2, 0.32) if hard == "faint" else rng.uniform(style.opacity, 1.0)
    alpha = (part * opacity)[:, :, None]
    new = here * (1 - alpha) + tint[None, None, :] * alpha
    if hard == "covered":
        new = _cover_half(new, paper[rows, columns], part, rng)
    result = canvas.copy()
    result[rows, columns] = new
    return result


def _cover_half(
    new: NDArray[np.float64], paper: NDArray[np.float64], ink: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The glyph with one half hidden behind the background."""
    rows, columns = np.nonzero(ink >= INK_EDGE)
    middle_y, middle_x = int(rows.min() + rows.max() + 1) // 2, int(columns.min() + columns.max() + 1) // 2
    hidden = np.zeros(ink.shape, dtype=bool)
    part = int(rng.integers(4))
    if part < 2:
        hidden[(slice(None, middle_y), slice(middle_y, None))[part]] = True
    else:
        hidden[:, (slice(None, middle_x), slice(middle_x, None))[part - 2]] = True
    return np.where(hidden[:, :, None], paper, new)
