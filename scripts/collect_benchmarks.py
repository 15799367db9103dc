"""Puts the tables and plots that `benchmark` and `compare` wrote into docs/benchmark.md, so that no figure there is typed by hand.

    python scripts/collect_benchmarks.py runs/benchmarks

Each pair of marks `<!-- benchmark: NAME -->` and `<!-- end -->` in the page gets what stands in RUNS/NAME/benchmark.md between them, with
its headings two levels lower, and the plot beside it; `<!-- compare: NAME -->` gets RUNS/NAME/compare/compare.md,
without its confusion matrices.
"""

import argparse
import re
import shutil
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmark.md"
MARKED = re.compile(r"(<!-- (benchmark|compare): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def collect_benchmarks(page: str, runs: Path, docs: Path) -> str:
    """The page with every marked part filled anew; a part whose run is not there stays as it is."""

    def fill(found: re.Match[str]) -> str:
        begin, kind, name, end = found.groups()
        tables = (runs / name if kind == "benchmark" else runs / name / "compare") / f"{kind}.md"
        if not tables.is_file():
            return found[0]
        written = tables.read_text(encoding="utf-8").partition("\n## Confusion\n")[0]
        text = re.sub(r"^#+ ", lambda heading: f"##{heading[0]}", written, flags=re.MULTILINE)
        picture = f"{kind}-{name}.png"
        shutil.copyfile(tables.with_suffix(".png"), docs / picture)
        return f"{begin}\n{text.strip()}\n\n![{name}]({picture})\n\n{end}"

    return MARKED.sub(fill, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs
    PAGE.write_text(collect_benchmarks(PAGE.read_text(encoding="utf-8"), runs, PAGE.parent), encoding="utf-8")


if __name__ == "__main__":
    main()
