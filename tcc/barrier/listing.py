"""Listing of barrier rows, page by page, for the comparison with the coordinators' log.

Open rows have no index of their own: it would slow down every Try and Confirm, and
listings are rare. A listing reads the index by expiry instead, oldest first. Each page
scans a bounded number of rows, matching or not. So a page may be empty without being
the last one, and no statement takes long, however large the table is.

Like the barrier itself, this module does no I/O: tcc.barrier.executor runs the plans.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tcc.barrier.decisions import BarrierState, BranchKind
from tcc.barrier.plans import Key, Plan, Statement
from tcc.barrier.sql import now_ms

ROWS_MAX = 1_000
# The largest number of rows that a page scans.
ROWS_SCANNED_MAX = 10_000
# The largest number of keys in one statement.
_KEYS_AT_ONCE = 100

# Makes the planner read the index in its order, whatever the statistics of the table. Only
# rows of one expiry are sorted.
_BY_INDEX = """
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_sort', 'off', true)"""


class ListedRow(NamedTuple):
    """A row of the barrier. `age_ms`: milliseconds since its last change, by the database's clock."""

    gid: str
    branch_id: str
    action: str
    state: BarrierState
    kind: BranchKind
    age_ms: int


class Position(NamedTuple):
    """The last row that a page has scanned. The next page starts after it."""

    expires_at_ms: int
    gid: str
    branch_id: str


_START = Position(-(2**63), "", "")


class InvalidPositionError(ValueError):
    """A page token that no listing has returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Which rows to list.

    Attributes:
        states: The states of the rows.
        min_age_ms: Their expiry and last change are at least this many milliseconds ago.
        max_age_ms: Their expiry is at most this many milliseconds ago; 0: no limit.
        rows_max: The largest number of rows in the page.
        after: Where the page starts; None: at the oldest row.
    """

    states: frozenset[BarrierState] = frozenset({BarrierState.TRIED})
    min_age_ms: int = 0
    max_age_ms: int = 0
    rows_max: int = ROWS_MAX
    after: Position | None = None


def list_rows(
    dialect_name: str, asked: Listing, *, rows_scanned_max: int = ROWS_SCANNED_MAX
) -> Plan[tuple[list[ListedRow], Position | None]]:
    """Return a page of rows, oldest first, and where the next page starts (None: no further page)."""
    now = now_ms(dialect_name)
    # In a form that every database recognizes as a range of the index.
    behind = """expires_at_ms >= :expiry AND (expires_at_ms > :expiry
        OR gid > :gid OR (gid = :gid AND branch_id > :branch_id))"""
    within = f"{behind} AND expires_at_ms <= {now} - :min_age_ms"
    parameters = _start(dialect_name, asked.after or _START) | {"min_age_ms": asked.min_age_ms}
    if asked.max_age_ms:
        within += f" AND expires_at_ms >= {now} - :max_age_ms"
        parameters["max_age_ms"] = asked.max_age_ms
    order = "ORDER BY expires_at_ms, gid, branch_id"
    if dialect_name == "postgresql":
        yield Statement(_BY_INDEX, {})
    last = yield Statement(
        f"SELECT expires_at_ms, gid, branch_id FROM tcc_barrier "  # noqa: S608 - constants
        f"WHERE {within} {order} LIMIT 1 OFFSET :passed",
        parameters | {"passed": rows_scanned_max - 1},
    )
    end = _position(last[0]) if last else None
    states = ", ".join(str(int(state)) for state in sorted(asked.states))
    # Rows without a gid are the inbox's: no transaction has them.
    wanted = f"{within} AND gid <> '' AND state IN ({states}) AND updated_at_ms <= {now} - :min_age_ms"
    if end is not None:
        wanted += """ AND expires_at_ms <= :last_expiry AND (expires_at_ms < :last_expiry
            OR gid < :last_gid OR (gid = :last_gid AND branch_id <= :last_branch_id))"""
        start = _start(dialect_name, end)
        parameters |= {f"last_{name}": value for name, value in start.items()}
    found = yield Statement(
        f"SELECT expires_at_ms, gid, branch_id, action, state, kind, {now} - updated_at_ms "  # noqa: S608 - constants
        f"FROM tcc_barrier WHERE {wanted} {order} LIMIT :rows_max",
        parameters | {"rows_max": asked.rows_max},
    )
    if len(found) == asked.rows_max:
        end = _position(found[-1][:3])
    return [_row(row[1:]) for row in found], end


def find_rows(dialect_name: str, keys: Sequence[Key]) -> Plan[list[ListedRow]]:
    """Return those of the rows that exist."""
    rows: list[ListedRow] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        batch = keys[start : start + _KEYS_AT_ONCE]
        where = " OR ".join(f"(gid = :g{n} AND branch_id = :b{n})" for n in range(len(batch)))
        parameters: dict[str, Any] = {}
        for n, (gid, branch_id) in enumerate(batch):
            parameters |= {f"g{n}": _sent(dialect_name, gid), f"b{n}": _sent(dialect_name, branch_id)}
        found = yield Statement(
            f"SELECT gid, branch_id, action, state, kind, "  # noqa: S608 - placeholders
            f"{now_ms(dialect_name)} - updated_at_ms FROM tcc_barrier WHERE {where}",
            parameters,
        )
        rows += [_row(row) for row in found]
    return rows


def read_clock(dialect_name: str) -> Plan[int]:
    """Return the database's time, by which a Try expires, in milliseconds since the Unix epoch."""
    ((milliseconds,),) = yield Statement(f"SELECT {now_ms(dialect_name)}", {})
    return int(milliseconds)


def page_token(position: Position | None) -> str:
    """Return the token of the next page; empty: no further page."""
    return "" if position is None else base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def position(token: str) -> Position | None:
    """Return where the page of a token starts; None: at the oldest row. Raises InvalidPositionError."""
    if not token:
        return None
    try:
        expires_at_ms, gid, branch_id = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidPositionError("the page token is invalid") from error
    if not (isinstance(expires_at_ms, int) and isinstance(gid, str) and isinstance(branch_id, str)):
        raise InvalidPositionError("the page token is invalid")
    return Position(expires_at_ms, gid, branch_id)


def _start(dialect_name: str, at: Position) -> dict[str, Any]:
    return {
        "expiry": at.expires_at_ms,
        "gid": _sent(dialect_name, at.gid),
        "branch_id": _sent(dialect_name, at.branch_id),
    }


# On MySQL keys are bytes.
def _sent(dialect_name: str, key: str) -> str | bytes:
    return key.encode() if dialect_name in {"mysql", "mariadb"} else key


def _key(stored: str | bytes) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored


def _position(row: Sequence[Any]) -> Position:
    expires_at_ms, gid, branch_id = row
    return Position(expires_at_ms, _key(gid), _key(branch_id))


def _row(row: Sequence[Any]) -> ListedRow:
    gid, branch_id, action, state, kind, age_ms = row
    return ListedRow(
        _key(gid),
        _key(branch_id),
        action,
        BarrierState(state),
        BranchKind(kind or BranchKind.TCC),
        max(0, int(age_ms)),
    )
