"""Erase the payloads and results of transactions that ended some time ago.

Each row is read once. Two positions in the log, which all coordinators share, say how far it is
erased: one goes through the transactions in the order of their creation, behind those that may
have ended recently; the other through those that took longer, in the order of their end. So
neither an index nor a column has to say which rows are erased.

If two coordinators erase at the same time, both write the same.
"""

from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    DateTime,
    LargeBinary,
    Text,
    bindparam,
    case,
    not_,
    null,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from coordinator.log.connection import StatementResult
from coordinator.log.rows import erased
from coordinator.log.schema import ENDED_LATE, ENDED_LATE_S, erasures, transactions
from coordinator.log.statements import Statement, ago, batch, compiled, constant, number, row_of, text

t = transactions.c
_moment = bindparam("moment", type_=DateTime(timezone=True))


class Execute(Protocol):
    """Executes a statement of the log."""

    def __call__(self, statement: Statement, **values: Any) -> Awaitable[StatementResult]: ...


def _page(
    name: str, moment: ColumnElement[Any], due: ColumnElement[bool], *conditions: ColumnElement[bool]
) -> Statement:
    """Select the rows behind a position. Those that are not `due` have no content here."""
    page = (
        select(
            t.gid,
            t.version,
            moment,
            case((due, t.branches), else_=null()),
            case((due, t.progress), else_=null()),
        )
        .where(tuple_(moment, t.gid) > tuple_(_moment, text("gid")), moment < ago("before_s"), *conditions)
        .order_by(moment, t.gid)
        .limit(number("limit"))
    )
    return compiled(name, page)


def _write() -> Statement:
    new = batch(
        "new",
        gid=Text(),
        version=BigInteger(),
        branches=LargeBinary(),
        payloads=LargeBinary(),
        progress=LargeBinary(),
    )
    return compiled(
        "payloads_erase",
        update(transactions)
        .values(
            version=t.version + constant(1),
            branches=new.c.branches,
            payloads=new.c.payloads,
            progress=new.c.progress,
        )
        .where(row_of(new.c.gid), t.version == new.c.version, t.ended_at.is_not(None)),
    )


def _set_position() -> Statement:
    """Write a position, but never go back: another coordinator may be ahead."""
    new = insert(erasures).values(name=text("name"), moment=_moment, gid=text("gid"))
    return compiled(
        "erasure_position_set",
        new.on_conflict_do_update(
            index_elements=["name"],
            set_={"moment": new.excluded.moment, "gid": new.excluded.gid},
            where=tuple_(erasures.c.moment, erasures.c.gid) < tuple_(new.excluded.moment, new.excluded.gid),
        ),
    )


POSITION_GET = compiled(
    "erasure_position",
    select(erasures.c.moment, erasures.c.gid).where(erasures.c.name == text("name")),
)
POSITION_SET = _set_position()
# What ended late is not due here, and neither is what has not ended.
CREATED = _page("erasable_created", t.created_at, not_(ENDED_LATE))
ENDED = _page("erasable_ended_late", t.ended_at, ENDED_LATE, ENDED_LATE)
WRITE = _write()
_BEGINNING = (datetime(1, 1, 1, tzinfo=UTC), "")
# A page for each position. When the first one passes a row, it has ended, or ends late.
_PAGES: Mapping[str, tuple[Statement, float]] = {
    "created": (CREATED, ENDED_LATE_S),
    "ended_late": (ENDED, 0.0),
}


async def erase(execute: Execute, *, ended_before_s: float, limit: int) -> int:
    """See `ports.Log`."""
    read = 0
    for name, (page, later_s) in _PAGES.items():
        (moment, gid), *_ = [*(await execute(POSITION_GET, name=name)).rows, _BEGINNING]
        found = await execute(
            page, moment=moment, gid=gid, before_s=ended_before_s + later_s, limit=limit - read
        )
        await _erase(execute, name, found.rows)
        read += len(found.rows)
        if read == limit:
            break
    return read


async def _erase(execute: Execute, name: str, rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    changes = [
        (gid, version, *new)
        for gid, version, _, branches, progress in rows
        if branches is not None and (new := erased(branches, progress)) is not None
    ]
    if changes:
        columns = ("gid", "version", "branches", "payloads", "progress")
        await execute(WRITE, **dict(zip(columns, map(list, zip(*changes, strict=True)), strict=True)))
    gid, _, moment, *_ = rows[-1]
    await execute(POSITION_SET, name=name, moment=moment, gid=gid)
