"""Folds: groups stay whole, parts are alike, and every category is learnt from in every training where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detclean.audit.images import DUPLICATES
from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect.folds import count_leaks, count_prevented_leaks, find_fold_faults, group_images, make_folds, make_plain_folds
from detclean.errors import ConfigError, DatasetError

Array = NDArray[np.int64]


def make_dataset(held: Sequence[Sequence[int]], *, categories: int = 3, names: Sequence[str] | None = None) -> Dataset:
    """Images that hold objects of the given categories."""
    image = np.repeat(np.arange(len(held)), [len(objects) for objects in held])
    category = np.array([c for objects in held for c in objects], dtype=np.int64)
    xyxy = np.tile([10.0, 10.0, 50.0, 50.0], (len(image), 1))
    table = pl.DataFrame({"image_id": range(len(held)), "file_name": names or [f"{i}.jpg" for i in range(len(held))]})
    table = table.with_columns(path=pl.lit(None, pl.String), width=100, height=100, split=pl.lit("train"))
    named = tuple(f"c{i}" for i in range(categories))
    return Dataset(table, named, Boxes(image, category, xyxy), np.arange(len(image)), "memory", Path("made"))


def pairs(*rows: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame([(a, b, "near") for a, b in rows], schema=DUPLICATES, orient="row")


def count_hoarded(dataset: Dataset, groups: Array, folds: Array) -> int:
    """Categories of two groups or more all of whose objects lie in one fold."""
    boxes = dataset.annotations
    hoarded = 0
    for category in range(len(dataset.categories)):
        holders = boxes.image_index[boxes.category == category]
        hoarded += len(np.unique(groups[holders])) > 1 and len(np.unique(folds[holders])) == 1
    return hoarded


def is_possible(dataset: Dataset, groups: Array, k: int) -> bool:
    """Whether any division at all leaves every category in every training part: all are tried."""
    number = np.unique(groups, return_inverse=True)[1].reshape(-1)
    return any(count_hoarded(dataset, groups, np.array(way)[number]) == 0 for way in product(range(k), repeat=int(number.max()) + 1))


def count_of(groups: Array) -> list[int]:
    return sorted(np.bincount(groups).tolist(), reverse=True)


def test_groups_join_duplicates_stems_and_names() -> None:
    names = ["a_jpg.rf.11.jpg", "x/a_jpg.rf.22.jpg", "b_jpg.rf.11.jpg", "cam1_001.jpg", "cam1_002.jpg", "cam2_001.jpg", "z.jpg", "y.jpg"]
    dataset = make_dataset([[0]] * 8, names=names)
    assert count_of(group_images(dataset, pairs())) == [2, 1, 1, 1, 1, 1, 1]
    groups = group_images(dataset, pairs((2, 6), (1, 6)), pattern=r"^(cam\d)_")
    assert groups.shape == (8,)
    assert [set(np.flatnonzero(groups == g).tolist()) for g in range(4)] == [{0, 1, 2, 6}, {3, 4}, {5}, {7}]
    whole_match = group_images(dataset, pairs(), pattern=r"_00\d")
    assert whole_match[3] == whole_match[5] != whole_match[4]


def test_no_name_without_its_mark_is_a_stem() -> None:
    assert len(set(group_images(make_dataset([[0]] * 3, names=["a.jpg", "sub/a.jpg", ".rf.jpg"]), pairs()).tolist())) == 3


@pytest.mark.parametrize(("pattern", "told"), [("(", "no regular expression"), ("video", "fits none of the 2 file names")])
def test_a_pattern_that_cannot_group_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        group_images(make_dataset([[0], [0]]), pairs(), pattern)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Dataset, Array, int, int]:
    held = draw(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=4, max_size=14))
    held[0] = [*held[0], 0]
    groups = draw(st.lists(st.integers(0, 7), min_size=len(held), max_size=len(held)))
    groups[:2] = [0, 1]
    k = draw(st.integers(2, min(5, len(set(groups)))))
    return make_dataset(held, categories=4), np.array(groups) * 3, k, draw(st.integers(0, 5))


@given(problems())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_folds_of_any_data_set(problem: tuple[Dataset, Array, int, int]) -> None:
    dataset, groups, k, seed = problem
    folds = make_folds(dataset, groups, k=k, repeats=2, seed=seed)
    assert folds.shape == (2, dataset.image_count)
    np.testing.assert_array_equal(folds, make_folds(dataset, groups, k=k, repeats=2, seed=seed))
    np.testing.assert_array_equal(folds[:1], make_folds(dataset, groups, k=k, repeats=1, seed=seed))
    largest = int(np.unique(groups, return_counts=True)[1].max())
    for fold in folds:
        assert count_leaks(fold, groups) == 0
        sizes = np.bincount(fold, minlength=k)
        assert sizes.min() >= 1
        assert sizes.max() <= dataset.image_count // k + 2 * largest
        if count_hoarded(dataset, groups, fold):
            assert not is_possible(dataset, groups, k)


def realistic(rng: np.random.Generator) -> tuple[Dataset, Array]:
    """500 images, some of them in groups, with categories from common to very rare."""
    held = [rng.choice(12, rng.integers(0, 9), p=0.5 ** np.arange(12) / (0.5 ** np.arange(12)).sum()).tolist() for _ in range(500)]
    held[7], held[400] = [*held[7], 12], [*held[400], 12]
    return make_dataset(held, categories=13), np.minimum(np.arange(500), rng.integers(0, 1200, 500))


def test_folds_of_a_real_size_are_balanced() -> None:
    dataset, groups = realistic(np.random.default_rng(0))
    boxes = dataset.annotations
    folds = make_folds(dataset, groups, k=5, repeats=3, seed=1)
    for fold in folds:
        assert count_leaks(fold, groups) == 0
        assert count_hoarded(dataset, groups, fold) == 0
        assert np.ptp(np.bincount(fold)) <= 1
        assert np.ptp(np.bincount(fold[boxes.image_index])) <= 0.06 * len(boxes) / 5
        for category in range(13):
            counts = np.bincount(fold[boxes.image_index[boxes.category == category]], minlength=5)
            assert np.ptp(counts) <= max(2, 0.1 * counts.mean())
    assert len({tuple(fold) for fold in folds}) == 3
    same = (folds[0][:, None] == folds[0]) == (folds[1][:, None] == folds[1])
    assert not same.all()  # another division, not the same one with other numbers
    assert (make_folds(dataset, groups, k=5, seed=2)[0] != folds[0]).any()


def test_a_large_group_leaves_no_fold_empty() -> None:
    groups = np.array([*[0] * 40, 1, 2, 3, 4])
    sizes = np.bincount(make_folds(make_dataset([[0]] * 44), groups, k=5)[0])
    assert sorted(sizes.tolist()) == [1, 1, 1, 1, 40]


def test_a_category_in_every_training_part_is_worth_uneven_folds() -> None:
    held: list[list[int]] = [[0], [], [], [2], [0, 2]]
    for seed in range(20):
        fold = make_folds(make_dataset(held), np.array([0, 1, 0, 1, 2]), k=2, seed=seed)[0]
        assert sorted(np.bincount(fold).tolist()) == [1, 4]


def test_one_crowded_image_does_not_unbalance_the_folds() -> None:
    fold = make_folds(make_dataset([[0] * 100, *[[0]] * 99]), np.arange(100), k=2)[0]
    assert np.bincount(fold).tolist() == [50, 50]


def test_a_rare_category_is_parted_even_where_balance_pulls_the_other_way() -> None:
    held = [[0, 0, 0, 1], [0, 0, 0, 1], [0], [0]]
    for seed in range(20):
        fold = make_folds(make_dataset(held), np.arange(4), k=2, seed=seed)[0]
        assert fold[0] != fold[1]


def test_leaks_are_pairs_of_one_group_in_two_folds() -> None:
    groups = np.array([0, 0, 0, 1, 1, 2])
    assert count_leaks(np.array([0, 0, 0, 1, 1, 0]), groups) == 0
    assert count_leaks(np.array([0, 0, 1, 1, 0, 0]), groups) == 3
    assert count_leaks(np.array([0, 1, 2, 1, 1, 0]), groups) == 3


def test_prevented_leaks_are_those_of_a_plain_split() -> None:
    groups = np.repeat(np.arange(100), 2)
    plain = make_plain_folds(200, k=5, seed=3)
    assert np.bincount(plain).tolist() == [40] * 5
    torn = int((plain[0::2] != plain[1::2]).sum())
    assert 60 < torn < 95  # four in five are expected
    assert count_prevented_leaks(groups, k=5, seed=3) == torn
    assert count_prevented_leaks(np.arange(200), k=5, seed=3) == 0


@pytest.mark.parametrize(
    ("held", "groups", "k", "error", "told"),
    [
        ([[0], [0]], [0, 1], 1, ConfigError, "folds.k=1"),
        ([[0]], [0], 2, DatasetError, "made: 1 image, but folds need at least 2"),
        ([], [], 2, DatasetError, "made: 0 images"),
        ([[], []], [0, 1], 2, DatasetError, "none of the 2 images has an annotation"),
        ([[0], [0], [0]], [4, 4, 4], 2, DatasetError, "all 3 images are one group"),
        ([[0], [0], [0]], [0, 1, 2], 5, DatasetError, "folds.k=5, but there are only 3 images; set folds.k=3"),
        ([[0], [0], [0]], [0, 1, 1], 3, DatasetError, "3 images, which make 2 groups of like images; set folds.k=2"),
    ],
)
def test_what_cannot_be_divided_is_refused(held: list[list[int]], groups: list[int], k: int, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        make_folds(make_dataset(held), np.array(groups, dtype=np.int64), k=k)
    assert "\n" not in str(caught.value)


def test_no_repeat_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"folds\.repeats=0"):
        make_folds(make_dataset([[0], [0]]), np.arange(2), k=2, repeats=0)


def test_categories_that_folds_cannot_serve_are_told() -> None:
    held = [[0, 1, 2], [0, 1], [0], [0], [0], [0]]
    dataset = make_dataset(held, categories=4)
    folds = make_folds(dataset, np.arange(6), k=3, repeats=2)
    findings = find_fold_faults(dataset, folds)
    assert [(finding.kind, finding.severity) for finding in findings] == [
        ("category-missing-in-training", "warning"),
        ("category-fewer-than-folds", "note"),
    ]
    assert "category c2: all objects of it (1) are held out together in 2 of 2 repeats" in findings[0].message
    assert "category c1 has 2 objects for 3 folds" in findings[1].message


def test_many_objects_in_one_group_are_missing_from_one_training() -> None:
    dataset = make_dataset([[0, 1, 1], [0, 1, 1, 1], [0], [0]], categories=2)
    findings = find_fold_faults(dataset, make_folds(dataset, np.array([0, 0, 1, 2]), k=2))
    assert [finding.kind for finding in findings] == ["category-missing-in-training"]


def test_one_category_is_enough() -> None:
    dataset = make_dataset([[0]] * 10, categories=1)
    folds = make_folds(dataset, np.arange(10), k=5)
    assert np.bincount(folds[0]).tolist() == [2] * 5
    assert find_fold_faults(dataset, folds) == []
