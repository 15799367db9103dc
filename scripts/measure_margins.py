"""Repeats the tests of what trainings find with ten seeds, and prints how far each figure stays from what its test expects.

    python scripts/measure_margins.py                            all of them
    python scripts/measure_margins.py tests/test_crops.py        those of a file; whatever pytest takes

The margin is that of the worst seed. A test that fails with some seed is named at the end.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

SEEDS = range(10)
ROOT = Path(__file__).parents[1]


def main() -> None:
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "notes.jsonl"
        notes.touch()
        for seed in SEEDS:
            own = os.environ | {"DETCLEAN_TEST_SEED": str(seed), "DETCLEAN_TEST_NOTES": str(notes)}
            command = [sys.executable, "-m", "pytest", "-m", "trained", "--tb=line", *sys.argv[1:]]
            done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
            if done.returncode not in (0, 1):
                raise SystemExit(done.stdout + done.stderr)
            failed += [f"seed {seed}: {name}" for name in re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)]
            print(f"seed {seed}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
        print_table([orjson.loads(line) for line in notes.read_bytes().splitlines()])
    print(*failed, sep="\n")
    sys.exit(bool(failed))


def print_table(notes: Sequence[dict[str, Any]]) -> None:
    figures: dict[tuple[str, str, float | None, float | None], list[float]] = defaultdict(list)
    for note in notes:
        figures[note["test"], note["name"], note["least"], note["most"]].append(note["value"])
    print("| test | figure | expected | least | most | margin |\n| --- | --- | --- | ---: | ---: | ---: |")
    for (test, name, least, most), values in figures.items():
        bounds = [("at least", least, min(values) - (least or 0)), ("at most", most, (most or 0) - max(values))]
        expected = " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds if bound is not None)
        margins = [margin for _, bound, margin in bounds if bound is not None]
        print(f"| {test} | {name} | {expected} | {min(values):.3g} | {max(values):.3g} | {min(margins):.3g} |")


if __name__ == "__main__":
    main()
