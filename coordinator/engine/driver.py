"""What drives the live transactions: events in, effects out.

An event (a request, a write that is durable, a participant's answer, time) goes through
`core.machine.step`. The effects that come back go to queues: the log writer, one dispatcher
per participant, the requests that wait. The queues flush as batches, and their results are
the next batch of events. There is no task, no lock and no future per transaction. Everything
here runs on one event loop, and never awaits in the middle of an event.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import compress

import structlog
from msgspec.structs import replace

from coordinator.core.errors import CheckUnanswered, LogError, Refused, TransactionQuarantined
from coordinator.core.events import (
    Accepted,
    BecameStuck,
    BranchRegistered,
    BranchTried,
    CallCompleted,
    CheckFailed,
    Completed,
    Decided,
    Effect,
    Event,
    Parked,
    Resumed,
    Save,
    Saved,
    Woken,
)
from coordinator.core.machine import check_back_index, error_text, is_calling, step, with_branch
from coordinator.core.model import (
    DECISIONS,
    BranchCall,
    CallResult,
    Note,
    OutcomeCode,
    RetryPolicy,
    Transaction,
    TransactionState,
    TryState,
)
from coordinator.core.notes import noted, with_stuck
from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import (
    ParticipantDispatcher,
    ParticipantPolicy,
    no_room_for_result,
    not_configured,
    results_too_large,
)
from coordinator.engine.flush_policy import flush_policy
from coordinator.engine.live import LiveTransaction, LiveTransactions, gid_conflict
from coordinator.engine.log_writer import LogWriter
from coordinator.engine.observer import Anomaly, Observer, Spans
from coordinator.ports.log import Log, Record, quarantined
from coordinator.ports.participants import CallResults, Participants
from tcc._internal.batcher import FlushPolicy
from tcc._internal.failpoint import failpoint

logger = structlog.get_logger(__name__)

# For participants that are not configured (any more).
_NO_POLICY = RetryPolicy()
# A row that was durable and is not in the log is awaited for this long after its transaction began or was
# decided. A log of several machines may show it late. Later on it was purged, or the log has lost it.
MISSING_ROW_AWAITED_S = 600.0
# Each answer is compared with them, and the members of an enumeration are slow to look up.
_SUCCEEDED, _FAILED = OutcomeCode.SUCCEEDED, OutcomeCode.FAILED
_CONFIRMED = TransactionState.CONFIRMED


class Totals:
    """What one process has done so far."""

    __slots__ = ("begun", "cancelled", "confirmed")

    def __init__(self) -> None:
        self.begun = 0
        self.confirmed = 0
        self.cancelled = 0


class Driver:
    """Applies events to live transactions, and performs the effects."""

    def __init__(
        self,
        transactions: LiveTransactions,
        dispatchers: dict[str, ParticipantDispatcher],
        *,
        log: Log,
        participants: Participants,
        clock: LogClock,
        jitter: Callable[[], float],
        observer: Observer,
        spans: Spans,
        is_saturated: Callable[[], bool],
        on_availability: Callable[[bool], None],
        results_bytes_max: int,
        on_bug: Callable[[Exception], None],
    ) -> None:
        """`dispatchers`: empty; `configure` fills it. `results_bytes_max`: of a transaction's results."""
        self._log = log
        self._results_bytes_max = results_bytes_max
        self._on_bug = on_bug
        self._transactions = transactions
        self.live = transactions.live
        self.dispatchers = dispatchers
        # Participants whose Cancels wait for those of later stages.
        self.cancel_in_stage_order: frozenset[str] = frozenset()
        # Since this process started.
        self.totals = Totals()
        self._participants = participants
        self._clock = clock
        self._jitter = jitter
        self._observer = observer
        self._spans = spans
        self._is_saturated = is_saturated
        self.writer = LogWriter(
            log,
            on_begun=self._on_begun,
            on_saved=self._on_saved,
            on_refused=self._on_refused,
            is_wanted=self._is_change_wanted,
            flush_policy=lambda share: self._flush_policy(round(transactions.begun * share)),
            clock=clock,
            observer=observer,
            on_availability=on_availability,
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._perform: dict[type[Effect], Callable[[LiveTransaction, object], None]] = {
            Save: self._save,
            BranchCall: self._call,
            Accepted: self._settle,
            Decided: self._settle_decided,
            BranchRegistered: self._settle,
            BranchTried: self._settle,
            Completed: self._complete,
            Parked: self._park,
            BecameStuck: self._report_stuck,
            CheckFailed: self._fail_commands,
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

        Calls under way are not interrupted. Calls that wait for a removed participant are
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
            clock=self._clock,
            is_wanted=self._is_call_wanted,
            on_answers=self._on_answers,
            flush_policy=self._flush_policy,
            observer=self._observer,
        )
        for entry in self.live.values():
            ours = sum(branch.spec.participant == name for branch in entry.tx.branches)
            dispatcher.live += ours
            dispatcher.begun += ours * entry.begun
        if self._tasks is not None:
            self._tasks.create_task(dispatcher.run())

    def _flush_policy(self, begun: int) -> FlushPolicy:
        return flush_policy(begun, is_saturated=self._is_saturated())

    # --- events -----------------------------------------------------------

    def apply(self, entry: LiveTransaction, event: Event, now: float) -> None:
        """Apply an event, and perform its effects.

        If that fails because of a bug, the transaction is quarantined: no other one has it.

        Raises:
            Refused: nothing has changed.
            TransactionQuarantined: it is no longer live.
        """
        try:
            entry.tx, effects = step(entry.tx, event, now)
            for effect in effects:
                self._perform[type(effect)](entry, effect)
        except Refused:
            raise
        except Exception as error:
            raise self._quarantine(entry, error) from error

    def _advance(self, entry: LiveTransaction, event: Event, now: float) -> None:
        """Apply an event that no request brings. A bug concerns this transaction alone."""
        try:
            self.apply(entry, event, now)
        except TransactionQuarantined as error:
            logger.debug("the others go on", gid=entry.tx.gid, error=error.message)

    def _quarantine(self, entry: LiveTransaction, error: Exception) -> TransactionQuarantined:
        """Forget a transaction, and hold its row."""
        tx, why = entry.tx, f"{type(error).__name__}: {error}"
        refusal = quarantined(tx.gid, why)
        logger.error("a transaction is quarantined because of a bug", gid=tx.gid, exc_info=error)
        if self.live.get(tx.gid) is entry:
            self._transactions.forget(entry)
        entry.fail_all(refusal)
        self._on_bug(error)
        self._observer.anomaly(Anomaly.QUARANTINED, gid=tx.gid, reason=why)
        if tx.version and self._tasks is not None:
            self._tasks.create_task(self._hold(tx.gid, tx.version))
        return refusal

    async def _hold(self, gid: str, version: int) -> None:
        """Hold the row of a transaction that is not live any more."""
        try:
            await self._log.transaction_quarantine(gid, version=version)
        except LogError as error:
            logger.warning("a quarantined transaction could not be held", gid=gid, error=error.explained)

    def resume(self, entry: LiveTransaction, now: float) -> None:
        """Drive a transaction from where its last owner left it."""
        self._advance(entry, Resumed(self._unknown_participant(entry.tx)), now)

    def _unknown_participant(self, tx: Transaction) -> str:
        """Return a participant that is not configured here and has a branch to try; empty: none."""
        for branch in tx.branches:
            if branch.tried is TryState.UNKNOWN and not branch.spec.tried_by_initiator:
                participant = branch.spec.participant
                if participant not in self.dispatchers:
                    return participant
        return ""

    def wake_due(self) -> int:
        """Send `Woken` to every live transaction that is due. Return how many."""
        now = self._clock.now()
        due = [entry for entry in self.live.values() if entry.tx.wake_at <= now]
        for entry in due:
            self._advance(entry, Woken(), now)
        return len(due)

    # --- results of the queues --------------------------------------------

    def _on_begun(self, begun: Sequence[Transaction], others: Sequence[Record | None]) -> None:
        now = self._clock.now()
        self._observe_decided(begun, others, now)
        for tx, other in zip(begun, others, strict=True):
            entry = self._transactions.unsaved(tx.gid)
            if entry is None:
                continue  # it was taken over, and has brought the transaction that was there first
            if other is None:
                conflicting_waiters, entry.conflicting_waiters = entry.conflicting_waiters, []
                for _, waiter in conflicting_waiters:
                    waiter.fail(gid_conflict(tx.gid))
                self.totals.begun += 1
                self._advance(entry, Saved(), now)
            else:
                self._transactions.forget(entry)
                self._transactions.move_waiters(entry, other)

    def _observe_decided(
        self, begun: Sequence[Transaction], others: Sequence[Record | None], now: float
    ) -> None:
        """Report the transactions that were decided as they began."""
        decided = [tx for tx, other in zip(begun, others, strict=True) if tx.state.decided and other is None]
        if not decided:
            return
        self._observer.changed(decided)
        for tx in decided:
            if tx.trace is not None and (entry := self._transactions.unsaved(tx.gid)):
                self._spans.phase_ended(tx, entry.phase_began_at, now)
                entry.phase_began_at = now

    def _on_saved(self, changed: Sequence[Transaction], written: Sequence[bool | None]) -> None:
        now = self._clock.now()
        self._observer.changed(list(compress(changed, written)))
        sample = changed[len(changed) // 2]
        missing: list[str] = []
        for tx, was_written in zip(changed, written, strict=True):
            if not self._is_change_wanted(tx):
                continue  # it was lost and taken again in the meantime
            entry = self.live[tx.gid]
            if was_written is None:
                missing.append(tx.gid)
                if now - entry.phase_began_at < MISSING_ROW_AWAITED_S:
                    self.writer.put_later(tx)
                    continue
            if not was_written:
                self._transactions.lose(entry)
                continue
            if tx.saving_state is not tx.saved_state:
                # A transaction that was taken over may have waited for days; its age is no latency of ours.
                if tx is sample and entry.begun:
                    self._observer.phase_ended(_ended_phase(tx), now - entry.phase_began_at)
                if tx.trace is not None:
                    self._spans.phase_ended(tx, entry.phase_began_at, now)
                entry.phase_began_at = now
            self._advance(entry, Saved(), now)
        if missing:
            self._report_missing(missing)

    def _report_missing(self, gids: Sequence[str]) -> None:
        """Report that rows which were durable are not in the log. One line, however many they are."""
        logger.error("rows of transactions are missing from the log", count=len(gids), gid=gids[0])
        self._observer.anomaly(Anomaly.ROW_MISSING, count=len(gids), gid=gids[0])

    def _on_refused(self, begun: Sequence[Transaction], error: LogError) -> None:
        for tx in begun:
            entry = self._transactions.unsaved(tx.gid)
            if entry is None:
                continue
            self._transactions.forget(entry)
            entry.fail_all(error)

    def _is_change_wanted(self, tx: Transaction) -> bool:
        """Return whether a change that waited for the log is still the latest of this process."""
        entry = self.live.get(tx.gid)
        return entry is not None and entry.tx.version == tx.version and entry.tx.saving

    def _is_call_wanted(self, call: BranchCall) -> bool:
        """Return whether a call that waited in a queue is still to be made."""
        entry = self.live.get(call.gid)
        return entry is not None and is_calling(entry.tx, call.index, call.operation)

    def _on_answers(self, answers: CallResults) -> None:
        now = self._clock.now()
        for call, answer in answers:
            entry = self.live.get(call.gid)
            if entry is None:
                continue
            if answer.result:
                answer = self._with_bounded_result(entry.tx, call, answer)  # noqa: PLW2901 - it replaces it
            if answer.code is _FAILED and not answer.not_sent:
                entry.tx = _with_note(entry.tx, call, answer, now)
            self._advance(entry, self._completed(call, answer), now)
            if answer.result and self.live.get(call.gid) is entry:
                self._transactions.resize(entry)

    def _with_bounded_result(self, tx: Transaction, call: BranchCall, answer: CallResult) -> CallResult:
        """Return the answer, or a failure if its result finds no room beside the others."""
        size = len(answer.result) + sum([len(branch.result) for branch in tx.branches])
        if size > self._results_bytes_max:
            return results_too_large(self._results_bytes_max)
        if is_calling(tx, call.index, call.operation) and not self._transactions.has_room(
            tx, len(answer.result)
        ):
            return no_room_for_result()
        return answer

    def _completed(self, call: BranchCall, answer: CallResult) -> CallCompleted:
        if answer.code is _SUCCEEDED:
            return CallCompleted(call.index, call.operation, answer)
        dispatcher = self.dispatchers.get(call.spec.participant)
        policy = dispatcher.policy.retry if dispatcher else _NO_POLICY
        return CallCompleted(call.index, call.operation, answer, policy, self._jitter())

    # --- effects ----------------------------------------------------------

    def _save(self, entry: LiveTransaction, _effect: object) -> None:
        self.writer.put(entry.tx)

    def _call(self, _entry: LiveTransaction, effect: object) -> None:
        assert isinstance(effect, BranchCall)
        participant = effect.spec.participant
        dispatcher = self.dispatchers.get(participant)
        if dispatcher is None:
            # Answered later, as every call is: an event is never applied inside another.
            answers = [(effect, not_configured(participant))]
            asyncio.get_running_loop().call_soon(self._on_answers, answers)
        else:
            dispatcher.put(effect)

    def _settle(self, entry: LiveTransaction, _effect: object) -> None:
        self._transactions.settle(entry)

    def _settle_decided(self, entry: LiveTransaction, _effect: object) -> None:
        if entry.tx.interactive and check_back_index(entry.tx) is not None:
            failpoint("check_back.decided")
        self._transactions.settle(entry)

    def _complete(self, entry: LiveTransaction, _effect: object) -> None:
        if entry.tx.state is _CONFIRMED:
            self.totals.confirmed += 1
        else:
            self.totals.cancelled += 1
        self._transactions.settle(entry)
        self._transactions.forget(entry)

    def _park(self, entry: LiveTransaction, _effect: object) -> None:
        self._transactions.park(entry)

    def _fail_commands(self, entry: LiveTransaction, effect: object) -> None:
        """Fail the requests to cancel: their answer is not known while the check-back branch gives none."""
        assert isinstance(effect, CheckFailed)
        branch = entry.tx.branches[effect.index]
        error = CheckUnanswered(
            f"branch {branch.spec.branch_id!r} has not answered yet whether it has taken effect: "
            f"{branch.last_error}",
            retry_after_s=1.0,
        )
        waiters, entry.waiters = entry.waiters, []
        for waiter in waiters:
            if waiter.is_command:
                waiter.fail(error)
            else:
                entry.waiters.append(waiter)

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
        self._observer.anomaly(Anomaly.STUCK, **facts)


def _ended_phase(tx: Transaction) -> str:
    """Return the phase that has ended with the write of `tx`."""
    is_decision = tx.saved_state is TransactionState.TRYING
    return "try" if is_decision else DECISIONS[tx.state].name.lower()


def _with_note(tx: Transaction, call: BranchCall, answer: CallResult, now: float) -> Transaction:
    """Return the transaction with a note of a failed call, unless its result is stale."""
    if not is_calling(tx, call.index, call.operation):
        return tx
    branch = tx.branches[call.index]
    note = Note(at=now, operation=call.operation, text=error_text(answer))
    notes = noted(branch.notes, note)
    return with_branch(tx, call.index, replace(branch, notes=notes, failed_span_id=answer.span_id))
