"""Crops: features of the fold's detector, a classifier a fold, and what both say about right and wrong labels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from simulated import make_truth
from tiny import describe_tree, write_model
from trained import SEED, expect
from warm import warm_children

from detclean.boxes import Boxes
from detclean.dataset import Dataset
from detclean.detect import yolo_process
from detclean.detect.crops import classify_crops, embed_boxes
from detclean.detect.yolo import train_folds
from detclean.errors import ConfigError, StageError
from detclean.score.crops import (
    compute_crop_evidence,
    deal_images,
    find_crop_issues,
    judge_rows,
    tabulate_opinions,
)
from detclean.score.looks import Looks, draw_looks

pytestmark = pytest.mark.usefixtures("warm")
SIDE, IMAGES, NO_PICTURE = 64, 10, 9
CATEGORIES = 4
FOLDS = np.array([[0, 1] * 5])
HERE = Path(__file__).parent
LETTERS = HERE.parent / "data" / "letters.pt"
TINY_CLASSIFIER = """nc: 10
scales: {n: [0.33, 0.125, 128]}
backbone: [[-1, 1, Conv, [64, 3, 2]], [-1, 1, Conv, [128, 3, 2]], [-1, 1, Conv, [256, 3, 2]]]
head: [[-1, 1, Classify, [nc]]]
"""


def make_pictures(folder: Path) -> tuple[Dataset, Boxes, np.ndarray]:
    """Ten pictures, the last of them absent, of a red and a green square each; looks: these, and a box on nothing in each.

    Each stands at any of four places, so that none of them tells what is there.
    """
    rng = np.random.default_rng(SEED)
    paths: list[str | None] = []
    boxes = []
    for index in range(IMAGES):
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for category, (left, top) in zip((0, 1, -1), rng.permutation([(4, 4), (36, 4), (4, 36), (38, 38)])[:3].tolist(), strict=True):
            if category >= 0:
                pixels[top : top + 20, left : left + 20] = (255, 0, 0) if category else (0, 255, 0)
            boxes.append((index, category, left, top, left + 20, top + 20))
        paths.append(str(folder / f"{index}.png"))
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / f"{NO_PICTURE}.png").unlink()
    table = np.array(boxes)
    real = table[:, 1] >= 0
    looks = Boxes(table[:, 0], np.maximum(table[:, 1], 0), table[:, 2:])
    annotations = Boxes(**looks[real].columns(), annotation_id=np.arange(2 * IMAGES), is_crowd=np.zeros(2 * IMAGES, bool))
    images = pl.DataFrame(
        {"image_id": range(IMAGES), "file_name": [f"{i}.png" for i in range(IMAGES)], "path": paths, "width": SIDE, "height": SIDE}
    ).with_columns(label_path=pl.lit(None, pl.String), split=pl.lit(None, pl.String))
    return Dataset(images, ("green", "red"), annotations, np.arange(2 * IMAGES), "memory", folder), looks, ~real


GEOMETRY = """
import numpy as np
from ultralytics.data.augment import LetterBox
from detclean.detect.yolo_crops import CONTEXT, cut_crops
from detclean.detect.yolo_features import pool_boxes, reduce_features, to_letterbox

picture = np.zeros((90, 141, 3), np.uint8)
picture[30:60, 47:117] = (0, 0, 255)  # red, as OpenCV has it
boxes = np.array([[47.0, 30, 117, 60], [-20, -20, 30, 30], [140, 0, 141, 90]])
square = LetterBox(320)(image=picture)[..., 2] > 128
rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
assert np.abs(to_letterbox(boxes, picture.shape[:2], 320)[0] - found).max() < 1.5, (to_letterbox(boxes, picture.shape[:2], 320)[0], found)

