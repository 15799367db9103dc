"""Which new images to annotate first: the models of a run look at images without labels, and say how undecided they are."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from detclean.audit import Cache
from detclean.audit.images import find_duplicates, hash_images
from detclean.boxes import Boxes, Ints, read_boxes, write_boxes
from detclean.config import Config, read_config
from detclean.dataset import Dataset, open_dataset, write_dataset
from detclean.detect.yolo import list_folds, predict_out_of_fold
from detclean.distribute import Cluster
from detclean.errors import ConfigError, DatasetError
from detclean.files import write_whole
from detclean.formats.datayaml import printable
from detclean.formats.imagefiles import is_image_name, list_images
from detclean.health.remedies import count
from detclean.pipeline.run import find_machines
from detclean.pipeline.sources import watch_pictures
from detclean.pipeline.steps import count_auditors, open_folds
from detclean.runfolder import Run, open_run, read_table
from detclean.score.hardness import find_objects, rank_images
from detclean.show.hard_table import read_hard, write_hard
from detclean.show.progress import Display
from detclean.stages import Stage, StageContext, lock_run, run_stages

NAMED = 3  # images that are left out, by name; run.log has all
FOLDER = "hard"  # of the run folder, below which the results lie
SOURCE = "images.txt"  # in the folder of the results: which folder or list they are of


@dataclass(frozen=True)
class Ranking:
    """A finished ranking: its folder, and the rows of hard.csv."""

    folder: Path
    table: pl.DataFrame


def place_ranking(run: str | Path, images: str | Path, out: str | Path | None) -> Path:
    """The folder of the results, if not said RUN/hard/NAME, or NAME-2 where other images of that name were ranked before.

    Raises DatasetError where there are no such images, ConfigError where the results would lie among the user's pictures, or where a run
    has its own.
    """
    source = Path(images)
    if not (source.is_dir() or (source.is_file() and source.suffix.lower() == ".txt")):
        what = "is neither a folder nor a .txt that lists images" if source.exists() else "does not exist"
        raise DatasetError(f"{source}: {what}; name a folder of pictures with --images")
    folder = _find_place(Path(run), source) if out is None else Path(out)
    if (folder / "summary.json").exists():
        raise ConfigError(f"{folder}: is a run, which has a hard.csv of its own; name another folder with --out")
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{folder}: lies in the folder of the images, where nothing is written; name another one with --out")
    return folder


def _find_place(run: Path, images: Path) -> Path:
    """RUN/hard/NAME, numbered where that is of other images: the pictures of each batch may well lie in a folder `images`."""
    name = images.stem if images.is_file() else Path(os.path.abspath(images)).name or "images"
    for i in itertools.count(1):
        folder = run / FOLDER / (name if i == 1 else f"{name}-{i}")
        try:
            if (folder / SOURCE).read_bytes() == os.fsencode(os.path.abspath(images)):
                break
        except OSError:
            break
    return folder


def rank_new_images(folder: str | Path, images: str | Path, out: Path, limit: int | None, display: Display) -> Ranking:
    """Images without labels, those to annotate first in front -> hard.csv, hard.txt in `out`.

    folder: of a run with models of its own, each of which looks at every image: none has seen them. images: a folder, or a .txt that
    lists pictures. limit: the most images in hard.txt. What is done already is not done again. Raises ConfigError, DatasetError and
    StageError.
    """
    run = open_run(folder)
    config = read_config(run.folder / "config.yaml", [])
    if config.predictions is not None:
        remedy = "run with model and train, or rank with detections of the new images as a run of their own"
        raise ConfigError(f"{run.folder}: its detections were brought, so it has no models to look at new images; {remedy}")
    paths = _list_pictures(Path(images), display)
    trained = run.stage("train" if "train" in run.summary["stages"] else "dynamics")
    with lock_run(out), find_machines(config, display) as executor:
        write_whole(out / SOURCE, os.fsencode(os.path.abspath(images)))
        stages = _stages(run, config, trained, paths, out, executor)
        settings: dict[str, Any] = {
            "pictures": {"run": str(run.stage("load"))},
            "look": {"trained": trained.name, "predict": config.model_dump(mode="json")["predict"]},
        }
        results = run_stages(stages, out, settings, display)
        dataset = open_dataset(results["pictures"].folder)
        duplicates = read_table(results["pictures"].folder / "duplicates.parquet")
        ranked = _rank(dataset, results["look"].folder, open_folds(run.stage("folds")), duplicates)
        write_hard(ranked, dataset.images, dataset.categories, out, listed=limit)
        facts = orjson.loads((results["pictures"].folder / "facts.json").read_bytes())
        for words in facts["told"]:
            display.say(words)
    return Ranking(out, read_hard(out))


def _list_pictures(source: Path, display: Display) -> list[tuple[str, str]]:
    """Name and absolute path of each picture, once. Raises DatasetError where there is none."""
    if source.is_dir():
        names = list_images(source)
        pairs = [(name, os.path.abspath(source / name)) for name in names]
    else:
        lines = [line.strip() for line in source.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()]
        tries = [(line, [os.path.abspath(place / line) for place in (source.parent, Path.cwd())]) for line in lines if is_image_name(line)]
        pairs = [(line, next((path for path in places if os.path.isfile(path)), places[0])) for line, places in tries]
    odd = [path for _, path in pairs if printable(path) != path or len(path.splitlines()) > 1]
    if odd:
        first = ", ".join(printable(os.path.basename(path)) for path in odd[:NAMED])
        display.say(f"{count(len(odd), 'image')} left out, as their names are not UTF-8 or hold line breaks: rename them ({first})")
    pairs = [(name, path) for name, path in pairs if path not in set(odd)]
    if not pairs:
        raise DatasetError(f"{source}: holds no images; name a folder of pictures, or a .txt with a picture's path on each line")
    return list({path: (name, path) for name, path in reversed(pairs)}.values())[::-1]


def _stages(
    run: Run, config: Config, trained: Path, paths: list[tuple[str, str]], out: Path, executor: Cluster | None
) -> tuple[Stage, Stage]:
    workers = None if config.workers == "auto" else config.workers
    look = partial(_look, run=run, trained=trained, device=config.train.get("device"), workers=workers, executor=executor)
    return (
        Stage("pictures", partial(_read_pictures, run=run, paths=paths, cache=out / "cache" / "pictures"), content_addressed=True),
        Stage("look", watch_pictures(look, "pictures"), needs=("pictures",), resumable=True),
    )


def _read_pictures(context: StageContext, run: Run, paths: list[tuple[str, str]], cache: Path) -> None:
    """The pictures as a data set without labels, and which of them repeat each other.

    Left out are those that cannot be read, and those of the run itself, by path or by bytes: their labels exist, and models have learnt
    them. What of other splits is among them is told: nobody has learnt it, but it may have labels.
    """
    display = context.display
    states = [os.stat(path) if os.path.isfile(path) else None for _, path in paths]
    images = pl.DataFrame(
        {
            "image_id": [name for name, _ in paths],
            "file_name": [name for name, _ in paths],
            "path": [path for _, path in paths],
            "bytes": [state and state.st_size for state in states],
            "modified_ns": [state and state.st_mtime_ns for state in states],
        },
        schema={"image_id": pl.String, "file_name": pl.String, "path": pl.String, "bytes": pl.Int64, "modified_ns": pl.Int64},
    ).with_columns(label_path=pl.lit(None, pl.String), width=pl.lit(0), height=pl.lit(0), split=pl.lit(None, pl.String))
    nothing = Boxes.empty()
    dataset = Dataset(images, run.dataset.categories, nothing, np.empty(0, np.int64), "memory", Path(context.settings["run"]))

    def progress(done: int, total: int) -> None:
        display.advance("pictures", done, total)

    hashes = hash_images(dataset, workers=count_auditors(), progress=progress, cache=Cache(cache, display.log))
    own, others = _find_known(hashes.with_columns(dataset.images["path", "bytes"]), run)
    unreadable = hashes["problem"].is_not_null()
    told = [
        *_tell("left out that cannot be read", images.filter(unreadable), display),
        *_tell("left out that the run's models have learnt, whose labels exist", images.filter(~unreadable & own), display),
        *_tell("in another split of the run's data set, where labels may exist", images.filter(~unreadable & others), display),
    ]
    kept = ~unreadable & ~own
    if not kept.any():
        raise DatasetError(f"--images: of {count(images.height, 'image')} none is left: {'; '.join(told)}; name images without labels")
    sizes = hashes.select("width", "height")
    chosen = replace(dataset, images=images.with_columns(sizes["width"], sizes["height"]).filter(kept))
    position = np.cumsum(kept.to_numpy()) - 1
    remaining = hashes.filter(kept).with_columns(image_index=pl.Series(position[kept.to_numpy()]))
    write_dataset(chosen, context.out)
    find_duplicates(remaining).write_parquet(context.out / "duplicates.parquet")
    write_whole(context.out / "facts.json", orjson.dumps({"told": told}))


def _tell(what: str, images: pl.DataFrame, display: Display) -> list[str]:
    """One sentence about images, none where there are none; the log has all of their names."""
    names = images["file_name"].to_list()
    if not names:
        return []
    for name in names:
        display.log(f"{what}: {name}")
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return [f"{count(len(names), 'image')} {what} ({', '.join(names[:NAMED])}{more})"]


def _find_known(hashes: pl.DataFrame, run: Run) -> tuple[pl.Series, pl.Series]:
    """Which pictures (n,) are among those that the run's models have learnt, and which are elsewhere in its data set.

    hashes: with path and bytes. Of the run only files of the same size are read.
    """
    part = set(run.dataset.images["path"].drop_nulls().to_list())
    known = open_dataset(run.stage("load") / "all").images.filter(pl.col("path").is_not_null())
    real = {os.path.realpath(path): path in part for path in known["path"].to_list()}
    alike = known.filter(pl.col("bytes").is_in(hashes["bytes"].drop_nulls().implode()))["path"].to_list()
    digests: dict[str, bool] = {}
    for path in alike:
        try:
            digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()  # as `hash_images` has it
        except OSError:
            continue  # it was moved since the run
        digests[digest] = digests.get(digest, False) or path in part
    pairs = zip(hashes["path"].to_list(), hashes["digest"].to_list(), strict=True)
    found = [
        [places[key] for places, key in ((real, os.path.realpath(path)), (digests, digest)) if key in places] for path, digest in pairs
    ]
    own = [any(each) for each in found]
    others = [bool(each) and not any(each) for each in found]
    return pl.Series(own, dtype=pl.Boolean), pl.Series(others, dtype=pl.Boolean)


def _look(context: StageContext, run: Run, trained: Path, device: Any, workers: int | None, executor: Cluster | None) -> None:
    """What every model of the run sees in every image: each model gets images of its own to hold out, which are all of them again."""
    dataset = open_dataset(context.inputs["pictures"])
    if executor is not None:
        executor.expect_pictures(dataset.images["path"].to_list())
    n = dataset.image_count
    folds = _give_each_model_all(open_folds(run.stage("folds")), n)
    again = replace(dataset, images=pl.concat([dataset.images] * (folds.shape[1] // n)))
    seen = predict_out_of_fold(
        again,
        folds,
        trained,
        context.out,
        looks=Boxes.empty(),
        predict=context.settings["predict"],
        device=device,
        workers=workers,
        executor=executor,
        display=context.display,
    )
    columns = seen.detections.columns()
    write_boxes(Boxes.sorted(**columns | {"image_index": columns["image_index"] % n}), context.out / "detections.parquet")


def _give_each_model_all(folds: Ints, image_count: int) -> Ints:
    """The folds of as many copies of the new images as a repeat has models: each holds out one whole copy. -> (repeats, copies x n)."""
    models = [[part.fold for part in list_folds(folds) if part.repeat == repeat] for repeat in range(len(folds))]
    copies = max(len(row) for row in models)
    padded = np.array([row + [-1] * (copies - len(row)) for row in models])
    return np.repeat(padded, image_count, axis=1)


def _rank(dataset: Dataset, look: Path, folds: Ints, duplicates: pl.DataFrame) -> pl.DataFrame:
    """The images as `rank_images` has them; one that shows nearly the same as a harder one comes after all others, with its name."""
    detections = read_boxes(look / "detections.parquet")
    number = np.full((len(folds), int(folds.max()) + 1), -1)
    models = list_folds(folds)
    number[[part.repeat for part in models], [part.fold for part in models]] = np.arange(len(models))
    seen = find_objects(detections, len(dataset.categories), number[detections.repeat, detections.fold], len(models))
    ranked = rank_images(seen, dataset.image_count, len(dataset.categories))
    first = _find_first(duplicates, ranked)
    names = dataset.images["file_name"].gather(first)
    alike = pl.Series("similar_to", names).set(pl.Series(first == np.arange(len(first))), None)
    ranked = ranked.with_columns(alike.gather(ranked["image_index"]), issues=pl.lit(None, pl.Int64))
    ranked = ranked.sort("category", pl.col("similar_to").is_not_null(), "rank", maintain_order=True)
    return ranked.with_columns(pl.int_range(1, pl.len() + 1).over("category").alias("rank"))


def _find_first(duplicates: pl.DataFrame, ranked: pl.DataFrame) -> Ints:
    """The hardest image of each group of images that repeat each other: (N,) positions, its own where an image is alone or is it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    whole = ranked.filter(pl.col("category").is_null())
    n = whole.height
    a, b = (duplicates[name].to_numpy() for name in ("image_a", "image_b"))
    group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)[1]
    order = whole["image_index"].to_numpy()
    hardest = np.full(group.max() + 1, -1)
    hardest[group[order[::-1]]] = order[::-1]  # the last that is written is the hardest
    first: Ints = hardest[group]
    return first
