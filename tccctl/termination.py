"""SIGTERM as an exception, so that who is told to end gives the terminal back and says what is open."""

import signal
from types import FrameType


class Terminated(BaseException):
    """SIGTERM has come."""


def raise_when_told_to_end() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
