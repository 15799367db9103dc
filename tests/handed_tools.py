"""What other packages read from the folders that were handed over, as JSON on stdout: `python handed_tools.py PACKAGE FOLDER ..`.

A process of its own: these packages warn while they are imported, and take seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Rows = list[list[Any]]  # [image, category, x1, y1, x2, y2]


def read_supervision(coco: Path, yolo: Path, voc: Path) -> dict[str, Rows]:
    import supervision as sv

    sets = {
        "coco": sv.DetectionDataset.from_coco(str(coco / "images"), str(coco / "instances.json")),
        "yolo": sv.DetectionDataset.from_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml")),
        "voc": sv.DetectionDataset.from_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations")),
    }
    found: dict[str, Rows] = {}
    for kind, data in sets.items():
        found[kind] = [
            [Path(path).name, data.classes[int(category)], *map(float, box)]
            for path, _, detections in data
            for category, box in zip(detections.class_id, detections.xyxy, strict=True)
        ]
    return found


def read_datumaro(cvat: Path, coco: Path, voc: Path) -> dict[str, Rows]:
    import datumaro as dm

    found: dict[str, Rows] = {}
    for path, kind in ((cvat, "cvat"), (coco, "coco_instances"), (voc, "voc_detection")):
        data = dm.Dataset.import_from(str(path), kind)
        names = data.categories()[dm.AnnotationType.label]
        found[kind] = [
            [item.id, names[one.label].name, one.x, one.y, one.x + one.w, one.y + one.h, dict(one.attributes)]
            for item in data
            for one in item.annotations
            if one.type == dm.AnnotationType.bbox
        ]
    return found


def read_label_studio(config: Path, tasks: Path, out: Path) -> dict[str, Any]:
    """config: label_config.xml; tasks: what was handed over, then an export of it; out: an empty folder."""
    import label_studio_sdk
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    text = config.read_text()
    handed, back = tasks / "tasks.json", tasks.parent / "back.json"
    interface = LabelInterface(text)
    documents = json.loads(handed.read_text())
    predictions = [prediction for task in documents for prediction in task.get("predictions", [])]
    found: dict[str, Any] = {
        "version": label_studio_sdk.__version__,
        "tasks": [bool(interface.validate_task({"data": task["data"]})) for task in documents],
        "predictions": [bool(interface.validate_prediction(one)) for one in predictions],
        "labels": sorted(interface.get_tag("label").labels),
    }
    converter = Converter(text, project_dir=str(out), download_resources=False)
    converter.convert_to_coco(str(back), str(out / "coco"), is_dir=False)
    converter.convert_to_yolo(str(back), str(out / "yolo"), is_dir=False)
    converter.convert_to_json_min(str(back), str(out / "min"), is_dir=False)
    found["coco"] = json.loads((out / "coco" / "result.json").read_text())
    found["yolo"] = {path.name: path.read_text() for path in (out / "yolo" / "labels").iterdir()}
    found["classes"] = (out / "yolo" / "classes.txt").read_text().splitlines()
    return found


def read_fiftyone(folder: Path, out: Path) -> Rows:
    """Its importer and its COCO exporter, which need no database. out: where it exports to."""
    from fiftyone.core.metadata import ImageMetadata
    from fiftyone.utils.coco import COCODetectionDatasetExporter
    from fiftyone.utils.data import FiftyOneImageDetectionDatasetImporter

    with FiftyOneImageDetectionDatasetImporter(dataset_dir=str(folder)) as importer:
        samples = [(path, label, ImageMetadata.build_for(path)) for path, _, label in importer]
    options = {"labels_path": str(out), "extra_attrs": ["detclean_id", "verdict"], "rel_dir": str(folder / "data")}
    with COCODetectionDatasetExporter(export_dir=str(out.parent), export_media=False, **options) as exporter:
        for path, label, metadata in samples:
            exporter.export_sample(path, label, metadata=metadata)
    sizes = [(metadata.width, metadata.height) for _, _, metadata in samples]
    found = []
    for (path, label, _), (width, height) in zip(samples, sizes, strict=True):
        for one in label.detections if label is not None else ():
            x, y, w, h = one.bounding_box
            found.append([path, one.label, x * width, y * height, (x + w) * width, (y + h) * height])
    return found


READERS: dict[str, Any] = {
    "supervision": read_supervision,
    "datumaro": read_datumaro,
    "label_studio_sdk": read_label_studio,
    "fiftyone": read_fiftyone,
}

if __name__ == "__main__":
    result = READERS[sys.argv[1]](*map(Path, sys.argv[2:]))
    print("\n" + json.dumps(result))
