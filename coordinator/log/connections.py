"""The connections to the log's database: few, opened when needed, discarded when they fail.

Every statement is its own commit (autocommit), is prepared once per connection, and
completes or is given up within a time limit. A connection that is given up is shut
down at its socket: a cancel request to a hung server could hang as well.
"""

import asyncio
import contextlib
import select
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from msgspec import Struct
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from coordinator.log.failures import FailureKind, kind_of, refusal, unreachable
from coordinator.log.servers import (
    History,
    Place,
    ServerRefusedError,
    connect_async,
    look_for_promoted,
    servers,
    shut_down,
)
from coordinator.log.statements import SESSION, Statement

T = TypeVar("T")

_CONFLICTS_MAX = 6
_CONFLICT_PAUSE_S = 0.01
# The share of the client's time limit after which the server gives the statement up.
_SERVER_SHARE = 0.9
# A statement that waits this long may wait for a server that hangs, while another one is promoted.
_LOOK_EVERY_S = 1.0


class StatementResult(Struct, frozen=True):
    """The result of a statement."""

    rows: list[tuple[Any, ...]]
    # The number of rows written or read.
    count: int


class Connections:
    """At most `most` connections to one database, whose primary they find and follow.

    All connections to one log share a `history`: what one of them learns of a failover holds for all.
    `statement_timeout_s` bounds a statement from sending it to its response. A server that is
    available gives the statement up a little earlier, and reports that.
    """

    def __init__(
        self, url: str, *, most: int, statement_timeout_s: float = 10.0, history: History | None = None
    ) -> None:
        self._servers = servers(url)
        self._history = history or History()
        self._places: WeakKeyDictionary[AsyncConnection[tuple[Any, ...]], Place] = WeakKeyDictionary()
        self._statement_timeout_s = statement_timeout_s
        self._room = asyncio.Semaphore(most)
        self._idle: list[AsyncConnection[tuple[Any, ...]]] = []
        self._closed = False
        self._look: asyncio.Task[None] | None = None

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> StatementResult:
        """Run one statement in a transaction of its own.

        A conflict with another transaction is over when it is reported, so the statement is
        repeated.

        Raises:
            StatementTooLong: the server gave it up.
            LogRejected: the statement had no effect; others may succeed.
            LogUnavailable: the database is unavailable, or it is unknown whether the
                statement took effect.
        """
        parameters = statement.bind(values)
        return await self._until_no_conflict(
            statement.name, lambda connection: self._ask(connection, statement, parameters)
        )

    async def execute_all(self, steps: Sequence[tuple[Statement, Mapping[str, Any]]]) -> int | None:
        """Run statements in one transaction. Each has to write one row.

        Return None if all did, and all are durable. Otherwise return the position of
        the first that did not; then nothing has changed.

        Raises:
            LogError: see `execute`.
        """
        bound = [(statement, statement.bind(values)) for statement, values in steps]

        async def run(connection: AsyncConnection[tuple[Any, ...]]) -> int | None:
            idle = None
            with self._time_limit(connection):
                async with connection.transaction() as transaction:
                    for position, (statement, parameters) in enumerate(bound):
                        if (await self._ask(connection, statement, parameters)).count != 1:
                            idle = position
                            raise psycopg.Rollback(transaction)
            return idle

        return await self._until_no_conflict(bound[0][0].name, run)

    async def _until_no_conflict(
        self, name: str, run: Callable[[AsyncConnection[tuple[Any, ...]]], Awaitable[T]]
    ) -> T:
        for tries_left in reversed(range(_CONFLICTS_MAX)):
            async with self._room:
                connection = await self._taken(name)
                failed: FailureKind | None = None
                try:
                    result = await run(connection)
                    self._check_place(connection)
                    return result
                except Exception as error:
                    failed = kind_of(error)
                    if failed is not FailureKind.CONFLICT or not tries_left:
                        raise refusal(name, error) from error
                finally:
                    await self._put_back(connection, failed)
            # The winner of the conflict must finish before the next try.
            await asyncio.sleep(_CONFLICT_PAUSE_S * 2 ** (_CONFLICTS_MAX - tries_left))
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        """Close idle connections. One in use closes when its statement completes."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _taken(self, name: str) -> AsyncConnection[tuple[Any, ...]]:
        idle = await self._idle_connection()
        if idle is not None:
            return idle
        try:
            return await self._connect()
        except Exception as error:
            raise unreachable(name, error) from error

    async def _idle_connection(self) -> AsyncConnection[tuple[Any, ...]] | None:
        """Return a connection that was idle and has not ended in the meantime."""
        while self._idle:
            connection = self._idle.pop()
            is_current = not self._history.is_over(self._places[connection])
            if is_current and not _has_ended(connection):
                return connection
            # Nothing was sent on it, so no caller is affected.
            await connection.close()
        return None

    async def _connect(self) -> AsyncConnection[tuple[Any, ...]]:
        connection, place = await connect_async(self._servers, self._history)
        self._places[connection] = place
        connection.prepare_threshold = 0
        try:
            timeout_ms = str(round(self._statement_timeout_s * _SERVER_SHARE * 1_000))
            await self._ask(connection, SESSION, SESSION.bind({"statement_timeout_ms": timeout_ms}))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _ask(
        self, connection: AsyncConnection[tuple[Any, ...]], statement: Statement, parameters: list[Any]
    ) -> StatementResult:
        with self._time_limit(connection):
            cursor = connection.cursor(binary=True)
            await cursor.execute(statement.sql, parameters)
            if cursor.description is None:
                return StatementResult([], cursor.rowcount)
            rows = await cursor.fetchall()
        # What a statement returns is counted: a server between may count otherwise (`statements`).
        return StatementResult(rows, len(rows))

    @contextlib.contextmanager
    def _time_limit(self, connection: AsyncConnection[tuple[Any, ...]]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self._statement_timeout_s, shut_down, connection)]
        if len(self._servers) > 1:
            timers.append(loop.call_later(_LOOK_EVERY_S, self._on_overdue, connection, timers))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _on_overdue(
        self, connection: AsyncConnection[tuple[Any, ...]], timers: list[asyncio.TimerHandle]
    ) -> None:
        """Give up the statement if another server was promoted. If not, look whether one is."""
        if self._history.is_over(self._places[connection]):
            shut_down(connection)
            return
        loop = asyncio.get_running_loop()
        if not self._closed and (self._look is None or self._look.done()):
            self._look = loop.create_task(look_for_promoted(self._servers, self._history))
        timers[1] = loop.call_later(_LOOK_EVERY_S, self._on_overdue, connection, timers)

    def _check_place(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        """Refuse what a former primary has answered, if a failover has been seen in the meantime."""
        if self._history.is_over(self._places[connection]):
            raise ServerRefusedError("the answer came from a former primary, and counts for nothing")

    async def _put_back(
        self, connection: AsyncConnection[tuple[Any, ...]], failed: FailureKind | None
    ) -> None:
        is_usable = failed in {None, FailureKind.CONFLICT, FailureKind.REJECTED}
        is_idle = connection.info.transaction_status is TransactionStatus.IDLE
        if is_usable and is_idle and not self._closed:
            self._idle.append(connection)
            return
        await connection.close()
        # The cause has probably broken the others, too.
        await self._close_idle()


def _has_ended(connection: AsyncConnection[tuple[Any, ...]]) -> bool:
    """Return whether an idle connection was ended by the server or the network.

    The server sends nothing on an idle connection but the reason for which it ends it.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
