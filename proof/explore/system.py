"""The whole system: one or two transactions, which share coordinators, stock and the adversary's budget.

A state is one number, which is smaller and quicker than what it stands for. What a
coordinator can do depends on little of the state, so it is found once and looked up
from then on, as numbers that only have to be put together.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from proof.explore.parts import COORDINATORS, Move, WorldState
from proof.explore.scope import Scope
from proof.explore.world import World

Packed = int

# From the highest bits to the lowest: row, first and second coordinator, shelves, sent, clock.
_CLOCK_BITS, _SENT_BITS, _SHELF_BITS, _NODE_BITS, _ROW_BITS = 2, 12, 16, 24, 20
_SENT_AT = _CLOCK_BITS
_BRANCH_ROWS_AT = _SENT_AT + _SENT_BITS
_SECOND_AT = _BRANCH_ROWS_AT + _SHELF_BITS
_FIRST_AT = _SECOND_AT + _NODE_BITS
_ROW_AT = _FIRST_AT + _NODE_BITS
_WORLD_STATE_BITS = _ROW_AT + _ROW_BITS
_NODE_AT = (_FIRST_AT, _SECOND_AT)


class Step(NamedTuple):
    """A step of the system, and what it breaks.

    `turned`, `exchanged`: in the new state the coordinators, or the transactions, bear each other's names.
    """

    what: tuple[Any, ...]
    state: Packed
    fair: bool
    broken: str
    turned: bool
    exchanged: bool
    # Which transaction it is a step of; None: of all.
    transaction: int | None


class _Ready(NamedTuple):
    """A move of one transaction's world, to be completed by `|` with what it leaves as it is."""

    what: tuple[Any, ...]
    packed: Packed
    turned: Packed
    rewrites: bool
    fair: bool
    fault: bool
    broken: str


# A move of one transaction's world: what, where to, the same with names exchanged, fair, fault, broken.
_Whole = tuple[tuple[Any, ...], Packed, Packed, bool, bool, str]


