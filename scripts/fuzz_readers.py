"""What is fuzzed: for each reader how an input comes about that is good but for a few changes, and what is done with it.

`make` writes the input of a case into an empty folder; `read` reads it and goes on with what was read, writing below `work` alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fuzz_mutate as mutate
import numpy as np
import polars as pl
import yaml
from fuzz_pictures import pick_picture

from detclean.audit import audit_dataset
from detclean.audit.images import hash_chunk
from detclean.boxes import Boxes
from detclean.config import config_as_yaml, read_config
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.edit.changes import find_changes
from detclean.edit.decisions import Decision, DecisionLog, read_decisions
from detclean.edit.proposals import propose_cleaning
from detclean.formats import read_dataset, read_detections, write_cleaned
from detclean.formats.imagefiles import read_image_sizes
from detclean.formats.origins import read_origins
from detclean.handover import export_run, import_decisions
from detclean.health import open_groupings, read_health
from detclean.pipeline.apply import undo_decisions
from detclean.report.compared import gather_compared
from detclean.runfolder import open_run
from detclean.score.answers import compare_with_answers
from detclean.score.issues import COLUMNS, POSITIONS
from detclean.show.issue_lists import write_issues
from detclean.show.photos import READING_FAILS, open_photo

Random = random.Random
NAMES = ("cat", "dog", "bird")
STRATEGIES = ("fix", "drop_boxes", "drop_images")
SIDES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Place:
    """case: the input of this case, which nothing may change. work: where is written. template: good inputs, made once."""

    case: Path
    work: Path
    template: Path


def change(rng: Random, content: bytes, most: int = 3) -> bytes:
    for _ in range(rng.randrange(most) + 1):
        content = mutate.mutate_bytes(rng, content)
    return content


def change_json(rng: Random, document: Any, key: str) -> bytes:
    """A document with a few changes to its structure, its bytes, or both."""
    if mutate.chance(rng, 150):
        return mutate.make_monster(rng, key)
    act = rng.randrange(10)
    if act < 7:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            document = mutate.mutate_structure(rng, document)
    content = mutate.write_json(rng, document)
    return change(rng, content, 2) if act >= 6 else content


# Data sets


def put_pictures(rng: Random, folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        ending, content = pick_picture(rng, plain=not mutate.chance(rng, 12))
        path = folder / f"p{i}{ending}"
        path.write_bytes(content)
        paths.append(path)
    return paths


def make_coco(rng: Random, case: Path) -> None:
    paths = put_pictures(rng, case / "images", 3)
    images = [{"id": 10 + i, "file_name": path.name, "width": 32, "height": 24} for i, path in enumerate(paths)]
    annotations = [
        {"id": i, "image_id": 10 + i % 3, "category_id": 1 + i % 3, "bbox": [1 + i, 2.5, 8, 9], "area": 72, "iscrowd": 0}
        | ({"segmentation": [[1, 2, 3, 4, 5, 6]], "created_by": "ann", "attributes": {"worker": "x"}} if i % 2 else {})
        for i in range(6)
    ]
    document = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)],
    }
    by_name = mutate.chance(rng, 6)
    if by_name:
        mutate.mutate_folder(rng, case / "images")
    plain = by_name and mutate.chance(rng, 2)
    content = json.dumps(document).encode() if plain else change_json(rng, document, rng.choice(("images", "annotations", "categories")))
    (case / "annotations.json").write_bytes(content)
    if mutate.chance(rng, 40):
        mutate.mutate_folder(rng, case)


def make_yolo(rng: Random, case: Path) -> None:
    listed = mutate.chance(rng, 4)
    for split, count in (("train", 3), ("val", 1)):
        paths = put_pictures(rng, case / "images" / split, count)
        (case / "labels" / split).mkdir(parents=True)
        for path in paths:
            rows = [f"{i % 3} 0.{4 + i} 0.5 0.{2 + i} 0.25" for i in range(2)]
            rows += ["1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6"] if mutate.chance(rng, 8) else []
            content = "\n".join(rows).encode() + b"\n"
            (case / "labels" / split / f"{path.stem}.txt").write_bytes(change(rng, content) if mutate.chance(rng, 2) else content)
        if listed:
            content = "".join(f"./images/{split}/{path.name}\n" for path in paths).encode()
            (case / f"{split}.txt").write_bytes(change(rng, content) if mutate.chance(rng, 2) else content)
    document: Any = {split: f"{split}.txt" if listed else f"images/{split}" for split in ("train", "val")} | {"names": list(NAMES), "nc": 3}
    if mutate.chance(rng, 3):
        document = {"path": str(case)} | document
    if mutate.chance(rng, 3):
        document["names"] = dict(enumerate(NAMES))
    odd = mutate.chance(rng, 3)
    (case / "data.yaml").write_bytes(make_yaml(rng, document) if odd else yaml.safe_dump(document).encode())
    if mutate.chance(rng, 4):
        mutate.mutate_folder(rng, case)


def make_yaml(rng: Random, document: Any) -> bytes:
    """YAML with changes; some of it is deep, some refers to itself or swells."""
    if mutate.chance(rng, 40):
        key = rng.choice(list(document))
        bomb = "".join(
            f"{'abcdefghi'[i]}: &{'abcdefghi'[i]} [{', '.join(['*' + 'abcdefghi'[i - 1]] * 9) if i else '1, 2, 3'}]\n" for i in range(9)
        )
        deep = f"{key}: {'[' * 3000}{']' * 3000}\n"
        loop = f"{key}: &x [*x, 1]\n"
        maps = f"{key}: &x {{0: *x}}\n"
        rest = yaml.safe_dump({name: value for name, value in document.items() if name != key})
        swollen = bomb + f"{key}: *i\n"
        return (
            rest + rng.choice((deep, loop, maps, swollen, f"{key}: {'9' * 5000}\n", f"{key}: 0x{'f' * 5000}\n", f"{key}: {'1:' * 900}1\n"))
        ).encode()
    act = rng.randrange(3)
    if act:
        document = mutate.mutate_structure(rng, document)
    try:
        content = yaml.safe_dump(document, allow_unicode=mutate.chance(rng, 2), sort_keys=False).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:  # a text that YAML has no way to write
        content = json.dumps(document, default=str).encode("utf-8", "surrogatepass")
    return content if act == 1 else change(rng, content, 2)


def make_voc(rng: Random, case: Path) -> None:
    paths = put_pictures(rng, case / "JPEGImages", 3)
    (case / "Annotations").mkdir()
    for path in paths:
        things = "".join(
            f"\t<object>\n\t\t<name>{NAMES[i]}</name><difficult>0</difficult>\n\t\t<bndbox><xmin>{i + 1}</xmin><ymin>2</ymin>"
            f"<xmax>{i + 9}.5</xmax><ymax>14</ymax></bndbox>\n\t</object>\n"
            for i in range(2)
        )
        size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
        text = f"<annotation>\n\t<filename>{path.name}</filename>\n\t{size}\n{things}</annotation>\n".encode()
        (case / "Annotations" / f"{path.stem}.xml").write_bytes(change_xml(rng, text) if mutate.chance(rng, 2) else text)
    for split, stems in (("train", paths[:2]), ("val", paths[2:])):
        listed = case / "ImageSets" / "Main" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{path.stem}\n" for path in stems).encode()
        listed.write_bytes(change(rng, content) if mutate.chance(rng, 8) else content)
    if mutate.chance(rng, 4):
        mutate.mutate_folder(rng, case)


def change_xml(rng: Random, text: bytes) -> bytes:
    if mutate.chance(rng, 25):
        swell = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 10}">' for i in range(9))
        deep, many = b"<a>" * 50_000 + b"</a>" * 50_000, b"<a/>" * 100_000
        entity = b'<!DOCTYPE a [<!ENTITY e0 SYSTEM "file:///etc/passwd">]>'
        added = rng.choice(
            (
                b"<!DOCTYPE a [" + swell.encode() + b"]>",
                entity,
                b'<?xml version="1.0" encoding="zip"?>',
                b'<?xml version="1.0" encoding="utf-7"?>',
            )
        )
        if mutate.chance(rng, 2):
            return added + (text.replace(b"cat", b"&e8;").replace(b"1<", b"&e0;<"))
        return text.replace(b"</annotation", rng.choice((deep, many)) + b"</annotation")
    if mutate.chance(rng, 3):
        tags = ["annotation", "object", "bndbox", "name", "xmin", "size", "width", "filename", "image", "box", "annotations"]
        old, new = rng.sample(tags, 2)
        other = rng.choice((new, f"{old} a='1'", f"x:{old}", old.upper()))
        return text.replace(f"{old}>".encode(), f"{other}>".encode(), rng.randrange(1, 5))
    if mutate.chance(rng, 4):
        return text.replace(
            rng.choice((b"cat", b".png", b"p0", b"32", b"2<", b"\t", b"label=")), rng.choice(mutate.TEXTS).encode("utf-8", "surrogatepass")
        )
    return change(rng, text)


def read_coco(place: Place, rng: Random) -> None:
    whole = read_dataset(place.case / "annotations.json", rng.choice((None, None, None, "none", place.case / "images")))
    read_origins(whole)
    use_dataset(whole, place, rng)


def read_yolo(place: Place, rng: Random) -> None:
    use_dataset(read_dataset(place.case / "data.yaml"), place, rng)


def read_voc(place: Place, rng: Random) -> None:
    use_dataset(read_dataset(place.case, rng.choice((None, None, None, "none"))), place, rng)


def use_dataset(whole: Dataset, place: Place, rng: Random) -> None:
    """What a run does with a data set that was read: audit, the stage's files, issues in every list, a cleaned copy, read again."""
    require_sound(whole)
    audit = audit_dataset(whole)
    stage = place.work / "stage"
    stage.mkdir()
    write_dataset(whole, stage)
    whole = open_dataset(stage)
    require_sound(whole)
    if any(finding.severity == "error" for finding in audit.findings):
        return  # what stops a run before its training
    part = whole.select_split(rng.choice(("train", "all")))
    issues = make_issues(rng, part)
    write_issues(issues, part, place.work, ("csv", "coco", "yolo"))
    strategy = rng.choice(STRATEGIES)
    cleaning = propose_cleaning(part, issues, strategy, 0.0)  # type: ignore[arg-type]
    out = place.work / "cleaned"
    write_cleaned(part, cleaning.edits, out, drop_images=cleaning.drop_images, copy_images=mutate.chance(rng, 4))
    if cleaning.drop_images or any(edit.action == "delete" for edit in cleaning.edits):
        return
    source = {"yolo": out / "data.yaml", "coco": out / "annotations.json", "voc": out}[whole.format]
    again = read_dataset(source, "none" if whole.format != "yolo" else None)
    added = sum(edit.action == "add" for edit in cleaning.edits)
    if whole.format != "yolo" and len(again.annotations) < len(whole.annotations) + added:
        raise AssertionError(f"cleaned: {len(again.annotations)} annotations of {len(whole.annotations)} and {added} added")