crops = cut_crops(picture, boxes, 60)
assert crops.shape == (3, 60, 60, 3)
red = crops[0, ..., 0] > 128  # RGB
assert abs(red.any(axis=0).sum() - 60 / CONTEXT) <= 1, red.any(axis=0).sum()
assert abs(red.any(axis=1).sum() - 60 / CONTEXT * 30 / 70) <= 1
assert (crops[0, 0] == 0).all(), "above the box there is the picture"
assert (crops[1, 5, 5] == 114).all(), "beyond the border there is grey"

import torch
level = torch.arange(40.0)[None, None, :].expand(2, 40, 40)  # each value is its column; a stride of 8 pixels
pooled = pool_boxes([level], [8.0], np.array([[80.0, 80, 160, 160]])).reshape(2, 2, 2).astype(float)
assert np.allclose(pooled[:, :, 0], (80 + 20) / 8 - 0.5) and np.allclose(pooled[:, :, 1], (80 + 60) / 8 - 0.5), pooled

rng = np.random.default_rng(0)
features = rng.normal(0, [5, 3] + [0.1] * 58, (300, 60)) @ np.linalg.qr(rng.normal(0, 1, (60, 60)))[0]
reduced = reduce_features(features)
assert reduced.shape == (300, 32) and np.isfinite(reduced).all()
assert np.corrcoef(np.abs(reduced).T)[0, 1] < 0.5 and (np.diff(reduced.std(axis=0)) <= 1e-3).all()
assert np.count_nonzero(reduce_features(features[:3]).std(axis=0) > 1e-4) == 2
assert reduce_features(np.zeros((1, 7), np.float16)).tolist() == [[0.0] * 32]
print("done")
"""


def test_boxes_are_found_in_squares_and_crops_hold_them():
    ended = subprocess.run([sys.executable, "-c", GEOMETRY], capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert ended.stdout.splitlines()[-1:] == ["done"], ended.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home of its own and the models' descriptions."""
    root = tmp_path_factory.mktemp("crops")
    (root / "home").mkdir()
    (root / "data").mkdir()
    write_model(root / "tiny-yolo26n.yaml", "26")
    (root / "tiny-n-cls.yaml").write_text(TINY_CLASSIFIER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "YOLO_CONFIG_DIR"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="module")
def pictures(place):
    return make_pictures(place / "data")


@pytest.fixture(scope="module")
def trained(place, pictures):
    return train(place / "train", pictures, place / "tiny-yolo26n.yaml")


def train(out: Path, pictures: tuple[Dataset, Boxes, np.ndarray], model: Path) -> Path:
    settings = {"epochs": 1, "imgsz": SIDE, "batch": 4, "device": "cpu", "close_mosaic": 0, "workers": 0}
    with warm_children():
        train_folds(pictures[0], FOLDS, out, model=str(model), train=settings, seed=SEED, workers=2)
    return out


@pytest.fixture(scope="module")
def embedded(place, pictures, trained):
    dataset, looks, _ = pictures
    with warm_children():
        return embed_boxes(dataset, FOLDS, trained, looks, place / "features", device="cpu", workers=2)


def classify(place, pictures, out, **changed):
    dataset, looks, background = pictures
    settings = {"model": str(place / "tiny-n-cls.yaml"), "imgsz": 32, "epochs": 60, "device": "cpu", "workers": 2, "seed": SEED} | changed
    return classify_crops(dataset, FOLDS, looks, background, out, **settings)


@pytest.fixture(scope="module")
def classified(place, pictures):
    before = describe_tree(place / "data")
    with warm_children():
        probability = classify(place, pictures, place / "crops")
    assert describe_tree(place / "data") == before
    return probability


def test_each_box_has_features_where_there_is_a_picture(pictures, embedded):
    _, looks, _ = pictures
    assert embedded.shape == (1, len(looks), 32)
    assert embedded.dtype == np.float32
    assert (np.isnan(embedded[0]).all(axis=1) == (looks.image_index == NO_PICTURE)).all()


