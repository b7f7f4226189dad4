"""Tier 1: the stock gate. Refuses what is certainly sold out, without the database.

In a flash sale most Trys come after the last item is gone. The gate answers them
from memory. It decides nothing that the database has not said first:

- It only ever says no. Stock is taken by the conditional UPDATE alone, so a gate
  that is wrong in the open direction oversells nothing.
- It says no to a quantity only above a *ceiling*: what the database said was
  available, read under the row's lock and before the reader took anything. What
  a Try takes and may yet roll back never lowers it.
- Stock that comes back in this process (a Cancel) reopens the gate. A Try may
  have read the row before that and report after it; so a Try takes a ticket
  before it reads, and its report counts only if nothing was reopened since: a
  compare-and-swap on the lane's epoch. The Cancel reopens while it still holds
  the row's lock, so whoever gets a newer ticket reads what the Cancel left.
- Stock may also come back in another process (a restock, another replica's
  Cancel). A ceiling is therefore believed for `believed_for_s` only; then one
  batch asks the database again. That is how long a wrong no can last at most.

Everything is bounded: one epoch per lane, and at most `skus_max` ceilings.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from participants.inventory.partitions import PARTITIONS, partition_of


class Ticket(NamedTuple):
    """When, in reopenings of its lane, a Try began to read."""

    partition: int
    epoch: int


class _Ceiling(NamedTuple):
    available: int
    believed_until_s: float


class StockGate:
    """What this process knows about SKUs that ran short. Not thread-safe: one loop owns it."""

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
        """Whether the database has lately said that there is less than this quantity."""
        ceiling = self._ceilings.get(sku)
        if ceiling is None or quantity <= ceiling.available:
            return False
        if self._clock() < ceiling.believed_until_s:
            return True
        del self._ceilings[sku]
        return False

    def ticket(self, sku: str) -> Ticket:
        """To be taken before the stock is read, and handed in with what was read."""
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
            del self._ceilings[next(iter(self._ceilings))]  # the oldest; it is asked anew
        self._ceilings[sku] = _Ceiling(available, self._clock() + self._believed_for_s)
        return True

    def reopen(self, sku: str) -> None:
        """Stock came back. To be called while the row's lock is held, after the change."""
        self._epochs[partition_of(sku)] += 1
        self._ceilings.pop(sku, None)
