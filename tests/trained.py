"""What a training finds depends on its luck, and on the processor: whatever a test expects of it has a margin, measured over ten seeds.

Tests that expect such a figure are marked `trained`. `python scripts/measure_margins.py` repeats them with ten seeds and prints the table.
"""

from __future__ import annotations

import os

import orjson

SEED = int(os.environ.get("DETCLEAN_TEST_SEED", "0"))  # moves that of every training in tests, and of every simulated data set
NOTES = os.environ.get("DETCLEAN_TEST_NOTES")  # a file that gets a line for each figure


def expect(name: str, value: float, *, least: float | None = None, most: float | None = None) -> None:
    """A figure that a training has found, and between which it has to be."""
    if NOTES:
        test = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0].partition("/")[2]
        line = {"test": test, "name": name, "value": float(value), "least": least, "most": most}
        with open(NOTES, "ab") as f:
            f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    assert least is None or value >= least, f"{name}: {value}, at least {least} expected"
    assert most is None or value <= most, f"{name}: {value}, at most {most} expected"