@pytest.mark.trained
def test_features_tell_what_is_in_a_box(place, pictures):
    """Those of detectors that begin with one of letters: of the tiny one, hardly trained, they tell where a box is and nothing else."""
    dataset, looks, background = pictures
    trained = train(place / "train letters", pictures, LETTERS)
    embedded = embed_boxes(dataset, FOLDS, trained, looks, place / "features of letters", device="cpu", workers=2)
    kind = np.where(background, 2, looks.category)
    alike = []
    for fold in (0, 1):  # each fold has a space of its own
        mine = np.flatnonzero((FOLDS[0][looks.image_index] == fold) & (looks.image_index != NO_PICTURE))
        distance = np.linalg.norm(embedded[0][mine][:, None] - embedded[0][mine], axis=2)
        np.fill_diagonal(distance, np.inf)
        alike += (kind[mine][distance.argmin(axis=1)] == kind[mine]).tolist()
    expect("share of boxes next to one of their kind, where chance is a third", np.mean(alike), least=0.6)  # ten seeds: 0.7 to 1


def test_features_that_are_damaged_are_made_again_and_are_the_same(place, pictures, trained, embedded, monkeypatch):
    dataset, looks, _ = pictures
    (marker := place / "features" / "folds" / "fold-0" / "features.npz").write_bytes(marker.read_bytes()[:-1])  # by a disk
    again = embed_boxes(dataset, FOLDS, trained, looks, place / "features", device="cpu", workers=1)
    assert np.array_equal(again, embedded, equal_nan=True)
    monkeypatch.setattr(yolo_process.subprocess, "Popen", None)
    assert np.array_equal(embed_boxes(dataset, FOLDS, trained, looks, place / "features"), embedded, equal_nan=True)


@pytest.mark.trained
def test_classifiers_know_crops_of_images_that_they_were_not_trained_on(pictures, classified):
    _, looks, background = pictures
    assert classified.shape == (1, len(looks), 3)
    there = looks.image_index != NO_PICTURE
    assert np.isnan(classified[0][~there]).all()
    assert np.allclose(classified[0][there].sum(axis=1), 1, atol=1e-5)
    expect(
        "share of crops that are known", (classified[0].argmax(axis=1) == np.where(background, 2, looks.category))[there].mean(), least=0.9
    )


def test_a_classifier_does_not_see_its_own_folds_labels(place, pictures, classified, tmp_path):
    """Were they learnt from, other labels there would give other answers there."""
    dataset, looks, background = pictures
    annotations = dataset.annotations
    mine = FOLDS[0][annotations.image_index] == 0
    columns = annotations.columns() | {"category": np.where(mine, 1 - annotations.category, annotations.category)}
    changed = Dataset(dataset.images, dataset.categories, Boxes(**columns), dataset.source_rows, "memory", dataset.source)
    other = classify(place, (changed, looks, background), tmp_path / "crops")[0]
    of_zero = (FOLDS[0][looks.image_index] == 0) & (looks.image_index != NO_PICTURE)
    assert np.array_equal(other[of_zero], classified[0][of_zero])
    assert not np.allclose(other[~of_zero], classified[0][~of_zero], equal_nan=True)


def test_classifiers_are_not_trained_twice(place, pictures, classified, monkeypatch):
    monkeypatch.setattr(yolo_process.subprocess, "Popen", None)
    assert np.array_equal(classify(place, pictures, place / "crops"), classified, equal_nan=True)
    left = {path.name for path in (place / "crops").rglob("*") if path.is_file()}
    assert left == {"probability.npz", "train.log", "progress.jsonl"}


def test_models_that_cannot_be_are_met_first(place, pictures, tmp_path):
    with pytest.raises(StageError, match=r"no file .*absent-cls\.pt"):
        classify(place, pictures, tmp_path / "a", model="absent-cls.pt")
    with pytest.raises(ConfigError, match="neither a file nor"):
        classify(place, pictures, tmp_path / "b", model="something")


# what the features say: two folds of simulated ones, whose spaces are turned against each other


