"""Simple scores per issue type, straight from the evidence: a second opinion, and all there is where there is too little to learn from."""

from __future__ import annotations

import numpy as np
import polars as pl

from detclean.boxes import Floats

SEEN = 0.1  # confidence from which an annotation counts as seen


def score_annotations_by_rules(evidence: pl.DataFrame) -> dict[str, Floats]:
    """Issue type -> score 0..1 of each annotation, higher is worse. Not calibrated.

    swap: another category is seen here and the given one is not; spurious: nothing is seen here, by a detector that does see most
    annotations (one that sees none has nothing to say); badloc: the given category is seen nearby but the boxes do not fit; duplicate:
    another annotation covers this one and fits the detections at least as well.
    """
    column = {name: evidence[name].to_numpy().astype(np.float64) for name in evidence.columns}
    seen = np.maximum(column["same_30"], column["other_30"])
    sight = float((seen >= SEEN).mean()) if len(seen) else 0.0
    twin = np.clip((column["twin_iou"] - 0.5) / 0.3, 0, 1) * (column["twin_better"] >= 0)
    swap = column["other_50"] * (1 - column["same_50"] / np.maximum(column["same_50"] + column["other_50"], 1e-6))
    misfit = np.clip(1 - column["best_iou"], 0, 1) * np.clip(column["same_30"] - 0.5 * column["same_70"], 0, 1)
    return {
        "badloc": np.clip(misfit * (1 - twin), 0, 1),
        "swap": np.clip(swap * (1 - twin), 0, 1),
        "spurious": np.clip((1 - seen) ** 2 * sight * (1 - twin), 0, 1),
        "duplicate": np.clip(twin, 0, 1),
    }


def score_candidates_by_rules(evidence: pl.DataFrame) -> Floats:
    """Score 0..1 of each candidate, higher is likelier an overlooked object: its confidence, less where an annotation covers it."""
    score: Floats = evidence["score"].to_numpy() * (1 - 0.5 * evidence["covered"].to_numpy())
    return np.clip(score, 0, 1)
