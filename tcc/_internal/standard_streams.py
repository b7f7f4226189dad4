"""Standard input, output and error of a program, whatever its caller made of them."""

import contextlib
import os
import sys
from typing import TextIO


def open_closed_streams(*, needs_output: bool = False) -> None:
    """Open those of the three that the caller closed (`>&-`), to the null device.

    Otherwise the next file or connection that is opened would get the number, and be written to
    as if it were the stream. With `needs_output`, writing to a closed standard output fails.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            is_lost = needs_output and number == 1
            # Gets the lowest free number, which is this one.
            os.open(os.devnull, os.O_RDONLY if is_lost else os.O_RDWR)
            os.set_inheritable(number, True)
    sys.stdin = sys.stdin or _opened(0, "r")
    sys.stdout = sys.stdout or _opened(1, "w")
    sys.stderr = sys.stderr or _opened(2, "w")


def discard_unwritten() -> None:
    """Drop what a stream could not write. The interpreter would try again at exit, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            with contextlib.suppress(OSError):
                stream.flush()


def _opened(number: int, mode: str) -> TextIO:
    return open(number, mode, closefd=False)  # type: ignore[return-value]
