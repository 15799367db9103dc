"""The words for types of issues, for what is odd about pictures, and for probabilities, wherever a person reads them."""

from __future__ import annotations

TYPES = {
    "overlooked": "overlooked object",
    "badloc": "badly placed box",
    "swap": "wrong category",
    "spurious": "nothing there",
    "duplicate": "drawn twice",
}
PICTURE_KINDS = {
    "dark": "dark",
    "light": "too bright",
    "blurry": "blurred",
    "low_information": "nearly empty",
    "odd_size": "unusual size",
    "odd_aspect_ratio": "unusual shape",
    "grayscale": "grey among coloured ones",
}
LIKELINESS = (
    (0.95, "almost certainly wrong"),
    (0.8, "very likely wrong"),
    (0.6, "probably wrong"),
    (0.5, "more likely wrong than right"),
    (0.25, "perhaps wrong"),
    (0.0, "probably right, but hard"),
)


def say_likeliness(probability: float) -> str:
    """A probability of being wrong in words."""
    return next((words for least, words in LIKELINESS if probability >= least), LIKELINESS[-1][1])
