"""Which images each model does not see: folds that keep groups of like images whole and every category in every training part."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from detclean.boxes import Floats, Ints
from detclean.dataset import Dataset, Finding
from detclean.errors import ConfigError, DatasetError

TRIES = 20  # orders tried until no fold holds all objects of a category; the first one does in all but contrived data


def group_images(dataset: Dataset, duplicates: pl.DataFrame, pattern: str | None = None) -> Ints:
    """A group number for each image (N,): images of one group must be held out together.

    Joined are the pairs of `duplicates` (image_a, image_b: positions in this `dataset`), Roboflow's augmented copies (the same name
    before `.rf.`), and file names in which the regular expression `pattern` finds the same first group (the same text where it has
    none). Take the whole data set and cut the result to a split: two images of a split may be linked by a third one outside of it.
    Raises ConfigError for a pattern that is none, or that fits no file name.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, names = dataset.image_count, dataset.images["file_name"].to_list()
    stems = [name.replace("\\", "/").rpartition("/")[2].rpartition(".rf.")[0] or None for name in names]
    keys = [("stem", stem) if stem else None for stem in stems], _match_names(names, pattern, dataset.source.name)
    edges = [duplicates.select("image_a", "image_b").to_numpy().astype(np.int64)]
    for column in keys:
        first = {key: i for i, key in reversed(list(enumerate(column))) if key}
        edges.append(np.array([(first[key], i) for i, key in enumerate(column) if key], np.int64).reshape(-1, 2))
    joined = np.concatenate(edges)
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def make_folds(dataset: Dataset, groups: Ints, *, k: int = 5, repeats: int = 1, seed: int = 0) -> Ints:
    """The fold 0..k-1 that holds each image out, once a repeat: groups (N,) -> (repeats, N). No group lies in two folds.

    The folds are alike in images, boxes and boxes of each category, and no fold holds all objects of a category that occurs in two
    groups or more, wherever the groups allow it (`find_fold_faults` tells where they do not). The same seed gives the same folds.
    Raises ConfigError for impossible settings, DatasetError where there is nothing to divide.
    """
    _check(dataset, groups, k, repeats)
    number = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(number)
    counts = _count_categories(dataset, number)
    folds = [_divide(counts, sizes, k, np.random.default_rng([seed, repeat]))[number] for repeat in range(repeats)]
    return np.stack(folds)


def make_plain_folds(image_count: int, *, k: int, seed: int = 0) -> Ints:
    """A random split into k equal parts that knows nothing of groups: (N,). What `make_folds` is compared with."""
    folds: Ints = np.random.default_rng(seed).permutation(np.arange(image_count) % k)
    return folds


