"""Damaged input for every reader, by the ten thousand: each has to give a result or a DetcleanError with file and place.

    python scripts/fuzz.py                              20,000 inputs over all readers: two tables
    python scripts/fuzz.py --count 500 --readers coco yolo --seed 7
    python scripts/fuzz.py --again 0-coco-17            one case once more, in this process; its input stays in --out

A case is a good input of a reader with a few changes (scripts/fuzzing/), named SEED-READER-NUMBER: the same name makes the same input. It
is read in a child process that serves many cases, and what was read goes on as in a run: audit, tables, issue lists, a cleaned copy that
is read again; of a run folder, the commands that begin there. A fault is: any other exception; a message without its file, or longer than
a person reads; more than 5 s of computing, or 10 s of waiting (the machine may be busy); more than 1 GiB; a file that appears, changes or
goes anywhere but in the folder to be written; a child that dies. The input of every fault is kept below --out, by the case's name, with
what was said. The first table counts by reader; the second, how many inputs held each kind of damage (scripts/fuzzing/checklist.py). The
run folders that some readers need are made first, from tests/finished.py. Exit status 1 where there are faults.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from fuzzing.children import SECONDS, Child, Outcome, run_case, serve
from fuzzing.watch import list_tree


def list_cases(readers: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Names of `count` cases, each reader's share of them."""
    from fuzzing.readers import READERS

    shares = [reader for reader in readers for _ in range(READERS[reader].share)]
    for number in range(count):
        yield f"{seed}-{shares[number % len(shares)]}-{number}"


def read_all(cases: Sequence[str], children: Sequence[Child], out: Path) -> Iterator[Outcome]:
    """The outcome of each case, in order; faults are told and kept as they are met."""
    free: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        free.put(child)

    def ask(case: str) -> Outcome:
        child = free.get()
        outcome = child.ask(case)
        if outcome.kind == "fault" and (outcome.seconds > SECONDS or outcome.detail == "hangs" or "TooSlow" in outcome.detail):
            outcome = child.ask(case)  # once more: the machine may have been busy
        if outcome.kind == "fault":
            print(f"{case}: {outcome.detail}", flush=True)
            keep(out, child.root, outcome)
        free.put(child)
        return outcome

    with ThreadPoolExecutor(len(children)) as pool:
        for number, outcome in enumerate(pool.map(ask, cases), 1):
            yield outcome
            if number % 2000 == 0:
                print(f"{number:,} inputs", file=sys.stderr, flush=True)
    for child in children:
        child.stop()


def keep(out: Path, root: Path, outcome: Outcome) -> None:
    """The input of a fault, and what was said."""
    place = out / outcome.case
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "said.txt").write_text(outcome.detail + "\n", errors="replace")
    if "-run-" not in outcome.case and any((root / "case").iterdir()):  # a whole run folder is made anew by --again
        subprocess.run(["cp", "-a", str(root / "case"), str(place / "input")], check=False)


def as_table(outcomes: Sequence[Outcome]) -> str:
    """Inputs, results, errors and faults of each reader, the slowest and the largest."""
    lines = [
        "| reader | inputs | results | DetcleanErrors | faults | slowest s | largest MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    readers = list(dict.fromkeys(outcome.case.split("-")[1] for outcome in outcomes))
    for reader in [*readers, "all"]:
        mine = [outcome for outcome in outcomes if reader in ("all", outcome.case.split("-")[1])]
        kinds = Counter(outcome.kind for outcome in mine)
        slowest, largest = max(one.seconds for one in mine), max(one.megabytes for one in mine)
        lines.append(
            f"| {reader} | {len(mine):,} | {kinds['result']:,} | {kinds['error']:,} | {kinds['fault']:,} | {slowest:.2f} | {largest:.0f} |"
        )
    return "\n".join(lines)


def as_checklist(outcomes: Sequence[Outcome]) -> str:
    """How many inputs held each kind of damage, and how many of these were read as something."""
    from fuzzing.checklist import WORDS

    lines = ["| damage | inputs | results |", "| --- | --- | --- |"]
    held = Counter((word, outcome.kind) for outcome in outcomes for word in outcome.damage)
    for word in WORDS:
        lines.append(f"| {word} | {sum(held[word, kind] for kind in ('result', 'error', 'fault')):,} | {held[word, 'result']:,} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where inputs of faults go")
    parser.add_argument("--again", metavar="CASE", help="one case")
    parser.add_argument(
        "--template", type=Path, help="a folder for the good run folders, used again where it is filled; default: a new one"
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.template)
        return 0
    from fuzzing.readers import READERS
    from fuzzing.template import RUN, make_template

    with tempfile.TemporaryDirectory(prefix="detclean-fuzz-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        template = Path(os.path.abspath(options.template or home / "template"))
        if not (template / RUN).is_dir():
            make_template(template)
        if options.again:
            print(run_case(options.again, home, template).detail or "a result")
            shutil.rmtree(options.out / options.again, ignore_errors=True)
            shutil.copytree(home / "case", options.out / options.again / "input", symlinks=True, dirs_exist_ok=True)
            return 0
        good = list_tree(template)
        cases = list(list_cases(options.readers or list(READERS), options.count, options.seed))
        outcomes: list[Outcome] = []
        try:
            for outcome in read_all(cases, [Child(home / str(i), template) for i in range(options.workers)], options.out):
                outcomes.append(outcome)
        except KeyboardInterrupt:
            print(f"stopped after {len(outcomes):,} inputs")
        print(as_table(outcomes), as_checklist(outcomes), sep="\n\n")
        if list_tree(template) != good:
            print("the template was changed")
            return 1
        return int(any(outcome.kind == "fault" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
