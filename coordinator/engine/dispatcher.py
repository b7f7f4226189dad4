"""The dispatcher of one participant: its queue of calls, its bulkhead and its breaker.

Each participant has its own, so that one that is dead or slow delays only its own
transactions.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from coordinator.core.errors import UnknownParticipant
from coordinator.core.machine import error_text
from coordinator.core.model import BranchCall, CallResult, OutcomeCode, RetryPolicy
from coordinator.engine.breaker import Breaker, BreakerPolicy
from coordinator.engine.flush_policy import MAX_IN_FLIGHT
from coordinator.engine.observer import NULL_OBSERVER, Anomaly, Observer
from coordinator.ports.clock import Clock
from coordinator.ports.participants import CallResults, Participants
from tcc._internal.batcher import Batcher, FlushPolicy
from tcc._internal.failpoint import failpoint

# A call younger than this delays the next batch, so that batches form. An older one waits
# for a slow branch, and must not delay others.
FRESH_S = 0.02
# The size of a batch of calls. Without an option of its own, a server of gRPC accepts 4 MiB.
BATCH_BYTES_MAX = 2 * 2**20
# What a call has besides payload, result and trace, at most: four names, two content types, numbers.
_NAMES_BYTES = 1_200
# How often a retired dispatcher checks whether its calls have ended.
_RETIRED_POLL_S = 0.05
# Each answer is compared with it, and the members of an enumeration are slow to look up.
_FAILED = OutcomeCode.FAILED


# The result of a call while an operator pauses the participant. The call is repeated this often.
PAUSED = CallResult(
    code=OutcomeCode.FAILED,
    reason="PARTICIPANT_PAUSED",
    message="an operator has paused the participant",
    not_sent=True,
    retry_after_s=0.5,
)


class ParticipantPolicy(Struct, frozen=True, kw_only=True):
    """How a participant is treated. Times in seconds, counts in branch calls."""

    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    # The bulkhead: how many branch calls may be in flight at once.
    concurrency_max: int = 2_048
    # How many may be queued before new transactions are refused.
    backlog_max: int = 8_192
    batch_max: int = 256
    batch_bytes_max: int = BATCH_BYTES_MAX
    cancel_in_stage_order: bool = False


class _Batch:
    """A batch of calls in flight. `ended` is done when each has its result; cancelled: none is wanted."""

    __slots__ = ("ended", "missing", "reached", "sent_at")

    def __init__(self, ended: asyncio.Future[None], missing: int, sent_at: float) -> None:
        self.ended = ended
        self.missing = missing
        self.sent_at = sent_at
        self.reached = False


class ParticipantDispatcher:
    """Sends branch calls to one participant, and returns exactly one result for each."""

    def __init__(
        self,
        name: str,
        policy: ParticipantPolicy,
        *,
        participants: Participants,
        clock: Clock,
        is_wanted: Callable[[BranchCall], bool],
        on_answers: Callable[[CallResults], None],
        flush_policy: Callable[[int], FlushPolicy],
        observer: Observer = NULL_OBSERVER,
    ) -> None:
        """`flush_policy`: returns the policy for batches of calls, given `begun`."""
        self.name = name
        self.policy = policy
        self.breaker = Breaker(policy=policy.breaker)
        # By an operator: no call is sent.
        self.paused = False
        # Calls since this process started, and the error of the last one that failed.
        self.answered = 0
        self.failed = 0
        self.last_error = ""
        self.last_error_at = 0.0
        self._participants = participants
        self._clock = clock
        self._is_wanted = is_wanted
        self._on_answers = on_answers
        self._observer = observer
        self._in_flight = 0
        self._retired = asyncio.Event()
        # Branches of live transactions at this participant; the engine counts them.
        self.live = 0
        # Those of them whose transactions were begun here.
        self.begun = 0
        self._batcher = Batcher[BranchCall](
            self._send,
            items_max=min(policy.batch_max, policy.concurrency_max),
            bytes_max=policy.batch_bytes_max,
            size=_size,
            max_in_flight=MAX_IN_FLIGHT,
            counted_s=FRESH_S,
            flush_policy=lambda: flush_policy(self.begun),
        )
        # Queue a call.
        self.put: Callable[[BranchCall], None] = self._batcher.put

    @property
    def backlog(self) -> int:
        """Return how many calls are queued or in flight."""
        return len(self._batcher) + self._in_flight

    @property
    def in_flight(self) -> int:
        """Return how many calls were sent and are not answered."""
        return self._in_flight

    def reset_breaker(self) -> None:
        """Close the breaker."""
        self.breaker = Breaker(policy=self.policy.breaker)

    def claim_room(self, now: float, most: int) -> int:
        """Return how many parked transactions may be claimed for this participant now."""
        if self.paused or not self.breaker.allows(now):
            return 0
        if not self.breaker.closed:
            return 1
        return max(0, min(most, self.policy.concurrency_max - self.backlog))

    def change_policy(self, policy: ParticipantPolicy, *, moved: bool) -> None:
        """Use this policy from now on. `moved`: the address has changed, so the breaker is reset."""
        breaker = Breaker() if moved else self.breaker
        self.policy = policy
        self.breaker = replace(breaker, policy=policy.breaker)
        self._count(0)

    def retire(self) -> None:
        """Stop sending. Refuse queued calls and wait for those in flight; then `run` ends."""
        self._retired.set()

    async def run(self) -> None:
        """Send until retired or cancelled. Then results of calls in flight are dropped.

        An exception at sending a call or at its result is a bug of the coordinator, and ends this method.
        """
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._batcher.run())
            await self._retired.wait()
            while not self._batcher.idle or self.backlog:  # noqa: ASYNC110 - too rare for an event of its own
                await asyncio.sleep(_RETIRED_POLL_S)
            sending.cancel()

    def _send(self, batch: list[BranchCall]) -> asyncio.Future[None] | None:
        calls = self._admit([call for call in batch if self._is_wanted(call)])
        if not calls:
            return None
        self._count(len(calls))
        return self._call(calls)

    def _admit(self, calls: list[BranchCall]) -> list[BranchCall]:
        """Return the calls that may be sent: all, one as a probe, or none. Reject the others."""
        if calls and self._retired.is_set():
            answer = not_configured(self.name)
            self._on_answers([(call, answer) for call in calls])
            return []
        if not calls:
            return calls
        if self.paused:
            self._reject(calls, PAUSED)
            return []
        if self.breaker.closed:
            return calls
        now = self._clock.now()
        admitted = 1 if self.breaker.allows(now) else 0
        if admitted:
            self.breaker = self.breaker.sent()
        breaker_open = CallResult(
            code=OutcomeCode.FAILED,
            reason="BREAKER_OPEN",
            message=f"participant {self.name} is not answering",
            not_sent=True,
            retry_after_s=self.breaker.wait_s(now),
        )
        self._reject(calls[admitted:], breaker_open)
        return calls[:admitted]

    def _reject(self, calls: Sequence[BranchCall], answer: CallResult) -> None:
        if calls:
            self._observer.not_sent(self.name, len(calls))
            self._on_answers([(call, answer) for call in calls])

    def _call(self, calls: list[BranchCall]) -> asyncio.Future[None]:
        batch = _Batch(asyncio.get_running_loop().create_future(), len(calls), self._clock.now())
        self._observer.sent(self.name, calls)
        failpoint("call.before")
        self._participants.execute(self.name, calls, partial(self._on_results, batch))
        return batch.ended

    def _on_results(self, batch: _Batch, answers: CallResults) -> None:
        if batch.ended.done():
            return
        try:
            self._take(batch, answers)
        except Exception as error:  # noqa: BLE001 - `run` raises it
            batch.ended.set_exception(error)

    def _take(self, batch: _Batch, answers: CallResults) -> None:
        failpoint("call.answered")
        batch.missing -= len(answers)
        assert batch.missing >= 0, "each call gets exactly one answer"
        self._count(-len(answers))
        self.answered += len(answers)
        reached = False
        for _, answer in answers:
            if answer.code is _FAILED:
                self._note_failure(answer)
            reached = reached or not answer.unreachable
        if reached:
            batch.reached = True
            self._set_breaker(self.breaker.succeeded())
        self._observer.answered(self.name, answers, self._clock.now() - batch.sent_at)
        self._on_answers(answers)
        if batch.missing:
            return
        failpoint("call.after")
        if not batch.reached:
            self._set_breaker(self.breaker.failed(self._clock.now()))
        batch.ended.set_result(None)

    def _set_breaker(self, breaker: Breaker) -> None:
        if breaker is self.breaker:
            return
        was_closed, self.breaker = self.breaker.closed, breaker
        if breaker.closed is not was_closed:
            kind = Anomaly.BREAKER_CLOSED if breaker.closed else Anomaly.BREAKER_OPENED
            self._observer.anomaly(kind, participant=self.name)

    def _note_failure(self, answer: CallResult) -> None:
        self.failed += 1
        self.last_error = error_text(answer)
        self.last_error_at = self._clock.now()

    def _count(self, started: int) -> None:
        """Count calls that were sent, or (negative) were answered: what is left is the largest batch."""
        self._in_flight += started
        policy = self.policy
        room = min(policy.batch_max, max(0, policy.concurrency_max - self._in_flight))
        if room != self._batcher.items_max:
            self._batcher.change_items_max(room)


def not_configured(participant: str) -> CallResult:
    """Return the result of a call to a participant that is not configured here (any more)."""
    return CallResult(
        code=OutcomeCode.FAILED,
        reason=UnknownParticipant.reason,
        message=f"this coordinator is not configured with participant {participant!r}",
        unknown_participant=True,
        retry_after_s=5.0,
    )


def results_too_large(bytes_max: int) -> CallResult:
    """Return the outcome of a Try whose result is too large together with those of the other branches."""
    return CallResult(
        code=OutcomeCode.FAILED,
        reason="RESULT_TOO_LARGE",
        message=f"the results of a transaction may have at most {bytes_max} bytes together",
        permanent=True,
    )


def no_room_for_result() -> CallResult:
    """Return the outcome of a Try whose result finds no room in memory now."""
    return CallResult(
        code=OutcomeCode.FAILED,
        reason="NO_ROOM_FOR_RESULT",
        message="the payloads and results of live transactions fill the memory",
        # If the Try were repeated, transactions that each hold some results could wait for each other.
        permanent=True,
    )


def _size(call: BranchCall) -> int:
    trace = 0 if call.trace is None else len(call.trace.tracestate)
    return len(call.spec.payload) + len(call.result) + trace + _NAMES_BYTES
