"""Hand-over: which transactions this process becomes the owner of, and which it gives up."""

import math
from collections.abc import Iterable, Mapping

from coordinator.core.errors import Draining
from coordinator.engine.clock import LogClock
from coordinator.engine.driver import Driver
from coordinator.engine.limits import EngineLimits
from coordinator.engine.live import LiveTransactions
from coordinator.ports.log import Log, Record


class HandOver:
    """Takes over what the log gives to this process, and drops what it gave to another."""

    def __init__(
        self,
        transactions: LiveTransactions,
        driver: Driver,
        *,
        log: Log,
        clock: LogClock,
        limits: EngineLimits,
    ) -> None:
        self.draining = False
        self._transactions = transactions
        self._driver = driver
        self._log = log
        self._clock = clock
        self._limits = limits

    def start_draining(self) -> None:
        """Take nothing over from now on."""
        self.draining = True

    async def take(self, record: Record) -> None:
        """Become the owner of a transaction, unless its row has changed since it was read.

        Raises:
            Draining, LogUnavailable
        """
        if self.draining:
            raise draining()
        taken = await self._log.transaction_take(record.tx.gid, version=record.tx.version)
        if taken is not None:
            self.resume((taken,))

    def resume(self, records: Iterable[Record]) -> int:
        """Drive transactions that this process has just become the owner of. Return how many."""
        transactions = self._transactions
        now = self._clock.now()
        count = 0
        for record in records:
            known = transactions.live.get(record.tx.gid)
            if known is not None and known.tx.version >= record.tx.version:
                continue
            if known is not None:
                transactions.forget(known)
            entry = transactions.remember(record.tx, begun=False)
            entry.phase_began_at = record.decided_at or record.created_at
            entry.waiters = transactions.watched.pop(record.tx.gid, [])
            if known is not None:
                transactions.move_waiters(known, record)
            self._driver.resume(entry, now)
            count += 1
        return count

    def stale_suspects(self) -> list[str]:
        """Return the gids of live transactions that others may have taken over unnoticed.

        A transaction that writes or calls notices it by that. What is left are interactive
        transactions that only wait here, for a step that may be made elsewhere.
        """
        return [
            gid
            for gid, entry in self._transactions.live.items()
            if entry.waiters and entry.tx.interactive and not entry.tx.saving
        ]

    def evict_stale(self, records: Mapping[str, Record]) -> int:
        """Forget live transactions whose rows, as just read, others have changed. Return how many."""
        count = 0
        for gid, record in records.items():
            entry = self._transactions.live.get(gid)
            if entry is not None and not entry.tx.saving and record.tx.version > entry.tx.version:
                self._transactions.lose(entry)
                count += 1
        return count

    def room(self) -> int:
        """Return how many transactions may be taken over now, even if each is as large as any may be."""
        limits, transactions = self._limits, self._transactions
        bytes_left = limits.live_bytes_max - transactions.held_bytes
        largest = 2 * limits.results_bytes_max
        return min(limits.live_max - len(transactions.live), math.ceil(bytes_left / largest))

    def claim_limits(self, most: int, unconfigured: Iterable[str]) -> dict[str, int]:
        """Return how many parked transactions may be claimed now, by the participant they wait for.

        Each participant has a share of its own, so that a crowd that waits for one
        does not delay those of another. `unconfigured`: participants that parked transactions
        wait for, though they are not configured any more. Such a transaction may have other
        branches, which must not wait with it.
        """
        most = min(most, self.room())
        if most <= 0:
            return {}
        now = self._clock.now()
        limits = {
            name: dispatcher.claim_room(now, most) for name, dispatcher in self._driver.dispatchers.items()
        }
        others = dict.fromkeys(unconfigured, most)
        return {"": most} | others | {name: limit for name, limit in limits.items() if limit}

    @property
    def busy(self) -> bool:
        """Whether a write or a call is under way for any live transaction."""
        return any(
            entry.tx.saving or any(branch.calling for branch in entry.tx.branches)
            for entry in self._transactions.live.values()
        )


def draining() -> Draining:
    """Return the refusal of a coordinator that shuts down."""
    return Draining("this coordinator is shutting down", retry_after_s=0.05)
