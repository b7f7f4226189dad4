"""Outcomes through a participant with the message `publish`, as `participants.events` has it.

Each outcome is a call of Confirm, as of a transaction with this one message. The log has no such
transaction: the position up to where outcomes were published says what is still to be called. The
participant's barrier recognises a call that is repeated.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from coordinator.core.model import BranchCall, BranchKind, BranchSpec, Operation, OutcomeCode
from coordinator.jobs.outcome_events import event_data, event_type
from coordinator.ports.clock import Clock
from coordinator.ports.outcomes import Outcome, PublishError
from coordinator.ports.participants import CallResults, Participants

ACTION = "publish"
# How long a participant should remember that it was called.
_EXPIRES_S = 60.0


class OutcomeParticipant:
    """Calls a participant for each outcome."""

    name = "participant"

    def __init__(
        self,
        participant: str,
        *,
        topic: str,
        participants: Participants,
        is_paused: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """`topic`: of all events. `is_paused`: whether an operator has paused the participant."""
        self._participant = participant
        self._topic = topic
        self._participants = participants
        self._is_paused = is_paused
        self._clock = clock

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """See `ports.OutcomeTarget`."""
        if self._is_paused():
            raise PublishError(f"an operator has paused participant {self._participant}")
        calls = [self._call(outcome) for outcome in outcomes]
        all_answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answers: CallResults = []

        def on_results(results: CallResults) -> None:
            answers.extend(results)
            if len(answers) == len(calls) and not all_answered.done():
                all_answered.set_result(None)

        self._participants.execute(self._participant, calls, on_results)
        await all_answered
        for _, result in answers:
            if result.code is not OutcomeCode.SUCCEEDED:
                raise PublishError(
                    f"participant {self._participant}: {result.reason} {result.message}".strip()
                )

    def _call(self, outcome: Outcome) -> BranchCall:
        kind = outcome.kind
        assert kind is not None, "it has no outcome yet"
        spec = BranchSpec(
            branch_id=kind.value,
            participant=self._participant,
            action=ACTION,
            payload=msgspec.json.encode(
                {
                    "topic": self._topic,
                    "type": event_type(outcome),
                    "subject": outcome.gid,
                    "data": event_data(outcome),
                }
            ),
            content_type="application/json",
            kind=BranchKind.MESSAGE,
        )
        # Not the gid itself: the participant may have a branch of that transaction.
        gid = f"tcc-outcome-{sha256(outcome.gid.encode()).hexdigest()}"
        expires_at = self._clock.now() + _EXPIRES_S
        return BranchCall(gid=gid, index=0, operation=Operation.CONFIRM, spec=spec, expires_at=expires_at)
