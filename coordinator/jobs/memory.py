"""The job that returns freed memory to the operating system."""

import gc
from collections.abc import Callable

# With more live transactions, a collection would stop the event loop for too long.
_LIVE_MAX = 5_000


class ReturnMemory:
    """Returns memory that a burst of requests has left: the allocator would keep it for the next burst.

    It also collects what a request has left in a cycle. Python would do so after many more allocations
    only (`relax_garbage_collection`), and keep the memory around each such object.
    """

    name = "memory"
    every_s = 30.0

    def __init__(self, trim: Callable[[], None], live: Callable[[], int]) -> None:
        """`live`: returns the number of live transactions."""
        self._trim = trim
        self._live = live

    async def run_once(self) -> int:
        if self._live() <= _LIVE_MAX:
            gc.collect()
        self._trim()
        return 0
