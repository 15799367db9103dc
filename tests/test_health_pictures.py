"""Image quality by cleanvision: what it finds, what it survives, and that it is asked once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageFilter

from detclean.health import pictures
from detclean.health.pictures import KINDS, find_picture_issues, measure_pictures, open_cache


def noise(width: int = 200, height: int = 150, seed: int = 0) -> Image.Image:
    """A picture that nothing is wrong with: sharp cells of every colour."""
    cells = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)


def as_table(paths: list[Path | None]) -> pl.DataFrame:
    states = [path.stat() if path is not None and path.exists() else None for path in paths]
    return pl.DataFrame(
        {
            "path": pl.Series([None if path is None else str(path) for path in paths], dtype=pl.String),
            "bytes": pl.Series([state.st_size if state else None for state in states], dtype=pl.Int64),
            "modified_ns": pl.Series([state.st_mtime_ns if state else None for state in states], dtype=pl.Int64),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good pictures, 0 to 11, and one of each fault."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        noise(seed=i).save(folder / f"{i:02}.png")
    black = np.random.default_rng(0).integers(0, 14, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(black).save(folder / "dark.png")
    Image.fromarray(255 - black // 4).save(folder / "light.png")
    noise(seed=0).filter(ImageFilter.GaussianBlur(5)).save(folder / "blurry.png")
    Image.new("RGB", (200, 150), (120, 90, 60)).save(folder / "low_information.png")
    noise(2000, 1500, seed=21).save(folder / "odd_size.jpg")
    noise(600, 60, seed=22).save(folder / "odd_aspect_ratio.png")
    noise(seed=23).convert("L").save(folder / "grayscale.png")
    return folder


def test_each_fault_is_found_where_it_is(folder: Path) -> None:
    paths = [*sorted(folder.glob("[0-9]*.png")), *(next(folder.glob(f"{kind}.*")) for kind in KINDS)]
    found = find_picture_issues(measure_pictures(as_table(paths)))
    for kind in KINDS:
        names = [paths[i].stem for i in found[kind]["image_index"].to_list()]
        assert kind in names, found
        assert not [name for name in names if name.isdigit()], (kind, names)


def test_they_are_the_scores_of_cleanvision(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of pictures that are not read smaller its own Imagelab says the very same."""
    from cleanvision import Imagelab

    paths = [path for path in sorted(folder.glob("*.png")) if path.stem != "odd_aspect_ratio"]
    measured = measure_pictures(as_table(paths))
    assert capfd.readouterr() == ("", "")  # neither a bar nor a word
    found = find_picture_issues(measured)
    theirs = Imagelab(filepaths=[str(path) for path in paths], verbose=False)
    theirs.find_issues({kind: {} for kind in KINDS}, n_jobs=1, verbose=False)
    for kind in KINDS:
        flagged = np.flatnonzero(theirs.issues[f"is_{kind}_issue"].to_numpy())
        assert sorted(found[kind]["image_index"].to_list()) == flagged.tolist(), kind
        scores = dict(found[kind].iter_rows())
        own = theirs.issues[f"{kind}_score"].to_numpy()
        assert all(scores[i] == pytest.approx(float(own[i]), abs=1e-6) for i in flagged.tolist()), kind


def test_grey_is_no_issue_where_most_are(tmp_path: Path) -> None:
    for i in range(4):
        picture = noise(seed=i) if i == 0 else noise(seed=i).convert("L")
        picture.save(tmp_path / f"{i}.png")
    found = find_picture_issues(measure_pictures(as_table(sorted(tmp_path.glob("*.png")))))
    assert found["grayscale"].is_empty()


def test_no_picture_stops_it(tmp_path: Path) -> None:
    """Missing, empty, damaged, deep, with a palette, with the colours of a printer, and one whose header promises a gigapixel."""
    noise().save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    content = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.random.default_rng(0).integers(0, 4000, (90, 120), dtype=np.uint16)).save(tmp_path / "deep.png")
    noise().convert("P").save(tmp_path / "palette.png", transparency=0)
    noise().convert("CMYK").save(tmp_path / "printer.jpg")
    bomb = bytearray(content)
    bomb[16:24] = (60_000).to_bytes(4, "big") + (60_000).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(bomb))
    paths: list[Path | None] = [*sorted(tmp_path.iterdir()), tmp_path / "missing.jpg", None]
    measured = measure_pictures(as_table(paths))
    bad = [Path(str(paths[i])).name for i in measured.filter(pl.col("problem").is_not_null())["image_index"].to_list()]
    assert sorted(bad) == ["bomb.png", "cut.png", "empty.jpg", "missing.jpg"]
    assert measured.height == len(paths) - 1  # one has no path at all
    assert set(find_picture_issues(measured)) == set(KINDS)
    assert find_picture_issues(measured.head(0))["dark"].is_empty()


def test_sideways_pictures_have_their_size_upright_and_say_when_they_were_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    exif[306] = "2023:04:05 06:07:08"
    noise(300, 100).save(tmp_path / "a.jpg", exif=exif)
    row = measure_pictures(as_table([tmp_path / "a.jpg"])).row(0, named=True)
    assert row["aspect_ratio"] == pytest.approx(1 / 3)
    assert row["taken"] == "2023:04:05 06:07:08"


def test_pictures_are_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    for path in sorted(folder.glob("0*.png")):
        copies.append(tmp_path / path.name)
        copies[-1].write_bytes(path.read_bytes())
    cache = open_cache(tmp_path / "run", lambda line: None)
    first = measure_pictures(as_table(copies), cache=cache)
    read: list[str] = []
    real = pictures._measure
    monkeypatch.setattr(pictures, "_measure", lambda path, properties: read.append(path.name) or real(path, properties))
    again = measure_pictures(as_table(copies), cache=cache)
    assert read == []
    assert again.equals(first)
    noise(seed=99).save(copies[3])
    os.utime(copies[3], ns=(1, 1))
    changed = measure_pictures(as_table(copies), cache=cache)
    assert read == [copies[3].name]
    assert not changed.equals(first)
    assert changed.equals(measure_pictures(as_table(copies), cache=cache))


def test_large_pictures_are_judged_alike_smaller(folder: Path) -> None:
    """Half and a quarter of the size change the measures by little."""
    whole = noise(1024, 768, seed=5)
    sizes = [whole, whole.resize((512, 384), Image.Resampling.BOX)]
    for i, picture in enumerate(sizes):
        picture.save(folder / f"large{i}.jpg", quality=95)
    measured = measure_pictures(as_table([folder / "large0.jpg", folder / "large1.jpg"]))
    for name, leeway in (("brightness_perc_99", 0.02), ("brightness_perc_5", 0.02), ("entropy", 0.2)):
        a, b = measured[name].to_list()
        assert a == pytest.approx(b, abs=leeway), name
