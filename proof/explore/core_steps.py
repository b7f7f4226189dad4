"""What the core makes of an event at one coordinator, and what may leave it."""

from typing import Any, NamedTuple

from coordinator.core.errors import Refused
from coordinator.core.events import (
    Accepted,
    BranchRegistered,
    BranchTried,
    Completed,
    Decided,
    Effect,
    Event,
    Parked,
    Save,
)
from coordinator.core.machine import step
from coordinator.core.model import DECISIONS, Branch, BranchCall, Operation, TryState
from proof.explore.participants import Reservation
from proof.explore.parts import CHECK, NONE, TRY, Move, Node, Parts, WorldState


class _Stepped(NamedTuple):
    """What a step of the core asks for."""

    live: int
    saves: bool
    calls: tuple[tuple[int, int, int], ...]
    told: tuple[Effect, ...]
    forgets: bool
    # By how many versions it knows more.
    versions: int
    # It failed where a coordinator would have died of it.
    broken: str = ""


_TOLD = (Accepted, Decided, Completed, Parked, BranchRegistered, BranchTried)
NEVER_TRIED = (Reservation.UNTOUCHED, Reservation.VOID)


class Core:
    """Applies events, as `Engine._apply` does."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._steps: dict[tuple[int, Event, float], _Stepped | None] = {}

    def step(
        self,
        world_state: WorldState,
        c: int,
        node: Node,
        event: Event,
        what: tuple[Any, ...],
        *,
        now: float,
        fair: bool = False,
        fault: bool = False,
    ) -> Move:
        """`Engine._apply`: the core's answer to `event`; its effects are performed in order."""
        words = (what[0], c, *what[1:])
        stepped = self._stepped(node.live, event, now)
        if stepped is None:
            return Move(
                (f"{words[0]}, which it refuses", *words[1:]),
                self._parts.put(world_state, c, node),
                fair,
                fault,
            )
        broken = stepped.broken
        if stepped.told or stepped.calls:
            broken = self._broken_by_effects(world_state, stepped)
        if stepped.saves and node.write != NONE:
            broken = "two writes are in flight"
        sent = world_state.sent
        for b, operation, _ in stepped.calls:
            sent |= self._parts.bit(b, operation)
        for effect in stepped.told:
            if isinstance(effect, BranchRegistered):
                sent |= self._sent_by_initiator(stepped.live, effect.index)
        calls = node.calls
        if stepped.calls:
            calls = tuple(sorted({*calls, *stepped.calls}))
        if stepped.forgets:
            after = node._replace(live=NONE, lag=0, calls=calls)
        else:
            after = node._replace(
                live=stepped.live,
                lag=node.lag - stepped.versions,
                write=stepped.live if stepped.saves else node.write,
                calls=calls,
            )
        return Move(words, self._parts.put(world_state._replace(sent=sent), c, after), fair, fault, broken)

    def _stepped(self, live: int, event: Event, now: float) -> _Stepped | None:
        key = (live, event, now)
        if key in self._steps:
            return self._steps[key]
        before = self._parts.transaction(live)
        stepped: _Stepped | None
        try:
            tx, effects = step(before, event, now)
        except Refused:
            stepped = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            why = f"the core failed at {type(event).__name__}: {error!r}"
            stepped = _Stepped(live, saves=False, calls=(), told=(), forgets=False, versions=0, broken=why)
        else:
            calls = (effect for effect in effects if isinstance(effect, BranchCall))
            stepped = _Stepped(
                live=self._parts.number(tx),
                saves=any(isinstance(effect, Save) for effect in effects),
                calls=tuple(
                    (self._parts.position(tx.branches[e.index]), int(e.operation), NONE) for e in calls
                ),
                told=tuple(effect for effect in effects if isinstance(effect, _TOLD)),
                forgets=any(isinstance(effect, Completed | Parked) for effect in effects),
                versions=tx.version - before.version,
            )
        self._steps[key] = stepped
        return stepped

    def _broken_by_effects(self, world_state: WorldState, stepped: _Stepped) -> str:
        """Return the first effect that may not leave before the log holds what it reports."""
        tx = self._parts.transaction(stepped.live)
        if not world_state.row:
            return "something left before the transaction was durable"
        row = self._parts.facts(world_state.row)
        durable = {self._parts.position(branch) for branch in row.tx.branches}
        for b, operation, _ in stepped.calls:
            if b not in durable:
                return "a call left before its branch was durable"
            # A former owner may still ask when another one has decided: its answer is the same.
            if operation not in (TRY, CHECK, row.decision):
                return f"{Operation(operation).name} left before its decision was durable"
        reservations = self._parts.reservations(world_state)
        for effect in stepped.told:
            match effect:
                case Accepted() if row.tx.fingerprint != tx.fingerprint:
                    return "it was accepted, and the log holds something else"
                case Decided() if row.decision is None or row.decision is not DECISIONS.get(tx.state):
                    return "a decision was reported that is not durable"
                case Completed() if not row.ended:
                    return "an end was reported that is not durable"
                # Others may have gone on since; then nothing was decided, or the same.
                case Parked() if not row.parked and DECISIONS.get(tx.state) not in (None, row.decision):
                    return "it was let go of, and the log knows nothing of that"
                case BranchRegistered(index) if self._parts.position(tx.branches[index]) not in durable:
                    return "a branch was reported durable that is not"
                case BranchTried(index) if self._is_false(tx.branches[index], reservations):
                    return "a Try was reported successful that took no effect"
                case _:
                    pass
        return ""

    def _is_false(self, branch: Branch, reservations: list[Reservation]) -> bool:
        return (
            branch.tried is TryState.SUCCEEDED and reservations[self._parts.position(branch)] in NEVER_TRIED
        )

    def _sent_by_initiator(self, live: int, index: int) -> int:
        """An initiator that calls the Try itself does so once it knows that the branch is durable."""
        tx = self._parts.transaction(live)
        branch = tx.branches[index]
        return self._parts.bit(self._parts.position(branch), TRY) if branch.spec.tried_by_initiator else 0
