"""`python -m detclean benchmark`, on a tiny data set whose detections are brought, so that nothing is trained."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from tiny import describe_tree, make_scenes, write_coco, write_config, write_results
from trained import SEED, expect

from detclean.cli import answer
from detclean.config import Benchmark, Config, read_config
from detclean.errors import ConfigError
from detclean.measure.tables import LISTS
from detclean.score.planting import STYLES

SEEDS = [2 * SEED, 2 * SEED + 3]
BENCHMARK = {"seeds": SEEDS, "rate": 0.1, "styles": ["standard", "varied"], "variants": {"one round": {"planting_rounds": 1}}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO data set with true labels, and a good detector's results."""
    root = tmp_path_factory.mktemp("benchmark")
    scenes = make_scenes()
    for scene in scenes:
        scene.annotated[:] = scene.objects
    source = write_coco(root / "coco", scenes)
    write_results(root / "results.json", scenes, "coco")
    values = {"data": str(source), "predictions": str(root / "results.json"), "runs": str(root / "runs"), "benchmark": BENCHMARK}
    return write_config(root / "tiny.yaml", **values)


@pytest.fixture(scope="module")
def folder(config: Path) -> Path:
    assert answer(["benchmark", str(config)]) == 0
    return read_config(config).folder


@pytest.mark.trained
def test_every_method_is_measured_on_every_seed_and_style(folder: Path) -> None:
    document = orjson.loads((folder / "benchmark.json").read_bytes())
    assert list(document["styles"]) == ["standard", "varied"]
    for section in document["styles"].values():
        methods = section["methods"]
        assert list(methods)[:2] == ["detclean", "detclean: one round"]
        assert len(methods) == 2 + 8
        assert set(LISTS) <= set(methods["detclean"])
        assert len(methods["detclean"]["any"]["ap"]["per_seed"]) == 2
        # such a detector makes it easy
        ours, chance = (methods[name]["any"]["ap"]["mean"] for name in ("detclean", "random order"))
        expect("AP, as a multiple of that of a random order", ours / chance, least=2)
        expect("AP of plain rules, overlooked", methods["plain rules"]["overlooked"]["ap"]["mean"], least=0.7)
        assert all(count > 0 for counts in section["planted"].values() for count in counts)
    assert (folder / "benchmark.md").read_text().count("## Planting") == 2
    assert (folder / "benchmark.png").stat().st_size > 10_000


def test_nothing_is_done_twice(config: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: state for path, state in describe_tree(folder).items() if "/stages/" in path and "/load-" not in path}
    figures = orjson.loads((folder / "benchmark.json").read_bytes())["styles"]
    assert answer(["benchmark", str(config)]) == 0
    after = {path: state for path, state in describe_tree(folder).items() if "/stages/" in path and "/load-" not in path}
    assert after == before
    assert orjson.loads((folder / "benchmark.json").read_bytes())["styles"] == figures
    shown = capsys.readouterr().out
    assert "Average precision, planting: standard" in shown
    assert "FiftyOne mistakenness" in shown


def test_another_scoring_detects_nothing_anew(config: Path, folder: Path) -> None:
    detected = sorted(folder.glob("*/stages/detect-*"))
    first = (f"benchmark.seeds=[{SEEDS[0]}]", "benchmark.styles=[standard]")
    assert answer(["benchmark", str(config), "score.planting_rounds=2", *first]) == 0
    assert sorted(folder.glob("*/stages/detect-*")) == detected
    assert len(list(folder.glob(f"standard-{SEEDS[0]}/stages/score-????????????"))) == 2
    assert len(list(folder.glob(f"standard-{SEEDS[1]}/stages/score-????????????"))) == 1


def test_styles_are_those_that_can_be_planted() -> None:
    assert Benchmark(styles=list(STYLES)).styles == list(STYLES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "override",
    [
        "benchmark.seeds=[0,0]",
        "benchmark.seeds=[]",
        "benchmark.rate=0.5",
        "benchmark.styles=[wild]",
        "benchmark.variants={a/b: {planting_rounds: 2}}",
        "benchmark.variants={less: {planting_round: 2}}",
        "benchmark.variants={less: {planting_rounds: 0}}",
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(config: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=rf"command line: {override.partition('=')[0]}"):
        read_config(config, [override])


def test_the_section_has_defaults(config: Path) -> None:
    assert Config.model_fields["benchmark"].default == Benchmark()
    assert Benchmark().seeds == [0, 1, 2]
