"""The barrier's front doors: the same plans over an async or over a sync engine.

A door opens one local transaction, performs what a plan yields and commits. The
async one does it on the event loop; the sync one in threads of its own, so that
plain SQLAlchemy code serves without blocking anybody.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from tcc import barrier_schema, barrier_sql
from tcc.barrier import BarrierSql, ContendedError, Invoke, Plan, Statement
from tcc.branch import BatchItem
from tcc.failpoint import failpoint

T = TypeVar("T")

# Takes items and the transaction's connection; answers one thing per item. A
# coroutine function behind an AsyncEngine, a plain one behind an Engine.
Handler: TypeAlias = Callable[[list[BatchItem], Any], Any]

# How often a transaction that lost a deadlock or a serialization race is run.
TRANSACTION_ATTEMPTS_MAX = 6
_RETRY_WAIT_S = 0.01

# SQLAlchemy's word for "as many as you like" would be a surprise here.
_CONNECTIONS_DEFAULT = 8


class Door(Protocol):
    """A participant's database, as the rest of the SDK sees it."""

    sql: BarrierSql
    dialect_name: str
    # Handlers of this door are coroutine functions.
    is_async: bool
    # How many transactions it makes sense to have open at once.
    connections: int

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        """Runs a plan in a transaction of its own; a plan that lost a race is run again."""

    async def create_schema(self) -> int:
        """Brings the barrier's table to the newest version; answers how many steps that took."""

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        """Deletes one bounded batch of old rows; answers how many."""


def open_door(database: Engine | AsyncEngine) -> Door:
    """The door to an engine. Raises ValueError for a dialect that the barrier does not know."""
    if database.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise ValueError("the barrier needs transactions; this engine is set to AUTOCOMMIT")
    return AsyncDoor(database) if isinstance(database, AsyncEngine) else SyncDoor(database)


class AsyncDoor:
    is_async = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.dialect_name = engine.dialect.name
        self.sql = barrier_sql.statements(self.dialect_name)
        self.connections = _connections(engine.sync_engine)
        self._purge = barrier_sql.purge(self.dialect_name)

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        async def once() -> T:
            failpoint("barrier.begin.before")
            async with self._engine.begin() as connection:
                came = await _drive_async(plan(), connection, handler)
                failpoint("barrier.commit.before")
            failpoint("barrier.commit.after")
            return came

        return await _again(once)

    async def create_schema(self) -> int:
        async def migrate() -> int:
            async with self._engine.begin() as connection:
                return await connection.run_sync(barrier_schema.migrate)

        return await _racing(migrate)

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        async with self._engine.begin() as connection:
            result = await connection.execute(self._purge, {"margin_ms": margin_ms, "rows_max": rows_max})
            return result.rowcount


class SyncDoor:
    is_async = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.dialect_name = engine.dialect.name
        self.sql = barrier_sql.statements(self.dialect_name)
        self.connections = _connections(engine)
        self._purge = barrier_sql.purge(self.dialect_name)
        # One thread more than transactions, for the purge.
        self._threads = ThreadPoolExecutor(self.connections + 1, thread_name_prefix="tcc-participant")

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        def once() -> T:
            failpoint("barrier.begin.before")
            with self._engine.begin() as connection:
                came = _drive_sync(plan(), connection, handler)
                failpoint("barrier.commit.before")
            failpoint("barrier.commit.after")
            return came

        return await _again(lambda: self._in_thread(once))

    async def create_schema(self) -> int:
        def migrate() -> int:
            with self._engine.begin() as connection:
                return barrier_schema.migrate(connection)

        return await _racing(lambda: self._in_thread(migrate))

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        def purge() -> int:
            with self._engine.begin() as connection:
                return connection.execute(
                    self._purge, {"margin_ms": margin_ms, "rows_max": rows_max}
                ).rowcount

        return await self._in_thread(purge)

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        # What is current here (a span, the author's own) is current there.
        return asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, work)


async def _drive_async(plan: Plan[T], connection: AsyncConnection, handler: Handler) -> T:
    came: Any = None
    try:
        while True:
            match plan.send(came):
                case Statement(statement, parameters):
                    result = await connection.execute(statement, parameters)
                    came = result.all() if result.returns_rows else ()
                    failpoint("barrier.statement.after")
                case Invoke(items=items):
                    failpoint("barrier.handler.before")
                    came = await handler(items, connection)
                    failpoint("barrier.handler.after")
    except StopIteration as done:
        return cast("T", done.value)


def _drive_sync(plan: Plan[T], connection: Connection, handler: Handler) -> T:
    came: Any = None
    try:
        while True:
            match plan.send(came):
                case Statement(statement, parameters):
                    result = connection.execute(statement, parameters)
                    came = result.all() if result.returns_rows else ()
                    failpoint("barrier.statement.after")
                case Invoke(items=items):
                    failpoint("barrier.handler.before")
                    came = handler(items, connection)
                    failpoint("barrier.handler.after")
    except StopIteration as done:
        return cast("T", done.value)


async def _again(once: Callable[[], Awaitable[T]]) -> T:
    """Runs a transaction until it loses no race, a bounded number of times."""
    for attempt in range(1, TRANSACTION_ATTEMPTS_MAX):
        try:
            return await once()
        except (DBAPIError, ContendedError) as error:
            if not lost_race(error):
                raise
        await asyncio.sleep(random.uniform(0, _RETRY_WAIT_S * 2**attempt))
    return await once()


async def _racing(migrate: Callable[[], Awaitable[int]]) -> int:
    races = 0
    while True:
        try:
            return await migrate()
        except DBAPIError as error:
            races += 1
            if not barrier_schema.lost_race(error, races):
                raise
        # MariaDB refuses even a look at a table that somebody is just creating: let them get through.
        await asyncio.sleep(random.uniform(0.5, 1.0) * _RETRY_WAIT_S * 2**races)


def lost_race(error: Exception) -> bool:
    """Whether the database ended this transaction for another's sake, so that running it again is right."""
    if isinstance(error, ContendedError):
        return True
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    cause: Any = error.orig
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    # Serialization failure, deadlock detected.
    if sqlstate in {"40001", "40P01"}:
        return True
    # InnoDB: deadlock found, lock wait timeout exceeded.
    if cause.args and cause.args[0] in {1213, 1205}:
        return True
    return str(getattr(cause, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def database_failed(error: BaseException) -> bool:
    """Whether the database itself is out of reach, so that trying item by item is pointless."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _connections(engine: Engine) -> int:
    """SQLite has one writer at a time, and an in-memory one even one connection."""
    if engine.dialect.name == "sqlite":
        return 1
    pool = engine.pool
    return max(1, pool.size()) if isinstance(pool, QueuePool) else _CONNECTIONS_DEFAULT
