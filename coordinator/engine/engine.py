"""The engine: what one coordinator process does with the transactions it drives.

Live transactions stand in one dictionary. An event (a request, a write that
landed, a participant's answer, time) goes through `core.machine.step`; the
effects that come back go to queues: the log writer, one lane per participant,
the requests that wait. The queues flush as batches, and what comes back from
them is the next batch of events. There is no task, no lock and no future per
transaction; everything here runs on one event loop and never awaits half-way
through an event.

The row in the log is the truth and the dictionary is a cache of what this
process owns. A write that the log refuses because another owner has the row
makes the engine forget the transaction; whoever waits for it here then watches
the row. A transaction that is parked or ended is forgotten as well.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress

import structlog
from msgspec import Struct
from msgspec.structs import replace

from coordinator.core.errors import (
    Draining,
    GidConflict,
    LogUnavailable,
    Overloaded,
    OwnerChanged,
    ParticipantPaused,
    ParticipantUnavailable,
    Refused,
    TransactionNotFound,
    UnknownParticipant,
)
from coordinator.core.events import (
    Accepted,
    BecameStuck,
    Begun,
    BranchAdded,
    BranchRegistered,
    BranchTried,
    Call,
    CallCompleted,
    CancelRequested,
    Completed,
    ConfirmRequested,
    Decided,
    Effect,
    Event,
    Parked,
    Resumed,
    Save,
    Saved,
    Woken,
)
from coordinator.core.machine import error_text, is_calling, step, with_branch
from coordinator.core.model import (
    Branch,
    BranchSpec,
    CallResult,
    Note,
    OutcomeCode,
    RetryPolicy,
    Transaction,
    TransactionState,
)
from coordinator.core.notes import noted, with_stuck
from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import (
    CallResults,
    ParticipantDispatcher,
    ParticipantPolicy,
    not_configured,
)
from coordinator.engine.flush_policy import flush_policy
from coordinator.engine.log_writer import LogWriter
from coordinator.engine.observer import NULL_OBSERVER, NULL_SPANS, Anomaly, Observer, Spans
from coordinator.engine.waiting import Waiter, is_reached
from coordinator.ports.log import Log, Record
from coordinator.ports.participants import BranchCall, Participants
from tcc._internal.batcher import FlushPolicy

logger = structlog.get_logger(__name__)

# How often a request tries to become the owner of a transaction that others move meanwhile.
_TAKES_MAX = 8

DUE_TICK_S = 0.1

# New work leaves some room to what is decided already: adopted and retried transactions.
NEW_WORK_SHARE = 0.9
# How much of the live transactions' bound one participant may fill.
PARTICIPANT_SHARE = 0.5
# Every so many requests that wait for one transaction, those whose callers have gone are forgotten.
WAITERS_SWEPT_EVERY = 256
# How long a caller of a paused participant is asked to wait.
PAUSED_RETRY_AFTER_S = 5.0
# For participants that are not configured (any more).
_NO_POLICY = RetryPolicy()
# What has ended when a transaction comes to a state.
_PHASES = {
    TransactionState.CONFIRMING: "try",
    TransactionState.CANCELLING: "try",
    TransactionState.CONFIRMED: "confirm",
    TransactionState.CANCELLED: "cancel",
}


class EngineLimits(Struct, frozen=True, kw_only=True):
    """Bounds beyond which new work is refused before anything is written."""

    live_max: int = 20_000
    # Writes that wait for the log. More would wait for so long that it is better to say no.
    log_backlog_max: int = 4_096


class Totals:
    """What one process has done so far."""

    __slots__ = ("begun", "cancelled", "confirmed")

    def __init__(self) -> None:
        self.begun = 0
        self.confirmed = 0
        self.cancelled = 0


class LiveTransaction:
    """A transaction that this process drives, and the requests that wait for it."""

    __slots__ = ("begun", "conflicting_waiters", "phase_began_at", "tx", "waiters")

    def __init__(self, tx: Transaction, *, begun: bool) -> None:
        self.tx = tx
        # By a request to this process; otherwise it was taken over.
        self.begun = begun
        # By the log's clock.
        self.phase_began_at = 0.0
        self.waiters: list[Waiter] = []
        # Requests for the same gid with other content, by their fingerprint. Until the
        # log has said who was first, nobody here can say which of them is refused.
        self.conflicting_waiters: list[tuple[bytes, Waiter]] = []

    def fail_all(self, error: Refused) -> None:
        """Fail every waiting request."""
        for waiter in [*self.waiters, *(waiter for _, waiter in self.conflicting_waiters)]:
            waiter.fail(error)
        self.waiters, self.conflicting_waiters = [], []


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
    ) -> None:
        """`is_saturated`: whether the process has hardly a pause, so that requests wait outside."""
        self.observer = observer
        self.spans = spans
        self.clock = clock
        self.log = log
        self.limits = limits or EngineLimits()
        self.draining = False
        self.live: dict[str, LiveTransaction] = {}
        # How many of them were begun here. They come in streams; what is taken over comes at once.
        self.begun = 0
        # Requests that wait for transactions that others drive.
        self.watched: dict[str, list[Waiter]] = {}
        # Participants that parked transactions wait for, though they are configured no more:
        # such a transaction may have other branches, which must not wait with it.
        self.unconfigured: frozenset[str] = frozenset()
        # When transactions that this process parked are due, in whole ticks of DUE_TICK_S.
        self.due_ticks: set[int] = set()
        # Since this process started.
        self.totals = Totals()
        self._jitter = jitter
        self._is_saturated = is_saturated
        self.writer = LogWriter(
            log,
            on_begun=self._on_begun,
            on_saved=self._on_saved,
            on_refused=self._on_refused,
            is_wanted=self._is_change_wanted,
            flush_policy=lambda: self._flush_policy(self.begun),
            clock=clock,
            observer=observer,
        )
        self._participants = participants
        self._tasks: asyncio.TaskGroup | None = None
        self.dispatchers: dict[str, ParticipantDispatcher] = {}
        # Participants whose Cancels wait for those of later stages.
        self.cancel_in_stage_order: frozenset[str] = frozenset()
        self.configure(policies)
        self._perform: dict[type[Effect], Callable[[LiveTransaction, object], None]] = {
            Save: self._save,
            Call: self._call,
            Accepted: self._settle,
            Decided: self._settle,
            BranchRegistered: self._settle,
            BranchTried: self._settle,
            Completed: self._complete,
            Parked: self._park,
            BecameStuck: self._report_stuck,
        }

    async def run(self) -> None:
        """Write and call until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self.writer.run())
            for dispatcher in self.dispatchers.values():
                self._tasks.create_task(dispatcher.run())

    def configure(
        self, policies: Mapping[str, ParticipantPolicy], *, moved: frozenset[str] = frozenset()
    ) -> None:
        """Set the participants and their policies from now on; `moved`: those with a new address.

        Calls under way end as they would have. What waits for one that is gone is
        answered as if it had never been configured.
        """
        for name in self.dispatchers.keys() - policies.keys():
            self.dispatchers.pop(name).retire()
        for name, policy in policies.items():
            if name in self.dispatchers:
                self.dispatchers[name].change_policy(policy, moved=name in moved)
            else:
                self._open_dispatcher(name, policy)
        self.cancel_in_stage_order = frozenset(
            name for name, policy in policies.items() if policy.cancel_in_stage_order
        )

    def _open_dispatcher(self, name: str, policy: ParticipantPolicy) -> None:
        dispatcher = self.dispatchers[name] = ParticipantDispatcher(
            name,
            policy,
            participants=self._participants,
            clock=self.clock,
            is_wanted=self._is_call_wanted,
            on_answers=self._on_answers,
            flush_policy=self._flush_policy,
            observer=self.observer,
        )
        for entry in self.live.values():
            ours = sum(branch.spec.participant == name for branch in entry.tx.branches)
            dispatcher.live += ours
            dispatcher.begun += ours * entry.begun
        if self._tasks is not None:
            self._tasks.create_task(dispatcher.run())

    # --- requests ---------------------------------------------------------

    def begin(self, tx: Transaction, waiter: Waiter) -> None:
        """Start a transaction, or join the one that the same request started before.

        Raises:
            Refused: nothing is written and nothing has changed.
        """
        known = self.live.get(tx.gid)
        if known is not None:
            self._join(known, tx, waiter)
            return
        self._check_admission(tx)
        entry = self._remember(tx, begun=True)
        entry.waiters.append(waiter)
        entry.phase_began_at = self.clock.now()
        self._apply(entry, Begun(), entry.phase_began_at)

    async def rejoin(self, refused: Sequence[tuple[Transaction, Waiter, Refused]]) -> None:
        """Answers requests that `begin` refused for good, unless they repeat what the log holds.

        Coordinators may be configured differently for a while. Where another one has taken on
        what is asked for here, "no" would be a lie that the initiator acts upon.

        Raises:
            LogUnavailable
        """
        records = await self.log.transaction_get(tuple({tx.gid for tx, _, _ in refused}))
        for tx, waiter, refusal in refused:
            record = records.get(tx.gid)
            if record is None:
                waiter.fail(refusal)
            elif record.tx.fingerprint != tx.fingerprint:
                waiter.fail(_gid_conflict(tx.gid))
            else:
                self._settle_or_watch(record, waiter)

    async def add_branch(
        self, gid: str, spec: BranchSpec, waiter: Waiter, *, branches_max: int, transaction_bytes_max: int
    ) -> None:
        """Add a branch to an interactive transaction."""
        self._check_participants((spec,))
        await self._command(gid, BranchAdded(spec, branches_max, transaction_bytes_max), waiter)

    async def confirm(self, gid: str, waiter: Waiter) -> None:
        """Asks for the decision CONFIRM."""
        await self._command(gid, ConfirmRequested(), waiter)

    async def cancel(self, gid: str, detail: str, waiter: Waiter) -> None:
        """Asks for the decision CANCEL."""
        await self._command(gid, CancelRequested(detail), waiter)

    async def wait(self, gid: str, waiter: Waiter) -> None:
        """Wait for a milestone of any transaction, whichever coordinator owns it.

        Raises:
            TransactionNotFound, LogUnavailable
        """
        entry = self.live.get(gid)
        if entry is not None:
            self._wait_for(entry, waiter)
            return
        self._settle_or_watch(await self.get(gid), waiter)

    async def get(self, gid: str) -> Record:
        """Return what the log holds of a transaction.

        Raises:
            TransactionNotFound, LogUnavailable
        """
        record = (await self.log.transaction_get((gid,))).get(gid)
        if record is None:
            raise _not_found(gid)
        return record

    # --- what recovery calls ----------------------------------------------

    def wake_due(self) -> int:
        """Send `Woken` to every live transaction that is due. Return how many."""
        now = self.clock.now()
        due = [entry for entry in self.live.values() if entry.tx.wake_at <= now]
        for entry in due:
            self._apply(entry, Woken(), now)
        return len(due)

    def resume(self, records: Iterable[Record]) -> int:
        """Drives on what this process has just become the owner of. Returns how many."""
        now = self.clock.now()
        count = 0
        for record in records:
            known = self.live.get(record.tx.gid)
            if known is not None and known.tx.version >= record.tx.version:
                continue
            if known is not None:
                self._forget(known)
            entry = self._remember(record.tx, begun=False)
            entry.phase_began_at = record.decided_at or record.created_at
            entry.waiters = self.watched.pop(record.tx.gid, [])
            if known is not None:
                self._hand_over(known, record)
            self._apply(entry, Resumed(), now)
            count += 1
        return count

    def stale_suspects(self) -> list[str]:
        """Gids of live transactions that others may have taken over without our noticing.

        Whatever writes or calls finds out by itself. What is left are interactive
        transactions that only wait here, for a step that may be made elsewhere.
        """
        return [
            gid
            for gid, entry in self.live.items()
            if entry.waiters and entry.tx.interactive and not entry.tx.saving
        ]

    def evict_stale(self, records: Mapping[str, Record]) -> int:
        """Forgets live transactions whose rows, as just read, others have changed. Returns how many."""
        count = 0
        for gid, record in records.items():
            entry = self.live.get(gid)
            if entry is not None and not entry.tx.saving and record.tx.version > entry.tx.version:
                self._on_ownership_lost(entry)
                count += 1
        return count

    def schedule_due(self, at: float) -> None:
        """Something in the log is due at `at` that this process could take up."""
        self.due_ticks.add(math.ceil(at / DUE_TICK_S))

    def pop_due(self, now: float) -> bool:
        """Whether something that this process parked is due. It is told once."""
        due = {tick for tick in self.due_ticks if tick * DUE_TICK_S <= now}
        self.due_ticks -= due
        return bool(due)

    def claim_limits(self, most: int) -> dict[str, int]:
        """How many parked transactions may be claimed now, by the participant they wait for.

        Each participant has a share of its own, so that many that wait for one
        never keep those of another waiting.
        """
        most = min(most, self.limits.live_max - len(self.live))
        if most <= 0:
            return {}
        now = self.clock.now()
        limits = {name: dispatcher.claim_room(now, most) for name, dispatcher in self.dispatchers.items()}
        unconfigured = dict.fromkeys(self.unconfigured, most)
        return {"": most} | unconfigured | {name: limit for name, limit in limits.items() if limit}

    def settle_watched(self, gids: Sequence[str], records: Mapping[str, Record]) -> int:
        """Answers requests that watch `gids`, now that `records` have been read for them.

        Returns how many transactions need no watching any more.
        """
        for gid in gids:
            record = records.get(gid)
            for waiter in self.watched.pop(gid, ()):
                if record is None:
                    waiter.fail(_not_found(gid))
                else:
                    self._settle_or_watch(record, waiter)
        return sum(gid not in self.watched for gid in gids)

    def fail_waiters(self, error: Refused) -> None:
        """Fail every request that still waits."""
        for entry in self.live.values():
            entry.fail_all(error)
        for waiters in self.watched.values():
            for waiter in waiters:
                waiter.fail(error)
        self.watched = {}

    @property
    def busy(self) -> bool:
        """Whether a write or a call is under way for any live transaction."""
        return any(
            entry.tx.saving or any(branch.calling for branch in entry.tx.branches)
            for entry in self.live.values()
        )

    # --- requests, closer -------------------------------------------------

    def refusal(self) -> Refused | None:
        """Why no new transaction at all is taken on now; None: it depends on the transaction."""
        if self.draining:
            return Draining("this coordinator is shutting down", retry_after_s=0.05)
        if not self.writer.available:
            return _log_unavailable()
        if len(self.live) >= self.limits.live_max * NEW_WORK_SHARE:
            return Overloaded("too many live transactions", retry_after_s=0.2)
        if self.writer.backlog >= self.limits.log_backlog_max:
            return Overloaded("the log cannot keep up", retry_after_s=0.2)
        return None

    def _check_admission(self, tx: Transaction) -> None:
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        self._check_participants(branch.spec for branch in tx.branches)

    def _check_log(self) -> None:
        if not self.writer.available:
            raise _log_unavailable()

    def _check_participants(self, specs: Iterable[BranchSpec]) -> None:
        for spec in specs:
            dispatcher = self.dispatchers.get(spec.participant)
            if dispatcher is None:
                raise UnknownParticipant(
                    f"participant {spec.participant!r} is not configured",
                    metadata={"participant": spec.participant},
                )
            if dispatcher.paused:
                raise ParticipantPaused(
                    f"participant {spec.participant!r} is paused by an operator",
                    retry_after_s=PAUSED_RETRY_AFTER_S,
                    metadata={"participant": spec.participant},
                )
            now = self.clock.now()
            # New work may be the probe: what opened the breaker may be with another coordinator by now.
            if not dispatcher.breaker.allows(now):
                raise ParticipantUnavailable(
                    f"participant {spec.participant!r} is not answering",
                    retry_after_s=dispatcher.breaker.wait_s(now) + dispatcher.policy.breaker.open_first_s,
                    metadata={"participant": spec.participant},
                )
            too_many_live = dispatcher.live >= self.limits.live_max * PARTICIPANT_SHARE
            if too_many_live or dispatcher.backlog >= dispatcher.policy.backlog_max:
                raise Overloaded(
                    f"too much waits for participant {spec.participant!r}",
                    retry_after_s=0.2,
                    metadata={"participant": spec.participant},
                )

    def _join(self, known: LiveTransaction, repeated: Transaction, waiter: Waiter) -> None:
        if known.tx.fingerprint == repeated.fingerprint:
            self._wait_for(known, waiter)
        elif known.tx.saved_state is None:
            known.conflicting_waiters.append((repeated.fingerprint, waiter))
        else:
            raise _gid_conflict(repeated.gid)

    async def _command(self, gid: str, event: Event, waiter: Waiter) -> None:
        """Apply a request to a transaction, which this process takes over if it must.

        Raises:
            Refused: nothing has changed.
        """
        for _ in range(_TAKES_MAX):
            entry = self.live.get(gid)
            if entry is not None:
                before = len(entry.tx.branches)
                self._apply(entry, event, self.clock.now())
                self._count(entry, entry.tx.branches[before:], 1)
                self._wait_for(entry, waiter)
                return
            self._check_log()
            record = await self.get(gid)
            step(record.tx, event, self.clock.now())  # what is refused moves nothing
            if record.tx.state.decided:
                self._settle_or_watch(record, waiter)
                return
            if self.draining:
                raise Draining("this coordinator is shutting down", retry_after_s=0.05)
            taken = await self.log.transaction_take(gid, version=record.tx.version)
            if taken is not None:
                self.resume((taken,))
        raise Overloaded(f"transaction {gid!r} is being moved between coordinators", retry_after_s=0.1)

    def _wait_for(self, entry: LiveTransaction, waiter: Waiter) -> None:
        if is_reached(waiter.milestone, entry.tx, waiter.branch_id):
            waiter.settle(entry.tx)
            return
        if len(entry.waiters) % WAITERS_SWEPT_EVERY == WAITERS_SWEPT_EVERY - 1:
            entry.waiters = [other for other in entry.waiters if not other.is_cancelled()]
        entry.waiters.append(waiter)

    def _settle_or_watch(self, record: Record, waiter: Waiter) -> None:
        """For a transaction that others drive: its row tells how far it is."""
        tx = record.tx
        if waiter.is_cancelled():
            return
        if is_reached(waiter.milestone, tx, waiter.branch_id):
            waiter.settle(tx)
        elif tx.gid in self.live:
            self._wait_for(self.live[tx.gid], waiter)
        elif waiter.is_command and not tx.state.decided:
            waiter.fail(_owner_changed())
        else:
            self.watched.setdefault(tx.gid, []).append(waiter)

    def _remember(self, tx: Transaction, *, begun: bool) -> LiveTransaction:
        entry = self.live[tx.gid] = LiveTransaction(tx, begun=begun)
        self.begun += begun
        self._count(entry, tx.branches, 1)
        return entry

    def _forget(self, entry: LiveTransaction) -> None:
        del self.live[entry.tx.gid]
        self.begun -= entry.begun
        self._count(entry, entry.tx.branches, -1)

    def _count(self, entry: LiveTransaction, branches: Iterable[Branch], change: int) -> None:
        """Tells the lanes how many branches they have among the live transactions."""
        dispatchers = self.dispatchers
        for branch in branches:
            dispatcher = dispatchers.get(branch.spec.participant)
            if dispatcher is not None:
                dispatcher.live += change
                dispatcher.begun += change * entry.begun

    def _flush_policy(self, begun: int) -> FlushPolicy:
        return flush_policy(begun, is_saturated=self._is_saturated())

    # --- events -----------------------------------------------------------

    def _apply(self, entry: LiveTransaction, event: Event, now: float) -> None:
        entry.tx, effects = step(entry.tx, event, now)
        for effect in effects:
            self._perform[type(effect)](entry, effect)

    def _on_begun(self, begun: Sequence[Transaction], others: Sequence[Record | None]) -> None:
        now = self.clock.now()
        for tx, other in zip(begun, others, strict=True):
            entry = self._unsaved(tx.gid)
            if entry is None:
                continue  # `resume` has brought the transaction that was there first
            if other is None:
                conflicting_waiters, entry.conflicting_waiters = entry.conflicting_waiters, []
                for _, waiter in conflicting_waiters:
                    waiter.fail(_gid_conflict(tx.gid))
                self.totals.begun += 1
                self._apply(entry, Saved(), now)
            else:
                self._forget(entry)
                self._hand_over(entry, other)

    def _unsaved(self, gid: str) -> LiveTransaction | None:
        """Return the live transaction of this gid if its begin is still on its way into the log."""
        entry = self.live.get(gid)
        return entry if entry is not None and entry.tx.saved_state is None else None

    def _hand_over(self, entry: LiveTransaction, other: Record) -> None:
        """Whoever waits for a forgotten entry waits for the transaction of `other` from now on.

        Where the entry was not durable, its gid turned out to be taken: by an
        earlier delivery of one of these requests, or by something else. Commands
        went to a memory that is gone, and have to be given again.
        """
        waiters = [(entry.tx.fingerprint, waiter) for waiter in entry.waiters]
        for fingerprint, waiter in waiters + entry.conflicting_waiters:
            if fingerprint != other.tx.fingerprint:
                waiter.fail(_gid_conflict(entry.tx.gid))
            elif waiter.is_command:
                waiter.fail(_owner_changed())
            else:
                self._settle_or_watch(other, waiter)

    def _on_saved(self, changed: Sequence[Transaction], written: Sequence[bool]) -> None:
        now = self.clock.now()
        self.observer.changed(list(compress(changed, written)))
        sample = changed[len(changed) // 2]
        for tx, was_written in zip(changed, written, strict=True):
            if not self._is_change_wanted(tx):
                continue  # it was lost and taken again meanwhile
            entry = self.live[tx.gid]
            if not was_written:
                self._on_ownership_lost(entry)
                continue
            if tx.saving_state is not tx.saved_state:
                # What was taken over may have waited for days; it says nothing of how fast we are.
                if tx is sample and entry.begun:
                    self.observer.phase_ended(_PHASES[tx.state], now - entry.phase_began_at)
                if tx.trace is not None:
                    self.spans.phase_ended(tx, entry.phase_began_at, now)
                entry.phase_began_at = now
            self._apply(entry, Saved(), now)

    def _on_ownership_lost(self, entry: LiveTransaction) -> None:
        """Another coordinator has the transaction. Whoever waits for it here watches its row."""
        gid = entry.tx.gid
        logger.debug("transaction was taken over by another coordinator", gid=gid)
        self._forget(entry)
        for waiter in entry.waiters:
            if waiter.is_command:
                waiter.fail(_owner_changed())
            else:
                self.watched.setdefault(gid, []).append(waiter)

    def _on_refused(self, begun: Sequence[Transaction], error: LogUnavailable) -> None:
        for tx in begun:
            entry = self._unsaved(tx.gid)
            if entry is None:
                continue
            self._forget(entry)
            entry.fail_all(error)

    def _is_change_wanted(self, tx: Transaction) -> bool:
        """Whether a change that waited for the log still is this process's latest word."""
        entry = self.live.get(tx.gid)
        return entry is not None and entry.tx.version == tx.version and entry.tx.saving

    def _is_call_wanted(self, call: BranchCall) -> bool:
        """Whether a call that waited in a lane still makes sense."""
        entry = self.live.get(call.gid)
        return entry is not None and is_calling(entry.tx, call.index, call.operation)

    def _on_answers(self, answers: CallResults) -> None:
        now = self.clock.now()
        for call, answer in answers:
            entry = self.live.get(call.gid)
            if entry is not None:
                if answer.code is OutcomeCode.FAILED and not answer.not_sent:
                    entry.tx = _with_note(entry.tx, call, answer, now)
                self._apply(entry, self._completed(call, answer), now)

    def _completed(self, call: BranchCall, answer: CallResult) -> CallCompleted:
        if answer.code is OutcomeCode.SUCCEEDED:
            return CallCompleted(call.index, call.operation, answer)
        dispatcher = self.dispatchers.get(call.spec.participant)
        policy = dispatcher.policy.retry if dispatcher else _NO_POLICY
        return CallCompleted(call.index, call.operation, answer, policy, self._jitter())

    # --- effects ----------------------------------------------------------

    def _save(self, entry: LiveTransaction, _effect: object) -> None:
        self.writer.put(entry.tx)

    def _call(self, entry: LiveTransaction, effect: object) -> None:
        assert isinstance(effect, Call)
        tx = entry.tx
        branch = tx.branches[effect.index]
        call = BranchCall(
            gid=tx.gid,
            index=effect.index,
            operation=effect.operation,
            spec=branch.spec,
            expires_at=tx.expires_at,
            attempt=branch.attempts,
            result=branch.result,
            result_content_type=branch.result_content_type,
        )
        if tx.trace is not None:
            before = branch.failed_span_id if branch.attempts else ""
            call = replace(call, trace=tx.trace, failed_span_id=before)
        dispatcher = self.dispatchers.get(branch.spec.participant)
        if dispatcher is None:
            # Answered later, as every call is: an event is never applied inside another.
            answers = [(call, not_configured(branch.spec.participant))]
            asyncio.get_running_loop().call_soon(self._on_answers, answers)
        else:
            dispatcher.put(call)

    def _settle(self, entry: LiveTransaction, _effect: object) -> None:
        waiters = entry.waiters
        if not waiters:
            return
        entry.waiters = []
        for waiter in waiters:
            self._wait_for(entry, waiter)

    def _complete(self, entry: LiveTransaction, effect: object) -> None:
        if entry.tx.state is TransactionState.CONFIRMED:
            self.totals.confirmed += 1
        else:
            self.totals.cancelled += 1
        self._settle(entry, effect)
        self._forget(entry)

    def _park(self, entry: LiveTransaction, _effect: object) -> None:
        tx = entry.tx
        self._forget(entry)
        self.schedule_due(tx.next_attempt_at)
        if entry.waiters:
            self.watched.setdefault(tx.gid, []).extend(entry.waiters)

    def _report_stuck(self, entry: LiveTransaction, effect: object) -> None:
        assert isinstance(effect, BecameStuck)
        branch = entry.tx.branches[effect.index]
        entry.tx = with_branch(entry.tx, effect.index, with_stuck(branch))
        facts = {
            "gid": entry.tx.gid,
            "branch_id": branch.spec.branch_id,
            "participant": branch.spec.participant,
            "state": entry.tx.state.name,
            "attempts": branch.attempts,
            "last_error": branch.last_error,
        }
        if entry.tx.trace is not None:
            facts["trace_id"] = entry.tx.trace.trace_id
        logger.error("transaction is stuck", **facts)
        self.observer.anomaly(Anomaly.STUCK, **facts)


def _with_note(tx: Transaction, call: BranchCall, answer: CallResult, now: float) -> Transaction:
    """Return the transaction with a note of a failed call, unless its result is stale."""
    if not is_calling(tx, call.index, call.operation):
        return tx
    branch = tx.branches[call.index]
    note = Note(at=now, operation=call.operation, text=error_text(answer))
    notes = noted(branch.notes, note)
    return with_branch(tx, call.index, replace(branch, notes=notes, failed_span_id=answer.span_id))


def _gid_conflict(gid: str) -> GidConflict:
    return GidConflict(f"transaction {gid!r} exists with different content", metadata={"gid": gid})


def _not_found(gid: str) -> TransactionNotFound:
    return TransactionNotFound(f"no transaction {gid!r}", metadata={"gid": gid})


def _log_unavailable() -> LogUnavailable:
    return LogUnavailable("the transaction log cannot be reached", retry_after_s=1.0)


def _owner_changed() -> OwnerChanged:
    return OwnerChanged("another coordinator drives the transaction now", retry_after_s=0.05)
