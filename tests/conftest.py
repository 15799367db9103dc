"""Fixtures that files share. The browser is one for a whole session: Playwright bears no second one in a process."""

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
from browser import browser  # noqa: F401
from hypothesis import HealthCheck, settings
from warm import PLACES, warm_children

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1 and hasattr(os, "sched_setaffinity"):
    # Each worker has cores of its own: two with two threads each on two cores take many times as long, as threads wait for each other.
    mine = sorted(os.sched_getaffinity(0))[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) :: WORKERS]
    with suppress(OSError):  # where that is not allowed they share what there is
        os.sched_setaffinity(0, mine or os.sched_getaffinity(0))
settings.register_profile("however fast the machine is", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("however fast the machine is")

LONGEST_FIRST = ("pipeline", "ray", "detect", "dynamics", "draws", "methods", "plan", "distribute", "measure_benchmark", "kill_runs")


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed out as they are ordered below, and not those with the most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that no worker is idle while another one works on the last of them."""
    names = [f"test_{name}" for name in LONGEST_FIRST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


@pytest.fixture(scope="session", autouse=True)
def _place_of_warm_children(tmp_path_factory: pytest.TempPathFactory) -> None:
    PLACES.append(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def warm() -> Iterator[None]:
    """Children are forked from a process that has imported Ultralytics; those that fixtures of a file start are real ones."""
    with warm_children():
        yield