def require_sound(dataset: Dataset) -> None:
    """What the rest of detclean may trust in. Raises AssertionError."""
    boxes = dataset.annotations
    checks = {
        "finite": bool(np.isfinite(boxes.xyxy).all()),
        "images": bool(((boxes.image_index >= 0) & (boxes.image_index < dataset.image_count)).all()),
        "sorted": bool((np.diff(boxes.image_index) >= 0).all()),
        "categories": bool(((boxes.category >= 0) & (boxes.category < len(dataset.categories))).all()),
        "names": len(set(dataset.categories)) == len(dataset.categories),
        "ids": dataset.images["image_id"].null_count() == 0,
        "sizes": bool((dataset.sizes > 0).all()),
        "rows": len(dataset.source_rows) == len(boxes),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise AssertionError(f"unsound: {wrong}")


def make_issues(rng: Random, dataset: Dataset) -> pl.DataFrame:
    """A few issues of every kind, as a run would list them."""
    boxes, ids = dataset.annotations, dataset.annotations.annotation_id
    rows: list[dict[str, Any]] = []
    chosen = rng.sample(range(len(boxes)), min(len(boxes), 4))
    for annotation in [*chosen, *([None] * 2 if dataset.image_count and dataset.categories else [])]:
        image = rng.randrange(dataset.image_count) if annotation is None else int(boxes.image_index[annotation])
        width, height = dataset.sizes[image].tolist()
        box = (0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height)
        row: dict[str, Any] = {"rank": len(rows) + 1, "probability": rng.random(), "verdict": rng.choice(("noisy", "hard")), "votes": 1}
        row |= {"image_id": dataset.images["image_id"][image], "file_name": dataset.images["file_name"][image], "image_index": image}
        row |= {f"suggested_{side}": value for side, value in zip(SIDES, box, strict=True)} | {
            "reason": "it is fuzzed",
            "detector_score": 0.5,
        }
        row |= {"suggested_category": rng.choice(dataset.categories), "annotation": annotation, "iou": 0.1}
        if annotation is None:
            row |= {
                "issue_type": "overlooked",
                "action": "add",
                "annotation_id": None,
                "category": None,
                "source": "",
                **dict.fromkeys(SIDES),
            }
        else:
            action, kind = rng.choice((("relabel", "swap"), ("move", "badloc"), ("delete", "spurious"), ("review", "swap")))
            row |= {
                "issue_type": kind,
                "action": action,
                "annotation_id": None if ids is None else ids[annotation : annotation + 1].tolist()[0],
            }
            row |= {"category": dataset.categories[int(boxes.category[annotation])], "source": dataset.describe_source(annotation)}
            row |= dict(zip(SIDES, boxes.xyxy[annotation].tolist(), strict=True))
        rows.append(row)
    numbers = dict.fromkeys((*SIDES, *(f"suggested_{side}" for side in SIDES), "probability", "detector_score", "iou"), pl.Float64)
    whole = dict.fromkeys(("rank", "votes", *POSITIONS), pl.Int64)
    number = np.issubdtype(np.asarray(ids).dtype, np.integer) if ids is not None else False
    kinds = dict.fromkeys((*COLUMNS, *POSITIONS), pl.String) | numbers | whole
    kinds |= {"image_id": dataset.images["image_id"].dtype, "annotation_id": pl.Int64 if number else pl.String}  # type: ignore[dict-item]
    return pl.DataFrame([{name: row.get(name) for name in kinds} for row in rows], schema=kinds)


# Files beside the data set


def _boxes_of(format: str) -> Dataset:
    """Three images that detections can be of, without a file."""
    known: dict[str, list[Any]] = {"coco": [10, 11, 12], "yolo": [f"images/p{i}.png" for i in range(3)], "voc": ["p0", "p1", "007"]}
    names = known[format]
    files = [str(name) if format == "yolo" else f"p{i}.png" for i, name in enumerate(names)]
    images = pl.DataFrame({"image_id": names, "file_name": files, "width": [32] * 3, "height": [24] * 3})
    images = images.with_columns(*(pl.lit(None, pl.String).alias(name) for name in ("path", "label_path", "split")))
    ids: tuple[Any, ...] = {"coco": (1, 2, 3), "yolo": (0, 1, 2), "voc": NAMES}[format]
    return Dataset(images, NAMES, Boxes.empty(), np.empty(0, np.int64), format, Path("source"), ids)  # type: ignore[arg-type]


def make_results(rng: Random, case: Path) -> None:
    if mutate.chance(rng, 3):
        (case / "results").mkdir()
        for i in range(3):
            text = "".join(f"{k} 0.5 0.{k + 1} 0.25 0.3 0.{k + 5}\n" for k in range(3)).encode()
            (case / "results" / f"p{i}.txt").write_bytes(change(rng, text) if mutate.chance(rng, 2) else text)
        if mutate.chance(rng, 6):
            mutate.mutate_folder(rng, case)
        return
    vectors = rng.choice(({}, {}, {"class_scores": [0.1, 0.7, 0.2]}))
    rows: Any = [{"image_id": 10 + i % 3, "category_id": 1 + i % 3, "bbox": [1, 2, 8.5, 9], "score": 0.5, **vectors} for i in range(5)]
    (case / "results.json").write_bytes(change_json(rng, rng.choice((rows, {"annotations": rows})), "annotations"))


def read_results(place: Place, rng: Random) -> None:
    folder = place.case / "results"
    for format in ("yolo", "voc") if folder.exists() else ("coco",):
        boxes = read_detections(folder if folder.exists() else place.case / "results.json", _boxes_of(format))
        if not np.isfinite(boxes.xyxy).all() or boxes.score is None or not ((boxes.score >= 0) & (boxes.score <= 1)).all():
            raise AssertionError("unsound detections")


def make_decisions(rng: Random, case: Path) -> None:
    records = [
        {"issue": f"{i:012x}", "verdict": "accept", "image_id": "images/train/0.png", "annotation_id": i, "category": "red square"}
        | {"xyxy": [1.0, 2.0, 30.5, 40], "at": "2026-01-01T00:00:00+00:00", "by": "review", "given_category": "blue square"}
        | {"given_xyxy": [1, 2, 3, 4]}
        for i in range(4)
    ]
    lines = [
        change_json(rng, record, "xyxy").replace(b"\n", b" ") if mutate.chance(rng, 3) else json.dumps(record).encode()
        for record in records
    ]
    content = b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))
    (case / "decisions.jsonl").write_bytes(change(rng, content) if mutate.chance(rng, 3) else content)
    if mutate.chance(rng, 60):
        mutate.mutate_folder(rng, case)


