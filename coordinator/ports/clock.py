"""The port for time."""

from typing import Protocol


class Clock(Protocol):
    """The time of the log, in seconds since the Unix epoch; never runs backwards by local jumps."""

    def now(self) -> float: ...
