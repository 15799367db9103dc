"""How far a plan is from the truth: `python -m detclean plan` against the seconds that a finished run has recorded.

    python scripts/measure_plan.py configs/yolo.yaml runs/digits
    python scripts/measure_plan.py configs/bccd.yaml runs/bccd data=FOLDER

The plan is made anew, as if nothing were done; the run must have been made with the same configuration, and neither it nor the plan beside
other work, or the machine's load is what is measured.
"""

import argparse
import io
import tempfile
from pathlib import Path

import orjson
from rich.console import Console

from detclean.config import read_config
from detclean.plan import make_plan
from detclean.show.progress import Display

TARGET = 1.5  # factor between plan and truth, of the whole and of each stage that matters
MATTERS = 0.05  # of the whole time, from which on a stage does


def compare_seconds(planned: dict[str, float], measured: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """Stage, planned, measured and the factor between them, never below 1; the whole last. Stages in both are compared."""
    names = [name for name in planned if name in measured]
    rows = [(name, planned[name], measured[name]) for name in names]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    return [(name, plan, truth, max(plan, truth, 0.01) / max(min(plan, truth), 0.01)) for name, plan, truth in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("run", type=Path, help="the run folder of a finished run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    measured = orjson.loads((arguments.run / "summary.json").read_bytes())["seconds"]
    with tempfile.TemporaryDirectory() as empty:
        config = read_config(arguments.config, [*arguments.overrides, f"runs={empty}"])
        plan = make_plan(config, Display(Console(file=io.StringIO()), None))
    rows = compare_seconds({stage.name: stage.seconds for stage in plan.stages}, measured)
    whole = rows[-1][2]
    print(f"{'stage':8} {'planned':>9} {'measured':>9} {'factor':>7}")
    for name, planned, truth, factor in rows:
        print(f"{name:8} {planned:8.1f}s {truth:8.1f}s {factor:7.2f}{'' if truth >= MATTERS * whole else '  (too short to matter)'}")
    worst = max(factor for _, _, truth, factor in rows if truth >= MATTERS * whole)
    print(
        f"planned in {plan.probed_seconds:.0f} s; worst factor of what matters {worst:.2f}, of the whole {rows[-1][3]:.2f}, target {TARGET}"
    )
    for warning in plan.warnings:
        print(f"warning: {warning}")
    return int(rows[-1][3] > TARGET)


if __name__ == "__main__":
    raise SystemExit(main())
