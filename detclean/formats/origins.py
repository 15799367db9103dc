"""Who made an annotation and when, as far as a COCO file says: keys of its records that no other reader looks at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from detclean.dataset import Dataset
from detclean.errors import DatasetError
from detclean.formats.jsonfile import NOT_AS_EXPECTED, decode_as, load_json, read_bytes

PEOPLE = (
    *("annotator", "annotator_id", "annotator_name", "annotated_by", "annotation_author", "worker", "worker_id", "user", "user_id"),
    *("username", "user_name", "created_by", "created_username", "updated_by", "completed_by", "author", "creator", "labeler", "labeller"),
    *("labeled_by", "labelled_by", "assignee", "reviewer", "reviewed_by", "owner"),
)
WORK = (
    *("source", "origin", "provider", "vendor", "team", "batch", "batch_id", "task", "task_id", "task_name", "job", "job_id", "project"),
    *("project_id", "project_name", "session", "subset", "sequence", "video", "video_id", "camera", "camera_id", "device", "location"),
)
TIMES = ("date_captured", "created_at", "updated_at", "completed_at", "created", "updated", "timestamp", "datetime", "date", "time")
KEYS = (*PEOPLE, *WORK, *TIMES)
NESTED = ("attributes", "extra", "meta", "metadata")  # where tools put what COCO has no key for
LONGEST = 80  # characters of a value
TOLD_BY_ITS_KEYS = {re.sub("[^a-z]", "", key): key for key in reversed(KEYS)}  # created_by, createdBy and created-by are one


def _spell(key: str) -> list[str]:
    first, *others = key.split("_")
    camel = first + "".join(part.capitalize() for part in others)
    return list(dict.fromkeys([key, camel, camel[:1].upper() + camel[1:], key.replace("_", "-"), key.upper()]))


SPELLINGS = tuple(dict.fromkeys(spelling for key in (*KEYS, *NESTED) for spelling in _spell(key)))
FIELDS = [f"f{i}" for i in range(len(SPELLINGS))]
RECORD = msgspec.defstruct(
    "Record",
    [("identity", Any, None), *((name, Any, None) for name in FIELDS)],
    rename={"identity": "id", **dict(zip(FIELDS, SPELLINGS, strict=True))},
    gc=False,
)
DOCUMENT = msgspec.defstruct("Origins", [("images", list[RECORD]), ("annotations", list[RECORD])])  # type: ignore[valid-type]


def read_origins(dataset: Dataset) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the source says of the origin of images (N rows) and annotations (n rows), a column of text for each of KEYS that occurs.

    Tables without columns where the source is no COCO file, is gone, or is no longer what was read: origins are worth a look, not an error.
    """
    nothing = pl.DataFrame(), pl.DataFrame()
    if dataset.format != "coco":
        return nothing
    try:
        document: Any = _read(dataset)
    except DatasetError:
        return nothing
    rows = dataset.source_rows
    if len(rows) and int(rows.max()) >= len(document.annotations):
        return nothing
    place = {str(record.identity): record for record in reversed(document.images)}  # of several with one id the first was read
    images = [place.get(identity) for identity in dataset.images["image_id"].cast(pl.String).to_list()]
    if None in images:
        return nothing
    return _tabulate(images), _tabulate([document.annotations[i] for i in rows.tolist()])


def _read(dataset: Dataset) -> Any:
    content = read_bytes(dataset.source)
    try:
        return decode_as(content, DOCUMENT)
    except NOT_AS_EXPECTED:
        try:
            return msgspec.convert(load_json(dataset.source), DOCUMENT)
        except msgspec.ValidationError as error:
            raise DatasetError(f"{dataset.source}: is no COCO file any more ({error}); repeat the run") from None


def _tabulate(records: Sequence[Any]) -> pl.DataFrame:
    """Columns of text, one for each key that any record has with a plain value."""
    columns: dict[str, list[str | None]] = {}
    for spelling, name in zip(SPELLINGS, FIELDS, strict=True):
        values = [getattr(record, name) for record in records]
        if all(value is None for value in values):
            continue
        if spelling.lower() in NESTED:
            for key in _keys_inside(values):
                _fill(columns, TOLD_BY_ITS_KEYS[_fold(key)], [v.get(key) if isinstance(v, Mapping) else None for v in values])
        else:
            _fill(columns, TOLD_BY_ITS_KEYS[_fold(spelling)], values)
    kept = {key: columns[key] for key in KEYS if key in columns}
    return pl.DataFrame({key: pl.Series(values, dtype=pl.String) for key, values in kept.items()})


def _keys_inside(values: Sequence[Any]) -> list[str]:
    keys = dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value)
    return [key for key in keys if isinstance(key, str) and _fold(key) in TOLD_BY_ITS_KEYS]


def _fold(key: str) -> str:
    return re.sub("[^a-z]", "", key.lower())


def _fill(columns: dict[str, list[str | None]], key: str, values: Sequence[Any]) -> None:
    """Adds what `values` know to a column; of several spellings the first that has a value counts."""
    texts = [_as_text(value) for value in values]
    before = columns.get(key)
    texts = texts if before is None else [old if old is not None else new for old, new in zip(before, texts, strict=True)]
    if any(text is not None for text in texts):
        columns[key] = texts


def _as_text(value: Any) -> str | None:
    """Numbers and names; of a record that names somebody, its name or id: Label Studio has completed_by as a record."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("username", "name", "email", "id") if value.get(key) is not None), None)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "" or (isinstance(value, float) and np.isnan(value)):
        return None
    return str(value).strip()[:LONGEST] or None
