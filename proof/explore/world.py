"""One transaction's world: the log's row, two coordinators, the participants, the network; and all its moves.

A state is a `WorldState`: numbers that stand for parts which are kept once (`_Parts`).
`moves` gives every step that can be taken from a place, with the place that it
leads to, whether a run without faults would take it in the end (`fair`), and what
it breaks. The rules of the engine (`coordinator/engine/driver.py`, `live.py` and `engine.py`) are named where
they are followed.
"""

from collections.abc import Callable, Iterator

from coordinator.core.events import BranchAdded, CancelRequested, ConfirmRequested, Woken
from coordinator.core.model import BranchKind
from proof.explore.call_moves import CallMoves
from proof.explore.core_steps import NEVER_TRIED, Core
from proof.explore.log_moves import LogMoves
from proof.explore.moments import EXPIRED, LATER, SOON
from proof.explore.participants import Reservation
from proof.explore.parts import LOG_LATE, NONE, PARTICIPANTS_LATE, Move, Node, Parts, WorldState
from proof.explore.scope import Scope


class World:
    """The moves of one transaction under a scope's rules."""

    def __init__(self, scope: Scope) -> None:
        self._parts = Parts(scope)
        self._core = Core(self._parts)
        self._log = LogMoves(self._parts, self._core)
        self._calls = CallMoves(self._parts, self._core)
        self.branches = self._parts.branches
        self.lagging = self._parts.lagging
        self.renamed = self._parts.renamed
        self.ends = self._log.ends
        self._kinds: list[Callable[[WorldState, int, Node], Iterator[Move]]] = [
            self._log.write,
            self._log.answer_of_log,
            self._calls.call,
            self._log.claim,
            self._log.answer_of_claim,
            self._wake,
        ]
        if scope.interactive:
            self._kinds.append(self._command)

    def by_coordinator(
        self, world_state: WorldState, c: int, *, may_begin: bool, sold_out: tuple[bool, ...]
    ) -> list[Move]:
        """Yield the moves of one coordinator, whatever the other does; its part of `world_state` is empty.

        `sold_out`: which participants have to say no to a new Try.
        """
        self._calls.sold_out = sold_out
        node = self._parts.nodes.values[world_state.nodes[c]]
        found = [move for kind in self._kinds for move in kind(world_state, c, node)]
        if may_begin:
            found += self._log.begin(world_state, c, node)
        return [move for move in found if move.broken or move.rewrites or move.world_state != world_state]

    def elsewhere(self, world_state: WorldState, *, sold_out: tuple[bool, ...]) -> list[Move]:
        """Yield the moves outside the coordinators; both parts of `world_state` are empty."""
        self._calls.sold_out = sold_out
        found = [
            *self._calls.late_messages(world_state),
            *self._calls.local_commits(world_state),
            *self._time(world_state),
            *self._calls.purge(world_state),
        ]
        return [move for move in found if move.broken or move.world_state != world_state]

    def may_begin(self, row: int, other: int) -> bool:
        """Return whether a request may arrive now: the first one, until it is durable, or any repeat."""
        return self._parts.scope.repeats or (not row and self._parts.nodes.values[other].live == NONE)

    def holds(self, all_branch_rows: int, b: int) -> bool:
        """Return whether a branch holds a unit of its participant's stock."""
        return self._parts.all_branch_rows.values[all_branch_rows][b].reservation in (
            Reservation.RESERVED,
            Reservation.TAKEN,
        )

    def unfinished(self, world_state: WorldState) -> str:
        """Return why this state is not settled although no step is left; empty if it is settled."""
        if any(world_state.nodes):
            return "a coordinator still waits for something that never comes"
        if world_state.row and not self._parts.facts(world_state.row).ended:
            return "the transaction has not ended, and no coordinator drives it"
        return ""

    def _wake(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`Engine.wake_due`."""
        if node.live == NONE:
            return
        tx = self._parts.transaction(node.live)
        moments = (EXPIRED,) if world_state.clock & LOG_LATE else (SOON, LATER)
        for now in moments:
            if tx.wake_at <= now:
                yield self._core.step(world_state, c, node, Woken(), ("wakes",), fair=True, now=now)

    def _command(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """Steps of an initiator who asks for CONFIRM only of what it tried itself."""
        if node.live == NONE:
            return
        now = self._parts.now(world_state)
        reservations = self._parts.reservations(world_state)
        specs = self._parts.scope.branches
        messages = tuple(spec for spec in specs if spec.kind is BranchKind.MESSAGE)
        for b in self._parts.branches:
            if specs[b].kind is BranchKind.MESSAGE or not self._may_join(b, reservations):
                continue
            joining = messages if specs[b].check_back else ()
            event = BranchAdded(specs[b], len(self._parts.branches), 1, joining)
            yield self._core.step(
                world_state, c, node, event, ("is given branch {}", self._parts.name(b)), now=now
            )
        yield self._core.step(world_state, c, node, CancelRequested(), ("is asked to cancel",), now=now)
        if not any(
            self._parts.scope.branches[b].tried_by_initiator and reservations[b] in NEVER_TRIED
            for b in self._parts.branches
        ):
            with_registration = any(spec.check_back for spec in specs)
            request = ConfirmRequested(() if with_registration else messages, len(specs), 1)
            yield self._core.step(world_state, c, node, request, ("is asked to confirm",), now=now)

    def _may_join(self, b: int, reservations: list[Reservation]) -> bool:
        """With the check-back branch, the initiator vouches for the Trys that it called itself."""
        specs = self._parts.scope.branches
        return not specs[b].check_back or not any(
            spec.tried_by_initiator and not spec.check_back and reservation in NEVER_TRIED
            for spec, reservation in zip(specs, reservations, strict=True)
        )

    def _time(self, world_state: WorldState) -> Iterator[Move]:
        both = LOG_LATE | PARTICIPANTS_LATE
        if world_state.clock == both:
            return
        yield Move(("the expiry passes", NONE), world_state._replace(clock=both), fair=True)
        if self._parts.scope.clocks_apart and not world_state.clock:
            yield Move(
                ("the expiry passes for the log", NONE), world_state._replace(clock=LOG_LATE), fault=True
            )
            late = world_state._replace(clock=PARTICIPANTS_LATE)
            yield Move(("the expiry passes for participants", NONE), late, fault=True)
