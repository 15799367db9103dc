"""What a run will take: the arithmetic on made-up figures, and a real plan of a tiny data set."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from measure_plan import compare_seconds
from rich.console import Console
from tiny import describe_tree, make_scenes, write_coco, write_config, write_model, write_results, write_yolo

from detclean.cli import answer
from detclean.config import Config, read_config
from detclean.detect import probe as probing
from detclean.detect.probe import Look, Pace, Probe
from detclean.errors import StageError
from detclean.formats import read_dataset
from detclean.pipeline import run_pipeline
from detclean.plan import plan as planning
from detclean.plan import words
from detclean.plan.estimate import (
    Advice,
    Costs,
    Facts,
    StageEstimate,
    count_cycle_epochs,
    estimate_stages,
    find_pace,
    list_changes,
    spread_jobs,
    total_seconds,
    train_seconds,
)
from detclean.plan.plan import Plan, describe_plan, make_plan
from detclean.plan.rehearsal import Rehearsal, count_rounds, make_up_detections
from detclean.show.plan_table import describe_bytes, describe_duration, print_plan
from detclean.show.progress import Display

STAGES = ("load", "audit", "folds", "train", "detect", "crops", "score", "issues", "export")
PROBE = Probe(
    slots=2,
    device="cpu",
    epochs=10,
    closed_epochs=4,
    batch=10,
    prepare=3.0,
    start=5.0,
    set_up=1.0,
    scan=0.01,
    epoch=0.5,
    end=2.0,
    main=Pace(0.2, 0.8),
    closed=Pace(0.1, 0.7),
    alone=Pace(0.1, 0.4),
    single=Pace(0.1, 0.3),
    prediction=Look(0.1, 1.0),
    features=Look(0.05, 2.0),
    crop=0.001,
    crop_read=0.0001,
    training_memory=1_000,
    memory=1_500,
    gpu_memory=0,
    state_bytes=70,
    weights_bytes=20,
)
REHEARSAL = Rehearsal(
    images=50,
    annotations=500,
    starting=2.0,
    quality=0.5,
    opinions=1.0,
    score={1: 2.0, 3: 4.0},
    issues=0.1,
    export=0.5,
    written={"detect": 1_000, "crops": 100, "score": 200, "issues": 10, "export": 400},
    grown=300,
)
COSTS = Costs(
    load=1.0,
    load_bytes=50,
    audited=0.01,
    folds=0.1,
    bring=0.7,
    shared=0.001,
    cleaning=0.3,
    cleaned_bytes=300,
    memory=10_000,
    imgsz=640,
    pool=2,
    rehearsal=REHEARSAL,
    probe=PROBE,
)
FACTS = Facts(images=100, pictures=200, annotations=1_000, looks=5_000, detections=4_000.0, small_side=0.05, picture_bytes=9_000)


def quiet() -> Display:
    return Display(Console(file=io.StringIO()), None)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where plans work, so that what they leave is seen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration as simple as can be; its data are never read."""
    (tmp_path / "data.yaml").write_text("")
    written = write_config(tmp_path / "c.yaml", data=str(tmp_path / "data.yaml"), runs=str(tmp_path / "runs"), model="yolo26n.pt")
    return read_config(written, ["train.imgsz=640"])


def seconds_of(config: Config, costs: Costs = COSTS, names: tuple[str, ...] = STAGES, machines: int = 1) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in estimate_stages(config, names, FACTS, costs, {}, machines)}


def test_jobs_fill_the_slots_and_the_last_may_be_alone() -> None:
    def one(busy: int) -> float:
        return {1: 6.0, 2: 10.0}[busy]

    assert spread_jobs(4, 2, 1, one) == 20
    assert spread_jobs(5, 2, 1, one) == 26
    assert spread_jobs(1, 2, 1, one) == 6
    assert spread_jobs(5, 2, 3, one) == 10  # six places for five jobs: on some machine there are two
    assert spread_jobs(5, 2, 2, one) == 16  # and one job more, alone on its machine


def test_the_pace_lies_between_alone_and_all() -> None:
    four = replace(PROBE, slots=4)
    assert find_pace(four, 1) == PROBE.alone
    assert find_pace(four, 4) == PROBE.main
    assert find_pace(four, 2).work == pytest.approx(0.4 + 0.4 / 3)
    assert find_pace(four, 5).work == pytest.approx(0.4 + 0.4 * 4 / 3)
    assert find_pace(replace(PROBE, slots=1), 1) == PROBE.main


