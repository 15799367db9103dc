"""What training is tried on: the labels as given, each strategy's version of them, and of each amount a control at random."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from detclean.boxes import Floats
from detclean.dataset import Dataset
from detclean.edit.decisions import Decision
from detclean.edit.proposals import Cleaning
from detclean.edit.versions import count_touched, draw_control

GIVEN = "as given"
CONTROL = "random, as much as {}"
STRATEGIES = {
    "fix": "every suspected error is put right as proposed",
    "drop_boxes": "suspected boxes are deleted",
    "drop_images": "images with a suspected error are left out",
    "drop_hard": "images in which something is merely hard, and nothing noisy, are left out",
    "keep_hard": "as many of the easiest images as drop_hard leaves out are left out, but none in which anything is flagged: the hard stay",
    "reweight": "all labels as given, but an image is drawn in proportion to the probability that all its labels are right",
    "curriculum": "all labels as given, but the first half of the epochs sees the more trusted half of the images alone",
}
UNDECIDED = ("skip", "open")  # verdicts that change nothing
NOTHING = Cleaning((), ())


@dataclass(frozen=True)
class Labels:
    """One version of the labels to train on: its name, the slug of its stages, what is done to the labels as given.

    draw: (parts, N), how often an image is drawn compared with the others, in each of that many equal parts of the training; None: all
    alike. control_of: the strategies whose amount this one does at random.
    """

    name: str
    slug: str
    cleaning: Cleaning = NOTHING
    draw: Floats | None = None
    control_of: tuple[str, ...] = ()


def name_state(issues_stage: str, decisions: Mapping[str, Decision]) -> str:
    """A name of what strategies go by: the run's issues (their stage's folder) and what was decided. Another state has another name."""
    said = [(name, each.verdict, each.category, each.xyxy) for name, each in sorted(decisions.items()) if each.verdict not in UNDECIDED]
    return f"{issues_stage} {hashlib.blake2b(repr(said).encode(), digest_size=6).hexdigest()}"


def heed_decisions(issues: pl.DataFrame, verdicts: Mapping[str, str]) -> pl.DataFrame:
    """The issues as people left them. verdicts: what they decided, by issue_id.

    What they accepted is noisy and sure; what they called hard is hard, with a probability of 0; what they rejected is none any more.
    """
    decided = pl.Series("decided", [verdicts.get(name, "") for name in issues["issue_id"].to_list()], dtype=pl.String)
    accepted, hard = pl.col("decided") == "accept", pl.col("decided") == "hard"
    return (
        issues.with_columns(decided)
        .filter(pl.col("decided") != "reject")
        .with_columns(
            probability=pl.when(accepted).then(1.0).when(hard).then(0.0).otherwise("probability"),
            verdict=pl.when(accepted).then(pl.lit("noisy")).when(hard).then(pl.lit("hard")).otherwise("verdict"),
        )
    )


def compute_trust(
    image_count: int, annotations: pl.DataFrame, candidates: pl.DataFrame, issues: pl.DataFrame, verdicts: Mapping[str, str]
) -> Floats:
    """The probability that all labels of an image are right: (N,), the product of 1 - p over its annotations and candidates.

    annotations, candidates: the tables of scoring, with image_index. issues: with issue_id; what was decided about one counts instead of
    its probability: 1 where it was accepted, 0 where it was rejected or called hard.
    """
    told = {"accept": 1.0, "reject": 0.0, "hard": 0.0}
    known = pl.Series("told", [told.get(verdicts.get(name, "")) for name in issues["issue_id"].to_list()], dtype=pl.Float64)
    decided = issues.with_columns(known).filter(pl.col("told").is_not_null())
    of_given = decided.filter(pl.col("annotation").is_not_null()).select("annotation", "told").unique("annotation")
    given = annotations.select("image_index", "annotation", p="p_any").join(of_given, on="annotation", how="left")
    place = ["image_index", "category", "x1", "y1", "x2", "y2"]
    of_missing = decided.filter(pl.col("annotation").is_null()).select(
        "image_index", "told", *(pl.col(f"suggested_{name}").alias(name) for name in place[1:])
    )
    missing = candidates.select(*place, p="probability").join(of_missing.unique(place), on=place, how="left")
    rows = pl.concat([table.select("image_index", p=pl.coalesce("told", "p")) for table in (given, missing)])
    with np.errstate(divide="ignore"):  # what is surely wrong
        logarithm = np.log1p(-rows["p"].to_numpy().clip(0, 1))
    trust: Floats = np.exp(np.bincount(rows["image_index"].to_numpy(), logarithm, minlength=image_count))
    return trust


def draw_by_trust(trust: Floats, strategy: str) -> Floats | None:
    """How often each image is drawn: (parts, N), None where nothing tells the images apart. trust: (N,).

    reweight: in proportion to its trust. curriculum: for the first half of the training the more trusted half of the images (of equals
    the first), then all alike.
    """
    if not len(trust) or trust.min() == trust.max():
        return None
    if strategy == "reweight":
        return trust[None].copy()
    half = np.zeros(len(trust))
    half[np.argsort(-trust, kind="stable")[: -(-len(trust) // 2)]] = 1
    return np.stack([half, np.ones(len(trust))])


def list_versions(dataset: Dataset, strategies: Mapping[str, Cleaning | Floats], seed: int) -> list[Labels]:
    """The labels as given, then every strategy: its name, and what it does to the labels or how it draws the images.

    Behind the last of those that do equally much stands their one control: as many images or annotations left out at random, or the same
    draws shuffled among the images.
    """
    amounts: dict[str, list[str]] = {}
    for name, does in strategies.items():
        amounts.setdefault(_name_amount(name, does), []).append(name)
    versions = [Labels(GIVEN, "given")]
    for name, does in strategies.items():
        slug = name.replace("_", "-")
        cleaning, draw = (does, None) if isinstance(does, Cleaning) else (NOTHING, does)
        versions.append(Labels(name, slug, cleaning, draw))
        amount = _name_amount(name, does)
        alike = tuple(amounts[amount])
        if name != alike[-1]:
            continue
        rng = np.random.default_rng(seed)
        if draw is None:
            cleaning = draw_control(dataset, cleaning, rng)
        else:
            draw = draw[:, rng.permutation(draw.shape[1])]
        versions.append(Labels(CONTROL.format(join_names(alike)), f"random-{amount}", cleaning, draw, alike))
    return versions


def _name_amount(name: str, does: Cleaning | Floats) -> str:
    """By how much, for the name of a stage: another strategy that does equally much has the control trained already."""
    if not isinstance(does, Cleaning):
        return name
    return f"{len(does.drop_images)}-images" if does.drop_images else f"{count_touched(does)}-boxes"


def join_names(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