def make_features(looks: Looks, truth: Boxes, folds: np.ndarray, seed: int = 0) -> np.ndarray:
    """(1, l, 8): what stands at each look, whatever its label says, with noise; background lies apart from all categories."""
    rng = np.random.default_rng(seed + SEED)
    centres = 8.0 * np.stack([np.linalg.qr(rng.normal(0, 1, (8, 8)))[0][: CATEGORIES + 1] for _ in range(2)])  # equally far apart
    really = np.where(looks.annotation >= 0, truth.category[looks.annotation], CATEGORIES)
    features = centres[folds[0][looks.boxes.image_index], really] + rng.normal(0, 1, (len(looks), 8))
    return features[None].astype(np.float32)


@pytest.fixture(scope="module")
def simulated():
    """Annotations with every tenth category wrong, and looks at them."""
    truth, sizes = make_truth(100, 7, CATEGORIES)
    rng = np.random.default_rng(1 + SEED)
    wrong = rng.random(len(truth)) < 0.1
    category = np.where(wrong, (truth.category + rng.integers(1, CATEGORIES, len(truth))) % CATEGORIES, truth.category)
    looks = draw_looks(Boxes(truth.image_index, category, truth.xyxy), sizes, CATEGORIES)
    folds = rng.integers(0, 2, (1, len(sizes)))
    return looks, truth, wrong, folds, make_features(looks, truth, folds)


@pytest.fixture(scope="module")
def evidence(simulated):
    looks, _, _, folds, features = simulated
    return compute_crop_evidence(features, looks.boxes, looks.kind, folds, CATEGORIES)


@pytest.mark.trained
def test_wrong_categories_are_told_and_the_right_one_is_named(simulated, evidence):
    looks, truth, wrong, _, _ = simulated
    table = evidence.looks.filter(pl.Series(looks.kind == ""))
    for name, sign in (("same", -1), ("other", 1), ("self_confidence", -1), ("margin", -1), ("neighbours", 1)):
        values = sign * table[f"crop_{name}"].to_numpy()
        expect(f"AUROC of {name}", (values[wrong][:, None] > values[~wrong]).mean(), least=0.97)  # ten seeds: 1
    influence = table["crop_influence"].to_numpy()  # weaker, as it asks what the error does to the loss on other rows
    expect("AUROC of influence", (influence[wrong][:, None] > influence[~wrong]).mean(), least=0.7)  # ten seeds: 0.77 to 0.95
    named = table["crop_other_category"].to_numpy()[wrong]
    expect("share of the right names", (named == truth.category[wrong]).mean(), least=0.97)  # ten seeds: 1


@pytest.mark.trained
def test_planted_errors_look_as_real_ones(simulated, evidence):
    looks, _, wrong, _, _ = simulated
    same = evidence.looks["crop_same"].to_numpy()
    right = looks.given[~wrong]
    swapped = np.flatnonzero(looks.kind == "swap")
    swapped = swapped[~wrong[looks.annotation[swapped]]]
    expect("median same, swapped", np.median(same[swapped]), most=0.1)  # ten seeds: 0.056 to 0.075
    expect("median same, right", np.median(same[right]), least=0.6)  # ten seeds: 0.77 to 0.81
    background = evidence.looks["crop_background"].to_numpy()
    expect("median background, spurious", np.median(background[looks.kind == "spurious"]), least=0.6)  # ten seeds: 0.92 to 0.93
    expect("median background, given", np.median(background[looks.given]), most=0.2)  # ten seeds: 0.063 to 0.077


