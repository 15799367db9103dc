"""Which images an epoch of training sees where they are not all to be seen alike."""

from __future__ import annotations

import numpy as np

from detclean.boxes import Floats, Ints


def draw_epoch(weights: Floats, rng: np.random.Generator) -> Ints:
    """As many images as there are, in ascending order, each as often as its weight is large: (n,) positions.

    weights: (n,), not all 0. An image that is expected e times comes floor(e) or ceil(e) times (systematic resampling, Kitagawa 1996); with
    equal weights each comes once.
    """
    count = len(weights)
    if weights.min() == weights.max():
        return np.arange(count)
    order = rng.permutation(count)  # else neighbours would come and go together
    ends = np.cumsum(weights[order])
    ends *= count / ends[-1]
    ends[-1] = count
    often = np.zeros(count, np.int64)
    often[order] = np.diff(np.ceil(ends - rng.random()), prepend=0)
    return np.repeat(np.arange(count), often)


def find_part(draw: Floats, epoch: int, epochs: int) -> Floats:
    """The weights of an epoch (0 is the first): draw (parts, N), each row for an equal share of the epochs -> (N,)."""
    weights: Floats = draw[epoch * len(draw) // epochs]
    return weights
