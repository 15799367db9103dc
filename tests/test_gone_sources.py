"""Pictures and labels that go while a run works on them: it says so, and what it did without them passes for nothing."""

from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from tiny import make_scenes, write_yolo

from detclean.dataset import write_dataset
from detclean.errors import StageError
from detclean.formats import read_dataset
from detclean.pipeline.sources import add_file_state, require_pictures, watch_labels, watch_pictures
from detclean.show.progress import open_display
from detclean.stages import Stage, StageContext, run_stages

GONE, CHANGED = "is gone", "has changed"
CASES = [("load", GONE), ("between", GONE), ("between", CHANGED), ("export", GONE), ("failing", GONE)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three pictures, of which one was never there, and an image without."""
    (tmp_path / "pictures").mkdir()
    paths = [tmp_path / "pictures" / f"{name}.png" for name in "abc"]
    for path in paths[:2]:
        path.write_bytes(path.name.encode() * 5)
    images = pl.DataFrame({"path": [*map(str, paths), None]})
    place = tmp_path / "load" / "part" / "images.parquet"
    place.parent.mkdir(parents=True)
    add_file_state(images).write_parquet(place)
    return place


def test_sizes_and_times_are_those_of_the_files(table: Path, tmp_path: Path) -> None:
    stored = pl.read_parquet(table)
    assert stored["bytes"].to_list() == [25, 25, None, None]
    assert stored["modified_ns"][1] == (tmp_path / "pictures" / "b.png").stat().st_mtime_ns
    assert add_file_state(stored.head(0))["bytes"].dtype == pl.Int64


def test_the_first_picture_that_is_not_as_it_was_is_named(table: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / "pictures" / name for name in ("a.png", "b.png"))
    require_pictures(table)
    second.touch()
    require_pictures(table)
    second.write_bytes(b"another")
    with pytest.raises(StageError, match=rf"^{second}: has changed since the data set was read; bring back what is missing, or repeat"):
        require_pictures(table)
    first.unlink()
    with pytest.raises(StageError, match=rf"^{first}: is gone since the data set was read, and 1 more are not as they were; bring back"):
        require_pictures(table)


@pytest.mark.parametrize("when", ["before", "while", "while it fails"])
def test_a_stage_that_lost_pictures_is_not_complete(table: Path, tmp_path: Path, when: str) -> None:
    taken = [when == "before", False]
    lost = tmp_path / "pictures" / "b.png"

    def read(context: StageContext) -> None:
        (context.out / "read.txt").write_text("what was seen")
        if not taken[1]:
            lost.unlink()
        if when == "while it fails" and not taken[1]:
            raise FileNotFoundError("there is no 0000001.png in the view")

    def link(context: StageContext) -> None:
        (context.out / "part").mkdir()
        pl.read_parquet(table).write_parquet(context.out / "part" / "images.parquet")
        if taken[0]:
            lost.unlink()

    def run(number: int) -> Path:
        stages = (Stage("load", link), Stage("read", watch_pictures(read, "load", "part"), needs=("load",)))
        with open_display(console=Console(quiet=True)) as display:
            return run_stages(stages, tmp_path / f"run-{number}", {}, display)["read"].folder

    with pytest.raises(StageError, match=r"b\.png: is gone since the data set was read; bring back"):
        run(1)
    assert [path.name[-8:] for path in (tmp_path / "run-1" / "stages").glob("read-*")] == [".partial"]
    lost.write_bytes(b"b.png" * 5)
    taken[:] = [False, True]
    assert (run(1) / "read.txt").exists()


@pytest.mark.parametrize(("when", "what"), CASES)
def test_labels_that_go_before_they_are_copied_end_in_a_line(tmp_path: Path, when: str, what: str) -> None:
    """It was so that the copy came without them, and passed for complete."""
    dataset = read_dataset(write_yolo(tmp_path / "data", [*make_scenes()[:3], make_scenes()[-1]]))
    labels = tmp_path / "data" / "labels" / "train" / "01.txt"
    before = labels.read_bytes()

    def spoil() -> None:
        labels.unlink() if what == GONE else labels.write_bytes(before + b"0 0.5 0.5 0.1 0.1\n")

    def load(context: StageContext) -> None:
        (context.out / "all").mkdir()
        write_dataset(dataset, context.out / "all")
        if when == "load":
            spoil()

    def export(context: StageContext) -> None:
        if when in ("export", "failing"):
            spoil()
        if when == "failing":
            raise FileNotFoundError(labels)

    def run() -> None:
        loading, exporting = watch_labels(load, export)
        between = Stage("between", lambda context: spoil() if when == "between" else None)
        stages = (Stage("load", loading, content_addressed=True), between, Stage("export", exporting, needs=("load",)))
        with open_display(console=Console(quiet=True)) as display:
            run_stages(stages, tmp_path / "run", {}, display)

    with pytest.raises(StageError, match=rf"^{labels}: {what} since the labels were read; bring back what is missing, or repeat the run"):
        run()
    assert all(path.name.endswith(".partial") for path in (tmp_path / "run" / "stages").glob("export-*"))
    labels.write_bytes(before)
    when = "never"
    run()
