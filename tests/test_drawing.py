"""Issues as one sheet of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageColor
from simulated import as_dataset

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.show.drawing import CELL, COLUMNS, GAP, GIVEN, PROPOSED, draw_issues

SIZE = 120
SIDES = ("x1", "y1", "x2", "y2")


def pictured(folder: Path, count: int = 3, mode: str = "RGB", suffix: str = ".png") -> Dataset:
    """Black pictures with a white square at 40..80."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        picture = np.zeros((SIZE, SIZE), np.uint8)
        picture[40:80, 40:80] = 255
        paths.append(folder / f"{i}{suffix}")
        deep = {"I;16": np.uint16(40_000), "F": np.float32(0.01)}.get(mode)
        image = Image.fromarray(picture).convert(mode) if deep is None else Image.fromarray((picture > 0) * deep)
        image.save(paths[-1])
    boxes = Boxes(np.arange(count), np.zeros(count), np.tile([40.0, 40, 80, 80], (count, 1)))
    dataset = as_dataset(boxes, np.tile([float(SIZE)] * 2, (count, 1)))
    return replace(dataset, images=dataset.images.with_columns(path=pl.Series([str(path) for path in paths])))


def issue(image: int, given: list[float] | None, suggested: list[float] | None, action: str = "move", **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": image + 1, "issue_type": "badloc", "probability": 0.875, "action": action, "image_index": image}
    row |= {"category": None if given is None else "kind0", "suggested_category": None if suggested is None else "kind1"}
    row |= dict(zip(SIDES, given or [None] * 4, strict=True))
    return row | dict(zip((f"suggested_{side}" for side in SIDES), suggested or [None] * 4, strict=True)) | more


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    corners = dict.fromkeys([*SIDES, *(f"suggested_{side}" for side in SIDES)], pl.Float64)
    texts = dict.fromkeys(("category", "suggested_category"), pl.String)
    return pl.DataFrame(rows, schema_overrides=corners | texts)


def share_near(path: Path, colour: str) -> float:
    """Share of the sheet's pixels that have this colour, as JPEG keeps it."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=int)
    return float((np.abs(pixels - ImageColor.getrgb(colour)).sum(axis=2) < 60).mean())


GIVEN_BOX, PROPOSED_BOX = [40.0, 40, 80, 80], [50.0, 45, 95, 85]


def test_both_boxes_are_drawn_in_their_colours(tmp_path: Path) -> None:
    dataset = pictured(tmp_path / "in")
    shares = {}
    for name, rows in {
        "both": [issue(0, GIVEN_BOX, PROPOSED_BOX)],
        "given": [issue(0, GIVEN_BOX, None, "delete")],
        "proposed": [issue(0, None, PROPOSED_BOX, "add")],
        "relabel": [issue(0, GIVEN_BOX, GIVEN_BOX, "relabel")],
    }.items():
        draw_issues(dataset, table(*rows), tmp_path / f"{name}.jpg")
        shares[name] = (share_near(tmp_path / f"{name}.jpg", GIVEN), share_near(tmp_path / f"{name}.jpg", PROPOSED))
    legend = shares["proposed"][0], shares["given"][1]
    assert shares["both"][0] > 2 * legend[0]
    assert shares["both"][1] > 2 * legend[1]
    assert shares["given"][0] > 2 * legend[0]
    assert shares["relabel"][1] == pytest.approx(legend[1], abs=legend[1])  # the box stays: nothing to draw twice


def test_the_box_surrounds_what_it_is_about(tmp_path: Path) -> None:
    """The place shown: the white square lies inside the drawn box, in the middle of its cell."""
    draw_issues(pictured(tmp_path / "in"), table(issue(0, GIVEN_BOX, None, "delete")), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as opened:
        cell = np.asarray(opened.convert("RGB"), dtype=int)[GAP : GAP + CELL, GAP : GAP + CELL]
    orange = np.abs(cell - ImageColor.getrgb(GIVEN)).sum(axis=2) < 90
    rows, columns = np.flatnonzero(orange.any(axis=1)), np.flatnonzero(orange.any(axis=0))
    margin = CELL * 0.6 / 2.2  # 60 % of the box's side around it
    for low, high in ((rows[0], rows[-1]), (columns[0], columns[-1])):
        assert low == pytest.approx(margin, abs=5)
        assert high == pytest.approx(CELL - margin, abs=5)
    inside = cell[rows[0] + 8 : rows[-1] - 8, columns[0] + 8 : columns[-1] - 8]
    assert inside.min() > 200
    assert cell[:20, :20].max() < 60


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 1])
def test_the_sheet_grows_by_lines(tmp_path: Path, count: int) -> None:
    dataset = pictured(tmp_path / "in", count)
    draw_issues(dataset, table(*(issue(i, GIVEN_BOX, None, "delete") for i in range(count))), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as sheet:
        assert sheet.width >= min(count, COLUMNS) * CELL
        assert sheet.width < (COLUMNS + 1) * CELL
        assert CELL * -(-count // COLUMNS) < sheet.height < 1.5 * CELL * -(-count // COLUMNS)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16", "F", "CMYK"])
def test_any_kind_of_picture_can_be_drawn(tmp_path: Path, mode: str) -> None:
    """A white square on black is one, whatever the file's depth and colours."""
    suffix = ".tif" if mode in ("CMYK", "F") else ".png"
    draw_issues(pictured(tmp_path / "in [1] é", mode=mode, suffix=suffix), table(issue(0, GIVEN_BOX, None, "delete")), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as sheet:
        cell = np.asarray(sheet.convert("L"), dtype=int)[GAP : GAP + CELL, GAP : GAP + CELL]
    assert cell[100:160, 100:160].min() > 200
    assert cell[:20, :20].max() < 60


@pytest.mark.parametrize(
    "box",
    [[80.0, 80, 40, 40], [50.0, 50, 50, 50], [-400.0, -300, 900, 900], [115.0, 115, 300, 300], [50.2, 50.1, 50.3, 50.9]],
    ids=["inverted", "empty", "far outside", "over the edge", "tiny"],
)
def test_faulty_boxes_can_be_drawn(tmp_path: Path, box: list[float]) -> None:
    draw_issues(pictured(tmp_path / "in"), table(issue(0, box, None, "delete"), issue(1, box, box, "move")), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").exists()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    dataset = pictured(tmp_path / "in", 4)
    (tmp_path / "in" / "0.png").unlink()
    (tmp_path / "in" / "1.png").write_bytes(b"no picture")
    whole = (tmp_path / "in" / "2.png").read_bytes()
    (tmp_path / "in" / "2.png").write_bytes(whole[: len(whole) // 2])
    rows = [issue(i, GIVEN_BOX, None, "delete") for i in range(4)]
    draw_issues(dataset, table(*rows), tmp_path / "a.jpg")
    draw_issues(dataset, table(rows[3]), tmp_path / "b.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    draw_issues(dataset, table(*rows[:3]), tmp_path / "none.jpg")
    assert not (tmp_path / "none.jpg").exists()


def test_without_pictures_there_is_no_sheet(tmp_path: Path) -> None:
    dataset = pictured(tmp_path / "in")
    nowhere = replace(dataset, images=dataset.images.with_columns(path=pl.lit(None, dtype=pl.String)))
    draw_issues(nowhere, table(issue(0, GIVEN_BOX, None)), tmp_path / "a.jpg")
    draw_issues(dataset, table(issue(0, GIVEN_BOX, None))[:0], tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_names_in_any_script_can_be_written(tmp_path: Path) -> None:
    row = issue(0, GIVEN_BOX, PROPOSED_BOX, "relabel", category="чашка {x}", suggested_category="茶碗" * 30)
    draw_issues(pictured(tmp_path / "in"), table(row), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").exists()