class System:
    """States and steps of a scope. States that differ by names only are one."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.world = World(scope)
        self._count = scope.transactions
        self._budget_at = _WORLD_STATE_BITS * self._count
        self._is_bounded = scope.faults_max is not None
        self._none_sold_out = (False,) * len(scope.branches)
        self._local: dict[tuple[Any, ...], list[_Ready]] = {}
        self._outside: dict[tuple[Any, ...], list[_Ready]] = {}
        self._leaving: dict[tuple[int, int, int], list[_Ready]] = {}
        self._moves: dict[tuple[Packed, tuple[bool, ...]], list[_Whole]] = {}
        self._renamed: dict[int, int] = {}
        self.start = (scope.faults_max or 0) << self._budget_at

    def steps(self, state: Packed) -> Iterator[Step]:
        """Every step from a state; those that break something lead nowhere."""
        budget = state >> self._budget_at
        if self._count == 1:
            yield from self._steps_of_one(state, budget)
        else:
            yield from self._steps_of_two(state, budget)

    def unfinished(self, state: Packed) -> str:
        """Return why a state that no fair step leaves is not a promised end; empty if it is."""
        return next(filter(None, (self.world.unfinished(_unpacked(part)) for part in self._parts(state))), "")

    # --- putting transactions together --------------------------------------------

    def _steps_of_one(self, state: Packed, budget: int) -> Iterator[Step]:
        part = state & (1 << _WORLD_STATE_BITS) - 1
        moves = self._expand(part, self._sold_out((part,)))
        for c in COORDINATORS:
            moves += self._ends(part, c)
        for what, packed, turned, fair, fault, broken in moves:
            left = budget
            if fault and self._is_bounded:
                if not budget:
                    continue
                left -= 1
            if packed <= turned:
                yield Step(what, left << _WORLD_STATE_BITS | packed, fair, broken, False, False, None)
            else:
                yield Step(what, left << _WORLD_STATE_BITS | turned, fair, broken, True, False, None)

    def _steps_of_two(self, state: Packed, budget: int) -> Iterator[Step]:
        parts = self._parts(state)
        mirrored = [self._mirrored(part) for part in parts]
        sold_out = self._sold_out(parts)
        for n, part in enumerate(parts):
            other, other_mirrored = parts[1 - n], mirrored[1 - n]
            for what, packed, turned, fair, fault, broken in self._known_moves(part, sold_out):
                left = budget - (fault and self._is_bounded)
                if left >= 0:
                    pairs = (packed, other), (turned, other_mirrored)
                    yield self._step(what, *pairs, left, fair=fair, broken=broken, transaction=n)
        if self._is_bounded:
            budget -= 1
        if budget < 0:
            return
        for c in COORDINATORS:
            for one, other_one in zip(*(self._ends(part, c) for part in parts), strict=True):
                what, *both = zip(one, other_one, strict=True)
                yield self._step(what[0], both[0], both[1], budget, fair=False, broken="", transaction=None)

    def _step(
        self,
        what: tuple[Any, ...],
        parts: tuple[Packed, ...],
        mirrored: tuple[Packed, ...],
        budget: int,
        *,
        fair: bool,
        broken: str,
        transaction: int | None,
    ) -> Step:
        """`parts`: of the transaction that it is a step of, or of the first one, and of the other."""
        as_is = max(parts) << _WORLD_STATE_BITS | min(parts)
        turned = max(mirrored) << _WORLD_STATE_BITS | min(mirrored)
        first, second = parts if as_is <= turned else mirrored
        is_first = not transaction
        state = budget << self._budget_at | min(as_is, turned)
        return Step(what, state, fair, broken, turned < as_is, (first >= second) != is_first, transaction)

    def _parts(self, state: Packed) -> tuple[Packed, ...]:
        return tuple(
            state >> _WORLD_STATE_BITS * n & (1 << _WORLD_STATE_BITS) - 1
            for n in reversed(range(self._count))
        )

    def _known_moves(self, part: Packed, sold_out: tuple[bool, ...]) -> list[_Whole]:
        key = (part, sold_out)
        known = self._moves.get(key)
        if known is None:
            known = self._moves[key] = self._expand(part, sold_out)
        return known

    def _sold_out(self, parts: tuple[Packed, ...]) -> tuple[bool, ...]:
        if self.scope.stock is None:
            return self._none_sold_out
        all_branch_rows = [part >> _BRANCH_ROWS_AT & (1 << _SHELF_BITS) - 1 for part in parts]
        return tuple(
            sum(self.world.holds(branch_rows, b) for branch_rows in all_branch_rows) >= self.scope.stock
            for b in self.world.branches
        )

    def _mirrored(self, part: Packed) -> Packed:
        row, nodes, *rest = _unpacked(part)
        return _packed(WorldState(self._rename(row), (nodes[1], nodes[0]), *rest))

    # --- one transaction -------------------------------------------------------------

    def _expand(self, part: Packed, sold_out: tuple[bool, ...]) -> list[_Whole]:
        """All moves but the ends of coordinators."""
        row, nodes, all_branch_rows, sent, clock = _unpacked(part)
        found: list[_Whole] = []
        sent_bits = sent << _SENT_AT
        for c in COORDINATORS:
            other = nodes[1 - c]
            may_begin = self.world.may_begin(row, other)
            key = (row, c, nodes[c], all_branch_rows, clock, may_begin, sold_out)
            ready = self._local.get(key)
            if ready is None:
                alone = WorldState(row, (nodes[0], 0) if c == 0 else (0, nodes[1]), all_branch_rows, 0, clock)
                moves = self.world.by_coordinator(alone, c, may_begin=may_begin, sold_out=sold_out)
                ready = self._local[key] = [self._ready(move) for move in moves]
            older = self.world.lagging(other)
            me_at, other_at = _NODE_AT[c], _NODE_AT[1 - c]
            for what, packed, turned, rewrites, fair, fault, broken in ready:
                then = older if rewrites else other
                found.append(
                    (
                        what,
                        packed | then << other_at | sent_bits,
                        turned | then << me_at | sent_bits,
                        fair,
                        fault,
                        broken,
                    )
                )
        outside = (row, all_branch_rows, sent, clock, sold_out)
        ready = self._outside.get(outside)
        if ready is None:
            moves = self.world.elsewhere(
                WorldState(row, (0, 0), all_branch_rows, sent, clock), sold_out=sold_out
            )
            ready = self._outside[outside] = [self._ready(move) for move in moves]
        as_is = nodes[0] << _FIRST_AT | nodes[1] << _SECOND_AT
        mirrored = nodes[1] << _FIRST_AT | nodes[0] << _SECOND_AT
        for what, packed, turned, _, fair, fault, broken in ready:
            found.append((what, packed | as_is, turned | mirrored, fair, fault, broken))
        return found

    def _ends(self, part: Packed, c: int) -> list[_Whole]:
        row, nodes, all_branch_rows, sent, clock = _unpacked(part)
        key = (row, c, nodes[c])
        ready = self._leaving.get(key)
        if ready is None:
            alone = WorldState(row, (nodes[0], 0) if c == 0 else (0, nodes[1]), 0, 0, 0)
            ready = self._leaving[key] = [self._ready(move) for move in self.world.ends(alone, c)]
        rest = all_branch_rows << _BRANCH_ROWS_AT | sent << _SENT_AT | clock
        me_at, other_at = _NODE_AT[c], _NODE_AT[1 - c]
        found: list[_Whole] = []
        for what, packed, turned, rewrites, fair, fault, broken in ready:
            then = self.world.lagging(nodes[1 - c]) if rewrites else nodes[1 - c]
            found.append(
                (what, packed | then << other_at | rest, turned | then << me_at | rest, fair, fault, broken)
            )
        return found

    def _ready(self, move: Move) -> _Ready:
        what, world_state, fair, fault, broken, rewrites = move
        turned = WorldState(
            self._rename(world_state.row), (world_state.nodes[1], world_state.nodes[0]), *world_state[2:]
        )
        return _Ready(what, _packed(world_state), _packed(turned), rewrites, fair, fault, broken)

    def _rename(self, row: int) -> int:
        renamed = self._renamed.get(row)
        if renamed is None:
            renamed = self._renamed[row] = self.world.renamed(row)
        return renamed


def _packed(world_state: WorldState) -> Packed:
    row, (first, second), all_branch_rows, sent, clock = world_state
    assert row < 1 << _ROW_BITS
    assert max(first, second) < 1 << _NODE_BITS
    assert all_branch_rows < 1 << _SHELF_BITS
    assert sent < 1 << _SENT_BITS
    return (
        row << _ROW_AT
        | first << _FIRST_AT
        | second << _SECOND_AT
        | all_branch_rows << _BRANCH_ROWS_AT
        | sent << _SENT_AT
        | clock
    )


def _unpacked(packed: Packed) -> WorldState:
    node = (1 << _NODE_BITS) - 1
    return WorldState(
        packed >> _ROW_AT & (1 << _ROW_BITS) - 1,
        (packed >> _FIRST_AT & node, packed >> _SECOND_AT & node),
        packed >> _BRANCH_ROWS_AT & (1 << _SHELF_BITS) - 1,
        packed >> _SENT_AT & (1 << _SENT_BITS) - 1,
        packed & (1 << _CLOCK_BITS) - 1,
    )
