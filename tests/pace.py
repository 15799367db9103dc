"""How long work takes compared with a fixed piece of numpy's work in the same process: seconds differ from machine to machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

REPEATS = 3  # the best counts


def take(work: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


@cache
def take_unit() -> float:
    """Seconds for sorting a million numbers."""
    numbers = np.random.default_rng(0).random(1_000_000)
    return take(lambda: np.sort(numbers))


def in_units(work: Callable[[], Any]) -> float:
    """How many times as long as `take_unit` work takes."""
    return take(work) / take_unit()
