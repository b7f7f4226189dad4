"""After each round of faults: everything settles, the books are audited, the history is judged."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile

import grpc

from participants.audit import AuditedTransaction, End, audit, read_snapshot
from participants.demo.plan import PARTICIPANTS
from proof.faults.system import System
from proof.faults.tenants import TENANTS
from proof.history.checker import violations
from proof.history.events import AnyEvent, Fault, Final, Settled, StockTotals, TransactionState
from proof.history.recorder import ListRecorder

SETTLE_TIMEOUT_S = 60.0
_POLL_S = 0.05
_READS_MAX = 20
_STATES = {
    End.CONFIRMED: TransactionState.CONFIRMED,
    End.CANCELLED: TransactionState.CANCELLED,
    End.OPEN: TransactionState.TRYING,
}


class Verifier:
    """Everything that was seen of one system, and what was wrong with it."""

    def __init__(self, system: System) -> None:
        self._system = system
        # What initiators in this process see, since the last verdict.
        self.recorder = ListRecorder()
        self.history: list[AnyEvent] = []
        self.violations: list[str] = []
        self._known: dict[str, AuditedTransaction] = {}
        self._failures_seen = 0
        self._ends_seen: dict[str, int] = {}

    @property
    def transactions(self) -> int:
        """Return the number of known transactions."""
        return len(self._known)

    def note(self, kind: str, target: str, detail: str = "") -> None:
        """A fault, for the story."""
        self.recorder.record(Fault(at=time.time(), kind=kind, target=target, detail=detail))

    async def verify(self, round_name: str, journal: Sequence[AnyEvent] = ()) -> list[str]:
        """Wait until everything is settled, and return the violations since the last check.

        No orders may be placed in the meantime. `journal`: what initiators in other processes saw.
        """
        await self._settle()
        new = await self._new_transactions()
        found = [str(violation) for violation in await self._audit()]
        events = await asyncio.to_thread(self._system.observers.read)
        told = [*self.recorder.history, *journal, *events, *self._ends()]
        seen = sorted(told, key=lambda event: event.at)
        self.recorder.history = []
        end: list[AnyEvent] = [Settled(at=time.time()), *(_final(transaction) for transaction in new)]
        self.history += seen
        found += [str(violation) for violation in violations([*seen, *end])]
        failures = self._system.failures
        found += failures[self._failures_seen :]
        self._failures_seen = len(failures)
        found = [f"{round_name}: {what}" for what in found]
        self.violations += found
        return found

    async def verify_all(self) -> list[str]:
        """The whole run at once: every transaction is read again, with its business rows."""
        self._known = {}
        await self._new_transactions()
        found = [str(violation) for violation in await self._audit()]
        self.history.append(Settled(at=time.time()))
        self.history += map(_final, self._known.values())
        self.history += await self._read_tables()
        found += [str(violation) for violation in violations(self.history)]
        self.violations += [f"all: {what}" for what in found]
        return found

    def _ends(self) -> Iterator[Fault]:
        """Return the ends of processes since the last check."""
        for member in self._system.members:
            for at, how in member.ends[self._ends_seen.get(member.name, 0) :]:
                yield Fault(at=at, kind="end", target=member.name, detail=how)
            self._ends_seen[member.name] = len(member.ends)

    async def _settle(self) -> None:
        """Wait until all transactions have ended. The audit reports those that have not."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            if not await asyncio.to_thread(self._system.observers.open_transactions):
                return
            await asyncio.sleep(_POLL_S)

    async def _new_transactions(self) -> list[AuditedTransaction]:
        """Return the transactions that are not known yet. The list is newest first; known ones had ended."""
        for attempt in range(_READS_MAX):
            try:
                new = await asyncio.to_thread(self._list, attempt)
            except grpc.RpcError:
                # An armed coordinator may die of the question; the next one is asked.
                if attempt == _READS_MAX - 1:
                    raise
                await asyncio.sleep(0.5)
            else:
                break
        self._known |= {transaction.gid: transaction for transaction in new}
        return new

    def _list(self, attempt: int) -> list[AuditedTransaction]:
        members = list(self._system.coordinators.values())
        address = members[attempt % len(members)].address

        def is_new(transaction: AuditedTransaction) -> bool:
            return transaction.gid not in self._known

        listed = (self._system.credentials.transactions(tenant, address) for tenant in TENANTS)
        return [transaction for each in listed for transaction in takewhile(is_new, each)]

    async def _audit(self) -> list[object]:
        urls = {name: self._system.sqlalchemy_url(name) for name in PARTICIPANTS}
        totals = await read_snapshot(inventory=urls["inventory"], coupon=urls["coupon"], order=urls["order"])
        return list(audit(totals, self._known.values()))

    async def _read_tables(self) -> list[StockTotals]:
        """The inventory's own count; the others' are their rows, which the audit looks at."""
        urls = {name: self._system.sqlalchemy_url(name) for name in PARTICIPANTS}
        totals = await read_snapshot(inventory=urls["inventory"], coupon=urls["coupon"], order=urls["order"])
        return [
            StockTotals(
                at=time.time(),
                participant="inventory",
                initial=sum(totals.restocked.values()),
                available=sum(row.available for row in totals.stocks),
                reserved=sum(row.reserved for row in totals.stocks),
                taken=sum(row.sold for row in totals.stocks),
            )
        ]


def _final(transaction: AuditedTransaction) -> Final:
    return Final(
        at=time.time(),
        gid=transaction.gid,
        state=_STATES[transaction.end],
        branch_ids=tuple(branch_id for _, branch_id in transaction.branches),
    )
