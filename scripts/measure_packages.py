"""Lists the largest packages of this environment.

    .venv/bin/python scripts/measure_packages.py [--most 10]

MB of 1,000,000 bytes of what the packages brought, without Python files that were compiled on this machine.
"""

import argparse
from importlib.metadata import Distribution, distributions
from pathlib import Path


def measure(package: Distribution) -> int:
    """Bytes of all files of a package."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10)
    most = parser.parse_args().most
    packages = {package.name: package for package in distributions()}
    sizes = {name: measure(package) for name, package in packages.items()}
    for name in sorted(sizes, key=lambda name: -sizes[name])[:most]:
        print(f"{sizes[name] / 1e6:8.0f}  {name} {packages[name].version}")
    print(f"{sum(sizes.values()) / 1e6:8.0f}  all {len(sizes)} packages")


if __name__ == "__main__":
    main()
