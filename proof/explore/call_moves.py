"""What happens between a coordinator and a participant: calls, answers, and messages that come late."""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from coordinator.core.events import CallCompleted
from coordinator.core.kinds import needs_call
from coordinator.core.model import BranchKind, CallResult, Operation, OutcomeCode, RetryPolicy
from proof.explore import participants
from proof.explore.core_steps import Core
from proof.explore.moments import JITTER, POLICY_LATER, POLICY_SOON
from proof.explore.participants import BranchRows, Reservation
from proof.explore.parts import (
    CANCEL,
    CHECK,
    LOG_LATE,
    NONE,
    PARTICIPANTS_LATE,
    TRY,
    Move,
    Node,
    Parts,
    WorldState,
)
from tcc.barrier.decisions import (
    BarrierDecision as Law,
    BarrierState,
    BranchKind as BarrierKind,
    CallResult as BarrierResult,
    Operation as BarrierOperation,
    OutcomeCode as BarrierCode,
)

# How a participant's answer reads for the core.
_ANSWERS = (
    CallResult(code=OutcomeCode.SUCCEEDED),
    CallResult(code=OutcomeCode.REJECTED),
    CallResult(code=OutcomeCode.FAILED, permanent=True),
    CallResult(code=OutcomeCode.FAILED),
)
_YES, _NO, _NEVER, _NOT_NOW = range(4)
_LOST = CallResult(code=OutcomeCode.FAILED, unreachable=True)
_WRONG_KIND = BarrierResult(BarrierCode.FAILED, "WRONG_KIND", permanent=True)
_CONFLICTS = (
    Law.NOT_TRIED.name,
    Law.ALREADY_CONFIRMED.name,
    Law.ALREADY_CANCELLED.name,
    Law.BRANCH_CONFLICT.name,
)
_COMPENSATED = (Reservation.RETURNED, Reservation.VOID)


