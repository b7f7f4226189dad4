"""The queues of the locks and their statements, for PostgreSQL and SQLite.

A request has a row for each of its keys. Its token is its place in the queue of that key, taken from
the key's counter. A request holds its keys if no request with a smaller token conflicts with it in
any of them. So the queue alone says who holds what: there is nothing else that could disagree.

The counters of all keys of a batch are locked by one statement in the order of the keys, until the
commit. Therefore

- batches that share keys wait for each other here and never deadlock;
- a request sees every request with a smaller token, or the row of one that was released;
- two requests that share several keys are in the same order in all of these queues, so that
  requests never wait for each other in a circle.

This holds at every isolation level: a transaction that would read an old snapshot has to change a
counter that has changed since, which the database refuses, and the SDK runs it again.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from participants.locks.lock import Key, Place
from participants.locks.requests import Acquire, Mode

metadata = MetaData()
# PostgreSQL: compared byte by byte, which is the fastest.
name_type = Text().with_variant(Text(collation="C"), "postgresql")

# The last token of each key. It never shrinks, so a key that was used once keeps its row.
lock_key = Table(
    "lock_key",
    metadata,
    Column("name", name_type, primary_key=True),
    Column("last_token", BigInteger, nullable=False),
    # Hot rows: with room on the page, every update is in place.
    postgresql_with={"fillfactor": 50},
)

# Requests that hold their keys or wait for them.
lock_request = Table(
    "lock_request",
    metadata,
    Column("name", name_type, primary_key=True),
    Column("token", BigInteger, primary_key=True, autoincrement=False),
    Column("gid", name_type, nullable=False),
    Column("branch_id", name_type, nullable=False),
    Column("exclusive", Boolean, nullable=False),
    Column("requested_at_ms", BigInteger, nullable=False),
    # NULL: the branch waits.
    Column("acquired_at_ms", BigInteger),
    Index("lock_request_branch", "gid", "branch_id"),
)
Index(
    "lock_request_waiting",
    lock_request.c.gid,
    lock_request.c.branch_id,
    postgresql_where=lock_request.c.acquired_at_ms.is_(None),
    sqlite_where=lock_request.c.acquired_at_ms.is_(None),
)

_mine, _other, _first = (lock_request.alias(name) for name in ("mine", "other", "first"))
_conflict = (
    (_other.c.name == _mine.c.name)
    & (_other.c.token < _mine.c.token)
    & or_(_mine.c.exclusive, _other.c.exclusive)
)


def _of(table: Any) -> Any:
    """Return the condition that a row belongs to one of the branches in the parameter."""
    return tuple_(table.c.gid, table.c.branch_id).in_(bindparam("branches", expanding=True))


_blocked = select(_other.c.token).where(_conflict).exists()
_first_token = select(func.min(_other.c.token)).where(_other.c.name == _mine.c.name).scalar_subquery()
PLACES = (
    select(
        _mine.c.gid,
        _mine.c.branch_id,
        _mine.c.name,
        _mine.c.token,
        _mine.c.requested_at_ms,
        _blocked,
        _first.c.gid,
        func.coalesce(_first.c.acquired_at_ms, _first.c.requested_at_ms),
    )
    .join_from(_mine, _first, (_first.c.name == _mine.c.name) & (_first.c.token == _first_token))
    .where(_of(_mine))
    .order_by(_mine.c.name)
)
BLOCKED = select(_mine.c.gid, _mine.c.branch_id).distinct().where(_mine.c.acquired_at_ms.is_(None), _blocked)
QUEUES = select(
    lock_request.c.name,
    lock_request.c.gid,
    lock_request.c.exclusive,
    lock_request.c.requested_at_ms,
    lock_request.c.acquired_at_ms,
).order_by(lock_request.c.name, lock_request.c.token)
ACQUIRE = update(lock_request).where(_of(lock_request)).values(acquired_at_ms=bindparam("now_ms"))
RELEASE = delete(lock_request).where(_of(lock_request))


def upsert(table: Table, dialect_name: str) -> Any:
    """Return `table`'s INSERT of a dialect, which has ON CONFLICT in both."""
    inserts: dict[str, Callable[[Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
    return inserts[dialect_name](table)


async def places(db: AsyncConnection, branches: Collection[Key]) -> Mapping[Key, Sequence[Place]]:
    """Return where these branches stand; those that have not asked are missing."""
    found: defaultdict[Key, list[Place]] = defaultdict(list)
    for gid, branch_id, *place in await db.execute(PLACES, {"branches": list(branches)}):
        found[gid, branch_id].append(Place((gid, branch_id), *place))
    return found


async def enqueue(db: AsyncConnection, requests: Sequence[tuple[Key, Acquire]], now_ms: int) -> None:
    """Append the branches to the queues of their keys, in this order."""
    wanted = Counter(name for _, request in requests for name in request.keys)
    insert_key = upsert(lock_key, db.dialect.name)
    counted = insert_key.on_conflict_do_update(
        index_elements=["name"], set_={"last_token": lock_key.c.last_token + insert_key.excluded.last_token}
    ).returning(lock_key.c.name, lock_key.c.last_token)
    rows = await db.execute(counted, [{"name": name, "last_token": wanted[name]} for name in sorted(wanted)])
    last = {name: token - wanted[name] for name, token in rows}
    queued = []
    for (gid, branch_id), request in requests:
        for name in request.keys:
            last[name] += 1
            queued.append(
                {
                    "name": name,
                    "token": last[name],
                    "gid": gid,
                    "branch_id": branch_id,
                    "exclusive": request.mode is Mode.EXCLUSIVE,
                    "requested_at_ms": now_ms,
                }
            )
    await db.execute(insert(lock_request), queued)


async def acquire(db: AsyncConnection, branches: Collection[Key], now_ms: int) -> None:
    """Record since when these branches hold their keys."""
    await db.execute(ACQUIRE, {"branches": list(branches), "now_ms": now_ms})


async def release(db: AsyncConnection, branches: Collection[Key]) -> None:
    """Remove these branches from all queues."""
    await db.execute(RELEASE, {"branches": list(branches)})


async def blocked(db: AsyncConnection) -> set[Key]:
    """Return the branches that have to wait, of all processes."""
    return {(gid, branch_id) for gid, branch_id in await db.execute(BLOCKED)}


class Held(NamedTuple):
    """The numbers of held and of waited-for keys, and the times of the oldest of each."""

    held: int
    held_since_ms: int | None
    waiting: int
    waiting_since_ms: int | None


_is_held = lock_request.c.acquired_at_ms.is_not(None)
HELD = select(
    func.count().filter(_is_held),
    func.min(lock_request.c.acquired_at_ms),
    func.count().filter(~_is_held),
    func.min(lock_request.c.requested_at_ms).filter(~_is_held),
)


async def held(db: AsyncConnection) -> Held:
    """Return how many keys are held and waited for, and since when."""
    return Held(*(await db.execute(HELD)).one())


def by_branch(items: Iterable[tuple[Any, Any]]) -> list[Key]:
    """Return the keys of the branches of a batch."""
    return [branch.key for branch, _ in items]
