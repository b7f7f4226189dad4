"""Resident memory of processes, looked at again and again while something else happens.

Of PostgreSQL's processes only what each has for itself counts: the shared buffers
are in all of them, and are as large as they are configured.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import psutil

_EVERY_S = 0.2

# Bytes by role, at one moment.
Sample = Mapping[str, int]


class Watch:
    """Looks at processes while it sleeps."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        """`pids`: processes by role; their children belong to them."""
        self._pids = pids
        self.samples: list[Sample] = []

    def sleep(self, seconds: float) -> None:
        """Passes the time, and adds to `samples`; at least one."""
        end = time.perf_counter() + seconds
        while True:
            self.samples.append({role: sum(map(resident_bytes, pids)) for role, pids in self._pids.items()})
            left_s = end - time.perf_counter()
            if left_s <= 0:
                return
            time.sleep(min(_EVERY_S, left_s))


def resident_bytes(pid: int) -> int:
    """Of a process and its children."""
    process = psutil.Process(pid)
    children = process.children()
    if not children:
        return int(process.memory_info().rss)
    return _private_bytes(process) + sum(map(_private_bytes, children))


def most(samples: Sequence[Sample]) -> dict[str, int]:
    """The most that each role had at any moment. `samples`: at least one."""
    return {role: max(sample[role] for sample in samples) for role in samples[0]}


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """How many bytes more each role had in the last third than in the second, on average.

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
