"""The executors of the barrier's plans, for async and for sync engines.

An executor opens one local transaction, executes the steps of a plan and commits. The
async executor runs on the event loop. The sync executor runs in threads of its own, so
that plain SQLAlchemy code does not block the event loop.

The handler works in that transaction and cannot end it (tcc.barrier.guarded_connection).
The transaction is checked before COMMIT: one that the database would roll back, or that
is no longer the one that was begun, is never committed.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, TypeVar

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only, greenlet_spawn

from tcc.barrier import schema, sql as barrier_sql
from tcc.barrier.block import AsyncBlock, SyncBlock
from tcc.barrier.decisions import CallResult, OutcomeCode
from tcc.barrier.driving import Handler, LocalTransaction, no_handler, run_plan
from tcc.barrier.failures import HandlerLeakError, is_lock_timeout, is_sqlite_busy, may_pass
from tcc.barrier.guarded_connection import GuardedConnection
from tcc.barrier.plans import BarrierSql, ContendedError, Plan
from tcc.branch import BatchItem

T = TypeVar("T")

# How often a transaction is run that fails by a deadlock or a serialization failure.
TRANSACTION_ATTEMPTS_MAX = 6
_RETRY_WAIT_S = 0.01
# How long a Check waits for a row that a local transaction has locked.
CHECK_LOCK_WAIT_MS = 1_000

# The limit for a pool that SQLAlchemy calls unbounded.
_CONNECTIONS_DEFAULT = 8


class RowLockedError(Exception):
    """Another transaction holds the row of a branch that is checked, and has not ended yet."""

    result = CallResult(
        OutcomeCode.FAILED, "LOCAL_TRANSACTION_OPEN", "the local transaction has not ended yet; ask again"
    )


class BarrierExecutor(Protocol):
    """The interface of a participant's database to the rest of the SDK."""

    sql: BarrierSql
    dialect_name: str
    # True if handlers are coroutine functions.
    is_async: bool
    # The largest useful number of open transactions.
    connections: int

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        """Run a plan in a transaction of its own. After a deadlock or serialization failure, run it again."""

    async def transact_briefly(self, plan: Callable[[], Plan[T]]) -> T:
        """Run a plan that calls no handler and waits for no lock longer than about a second, once.

        Raises RowLockedError if it had to wait longer.
        """

    def block(self) -> AsyncBlock | SyncBlock:
        """Return a transaction for a block of the caller's own code."""

    async def check(self) -> None:
        """Raise ValueError if the engine's connections have no transactions (AUTOCOMMIT).

        Raises RuntimeError if there is no barrier table, and DBAPIError if the database cannot be reached.
        """

    async def create_schema(self) -> int:
        """Migrate the barrier's table to the newest version; return the number of steps."""

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        """Delete one bounded batch of old rows; return their number."""


def open_executor(database: Engine | AsyncEngine) -> BarrierExecutor:
    """Return the executor of an engine. Raises ValueError for a dialect that is not supported."""
    if not isinstance(database, Engine | AsyncEngine):
        raise TypeError(
            f"database is a SQLAlchemy Engine or AsyncEngine, not {type(database).__name__}: "
            'create_async_engine("postgresql+psycopg://…")'
        )
    if database.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise ValueError(_AUTOCOMMIT)
    return (
        AsyncBarrierExecutor(database) if isinstance(database, AsyncEngine) else SyncBarrierExecutor(database)
    )


_AUTOCOMMIT = (
    "the barrier needs transactions, and the connections of this engine are in AUTOCOMMIT mode "
    "(see isolation_level, connect_args and the URL)"
)


class AsyncBarrierExecutor:
    is_async = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.dialect_name = engine.dialect.name
        self.sql = barrier_sql.statements(self.dialect_name)
        self.connections = _connections(engine.sync_engine)
        self._transactions = _Transactions(engine.sync_engine, self.sql)
        self._purge = barrier_sql.purge(self.dialect_name)

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        return await _retry_once(lambda: self._transact_once(plan, handler))

    async def transact_briefly(self, plan: Callable[[], Plan[T]]) -> T:
        with _lock_timeouts():
            return await self._transact_once(plan, no_handler, lock_wait_ms=CHECK_LOCK_WAIT_MS)

    async def _transact_once(
        self, plan: Callable[[], Plan[T]], handler: Handler, *, lock_wait_ms: int | None = None
    ) -> T:
        local = LocalTransaction(self._engine.sync_engine, plan(), lock_wait_ms=lock_wait_ms)
        try:
            return await greenlet_spawn(local.run, partial(self._call, handler))
        except BaseException:
            # Even if this task is cancelled repeatedly, the connection is returned to the pool.
            await asyncio.shield(asyncio.create_task(greenlet_spawn(local.abandon)))
            raise

    def _call(self, handler: Handler, items: list[BatchItem], guarded: GuardedConnection) -> Any:
        return await_only(_call_async(handler, items, AsyncConnection(self._engine, guarded)))

    def block(self) -> AsyncBlock:
        return AsyncBlock(self._engine, self._transactions.check)

    async def check(self) -> None:
        await greenlet_spawn(self._transactions.check_again)

    async def create_schema(self) -> int:
        async def migrate() -> int:
            async with self._engine.begin() as connection:
                return await connection.run_sync(schema.migrate)

        return await _racing(migrate)

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        async with self._engine.begin() as connection:
            result = await connection.execute(self._purge, {"margin_ms": margin_ms, "rows_max": rows_max})
            return result.rowcount


