"""The engine: what one coordinator process does with the transactions it drives.

This file takes the requests and holds the parts together:
- `live`: the live transactions, and the requests that wait
- `driver`: applies events to them; writes and calls
- `hand_over`: which transactions this process takes over, and which it gives up
- `admission`: whether new work is taken on
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from coordinator.core.errors import LogError, Overloaded, Refused
from coordinator.core.events import Begun, BranchAdded, CancelRequested, ConfirmRequested, Event
from coordinator.core.machine import step
from coordinator.core.model import BranchSpec, Transaction
from coordinator.engine.admission import Admission
from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import ParticipantDispatcher, ParticipantPolicy
from coordinator.engine.driver import Driver, Totals
from coordinator.engine.hand_over import HandOver
from coordinator.engine.limits import EngineLimits, TenantLimits
from coordinator.engine.live import LiveTransaction, LiveTransactions, gid_conflict, not_found
from coordinator.engine.log_writer import LogWriter
from coordinator.engine.observer import NULL_OBSERVER, NULL_SPANS, Observer, Spans
from coordinator.engine.waiting import Waiter
from coordinator.ports.log import Log, Record
from coordinator.ports.participants import Participants

# How much of the bounds of all live transactions one tenant may fill, if there are others.
TENANT_SHARE = 0.5
# How often a request tries to become the owner of a transaction that others move at the same time.
_TAKES_MAX = 8


class Engine:
    """Drives transactions. All methods belong to the event loop it was built on."""

    def __init__(
        self,
        *,
        log: Log,
        participants: Participants,
        policies: Mapping[str, ParticipantPolicy],
        clock: LogClock,
        limits: EngineLimits | None = None,
        jitter: Callable[[], float] = random.random,
        observer: Observer = NULL_OBSERVER,
        is_saturated: Callable[[], bool] = lambda: False,
        spans: Spans = NULL_SPANS,
        on_availability: Callable[[bool], None] = lambda _: None,
        on_bug: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Build the parts.

        `is_saturated`: whether the loop has hardly a pause, so that requests wait outside.
        `on_availability`: called whenever the log becomes available or unavailable.
        `on_bug`: called with an exception that a transaction did not survive; the others go on.
        """
        self.limits = limits or EngineLimits()
        self._log = log
        self._clock = clock
        dispatchers: dict[str, ParticipantDispatcher] = {}
        self._transactions = LiveTransactions(
            dispatchers, bytes_max=self.limits.live_bytes_max, cell_of=log.cell_of
        )
        self._driver = Driver(
            self._transactions,
            dispatchers,
            log=log,
            participants=participants,
            clock=clock,
            jitter=jitter,
            observer=observer,
            spans=spans,
            is_saturated=is_saturated,
            on_availability=on_availability,
            results_bytes_max=self.limits.results_bytes_max,
            on_bug=on_bug,
        )
        self._hand_over = HandOver(self._transactions, self._driver, log=log, clock=clock, limits=self.limits)
        self._admission = Admission(
            self._transactions, self._driver, self._hand_over, limits=self.limits, clock=clock
        )
        self.configure(policies)

    async def run(self) -> None:
        """Write and call until cancelled."""
        await self._driver.run()

    def configure(
        self, policies: Mapping[str, ParticipantPolicy], *, moved: frozenset[str] = frozenset()
    ) -> None:
        """Set the participants and their policies from now on; `moved`: those with a new address."""
        self._driver.configure(policies, moved=moved)

    def limit_tenants(self, limits: Mapping[str, TenantLimits]) -> None:
        """Set the bounds of tenants from now on; one that is missing has none.

        Beside others, none may fill more than its share.
        """
        share = TENANT_SHARE if len(limits) > 1 else 1.0
        self._transactions.tenant_limits = {
            name: TenantLimits(
                live_max=min(one.live_max, int(self.limits.live_max * share)),
                bytes_max=min(one.bytes_max, int(self.limits.live_bytes_max * share)),
            )
            for name, one in limits.items()
        }

    # --- state, to be read ------------------------------------------------

    @property
    def live(self) -> Mapping[str, LiveTransaction]:
        """The live transactions by gid."""
        return self._transactions.live

    @property
    def begun(self) -> int:
        """How many of the live transactions were begun here."""
        return self._transactions.begun

    @property
    def held_bytes(self) -> int:
        """The bytes of the payloads and results of the live transactions."""
        return self._transactions.held_bytes

    @property
    def watched(self) -> Mapping[str, list[Waiter]]:
        """The requests that wait for transactions that other coordinators drive, by gid."""
        return self._transactions.watched

    @property
    def dispatchers(self) -> Mapping[str, ParticipantDispatcher]:
        """The dispatchers by participant."""
        return self._driver.dispatchers

    @property
    def cancel_in_stage_order(self) -> frozenset[str]:
        """The participants whose Cancels wait for those of later stages."""
        return self._driver.cancel_in_stage_order

    @property
    def writer(self) -> LogWriter:
        """The queues to the log, and whether its cells can be used."""
        return self._driver.writer

    @property
    def totals(self) -> Totals:
        """What this process has done since it started."""
        return self._driver.totals

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken on because the process will end."""
        return self._hand_over.draining

    @property
    def busy(self) -> bool:
        """Whether a write or a call is under way for any live transaction."""
        return self._hand_over.busy

    # --- requests ---------------------------------------------------------

    def refusal(self) -> Refused | None:
        """Return why no new transaction at all is taken on now; None: it depends on the transaction."""
        return self._admission.refusal()

    def begin(self, tx: Transaction, waiter: Waiter) -> None:
        """Start a transaction, or join the one that the same request started before.

        Raises:
            Refused: nothing is written and nothing has changed.
        """
        known = self._transactions.live.get(tx.gid)
        if known is not None:
            self._join(known, tx, waiter)
            return
        self._admission.check(tx)
        entry = self._transactions.remember(tx, begun=True)
        entry.waiters.append(waiter)
        entry.phase_began_at = self._clock.now()
        self._driver.apply(entry, Begun(), entry.phase_began_at)

    async def rejoin(self, refused: Sequence[tuple[Transaction, Waiter, Refused]]) -> None:
        """Answer requests that `begin` refused for good, unless they repeat what the log holds.

        Coordinators may be configured differently for a while. If another coordinator has
        accepted the same request, a refusal would be wrong, and the initiator acts upon it.
        """
        by_cell: dict[int, list[tuple[Transaction, Waiter, Refused]]] = {}
        for one in refused:
            by_cell.setdefault(self._log.cell_of(one[0].gid), []).append(one)
        await asyncio.gather(*(self._rejoin(of_cell) for of_cell in by_cell.values()))

    async def _rejoin(self, refused: Sequence[tuple[Transaction, Waiter, Refused]]) -> None:
        try:
            records = await self._log.transaction_get(tuple({tx.gid for tx, _, _ in refused}))
        except LogError as error:
            for _, waiter, _ in refused:
                waiter.fail(error)
            return
        for tx, waiter, refusal in refused:
            record = records.get(tx.gid)
            if record is None:
                waiter.fail(refusal)
            elif record.tx.fingerprint != tx.fingerprint and not record.quarantined:
                waiter.fail(gid_conflict(tx.gid))
            else:
                self._transactions.settle_or_watch(record, waiter)

    async def add_branch(
        self,
        gid: str,
        spec: BranchSpec,
        waiter: Waiter,
        *,
        branches_max: int,
        transaction_bytes_max: int,
        messages: tuple[BranchSpec, ...] = (),
        tenant: str | None = None,
    ) -> None:
        """Add a branch to an interactive transaction. `messages`: with a check-back branch."""
        self._check_specs((spec, *messages), tenant)
        event = BranchAdded(spec, branches_max, transaction_bytes_max, messages)
        await self._command(gid, event, waiter, tenant)

    async def confirm(
        self,
        gid: str,
        waiter: Waiter,
        *,
        messages: tuple[BranchSpec, ...] = (),
        branches_max: int = 0,
        transaction_bytes_max: int = 0,
        tenant: str | None = None,
    ) -> None:
        """Request the decision CONFIRM. The bounds are those of the messages that join with it."""
        self._check_specs(messages, tenant)
        event = ConfirmRequested(messages, branches_max, transaction_bytes_max)
        await self._command(gid, event, waiter, tenant)

    def _check_specs(self, specs: Sequence[BranchSpec], tenant: str | None) -> None:
        """Check that branches may join a transaction of this tenant."""
        self._admission.check_participants(specs)
        self._admission.check_bytes(sum([len(spec.payload) for spec in specs]), tenant or "", new=0)

    async def cancel(self, gid: str, detail: str, waiter: Waiter, *, tenant: str | None = None) -> None:
        """Request the decision CANCEL."""
        await self._command(gid, CancelRequested(detail), waiter, tenant)

    async def wait(self, gid: str, waiter: Waiter, *, tenant: str | None = None) -> None:
        """Wait for a milestone of a transaction, whichever coordinator owns it.

        Raises:
            TransactionNotFound, LogUnavailable
        """
        entry = self._transactions.live.get(gid)
        if entry is not None:
            self._transactions.check_tenant(entry.tx, tenant)
            self._transactions.wait_for(entry, waiter)
            return
        self._transactions.settle_or_watch(await self.get(gid, tenant=tenant), waiter)

    def abandon(self, gid: str) -> None:
        """Record that the caller of a request for this transaction has left."""
        self._transactions.abandon(gid)

    async def get(self, gid: str, *, tenant: str | None = None) -> Record:
        """Return what the log holds of a transaction. `tenant`: it must belong to this one; None: to any.

        Raises:
            TransactionNotFound, LogUnavailable
        """
        record = (await self._log.transaction_get((gid,))).get(gid)
        if record is None:
            raise not_found(gid)
        self._transactions.check_tenant(record.tx, tenant)
        return record

    def _join(self, known: LiveTransaction, repeated: Transaction, waiter: Waiter) -> None:
        if known.tx.fingerprint == repeated.fingerprint:
            self._transactions.wait_for(known, waiter)
        elif known.tx.saved_state is None:
            known.conflicting_waiters.append((repeated.fingerprint, waiter))
        else:
            raise gid_conflict(repeated.gid)

    async def _command(self, gid: str, event: Event, waiter: Waiter, tenant: str | None) -> None:
        """Apply a request to a transaction, which this process takes over if it must.

        Raises:
            Refused: nothing has changed.
        """
        for _ in range(_TAKES_MAX):
            entry = self._transactions.live.get(gid)
            if entry is not None:
                self._transactions.check_tenant(entry.tx, tenant)
                before = len(entry.tx.branches)
                self._driver.apply(entry, event, self._clock.now())
                self._transactions.count(entry, entry.tx.branches[before:], 1)
                self._transactions.resize(entry)
                self._transactions.wait_for(entry, waiter)
                return
            self._admission.check_log(gid)
            record = (await self.get(gid, tenant=tenant)).usable()
            step(record.tx, event, self._clock.now())  # what is refused moves nothing
            if record.tx.state.decided:
                self._transactions.settle_or_watch(record, waiter)
                return
            await self._hand_over.take(record)
        raise Overloaded(f"transaction {gid!r} is being moved between coordinators", retry_after_s=0.1)

    # --- what the jobs and the drain call ---------------------------------

    def wake_due(self) -> int:
        """Wake every live transaction that is due. Return how many."""
        return self._driver.wake_due()

    def resume(self, records: Iterable[Record]) -> int:
        """Drive transactions that this process has just become the owner of. Return how many."""
        return self._hand_over.resume(records)

    def room(self) -> int:
        """Return how many transactions may be taken over now."""
        return self._hand_over.room()

    def claim_limits(self, most: int, unconfigured: Iterable[str] = ()) -> dict[str, int]:
        """Return how many parked transactions may be claimed now, by the participant they wait for."""
        return self._hand_over.claim_limits(most, unconfigured)

    def stale_suspects(self) -> list[str]:
        """Return the gids of live transactions that others may have taken over unnoticed."""
        return self._hand_over.stale_suspects()

    def evict_stale(self, records: Mapping[str, Record]) -> int:
        """Forget live transactions whose rows, as just read, others have changed. Return how many."""
        return self._hand_over.evict_stale(records)

    def schedule_due(self, gid: str, at: float) -> None:
        """Remember that a transaction in the log that this process could take up is due at `at`."""
        self._transactions.schedule_due(gid, at)

    def pop_due(self, now: float, cell: int = 0) -> bool:
        """Return whether anything scheduled in a cell is due; each moment is reported once."""
        return self._transactions.pop_due(now, cell)

    def settle_watched(self, gids: Sequence[str], records: Mapping[str, Record]) -> int:
        """Answer requests that watch `gids`, given their rows. Return how many need no watching any more."""
        return self._transactions.settle_watched(gids, records)

    def start_draining(self) -> None:
        """Take on nothing new from now on."""
        self._hand_over.start_draining()

    def fail_waiters(self, error: Refused) -> None:
        """Fail every request that still waits."""
        self._transactions.fail_waiters(error)