def test_a_training_is_batches_and_what_comes_with_each_epoch() -> None:
    # 80 images are 8 batches: 6 epochs at 1 s a batch, 4 without mosaic at 0.8 s; start 5 + 1 + 0.8, epochs 10 x 0.5, end 2
    assert train_seconds(PROBE, PROBE.main, 80, 10) == pytest.approx(8 * (6 + 4 * 0.8) + 6.8 + 5 + 2)
    # alone everything takes half as long, but for the end
    assert train_seconds(PROBE, PROBE.alone, 80, 10) == pytest.approx((8 * (6 + 4 * 0.8) + 6.8 + 5) / 2 + 2)
    # a quarter of the pixels: the model takes a quarter, fetching as long as before
    assert train_seconds(PROBE, PROBE.main, 80, 10, scale=0.25) == pytest.approx(8 * 0.4 * (6 + 4 * 0.8) + 6.8 + 5 + 2)


def test_every_stage_has_its_cost(config: Config) -> None:
    seconds = seconds_of(config)
    both, alone = (train_seconds(PROBE, pace, 80, 10) for pace in (PROBE.main, PROBE.alone))
    assert seconds["train"] == pytest.approx(3 + 0.1 + 2 * both + alone)  # five folds of two, two and one
    assert seconds["detect"] == pytest.approx(3 + 2 * (5 + 1 + 20 * 0.1 + 2) + (5 + 1 + 2) / 2 + 2 + 0.5 * 2)
    assert seconds["crops"] == pytest.approx(3 + 2 * (5 + 2 + 20 * 0.05 + 2) + (5 + 2 + 1) / 2 + 2 + 1.0 * 2)
    # a round of 500 annotations takes 1 s, what is beside it 1 s; 16 rounds of 1,000 and starting
    assert count_rounds(1_000, 40) == 16
    assert seconds["score"] == pytest.approx(2 + 16 * 2 + 1 * 2)
    assert seconds["audit"] == pytest.approx(2.0)
    assert seconds["issues"] == pytest.approx(0.2)
    assert seconds["export"] == pytest.approx(0.3 + 0.2 * 2)


def test_what_models_learn_from_does_not_grow_for_ever(config: Config) -> None:
    costs = replace(COSTS, rehearsal=replace(REHEARSAL, score={1: 20.0}, annotations=80_000, beyond=0.001))
    (score,) = estimate_stages(config, ("score",), replace(FACTS, annotations=860_000), costs, {})
    assert score.seconds == pytest.approx(20 + 780)


def test_memory_and_disk(config: Config) -> None:
    stages = {stage.name: stage for stage in estimate_stages(config, STAGES, FACTS, COSTS, {})}
    assert (stages["train"].memory, stages["train"].disk, stages["train"].passing) == (12_000, 100, 350)
    assert (stages["detect"].memory, stages["detect"].disk) == (13_000, 4_000)  # of each fold, and joined
    assert stages["score"].memory == 10_600
    assert stages["export"].disk == 2 * (100 * 2 + 300)
    copied = config.model_copy(update={"clean": config.clean.model_copy(update={"copy_images": True})})
    assert estimate_stages(copied, ("export",), FACTS, COSTS, {})[0].disk == 2 * (100 * 2 + 300 + 9_000)


def test_what_is_done_costs_nothing(config: Config) -> None:
    done = {"audit": 1.0, "train": 0.5}
    stages = {stage.name: stage for stage in estimate_stages(config, STAGES, FACTS, COSTS, done)}
    assert stages["audit"] == StageEstimate("audit", 0.0, 0, 0, 0, 1.0)
    assert stages["train"].seconds == pytest.approx(seconds_of(config)["train"] / 2)
    assert stages["load"].seconds == 1.0


def test_where_all_is_done_nothing_is_tried_out_and_nothing_advised(config: Config) -> None:
    trained = dict.fromkeys(("audit", "folds", "train", "detect", "crops"), 1.0)
    left = estimate_stages(config, STAGES, FACTS, replace(COSTS, probe=None), trained)
    assert total_seconds(left) == pytest.approx(sum(seconds_of(config)[name] for name in ("load", "score", "issues", "export")))
    with pytest.raises(ValueError, match="need a probe"):
        estimate_stages(config, STAGES, FACTS, replace(COSTS, probe=None), {})
    assert planning.advise(config, planning.all_stages(config, None), "content", FACTS, replace(COSTS, probe=None)) == ()


