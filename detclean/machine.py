"""What this machine has for a process: cores and memory, a container's limits included."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from detclean.errors import ConfigError

CORES_AT_MOST = "LOKY_MAX_CPU_COUNT"  # joblib's name for a limit that a person sets


def count_cores() -> int:
    """The cores that this process may use: those of the machine, less what affinity, a container's quota or CORES_AT_MOST forbid.

    A quota of one and a half cores counts as two. Raises ConfigError where CORES_AT_MOST holds no whole number.
    """
    from joblib import cpu_count  # type: ignore[import-untyped]  # costs a tenth of a second, which --help does not have

    try:
        return int(cpu_count())
    except ValueError:
        given = os.environ.get(CORES_AT_MOST)
        if given is None:
            raise
        raise ConfigError(f"{CORES_AT_MOST} is {given!r}, but should be a whole number of cores; correct or unset it") from None


def count_free_memory() -> float:
    """Bytes of memory that new processes may take, a container's limit included; infinity where the system does not tell."""
    free = math.inf
    told = Path("/proc/meminfo")
    if told.is_file():
        free = next((1024.0 * int(line.split()[1]) for line in told.read_text().splitlines() if line.startswith("MemAvailable:")), free)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, float(most) - float(used.read_text()))
    return free


def peak_memory() -> int:
    """The most that this process ever held, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