class CallMoves:
    """The moves of participants and of the network. `sold_out`: who has to say no to a new Try."""

    def __init__(self, parts: Parts, core: Core) -> None:
        self._parts = parts
        self._core = core
        self.sold_out: tuple[bool, ...] = ()
        self._executions: dict[tuple[BranchRows, BranchKind, int, bool, bool], participants.Executed] = {}
        scope = parts.scope
        policies = [POLICY_SOON, POLICY_LATER] if scope.due_apart else [POLICY_SOON]
        self._policies = [_counting(policy, scope.attempts_before_stuck) for policy in policies]

    def call(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """Yield the moves of each call that is under way."""
        for call in node.calls:
            b, number, answer = call
            operation = Operation(number)
            rest = node._replace(calls=tuple(other for other in node.calls if other != call))
            name = (self._parts.name(b), operation.name)
            if answer == NONE:
                yield from self._execute(world_state, c, rest, b, operation)
            else:
                what = ("receives the result of {}'s {}: {}", *name, _ANSWERS[answer].code.name)
                event = CallCompleted(b, operation, _ANSWERS[answer], self._policies[0], JITTER)
                yield self._told(world_state, c, rest, event, what, fault=False)
            for policy in self._policies:
                lost = CallCompleted(b, operation, _LOST, policy, JITTER)
                yield self._told(world_state, c, rest, lost, ("gets no answer to {}'s {}", *name), fault=True)

    def _told(
        self,
        world_state: WorldState,
        c: int,
        node: Node,
        event: CallCompleted,
        what: tuple[Any, ...],
        *,
        fault: bool,
    ) -> Move:
        """`Engine._on_answers`: the live transaction gets the result; the core finds stale ones."""
        if node.live == NONE:
            words = (f"{what[0]}, too late", c, *what[1:])
            return Move(words, self._parts.put(world_state, c, node), not fault, fault)
        index = self._parts.index(self._parts.transaction(node.live), event.index)
        now = self._parts.now(world_state)
        event = replace(event, index=index)
        return self._core.step(world_state, c, node, event, what, now=now, fair=not fault, fault=fault)

    def _execute(self, world_state: WorldState, c: int, rest: Node, b: int, operation: int) -> Iterator[Move]:
        """The participant gets the call; its answer is on its way."""
        for rejects in self._possible_answers(b, operation):
            after, outcome, broken = self._at_participant(world_state, b, operation, rejects=rejects)
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

    def late_messages(self, world_state: WorldState) -> Iterator[Move]:
        """A duplicate, a late message, one of a dead sender: no caller waits for the answer."""
        if not world_state.sent:
            return
        for b in self._parts.branches:
            for operation in Operation:
                local = operation is Operation.TRY and self._parts.scope.branches[b].check_back
                if world_state.sent & self._parts.bit(b, operation) and not local:
                    for rejects in self._possible_answers(b, operation):
                        after, outcome, broken = self._at_participant(
                            world_state, b, operation, rejects=rejects
                        )
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
        if operation != TRY or self._parts.scope.branches[b].check_back:
            return (False,)
        if self.sold_out[b]:
            return (True,)
        return (False, True) if b in self._parts.scope.may_reject else (False,)

    def _at_participant(
        self, world_state: WorldState, b: int, operation: int, *, rejects: bool
    ) -> tuple[WorldState, BarrierResult, str]:
        spec = self._parts.scope.branches[b]
        if not needs_call(spec, Operation(operation)):
            return world_state, _WRONG_KIND, f"{Operation(operation).name} reached a {spec.kind.name}"
        all_branch_rows = self._parts.all_branch_rows.values[world_state.all_branch_rows]
        # A local transaction that has claimed its row in time may be committed at any time.
        expired = bool(world_state.clock & PARTICIPANTS_LATE) and not spec.check_back
        key = (all_branch_rows[b], spec.kind, operation, expired, rejects)
        executed = self._executions.get(key)
        if executed is None:
            executed = participants.execute(
                all_branch_rows[b],
                BarrierKind(spec.kind),
                BarrierOperation(operation),
                expired=expired,
                rejects=rejects,
            )
            self._executions[key] = executed
        after = world_state._replace(
            all_branch_rows=self._parts.all_branch_rows.number(
                (*all_branch_rows[:b], executed.branch_rows, *all_branch_rows[b + 1 :])
            )
        )
        return (
            after,
            executed.outcome,
            executed.broken
            or self._broken_by_call(world_state, operation, executed)
            or self._broken_by_order(world_state, b, operation, executed),
        )

    def local_commits(self, world_state: WorldState) -> Iterator[Move]:
        """The initiator commits its local change, once it knows that the branch is durable."""
        for b in self._parts.branches:
            if self._parts.scope.branches[b].check_back and world_state.sent & self._parts.bit(b, TRY):
                after, outcome, broken = self._at_participant(world_state, b, TRY, rejects=False)
                answer = outcome.reason or outcome.code.name
                what = ("{} commits its local change: {}", NONE, self._parts.name(b), answer)
                yield Move(what, after, broken=broken)

    def _broken_by_call(
        self, world_state: WorldState, operation: int, executed: participants.Executed
    ) -> str:
        if operation in (TRY, CHECK):
            return ""
        row = self._parts.facts(world_state.row) if world_state.row else None
        if row is None or row.decision != operation:
            return f"{Operation(operation).name} reached a participant, and the log has decided no such thing"
        if executed.outcome.reason in _CONFLICTS and not row.ended:
            return f"{Operation(operation).name} met a branch that cannot have it: {executed.outcome.reason}"
        return ""

    def _broken_by_order(
        self, world_state: WorldState, b: int, operation: int, executed: participants.Executed
    ) -> str:
        """Compensations run from the last stage to the first."""
        reservations = self._parts.reservations(world_state)
        if operation != CANCEL or executed.branch_rows.reservation is reservations[b]:
            return ""
        branches = self._parts.scope.branches
        for other, reservation in zip(branches, reservations, strict=True):
            is_later = other.kind is BranchKind.SAGA and other.stage > branches[b].stage
            if branches[b].kind is BranchKind.SAGA and is_later and reservation not in _COMPENSATED:
                return f"it was compensated before {other.branch_id}, which is of a later stage"
        return ""

    def purge(self, world_state: WorldState) -> Iterator[Move]:
        """`barrier_sql.purge`, when the margin has passed: longer than any transaction takes to end."""
        both = LOG_LATE | PARTICIPANTS_LATE
        if (
            not self._parts.scope.purges
            or world_state.clock != both
            or not world_state.row
            or not self._parts.facts(world_state.row).ended
        ):
            return
        all_branch_rows = self._parts.all_branch_rows.values[world_state.all_branch_rows]
        for b, branch_rows in enumerate(all_branch_rows):
            if branch_rows.row not in (None, BarrierState.TRIED):
                emptied = (
                    *all_branch_rows[:b],
                    BranchRows(None, branch_rows.reservation),
                    *all_branch_rows[b + 1 :],
                )
                after = world_state._replace(all_branch_rows=self._parts.all_branch_rows.number(emptied))
                yield Move(("{} purges its barrier row", NONE, self._parts.name(b)), after, fault=True)


def _counting(policy: RetryPolicy, attempts_before_stuck: int) -> RetryPolicy:
    return replace(policy, attempts_before_stuck=attempts_before_stuck or 1_000_000)


def _read(outcome: BarrierResult) -> int:
    """Return how the coordinator reads a participant's answer."""
    match outcome.code:
        case BarrierCode.SUCCEEDED:
            return _YES
        case BarrierCode.REJECTED:
            return _NO
        case _:
            return _NEVER if outcome.permanent else _NOT_NOW
