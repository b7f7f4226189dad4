"""A bound on log lines that strangers can cause: the first of each kind, then one for each interval."""

import asyncio
import time
from collections.abc import Callable, Hashable

INTERVAL_S = 60.0
KINDS_MAX = 100

# Writes the latest line of a kind. It gets how many lines of that kind were left out before.
Write = Callable[[int], None]


class LineLimiter:
    """Writes the first line of each kind at once. Those within the interval after it are one line at its end.

    Beyond `KINDS_MAX` kinds, all others are one kind together, so that neither the memory nor the lines
    of an interval grow with the number of kinds. It belongs to one event loop.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """`call_later`: that of the running event loop by default."""
        self._now = now
        self._call_later = call_later
        # When the last line of each kind was written; those left out since, and how to write the latest.
        self._written_at: dict[Hashable, float] = {}
        self._omitted: dict[Hashable, tuple[int, Write]] = {}

    def write(self, kind: Hashable, write: Write) -> None:
        """Write a line of this kind now, or count it."""
        now = self._now()
        if kind not in self._written_at and len(self._written_at) >= KINDS_MAX:
            self._forget(now)
            if len(self._written_at) >= KINDS_MAX:
                kind = None
        if now - self._written_at.get(kind, -INTERVAL_S) < INTERVAL_S:
            self._count(kind, write)
            return
        count, _ = self._omitted.pop(kind, (0, write))
        self._written_at[kind] = now
        write(count)

    def _count(self, kind: Hashable, write: Write) -> None:
        if not self._omitted:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            call_later(INTERVAL_S, self._write_counts)
        count, _ = self._omitted.get(kind, (0, write))
        self._omitted[kind] = count + 1, write

    def _write_counts(self) -> None:
        """Write one line for each kind of which lines were left out."""
        now = self._now()
        omitted, self._omitted = self._omitted, {}
        for kind, (count, write) in omitted.items():
            self._written_at[kind] = now
            # The line itself is one of those that were left out.
            write(count - 1)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget the kinds of which a line would be written at once."""
        self._written_at = {
            kind: at
            for kind, at in self._written_at.items()
            if now - at < INTERVAL_S or kind in self._omitted
        }
