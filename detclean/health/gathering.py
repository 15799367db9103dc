"""Where errors gather: by folder, by how names begin, by who annotated, by batch and camera, and by time."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from detclean.dataset import Dataset
from detclean.formats.origins import PEOPLE, TIMES, read_origins
from detclean.health.groups import RISK, Grouping, compare_annotators, compare_pieces, name_folders, name_prefixes, tally_images

MOST_GROUPS = 2000  # of a key: more are identities, not groups
BINS = 30  # of time, at most
PERIODS = ("hour", "day", "week", "month", "year")
PERIOD_CODES = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "year": "1y"}
FORMATS = {"hour": "%Y-%m-%d %H:00", "day": "%Y-%m-%d", "week": "week of %Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
LEAST_TYPICAL = 5  # images in the middle one of the periods, or longer ones are taken
KNOWN_SHARE = 0.5  # of all images or annotations whose key has to be known
UNKNOWN = "(not said)"
EARLIEST, LATEST = 1990, 2100  # years of plausible dates
NAME_DATE = r"(?:^|[^0-9])((?:19|20)\d{2})[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?:[^0-9]|$)"
SAID_DATE = r"^\s*(\d{4})[-:/.](\d{1,2})[-:/.](\d{1,2})(?:[T ]+(\d{1,2}))?"


@dataclass(frozen=True)
class Clue:
    """What may tell batches of work apart: by, a name for a person; values of images (N,) or, `each`, of annotations (n,); when: they
    are times (Datetime), else text; null where nothing is said."""

    by: str
    values: pl.Series
    each: bool
    when: bool


def find_gatherings(
    dataset: Dataset, images: pl.DataFrame, annotations: pl.DataFrame, candidates: pl.DataFrame, taken: pl.Series | None = None
) -> list[Grouping]:
    """The groupings that have two groups or more to compare, those in which a group stands out first.

    images, annotations, candidates: the tables of the run. taken (N,): when EXIF says that each picture was taken. The risk that any
    group is marked by chance holds for all groupings together.
    """
    clues = list_clues(dataset, images, annotations, taken)
    tally = tally_images(images, annotations, candidates)
    found = []
    for clue in clues:
        by, values = (clue.by, clue.values.fill_null(UNKNOWN)) if not clue.when else _cut_time(clue)
        if not 1 < values.n_unique() <= MOST_GROUPS:
            continue
        risk = RISK / len(clues)
        if clue.each:
            found.append(compare_annotators(by, values, (annotations, candidates), risk=risk, in_order=clue.when))
        else:
            found.append(compare_pieces(by, values, tally, risk=risk, in_order=clue.when))
    worth = [grouping for grouping in found if len(grouping.groups) > 1]
    return sorted(worth, key=lambda grouping: not any(group.stands_out for group in grouping.groups))


def list_clues(dataset: Dataset, images: pl.DataFrame, annotations: pl.DataFrame, taken: pl.Series | None) -> list[Clue]:
    """Everything that is known of where images and annotations come from; only the surest clock of the images and of the annotations."""
    names = images["file_name"]
    clues = []
    if (folders := name_folders(names)).n_unique() > 1:
        clues.append(Clue("folder", folders, each=False, when=False))
    if (prefixes := name_prefixes(names)).n_unique() > 1:
        clues.append(Clue("prefix", prefixes, each=False, when=False))
    of_images, of_annotations = read_origins(dataset)
    ids = dataset.annotations.annotation_id
    if ids is not None and of_annotations.width:  # crowd regions are annotations that no table of the run has
        of_annotations = _align(of_annotations, dataset, annotations)
    for table, each, what in ((of_annotations, True, "annotations"), (of_images, False, "images")):
        clock = False
        for key in table.columns:
            values = table[key]
            if key in TIMES:
                times = parse_times(values)
                if not clock and _known(times) >= KNOWN_SHARE:
                    clues.append(Clue(f"{key} of the {what}", times, each, when=True))
                    clock = True
            elif _known(values) >= KNOWN_SHARE:
                clues.append(Clue(f"{key} of the {what}", values, each, when=False))
        if not each and not clock:
            clues += _other_clock(names, taken)
    people = [clue for clue in clues if clue.by.split(" ")[0] in PEOPLE]
    return [*people, *(clue for clue in clues if clue not in people)]


def _align(origins: pl.DataFrame, dataset: Dataset, annotations: pl.DataFrame) -> pl.DataFrame:
    """Rows of the data set's annotations brought into the order of the table of the run."""
    boxes = dataset.annotations
    identity = {
        "image_id": dataset.images["image_id"].gather(boxes.image_index),
        "annotation_id": pl.Series(boxes.annotation_id).cast(annotations["annotation_id"].dtype),
    }
    known = origins.with_columns(**identity).unique(["image_id", "annotation_id"], keep="first", maintain_order=True)
    wanted = annotations.select("image_id", "annotation_id")
    return wanted.join(known, on=["image_id", "annotation_id"], how="left", maintain_order="left").drop("image_id", "annotation_id")


