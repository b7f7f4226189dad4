"""Outcomes of transactions for those that are notified of them. The transactions' rows stay as they are.

A position in the order of creation says up to where a target was notified, behind those that may become
visible late. Transactions that had not ended when their place was read wait in a table of their own, until
they end. So no write of a transaction knows of it, and no index is needed for it.
"""

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from sqlalchemy import (
    DateTime,
    Interval,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.sql.elements import ColumnElement

from coordinator.core.model import CancelReason, TransactionState
from coordinator.log.connection import StatementResult
from coordinator.log.parameters import timestamp
from coordinator.log.schema import coordinators, outcome_positions, outcomes_awaited, transactions
from coordinator.log.statements import (
    GIDS,
    NO_TEXT,
    Statement,
    batch,
    clock,
    compiled,
    number,
    seconds,
    text,
)
from coordinator.ports.outcomes import Outcome, OutcomePosition, OutcomeReader

t, positions, awaited = transactions.c, outcome_positions.c, outcomes_awaited.c
_OUTCOME: tuple[ColumnElement[Any], ...] = (
    t.gid,
    t.state,
    t.stuck,
    t.initiator,
    t.tenant,
    cast(t.labels, Text),
    t.cancel_reason,
    t.cancel_branch_id,
    t.cancel_detail,
    seconds(t.created_at),
    seconds(t.decided_at),
    seconds(t.ended_at),
)


class Execute(Protocol):
    """Executes a statement of the log."""

    def __call__(self, statement: Statement, **values: Any) -> Awaitable[StatementResult]: ...


def _moment(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=DateTime(timezone=True))


def _reader() -> Statement:
    """Select a position, its reader, whether that coordinator lives, and the time."""
    now = clock()
    lives = exists().where(
        coordinators.c.id == any_(array([positions.reader])), coordinators.c.lease_until > func.now()
    )
    return compiled(
        "outcome_reader",
        select(seconds(positions.moment), positions.gid, positions.reader, lives, seconds(now.c.moment))
        .select_from(outcome_positions.join(now, true()))
        .where(positions.target == text("target")),
    )


def _first_position() -> Statement:
    """Begin a little earlier: what was created while this coordinator started is not left out."""
    moment = func.now() - literal_column("INTERVAL '1 minute'", Interval)
    new = insert(outcome_positions).values(target=text("target"), moment=moment, gid=NO_TEXT, reader=NO_TEXT)
    return compiled(
        "outcome_position_first",
        new.on_conflict_do_nothing(index_elements=["target"]).returning(positions.target),
    )


def _page() -> Statement:
    return compiled(
        "outcome_page",
        select(*_OUTCOME)
        .where(
            tuple_(t.created_at, t.gid) > tuple_(_moment("moment"), text("gid")),
            t.created_at < _moment("before"),
        )
        .order_by(t.created_at, t.gid)
        .limit(number("limit")),
    )


def _wait() -> Statement:
    new = batch("new", gid=Text())
    rows = select(text("target"), new.c.gid)
    return compiled(
        "outcome_wait",
        insert(outcomes_awaited)
        .from_select(["target", "gid"], rows)
        .on_conflict_do_nothing(index_elements=["target", "gid"])
        .returning(awaited.gid),
    )


def _waiting() -> Statement:
    """Select what has news, or was deleted, among those between two gids."""
    news = or_(t.gid.is_(None), t.ended_at.is_not(None), and_(t.stuck, awaited.stuck.is_(False)))
    return compiled(
        "outcome_waiting",
        select(awaited.gid, *_OUTCOME)
        .select_from(outcomes_awaited.outerjoin(transactions, t.gid == any_(array([awaited.gid]))))
        .where(
            awaited.target == text("target"), awaited.gid > text("after"), awaited.gid <= text("until"), news
        ),
    )


_ours = awaited.target == text("target")

READER = _reader()
POSITION_FIRST = _first_position()
READER_SET = compiled(
    "outcome_reader_set",
    update(outcome_positions)
    .values(reader=text("owner"))
    .where(positions.target == text("target"), positions.reader == text("former")),
)
POSITION_SET = compiled(
    "outcome_position_set",
    update(outcome_positions)
    .values(moment=_moment("moment"), gid=text("gid"))
    .where(positions.target == text("target"), positions.reader == text("owner")),
)
PAGE = _page()
WAIT = _wait()
WAITING_UNTIL = compiled(
    "outcome_waiting_until",
    select(
        func.max(
            select(awaited.gid)
            .where(_ours, awaited.gid > text("after"))
            .order_by(awaited.gid)
            .limit(number("limit"))
            .subquery("some")
            .c.gid
        )
    ),
)
WAITING = _waiting()
ENDED = compiled("outcome_ended", delete(outcomes_awaited).where(_ours, awaited.gid == GIDS))
STUCK = compiled(
    "outcome_stuck", update(outcomes_awaited).values(stuck=true()).where(_ours, awaited.gid == GIDS)
)


async def reader(execute: Execute, owner: str, target: str) -> OutcomeReader | None:
    """See `ports.OutcomeLog`."""
    found = await execute(READER, target=target)
    if not found.rows:
        await execute(POSITION_FIRST, target=target)
        found = await execute(READER, target=target)
    ((moment, gid, former, lives, now),) = found.rows
    if former != owner:
        if lives:
            return None
        taken = await execute(READER_SET, target=target, former=former)
        if not taken.count:
            return None
    position = OutcomePosition(created_at=moment, gid=gid)
    return OutcomeReader(position=position, now=now, is_new=former != owner)


async def set_position(execute: Execute, target: str, position: OutcomePosition) -> bool:
    """See `ports.OutcomeLog`."""
    written = await execute(
        POSITION_SET, target=target, moment=timestamp(position.created_at * 1e6), gid=position.gid
    )
    return written.count == 1


async def page(execute: Execute, after: OutcomePosition, before: float, limit: int) -> list[Outcome]:
    """See `ports.OutcomeLog`."""
    found = await execute(
        PAGE,
        moment=timestamp(after.created_at * 1e6),
        gid=after.gid,
        before=timestamp(before * 1e6),
        limit=limit,
    )
    return [_outcome(*row) for row in found.rows]


async def waiting(
    execute: Execute, target: str, after: str, limit: int
) -> tuple[list[Outcome], list[str], str]:
    """See `ports.OutcomeLog`."""
    ((until,),) = (await execute(WAITING_UNTIL, target=target, after=after, limit=limit)).rows
    if until is None:
        return [], [], ""
    found = await execute(WAITING, target=target, after=after, until=until)
    outcomes = [_outcome(*row) for _, *row in found.rows if row[0] is not None]
    gone = [awaited_gid for awaited_gid, gid, *_ in found.rows if gid is None]
    return outcomes, gone, until


async def published(execute: Execute, target: str, *, ended: Sequence[str], stuck: Sequence[str]) -> None:
    """See `ports.OutcomeLog`."""
    for statement, gids in ((ENDED, ended), (STUCK, stuck)):
        if gids:
            await execute(statement, target=target, gids=list(gids))


def _outcome(gid: str, state: int, stuck: bool, *row: Any) -> Outcome:  # noqa: FBT001 - a column
    initiator, tenant, labels, reason, branch_id, detail, created_at, decided_at, ended_at = row
    return Outcome(
        gid=gid,
        state=TransactionState(state),
        stuck=stuck,
        initiator=initiator,
        tenant=tenant,
        labels=labels,
        cancel_reason=CancelReason(reason),
        cancel_branch_id=branch_id,
        cancel_detail=detail,
        created_at=created_at,
        decided_at=decided_at,
        ended_at=ended_at,
    )
