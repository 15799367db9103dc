"""What a training's loss dynamics say about each box: the mean and the variation of a fixed-target loss over the cycles (O2U-Net)."""

from __future__ import annotations

import numpy as np
import polars as pl

from detclean.boxes import Floats, Mask
from detclean.detect.locations import BOX_WEIGHT


def compute_dynamics_evidence(records: Floats, given: Mask) -> pl.DataFrame:
    """One row a box from records (epochs, n, 6) as `record_losses` gives them; given (n,): the annotations as given.

    The mean over the given rows is subtracted from each epoch: how much is fitted then is the model's matter, who is fitted less is the
    label's (Huang et al., O2U-Net, ICCV 2019). loss_mean and loss_variance: of -log p + 2 (1 - IoU) over the epochs; loss_category_mean
    and loss_box_mean: of its two parts; loss_50 and loss_70: of -log p among the locations with IoU >= 0.5 and >= 0.7; margin: of logit
    margins. Null where an image has no picture.
    """
    rows = given & np.isfinite(records).all(axis=(0, 2))
    means = records[:, rows].mean(axis=1, dtype=np.float64) if rows.any() else np.zeros((len(records), records.shape[2]))
    nll, box, margin, nll_50, nll_70, margin_50 = np.moveaxis(records - means[:, None], 2, 0)  # (epochs, n) each
    loss = nll + BOX_WEIGHT * box
    columns = {
        "loss_mean": loss.mean(axis=0),
        "loss_variance": loss.var(axis=0),
        "loss_category_mean": nll.mean(axis=0),
        "loss_box_mean": box.mean(axis=0),
        "loss_50_mean": nll_50.mean(axis=0),
        "loss_50_variance": nll_50.var(axis=0),
        "loss_70_mean": nll_70.mean(axis=0),
        "margin_mean": margin.mean(axis=0),
        "margin_50_mean": margin_50.mean(axis=0),
    }
    return pl.DataFrame({name: column.astype(np.float32) for name, column in columns.items()}).fill_nan(None)
