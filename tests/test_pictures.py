"""The one reader of pictures: for the sheet, the report and the review, of any kind and any size."""

from __future__ import annotations

import io
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from test_report_page import made_up, opened

from detclean.audit.images import hash_chunk
from detclean.formats.imagefiles import any_size_allowed, read_image_sizes
from detclean.report.pictures import VIEW, make_cards
from detclean.review import pictures as review
from detclean.show import photos
from detclean.show.crops import cut_window
from detclean.show.drawing import CELL, GAP, draw_issues
from detclean.show.photos import READING_FAILS, open_photo

WIDTH, HEIGHT = 90, 60
CORNER = np.s_[:20, :30]  # bright, upright


def bright_corner(mode: str) -> Image.Image:
    """Dark, with a bright corner at the top left; 16 bits and floats use a small part of their range, far from its ends."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[CORNER] = True
    if mode == "I;16":
        return Image.fromarray(np.where(mask, 31_000, 30_000).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(np.where(mask, 90_000, 70_000).astype(np.int32))
    if mode == "F":
        values = np.where(mask, 0.02, 0.01).astype(np.float32)
        values[40, 40] = np.nan
        return Image.fromarray(values)
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert(mode)


def save(path: Path, mode: str, orientation: int = 1) -> Path:
    """The picture lying as a camera that was turned leaves it: EXIF says how to put it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = bright_corner(mode)
    if orientation == 6:
        image = (
            Image.fromarray(np.rot90(np.asarray(image)).copy(), mode=None) if mode != "CMYK" else image.transpose(Image.Transpose.ROTATE_90)
        )
    image.save(path, **({"exif": exif} if orientation != 1 else {}), **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def require_bright_corner(photo: Image.Image) -> None:
    assert photo.mode == "RGB"
    assert photo.size == (WIDTH, HEIGHT)
    grey = np.asarray(photo.convert("L"), dtype=int)
    assert grey[2:18, 2:28].min() > 200
    assert max(grey[24:, :].max(), grey[:, 34:].max()) < 60


KINDS = [
    ("a.jpg", "RGB"),
    ("a.jpg", "L"),
    ("a.jpg", "CMYK"),
    ("a.png", "RGB"),
    ("a.png", "RGBA"),
    ("a.png", "I;16"),
    ("a.tif", "L"),
    ("a.tif", "RGB"),
    ("a.tif", "CMYK"),
    ("a.tif", "I;16"),
    ("a.tif", "I"),
    ("a.tif", "F"),
    ("a.bmp", "RGB"),
    ("a.webp", "RGB"),
]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_every_kind_is_upright_and_neither_black_nor_white(tmp_path: Path, name: str, mode: str, orientation: int) -> None:
    if orientation == 6 and name.endswith(".bmp"):
        pytest.skip("a BMP has no EXIF block")
    path = save(tmp_path / name, mode, orientation)
    with open_photo(str(path)) as (photo, ratio):
        require_bright_corner(photo)
    assert ratio == 1
    if mode not in ("I", "F"):  # which OpenCV does not read as 8 bits, so no detector sees it
        assert read_image_sizes([str(path)]).tolist() == [[WIDTH, HEIGHT]]


@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_report_and_review_show_the_same(tmp_path: Path, name: str, mode: str) -> None:
    path = save(tmp_path / name, mode)
    run = made_up(tmp_path / "run", 1, 1, 1, pictured=False)
    corners = {"x1": 0.0, "y1": 0.0, "x2": 30.0, "y2": 20.0}
    issues = run.issues.with_columns(issue_type=pl.lit("spurious"), category=pl.lit("kind 0"), annotation=pl.lit(0), **corners)
    issues = issues.with_columns(pl.lit(None, pl.Float64).alias(f"suggested_{side}") for side in corners)
    dataset = replace(run.dataset, images=run.dataset.images.with_columns(path=pl.lit(str(path))))
    (card,) = make_cards(dataset, issues, {})
    assert card.given is not None
    view = np.asarray(opened(card.picture).convert("L"), dtype=int)
    left, top, width, height = (round(value * len(view) / VIEW) for value in card.given)
    assert view[top + 4 : top + height - 4, left + 4 : left + width - 4].min() > 200
    assert view[top + height + 8 : top + 2 * height, left + 4 : left + width].max() < 60
    draw_issues(dataset, issues, tmp_path / "worst.jpg")
    with Image.open(tmp_path / "worst.jpg") as sheet:
        values = np.asarray(sheet.convert("L"), dtype=int)[GAP : GAP + CELL, GAP : GAP + CELL]
    assert (values > 245).mean() > 0.05
    assert (values < 30).mean() > 0.3
    picture = review.read_picture(path)
    assert picture is not None
    with Image.open(path if picture.path else io.BytesIO(picture.content)) as sent:
        require_bright_corner(sent.convert("RGB"))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow calls a picture of more than twice this a bomb, and warns from here on; detclean's own sizes are as far below."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 4)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_what_pillow_calls_a_bomb_is_a_picture(tmp_path: Path, name: str, mode: str) -> None:
    path = save(tmp_path / name, mode)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with open_photo(str(path)) as (photo, _):
        require_bright_corner(photo)
    assert review.read_picture(path) is not None
    assert read_image_sizes([str(path)]).tolist() == [[WIDTH, HEIGHT]]
    assert hash_chunk([(0, str(path))])[0][5] is None  # no problem
    assert WIDTH * HEIGHT // 4 == Image.MAX_IMAGE_PIXELS


@pytest.mark.usefixtures("small_limit")
def test_the_limit_is_lifted_until_the_last_thread_leaves() -> None:
    before, filters = Image.MAX_IMAGE_PIXELS, warnings.filters[:]
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with any_size_allowed():
            inside.set()
            assert leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with any_size_allowed():
            other = pool.submit(stay)
            assert inside.wait(10)
        assert Image.MAX_IMAGE_PIXELS is None  # the first has left
        leave.set()
        other.result()
    assert before == Image.MAX_IMAGE_PIXELS
    assert warnings.filters[:] == filters


@pytest.mark.usefixtures("small_limit")
def test_many_threads_can_read_huge_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only one of them at a time holds a large one."""
    monkeypatch.setattr(photos, "LARGE", WIDTH * HEIGHT // 2)
    path = str(save(tmp_path / "a.png", "RGB"))
    held: list[int] = [0, 0]

    def read(_: int) -> tuple[int, int]:
        with open_photo(path) as (photo, _ratio):
            held[0] += 1
            held[1] = max(held)
            threading.Event().wait(0.002)
            held[0] -= 1
            return photo.size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(40))) == {(WIDTH, HEIGHT)}
    assert held == [0, 1]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("name", "mode"), [kind for kind in KINDS if kind[0] != "a.bmp"])
def test_what_is_too_large_is_read_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str, orientation: int) -> None:
    monkeypatch.setattr(photos, "MOST", WIDTH * HEIGHT // 3)
    with open_photo(str(save(tmp_path / name, mode, orientation))) as (photo, ratio):
        assert (photo.size, ratio) == ((WIDTH // 2, HEIGHT // 2), 0.5)
        grey = np.asarray(photo.convert("L"), dtype=int)
    assert grey[2:8, 2:12].min() > 180
    assert max(grey[13:, :].max(), grey[:, 18:].max()) < 80


def test_odd_sides_do_not_keep_a_jpeg_from_being_read_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1001, 801)).save(tmp_path / "a.jpg")
    for most, by in ((1001 * 801, 1), (1001 * 801 - 1, 2), (501 * 401, 2), (501 * 401 - 1, 4), (126 * 101, 8)):
        monkeypatch.setattr(photos, "MOST", most)
        with open_photo(str(tmp_path / "a.jpg")) as (photo, ratio):
            assert photo.size == (-(-1001 // by), -(-801 // by))
            assert ratio == pytest.approx(1 / by, rel=0.01)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.png", "RGB"), ("a.png", "I;16"), ("a.tif", "CMYK")])
def test_the_review_sends_large_pictures_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str) -> None:
    path = save(tmp_path / name, mode)
    monkeypatch.setattr(review, "LARGEST", WIDTH * HEIGHT // 3)
    picture = review.read_picture(path)
    assert picture is not None
    with Image.open(io.BytesIO(picture.content)) as sent:
        assert sent.width * sent.height <= review.LARGEST
        assert sent.size == pytest.approx((WIDTH / 3**0.5, HEIGHT / 3**0.5), abs=1)
        grey = np.asarray(sent.convert("L"), dtype=int)
    assert grey[2:9, 2:14].min() > 180
    assert max(grey[15:, :].max(), grey[:, 22:].max()) < 80


def test_a_side_longer_than_a_jpeg_can_be_is_sent_smaller(tmp_path: Path) -> None:
    Image.new("L", (70_000, 12), 200).save(tmp_path / "a.png")
    picture = review.read_picture(tmp_path / "a.png")
    assert picture is not None
    with Image.open(io.BytesIO(picture.content)) as sent:
        assert sent.size == (review.LONGEST, 11)


@pytest.mark.parametrize("limits", [{"LARGEST": WIDTH * HEIGHT - 1}, {"LARGE": WIDTH * HEIGHT - 1, "DENSEST": 1}])
def test_a_damaged_header_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    path = save(tmp_path / "a.png", "RGB")
    for name, limit in limits.items():
        monkeypatch.setattr(f"detclean.formats.imagefiles.{name}", limit)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="90 x 60 pixels"), open_photo(str(path)):
        pass


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_a_large_jpeg_may_be_read_smaller(tmp_path: Path, share: float) -> None:
    photo = np.zeros((800, 1200, 3), np.uint8)
    photo[200:600, 300:900] = 255
    Image.fromarray(photo).save(tmp_path / "a.jpg")
    with open_photo(str(tmp_path / "a.jpg"), share) as (read, ratio):
        assert read.size == (1200 * ratio, 800 * ratio)
        assert ratio == {1.0: 1, 0.3: 0.5, 0.01: 0.125}[share]
        view = np.asarray(cut_window(read, (0, -200, 1200), 120, ratio).convert("L"), dtype=int)
    rows, columns = np.flatnonzero((view[20:100] > 200).any(axis=1)) + 20, np.flatnonzero((view[20:100] > 240).any(axis=0))
    assert [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1] == pytest.approx([40, 80, 30, 90], abs=1)
    assert view[:19].min() > 200  # beyond the border
    assert view[:19].max() < 240


def test_a_jpeg_on_its_side_is_read_smaller_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (800, 400)).save(tmp_path / "a.jpg", exif=exif)
    with open_photo(str(tmp_path / "a.jpg"), 0.5) as (read, ratio):
        assert (read.size, ratio) == ((200, 400), 0.5)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"II*\0" + bytes(range(200))])
def test_what_is_no_picture_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(READING_FAILS), open_photo(str(tmp_path / "a.tif")):
        pass
    assert review.read_picture(tmp_path / "a.tif") is None


def test_a_damaged_exif_block_is_nobodys_business(tmp_path: Path) -> None:
    """Pillow warns of it, and here a warning is an error."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a maker's name that lies behind the entries"
    bright_corner("RGB").save(out, "JPEG", exif=exif, quality=95)
    content = out.getvalue().replace(b"\x01\x0f\x00\x02\x00\x00\x00", b"\x01\x0f\x00\x02\x7f\x00\x00")
    assert content != out.getvalue()
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.warns(UserWarning, match="Tag data larger"), Image.open(tmp_path / "a.jpg") as image:
        image.getexif()
    with open_photo(str(tmp_path / "a.jpg")) as (photo, _):
        require_bright_corner(photo)
