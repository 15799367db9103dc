"""What decisions are worth to the probabilities of what is not decided yet: on runs with an answer key, decided in the key's sense.

Usage: python scripts/measure_decisions.py RUN ANSWERS.json [RUN ANSWERS.json ...]

Prints the log loss of the undecided issues' probabilities after decisions, over what it was before them: below 1 is better. The decisions
are the first of the ranking, as in the review, or random ones (mean of eight draws).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from detclean.boxes import Floats, Ints, Mask
from detclean.dataset import ISSUE_TYPES
from detclean.runfolder import open_run
from detclean.score.answers import find_correct_issues
from detclean.score.recalibration import recalibrate

DECIDED = (20, 50, 100, 200)
DRAWS = 8


def main() -> None:
    runs, keys = sys.argv[1::2], sys.argv[2::2]
    cases = [load_case(Path(run), Path(key)) for run, key in zip(runs, keys, strict=True)]
    print("| decided | first of the ranking | random |\n| --- | --- | --- |")
    for count in DECIDED:
        ranked = [compare(case, np.arange(count)) for case in cases]
        draws = [np.random.default_rng(seed).permutation(len(case[0]))[:count] for seed in range(DRAWS) for case in cases]
        random = [compare(case, draw) for draw, case in zip(draws, cases * DRAWS, strict=True)]
        print(f"| {count} | {np.mean(ranked):.3f} | {np.mean(random):.3f} |")


def load_case(run: Path, answers: Path) -> tuple[Floats, Ints, Mask]:
    issues = open_run(run).issues
    kind = np.array([ISSUE_TYPES.index(name) for name in issues["issue_type"].to_list()])
    return issues["probability"].to_numpy(), kind, find_correct_issues(issues, answers)


def compare(case: tuple[Floats, Ints, Mask], decided: Ints) -> float:
    probability, kind, wrong = case
    rest = np.setdiff1d(np.arange(len(probability)), decided)
    after = recalibrate(probability, kind, decided, wrong[decided])
    return log_loss(after[rest], wrong[rest]) / log_loss(probability[rest], wrong[rest])


def log_loss(probability: Floats, wrong: Mask) -> float:
    clipped = np.clip(probability, 1e-3, 1 - 1e-3)
    return float(-np.log(np.where(wrong, clipped, 1 - clipped)).mean())


if __name__ == "__main__":
    main()