def read_decision_log(place: Place, rng: Random) -> None:
    run = open_run(place.template / "run")
    shutil.copytree(place.case, place.work / "run", symlinks=True, copy_function=_copy_plain)
    folder = place.work / "run"
    decisions = read_decisions(folder)
    find_changes(run.dataset, run.issues, decisions, 0.5)
    DecisionLog(folder).append([Decision("box-new", "accept", "images/train/01.png", None, "red square", (1.0, 2.0, 3.0, 4.0))])
    if "box-new" not in read_decisions(folder):
        raise AssertionError("what was appended is not there")
    export_run(replace(run, folder=folder), rng.choice(("coco", "cvat", "labelstudio")))


def _copy_plain(source: str, target: str) -> str:
    """Pipes and the like are not copied."""
    return str(shutil.copyfile(source, target)) if os.path.isfile(source) else target


CONFIG: dict[str, Any] = {
    "name": "fuzzed",
    "data": "annotations.json",
    "images": "none",
    "split": "train",
    "model": "x.pt",
    "predictions": "annotations.json",
    "folds": {"k": 5, "repeats": 1, "seed": 0, "group_by": "auto"},
    "train": {"epochs": 30, "imgsz": 160, "batch": 16, "device": "cpu", "lr0": 0.01},
    "predict": {"conf": 0.01, "iou": 0.6, "max_det": 300},
    "score": {"planting_rounds": 30},
    "issues": {"target_precision": 0.8, "budget": None, "types": ["overlooked", "badloc"]},
    "clean": {"strategy": "fix", "min_probability": None},
    "export": {"formats": ["csv", "coco", "yolo"]},
}


