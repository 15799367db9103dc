"""The benchmark of scale, on a data set small enough for a test: what it makes has COCO's shape, and what it measures is finite."""

from __future__ import annotations

import json
from pathlib import Path

import bench_scale
import numpy as np
import pytest

from detclean.formats import read_coco, read_detections

SHARE = 0.001


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scale")
    bench_scale.write_files(SHARE, place)
    return place


def test_the_data_set_has_cocos_shape(folder: Path) -> None:
    annotations, detections, sizes = bench_scale.make_boxes(SHARE, np.random.default_rng(0))
    assert (len(sizes), len(annotations), len(detections)) == (118, 860, 3500)
    dataset = read_coco(folder / "annotations.json", "none")
    assert dataset.image_count == 118
    np.testing.assert_allclose(dataset.annotations.xyxy, annotations.xyxy, atol=0.02)
    found = read_detections(folder / "results.json", dataset)
    np.testing.assert_allclose(found.xyxy, detections.xyxy, atol=0.02)
    assert np.array_equal(found.score, detections.score)


def test_a_run_without_pictures_is_measured_and_says_what_is_left_out(folder: Path) -> None:
    figures = bench_scale.measure_run(folder)
    assert figures["run s"] > 0
    assert 0 < figures["run GiB"] < 6
    said = (folder / "run" / "run.log").read_text(encoding="utf-8")
    assert "no pictures: " in said
    assert "crops" in said
    assert not (folder / "run" / "worst.jpg").exists()


def test_the_engine_is_faster_than_cleanlab_and_equal(folder: Path) -> None:
    figures = bench_scale.measure_engine(SHARE, with_cleanlab=True)
    assert figures["cleanlab / engine"] > 20  # measured 400 at ten times the size


def test_reading_is_faster_than_pycocotools(folder: Path) -> None:
    assert bench_scale.measure_reading(folder)["pycocotools / read"] > 1
    assert json.loads((folder / "annotations.json").read_bytes())["categories"][0]["id"] == 1
