"""FiftyOne: a folder that it loads as an image detection data set. Units are shares of the image, top left. Back comes COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from detclean.boxes import xyxy_to_xywh
from detclean.files import write_whole
from detclean.formats.imagefiles import drop_ending
from detclean.handover.names import place_images
from detclean.handover.plain import share_pictures
from detclean.handover.sheet import Sheet

README = """detclean to FiftyOne
====================

    import fiftyone as fo
    dataset = fo.Dataset.from_dir(dataset_dir={folder!r}, dataset_type=fo.types.FiftyOneImageDetectionDataset)
    session = fo.launch_app(dataset)

Each suspected box has issue, probability, reason, suggestion and issue_id as attributes; filter by ground_truth.detections.issue.
The pictures in data/ are links to where they are. What is edited there comes back as COCO, best with each box's detclean_id:
    dataset.export(export_dir="back", dataset_type=fo.types.COCODetectionDataset, label_field="ground_truth", export_media=False,
                   extra_attrs=["detclean_id", "verdict"], rel_dir={data!r})
    python -m detclean import-decisions {run} back/labels.json
"""


def write_fiftyone(sheet: Sheet, folder: Path, final: Path, run_folder: Path) -> None:
    """data/ with the pictures as links, labels.json and README.txt. final: where `folder` will be in the end."""
    places = place_images(sheet.images["name"].to_list(), flat=False)
    share_pictures(sheet, places, folder / "data")
    sizes = sheet.sizes
    relative = xyxy_to_xywh(sheet.xyxy / np.tile(sizes, 2)).tolist()
    rows = sheet.boxes.select("category", "issue_type", "probability", "reason", "suggestion", "issue_id", "box_id", "verdict").rows()
    detections = [_make_detection(sheet, box, *row) for box, row in zip(relative, rows, strict=True)]
    found = zip(places, sheet.rows_by_image(), strict=True)
    labels = {drop_ending(place): detections[rows] or None for place, rows in found}
    write_whole(folder / "labels.json", orjson.dumps({"labels": labels}, option=orjson.OPT_INDENT_2))
    write_whole(folder / "README.txt", README.format(folder=str(final), data=str(final / "data"), run=run_folder))


def _make_detection(
    sheet: Sheet,
    box: list[float],
    category: int,
    issue_type: str | None,
    probability: float | None,
    reason: str | None,
    suggestion: str | None,
    issue_id: str | None,
    box_id: str,
    verdict: str | None,
) -> dict[str, Any]:
    attributes: dict[str, Any] = {"detclean_id": box_id, "issue": issue_type or "none"}
    if issue_type is not None:
        attributes |= {"probability": probability, "reason": reason, "suggestion": suggestion, "issue_id": issue_id}
    if verdict == "hard":
        attributes["verdict"] = verdict
    return {"label": sheet.categories[category], "bounding_box": box, "attributes": attributes}
