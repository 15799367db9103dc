"""Fixtures that files share. The browser is one for a whole session: Playwright bears no second one in a process."""

import os
from collections.abc import Iterator

import pytest
from browser import browser  # noqa: F401
from hypothesis import HealthCheck, settings
from warm import warm_children

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1 and hasattr(os, "sched_setaffinity"):
    # Each worker has cores of its own: two with two threads each on two cores take many times as long, as threads wait for each other.
    mine = sorted(os.sched_getaffinity(0))[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) :: WORKERS]
    os.sched_setaffinity(0, mine or os.sched_getaffinity(0))
settings.register_profile("however fast the machine is", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("however fast the machine is")


@pytest.fixture
def warm() -> Iterator[None]:
    """Children are forked from a process that has imported Ultralytics; those that fixtures of a file start are real ones."""
    with warm_children():
        yield
