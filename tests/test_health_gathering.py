"""Where errors gather: planted annotators, batches and days are found, and nothing where there is nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from detclean.dataset import Dataset
from detclean.formats import read_coco
from detclean.formats.origins import read_origins
from detclean.health.gathering import BINS, find_gatherings, parse_names, parse_times
from detclean.health.groups import Grouping
from detclean.score.calibration import ANNOTATION_TYPES

IMAGES, EACH = 80, 6
Extra = Callable[[int, int], dict[str, Any]]  # image and annotation (-1 for the image itself) -> keys of its record


def write_source(folder: Path, extra: Extra, names: Callable[[int], str] = lambda i: f"{i:04}.jpg") -> Dataset:
    """A COCO file of IMAGES images with EACH annotations, without pictures."""
    images = [{"id": i, "file_name": names(i), "width": 100, "height": 100} | extra(i, -1) for i in range(IMAGES)]
    annotations = [
        {"id": i * EACH + k, "image_id": i, "category_id": 1 + k % 2, "bbox": [5 * k, 5, 10, 10]} | extra(i, k)
        for i in range(IMAGES)
        for k in range(EACH)
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (folder / "source.json").write_text(json.dumps({"images": images, "annotations": annotations[::-1], "categories": categories}))
    return read_coco(folder / "source.json", "none")


def judge(dataset: Dataset, wrong: Callable[[int, int], float], seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The tables of a run in which each annotation is wrong at the rate `wrong` says."""
    rng = np.random.default_rng(seed)
    boxes = dataset.annotations
    assert boxes.annotation_id is not None
    rate = np.array([wrong(int(i) // EACH, int(i) % EACH) for i in boxes.annotation_id])
    p = np.where(rng.random(len(boxes)) < rate, 0.9, 0.01)
    annotations = pl.DataFrame(
        {
            "image_id": dataset.images["image_id"].gather(boxes.image_index),
            "annotation_id": boxes.annotation_id,
            "category": [dataset.categories[k] for k in boxes.category],
            **{f"p_{kind}": p if kind == "swap" else np.zeros(len(boxes)) for kind in ANNOTATION_TYPES},
            "p_any": p,
        }
    )
    candidates = pl.DataFrame(schema={"image_id": pl.Int64, "category": pl.String, "probability": pl.Float64})
    return dataset.images.select("image_id", "file_name"), annotations, candidates


def bad_ones(groupings: list[Grouping]) -> dict[str, list[str]]:
    return {grouping.by: [group.name for group in grouping.groups if group.stands_out] for grouping in groupings}


def test_a_bad_annotator_is_found(tmp_path: Path) -> None:
    """Two people share every image, so that only the key of the single annotation tells them apart."""
    who = ("ann", "bob", "cleo")

    def extra(i: int, k: int) -> dict[str, Any]:
        return {} if k < 0 else {"attributes": {"Annotator-ID": who[(i + k) % 3], "occluded": False}}

    dataset = write_source(tmp_path, extra)
    tables = judge(dataset, lambda i, k: 0.3 if (i + k) % 3 == 1 else 0.03)
    found = find_gatherings(dataset, *tables)
    assert bad_ones(found) == {"annotator_id of the annotations": ["bob"]}
    assert found[0].groups[0].annotations == IMAGES * EACH / 3


def test_a_bad_day_is_found(tmp_path: Path) -> None:
    def extra(i: int, k: int) -> dict[str, Any]:
        return {"date_captured": f"2024-02-{1 + i // 10:02}T10:11:12Z"} if k < 0 else {}

    dataset = write_source(tmp_path, extra)
    found = find_gatherings(dataset, *judge(dataset, lambda i, k: 0.35 if i // 10 == 4 else 0.04))
    assert bad_ones(found) == {"date_captured of the images, by day": ["2024-02-05"]}
    assert [group.name for group in found[0].groups] == [f"2024-02-{day:02}" for day in range(1, 9)]


def test_nothing_is_found_where_errors_are_spread_evenly(tmp_path: Path) -> None:
    """Six clues at once, each with several groups: the risk is held for all of them together."""

    def extra(i: int, k: int) -> dict[str, Any]:
        if k < 0:
            return {"date_captured": f"2024-02-{1 + i // 10:02}", "batch": i // 16, "camera": f"cam {i % 4}"}
        return {"annotator": f"person {(i + k) % 5}", "task_id": i // 8, "created_at": 1_700_000_000 + 86_400 * (i // 10)}

    dataset = write_source(tmp_path, extra, lambda i: f"folder {i % 5}/{'ab'[i % 2]}_{i}.jpg")
    marked = 0
    for seed in range(8):
        found = find_gatherings(dataset, *judge(dataset, lambda i, k: 0.1, seed))
        assert len(found) == 8
        marked += any(bad_ones(found).values())
    assert marked <= 1


def test_folder_and_prefix_are_both_compared(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {}, lambda i: f"{'xy'[i // 40]}/{'cam' if i % 2 else 'drone'}_{i}.jpg")
    found = find_gatherings(dataset, *judge(dataset, lambda i, k: 0.3 if i % 2 else 0.03))
    assert bad_ones(found) == {"prefix": ["cam"], "folder": []}


def test_a_key_that_names_every_record_is_no_group(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {"task_id": f"{i}-{k}"})
    assert find_gatherings(dataset, *judge(dataset, lambda i, k: 0.1)) == []


def test_overlooked_objects_count_where_one_person_did_the_image(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {"annotator": "ann" if i % 2 else "bob"})
    images, annotations, _ = judge(dataset, lambda i, k: 0.0)
    missed = pl.DataFrame({"image_id": list(range(1, IMAGES, 2)) * 2, "category": "a", "probability": 0.8})
    found = find_gatherings(dataset, images, annotations, missed)
    assert "ann" in bad_ones(found)["annotator of the annotations"]
    assert next(iter(found[0].groups)).rates["overlooked"] == pytest.approx(100 * 2 * 0.8 / EACH)


def test_days_of_annotations_stand_in_their_order(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {} if k < 0 else {"created_at": f"2024-03-{1 + i % 8:02}"})
    found = find_gatherings(dataset, *judge(dataset, lambda i, k: 0.6 if i % 8 == 5 else 0.05))
    assert bad_ones(found) == {"created_at of the annotations, by day": ["2024-03-06"]}
    assert [group.name for group in found[0].groups] == [f"2024-03-{day:02}" for day in range(1, 9)]


def test_who_works_alone_is_not_blamed_for_what_is_overlooked_everywhere(tmp_path: Path) -> None:
    """Of an image that two people did nobody knows who overlooked an object: both have a part of it."""
    dataset = write_source(tmp_path, lambda i, k: {"annotator": "alone" if i < IMAGES // 3 else ("ann", "bob")[k % 2]})
    images, annotations, _ = judge(dataset, lambda i, k: 0.0)
    missed = pl.DataFrame({"image_id": range(IMAGES), "category": "a", "probability": 0.8})
    found = find_gatherings(dataset, images, annotations, missed)
    assert bad_ones(found)["annotator of the annotations"] == []
    by_person = next(grouping for grouping in found if grouping.by == "annotator of the annotations")
    assert [group.rates["overlooked"] for group in by_person.groups] == pytest.approx([100 * 0.8 / EACH] * 3)


def test_keys_are_known_however_they_are_spelt_and_wherever_they_stand(tmp_path: Path) -> None:
    """createdBy, completed_by with a record, numbers, attributes; nothing of what is no text and no number."""

    def extra(i: int, k: int) -> dict[str, Any]:
        if k < 0:
            return {"Batch": 3, "extra": {"camera-id": "left"}, "source": {"nested": 1}, "device": True}
        return {"createdBy": "ann", "completed_by": {"id": 5, "email": "b@c"}, "metadata": ["x"], "task": None}

    of_images, of_annotations = read_origins(write_source(tmp_path, extra))
    assert {name: of_images[name][0] for name in of_images.columns} == {"batch": "3", "camera_id": "left"}
    assert {name: of_annotations[name][0] for name in of_annotations.columns} == {"created_by": "ann", "completed_by": "b@c"}
    assert (of_images.height, of_annotations.height) == (IMAGES, IMAGES * EACH)


def test_a_source_that_is_gone_or_another_one_says_nothing(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {"annotator": "ann"})
    for content in ("{}", "[]", "{", '{"images": [], "annotations": [], "categories": []}'):
        dataset.source.write_text(content)
        assert [table.width for table in read_origins(dataset)] == [0, 0]
    dataset.source.unlink()
    assert [table.width for table in read_origins(dataset)] == [0, 0]


def test_nan_in_the_source_is_read(tmp_path: Path) -> None:
    dataset = write_source(tmp_path, lambda i, k: {"annotator": "ann", "score": float("nan"), "author": float("nan")})
    of_images, of_annotations = read_origins(dataset)
    assert of_images.columns == of_annotations.columns == ["annotator"]


def test_times_however_they_are_written() -> None:
    texts = [
        "2024-01-31T23:59:59Z",
        "2024:01:31 23:59:59",
        "2024/1/31",
        "1706745599",
        "1706745599000",
        "0",
        "31.01.2024",
        "2024-13-01",
        None,
    ]
    found = parse_times(pl.Series(texts)).dt.strftime("%Y-%m-%d").to_list()
    assert found == ["2024-01-31"] * 5 + [None] * 4
    assert parse_times(pl.Series(["2024-02-31"])).to_list() == [None]
    names = pl.Series(["IMG_20240131_120000.jpg", "2024-01-31/7.png", "cam-2024_01_31.jpg", "120240131.jpg", "0001.jpg"])
    assert parse_names(names).dt.strftime("%Y-%m-%d").to_list() == ["2024-01-31"] * 3 + [None, None]


@pytest.mark.parametrize(
    ("step", "period"), [(600, "hour"), (7_200, "day"), (86_400, "week"), (86_400 * 4, "month"), (86_400 * 40, "year")]
)
def test_time_is_cut_into_a_few_periods(tmp_path: Path, step: int, period: str) -> None:
    dataset = write_source(tmp_path, lambda i, k: {"created_at": 1_600_000_000 + step * i} if k < 0 else {})
    found = find_gatherings(dataset, *judge(dataset, lambda i, k: 0.1))
    assert [grouping.by for grouping in found] == [f"created_at of the images, by {period}"]
    assert 1 < found[0].all <= BINS
