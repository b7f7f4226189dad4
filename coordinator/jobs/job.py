"""The protocol of a job."""

from typing import Protocol


class Job(Protocol):
    """Something to do every so often."""

    name: str
    every_s: float

    async def run_once(self) -> int: ...