@pytest.mark.trained
def test_cleanlab_flags_the_wrong_ones_and_counts_categories(simulated, evidence):
    looks, _, wrong, _, _ = simulated
    flag = evidence.flag[looks.given]
    expect("share of the wrong that are flagged", flag[wrong].mean(), least=0.88)  # ten seeds: 0.92 to 0.97
    expect("share of the right that are flagged", flag[~wrong].mean(), most=0.03)  # ten seeds: 0
    assert not evidence.flag[looks.kind != ""].any()
    assert evidence.facts["label_issues"] == flag.sum()
    assert np.array(evidence.facts["confident_joint"]).sum() == len(wrong)
    expect("least agreement of a category", min(evidence.facts["agreement"]), least=0.8)  # ten seeds: 0.83 to 0.91
    expect("most agreement of a category", max(evidence.facts["agreement"]), most=0.98)  # ten seeds: 0.91 to 0.96
    shares = [pair["share"] for pair in evidence.facts["overlapping"]]
    assert len(shares) == CATEGORIES * (CATEGORIES - 1) / 2
    assert shares == sorted(shares, reverse=True)


@pytest.mark.trained
def test_candidates_are_judged_but_not_learnt_from(simulated, evidence):
    looks, truth, _, folds, features = simulated
    rows = looks.given[::3]
    candidates = Boxes(truth.image_index[::3], truth.category[::3], truth.xyxy[::3])
    with_them = compute_crop_evidence(
        features, looks.boxes, looks.kind, folds, CATEGORIES, candidates=candidates, candidate_features=features[:, rows]
    )
    assert with_them.looks.equals(evidence.looks) or np.allclose(with_them.probability, evidence.probability)
    expect("median same of candidates", np.median(with_them.candidates["crop_same"].to_numpy()), least=0.6)  # ten seeds: 0.76 to 0.81
    assert with_them.candidates.height == len(candidates)


def test_no_row_is_judged_by_what_was_learnt_from_its_image(simulated):
    looks, _, _, folds, features = simulated
    parts = deal_images(folds.shape[1], None, 0)
    target = np.where(looks.kind == "", looks.boxes.category, np.where(looks.kind == "spurious", CATEGORIES, -1))
    arguments = (features[0], looks.boxes.image_index, looks.boxes.category)
    before = judge_rows(*arguments, target, folds[0], parts, CATEGORIES)
    image = int(looks.boxes.image_index[0])
    mine = looks.boxes.image_index == image
    turned = np.where(mine & (target >= 0), (target + 1) % (CATEGORIES + 1), target)
    after = judge_rows(*arguments, turned, folds[0], parts, CATEGORIES)
    assert np.array_equal(before.probability[mine], after.probability[mine])
    assert np.array_equal(before.neighbours[mine], after.neighbours[mine])
    assert np.allclose(before.influence[mine], after.influence[mine], rtol=1e-6, atol=1e-12)
    assert not np.allclose(before.probability[~mine], after.probability[~mine])


@pytest.mark.trained
def test_influence_is_what_learning_from_a_row_does_to_the_loss():
    """The first-order change, against fits with a few rows weighted up a little."""
    from sklearn.linear_model import LogisticRegression

    from detclean.score import crops

    rng = np.random.default_rng(SEED)
    target = rng.integers(0, 2, 400)
    features = rng.normal(0, 1, (400, 3)) + np.where(target == 1, 1.0, -1.0)[:, None] * [1.0, 0.3, 0]
    flipped = np.where(np.arange(400) % 5 == 0, 1 - target, target)
    lesson = crops._Lesson(features[:200], flipped[:200], 1)
    held, held_target = features[200:], target[200:]
    image = np.arange(200)
    influence = lesson.measure_influence(held, lesson.judge(held), flipped[200:], image, held_target)

    def loss_with(row: int, step: float) -> float:
        inputs = np.concatenate([lesson._whiten(features[:200]), lesson._whiten(held[row : row + 1])])
        model = LogisticRegression(C=crops.INVERSE_PENALTY, tol=1e-10, max_iter=1000)
        model.fit(inputs, np.append(flipped[:200], flipped[200 + row]), sample_weight=np.append(np.ones(200), step))
        others = np.arange(200) != row
        chance = model.predict_proba(lesson._whiten(held[others]))
        return float(-np.log(chance[np.arange(199), held_target[others]]).mean())

    rows = np.arange(0, 200, 8)
    change = np.array([loss_with(row, 0.1) - loss_with(row, 1e-9) for row in rows.tolist()])
    expect("correlation of influence and loss", np.corrcoef(change, influence[rows])[0, 1], least=0.95)  # ten seeds: 1 to 1


