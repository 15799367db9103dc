"""The benchmark of the pictures, on a few of them: that it measures what it says, on pictures like photographs."""

from pathlib import Path

import numpy as np
import pytest
from bench_images import Pace, as_dataset, as_table, make_photo, measure, measure_all, write_photos

from detclean.audit.images import find_duplicates, hash_images
from detclean.formats.imagefiles import read_image_sizes


def test_its_pictures_are_like_photographs_and_no_two_are_alike(tmp_path: Path) -> None:
    paths = write_photos(tmp_path, 6)
    assert read_image_sizes(paths).tolist() == [[640, 480]] * 6
    assert 100_000 < np.mean([Path(path).stat().st_size for path in paths]) < 200_000  # neither flat nor noise
    dataset = as_dataset(paths, tmp_path)
    hashes = hash_images(dataset)
    assert hashes["problem"].null_count() == hashes["thumbnail"].len() == 6
    assert find_duplicates(hashes).height == 0
    grey = np.asarray(make_photo(np.random.default_rng(0)).convert("L"), dtype=float)
    near, far = (float(np.corrcoef(grey[:, :-step].ravel(), grey[:, step:].ravel())[0, 1]) for step in (1, 200))
    assert near > 0.8 > far  # smooth, as no noise is


def test_each_task_is_measured(tmp_path: Path) -> None:
    paces = measure_all(tmp_path, 5)
    assert [(pace.task, pace.images) for pace in paces] == [("hash_images", 5), ("read_image_sizes", 5), ("find_duplicates", 5)]
    assert all(pace.wall > 0 for pace in paces)


def test_the_table_says_pictures_a_second() -> None:
    lines = as_table([Pace("hash_images", 600, 2.0, 1.0)]).splitlines()
    assert lines[-1] == "| hash_images | 600 | 300 | 600 | 300 |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_better_of_two_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 9.0, 9.0, 12.0])
    monkeypatch.setattr("bench_images.time.process_time", lambda: next(ticks))
    assert measure("x", 1, lambda: None).processor == 3.0