def test_more_of_a_kind_costs_more(config: Config) -> None:
    folds = config.folds.model_copy(update={"repeats": 2})
    plain, twice = seconds_of(config), seconds_of(config.model_copy(update={"folds": folds}))
    assert twice["train"] == pytest.approx(3 + 0.1 + 5 * train_seconds(PROBE, PROBE.main, 80, 10))
    everyone = seconds_of(config.model_copy(update={"votes": "all"}))
    assert everyone["detect"] - plain["detect"] == pytest.approx(2 * 80 * 0.1 + 80 * 0.1 / 2)
    always = seconds_of(config.model_copy(update={"crops": "always"}))
    assert always["crops"] > plain["crops"] + 3
    small = seconds_of(config.model_copy(update={"train": {**config.train, "imgsz": 320}}))
    assert small["train"] < 0.6 * plain["train"]
    assert seconds_of(config, machines=3)["train"] == pytest.approx(3 + 0.1 + train_seconds(PROBE, PROBE.main, 80, 10))


def test_another_number_of_jobs_may_fill_another_number_of_slots(config: Config) -> None:
    three = config.model_copy(update={"folds": config.folds.model_copy(update={"k": 3})})
    by_threes = seconds_of(three, replace(COSTS, slots={3: 3}))["train"]
    assert by_threes == pytest.approx(3 + 0.1 + train_seconds(PROBE, find_pace(PROBE, 3), 67, 10))
    assert by_threes != seconds_of(three)["train"]


def test_loss_dynamics_is_one_training_with_all_threads(config: Config) -> None:
    assert count_cycle_epochs(10) == (12, 6)
    loss = config.model_copy(update={"method": "loss"})
    names = ("load", "audit", "folds", "dynamics", "detect", "crops", "score", "issues", "export")
    seconds = seconds_of(loss, names=names)
    looked = 6 * 100 * 0.1 * 0.4
    assert seconds["dynamics"] == pytest.approx(3 + train_seconds(PROBE, PROBE.single, 100, 12) + looked)
    assert seconds["detect"] == pytest.approx(3 + 0.4 * (5 + 1 + 10) + 2 + 0.5 * 2)  # one model, all images
    both = seconds_of(config.model_copy(update={"method": "both"}), names=("train", "dynamics"))
    assert both == pytest.approx({"train": seconds_of(config)["train"], "dynamics": seconds["dynamics"]})


def test_brought_detections_need_no_training(config: Config) -> None:
    brought = config.model_copy(update={"predictions": Path("results.json")})
    seconds = seconds_of(brought, replace(COSTS, probe=None), ("load", "audit", "detect", "score", "issues", "export"))
    assert seconds["detect"] == pytest.approx(0.7 + 0.5 * 2)
    nothing = replace(PROBE, main=Pace(0, 0), closed=Pace(0, 0), alone=Pace(0, 0), single=Pace(0, 0), prediction=Look(), features=Look())
    always = brought.model_copy(update={"crops": "always"})
    assert seconds_of(always, replace(COSTS, probe=nothing), ("crops",))["crops"] > 2 * 3  # a child each fold


@pytest.mark.parametrize(
    ("update", "texts"),
    [
        ({}, ["folds.k=3", "method=loss", "train.imgsz=448", "crops=never"]),
        ({"method": "both"}, ["folds.k=3", "method=kfold", "train.imgsz=448", "crops=never"]),
        ({"method": "loss", "crops": "never"}, ["train.imgsz=448"]),
        ({"votes": "all", "crops": "never"}, ["folds.k=3", "method=loss", "train.imgsz=448", "votes=out_of_fold"]),
        ({"predictions": Path("x.json"), "crops": "never"}, []),
    ],
)
def test_only_changes_that_apply_are_thought_of(config: Config, update: dict[str, object], texts: list[str]) -> None:
    assert [text for text, _, _ in list_changes(config.model_copy(update=update), FACTS, 640)] == texts


def test_small_objects_forbid_smaller_images(config: Config) -> None:
    assert not any("imgsz" in text for text, _, _ in list_changes(config, replace(FACTS, small_side=0.02), 640))


