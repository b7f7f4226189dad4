"""Requests as they arrive: bounded in time, and in what arrives slowly at once.

gRPC holds a request in memory until it is complete, and shows nothing of it before. Most requests
arrive at once. Of those that do not, each may be as large as any may be, so their number is bounded.
"""

import asyncio
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from coordinator.api.errors import Context
from coordinator.core.errors import InvalidRequest, Overloaded, RequestTooSlow

# A request is slow if it has not arrived after this share of the time that it may take.
_SLOW_AFTER_SHARE = 1 / 30
_RETRY_AFTER_S = 1.0


class Arrivals:
    """Reads the requests of a server."""

    def __init__(self, *, request_max_s: float, slow_max: int) -> None:
        """`request_max_s`: for a request to arrive. `slow_max`: how many may arrive slowly at once."""
        self.slow = 0
        self._slow_max = slow_max
        self._request_max_s = request_max_s
        self._slow_after_s = request_max_s * _SLOW_AFTER_SHARE

    async def read(self, context: Context) -> Any:
        """Return the request of a call.

        Raises:
            InvalidRequest: it is not a message of this method.
            RequestTooSlow: it did not arrive in time.
            Overloaded: it arrives slowly, and too many others do.
        """
        arrival: _Arrival | None = None
        try:
            async with asyncio.timeout(self._request_max_s) as limit:
                arrival = _Arrival(self, limit, self._slow_after_s)
                request = await context.read()
        except DecodeError:
            raise unreadable() from None
        except TimeoutError:
            if arrival is not None and arrival.refused:
                raise Overloaded("too many requests arrive slowly", retry_after_s=_RETRY_AFTER_S) from None
            raise RequestTooSlow(
                f"the request did not arrive within {self._request_max_s:g} seconds"
            ) from None
        finally:
            if arrival is not None:
                arrival.end()
        if request is grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
            raise unreadable()
        return request

    def admit_slow(self) -> bool:
        """Count a slow request, if there is room for it."""
        if self.slow >= self._slow_max:
            return False
        self.slow += 1
        return True


class _Arrival:
    """One request that has not arrived yet."""

    __slots__ = ("_arrivals", "_due", "_is_slow", "_limit", "_slow_after_s", "_timer", "refused")

    def __init__(self, arrivals: Arrivals, limit: asyncio.Timeout, slow_after_s: float) -> None:
        self.refused = False
        self._is_slow = False
        self._arrivals = arrivals
        self._limit = limit
        self._slow_after_s = slow_after_s
        self._wait()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._slow_after_s
        self._timer = loop.call_at(self._due, self._on_slow)

    def _on_slow(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._due > self._slow_after_s:
            self._wait()  # not the request was late, but this process
        elif self._arrivals.admit_slow():
            self._is_slow = True
        else:
            self.refused = True
            self._limit.reschedule(now)

    def end(self) -> None:
        self._timer.cancel()
        self._arrivals.slow -= self._is_slow


def unreadable() -> InvalidRequest:
    """Return the refusal of bytes that are not a message of the method."""
    return InvalidRequest("INVALID_MESSAGE", "the request is not a message of this method")
