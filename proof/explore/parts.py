"""The parts of a state, each kept once under a number, and what can be read from them."""

from typing import Any, Generic, NamedTuple, TypeVar

from coordinator.core.model import DECISIONS, Branch, BranchKind, Operation, Transaction
from proof.explore import rows
from proof.explore.moments import EARLY, EXPIRED, settled_in_time
from proof.explore.participants import BranchRows, Reservation
from proof.explore.scope import Scope

TRY, CONFIRM, CANCEL, CHECK = Operation
COORDINATORS = (0, 1)
# How many ways there are for an answer to read (`calls`).
ANSWERS = 4
# The owner of what a coordinator that died has left.
DEAD = 2
NONE = -1

# How far a memory can lag behind the row before it makes no difference any more.
LAG_MAX = 3
CLAIM_LAG_MAX = 2

# How a write stands: on its way, or in the log (or refused by it) and its answer on the way.
QUEUED, DONE, REFUSED = range(3)

LOG_LATE, PARTICIPANTS_LATE = 1, 2


class Row(NamedTuple):
    """The log's row: its columns (`rows`) and whose name is on it."""

    columns: rows.Row
    owner: int


class Node(NamedTuple):
    """A coordinator's share of this world. Transactions are numbers of `_Parts.transactions`."""

    # What it drives, by how many versions the row is ahead of that, and its write.
    live: int = NONE
    lag: int = 0
    write: int = NONE
    written: int = QUEUED
    # A row that it took over, and of which it has not been told yet.
    claim: int = NONE
    claim_lag: int = 0
    # Calls under way: branch, operation, and how the answer reads that is on its way back (or NONE).
    calls: tuple[tuple[int, int, int], ...] = ()


class WorldState(NamedTuple):
    """A state of this world."""

    row: int
    nodes: tuple[int, int]
    all_branch_rows: int
    # A bit for each message to a participant that ever left.
    sent: int
    clock: int


class Move(NamedTuple):
    """A step that can be taken."""

    # Words with places for what follows, the coordinator that they are said of (or NONE), what follows.
    what: tuple[Any, ...]
    world_state: WorldState
    fair: bool = False
    fault: bool = False
    broken: str = ""
    # The row has a new version, so that whatever else remembers it lags one more.
    rewrites: bool = False


T = TypeVar("T")


class Numbered(Generic[T]):
    """Values, each kept once, under its number."""

    def __init__(self, first: T) -> None:
        self.values = [first]
        self._numbers = {first: 0}

    def number(self, value: T) -> int:
        known = self._numbers.get(value)
        if known is None:
            known = self._numbers[value] = len(self.values)
            self.values.append(value)
        return known


class RowFacts(NamedTuple):
    tx: Transaction
    decision: Operation | None
    ended: bool
    parked: bool


class Parts:
    """All parts that were ever seen in a scope. Number 0 is the first: nothing there, nothing done."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        count = len(scope.branches)
        self.branches = range(count)
        self.nodes = Numbered(Node())
        self.rows: Numbered[Row | None] = Numbered(None)
        self.all_branch_rows: Numbered[tuple[BranchRows, ...]] = Numbered((BranchRows(),) * count)
        self.transactions: Numbered[Transaction | None] = Numbered(None)
        self._facts: dict[int, RowFacts] = {}
        self._older: dict[int, int] = {}
        self._waiting: dict[int, frozenset[tuple[int, int, int]]] = {}

    # --- transactions ----------------------------------------------------------

    def number(self, tx: Transaction) -> int:
        return self.transactions.number(settled_in_time(tx, attempts_max=self.scope.attempts_before_stuck))

    def transaction(self, number: int) -> Transaction:
        """Return the value under a number other than NONE."""
        tx = self.transactions.values[number]
        assert tx is not None
        return tx

    def position(self, branch: Branch) -> int:
        """Branches of an interactive transaction stand in the order in which they joined."""
        return self.scope.branches.index(branch.spec)

    def index(self, tx: Transaction, b: int) -> int:
        """Where the branch of a call stands in `tx`."""
        return [branch.spec for branch in tx.branches].index(self.scope.branches[b])

    # --- the row -----------------------------------------------------------------

    def facts(self, number: int) -> RowFacts:
        facts = self._facts.get(number)
        if facts is None:
            row = self.rows.values[number]
            assert row is not None
            tx = settled_in_time(rows.loaded(row.columns), attempts_max=self.scope.attempts_before_stuck)
            facts = RowFacts(
                tx, DECISIONS.get(tx.state), tx.state.ended, bool(tx.next_attempt_at) and not tx.state.ended
            )
            self._facts[number] = facts
        return facts

    def driven(self, number: int) -> bool:
        facts = self.facts(number)
        return not facts.ended and not facts.parked

    def with_row(self, world_state: WorldState, row: Row) -> WorldState:
        """The row in its next version; every memory of it lags one more."""
        first, second = world_state.nodes
        return world_state._replace(
            row=self.rows.number(row), nodes=(self.lagging(first), self.lagging(second))
        )

    def renamed(self, number: int) -> int:
        """The row with the names of the coordinators exchanged."""
        row = self.rows.values[number]
        return 0 if row is None else self.rows.number(Row(row.columns, (1, 0, DEAD)[row.owner]))

    # --- coordinators --------------------------------------------------------------

    def lagging(self, number: int) -> int:
        """A coordinator's memory after another one has written the row."""
        older = self._older.get(number)
        if older is None:
            node = self.nodes.values[number]
            if node.live != NONE:
                node = node._replace(lag=min(node.lag + 1, LAG_MAX))
            if node.claim != NONE:
                node = node._replace(claim_lag=min(node.claim_lag + 1, CLAIM_LAG_MAX))
            older = self._older[number] = self.nodes.number(node)
        return older

    def put(self, world_state: WorldState, c: int, node: Node) -> WorldState:
        if node.calls and not self.scope.stale_answers:
            node = node._replace(calls=tuple(filter(self._waits(node.live).__contains__, node.calls)))
        number = self.nodes.number(node)
        nodes = (number, world_state.nodes[1]) if c == 0 else (world_state.nodes[0], number)
        return WorldState(
            world_state.row, nodes, world_state.all_branch_rows, world_state.sent, world_state.clock
        )

    def _waits(self, live: int) -> frozenset[tuple[int, int, int]]:
        """The calls that are under way for what is live, with every answer that they can have."""
        waits = self._waiting.get(live)
        if waits is None:
            tx = self.transaction(live) if live != NONE else None
            waits = self._waiting[live] = frozenset(
                (self.position(branch), int(branch.calling), answer)
                for branch in (tx.branches if tx else ())
                if branch.calling
                for answer in (NONE, *range(ANSWERS))
            )
        return waits

    # --- the rest ------------------------------------------------------------------

    def reservations(self, world_state: WorldState) -> list[Reservation]:
        """Return the effects of the handlers, by branch."""
        return [
            branch_rows.reservation
            for branch_rows in self.all_branch_rows.values[world_state.all_branch_rows]
        ]

    def bit(self, b: int, operation: int) -> int:
        return 1 << (len(Operation) * b + operation - 1)

    def kind(self, b: int) -> BranchKind:
        return self.scope.branches[b].kind

    def name(self, b: int) -> str:
        return self.scope.branches[b].branch_id

    def now(self, world_state: WorldState) -> float:
        return EXPIRED if world_state.clock & LOG_LATE else EARLY