def test_advice_saves_much_or_is_not_given(config: Config) -> None:
    stages = planning.all_stages(config, None)
    advice = planning.advise(config, stages, "content", FACTS, COSTS)
    now = total_seconds(estimate_stages(config, STAGES, FACTS, COSTS, {}))
    assert [one.seconds for one in advice] == sorted(one.seconds for one in advice)
    assert all(one.seconds < 0.85 * now for one in advice)
    assert {"folds.k=3", "3 machines like this one with Ray"} <= {one.change for one in advice}
    assert "crops=never" in {text for text, _, _ in list_changes(config, FACTS, 640)}
    little = replace(COSTS, rehearsal=replace(REHEARSAL, score={1: 20_000.0}))  # where all the time is scoring, training is not the point
    assert planning.advise(config, stages, "content", FACTS, little) == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "< 1 s"), (34.4, "34 s"), (290, "4 min 50 s"), (599.9, "10 min"), (3599, "1 h"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")],
)
def test_durations_as_one_says_them(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(3, "< 1 MB"), (12_400_000, "12 MB"), (1_440_000_000, "1.4 GB"), (2e11, "200 GB")])
def test_sizes_as_one_says_them(count: float, text: str) -> None:
    assert describe_bytes(count) == text


def test_made_up_detections_are_of_the_kind_that_scoring_gets(tmp_path: Path) -> None:
    dataset = read_dataset(write_yolo(tmp_path))
    found = make_up_detections(dataset, 4.0, 2, np.random.default_rng(0))
    assert len(found) == pytest.approx(8 * len(dataset.annotations), rel=0.1)
    assert found.class_scores is not None
    assert found.score is not None
    assert (found.score == found.class_scores.max(axis=1)).all()
    assert set(found.repeat.tolist() if found.repeat is not None else []) == {0, 1}
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()
    confident = found.score > 0.4
    assert 0.6 * len(dataset.annotations) < confident.sum() / 2 <= len(dataset.annotations)


def test_a_plan_is_printed_for_a_person() -> None:
    stages = (StageEstimate("load", 0.1, 10**8, 10**6), StageEstimate("train", 7_000.0, 3 * 10**9, 10**7, 10**9, 0.25))
    done = StageEstimate("audit", 0.0, 10**8, 10**6, 0, 1.0)
    advice = (Advice("folds.k=3", 3_600.0, "each detector learns from less"),)
    plan = Plan("a \x1b[31mrun", "5 trainings", (stages[0], done, stages[1]), advice, ("It was measured.",), ("it is busy",), 20.0)
    out = io.StringIO()
    print_plan(describe_plan(plan), Console(file=out, width=100))
    text = out.getvalue()
    assert [line.split()[:6] for line in text.splitlines() if line.startswith(("train", "all"))] == [
        ["train", "(25%", "done", "before)", "1", "h"],
        ["all", "1", "h", "57", "min", "3.0"],
    ]
    assert "audit" in text.split("done before")[0]
    assert "1 h instead of 1 h 57 min  each detector learns from less" in text
    assert "warning: it is busy" in text
    assert "up to 1.0 GB of disk while it runs" in text
    assert "\x1b" not in text


def test_a_plan_is_compared_with_the_truth() -> None:
    rows = compare_seconds({"train": 100.0, "score": 10.0, "crops": 5.0}, {"train": 150.0, "score": 5.0, "folds": 1.0})
    assert rows == [("train", 100.0, 150.0, 1.5), ("score", 10.0, 5.0, 2.0), ("all", 110.0, 155.0, pytest.approx(155 / 110))]


