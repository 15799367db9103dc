"""Boxes and pixels in one orientation, that of the picture seen upright: whoever reads it, a mark is where its box says."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from detclean.audit.images import SIDE as THUMBNAIL
from detclean.audit.images import hash_chunk
from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect.yolo_view import find_names, write_fold_lists, write_questions, write_view
from detclean.formats import read_dataset
from detclean.report.pictures import make_cards
from detclean.review.pictures import read_picture
from detclean.runfolder import SIDES
from detclean.show.drawing import CELL, GAP, draw_issues
from detclean.show.photos import open_photo

WIDTH, HEIGHT = 96, 64  # seen upright
BOX = (8, 8, 32, 24)  # of the mark, which is in no corner's mirror image
FORMATS = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp", "GREY": "tiff"}
ORIENTATIONS = range(1, 9)
NAMES = [f"{kind}{turn}.{ending}" for kind, ending in FORMATS.items() for turn in ORIENTATIONS]
STORED = {  # what EXIF's numbers undo
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: seen[::-1, ::-1].transpose(1, 0, 2),
    8: lambda seen: np.rot90(seen, -1),
}
SEEN_BY_ULTRALYTICS = """
import json, sys
from pathlib import Path
import numpy as np
import polars as pl
import yaml
from ultralytics.data import dataset as ultralytics_dataset
from detclean.detect import yolo_crops, yolo_predict, yolo_train

def keep_no_cache(prefix, path, x, version):
    x["version"] = version
ultralytics_dataset.save_dataset_cache_file = keep_no_cache

def find_dark(pixels, least):
    rows, columns = np.nonzero(pixels.max(axis=2) < 128)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) >= least else None

folder = Path(sys.argv[1])
data = yaml.safe_load((folder / "data.yaml").read_text()) | {"channels": 3}
loaded = ultralytics_dataset.YOLODataset(img_path=str(folder / "train.txt"), data=data, imgsz=96, augment=False, rect=False)
said = {"trained": {}, "predicted": {}, "crops": {}}
for i, file in enumerate(loaded.im_files):
    picture = loaded.load_image(i)[0]
    height, width = picture.shape[:2]
    x, y, w, h = loaded.labels[i]["bboxes"][0]
    box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    said["trained"][int(Path(file).stem)] = [find_dark(picture, 20), np.round(box).astype(int).tolist(), [width, height]]
images = pl.read_parquet(folder / "images.parquet")
for picture, (index, width, height) in zip(*yolo_predict.read_pictures(images), strict=True):
    said["predicted"][index] = [find_dark(picture, 20), [width, height], [picture.shape[1], picture.shape[0]]]
asked = images.with_columns(held_out=True)
for crops, rows in yolo_crops._read_crops(asked, folder / "asked.parquet", "row", 24):
    for crop, row in zip(crops, rows):
        said["crops"][int(row)] = float((crop.max(axis=2) < 128).mean())
print("said:", json.dumps(said))
"""


def draw_scene() -> np.ndarray:
    """White, with a dark mark of 24 x 16 pixels left above."""
    seen = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    x1, y1, x2, y2 = BOX
    seen[y1:y2, x1:x2] = (40, 0, 0)
    return seen


def store(path: Path, kind: str, turn: int) -> None:
    picture, exif = Image.fromarray(np.ascontiguousarray(STORED[turn](draw_scene()))), Image.Exif()
    exif[274] = turn
    settings: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored = picture.convert("L") if kind == "GREY" else picture
    stored.save(path, format="TIFF" if kind == "GREY" else kind, exif=exif, **settings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A YOLO data set whose label files say where the mark is when the picture is seen upright."""
    folder = tmp_path_factory.mktemp("turned")
    x1, y1, x2, y2 = BOX
    shares = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    for name in NAMES:
        kind, turn = name.split(".")[0][:-1], int(name.split(".")[0][-1])
        store(folder / "images" / "train" / name, kind, turn)
        (folder / "labels" / "train" / f"{name.split('.')[0]}.txt").write_text("0 " + " ".join(map(str, shares)) + "\n")
    (folder / "data.yaml").write_text(
        yaml.safe_dump({"path": str(folder), "train": "images/train", "val": "images/train", "names": ["mark"]})
    )
    both = read_dataset(str(folder / "data.yaml"))
    return both.select_images((both.images["split"] == "train").to_numpy())


