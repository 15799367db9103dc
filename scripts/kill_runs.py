"""Does to runs what real machines do to them, and holds what comes out after it against an undisturbed run.

    python scripts/kill_runs.py                      everything that takes seconds, some minutes on two free cores
    python scripts/kill_runs.py moments --kills 50   SIGKILL at a random moment of each part of a run whose detections are brought
    python scripts/kill_runs.py renames              SIGKILL at every rename of such a run
    python scripts/kill_runs.py damage               files of complete and of unfinished stages are cut, emptied and removed
    python scripts/kill_runs.py disk                 a full disk: at every rename, and (as root) a small file system of its own
    python scripts/kill_runs.py data                 pictures and labels go while the run works on them
    python scripts/kill_runs.py twins                two processes on one run folder, and the lock of a dead one
    python scripts/kill_runs.py commands             SIGKILL at every change of a name in apply, undo, export and health
    python scripts/kill_runs.py decisions            SIGKILL while decisions are being written
    python scripts/kill_runs.py hard                 SIGKILL at changes of a name in `hard --images`, which looks with the models of a run
    python scripts/kill_runs.py compare              SIGKILL at a random moment of each part of `compare`, which trains
    python scripts/kill_runs.py beside --trains      no blow at all, but another number of `workers`

    --trains   moments, renames, damage, disk and data of a run that trains, in every way that there is (`method: both`, `crops: always`)

A run that trains takes a minute. It is struck again and again, further on each time, and then goes to its end, which is compared.

Runs are forks of this process that do what `python -m detclean` does. Each line of the table says how often one was really killed or
refused, how many ends were compared, and how many were the same to the byte: tables, lists, labels, patches, stages, weights. Left out
of that are logs and lengths of time.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import break_runs
import kill_stages
from disturb import SUMMARY, Place, Row, finish, preload, prepare


def main() -> None:
    everything = ("moments", "renames", "damage", "disk", "data", "twins", "commands", "decisions", "beside", "hard", "compare")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(everything)}; all but the last three if not said")
    parser.add_argument("--trains", action="store_true", help="do it to a run that trains")
    parser.add_argument("--kills", type=int, default=None, help="kills at random moments: 50, of decisions 20")
    parser.add_argument("--most", type=int, default=10_000, help="at most so many of the places where a blow is possible, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := [name for name in given.what if name not in everything]:
        parser.error(f"{unknown[0]}: is none of {', '.join(everything)}")
    wanted, rng, most = given.what or everything[:-3], random.Random(given.seed), given.most
    if given.trains and (no := {*wanted} & {"twins", "commands", "decisions"}):
        parser.error(f"--trains: not with {', '.join(sorted(no))}")
    preload()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as name:
        root = Path(name).resolve()
        trains = given.trains or bool({*wanted} & {"hard", "compare"})
        places = {which: prepare(root / str(which), trains=which) for which in {given.trains, trains} if {*wanted} - {"decisions"}}
        for what in wanted:
            begun = time.monotonic()
            place = places.get(trains if what in ("hard", "compare") else given.trains)
            if place is None or what == "decisions":
                rows.append(break_runs.kill_writers(root, given.kills or 20, rng))
                continue
            if not (place.folder / SUMMARY).exists():
                finish(place.arguments, place.root)
            work: dict[str, Callable[[Place], list[Row]]] = {
                "moments": lambda place: [kill_stages.kill_at_moments(place, given.kills or 50, rng)],
                "renames": lambda place: [kill_stages.kill_at_renames(place, most)],
                "damage": kill_stages.damage,
                "beside": lambda place: [kill_stages.compare_beside(place)],
                "disk": lambda place: [break_runs.refuse_renames(place, most), *break_runs.fill_disk(place, min(most, 12))],
                "data": lambda place: break_runs.take_data(place, min(most, 8)),
                "twins": lambda place: break_runs.start_twins(place, min(most, 6)),
                "commands": lambda place: break_runs.kill_commands(place, most),
                "hard": lambda place: [break_runs.kill_hard(place, min(most, 12))],
                "compare": lambda place: [kill_stages.kill_compare(place, given.kills or 12, rng)],
            }
            rows += work[what](place)
            print(f"{what}: {time.monotonic() - begun:.0f} s", flush=True)
    print_table(rows)
    sys.exit(1 if any(row.wrong for row in rows) else 0)


def print_table(rows: Sequence[Row]) -> None:
    print("\n| what was done | killed or refused | ends compared | the same |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row.what} | {row.hit} | {row.ends} | {row.same} |")
    print(f"| together | {sum(row.hit for row in rows)} | {sum(row.ends for row in rows)} | {sum(row.same for row in rows)} |")
    for row in (row for row in rows if row.parts):
        print(f"met by {row.what}: {', '.join(f'{part} {count}' for part, count in row.parts.items())}")
    for row in rows:
        for fault in row.wrong:
            print(f"WRONG {row.what}: {fault}")


if __name__ == "__main__":
    main()