class SyncBarrierExecutor:
    is_async = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.dialect_name = engine.dialect.name
        self.sql = barrier_sql.statements(self.dialect_name)
        self.connections = _connections(engine)
        self._transactions = _Transactions(engine, self.sql)
        self._purge = barrier_sql.purge(self.dialect_name)
        # One thread more than transactions, for the purge.
        self._threads = ThreadPoolExecutor(self.connections + 1, thread_name_prefix="tcc-participant")

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        return await _retry_once(lambda: self._in_thread(lambda: self._transact_once(plan, handler)))

    async def transact_briefly(self, plan: Callable[[], Plan[T]]) -> T:
        with _lock_timeouts():
            return await self._in_thread(
                lambda: self._transact_once(plan, no_handler, lock_wait_ms=CHECK_LOCK_WAIT_MS)
            )

    def _transact_once(
        self, plan: Callable[[], Plan[T]], handler: Handler, *, lock_wait_ms: int | None = None
    ) -> T:
        local = LocalTransaction(self._engine, plan(), lock_wait_ms=lock_wait_ms)
        try:
            return local.run(partial(_call_sync, handler))
        except BaseException:
            local.abandon()
            raise

    def block(self) -> SyncBlock:
        return SyncBlock(self._engine, self._transactions.check)

    async def check(self) -> None:
        await self._in_thread(self._transactions.check_again)

    async def create_schema(self) -> int:
        def migrate() -> int:
            with self._engine.begin() as connection:
                return schema.migrate(connection)

        return await _racing(lambda: self._in_thread(migrate))

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        def purge() -> int:
            with self._engine.begin() as connection:
                return connection.execute(
                    self._purge, {"margin_ms": margin_ms, "rows_max": rows_max}
                ).rowcount

        return await self._in_thread(purge)

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        # The thread inherits the context variables (such as the current span).
        return asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, work)


async def _call_async(handler: Handler, items: list[BatchItem], connection: AsyncConnection) -> Any:
    """Call the handler. Anything that it raises is raised as an ordinary exception."""
    try:
        return await handler(items, connection)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the call itself was cancelled: the participant stops
        if may_pass(error):
            raise
        raise HandlerLeakError from error


def _call_sync(handler: Handler, items: list[BatchItem], connection: GuardedConnection) -> Any:
    """Call the handler. Anything that it raises is raised as an ordinary exception."""
    try:
        return handler(items, connection)
    except BaseException as error:
        if may_pass(error):
            raise
        raise HandlerLeakError from error


class _Transactions:
    """Finds out whether the connections of an engine have transactions, by trying one of them."""

    def __init__(self, engine: Engine, sql: BarrierSql) -> None:
        self._engine = engine
        self._sql = sql
        self._are_there = False

    def check(self) -> None:
        """Raise ValueError if they have none. It is tried once."""
        if not self._are_there:
            self.check_again()

    def check_again(self) -> None:
        """Raise ValueError if they have none (AUTOCOMMIT), RuntimeError if there is no barrier table."""
        guarded = GuardedConnection.begun(self._engine)
        try:
            run_plan(_look(self._sql), guarded, no_handler)
            self._are_there = guarded.is_in_transaction()
        except DBAPIError as error:
            guarded.abandon()  # the pool may have one connection only
            if error.connection_invalidated or inspect(self._engine).has_table(schema.barrier.name):
                raise
            raise RuntimeError(_no_table(is_async=self._engine.dialect.is_async)) from error
        finally:
            guarded.abandon()
        if not self._are_there:
            raise ValueError(_AUTOCOMMIT)


def _no_table(*, is_async: bool) -> str:
    create = "await participant.create_schema()"
    if not is_async:
        create += ", or asyncio.run(participant.create_schema()),"
    return f"the database has no table {schema.barrier.name}: {create} creates it, and serve() does"


def _look(sql: BarrierSql) -> Plan[None]:
    """Read a row that never exists, because only a statement begins a transaction."""
    yield from sql.begin()
    yield from sql.lock([("", "")])


@contextmanager
def _lock_timeouts() -> Iterator[None]:
    """Raise RowLockedError for a statement that waited too long for a lock."""
    try:
        yield
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise RowLockedError from error


async def _retry_once(once: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction again after a deadlock or serialization failure, a bounded number of times."""
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
            if not schema.lost_race(error, races):
                raise
        # MariaDB refuses to read a table that another process is creating: give it time.
        await asyncio.sleep(random.uniform(0.5, 1.0) * _RETRY_WAIT_S * 2**races)


def lost_race(error: Exception) -> bool:
    """Return whether the database rolled this transaction back so that another one could go on."""
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
    return is_sqlite_busy(cause)


def _connections(engine: Engine) -> int:
    """Return the number of connections; 1 for SQLite, which has one writer at a time."""
    if engine.dialect.name == "sqlite":
        return 1
    pool = engine.pool
    return max(1, pool.size()) if isinstance(pool, QueuePool) else _CONNECTIONS_DEFAULT
