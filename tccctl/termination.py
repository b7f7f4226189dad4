"""SIGTERM as an exception, so that a terminated command restores the terminal and reports open work."""

import signal
from types import FrameType


class Terminated(BaseException):
    """SIGTERM was received."""


def raise_when_told_to_end() -> None:
    """Make SIGTERM raise `Terminated` in the main thread."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