@pytest.fixture(scope="module")
def seen(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Ultralytics' loader, the prediction and the trainer of crops see, each in the child's own code."""
    out = tmp_path_factory.mktemp("out")
    names, none = find_names(dataset), np.zeros(dataset.image_count, bool)
    write_fold_lists(dataset, names, none, write_view(dataset, names, out), out / "fold")
    write_questions(dataset, ~none, dataset.annotations, out / "fold")
    environment = os.environ | {"YOLO_CONFIG_DIR": str(out), "MPLCONFIGDIR": str(out), "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", SEEN_BY_ULTRALYTICS, str(out / "fold")]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, dict[str, Any]] = json.loads(done.stdout.split("said:")[1])
    return said


def each(dataset: Dataset) -> Iterator[tuple[int, str, str]]:
    for index, (name, path) in enumerate(dataset.images.select("file_name", "path").iter_rows()):
        yield index, name, path


def find_mark(photo: Image.Image) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(np.asarray(photo.convert("L")) < 128)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_sizes_and_boxes_are_those_of_the_upright_picture(dataset: Dataset) -> None:
    assert dataset.image_count == len(NAMES) == 40
    assert set(dataset.images.select("width", "height").rows()) == {(WIDTH, HEIGHT)}
    np.testing.assert_allclose(dataset.annotations.xyxy, np.tile(BOX, (len(NAMES), 1)))


def test_training_sees_the_mark_in_its_box(dataset: Dataset, seen: dict[str, dict[str, Any]]) -> None:
    for index, name, _ in each(dataset):
        mark, box, size = seen["trained"][str(index)]
        assert size == [WIDTH, HEIGHT], name
        assert box == list(BOX), name
        assert np.abs(np.subtract(mark, BOX)).max() <= 1, name


def test_prediction_sees_what_training_saw(dataset: Dataset, seen: dict[str, dict[str, Any]]) -> None:
    for index, name, _ in each(dataset):
        mark, labelled, read = seen["predicted"][str(index)]
        assert labelled == read == [WIDTH, HEIGHT], name
        assert np.abs(np.subtract(mark, BOX)).max() <= 1, name


def test_crops_hold_the_mark(dataset: Dataset, seen: dict[str, dict[str, Any]]) -> None:
    """A square 1.2 times as wide as the box: 0.46 of it is the mark."""
    for index, name, _ in each(dataset):
        assert seen["crops"][str(index)] == pytest.approx(24 * 16 / (24 * 1.2) ** 2, abs=0.08), name


def test_people_see_what_the_detector_saw(dataset: Dataset) -> None:
    """The reader of worst.jpg and of the report, and the picture that the review sends."""
    for _, name, path in each(dataset):
        with open_photo(path) as (photo, ratio):
            assert (photo.size, ratio) == ((WIDTH, HEIGHT), 1.0), name
            assert np.abs(np.subtract(find_mark(photo), BOX)).max() <= 1, name
        sent = read_picture(Path(path))
        assert sent is not None, name
        with Image.open(sent.path or io.BytesIO(sent.content)) as shown:
            assert shown.getexif().get(274, 1) == 1, name  # so that no browser can turn it
            assert shown.size == (WIDTH, HEIGHT), name
            assert np.abs(np.subtract(find_mark(shown), BOX)).max() <= 1, name


def make_issue(index: int) -> pl.DataFrame:
    row: dict[str, Any] = {
        "rank": 1,
        "issue_type": "spurious",
        "probability": 0.9,
        "action": "delete",
        "image_index": index,
        "annotation": index,
    }
    row |= {"issue_id": "a", "verdict": "noisy", "reason": "", "category": "mark", "suggested_category": None, "file_name": NAMES[index]}
    row |= {"image_id": NAMES[index], "annotation_id": index, "source": "", "detector_score": None, "iou": None, "votes": 1}
    row |= dict(zip(SIDES, map(float, BOX), strict=True)) | dict.fromkeys([f"suggested_{side}" for side in SIDES])
    corners = dict.fromkeys([*SIDES, *(f"suggested_{side}" for side in SIDES)], pl.Float64)
    return pl.DataFrame([row], schema_overrides=corners | {"suggested_category": pl.String})


def test_worst_jpg_and_the_report_draw_the_box_around_the_mark(dataset: Dataset, tmp_path: Path) -> None:
    import base64

    for index, name, _ in each(dataset):
        draw_issues(dataset, make_issue(index), tmp_path / "worst.jpg")
        with Image.open(tmp_path / "worst.jpg") as sheet:
            cell = np.asarray(sheet.convert("RGB"), int)[GAP : GAP + CELL, GAP : GAP + CELL]
        rows, columns = np.nonzero((cell[..., 0] - cell[..., 2] > 120) & (cell[..., 1] > 110))  # orange
        inside = cell[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8]
        assert inside.size > 0, name
        assert inside.max() < 128, name
        (card,) = make_cards(dataset, make_issue(index), {})
        picture = next(value for value in vars(card).values() if isinstance(value, str) and value.startswith("data:image/jpeg"))
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as view:
            dark = float((np.asarray(view.convert("L")) < 128).mean())
        assert dark == pytest.approx(24 * 16 / (24 * 2.2) ** 2, abs=0.05), name


def test_audit_compares_pictures_as_they_are_seen(dataset: Dataset) -> None:
    """Thumbnails of one scene are alike however it is stored, so that duplicates are found; sizes are those of the labels."""
    scene = np.asarray(Image.fromarray(draw_scene()).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), int)
    for row in hash_chunk([(index, path) for index, _, path in each(dataset)]):
        index, _, _, width, height, problem, rotated, thumbnail = row
        assert (width, height, problem) == (WIDTH, HEIGHT, None), NAMES[index]
        assert rotated == (dataset.images["file_name"][index].split(".")[0][-1] != "1")
        assert np.abs(np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL).astype(int) - scene).max() <= 12


def test_no_box_is_anywhere_else(dataset: Dataset) -> None:
    """The mark is asymmetrical: read in any other orientation its box would lie elsewhere, or the size would be another."""
    others = [STORED[turn](draw_scene()) for turn in ORIENTATIONS if turn != 1]
    places = [find_mark(Image.fromarray(np.ascontiguousarray(other))) for other in others]
    assert all(
        np.abs(np.subtract(place, BOX)).max() > 4 or other.shape[:2] != (HEIGHT, WIDTH) for place, other in zip(places, others, strict=True)
    )
    assert isinstance(dataset.annotations, Boxes)
