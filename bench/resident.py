"""Resident memory of processes, sampled while something else happens.

Of PostgreSQL's processes only private memory counts: the shared buffers are in all of them, and
their size is configured.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import psutil

_EVERY_S = 0.2

# Bytes by role, at one moment.
Sample = Mapping[str, int]


class Watch:
    """Samples processes while it sleeps."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        """`pids`: processes by role; their children belong to them."""
        self._pids = pids
        self.samples: list[Sample] = []

    def sleep(self, seconds: float) -> None:
        """Sleep, and add to `samples`; at least one."""
        end = time.perf_counter() + seconds
        while True:
            self.samples.append({role: sum(map(resident_bytes, pids)) for role, pids in self._pids.items()})
            left_s = end - time.perf_counter()
            if left_s <= 0:
                return
            time.sleep(min(_EVERY_S, left_s))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children."""
    process = psutil.Process(pid)
    children = process.children()
    if not children:
        return int(process.memory_info().rss)
    return _private_bytes(process) + sum(map(_private_bytes, children))


def most(samples: Sequence[Sample]) -> dict[str, int]:
    """Return the maximum of each role. `samples`: at least one."""
    return {role: max(sample[role] for sample in samples) for role in samples[0]}


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Return how much each role grew from the second third to the last, on average, in bytes.

    `samples`: at least three.
    """
    third = len(samples) // 3
    before, after = samples[third : 2 * third], samples[-third:]
    return {
        role: fmean(sample[role] for sample in after) - fmean(sample[role] for sample in before)
        for role in samples[0]
    }


def _private_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0  # a backend that has ended has nothing
    return int(memory.rss - memory.shared)
