"""What is built to be installed holds all that the package needs, and works where nothing of the checkout is on the path."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from detclean import __version__

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = ("__pycache__", "*.pyc")


def call(*command: str | Path, place: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(list(map(str, command)), cwd=place, env=kept, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    copytree(ROOT / "detclean", source / "detclean", ignore=ignore_patterns(*NOT_SHIPPED))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source / name)
    done = call(sys.executable, "-m", "build", "--wheel", "--no-isolation", place=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel in it. What detclean depends on comes from this one's folder of packages, which is a
    plain folder there: its link to the checkout does nothing. `scripts/check_wheel` installs all of it anew."""
    home = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(home, symlinks=True)
    scripts = home / "bin"
    done = call(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-index", "--no-deps", wheel, place=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        notes = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "detclean").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert held == ours
    assert "licenses/LICENSE" in notes
    assert wheel.name == f"detclean-{__version__}-py3-none-any.whl"


def test_installed_it_helps_checks_and_serves_from_its_own_files(installed: Path, tmp_path: Path) -> None:
    where = call(installed / "python", "-c", "import detclean; print(detclean.__file__)", place=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), where.stdout + where.stderr
    helped = call(installed / "detclean", "--help", place=tmp_path)
    assert helped.returncode == 0, helped.stderr
    assert all(command in helped.stdout for command in ("run", "check", "review", "apply"))
    checked = call(installed / "detclean", "check", ROOT / "data" / "digits" / "data.yaml", place=tmp_path)
    assert checked.returncode == 1, checked.stdout + checked.stderr  # the demo's labels have faults
    assert "330 images" in checked.stdout
    look = (
        "from importlib.resources import files; from detclean.report.page import render_report; from detclean.review.app import STATIC; "
        "print((STATIC / 'review.html').is_file(), files('detclean').joinpath('report/templates/report.html').is_file())"
    )
    looked = call(installed / "python", "-c", look, place=tmp_path)
    assert looked.stdout.strip() == "True True", looked.stdout + looked.stderr
