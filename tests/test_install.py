"""A lock is installed, not resolved: what was released after it was written changes nothing."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def write_wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """An empty package with these lines in its metadata -> its line in a lock."""
    notes = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{notes}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]),
        f"{notes}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{notes}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in (*files.items(), (f"{notes}/RECORD", record)):
            archive.writestr(file, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of wheels, in which a newer version lies than the lock has, and the lock."""
    folder = tmp_path_factory.mktemp("wheels")
    lock = write_wheel(folder, "lent", "1.0", "Provides-Extra: more")
    lock += write_wheel(folder, "asks", "1.0", "Requires-Dist: lent[more]>=1.0")  # an extra: what older pips look the newest up for
    write_wheel(folder, "lent", "2.0", "Provides-Extra: more")
    return folder, lock


def install(wheels: Path, lock: Path, environment: Path, tool: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a folder of wheels as the only registry that the tool knows: pip, or uv where it is installed already."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    offline = {f"{tool.upper()}_NO_INDEX": "1", f"{tool.upper()}_FIND_LINKS": str(wheels)}
    if tool == "uv":
        if not UV.exists():
            pytest.skip("uv is not installed here (pip took its place): installing with uv is NOT tested")
        venv.create(environment, with_pip=True)
        (environment / "bin" / "uv").symlink_to(UV)
    command = [str(ROOT / "scripts" / "install"), str(environment), str(lock)]
    settings = {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}
    return subprocess.run(command, env=kept | settings | offline, capture_output=True, text=True, timeout=300, check=False)


def list_versions(environment: Path) -> dict[str, str]:
    notes = environment.glob("lib/python*/site-packages/*.dist-info")
    return dict(folder.name.removesuffix(".dist-info").split("-", 1) for folder in notes)  # type: ignore[misc]


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_newer_release_does_not_change_what_is_installed(tool: str, registry: tuple[Path, str], tmp_path: Path):
    """Into a new environment, with the pip that this Python brings. Then with the hash of another file, which must be refused."""
    wheels, lock = registry
    (tmp_path / "lock.txt").write_text(lock)
    done = install(wheels, tmp_path / "lock.txt", tmp_path / "environment", tool)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list_versions(tmp_path / "environment").items() >= {"lent": "1.0", "asks": "1.0"}.items()

    (tmp_path / "lock.txt").write_text(lock.splitlines()[0].replace("==1.0", "==2.0") + "\n")
    (tmp_path / "environment" / "bin" / "uv").unlink(missing_ok=True)
    done = install(wheels, tmp_path / "lock.txt", tmp_path / "environment", "pip")
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert list_versions(tmp_path / "environment")["lent"] == "1.0"


def test_the_makefile_installs_locks_by_that_script_and_nothing_else(tmp_path: Path):
    """What `make test` would do in a fresh clone."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("locks", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    told = subprocess.run(["make", "--dry-run", "test"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    installing = [line for line in told.splitlines() if re.search(r"pip\b.* install\b|scripts/install\b", line)]
    others = [line for line in installing if "scripts/install .venv locks/" not in line]
    assert len(installing) - len(others) >= 2, told  # a user's lock, and what the tests need on top
    assert all("--no-deps" in line and "--editable ." in line for line in others), others  # detclean itself
