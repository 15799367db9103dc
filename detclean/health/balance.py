"""How the data set is made up: its categories, split by split, and pictures that stand in more than one split."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from detclean.boxes import Ints
from detclean.dataset import Dataset

FEW = 50  # annotations of a category, below which a detector hardly learns it
UNEVEN = 20.0  # times as many annotations of the largest category as of the smallest, from which it is worth a word
NAMES_SHOWN = 3
TRAIN = "train"
NO_SPLIT = "all"


def count_categories(dataset: Dataset) -> dict[str, Any]:
    """Annotations and images of each category, in all and split by split, and how uneven they are. Crowd regions are not counted.

    effective: exp of the entropy of the annotations' shares, the number of categories that would be as diverse if they were equally many.
    ratio: the largest category to the smallest that has any. few: those below FEW; empty: those without; only_outside: those that
    another split than train has and train has not.
    """
    boxes = dataset.annotations
    mine = boxes if boxes.is_crowd is None else boxes[~boxes.is_crowd.astype(bool)]
    count = len(dataset.categories)
    names = dataset.images["split"].fill_null(NO_SPLIT)
    splits = _order_splits(names.unique().to_list())
    of_image = names.to_numpy()
    per_split = {}
    for split in splits:
        here = of_image[mine.image_index] == split if len(mine) else np.zeros(0, bool)
        per_split[split] = {
            "images": int((of_image == split).sum()),
            "annotations": np.bincount(mine.category[here], minlength=count).tolist(),
            "images_with": _images_with(mine.category[here], mine.image_index[here], count).tolist(),
        }
    total = np.sum([row["annotations"] for row in per_split.values()], axis=0, dtype=np.int64).reshape(-1)
    share = total[total > 0] / max(total.sum(), 1)
    absent = []
    if TRAIN in per_split and len(splits) > 1:
        trained = np.array(per_split[TRAIN]["annotations"])
        absent = [name for name, n, known in zip(dataset.categories, total.tolist(), trained.tolist(), strict=True) if n and not known]
    return {
        "splits": per_split,
        "categories": list(dataset.categories),
        "annotations": total.tolist(),
        "ratio": float(total[total > 0].max() / total[total > 0].min()) if len(share) else None,
        "effective": float(np.exp(-(share * np.log(share)).sum())) if len(share) else None,
        "few": [name for name, n in zip(dataset.categories, total.tolist(), strict=True) if 0 < n < FEW],
        "empty": [name for name, n in zip(dataset.categories, total.tolist(), strict=True) if n == 0],
        "only_outside": absent,
    }


def _images_with(category: Ints, image: Ints, count: int) -> Ints:
    pairs = pl.DataFrame({"category": category, "image": image}).unique()
    return np.bincount(pairs["category"].to_numpy(), minlength=count)


def _order_splits(names: list[str]) -> list[str]:
    known = [name for name in (TRAIN, "val", "test") if name in names]
    return known + sorted(name for name in names if name not in known)


def find_leaks(dataset: Dataset, duplicates: pl.DataFrame) -> list[dict[str, Any]]:
    """Pictures that two splits share, a record for each pair of splits, the worst first.

    dataset: all splits. duplicates: what the audit found, pairs that hold groups together. Of the second split of a pair, that which is
    judged on rather than trained on: `pictures` that are in the first as well, `exact` the very same file, `twice` the same path in both
    lists, and the others near-duplicates; files: the first few, each with its twin in the first split.
    """
    splits = dataset.images["split"].fill_null(NO_SPLIT).to_list()
    names, paths = dataset.images["file_name"].to_list(), dataset.images["path"].to_list()
    order = _order_splits(sorted(set(splits)))
    if len(order) < 2 or duplicates.is_empty():
        return []
    exact = duplicates.filter(pl.col("kind") == "exact")
    groups = _label_groups(duplicates, dataset.image_count)
    same = _label_groups(exact, dataset.image_count)
    touched = np.unique(duplicates.select("image_a", "image_b").to_numpy())
    by_group: dict[int, list[int]] = {}
    for image in touched.tolist():
        by_group.setdefault(int(groups[image]), []).append(image)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for members in by_group.values():
        # of each split the first member, and the first of each very same file: a group may be a thousand black frames
        first: dict[str, int] = {}
        first_same: dict[tuple[str, int], int] = {}
        listed = {(splits[image], paths[image]) for image in members}
        for image in members:
            first.setdefault(splits[image], image)
            first_same.setdefault((splits[image], int(same[image])), image)
        for image in members:
            for split, twin in first.items():
                if order.index(split) >= order.index(splits[image]):
                    continue
                alike = first_same.get((split, int(same[image])))
                record = found.setdefault(
                    (split, splits[image]),
                    {"of": split, "in": splits[image], "pictures": 0, "exact": 0, "twice": 0, "files": []},
                )
                record["pictures"] += 1
                record["exact"] += alike is not None
                record["twice"] += paths[image] is not None and (split, paths[image]) in listed
                if len(record["files"]) < NAMES_SHOWN:
                    record["files"].append([names[image], names[twin if alike is None else alike]])
    return sorted(found.values(), key=lambda record: (-record["pictures"], record["of"], record["in"]))


def _label_groups(pairs: pl.DataFrame, n: int) -> Ints:
    """The group of each of n images, pairs being in one group: (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = pairs["image_a"].to_numpy(), pairs["image_b"].to_numpy()
    labels: Ints = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)[1].astype(np.int64)
    return labels
