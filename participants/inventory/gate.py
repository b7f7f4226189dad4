"""Tier 1: the stock gate. Rejects Trys of sold-out SKUs without the database.

In a flash sale most Trys arrive after the last item is sold. The gate rejects them from
memory. It relies only on values that were read from the database:

- It only rejects. Stock is taken only by the conditional UPDATE, so a gate that is
  wrongly open cannot oversell.
- It rejects a quantity only above a *ceiling*: the available stock in the database, read
  under the row's lock before the reader took anything. Stock that a Try takes and may
  roll back never lowers the ceiling.
- Stock that is released in this process (by a Cancel) reopens the gate. A Try may have
  read the row before that and report after it. So a Try takes a ticket before it reads,
  and its report counts only if the gate was not reopened since: a compare-and-swap on
  the partition's epoch. The Cancel reopens the gate while it holds the row's lock, so a
  Try with a newer ticket reads the stock after the Cancel.
- Stock may also be released in another process (a restock, a Cancel of another replica).
  A ceiling is therefore valid for `believed_for_s` seconds only. Then one Try is let through
  to ask again, and the others are rejected until its answer has come. If none comes, another
  one asks after the same time; after four times of it the ceiling is forgotten. A wrong
  rejection is possible for that time at most.

Memory is bounded: one epoch per partition, and at most `skus_max` ceilings.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from participants.inventory.partitions import PARTITIONS, partition_of


class Ticket(NamedTuple):
    """The epoch of the partition when a Try began to read."""

    partition: int
    epoch: int


class _Ceiling(NamedTuple):
    available: int
    # Then one Try asks again.
    believed_until_s: float
    forgotten_at_s: float


# How long a ceiling counts at most, in times of `believed_for_s`.
_TIMES_ASKED_MAX = 4


class StockGate:
    """The ceilings of SKUs that ran short. Not thread-safe: use it on one event loop."""

    def __init__(
        self,
        *,
        believed_for_s: float = 0.25,
        skus_max: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._believed_for_s = believed_for_s
        self._skus_max = skus_max
        self._clock = clock
        self._epochs = [0] * PARTITIONS
        self._ceilings: dict[str, _Ceiling] = {}

    def refuses(self, sku: str, quantity: int) -> bool:
        """Return whether the database recently had less than this quantity."""
        ceiling = self._ceilings.get(sku)
        if ceiling is None or quantity <= ceiling.available:
            return False
        now_s = self._clock()
        if now_s < ceiling.believed_until_s:
            return True
        if now_s < ceiling.forgotten_at_s:
            self._ceilings[sku] = ceiling._replace(believed_until_s=now_s + self._believed_for_s)
        else:
            del self._ceilings[sku]
        return False

    def ticket(self, sku: str) -> Ticket:
        """Return a ticket. Take it before reading the stock, and pass it to `ran_short`."""
        partition = partition_of(sku)
        return Ticket(partition, self._epochs[partition])

    def ran_short(self, sku: str, available: int, ticket: Ticket) -> bool:
        """Record the stock that the database reported when a Try was refused; return whether it counts.

        `available` is the committed stock, read under the row's lock before the
        reader took any of it.
        """
        if self._epochs[ticket.partition] != ticket.epoch:
            return False
        if sku not in self._ceilings and len(self._ceilings) >= self._skus_max:
            del self._ceilings[next(iter(self._ceilings))]  # the oldest; it is read again
        now_s, time_s = self._clock(), self._believed_for_s
        self._ceilings[sku] = _Ceiling(available, now_s + time_s, now_s + _TIMES_ASKED_MAX * time_s)
        return True

    def sufficed(self, sku: str) -> None:
        """Remove the ceiling because the database had enough for all that was asked for."""
        self._ceilings.pop(sku, None)

    def reopen(self, sku: str) -> None:
        """Remove the ceiling because stock was released. Call it after the change, under the row's lock."""
        self._epochs[partition_of(sku)] += 1
        self._ceilings.pop(sku, None)