def make_config(rng: Random, case: Path) -> None:
    (case / "annotations.json").write_text("{}")
    document = json.loads(json.dumps(CONFIG))
    (case / "c.yaml").write_bytes(make_yaml(rng, document) if not mutate.chance(rng, 4) else yaml.safe_dump(document).encode())
    words = [*CONFIG, *(f"{section}.{key}" for section, keys in CONFIG.items() if isinstance(keys, dict) for key in keys), "a.b.c", "", "."]
    values = [
        *mutate.TEXTS,
        *map(str, mutate.NUMBERS),
        "[1, 2]",
        "{a: 1}",
        "[" * 3000,
        "!!python/name:os.system",
        "&x [*x]",
        "0x" + "f" * 5000,
    ]
    overrides = [rng.choice(words) + rng.choice(("=", "=", "=", "", " = ")) + rng.choice(values) for _ in range(rng.randrange(3))]
    (case / "overrides.json").write_text(json.dumps(overrides))


def read_configuration(place: Place, rng: Random) -> None:
    config = read_config(place.case / "c.yaml", json.loads((place.case / "overrides.json").read_text()))
    (place.work / "again.yaml").write_text(config_as_yaml(config), errors="surrogatepass")
    if read_config(place.work / "again.yaml") != config:
        raise AssertionError("the resolved configuration is read as another one")