def count_leaks(folds: Ints, groups: Ints) -> int:
    """Pairs of images of one group that lie in different folds: (N,) and (N,) -> how many."""
    together = np.unique(groups, return_counts=True)[1]
    kept = np.unique(np.stack([groups, folds]), axis=1, return_counts=True)[1]
    return int((together * (together - 1) // 2).sum() - (kept * (kept - 1) // 2).sum())


def count_prevented_leaks(groups: Ints, *, k: int, seed: int = 0) -> int:
    """Pairs of images of one group that a plain random split of this seed would have torn apart."""
    return count_leaks(make_plain_folds(len(groups), k=k, seed=seed), groups)


def find_fold_faults(dataset: Dataset, folds: Ints) -> list[Finding]:
    """Categories with fewer objects than folds (note), and categories that a training part lacks (warning): folds (repeats, N)."""
    boxes, category_count = dataset.annotations, len(dataset.categories)
    k = int(folds.max()) + 1
    total = np.bincount(boxes.category, minlength=category_count)
    missing = np.zeros(category_count, np.int64)  # trainings that never see the category
    for fold in folds:
        table = np.bincount(boxes.category * k + fold[boxes.image_index], minlength=category_count * k).reshape(category_count, k)
        missing += (table == total[:, None]).any(axis=1) & (total > 0)
    findings = []
    for category in np.flatnonzero(missing):
        told = f"category {dataset.categories[category]}: all objects of it ({total[category]}) are held out together in"
        remedy = "that model cannot judge it: add images with it, or leave it out"
        message = f"{told} {missing[category]} of {len(folds)} repeats, {remedy}"
        findings.append(Finding("category-missing-in-training", "warning", dataset.source.name, message))
    for category in np.flatnonzero((total > 0) & (total < k) & (missing == 0)):
        message = (
            f"category {dataset.categories[category]} has {total[category]} objects for {k} folds: its scores are little more than guesses"
        )
        findings.append(Finding("category-fewer-than-folds", "note", dataset.source.name, message))
    return findings


def _match_names(names: list[str], pattern: str | None, where: str) -> list[tuple[str, str] | None]:
    if pattern is None:
        return [None] * len(names)
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise ConfigError(f"folds.group_by: {pattern!r} is no regular expression ({error}); give one, or auto") from error
    if names and not any(found):
        raise ConfigError(f"folds.group_by: {pattern!r} fits none of the {len(names)} file names of {where} (first: {names[0]})")
    return [("name", (match[1] if match.re.groups else None) or match[0]) if match else None for match in found]


def _check(dataset: Dataset, groups: Ints, k: int, repeats: int) -> None:
    where, images, group_count = dataset.source.name, dataset.image_count, len(np.unique(groups))
    if k < 2:
        raise ConfigError(f"folds.k={k}: a model needs images to learn from besides the held-out ones; set folds.k=2 or more")
    if repeats < 1:
        raise ConfigError(f"folds.repeats={repeats}: set folds.repeats=1 or more")
    if images < 2:
        raise DatasetError(f"{where}: {images} image{'' if images == 1 else 's'}, but folds need at least 2; add images or check the split")
    if not len(dataset.annotations):
        raise DatasetError(f"{where}: none of the {images} images has an annotation, so there is nothing to learn or to check; add labels")
    if group_count < 2:
        told = f"all {images} images are one group (duplicates, copies of one photograph, or folds.group_by joins them)"
        raise DatasetError(f"{where}: {told}, so nothing is left to learn from; add other images or change folds.group_by")
    if k > group_count:
        told = f"{images} images" if images == group_count else f"{images} images, which make {group_count} groups of like images"
        raise DatasetError(f"{where}: folds.k={k}, but there are only {told}; set folds.k={group_count} or less")


def _count_categories(dataset: Dataset, number: NDArray[np.intp]) -> list[tuple[Ints, Floats]]:
    """For each group the categories it holds and how many objects of each: rows of a sparse table, whose dense form can be large."""
    width = len(dataset.categories)
    keys, counts = np.unique(number[dataset.annotations.image_index] * width + dataset.annotations.category, return_counts=True)
    edges = np.searchsorted(keys, np.arange(1, number.max() + 1) * width)
    return list(zip(np.split(keys % width, edges), np.split(counts.astype(np.float64), edges), strict=True))


def _divide(counts: list[tuple[Ints, Floats]], sizes: Ints, k: int, rng: np.random.Generator) -> Ints:
    """The fold of each group (G,), from the first of a few orders that leaves every category in every training part."""
    width = 1 + max((int(categories.max()) for categories, _ in counts if len(categories)), default=0)
    holders = np.bincount(np.concatenate([categories for categories, _ in counts]), minlength=width)  # groups with the category
    rarity = np.array([holders[categories].min() if len(categories) else len(counts) + 1 for categories, _ in counts])
    attempts = []
    for attempt in range(TRIES):
        order = rng.permutation(len(counts))
        if attempt % 2 == 0:  # rarest category first, then large groups, else as drawn; odd attempts take the order wholly as drawn
            order = order[np.lexsort((-sizes[order], rarity[order]))]
        folds, broken = _deal(order, counts, sizes, k, holders)
        attempts.append((broken, folds))
        if not broken:
            break
    return min(attempts, key=lambda dealt: dealt[0])[1]


def _deal(order: Ints, counts: list[tuple[Ints, Floats]], sizes: Ints, k: int, holders: Ints) -> tuple[Ints, int]:
    """Gives the groups out one by one, each to the fold that has least of what the group holds: (G,), and categories left in one fold.

    The loads of a fold (images, boxes, boxes of each category) are taken as shares of what a fold should have, and the fold is chosen
    that adds least to the sum of their squares over all folds: so a category with few objects weighs most. A fold is closed once it
    has its share of images, and to a group with which it would hold all objects of a category that others could hold as well.
    """
    width = len(holders)
    total = np.zeros(width)
    for categories, objects in counts:
        total[categories] += objects
    share = int(sizes.sum()) // k
    load, images, boxes = np.zeros((k, width)), np.zeros(k), np.zeros(k)
    folds = np.zeros(len(counts), np.int64)
    broken = 0
    for group in order:
        categories, objects = counts[group]
        size = sizes[group]
        cost = images * size / share**2 + boxes * objects.sum() / (total.sum() / k) ** 2
        cost += (load[:, categories] * (objects / (total[categories] / k) ** 2)).sum(axis=1)
        hoards = ((load[:, categories] + objects == total[categories]) & (holders[categories] > 1)).sum(axis=1)
        allowed = hoards == hoards.min()
        room = allowed & (images + size <= share)
        # Where no fold has room the emptiest takes the group: sizes then differ by no more than one group.
        fold = int(np.argmin(np.where(room, cost, np.inf) if room.any() else np.where(allowed, images, np.inf)))
        folds[group] = fold
        load[fold, categories] += objects
        broken += int(hoards[fold])
        images[fold] += size
        boxes[fold] += objects.sum()
    return folds, broken