def test_groups_of_images_stay_together():
    groups = np.array([3, 3, 7, 7, 7, 1, 2, 2, 9, 8])
    parts = deal_images(10, groups, 0)
    assert all(len(set(parts[groups == group])) == 1 for group in groups)
    assert len(set(parts)) > 3
    assert deal_images(0, None, 0).shape == (0,)


def test_rows_without_features_stay_unknown(simulated):
    looks, _, _, folds, features = simulated
    holes = features.copy()
    holes[:, looks.boxes.image_index == 5] = np.nan
    found = compute_crop_evidence(holes, looks.boxes, looks.kind, folds, CATEGORIES)
    unknown = found.looks.filter(pl.Series(looks.boxes.image_index == 5))
    assert unknown.select(pl.all().exclude("crop_other_category").is_nan().all()).row(0) == (True,) * 8
    assert (unknown["crop_other_category"] == -1).all()
    assert np.isfinite(found.probability[looks.boxes.image_index != 5]).all()
    repeated = compute_crop_evidence(np.concatenate([holes, features]), looks.boxes, looks.kind, np.concatenate([folds, folds]), CATEGORIES)
    assert np.isfinite(repeated.probability).all()  # where one repeat knows nothing the other is believed


def test_too_little_to_learn_from_says_nothing():
    boxes = Boxes(np.array([0, 1]), np.array([0, 1]), np.tile([0.0, 0, 9, 9], (2, 1)))
    found = compute_crop_evidence(np.zeros((1, 2, 4)), boxes, np.array(["", ""]), np.zeros((1, 2), np.int64), 2)
    assert np.isnan(found.probability).all()
    assert found.facts["label_issues"] == 0
    none = compute_crop_evidence(np.zeros((1, 0, 4)), Boxes.empty(), np.empty(0, "<U10"), np.zeros((1, 2), np.int64), 2)
    assert none.looks.height == 0


def test_columns_follow_their_definitions():
    table = tabulate_opinions(np.array([[0.6, 0.1, 0.3], [0.0, 0.0, 1.0], [np.nan] * 3]), np.array([1, 0, 0]))
    first, second, third = table.iter_rows(named=True)
    assert first["crop_same"] == pytest.approx(1 / 7)
    assert first["crop_other"] == pytest.approx(6 / 7)
    assert first["crop_other_category"] == 0
    assert first["crop_self_confidence"] == pytest.approx(0.1)
    assert first["crop_margin"] == pytest.approx((0.1 - 0.6 + 1) / 2)
    assert first["crop_background"] == pytest.approx(0.3)
    assert second["crop_same"] == pytest.approx(0.5)
    assert np.isnan(third["crop_same"])
    assert third["crop_other_category"] == -1
    one = tabulate_opinions(np.array([[0.8, 0.2]]), np.array([0]), "trained_crop_")
    assert one.row(0, named=True)["trained_crop_other_category"] == -1
    assert one["trained_crop_other"][0] == 0


def test_a_category_nobody_drew_does_not_stop_cleanlab():
    rng = np.random.default_rng(0)
    category = rng.integers(0, 2, 80) * 2  # category 1 of three does not occur
    probability = np.full((80, 4), 0.1)
    probability[np.arange(80), category] = 0.7
    flag, facts = find_crop_issues(probability, category)
    assert not flag.any()
    assert facts["agreement"] == [1.0, None, 1.0]


def test_more_categories_than_boxes_are_no_cause_for_a_warning() -> None:
    from detclean.score import crops

    features = np.random.default_rng(0).normal(size=(8, 5))
    lesson = crops._Lesson(features, np.arange(8) % 6, 6)  # warnings are errors in tests
    assert lesson.judge(features).shape == (8, 7)
