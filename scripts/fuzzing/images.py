"""Pictures, read as the audit, the health report, the report and the review read them."""

from __future__ import annotations

from pathlib import Path

from detclean.audit.images import hash_chunk
from detclean.formats.imagefiles import read_image_sizes
from detclean.health.pictures import KINDS, TABLE, find_picture_issues, measure_chunk
from detclean.show.photos import READING_FAILS, open_photo
from fuzzing import mutations as mutate
from fuzzing.folders import mutate_folder
from fuzzing.inputs import Place, change
from fuzzing.mutations import Random
from fuzzing.pictures import pick_picture

ENDINGS = (".jpg", ".png", ".tif", ".dng", ".heic", ".jp2", ".avif")


def make_images(rng: Random, case: Path) -> None:
    """One picture: as it is, with another header, or with changes anywhere; one in ten has another kind's ending."""
    ending, content = pick_picture(rng)
    act = rng.randrange(5)
    if act == 4:
        content = content[: rng.randrange(len(content) + 1)]
    elif act and content:
        content = change(rng, content) if act > 1 else change(rng, content[:200], 2) + content[200:]
    (case / f"a{rng.choice(ENDINGS) if mutate.chance(rng, 10) else ending}").write_bytes(content)
    if mutate.chance(rng, 60):
        mutate_folder(rng, case)


def read_images(place: Place, rng: Random) -> None:
    """Raises AssertionError where the readers do not agree about a picture, or answer what the tables after them cannot hold."""
    import polars as pl

    for path in sorted(place.case.iterdir()):
        width, height = read_image_sizes([str(path)])[0].tolist()
        if (width > 0) != (height > 0):
            raise AssertionError(f"a size of {width} x {height}")
        _, _, _, hashed_width, _, problem, _, _ = hash_chunk([(0, str(path))])[0]
        if hashed_width is None and problem is None:
            raise AssertionError("a picture without a size and without a problem")
        measured = pl.DataFrame(measure_chunk([(0, str(path))]), schema=TABLE, orient="row")
        if (measured["problem"][0] is None) != (measured["color_space"][0] is not None):
            raise AssertionError("a picture without a quality and without a problem")
        if {*find_picture_issues(measured)} != {*KINDS}:
            raise AssertionError("a quality that says nothing")
        try:
            with open_photo(str(path), 0.5) as (photo, _):
                photo.resize((8, 8))
        except READING_FAILS:
            continue
