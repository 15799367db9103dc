"""Data sets as files: one module a format, reading and writing together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detclean.dataset import Dataset, Edit
from detclean.errors import DatasetError
from detclean.formats import coco_patch, voc, yolo_patch
from detclean.formats.coco import read_coco, write_coco_issues
from detclean.formats.results import read_detections
from detclean.formats.voc import read_voc
from detclean.formats.yolo import read_yolo, write_yolo_issues

__all__ = [
    "edit_sources",
    "read_coco",
    "read_dataset",
    "read_detections",
    "read_voc",
    "read_yolo",
    "write_cleaned",
    "write_coco_issues",
    "write_yolo_issues",
]

IN_MEMORY = "a data set made in memory has no source files to clean; write it as YOLO or COCO and read it from there"
EXPECTED = "a YOLO data.yaml, a COCO .json or a Pascal VOC folder"


def read_dataset(data: str | Path, images: str | Path | None = None) -> Dataset:
    """The data set at a path, all its splits, its format told by the path.

    images: where the pictures of a COCO file or a VOC folder lie; None looks in the usual places, "none" says that there are none.
    Raises DatasetError where the path is none of the three formats or the data set cannot be read.
    """
    path = Path(data)
    if path.is_dir():
        return _read_folder(path, images)
    ending = path.suffix.lower()
    if ending not in (".yaml", ".yml", ".json"):
        what = "is neither .yaml nor .json" if path.exists() else "does not exist"
        raise DatasetError(f"{path}: {what}; name {EXPECTED}")
    if ending == ".json":
        return read_coco(path, images)
    return _read_yolo(path, images)


def _read_folder(folder: Path, images: str | Path | None) -> Dataset:
    if (folder / "Annotations").is_dir() or next(folder.glob("*.xml"), None):
        return read_voc(folder, images)
    yamls = [folder / name for name in ("data.yaml", "data.yml") if (folder / name).is_file()]
    if len(yamls) == 1:
        return _read_yolo(yamls[0], images)
    raise DatasetError(f"{folder}: holds no Annotations folder, no .xml and not exactly one data.yaml; name {EXPECTED}")


def _read_yolo(path: Path, images: str | Path | None) -> Dataset:
    if images is not None:
        raise DatasetError(f"{path}: a data.yaml says itself where its images lie; leave images= out")
    return read_yolo(path)


def write_cleaned(
    dataset: Dataset,
    edits: Sequence[Edit],
    out: Path,
    *,
    drop_images: Sequence[int] = (),
    copy_images: bool = False,
    final: Path | None = None,
) -> None:
    """The cleaned data set into the folder `out`, as a patch on the source files and in their format; the source stays as it is.

    dataset may be a part of its source: edits and drop_images (image_index) count in the part, every other image comes out unchanged.
    "review" edits change nothing. final: the folder's name once its stage is renamed, for what must be written absolute; default out.
    Raises DatasetError where `out` holds files already or the source has changed since it was read.
    """
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out}: is not empty; a cleaned data set goes into a new folder")
    out.mkdir(parents=True, exist_ok=True)
    working = [edit for edit in edits if edit.action != "review"]
    if dataset.format == "yolo":
        yolo_patch.write_cleaned_yolo(dataset, working, out, drop_images=drop_images, copy_images=copy_images, final=final)
    elif dataset.format == "coco":
        coco_patch.write_cleaned_coco(dataset, working, out, drop_images=drop_images, copy_images=copy_images)
    elif dataset.format == "voc":
        voc.write_cleaned_voc(dataset, working, out, drop_images=drop_images, copy_images=copy_images)
    else:
        raise DatasetError(IN_MEMORY)


def edit_sources(dataset: Dataset, edits: Sequence[Edit]) -> dict[Path, bytes]:
    """The source's own files that the edits change, with what is to stand in them; nothing is written.

    "review" edits change nothing; a record or row that no edit names keeps its bytes. Raises DatasetError where the source has changed.
    """
    working = [edit for edit in edits if edit.action != "review"]
    if dataset.format == "yolo":
        return yolo_patch.edit_yolo(dataset, working)
    if dataset.format == "coco":
        return coco_patch.edit_coco(dataset, working)
    if dataset.format == "voc":
        return voc.edit_voc(dataset, working)
    raise DatasetError(IN_MEMORY)
