"""What this machine has for a process: cores and memory, a container's limits included."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def count_cores() -> int:
    """The cores that this process may use, a container's quota included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


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
