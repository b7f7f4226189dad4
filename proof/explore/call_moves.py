"""What happens between a coordinator and a participant: calls, answers, and messages that come late."""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from coordinator.core.events import Answered
from coordinator.core.model import Answer, Operation, RetryPolicy, Verdict
from proof.explore import participants
from proof.explore.core_steps import Core
from proof.explore.moments import JITTER, POLICY_LATER, POLICY_SOON
from proof.explore.participants import Shelf
from proof.explore.parts import LOG_LATE, NONE, PARTICIPANTS_LATE, TRY, Move, Node, Parts, Place
from tcc.barrier import Code, Operation as BarrierOperation, Outcome, State as BarrierState, Verdict as Law

# How a participant's answer reads for the core.
_ANSWERS = (
    Answer(verdict=Verdict.SUCCEEDED),
    Answer(verdict=Verdict.REJECTED),
    Answer(verdict=Verdict.FAILED, permanent=True),
    Answer(verdict=Verdict.FAILED),
)
_YES, _NO, _NEVER, _NOT_NOW = range(4)
_LOST = Answer(verdict=Verdict.FAILED, unreachable=True)
_CONFLICTS = (Law.NOT_TRIED.name, Law.ALREADY_CONFIRMED.name, Law.ALREADY_CANCELLED.name)


class CallMoves:
    """The moves of participants and of the network. `sold_out`: who has to say no to a new Try."""

    def __init__(self, parts: Parts, core: Core) -> None:
        self._parts = parts
        self._core = core
        self.sold_out: tuple[bool, ...] = ()
        self._executions: dict[tuple[Shelf, int, bool, bool], participants.Executed] = {}
        scope = parts.scope
        policies = [POLICY_SOON, POLICY_LATER] if scope.due_apart else [POLICY_SOON]
        self._policies = [_counting(policy, scope.attempts_before_stuck) for policy in policies]

    def call(self, place: Place, c: int, node: Node) -> Iterator[Move]:
        """What can become of each call that is under way."""
        for call in node.calls:
            b, number, answer = call
            operation = Operation(number)
            rest = node._replace(calls=tuple(other for other in node.calls if other != call))
            name = (self._parts.name(b), operation.name)
            if answer == NONE:
                yield from self._execute(place, c, rest, b, operation)
            else:
                what = ("is told of {}'s {}: {}", *name, _ANSWERS[answer].verdict.name)
                event = Answered(b, operation, _ANSWERS[answer], self._policies[0], JITTER)
                yield self._told(place, c, rest, event, what, fault=False)
            for policy in self._policies:
                lost = Answered(b, operation, _LOST, policy, JITTER)
                yield self._told(place, c, rest, lost, ("gets no answer to {}'s {}", *name), fault=True)

    def _told(
        self, place: Place, c: int, node: Node, event: Answered, what: tuple[Any, ...], *, fault: bool
    ) -> Move:
        """`Engine._on_answers`: whatever is live under this gid is told; the core knows what is stale."""
        if node.live == NONE:
            words = (f"{what[0]}, too late", c, *what[1:])
            return Move(words, self._parts.put(place, c, node), not fault, fault)
        index = self._parts.index(self._parts.transaction(node.live), event.index)
        now = self._parts.now(place)
        event = replace(event, index=index)
        return self._core.step(place, c, node, event, what, now=now, fair=not fault, fault=fault)

    def _execute(self, place: Place, c: int, rest: Node, b: int, operation: int) -> Iterator[Move]:
        """The participant gets the call; its answer is on its way."""
        for rejects in self._possible_answers(b, operation):
            after, outcome, broken = self._at_participant(place, b, operation, rejects=rejects)
            called = rest._replace(calls=tuple(sorted({*rest.calls, (b, operation, _read(outcome))})))
            what = (
                "calls {}'s {}: {}",
                c,
                self._parts.name(b),
                Operation(operation).name,
                outcome.reason or outcome.code.name,
            )
            fair = not rejects or self.sold_out[b]
            yield Move(what, self._parts.put(after, c, called), fair, fault=False, broken=broken)

    def late_messages(self, place: Place) -> Iterator[Move]:
        """A duplicate, a message that took long, one whose sender has gone: nobody waits for the answer."""
        if not place.sent:
            return
        for b in self._parts.branches:
            for operation in Operation:
                if place.sent & self._parts.bit(b, operation):
                    for rejects in self._possible_answers(b, operation):
                        after, outcome, broken = self._at_participant(place, b, operation, rejects=rejects)
                        answer = outcome.reason or outcome.code.name
                        what = (
                            "{} gets a late or second {}: {}",
                            NONE,
                            self._parts.name(b),
                            operation.name,
                            answer,
                        )
                        yield Move(what, after, fault=True, broken=broken)

    def _possible_answers(self, b: int, operation: int) -> tuple[bool, ...]:
        if operation != TRY:
            return (False,)
        if self.sold_out[b]:
            return (True,)
        return (False, True) if b in self._parts.scope.may_reject else (False,)

    def _at_participant(
        self, place: Place, b: int, operation: int, *, rejects: bool
    ) -> tuple[Place, Outcome, str]:
        shelves = self._parts.shelves.values[place.shelves]
        expired = bool(place.clock & PARTICIPANTS_LATE)
        key = (shelves[b], operation, expired, rejects)
        executed = self._executions.get(key)
        if executed is None:
            executed = participants.execute(
                shelves[b], BarrierOperation(operation), expired=expired, rejects=rejects
            )
            self._executions[key] = executed
        after = place._replace(
            shelves=self._parts.shelves.number((*shelves[:b], executed.shelf, *shelves[b + 1 :]))
        )
        return after, executed.outcome, executed.broken or self._broken_by_call(place, operation, executed)

    def _broken_by_call(self, place: Place, operation: int, executed: participants.Executed) -> str:
        if operation == TRY:
            return ""
        row = self._parts.facts(place.row) if place.row else None
        if row is None or row.decision != operation:
            return f"{Operation(operation).name} reached a participant, and the log has decided no such thing"
        if executed.outcome.reason in _CONFLICTS and not row.ended:
            return f"{Operation(operation).name} met a branch that cannot have it: {executed.outcome.reason}"
        return ""

    def purge(self, place: Place) -> Iterator[Move]:
        """`barrier_sql.purge`, when the margin has passed: longer than any transaction takes to end."""
        both = LOG_LATE | PARTICIPANTS_LATE
        if (
            not self._parts.scope.purges
            or place.clock != both
            or not place.row
            or not self._parts.facts(place.row).ended
        ):
            return
        shelves = self._parts.shelves.values[place.shelves]
        for b, shelf in enumerate(shelves):
            if shelf.row not in (None, BarrierState.TRIED):
                emptied = (*shelves[:b], Shelf(None, shelf.book), *shelves[b + 1 :])
                after = place._replace(shelves=self._parts.shelves.number(emptied))
                yield Move(("{} purges its barrier row", NONE, self._parts.name(b)), after, fault=True)


def _counting(policy: RetryPolicy, attempts_before_stuck: int) -> RetryPolicy:
    return replace(policy, attempts_before_stuck=attempts_before_stuck or 1_000_000)


def _read(outcome: Outcome) -> int:
    """How the coordinator reads what a participant says."""
    match outcome.code:
        case Code.SUCCEEDED:
            return _YES
        case Code.REJECTED:
            return _NO
        case _:
            return _NEVER if outcome.permanent else _NOT_NOW
