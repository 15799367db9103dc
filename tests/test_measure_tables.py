"""The benchmark's document: a method that knows the truth, one that guesses, and what is said of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from rich.console import Console
from simulated import make_case

from detclean.boxes import Boxes, Floats
from detclean.dataset import ISSUE_TYPES
from detclean.measure.figures import RESAMPLES
from detclean.measure.opinion import Opinion, judge_by_scores
from detclean.measure.tables import LISTS, describe_figure, describe_rivals, measure_style, write_markdown
from detclean.measure.truth import Truth
from detclean.score.scores import Scores
from detclean.show.benchmark_table import draw_benchmark, print_benchmark

TYPES = ("swap", "badloc", "spurious", "duplicate")


def make_seed(seed: int) -> tuple[Truth, np.random.Generator]:
    dataset, _, planted, clean = make_case(60, seed=seed)
    hard = (planted.kind == "") & (np.arange(len(planted.kind)) % 20 == 0)
    truth = Truth(planted.kind, dataset.annotations.image_index, clean[planted.removed], hard, dataset.image_count)
    return truth, np.random.default_rng(seed)


def know(truth: Truth, noise: float, rng: np.random.Generator, *, types: tuple[str, ...] = TYPES, listed: bool = False) -> Opinion:
    """The truth, blurred; without noise exactly that, as probabilities."""

    def blur(right: Any) -> Floats:
        return np.clip(right + noise * rng.standard_normal(len(right)), 0, 1)

    per_type = {kind: blur(truth.kind == kind) for kind in types} | {"any": blur(truth.kind != "")}
    removed = truth.removed
    candidates = Boxes(removed.image_index, removed.category, removed.xyxy, score=blur(np.ones(len(removed))))
    bad = np.isin(np.arange(truth.image_count), np.concatenate([truth.image[truth.kind != ""], removed.image_index]))
    one_list = Boxes(**candidates.columns(), annotation_id=np.full(len(candidates), -1)) if listed else None
    return Opinion(per_type, candidates, blur(bad), one_list)


@pytest.fixture(scope="module")
def section() -> dict[str, Any]:
    """Seeds with the truth itself as the rival of a detclean that is a little blurred."""
    judged = []
    for seed in (0, 1):
        truth, rng = make_seed(seed)
        opinions = {
            "detclean": know(truth, 0.5, rng, listed=True),
            "detclean: sharper": know(truth, 0.2, rng),
            "oracle": know(truth, 0.0, rng, types=("swap",)),
            "blind": know(truth, 50.0, rng),
        }
        judged.append((truth, opinions))
    return measure_style(judged)


@pytest.fixture(scope="module")
def document(section: dict[str, Any]) -> dict[str, Any]:
    seconds = {"standard-0": {"load": 0.1, "train": 200.0, "score": 20.0}, "standard-1": {"load": 0.1, "train": 300.0, "score": 10.0}}
    return {"name": "x [b]", "rate": 0.04, "seeds": [0, 1], "resamples": RESAMPLES, "styles": {"standard": section}, "seconds": seconds}


def test_who_knows_the_truth_is_measured_so(section: dict[str, Any]) -> None:
    oracle = section["methods"]["oracle"]
    for name in ("swap", "any", "overlooked", "images"):
        assert oracle[name]["ap"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "per_seed": [1.0, 1.0]}
    assert oracle["noisy or hard"]["auroc"]["mean"] == 1.0
    assert "badloc" not in oracle
    assert oracle["any"]["auroc"]["mean"] == oracle["any"]["recall_at_10"]["mean"] == oracle["any"]["precision_at_n"]["mean"] == 1.0
    ours = section["methods"]["detclean"]["swap"]["ap"]
    assert 0.2 < ours["low"] < ours["mean"] < ours["high"] < 1
    assert len(set(ours["per_seed"])) == 2


def test_a_better_method_is_named_and_a_worse_one_is_not(section: dict[str, Any]) -> None:
    beaten = {(row["list"], row["method"]) for row in section["beaten"]}
    assert beaten == {("swap", "oracle"), ("any", "oracle"), ("images", "oracle")}  # all that it knows and that can be ranked wrongly
    assert section["differences"]["blind"]["swap"]["high"] < 0
    difference = section["differences"]["oracle"]["swap"]
    ours = section["methods"]["detclean"]["swap"]["ap"]
    assert difference["mean"] == pytest.approx(1 - ours["mean"], abs=1e-3)
    assert difference["low"] == pytest.approx(1 - ours["high"], abs=1e-3)  # resample by resample, not two intervals held together
    words = describe_rivals(section)
    assert len(words) == len(LISTS)
    assert words[0].startswith("swap: beaten by oracle; nearest is oracle, AP +")
    assert "badloc: no other method is better by more than the interval; nearest is blind" in words[1]
    assert not any("sharper" in sentence for sentence in words)  # a variant is no rival


def test_only_detclean_is_asked_for_probabilities(section: dict[str, Any]) -> None:
    methods = section["methods"]
    for method, figures in methods.items():
        has = {name for name, own in figures.items() if "ece" in own}
        assert has == ({*ISSUE_TYPES, "any", "pooled"} if method.startswith("detclean") else set())
    assert methods["detclean: sharper"]["swap"]["ece"]["mean"] < methods["detclean"]["swap"]["ece"]["mean"]
    # its one list holds the removed objects only, all of them right
    assert methods["detclean"]["pooled"]["realised"]["mean"] == 1.0
    assert methods["detclean"]["pooled"]["listed"]["mean"] <= np.mean(section["planted"]["overlooked"])
    assert sum(row["rows"] for row in section["reliability"]["swap"]) == sum(section["annotations"])


def test_tables_hold_every_method_and_list(document: dict[str, Any]) -> None:
    text = write_markdown(document)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [table[0].split(" | ")[0] for table in tables] == [
        "| average precision",
        "| AUROC",
        "| recall where 10 % of the good are flagged",
        "| precision among the first N",
        "| probabilities",
    ]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    methods = [line.split(" | ")[0].removeprefix("| ") for line in tables[0][2:]]
    assert methods == ["detclean", "detclean: sharper", "oracle", "blind"]
    oracle = tables[0][4].strip("| ").split(" | ")
    assert oracle[1:4] == ["1.000 [1.00, 1.00]", "-", "-"]
    assert tables[1][0].endswith("| noisy or hard |")
    assert "4% of the boxes each type; seeds 0, 1" in text
    assert text.endswith("Seconds a seed: train 250, score 15.\n")
    orjson.dumps(document)


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (None, "-"),
        ({"mean": None, "low": None, "high": None}, "-"),
        ({"mean": 0.91234, "low": 0.88, "high": 0.94}, "0.912 [0.88, 0.94]"),
        ({"mean": 1.0, "low": None, "high": None}, "1.000"),
        ({"mean": 412.5, "low": 1, "high": 2}, "412"),
    ],
)
def test_a_figure_in_words(figure: dict[str, Any] | None, shown: str) -> None:
    assert describe_figure(figure, interval=True) == shown


def test_the_terminal_shows_the_figures_whole(document: dict[str, Any], tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_benchmark(document, tmp_path, console)
    text = console.export_text()
    assert "…" not in text
    line = next(line for line in text.splitlines() if line.startswith("oracle"))
    assert line.split() == ["oracle", "1.000", "-", "-", "-", "1.000", "1.000", "1.000"]
    assert "swap: beaten by oracle" in text
    assert "benchmark.json" in text


def test_the_picture_is_a_picture(document: dict[str, Any], tmp_path: Path) -> None:
    draw_benchmark(document, tmp_path / "benchmark.png")
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("L").resize((60, 40)).tobytes())) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.png"]


def test_scores_of_another_data_set_are_refused() -> None:
    dataset, _, _, _ = make_case(20)
    import polars as pl

    table = pl.DataFrame({"annotation": [0, 1], "p_any": [0.1, 0.2]})
    with pytest.raises(ValueError, match="not every annotation"):
        judge_by_scores(Scores(table, table, table, {}), dataset)
