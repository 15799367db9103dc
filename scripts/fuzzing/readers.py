"""What is fuzzed: for each reader how an input comes about that is good but for a few changes, and what is done with it.

A maker writes the input of a case into an empty folder; a reader reads it and goes on with what was read, writing below `work` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzzing import beside, datasets, images, runs
from fuzzing.inputs import Place
from fuzzing.mutations import Random


@dataclass(frozen=True)
class Reader:
    """make: is given the case's random numbers, its folder and, where templated, the folder of good inputs. share: of all cases."""

    make: Callable[..., None]
    read: Callable[[Place, Random], None]
    share: int
    templated: bool = False


READERS = {
    "coco": Reader(datasets.make_coco, datasets.read_coco, 4),
    "yolo": Reader(datasets.make_yolo, datasets.read_yolo, 4),
    "voc": Reader(datasets.make_voc, datasets.read_voc, 3),
    "results": Reader(beside.make_results, beside.read_results, 4),
    "decisions": Reader(beside.make_decisions, beside.read_decision_log, 3),
    "config": Reader(beside.make_config, beside.read_configuration, 4),
    "answers": Reader(beside.make_answers, beside.read_answer_key, 2),
    "run": Reader(runs.make_run, runs.read_run, 1, templated=True),
    "patch": Reader(runs.make_patch, runs.read_patch, 1, templated=True),
    "imports": Reader(runs.make_imports, runs.read_imports, 3, templated=True),
    "images": Reader(images.make_images, images.read_images, 6),
}
