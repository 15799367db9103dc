"""Labels as each strategy would leave them, in memory as on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import write_coco, write_yolo

from detclean.dataset import Dataset, Edit
from detclean.edit.proposals import Cleaning
from detclean.edit.versions import clean_in_memory, count_touched, draw_control, join_with_test
from detclean.formats import read_dataset, write_cleaned

EDITS = (
    Edit("relabel", 0, 0, category=2),
    Edit("move", 0, 1, xyxy=(3.0, 4.0, 33.0, 38.0)),
    Edit("add", 1, None, category=1, xyxy=(5.0, 6.0, 25.0, 30.5)),
    Edit("review", 2, 8),
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset(write_yolo(tmp_path / "data"))


def rows(dataset: Dataset) -> list[tuple[str, str, tuple[float, ...]]]:
    boxes = dataset.annotations
    names = ["/".join(name.split("/")[-2:]) for name in dataset.images["file_name"].to_list()]
    return sorted(
        (names[image], dataset.categories[category], tuple(xyxy))
        for image, category, xyxy in zip(boxes.image_index, boxes.category, boxes.xyxy.round(3).tolist(), strict=True)
    )


def test_in_memory_it_is_what_a_cleaned_copy_would_be(dataset: Dataset, tmp_path: Path) -> None:
    last = len(dataset.annotations) - 1
    cleaning = Cleaning((*EDITS, Edit("delete", int(dataset.annotations.image_index[last]), last)), ())
    write_cleaned(dataset, cleaning.edits, tmp_path / "copy")
    copy = read_dataset(tmp_path / "copy" / "data.yaml")
    in_memory = clean_in_memory(dataset, cleaning)
    assert rows(in_memory) == rows(copy)
    assert count_touched(cleaning) == 3
    assert rows(read_dataset(dataset.source)) == rows(dataset)  # neither the source nor the data set that was given has changed


def test_dropped_images_are_gone_with_their_labels(dataset: Dataset) -> None:
    changed = clean_in_memory(dataset, Cleaning((), (0, 5)))
    assert changed.image_count == dataset.image_count - 2
    gone = {name.removeprefix("images/") for name in dataset.images["file_name"].to_list()[:6:5]}
    assert rows(changed) == [row for row in rows(dataset) if row[0] not in gone]


@pytest.mark.parametrize("cleaning", [Cleaning(EDITS, ()), Cleaning((), (1, 2, 3))])
def test_a_control_throws_away_as_much(dataset: Dataset, cleaning: Cleaning) -> None:
    control = draw_control(dataset, cleaning, np.random.default_rng(0))
    changed = clean_in_memory(dataset, control)
    assert dataset.image_count - changed.image_count == len(cleaning.drop_images)
    if not cleaning.drop_images:
        assert len(dataset.annotations) - len(changed.annotations) == count_touched(cleaning) == 2
    assert draw_control(dataset, cleaning, np.random.default_rng(0)) == control
    assert draw_control(dataset, cleaning, np.random.default_rng(1)) != control


def test_the_test_stands_behind_what_is_trained_on(tmp_path: Path) -> None:
    dataset = read_dataset(write_coco(tmp_path / "data"))
    first = np.arange(dataset.image_count) < 10
    train, test = dataset.select_images(first), dataset.select_images(~first)
    joined, is_test = join_with_test(clean_in_memory(train, Cleaning(EDITS[1:2], ())), test)
    assert is_test.tolist() == (~first).tolist()
    back = joined.select_images(is_test)
    assert rows(back) == rows(test)
    assert rows(joined.select_images(~is_test)) != rows(train)
