"""SIGTERM and SIGINT as exceptions, so that a command restores the terminal and reports open work.

An exception that a signal handler raises appears between any two instructions of the main thread. In gRPC's
code it leaves locks held, and closing the channel then waits forever. In a `__del__` it is lost. So gRPC
runs in a thread of its own (`Calls`). While the main thread waits for it, the handler raises nothing: it
ends the wait, which raises. And a signal that came before is raised by the next call.
"""

import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

# How often the main thread looks after signals that another thread has received.
_POLL_S = 0.5


class Terminated(BaseException):
    """SIGTERM was received."""


_EXCEPTIONS: dict[int, type[BaseException]] = {
    signal.SIGTERM: Terminated,
    signal.SIGINT: KeyboardInterrupt,
}


class _Received:
    """The signals of this process."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        # Of the call that the main thread waits for. SimpleQueue.put may be called in a signal handler.
        self.ends: SimpleQueue[Callable[[], Any]] | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        self.error = _EXCEPTIONS[number]()
        if self.ends is None:
            raise self.error
        self.ends.put(self.check)

    def check(self) -> None:
        if self.error is not None:
            raise self.error


_received = _Received()


def raise_when_told_to_end() -> None:
    """Make SIGTERM raise `Terminated` in the main thread, and SIGINT KeyboardInterrupt."""
    for number in _EXCEPTIONS:
        signal.signal(number, _received.handle)


class Calls:
    """Runs functions in a thread of its own, one after the other."""

    def __init__(self) -> None:
        self._wanted: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._ends: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        threading.Thread(target=self._run, name="tccctl-calls", daemon=True).start()

    def run(self, call: Callable[[], T]) -> T:
        """Return what the function returns. Raises what it raises, or the exception of a signal.

        After a signal the function may still run: use this object no more.
        """
        _received.ends = self._ends
        try:
            _received.check()
            self._wanted.put(call)
            end: Callable[[], T] = self._next_end()
        finally:
            _received.ends = None
        _received.check()
        return end()

    def close(self) -> None:
        """End the thread as soon as its function has ended."""
        self._wanted.put(None)

    def _next_end(self) -> Callable[[], Any]:
        while True:
            try:
                return self._ends.get(timeout=_POLL_S)
            except Empty:
                continue

    def _run(self) -> None:
        while (call := self._wanted.get()) is not None:
            self._ends.put(_end_of(call))


def _end_of(call: Callable[[], T]) -> Callable[[], T]:
    """Call the function; return one that returns or raises the same."""
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
        return _raising(error)
    return lambda: value


def _raising(error: BaseException) -> Callable[[], Any]:
    def end() -> Any:
        raise error

    return end
