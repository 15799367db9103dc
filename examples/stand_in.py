"""Plays the detector in these examples: it looks at no picture, but knows the true boxes of the embedded digits and sees them badly.

With a data set of your own you need none of this. You have a detector, and its detections come from models that were not trained on the
images that they look at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

import detclean

DIGITS = Path(__file__).parents[1] / "data" / "digits"
MISSED, FALSE_ALARMS, CONFUSED = 0.07, 0.3, 0.04  # shares of the true boxes


def detect_digits() -> pl.DataFrame:
    """One row a detection: file_name, category, x1 y1 x2 y2 in pixels, and score, the confidence from 0 to 1."""
    rng = np.random.default_rng(0)
    truth = detclean.read_dataset(DIGITS / "true_annotations.json")
    boxes, names = truth.annotations, np.array(truth.categories)

    seen = boxes[rng.random(len(boxes)) > MISSED]
    side = np.tile(seen.xyxy[:, 2:] - seen.xyxy[:, :2], 2)
    place = seen.xyxy + rng.normal(0, 0.04, side.shape) * side
    score = 0.9 * rng.beta(7, 3, len(seen))
    category = seen.category.copy()
    wrong = rng.random(len(seen)) < CONFUSED
    category[wrong] = (category[wrong] + rng.integers(1, len(names), wrong.sum())) % len(names)
    score[wrong] *= 0.5  # who errs is seldom sure

    alarms = boxes[np.sort(rng.choice(len(boxes), int(FALSE_ALARMS * len(boxes)), replace=False))]
    width_and_height = alarms.xyxy[:, 2:] - alarms.xyxy[:, :2]
    corner = rng.random((len(alarms), 2)) * (truth.sizes[alarms.image_index] - width_and_height)

    image = np.concatenate([seen.image_index, alarms.image_index])
    xyxy = np.concatenate([place, np.concatenate([corner, corner + width_and_height], axis=1)]).round(2)
    return pl.DataFrame(
        {
            "file_name": truth.images["file_name"].gather(image),
            "category": names[np.concatenate([category, rng.permutation(alarms.category)])],
            **{name: xyxy[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))},
            "score": np.concatenate([score, 0.5 * rng.beta(1, 8, len(alarms))]).round(4),
        }
    )