def test_a_real_plan_of_a_tiny_training(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SECONDS", dict.fromkeys(probing.SECONDS, 0.1))
    data = write_yolo(tmp_path / "data set")
    model = write_model(tmp_path / "yolo11n-tiny.yaml")
    train = {"epochs": 7, "imgsz": 64, "batch": 4, "device": "cpu", "close_mosaic": 2}
    written = write_config(tmp_path / "c.yaml", data=str(data), model=str(model), runs=str(tmp_path / "runs"), train=train, folds={"k": 3})
    before = describe_tree(tmp_path / "data set")
    probes: list[Probe] = []
    probe_training = planning.probe_training

    def remember(*given: Any, **more: Any) -> Probe:
        probes.append(probe_training(*given, **more))
        return probes[0]

    monkeypatch.setattr(planning, "probe_training", remember)
    plan = make_plan(read_config(written), quiet())
    (probe,) = probes
    assert [stage.name for stage in plan.stages] == list(STAGES)
    assert all(stage.seconds >= 0 and stage.done == 0 for stage in plan.stages)
    cost = {stage.name: stage for stage in plan.stages}
    trained = [train_seconds(probe, pace, 16, 7) for pace in (probe.alone, probe.main)]
    assert 0 < probe.prepare + min(trained) <= cost["train"].seconds < 2 * (probe.prepare + 3 * max(trained))
    assert 0 < probe.prepare < cost["detect"].seconds < 2 * cost["train"].seconds
    assert cost["train"].memory > 2e8
    assert cost["train"].disk > 3e5  # three times 90,000 weights in half precision
    assert cost["train"].passing > cost["train"].disk
    assert "3 trainings of 7 epochs on 16 images each at 64 px, " in plan.headline
    assert "assumed" in " ".join(plan.basis)
    assert describe_tree(tmp_path / "data set") == before
    assert not (tmp_path / "runs").exists()
    assert list(temporary.iterdir()) == []
    orjson.dumps(describe_plan(plan))


def test_a_plan_sees_what_an_earlier_run_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_coco(tmp_path / "data")
    results = write_results(tmp_path / "results.json", make_scenes(), "coco")
    values = {"name": "done", "data": str(data), "predictions": str(results), "runs": str(tmp_path / "runs"), "split": "all"}
    written = write_config(tmp_path / "c.yaml", **values)
    assert answer(["plan", str(written), "--json"]) == 0
    fresh = orjson.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in fresh["stages"]] == ["load", "audit", "detect", "score", "issues", "export"]
    assert {stage["done"] for stage in fresh["stages"]} == {0.0}
    assert "results.json" in fresh["headline"]
    run_pipeline(read_config(written), quiet())
    before = describe_tree(tmp_path / "runs")
    assert answer(["plan", str(written)]) == 0
    text = capsys.readouterr().out
    assert text.count("done before") == 5  # all but reading the data set, which every run does
    assert describe_tree(tmp_path / "runs") == before
    assert answer(["plan", str(written), "issues.budget=3", "--json"]) == 0
    changed = {stage["name"]: stage["done"] for stage in orjson.loads(capsys.readouterr().out)["stages"]}
    assert changed == {"load": 0, "audit": 1, "detect": 1, "score": 1, "issues": 0, "export": 0}


def test_an_interrupted_training_counts_by_its_epochs(tmp_path: Path) -> None:
    lines = {
        "fold-0": [{"kind": "epoch", "done": 1, "total": 4}, {"kind": "epoch", "done": 4, "total": 4}],
        "fold-1": [{"kind": "epoch", "done": 2, "total": 4}, {"kind": "batch", "done": 2, "total": 4}],
        "fold-2": [{"kind": "start", "done": 0, "total": 4}],
    }
    for name, progress in lines.items():
        folder = tmp_path / "folds" / name
        folder.mkdir(parents=True)
        (folder / "progress.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in progress) + b'\n{"kind": "ep')
    assert planning._measure_partial(tmp_path, 5) == pytest.approx((1 + 0.5 + 0) / 5)
    assert planning._measure_partial(tmp_path / "nothing", 5) == 0


@pytest.mark.usefixtures("warm")
def test_a_training_that_cannot_be_is_said_in_a_line(tmp_path: Path, temporary: Path) -> None:
    data = write_yolo(tmp_path / "data")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    written = write_config(tmp_path / "c.yaml", data=str(data), model=str(tmp_path / "broken.pt"), runs=str(tmp_path / "runs"))
    with pytest.raises(StageError, match=r"broken\.pt cannot be used as a detection model") as caught:
        make_plan(read_config(written), quiet())
    assert "\n" not in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_what_else_a_machine_does_is_a_share() -> None:
    assert 0 <= words.measure_busy() <= 1


def test_a_plan_warns_of_what_is_not_there(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = estimate_stages(config, STAGES, FACTS, COSTS, {})
    assert words.find_warnings(config, stages, 0.0) == []
    monkeypatch.setattr(words, "count_free_memory", lambda: 11_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    busy, memory, disk = words.find_warnings(config, stages, 0.6)
    assert "other work takes 60%" in busy
    assert memory.startswith("detect needs")  # the most of all
    assert disk.endswith("set runs to a folder on a larger one")


def test_logs_that_an_error_names_are_kept(config: Config, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(place: Path, *_: object) -> None:
        raise StageError(f"probe 1: probe failed: it died; see {place / 'train.log'}, then run again to resume")

    monkeypatch.setattr(planning, "_plan_in", fail)
    with pytest.raises(StageError, match=r"it died; see .*train\.log$"):
        make_plan(config, quiet())
    assert len(list(temporary.iterdir())) == 1