def _other_clock(names: pl.Series, taken: pl.Series | None) -> list[Clue]:
    for by, times in (("time in EXIF", None if taken is None else parse_times(taken)), ("date in the file name", parse_names(names))):
        if times is not None and _known(times) >= KNOWN_SHARE:
            return [Clue(by, times, each=False, when=True)]
    return []


def _known(values: pl.Series) -> float:
    return 1 - values.null_count() / max(len(values), 1)


def parse_times(texts: pl.Series) -> pl.Series:
    """Dates and hours of texts that begin with year, month and day, or are seconds or milliseconds since 1970; null where they are not."""
    table = pl.DataFrame({"text": texts.cast(pl.String)})
    said = pl.col("text").str.extract_groups(SAID_DATE)
    parts = [said.struct.field(str(i)).cast(pl.Int32, strict=False) for i in range(1, 5)]
    hour = parts[3].fill_null(0)
    good = parts[0].is_between(EARLIEST, LATEST) & parts[1].is_between(1, 12) & parts[2].is_between(1, 31) & hour.is_between(0, 23)
    text = pl.format("{}-{}-{} {}:00", parts[0], *(part.cast(pl.String).str.zfill(2) for part in (parts[1], parts[2], hour)))
    spoken = pl.when(good).then(text).str.to_datetime("%Y-%m-%d %H:%M", strict=False)
    number = pl.col("text").str.extract(r"^\s*(\d{9,13})(?:\.\d+)?\s*$", 1).cast(pl.Int64, strict=False)
    seconds = pl.when(number >= 10**11).then(number // 1000).otherwise(number)
    counted = pl.from_epoch(seconds, time_unit="s").cast(pl.Datetime("us"))
    counted = pl.when(counted.dt.year().is_between(EARLIEST, LATEST)).then(counted)
    return table.select(pl.coalesce(spoken, counted).alias("time")).to_series()


def parse_names(names: pl.Series) -> pl.Series:
    """The day in each file's name, such as IMG_20240131_120000.jpg or 2024-01-31/a.jpg; null where there is none."""
    groups = pl.col("name").str.extract_groups(NAME_DATE)
    text = pl.format("{}-{}-{}", *(groups.struct.field(str(i)) for i in range(1, 4)))
    return pl.DataFrame({"name": names}).select(text.str.to_datetime("%Y-%m-%d", strict=False)).to_series()


def _cut_time(clue: Clue) -> tuple[str, pl.Series]:
    """Times as the shortest of PERIODS of which there are at most BINS, with images enough in the middle one."""
    by, chosen = clue.by, clue.values.dt.truncate("1y")
    period = "year"
    days = clue.values.dt.truncate(PERIOD_CODES["day"]).n_unique()
    for name in PERIODS:
        cut = clue.values.dt.truncate(PERIOD_CODES[name])
        counts = cut.drop_nulls().value_counts()["count"]
        if name == "hour" and cut.n_unique() == days:
            continue  # one hour a day: the day says as much
        if len(counts) <= BINS and (counts.median() or 0) >= LEAST_TYPICAL:  # type: ignore[operator]
            period, chosen = name, cut
            break
    return f"{by}, by {period}", chosen.dt.strftime(FORMATS[period]).fill_null(UNKNOWN)
