"""What happens between a coordinator and the log: writes and their answers, taking over."""

from collections.abc import Iterator

from coordinator.core.events import Begun, Resumed, Saved
from coordinator.core.kinds import new_branch
from coordinator.core.model import Branch, BranchKind, Operation, Transaction
from proof.explore import rows
from proof.explore.core_steps import Core
from proof.explore.moments import EARLY, EXPIRED, EXPIRES_AT, LATER, SOON
from proof.explore.participants import Reservation
from proof.explore.parts import (
    CANCEL,
    CONFIRM,
    DEAD,
    DONE,
    LAG_MAX,
    LOG_LATE,
    NONE,
    QUEUED,
    REFUSED,
    Move,
    Node,
    Parts,
    Row,
    WorldState,
)

# What a branch holds when CONFIRM is decided, and when it has carried the decision out.
_BEFORE_CONFIRM = {
    BranchKind.TCC: Reservation.RESERVED,
    BranchKind.SAGA: Reservation.TAKEN,
    BranchKind.MESSAGE: Reservation.UNTOUCHED,
}
_CANCELLED = {
    BranchKind.TCC: {Reservation.RETURNED, Reservation.VOID},
    BranchKind.SAGA: {Reservation.RETURNED, Reservation.VOID},
    BranchKind.MESSAGE: {Reservation.UNTOUCHED},
}


