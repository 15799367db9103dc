"""A fold's look in pieces, so that more machines than folds have work: what each is asked, and how their answers become the fold's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from detclean.detect.yolo_process import Display, Job, is_done
from detclean.files import settle

LOOKS = "looks.parquet"  # beside the detections of a fold
PIECE_IMAGES = 2048  # looked at in a minute or so; a child takes ten seconds to begin


def cut_job(job: Job, batch: int, display: Display) -> list[Job]:
    """Several jobs that look at the images of one, whose questions are written; itself where it is small.

    They are cut where a batch ends, so that the batches, and with them the last digits of what is seen, stay as they were.
    """
    images, asked = (pl.read_parquet(job.folder / f"{name}.parquet", glob=False) for name in ("images", "asked"))
    size = max(1, PIECE_IMAGES // batch) * batch
    count = -(-images.height // size)
    if count <= 1:
        return [job]
    pieces = []
    for number in range(count):
        folder = job.folder.with_name(f"{job.folder.name}-piece-{number}-of-{count}")
        piece = Job(f"{job.key}, piece {number + 1}/{count}", folder, folder / job.marker.name, job.settings)
        pieces.append(piece)
        if is_done(piece.key, [folder / LOOKS, piece.marker], display):
            continue
        folder.mkdir(exist_ok=True)
        mine = images.slice(number * size, size)
        mine.write_parquet(folder / "images.parquet")
        asked.filter(pl.col("image_index").is_in(mine["image_index"].implode())).write_parquet(folder / "asked.parquet")
    return pieces


def join_pieces(job: Job, pieces: Sequence[Job]) -> None:
    """What the pieces have answered as the job itself would have; its marker comes last."""
    if list(pieces) == [job]:
        return
    for name in (LOOKS, job.marker.name):
        beside = job.folder / f"{name}.partial"
        pl.scan_parquet([piece.folder / name for piece in pieces], glob=False).sink_parquet(beside)
        settle(beside)
        os.replace(beside, job.folder / name)
    for name in ("train.log", "progress.jsonl"):
        with open(job.folder / name, "ab") as log:
            for piece in pieces:
                log.write((piece.folder / name).read_bytes())


def remove_pieces(folder: Path) -> None:
    """Pieces whose answers are joined, or that a run on other machines has left."""
    for path in folder.glob("*-piece-*"):
        shutil.rmtree(path)