def make_answers(rng: Random, case: Path) -> None:
    entry = {"file_name": "images/train/01.png", "category": "red square", "bbox": [1, 2, 30, 40], "issue_type": "swap"}
    document = {"planted": [entry, entry | {"issue_type": "overlooked"}], "hard": [entry]}
    (case / "answers.json").write_bytes(change_json(rng, document, "planted"))


def read_answer_key(place: Place, rng: Random) -> None:
    compare_with_answers(open_run(place.template / "run").issues, place.case / "answers.json")


# Run folders, and what comes back from annotation tools


def make_run(rng: Random, case: Path, template: Path) -> None:
    """A finished run of which one file is damaged: hard links, but for that one."""
    shutil.copytree(template / "run", case / "run", symlinks=True, copy_function=os.link)
    wanted = ("summary.json", "dataset.json", "patch.json", "compare.json", "health.json", "copy.json", "decisions.jsonl", "config.yaml")
    files = [path for path in sorted((case / "run").rglob("*")) if path.is_file() and (path.name in wanted or path.suffix == ".parquet")]
    by_kind = [path for path in files if path.suffix != ".parquet"] if mutate.chance(rng, 2) else files
    path = rng.choice(by_kind)
    content = path.read_bytes()
    path.unlink()
    act = rng.randrange(8)
    if act == 0:
        mutate.put_oddity(rng.choice([kind for kind in mutate.LINKS if kind != "file"]), path)
    elif path.suffix == ".json" and act < 6:
        path.write_bytes(change_json(rng, json.loads(content), "stages"))
    elif path.suffix == ".parquet" and act < 6:
        write_changed_table(rng, content, path)
    else:
        path.write_bytes(change(rng, content))


