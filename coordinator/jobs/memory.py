"""The job that returns freed memory to the operating system."""

from collections.abc import Callable


class ReturnMemory:
    """Returns memory that a burst of requests has left: the allocator would keep it for the next burst."""

    name = "memory"
    every_s = 30.0

    def __init__(self, trim: Callable[[], None]) -> None:
        self._trim = trim

    async def run_once(self) -> int:
        self._trim()
        return 0