class LogMoves:
    """The moves of the log."""

    def __init__(self, parts: Parts, core: Core) -> None:
        self._parts = parts
        self._core = core
        self._writes: dict[tuple[int, int], int] = {}
        scope = parts.scope
        self._contents = [
            Transaction(
                gid="g",
                branches=() if scope.interactive else tuple(map(new_branch, scope.branches)),
                expires_at=EXPIRES_AT,
                interactive=scope.interactive,
                fingerprint=bytes([content]),
            )
            for content in range(scope.contents)
        ]

    def begin(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`Engine.begin`: it joins what is live here; where there is a row, the log will say so."""
        if node.live != NONE:
            return
        for content, tx in enumerate(self._contents):
            # Only a row in its first version could be this begin's own; what is found is never that.
            lag = LAG_MAX if world_state.row else 0
            begun = node._replace(live=self._parts.number(tx), lag=lag)
            yield self._core.step(
                world_state,
                c,
                begun,
                Begun(),
                ("is asked to begin, with content {}", content + 1),
                fault=bool(world_state.row),
                now=self._parts.now(world_state),
            )

    def write(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`LogWriter`: one statement lands in the log."""
        if node.write == NONE or node.written != QUEUED:
            return
        written = self._parts.transaction(node.write)
        row = self._parts.rows.values[world_state.row]
        if row is None:
            broken = _broken_by_insert(written)
            yield self._landed(world_state, c, Row(rows.inserted(written), c), "inserts", broken)
            return
        mine = row.owner == c
        if written.version and mine and node.lag == 0 and self._parts.driven(world_state.row):
            key = (world_state.row, node.write)
            number = self._writes.get(key)
            if number is None:
                number = self._writes[key] = self._parts.rows.number(Row(rows.saved(row.columns, written), c))
            after = self._parts.rows.values[number]
            assert after is not None
            yield self._landed(world_state, c, after, "saves", self._broken_by_save(world_state, number))
            return
        holds = rows.holds_save if written.version else rows.holds_insert
        known = mine and node.lag == 1 and holds(row.columns, written)
        yield Move(
            ("has written that already" if known else "may not write: the row is another's", c),
            self._parts.put(world_state, c, node._replace(written=DONE if known else REFUSED)),
            fair=True,
        )

    def _landed(self, world_state: WorldState, c: int, row: Row, how: str, broken: str) -> Move:
        after = self._parts.with_row(world_state, row)
        node = self._parts.nodes.values[after.nodes[c]]
        what = (f"{how} a row that is {{}} now", c, self._parts.facts(after.row).tx.state.name)
        landed = self._parts.put(after, c, node._replace(written=DONE))
        return Move(what, landed, fair=True, broken=broken, rewrites=True)

    def _broken_by_save(self, world_state: WorldState, number: int) -> str:
        """Return why a row is invalid; empty if it is valid."""
        before, after = self._parts.facts(world_state.row), self._parts.facts(number)
        if before.ended:
            return "an ended transaction was written again"
        if before.decision not in (None, after.decision):
            return "a decision was changed"
        known, joined = ([b.spec for b in facts.tx.branches] for facts in (before, after))
        if joined[: len(known)] != known:
            return "a branch was lost"
        if joined != known and before.decision is not None:
            return "a branch joined after the decision"
        if any(
            was.done and not b.done for was, b in zip(before.tx.branches, after.tx.branches, strict=False)
        ):
            return "it was forgotten that a branch is done"
        reservations = self._parts.reservations(world_state)
        held = [(b, reservations[self._parts.position(b)]) for b in after.tx.branches]
        all_tried = all(reservation is _BEFORE_CONFIRM[b.spec.kind] for b, reservation in held)
        if before.decision is None and after.decision is CONFIRM and not all_tried:
            return "CONFIRM was decided though not every branch holds its reservation"
        asked = [reservation for b, reservation in held if b.spec.check_back]
        if before.decision is None and after.decision is CANCEL and set(asked) - {Reservation.VOID}:
            return "CANCEL was decided though the local change may be committed"
        if after.ended and not all(_is_final(b, reservation, after.decision) for b, reservation in held):
            return f"it was called {after.tx.state.name} before every branch was"
        return ""

    def answer_of_log(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`Engine._on_begun`, `_on_saved`: what was refused here is forgotten here."""
        if node.write == NONE or node.written == QUEUED:
            return
        if node.written == REFUSED:
            forgotten = node._replace(live=NONE, lag=0, write=NONE, written=QUEUED)
            yield Move(
                ("learns that others have it", c), self._parts.put(world_state, c, forgotten), fair=True
            )
            return
        if self._parts.scope.lost_answers:
            asks_again = node._replace(written=QUEUED)
            yield Move(
                ("does not get the answer of the log", c),
                self._parts.put(world_state, c, asks_again),
                fault=True,
            )
        told = node._replace(write=NONE, written=QUEUED)
        yield self._core.step(
            world_state,
            c,
            told,
            Saved(),
            ("learns that its write is durable",),
            fair=True,
            now=self._parts.now(world_state),
        )

    def claim(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`transaction_claim_due`, `transaction_adopt`, `transaction_take`: the row changes hands."""
        row = self._parts.rows.values[world_state.row]
        if row is None or node.claim != NONE:
            return
        facts = self._parts.facts(world_state.row)
        if facts.ended or (not facts.parked and row.owner == c):
            return
        fair = facts.parked or row.owner == DEAD
        if not fair and not self._parts.scope.live_owners_lose:
            return
        after = self._parts.with_row(world_state, Row(rows.taken(row.columns), c))
        # In memory a node keeps what the claim found, however long the answer takes.
        claimed = self._parts.nodes.values[after.nodes[c]]._replace(
            claim=self._parts.number(self._parts.facts(after.row).tx), claim_lag=0
        )
        what = (
            "claims what is due" if facts.parked else "adopts" if fair else "takes from a living owner",
            c,
        )
        if not self._parts.scope.slow_claims:
            for move in self.answer_of_claim(after, c, claimed):
                yield Move(what, move.world_state, fair, not fair, move.broken, rewrites=True)
            return
        yield Move(what, self._parts.put(after, c, claimed), fair=fair, fault=not fair, rewrites=True)

    def answer_of_claim(self, world_state: WorldState, c: int, node: Node) -> Iterator[Move]:
        """`Engine.resume`: the newer version counts, and that is the claimed one.

        What is live here was read or written before: only another's row is claimed.
        """
        if node.claim == NONE:
            return
        resumed = node._replace(
            live=node.claim, lag=node.claim_lag, write=NONE, written=QUEUED, claim=NONE, claim_lag=0
        )
        tx = self._parts.transaction(node.claim)
        moments: tuple[float, ...] = (EARLY, SOON, LATER)
        if not tx.state.decided and world_state.clock & LOG_LATE:
            moments = (EXPIRED,)
        seen: set[WorldState] = set()
        for now in moments:
            move = self._core.step(world_state, c, resumed, Resumed(), ("resumes",), fair=True, now=now)
            if move.world_state not in seen:
                seen.add(move.world_state)
                yield move

    def ends(self, world_state: WorldState, c: int) -> list[Move]:
        """Return the ways in which a coordinator can leave: as many for every transaction."""
        row = self._parts.rows.values[world_state.row]
        owns = row is not None and row.owner == c
        left = world_state.row
        if row is not None and owns:
            left = self._parts.rows.number(Row(row.columns, DEAD))
        dead = WorldState(left, (0, 0), world_state.all_branch_rows, world_state.sent, world_state.clock)
        moves = [Move(("dies", c), dead, fault=True)]
        if self._parts.scope.releases:
            if row is not None and owns and self._parts.driven(world_state.row):
                after = self._parts.with_row(world_state, Row(rows.released(row.columns, EARLY), c))
                moves.append(Move(("gives up what it owns", c), after, fault=True, rewrites=True))
            else:
                moves.append(Move(("gives up what it owns", c), world_state, fault=True))
        return moves


def _broken_by_insert(tx: Transaction) -> str:
    """Only what follows the decision anyway may begin with it."""
    if tx.state.decided and any(branch.spec.kind is not BranchKind.MESSAGE for branch in tx.branches):
        return "it was decided as it began, and a branch was to be tried"
    return ""


def _is_final(branch: Branch, reservation: Reservation, decision: Operation | None) -> bool:
    if decision is CONFIRM:
        return reservation is Reservation.TAKEN
    return reservation in _CANCELLED[branch.spec.kind]