def write_changed_table(rng: Random, content: bytes, path: Path) -> None:
    """A Parquet file that is whole, and whose table is not what it was."""
    table = pl.read_parquet(content)
    name = rng.choice(table.columns)
    other = rng.choice(table.columns)
    act = rng.randrange(7)
    if act == 0:
        table = table.drop(name)
    elif act == 1:
        table = table.rename({name: f"{name}s"})
    elif act == 2:
        table = table.with_columns(pl.lit(rng.choice((None, "x", 1.5, -1, True))).alias(name))
    elif act == 3:
        table = table.head(rng.randrange(table.height + 1))
    elif act == 4:
        table = table.with_columns(pl.col(other).alias(name))
    elif act == 5 and table[name].dtype.is_numeric():
        table = table.with_columns(pl.col(name) * rng.choice((-1, 1_000_000)))
    else:
        table = pl.concat([table, table.head(1)])
    table.write_parquet(path)


def read_run(place: Place, rng: Random) -> None:
    folder = place.work / "run"
    shutil.copytree(place.case / "run", folder, symlinks=True, copy_function=_copy_plain)
    try:
        run = open_run(folder)
        for name in ("annotations", "candidates", "images", "detections"):
            run.table(name)
        find_changes(run.dataset, run.issues, read_decisions(folder))
        require_sound(run.dataset)
    finally:
        health = read_health(folder)
        if health is not None:
            open_groupings(health)
    gather_compared(run)
    undo_decisions(folder)


def make_imports(rng: Random, case: Path, template: Path) -> None:
    kind = rng.choice(("labelstudio.json", "cvat.xml", "coco.json", "cvat.zip"))
    content = (template / "back" / kind).read_bytes()
    if kind.endswith("json"):
        content = change_json(rng, json.loads(content), rng.choice(("annotations", "images", "data")))
    else:
        content = change_xml(rng, content) if kind.endswith("xml") else change(rng, content)
    (case / kind).write_bytes(content)
    if mutate.chance(rng, 80):
        mutate.mutate_folder(rng, case)


def read_imports(place: Place, rng: Random) -> None:
    run = replace(open_run(place.template / "run"), folder=place.work)
    for path in sorted(place.case.iterdir()):
        import_decisions(run, path)
        if import_decisions(run, path).accepted:
            raise AssertionError("a second import of the same file accepts something")
    find_changes(run.dataset, run.issues, read_decisions(place.work))


# Pictures


def make_images(rng: Random, case: Path) -> None:
    ending, content = pick_picture(rng)
    act = rng.randrange(4)
    if act and content:
        head = change(rng, content[:200], 2)
        content = change(rng, content) if act > 1 else head + content[200:]
    (
        case / f"a{ending if not mutate.chance(rng, 10) else rng.choice(('.jpg', '.png', '.tif', '.dng', '.heic', '.jp2', '.avif'))}"
    ).write_bytes(content)
    if mutate.chance(rng, 60):
        mutate.mutate_folder(rng, case)


def read_images(place: Place, rng: Random) -> None:
    for path in sorted(place.case.iterdir()):
        width, height = read_image_sizes([str(path)])[0].tolist()
        if (width > 0) != (height > 0):
            raise AssertionError(f"a size of {width} x {height}")
        row = hash_chunk([(0, str(path))])[0]
        try:
            with open_photo(str(path), 0.5) as (photo, _):
                photo.resize((8, 8))
        except READING_FAILS:
            continue
        if row[4] is None and (row[3], row[4]) == (None, None):
            raise AssertionError("a picture without a size and without a problem")


Maker = Callable[[Random, Path], None]
READERS: dict[str, tuple[Callable[..., None], Callable[[Place, Random], None], int]] = {  # make, read, share of the cases
    "coco": (make_coco, read_coco, 4),
    "yolo": (make_yolo, read_yolo, 4),
    "voc": (make_voc, read_voc, 3),
    "results": (make_results, read_results, 3),
    "decisions": (make_decisions, read_decision_log, 2),
    "config": (make_config, read_configuration, 3),
    "answers": (make_answers, read_answer_key, 1),
    "run": (make_run, read_run, 2),
    "imports": (make_imports, read_imports, 3),
    "images": (make_images, read_images, 4),
}
NEEDS_TEMPLATE = ("run", "imports")  # to be made
