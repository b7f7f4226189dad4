"""The protocol of a job."""

from typing import Protocol


class Job(Protocol):
    """A task that runs at an interval."""

    name: str
    every_s: float

    async def run_once(self) -> int: ...
