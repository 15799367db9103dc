"""detclean from Python: five lines, on files and in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
from PIL import Image
from simulated import HEIGHT, WIDTH, make_case, make_truth
from trained import expect

import detclean
from detclean.boxes import xyxy_to_xywh
from detclean.score import boosting
from detclean.score.issues import COLUMNS


def test_every_public_name_is_there() -> None:
    assert {"Boxes", "Dataset", "find_issues", "read_dataset", "read_detections", "write_issues"} < set(detclean.__all__)
    for name in detclean.__all__:
        assert getattr(detclean, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'find_isues'"):
        detclean.find_isues  # noqa: B018


def test_importing_costs_nothing() -> None:
    heavy = "import sys, detclean; print(sorted({'torch', 'ultralytics', 'cleanlab', 'sklearn', 'numpy', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    light = (
        "import sys, detclean; detclean.find_issues, detclean.read_dataset, detclean.read_detections, detclean.write_issues;"
        "print(sorted({'torch', 'ultralytics', 'cleanlab', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True).stdout.strip() == "[]"


Case = tuple[detclean.Dataset, detclean.Boxes, np.ndarray]


@pytest.fixture(scope="module")
def case() -> Case:
    dataset, found, planted, _ = make_case(40)
    return dataset, found, planted.kind


@pytest.fixture(scope="module")
def issues(case: Case) -> pl.DataFrame:
    return detclean.find_issues(case[0], case[1], budget=12)


@pytest.fixture
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the trees, where how good they are does not matter."""
    monkeypatch.setattr(boosting, "ROUNDS", 8)


@pytest.mark.trained
def test_a_data_set_in_memory(tmp_path: Path, case: Case, issues: pl.DataFrame) -> None:
    dataset, _, kinds = case
    assert issues.height == 12
    assert issues.columns[: len(COLUMNS)] == list(COLUMNS)
    wrong = [a is not None and kinds[a] != "" for a in issues["annotation"].to_list()]
    expect("rows of 12 that are wrong, where one annotation in six is", sum(wrong), least=4)  # ten seeds: 5 to 10
    folder = tmp_path / "out [1]"
    detclean.write_issues(issues, dataset, folder)
    assert {path.name for path in folder.iterdir()} == {"issues.parquet", "issues.csv", "issues.coco.json", "issues_yolo"}
    assert pl.read_parquet(folder / "issues.parquet", glob=False).equals(issues.select(COLUMNS))
    table = pl.read_csv((folder / "issues.csv").read_bytes())
    assert table.columns == list(COLUMNS)
    assert table["reason"].to_list() == issues["reason"].to_list()
    np.testing.assert_allclose(table["probability"].to_numpy(), issues["probability"].to_numpy(), atol=1e-4)
    assert table["suggested_x1"].is_null().to_list() == issues["suggested_x1"].is_null().to_list()
    document = orjson.loads((folder / "issues.coco.json").read_bytes())
    assert len(document["annotations"]) == 12
    assert len((folder / "issues_yolo" / "issues.txt").read_text().splitlines()) == issues["image_index"].n_unique()


@pytest.mark.parametrize(("formats", "files"), [(("csv",), {"issues.csv"}), ((), set()), (("coco",), {"issues.coco.json"})])
def test_only_the_formats_asked_for(tmp_path: Path, case: Case, issues: pl.DataFrame, formats: tuple[str, ...], files: set[str]) -> None:
    detclean.write_issues(issues, case[0], tmp_path / "deep" / "er", formats)
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == {"issues.parquet", *files}


def test_no_issue_can_be_written(tmp_path: Path, case: Case, issues: pl.DataFrame) -> None:
    dataset, found, _ = case
    for none in (issues[:0], detclean.find_issues(dataset, found[:0], types=("swap", "spurious"))):
        assert none.height == 0
        detclean.write_issues(none, dataset, tmp_path)
        assert (tmp_path / "issues.csv").read_text().strip() == ",".join(COLUMNS)
        assert orjson.loads((tmp_path / "issues.coco.json").read_bytes())["annotations"] == []
        assert pl.read_parquet(tmp_path / "issues.parquet").schema["image_id"] == pl.Int64


@pytest.mark.usefixtures("_small_models")
def test_the_same_call_gives_the_same_issues(case: Case) -> None:
    dataset, found, _ = case
    one, other = (detclean.find_issues(dataset, found, budget=30, seed=3) for _ in range(2))
    assert one.equals(other)


@pytest.mark.trained
def test_types_and_precision_are_arguments(case: Case) -> None:
    dataset, found, _ = case
    issues = detclean.find_issues(dataset, found, target_precision=0.5, types=("swap", "overlooked"))
    assert set(issues["issue_type"]) <= {"swap", "overlooked"}
    expect("issues of two types", issues.height, least=1)  # ten seeds: 32 to 48
    assert issues["probability"].mean() >= 0.5  # type: ignore[operator]


def write_coco(folder: Path) -> tuple[Path, Path]:
    """Truth as COCO with text ids, one object renamed and one left out; perfect detections as COCO results."""
    truth, _ = make_truth(5, per_image=5, seed=3)
    (folder / "images").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / f"{i}.jpg")
    records: list[dict[str, object]] = [
        {"id": f"box {i}", "image_id": f"img {image}", "category_id": int(category) + 3, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, category, box) in enumerate(
            zip(truth.image_index.tolist(), truth.category.tolist(), xyxy_to_xywh(truth.xyxy).round(2).tolist(), strict=True)
        )
    ]
    results = [{key: record[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.95} for record in records]
    swapped = records[4] | {"category_id": (int(truth.category[4]) + 1) % 5 + 3}
    given = [*records[:4], swapped, *records[5:10], *records[11:]]
    document = {
        "images": [{"id": f"img {i}", "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(5)],
        "categories": [{"id": i + 3, "name": f"kind{i}"} for i in range(5)],
        "annotations": given,
    }
    (folder / "annotations.json").write_bytes(orjson.dumps(document))
    (folder / "results.json").write_bytes(orjson.dumps(results))
    return folder / "annotations.json", folder / "results.json"


def test_from_files_to_files(tmp_path: Path) -> None:
    annotations, results = write_coco(tmp_path / "set")
    dataset = detclean.read_dataset(annotations, tmp_path / "set" / "images")
    issues = detclean.find_issues(dataset, detclean.read_detections(results, dataset))
    detclean.write_issues(issues, dataset, tmp_path / "out")
    table = pl.read_csv(tmp_path / "out" / "issues.csv")
    assert sorted(table["issue_type"].to_list()) == ["overlooked", "swap"]
    assert table.filter(pl.col("issue_type") == "swap")["annotation_id"].to_list() == ["box 4"]
    assert set(table["action"]) == {"add", "relabel"}
    assert table["image_id"].str.starts_with("img ").all()
