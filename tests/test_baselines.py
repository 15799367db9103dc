"""The baselines: their formulas by hand, and what they find where errors were planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated import as_dataset, make_case

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.measure.baselines import (
    calibrate_to_precision,
    compute_baselines,
    judge_by_clusters,
    judge_by_confidence,
    judge_by_mistakenness,
    judge_by_objectlab,
)
from detclean.measure.figures import measure_ranking
from detclean.measure.opinion import Opinion, combine, read_opinion, write_opinion
from detclean.measure.truth import Truth, rank_annotations, rank_candidates, rank_images
from detclean.score.objectlab import compute_objectlab_scores, stretch_confidences
from detclean.score.planting import Planted

Case = tuple[Dataset, Boxes, Planted, Boxes]
SIZES = np.array([[200.0, 100.0], [200.0, 100.0]])


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(120)


@pytest.fixture(scope="module")
def opinions(case: Case) -> dict[str, Opinion]:
    return compute_baselines(case[0], case[1])


def truth_of(case: Case) -> Truth:
    dataset, _, planted, clean = case
    nothing = np.zeros(len(planted.kind), bool)
    return Truth(planted.kind, dataset.annotations.image_index, clean[planted.removed], nothing, dataset.image_count)


def precision(case: Case, opinion: Opinion) -> dict[str, float]:
    truth = truth_of(case)
    rankings = {kind: rank_annotations(truth, kind, score) for kind, score in opinion.annotations.items()}
    score = np.zeros(0) if opinion.candidates.score is None else opinion.candidates.score
    rankings["overlooked"] = rank_candidates(truth, opinion.candidates, score)
    rankings["images"] = rank_images(truth, opinion.images)
    draws = np.ones((1, truth.image_count))
    return {kind: float(measure_ranking(ranking, draws)["ap"][0]) for kind, ranking in rankings.items()}


def scene(rows: list[tuple[int, int, float]], seen: list[tuple[int, int, float, float]]) -> tuple[Dataset, Boxes]:
    """Annotations (image, category, x) and detections (image, category, x, confidence): squares of 20 px at x."""

    def place(xs: list[float]) -> np.ndarray:
        return np.array([[x, 10, x + 20, 30] for x in xs]).reshape(-1, 4)

    annotations = Boxes.sorted(image_index=[r[0] for r in rows], category=[r[1] for r in rows], xyxy=place([r[2] for r in rows]))
    detections = Boxes.sorted(
        image_index=[s[0] for s in seen], category=[s[1] for s in seen], xyxy=place([s[2] for s in seen]), score=[s[3] for s in seen]
    )
    return as_dataset(annotations, SIZES, 3), detections


def test_mistakenness_by_hand() -> None:
    dataset, found = scene(
        [(0, 0, 10), (0, 1, 50), (0, 2, 90), (1, 0, 10)],
        [(0, 0, 14, 0.8), (0, 0, 10, 0.3), (0, 2, 50, 0.6), (1, 1, 60, 0.97), (1, 1, 120, 0.94)],
    )
    opinion = judge_by_mistakenness(dataset, found)
    iou = 16 / 24  # of the first annotation with the surest of its detections, though another fits better
    assert opinion.annotations["swap"] == pytest.approx([(1 - 0.8) / 2, (1 + 0.6) / 2, 0, 0])
    assert opinion.annotations["badloc"] == pytest.approx([(0.8 * (2 * (1 - iou) / 0.5 - 1) + 1) / 2, (1 - 0.6) / 2, 0, 0])
    assert opinion.annotations["spurious"].tolist() == [0, 0, 1, 1]
    assert opinion.annotations["any"] == pytest.approx([max(0.1, opinion.annotations["badloc"][0]), 0.8, 1, 1])
    assert opinion.candidates.xyxy[:, 0].tolist() == [60]  # unmatched and above 0.95
    assert opinion.images == pytest.approx([1, 1])


def test_clusters_by_hand() -> None:
    dataset, found = scene(
        [(0, 0, 10), (0, 1, 50), (0, 2, 90), (1, 0, 10)],
        [(0, 0, 12, 0.8), (0, 0, 16, 0.7), (0, 0, 50, 0.6), (0, 1, 51, 0.2), (1, 1, 60, 0.9), (1, 1, 62, 0.5)],
    )
    opinion = judge_by_clusters(dataset, found)
    any_ = opinion.annotations["any"]
    assert opinion.annotations["badloc"].tolist() == [any_[0], 0, 0, 0]  # 16 reaches 10 only through 12: single linkage
    assert opinion.annotations["swap"].tolist() == [0, any_[1], 0, 0]
    assert opinion.annotations["spurious"].tolist() == [0, 0, any_[2], any_[3]]
    assert any_[0] < any_[1] < any_[2] == any_[3]
    assert opinion.candidates.xyxy[:, 0].tolist() == [60]  # the surest of its cluster stands for it
    from cleanlab.multilabel_classification import get_label_quality_scores

    clusters = np.array([[0.8, 0, 0, 0], [0.6, 0.2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0.9, 0, 0]])
    wrong = 1 - get_label_quality_scores([[0], [1], [2], [0], [3]], clusters)
    assert any_ == pytest.approx(wrong[:4])
    assert opinion.candidates.score == pytest.approx(wrong[4:])


def test_objectlab_takes_confidences_as_they_are_and_stretches_by_default(case: Case) -> None:
    dataset, found, _, _ = case
    arguments = (dataset.annotations, found, dataset.image_count, 5)
    default = compute_objectlab_scores(*arguments)
    stretched = stretch_confidences(np.asarray(found.score), found.category, default.low, default.high)
    told = compute_objectlab_scores(*arguments, confidences=stretched)
    for name in ("swap", "badloc", "overlooked", "image"):
        np.testing.assert_array_equal(getattr(default, name), getattr(told, name))
    assert told.low.tolist() == [0.5] * 5
    assert told.high.tolist() == [0.95] * 5
    published = judge_by_objectlab(dataset, found, np.asarray(found.score))
    assert np.unique(published.annotations["swap"]).tolist() == [0.0]  # no confidence reaches its constants
    assert len(published.candidates) == 0


def test_confidences_as_precision(case: Case) -> None:
    dataset, found, _, _ = case
    precision = calibrate_to_precision(dataset.annotations, found)
    order = np.argsort(found.score)
    assert (np.diff(precision[order]) >= 0).all()
    assert ((precision >= 0) & (precision <= 1)).all()
    # twin detections of one annotation: only the surer matches, so what is as sure as the other is right half as often
    dataset, twins = scene([(0, 0, 10)], [(0, 0, 10, 0.9), (0, 0, 11, 0.5), (0, 1, 10, 0.4)])
    assert calibrate_to_precision(dataset.annotations, twins).tolist() == [1, 0, 0]


def test_confidence_alone_doubts_what_is_not_seen() -> None:
    dataset, found = scene([(0, 0, 10), (0, 1, 50), (1, 2, 90)], [(0, 0, 11, 0.8), (0, 2, 50, 0.6), (1, 1, 20, 0.3)])
    opinion = judge_by_confidence(dataset, found)
    assert opinion.annotations["any"] == pytest.approx([0.2, 1, 1])
    assert set(opinion.annotations) == {"swap", "badloc", "spurious", "any"}
    assert opinion.candidates.score == pytest.approx([0.3])


def test_what_the_baselines_find(case: Case, opinions: dict[str, Opinion]) -> None:
    found = {name: precision(case, opinion) for name, opinion in opinions.items()}
    chance = found["random order"]
    assert all(chance[kind] < 0.12 for kind in ("swap", "badloc", "spurious", "duplicate"))
    assert chance["any"] < 0.3
    assert found["FiftyOne mistakenness"]["swap"] > 0.5
    assert found["FiftyOne mistakenness"]["spurious"] > 0.2
    assert found["CLOD"]["swap"] > 0.5
    assert found["CLOD"]["overlooked"] > 0.4
    assert found["ObjectLab, stretched"]["swap"] > 0.6 > 0.1 > found["ObjectLab as published"]["swap"]
    assert found["plain rules"]["swap"] > 0.6
    assert found["plain rules"]["overlooked"] > 0.4
    assert found["detector confidence"]["any"] > 2 * chance["any"]
    unknown = {name: {"swap", "badloc", "spurious", "duplicate"} - set(o.annotations) for name, o in opinions.items()}
    assert unknown["ObjectLab as published"] == {"spurious", "duplicate"}
    assert unknown["CLOD"] == unknown["FiftyOne mistakenness"] == {"duplicate"}
    assert unknown["plain rules"] == set()


def test_every_score_can_be_ranked(case: Case, opinions: dict[str, Opinion]) -> None:
    for opinion in opinions.values():
        assert all(np.isfinite(score).all() and len(score) == len(case[0].annotations) for score in opinion.annotations.values())
        assert np.isfinite(opinion.images).all()
        assert opinion.candidates.score is None or np.isfinite(opinion.candidates.score).all()


@pytest.mark.parametrize("what", ["annotations", "detections", "both"])
def test_nothing_to_compare_is_no_error(what: str) -> None:
    dataset, found = scene([(0, 0, 10), (1, 1, 50)], [(0, 0, 11, 0.8), (1, 2, 90, 0.97)])
    if what in ("annotations", "both"):
        dataset = as_dataset(dataset.annotations[:0], SIZES, 3)
    found = found[:0] if what in ("detections", "both") else found
    for opinion in compute_baselines(dataset, found).values():
        assert len(opinion.annotations["any"]) == len(dataset.annotations)
        assert len(opinion.candidates) <= len(found)
        assert len(opinion.images) == 2


def test_an_opinion_is_read_as_it_was_written(tmp_path: Path, opinions: dict[str, Opinion]) -> None:
    for name, opinion in opinions.items():
        write_opinion(opinion, tmp_path / name)
        again = read_opinion(tmp_path / name)
        assert list(again.annotations) == list(opinion.annotations)
        for kind, score in opinion.annotations.items():
            np.testing.assert_array_equal(again.annotations[kind], score)
        np.testing.assert_array_equal(again.candidates.xyxy, opinion.candidates.xyxy)
        np.testing.assert_array_equal(again.images, opinion.images)
        assert again.listed is None


def test_an_image_is_as_bad_as_its_worst() -> None:
    dataset, found = scene([(0, 0, 10), (0, 0, 50)], [(1, 0, 90, 0.7)])
    assert combine({"any": np.array([0.2, 0.4])}, found, dataset).images.tolist() == [0.4, 0.7]
