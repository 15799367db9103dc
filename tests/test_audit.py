"""The audit: each kind of finding on a data set made for it, and duplicates on real photographs."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pace import in_units
from PIL import Image, ImageEnhance
from rich.console import Console
from tiny import describe_tree

from detclean.audit import Cache, audit_dataset, images, reading
from detclean.audit import cache as cache_module
from detclean.audit.geometry import find_geometry_faults
from detclean.audit.images import HASHES, Chunk, Rows, find_duplicates, find_image_faults, hash_images
from detclean.boxes import Boxes, box_iou, find_close_pairs
from detclean.dataset import Dataset, Finding
from detclean.formats import imagefiles
from detclean.formats.imagefiles import map_in_processes, read_image_sizes
from detclean.pipeline import steps
from detclean.show.progress import Display, open_display
from detclean.stages import Stage, run_stages

ROOT = Path(__file__).parents[1]
BCCD = ROOT.parent / "shared" / "bccd" / "JPEGImages"
Row = tuple[int, int, float, float, float, float]  # image, category, x1, y1, x2, y2


def make_dataset(
    rows: Sequence[Row] = (),
    *,
    images: int = 1,
    categories: tuple[str, ...] = ("cat", "dog"),
    paths: Sequence[Path | None] | None = None,
    splits: Sequence[str] | None = None,
    size: tuple[int, int] = (100, 80),
    crowd: Sequence[bool] | None = None,
) -> Dataset:
    count = images if paths is None else len(paths)
    table = pl.DataFrame(
        {
            "image_id": list(range(count)),
            "file_name": [f"{i}.jpg" if paths is None or paths[i] is None else Path(str(paths[i])).name for i in range(count)],
            "path": [None] * count if paths is None else [None if path is None else str(path) for path in paths],
            "label_path": [None] * count,
            "width": [size[0]] * count,
            "height": [size[1]] * count,
            "split": splits or ["train"] * count,
        },
        schema_overrides={"path": pl.String, "label_path": pl.String},
    )
    array = np.array(rows, dtype=float).reshape(-1, 6)
    annotations = Boxes(
        array[:, 0],
        array[:, 1],
        array[:, 2:],
        annotation_id=np.arange(len(array)) + 100,
        is_crowd=None if crowd is None else np.array(crowd),
    )
    return Dataset(table, categories, annotations, np.arange(len(array)), "memory", Path("made"))


def of_kind(findings: Sequence[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if finding.kind == kind]


def kinds(findings: Sequence[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


GOOD: list[Row] = [(0, 0, 10, 10, 40, 40), (0, 1, 50, 10, 90, 70)]


def test_a_sound_data_set_has_no_geometry_fault() -> None:
    assert find_geometry_faults(make_dataset(GOOD)) == []


@pytest.mark.parametrize(
    ("box", "kind", "severity"),
    [
        ((20, 20, 20, 30), "box-empty", "warning"),
        ((20, float("nan"), 30, 30), "box-empty", "warning"),
        ((30, 20, 20, 30), "box-inverted", "warning"),
        ((120, 10, 140, 30), "box-outside-image", "warning"),
        ((-30, 10, 0, 30), "box-outside-image", "warning"),
        ((80, 10, 103, 30), "box-partly-outside", "warning"),
        ((60, 60, 61.5, 78), "box-tiny", "note"),
        ((0, 0, 100, 79), "box-covers-image", "note"),
    ],
)
def test_a_faulty_box_is_found_once(box: tuple[float, float, float, float], kind: str, severity: str) -> None:
    findings = find_geometry_faults(make_dataset([*GOOD, (0, 0, *box)]))
    assert [(finding.kind, finding.severity, finding.where) for finding in findings] == [(kind, severity, "annotation 102")]
    assert "cat in 0.jpg" in findings[0].message


@pytest.mark.parametrize("box", [(-1.0, 10, 30, 30), (70, 50, 101, 80.9), (60, 60, 62, 78), (0, 0, 94, 80)])
def test_what_lies_within_the_tolerance_is_no_fault(box: tuple[float, float, float, float]) -> None:
    assert find_geometry_faults(make_dataset([*GOOD, (0, 0, *box)])) == []


def test_a_percent_of_a_large_image_is_tolerated_too() -> None:
    assert find_geometry_faults(make_dataset([(0, 0, 900, 10, 1009, 500), (0, 1, 0, 0, 50, 50)], size=(1000, 1000))) == []


def test_no_border_fault_where_the_size_is_unknown() -> None:
    assert find_geometry_faults(make_dataset(GOOD, size=(0, 0))) == []


def test_identical_boxes_are_told_once_a_copy() -> None:
    findings = find_geometry_faults(make_dataset([*GOOD, GOOD[0], GOOD[0]]))
    assert [(finding.kind, finding.where) for finding in findings] == [
        ("box-identical", "annotation 102"),
        ("box-identical", "annotation 103"),
    ]
    assert all("repeats annotation 100" in finding.message for finding in findings)


def test_near_identical_boxes_say_their_categories() -> None:
    findings = find_geometry_faults(make_dataset([*GOOD, (0, 0, 10, 10, 41, 40), (0, 0, 50, 10, 90, 70)]))
    near = of_kind(findings, "box-near-identical")
    assert len(near) == len(findings) == 2
    assert "both cat" in near[0].message
    assert "cat here, dog there" in near[1].message


def test_the_same_box_in_another_image_or_of_a_crowd_is_no_repetition() -> None:
    rows: list[Row] = [GOOD[0], GOOD[1], (1, 0, 10, 10, 40, 40)]
    assert find_geometry_faults(make_dataset(rows, images=2)) == []
    assert find_geometry_faults(make_dataset([*GOOD, GOOD[0]], crowd=[False, False, True])) == []


def test_the_sweep_finds_what_all_pairs_would() -> None:
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, 5, 300))
    low = rng.integers(0, 12, (300, 2)).astype(float)
    xyxy = np.concatenate([low, low + rng.integers(0, 12, (300, 2))], axis=1)
    close = (box_iou(xyxy, xyxy) >= 0.5) & (image[:, None] == image[None])
    expected = np.argwhere(np.triu(close, 1))
    assert len(expected) > 50
    np.testing.assert_array_equal(find_close_pairs(image, xyxy, 0.5), expected)


def test_unused_and_single_categories_and_bare_images() -> None:
    findings = find_geometry_faults(make_dataset([(1, 0, 10, 10, 40, 40)], images=4))
    assert kinds(findings) == {"category-unused", "image-without-annotations"}
    assert "category dog (1)" in of_kind(findings, "category-unused")[0].message
    assert "3 of 4 images" in of_kind(findings, "image-without-annotations")[0].message
    assert "first: 0.jpg" in of_kind(findings, "image-without-annotations")[0].message
    assert kinds(find_geometry_faults(make_dataset([GOOD[0]], categories=("cat",)))) == {"category-only-one"}


@pytest.mark.parametrize(("images", "told"), [(1, "the only image has no annotation: "), (3, "none of the 3 images has an annotation: ")])
@pytest.mark.parametrize("categories", [(), ("cat",), ("cat", "dog")])
def test_a_data_set_without_any_annotation_is_one_warning(images: int, told: str, categories: tuple[str, ...]) -> None:
    dataset = make_dataset(images=images, categories=categories)
    (finding,) = find_geometry_faults(dataset)
    assert (finding.kind, finding.severity, finding.where) == ("dataset-without-annotations", "warning", "made")
    assert finding.message.startswith(told)
    assert finding.message.endswith("or look why none was found")
    with_paths = replace(dataset, images=dataset.images.with_columns(label_path=pl.lit("made/labels/0.txt")))
    (finding,) = find_geometry_faults(replace(with_paths, source=Path("made/data.yaml")))
    assert finding.message.endswith("or look why none was found (the first image's belong in labels/0.txt)")


def test_many_findings_of_a_kind_are_counted() -> None:
    findings = of_kind(find_geometry_faults(make_dataset([*GOOD, *[(0, 0, i, 5, i, 9) for i in range(73)]])), "box-empty")
    assert len(findings) == 51
    assert "23 more" in findings[-1].message


def test_two_hundred_thousand_boxes_do_not_take_long() -> None:
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(0, 20_000, 200_000))
    low = rng.uniform(0, 600, (200_000, 2))
    rows = np.concatenate([image[:, None], rng.integers(0, 2, (200_000, 1)), low, low + rng.uniform(5, 40, (200_000, 2))], axis=1)
    dataset = make_dataset(rows, images=20_000, size=(640, 640))  # type: ignore[arg-type]
    assert in_units(lambda: find_geometry_faults(dataset)) < 20  # it is 2


def photograph(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """A smooth random picture, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(30, 200, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def check_images(dataset: Dataset) -> list[Finding]:
    hashes = hash_images(dataset)
    return find_image_faults(dataset, hashes, find_duplicates(hashes))


def made_hashes(phash: np.ndarray, thumbnails: np.ndarray) -> pl.DataFrame:
    count = len(phash)
    columns = {"image_index": np.arange(count), "digest": [str(i) for i in range(count)], "phash": phash}
    return pl.DataFrame({**columns, "thumbnail": [row.tobytes() for row in thumbnails]})


def test_unreadable_truncated_and_missing_pictures(tmp_path: Path) -> None:
    sound = save(photograph(0), tmp_path / "sound.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(sound.read_bytes()[:900])
    png = save(photograph(1), tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    names = ["sound.jpg", "text.jpg", "cut.jpg", "cut.png", "gone.jpg"]
    dataset = make_dataset(paths=[*(tmp_path / name for name in names), None], size=(120, 90))
    hashes = hash_images(dataset)
    assert hashes.schema == HASHES
    assert hashes["image_index"].to_list() == [0, 1, 2, 3, 4]
    assert hashes["phash"].is_null().to_list() == [False, True, True, True, True]
    assert hashes["digest"].is_null().to_list() == [False, False, False, False, True]
    findings = find_image_faults(dataset, hashes, find_duplicates(hashes))
    assert [finding.where for finding in findings] == [str(tmp_path / name) for name in names[1:]]
    assert kinds(findings) == {"unreadable-image"}
    assert [word in finding.message for word, finding in zip(("Pillow", "truncated", "truncated", "read"), findings, strict=True)] == [
        True
    ] * 4


def test_a_size_that_differs_from_the_labels(tmp_path: Path) -> None:
    findings = check_images(make_dataset(paths=[save(photograph(0), tmp_path / "a.png")], size=(100, 80)))
    assert [(finding.kind, finding.severity) for finding in findings] == [("image-size-mismatch", "warning")]
    assert "is 120x90 px, but the labels say 100x80" in findings[0].message


def test_a_turned_picture_is_seen_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    upright = save(photograph(0, 90, 120), tmp_path / "upright.jpg", quality=95)
    lying = save(photograph(0, 90, 120).transpose(Image.Transpose.ROTATE_90), tmp_path / "lying.jpg", exif=exif, quality=95)
    findings = check_images(make_dataset(paths=[upright, lying], size=(90, 120)))
    assert [(finding.kind, finding.severity, finding.where) for finding in findings] == [
        ("image-rotated", "note", str(lying)),
        ("image-near-duplicate", "note", str(lying)),
    ]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_pictures_of_any_mode_are_read(tmp_path: Path, mode: str) -> None:
    path = save(photograph(0).convert(mode), tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    assert check_images(make_dataset(paths=[path], size=(120, 90))) == []
    assert hash_images(make_dataset(paths=[path]))["phash"].null_count() == 0


def test_sixteen_bits_are_not_cut_at_255(tmp_path: Path) -> None:
    grey = np.asarray(photograph(0).convert("L"))
    deep = save(Image.fromarray(grey.astype(np.uint16) * 200), tmp_path / "deep.png")
    flat = save(Image.fromarray(grey), tmp_path / "grey.png")
    assert [finding.kind for finding in check_images(make_dataset(paths=[deep, flat], size=(120, 90)))] == ["image-near-duplicate"]


def test_duplicates_of_all_kinds(tmp_path: Path) -> None:
    picture = photograph(0)
    a = save(picture, tmp_path / "a.png")
    copies = [a, save(picture, tmp_path / "b.png"), save(ImageEnhance.Brightness(picture).enhance(1.2), tmp_path / "bright.png")]
    copies += [save(picture, tmp_path / "c.jpg", quality=40), save(picture.resize((60, 45)), tmp_path / "small.png")]
    others = [save(photograph(seed), tmp_path / f"{seed}.png") for seed in range(1, 30)]
    dataset = make_dataset([(0, 0, 1, 1, 9, 9), (1, 0, 1, 1, 9, 9), (1, 1, 20, 20, 50, 50)], paths=[*copies, *others], size=(120, 90))
    duplicates = find_duplicates(hash_images(dataset))
    assert duplicates.columns == ["image_a", "image_b", "kind"]
    assert (duplicates["image_a"] < duplicates["image_b"]).all()
    assert duplicates.row(0) == (0, 1, "exact")
    assert duplicates["kind"].to_list() == ["exact", "near", "near", "near"]
    assert set(duplicates.select(pl.concat_list("image_a", "image_b").explode()).to_series()) == {0, 1, 2, 3, 4}
    findings = check_images(dataset)
    exact = of_kind(findings, "image-duplicate")
    assert [(finding.severity, finding.where) for finding in exact] == [("warning", str(tmp_path / "b.png"))]
    assert "the same file as a.png (2 and 1 annotations)" in exact[0].message
    assert [finding.severity for finding in of_kind(findings, "image-near-duplicate")] == ["note"] * 3


def test_duplicates_across_splits_are_leaks(tmp_path: Path) -> None:
    paths = [save(photograph(0), tmp_path / f"{name}.png") for name in "abc"]
    findings = check_images(make_dataset(paths=paths, splits=["train", "train", "val"], size=(120, 90)))
    assert [finding.kind for finding in findings] == ["leak-across-splits", "image-duplicate"]
    assert findings[0].severity == "warning"
    assert "one is in train and one in val" in findings[0].message


def test_flat_pictures_are_no_near_duplicates(tmp_path: Path) -> None:
    shades = [save(Image.new("RGB", (120, 90), (shade,) * 3), tmp_path / f"{shade}.png") for shade in (0, 120, 121, 255)]
    again = save(Image.new("RGB", (120, 90), (120,) * 3), tmp_path / "again.png")
    assert find_duplicates(hash_images(make_dataset(paths=[*shades, again]))).rows() == [(1, 4, "exact")]


def test_nearly_flat_pictures_are_no_near_duplicates(tmp_path: Path) -> None:
    vignette = np.outer(np.hanning(90), np.hanning(120)) > 0.5
    dark = [save(Image.fromarray(np.uint8(shade + vignette)), tmp_path / f"{shade}.png") for shade in (3, 30, 60)]
    assert find_duplicates(hash_images(make_dataset(paths=dark))).height == 0


@pytest.mark.parametrize(("correlation", "found"), [(0.9, 0), (0.96, 1)])
def test_a_like_hash_alone_makes_no_duplicate(correlation: float, found: int) -> None:
    rng = np.random.default_rng(0)
    base, noise = (rng.permuted(np.linspace(-1, 1, 1024)) for _ in range(2))
    mixed = correlation * base + np.sqrt(1 - correlation**2) * noise
    thumbnails = np.uint8(128 + 60 * np.stack([base, mixed]))
    assert find_duplicates(made_hashes(np.array([5, 5 ^ 0b11], dtype=np.uint64), thumbnails)).height == found


def test_other_glyphs_on_like_crops_are_other_scenes(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from make_digits import STYLE
    from scenes import compose_scene, photographs

    rng = np.random.default_rng(0)
    photos = photographs()
    scans = rng.integers(0, 17, (10, 8, 8)).astype(np.uint8)
    scenes = [compose_scene(photos, lambda r: (0, scans[int(r.integers(10))]), STYLE, rng)[0] for _ in range(150)]
    paths = [save(scene, tmp_path / f"{i}.png") for i, scene in enumerate(scenes)]
    assert find_duplicates(hash_images(make_dataset(paths=paths))).height == 0


def test_workers_find_the_same_and_tell_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "POOL_PAYS", 0.0)
    dataset = make_dataset(paths=[save(photograph(i % 70), tmp_path / f"{i}.png") for i in range(140)])
    seen: list[tuple[int, int]] = []
    hashes = hash_images(dataset, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert hashes.equals(hash_images(dataset))
    assert seen == [(64, 140), (128, 140), (140, 140)]


def with_file_state(dataset: Dataset) -> Dataset:
    """As the stage `load` adds it."""
    states = [None if path is None else Path(path).stat() for path in dataset.images["path"].to_list()]
    size, time_ = ([state and getattr(state, name) for state in states] for name in ("st_size", "st_mtime_ns"))
    columns = {"bytes": pl.Series(size, dtype=pl.Int64), "modified_ns": pl.Series(time_, dtype=pl.Int64)}
    return replace(dataset, images=dataset.images.with_columns(**columns))


class Counted:
    """A mapper that notes which pictures it was given, and stops as a crash would after so many chunks."""

    def __init__(self, chunks: int = 1000) -> None:
        self.chunks, self.read = chunks, list[int]()

    def __call__(self, function: Callable[[Chunk], Rows], arguments: Sequence[Chunk]) -> Iterator[Rows]:
        for chunk in arguments[: self.chunks]:
            self.read += [index for index, _ in pickle.loads(pickle.dumps(chunk))]
            yield pickle.loads(pickle.dumps(function))(chunk)
        if len(arguments) > self.chunks:
            raise KeyboardInterrupt


def test_somebody_else_can_do_the_work(tmp_path: Path) -> None:
    dataset = make_dataset(paths=[save(photograph(i % 70), tmp_path / f"{i}.png") for i in range(140)])
    mapper = Counted()
    assert hash_images(dataset, mapper=mapper).equals(hash_images(dataset))
    assert mapper.read == list(range(140))
    assert audit_dataset(dataset, mapper=mapper).duplicates.height == 70


def remembering(dataset: Dataset, cache: Cache, expected: list[int]) -> pl.DataFrame:
    """The hashes with the cache, which are those without it; `expected` pictures were read for them."""
    mapper = Counted()
    hashes = hash_images(with_file_state(dataset), mapper=mapper, cache=cache)
    assert mapper.read == expected
    assert hashes.equals(hash_images(dataset))
    return hashes


def test_only_new_and_changed_pictures_are_read_again(tmp_path: Path) -> None:
    paths = [save(photograph(i), tmp_path / f"{i}.png") for i in range(5)]
    (tmp_path / "3.png").write_text("no picture")
    cache = Cache(tmp_path / "cache", pytest.fail)
    remembering(make_dataset(paths=[*paths, None]), cache, [0, 1, 2, 3, 4])
    first = describe_tree(cache.folder)
    remembering(make_dataset(paths=[*paths, None]), cache, [])
    assert describe_tree(cache.folder) == first
    save(photograph(7), paths[1])  # changed
    os.utime(paths[2], ns=(0, 0))  # of another time alone
    moved = paths[4].rename(tmp_path / "moved.png")
    more = [moved, *paths[:4], save(photograph(8), tmp_path / "new.png")]  # and in another order
    seen: list[tuple[int, int]] = []
    hash_images(with_file_state(make_dataset(paths=more)), cache=cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (6, 6)]
    remembering(make_dataset(paths=more), cache, [])
    remembering(make_dataset(paths=paths[:4]), cache, [])
    assert len(list(cache.folder.iterdir())) == 1  # what is no longer asked for is forgotten


def test_what_a_crash_leaves_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CHUNK", 2)
    monkeypatch.setattr(reading, "SAVE_EVERY", 4)
    monkeypatch.setattr(cache_module, "ROWS_A_FILE", 3)
    dataset = make_dataset(paths=[save(photograph(i), tmp_path / f"{i}.png") for i in range(10)])
    cache = Cache(tmp_path / "cache", pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        hash_images(with_file_state(dataset), mapper=Counted(chunks=3), cache=cache)
    remembering(dataset, cache, [4, 5, 6, 7, 8, 9])
    remembering(dataset, cache, [])
    assert len(list(cache.folder.iterdir())) == 4  # ten rows, three a file


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    paths = [save(photograph(0), tmp_path / "a.png"), save(photograph(1), tmp_path / "b.png")]
    dataset = with_file_state(make_dataset(paths=paths))
    cache = Cache(tmp_path / "cache", pytest.fail)
    aside = paths[0].rename(tmp_path / "aside")  # gone between `load` and now
    assert hash_images(dataset, cache=cache)["problem"].is_null().to_list() == [False, True]
    aside.rename(paths[0])
    remembering(dataset, cache, [0])


def refuse(read: Callable[[Path], bytes], forbidden: Path) -> Callable[[Path], bytes]:
    def read_others(path: Path) -> bytes:
        if path == forbidden:
            raise PermissionError(13, "Permission denied")
        return read(path)

    return read_others


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "forbidden"])
def test_a_damaged_memory_is_told_and_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    dataset = make_dataset(paths=[save(photograph(i), tmp_path / f"{i}.png") for i in range(4)])
    lines: list[str] = []
    cache = Cache(tmp_path / "cache", lines.append)
    remembering(dataset, cache, [0, 1, 2, 3])
    [file] = cache.folder.iterdir()
    content = file.read_bytes()
    flipped = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
    file.write_bytes({"cut": content[:-7], "bit": flipped, "empty": b"", "forbidden": content}[damage])
    with monkeypatch.context() as patch:
        if damage == "forbidden":  # whoever runs the tests may be allowed everything
            patch.setattr(Path, "read_bytes", refuse(Path.read_bytes, file))
        remembering(dataset, cache, [0, 1, 2, 3])
    assert len(lines) == 1
    assert str(file) in lines[0]
    assert "anew" in lines[0]
    remembering(dataset, cache, [])
    assert len(lines) == 1  # the damaged file is gone


def test_other_software_sees_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(paths=[save(photograph(i), tmp_path / f"{i}.png") for i in range(2)])
    cache = Cache(tmp_path / "cache", pytest.fail)
    remembering(dataset, cache, [0, 1])
    monkeypatch.setattr(cache_module, "version", lambda package: "99")
    remembering(dataset, cache, [0, 1])


def test_without_the_files_state_nothing_is_remembered(tmp_path: Path) -> None:
    dataset = make_dataset(paths=[save(photograph(0), tmp_path / "a.png")])
    hash_images(dataset, cache=Cache(tmp_path / "cache", pytest.fail))
    assert not (tmp_path / "cache").exists()


def test_a_changed_label_has_no_picture_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, split in enumerate(("train", "train", "val")):
        save(photograph(i), tmp_path / "data" / "images" / split / f"{i}.png")
        (tmp_path / "data" / "labels" / split).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    read: list[int] = []
    hash_chunk = images.hash_chunk
    monkeypatch.setattr(images, "hash_chunk", lambda chunk: read.extend(index for index, _ in chunk) or hash_chunk(chunk))

    def run(display: Display) -> Path:
        audit = partial(steps.audit, cache=tmp_path / "run" / "cache")
        stages = (Stage("load", steps.load, content_addressed=True), Stage("audit", audit, needs=("load",)))
        settings = {"load": {"data": str(tmp_path / "data" / "data.yaml"), "images": None, "split": "all"}}
        return run_stages(stages, tmp_path / "run", settings, display)["audit"].folder

    with open_display(tmp_path / "log", Console(file=io.StringIO())) as display:
        first = run(display)
        assert sorted(read) == [0, 1, 2]
        (tmp_path / "data" / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.3 0.2\n")
        assert run(display) != first
        assert sorted(read) == [0, 1, 2]
        save(photograph(9), tmp_path / "data" / "images" / "train" / "1.png")
        run(display)
        assert read[3:] == [1]


def test_many_headers_are_read_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(60 + i, 40 + i % 7) for i in range(30)]
    paths = [str(save(photograph(0, *size), tmp_path / f"{i}.png")) for i, size in enumerate(sizes)]
    here = read_image_sizes(paths)
    assert here.tolist() == [list(size) for size in sizes]
    asked: list[int] = []

    def count(function: Any, arguments: Any, workers: int) -> Iterator[Any]:
        asked.append(len(arguments))
        return map_in_processes(function, arguments, workers)

    monkeypatch.setattr(imagefiles, "PROCESSES_PAY", 1)
    monkeypatch.setattr(imagefiles, "HEADERS_A_TASK", 8)
    monkeypatch.setattr(imagefiles, "count_cores", lambda: 2)
    monkeypatch.setattr(imagefiles, "map_in_processes", count)
    assert np.array_equal(read_image_sizes(paths), here)
    assert asked == [4]


SCRIPT = """
from pathlib import Path
from detclean.formats import imagefiles
imagefiles.PROCESSES_PAY = 1
imagefiles.count_cores = lambda: 2
paths = sorted(map(str, Path("pictures").iterdir()))
print("once", imagefiles.read_image_sizes(paths).tolist())
"""


def test_a_users_script_is_not_run_anew_in_every_process(tmp_path: Path) -> None:
    for i in range(3):
        save(photograph(i), tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"once {[[120, 90]] * 3}"
    assert done.stderr == ""


def test_twenty_thousand_pictures_do_not_take_long() -> None:
    rng = np.random.default_rng(0)
    phash = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (20_000, 1024), dtype=np.uint8)
    for copy, bits in ((10_000, 0b1011), (10_001, 0x8040_2010_0804_0201), (10_002, 0x3FF)):  # 3, 8 and 10 bits away
        phash[copy], thumbnails[copy] = phash[3] ^ np.uint64(bits), thumbnails[3]
    phash[10_003] = phash[3]  # the same hash of another picture
    phash[10_004], thumbnails[10_004] = phash[3] ^ np.uint64(0x7FF), thumbnails[3]  # 11 bits away from 3, 1 from its copy
    phash[10_005], thumbnails[10_005] = phash[3] ^ np.uint64(0xFFF << 40), thumbnails[3]  # 12 away
    hashes = made_hashes(phash, thumbnails)
    duplicates = find_duplicates(hashes)
    assert set(duplicates["image_a"]) | set(duplicates["image_b"]) == {3, 10_000, 10_001, 10_002, 10_004}
    assert duplicates.height == 4
    assert in_units(lambda: find_duplicates(hashes)) < 40  # it is 4


def test_the_frames_of_a_still_camera_neither_fill_memory_nor_take_long() -> None:
    rng = np.random.default_rng(0)
    flips = np.uint64(1) << rng.integers(0, 64, (2, 3000)).astype(np.uint64)
    frame = rng.integers(0, 256, 1024)
    thumbnails = np.clip(frame + rng.integers(-5, 6, (3000, 1024)), 0, 255).astype(np.uint8)
    hashes = made_hashes(np.uint64(77) ^ flips[0] ^ flips[1], thumbnails)
    assert find_duplicates(hashes).height == 2999
    assert in_units(lambda: find_duplicates(hashes)) < 120  # it is 23


def test_the_audit_puts_the_worst_first_and_keeps_the_readers_findings(tmp_path: Path) -> None:
    paths = [save(photograph(0), tmp_path / "a.png"), save(photograph(0), tmp_path / "b.png")]
    dataset = make_dataset([*GOOD, (0, 0, 20, 20, 20, 30)], paths=paths, size=(120, 90))
    read = (Finding("row-skipped", "warning", "a.txt:1", "x"), Finding("category-out-of-range", "error", "a.txt:2", "y"))
    audit = audit_dataset(replace(dataset, findings=read))
    assert [finding.kind for finding in audit.findings] == [
        "category-out-of-range",
        "box-empty",
        "image-duplicate",
        "row-skipped",
        "image-without-annotations",
    ]
    assert audit.duplicates.rows() == [(0, 1, "exact")]


def test_a_data_set_without_pictures_has_no_image_findings() -> None:
    audit = audit_dataset(make_dataset(GOOD))
    assert audit.findings == ()
    assert audit.duplicates.height == 0


@pytest.mark.skipif(not BCCD.is_dir(), reason="../shared/bccd is not there: duplicates among real photographs were NOT tested")
def test_microscope_photographs_look_alike_but_only_two_are_one(tmp_path: Path) -> None:
    paths = sorted(BCCD.glob("*.jpg"))
    count = len(paths)
    brighter = [ImageEnhance.Brightness(Image.open(path)).enhance(1.2).resize((320, 240)) for path in paths[:10]]
    copies = [save(image, tmp_path / f"{i}.jpg", quality=50) for i, image in enumerate(brighter)]
    hashes = hash_images(make_dataset(paths=[*paths, *copies], size=(640, 480)))
    assert hashes["problem"].null_count() == count + 10 == 374
    found = {(a, b) for a, b, _ in find_duplicates(hashes).iter_rows()}
    same = {(a, b) for a, b in found if b < count}
    assert [(paths[a].stem, paths[b].stem) for a, b in same] == [("BloodImage_00037", "BloodImage_00038")]
    assert found - same == {(i, count + i) for i in range(10)}
