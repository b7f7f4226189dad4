"""The connections to the log's database: few, made when needed, thrown away when they fail.

Every statement is a commit of its own (autocommit), prepared once a connection,
and answered or given up within a time limit. A connection that is given up is
shut down at its socket: asking a server that hangs to cancel could hang as well.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from msgspec import Struct
from psycopg import AsyncConnection, errors
from psycopg.pq import TransactionStatus

from coordinator.core.errors import LogUnavailable
from coordinator.log.statements import SESSION, Statement

T = TypeVar("T")

_CONFLICTS_MAX = 6
_CONFLICT_PAUSE_S = 0.01
_RETRY_AFTER_S = 0.5
# Of the time that a statement has, before the connection is given up together with it.
_SERVER_SHARE = 0.9


class StatementTooLong(LogUnavailable):
    """The server has given the statement up, which then had no effect; it is there, and answers others."""


class StatementResult(Struct, frozen=True):
    """What a statement came to."""

    rows: list[tuple[Any, ...]]
    # How many rows it wrote or read.
    count: int


class Connections:
    """At most `most` connections to one database.

    `statement_timeout_s` bounds a statement from being sent to being answered. A server that is
    there gives it up a little earlier, and says so.
    """

    def __init__(
        self, url: str, *, most: int, connect_timeout_s: float = 5.0, statement_timeout_s: float = 10.0
    ) -> None:
        self._conninfo = libpq_url(url)
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._room = asyncio.Semaphore(most)
        self._idle: list[AsyncConnection[tuple[Any, ...]]] = []
        self._closed = False

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> StatementResult:
        """Run one statement in a transaction of its own.

        Conflicts with other transactions are over when they are reported, and are
        tried again.

        Raises:
            StatementTooLong: the server has given it up.
            LogUnavailable: the database is away, or whether the statement took
                effect is unknown.
        """
        parameters = statement.bind(values)
        return await self._until_no_conflict(
            statement.name, lambda connection: self._ask(connection, statement, parameters)
        )

    async def execute_all(self, steps: Sequence[tuple[Statement, Mapping[str, Any]]]) -> int | None:
        """Run statements in one transaction; each has to write one row.

        Returns None where all did, and all are durable; otherwise the position of
        the first that did not, and nothing has changed.

        Raises:
            LogUnavailable: see `execute`.
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
        conflict: Exception | None = None
        for earlier_tries in range(_CONFLICTS_MAX):
            if earlier_tries:
                # The winner of the conflict must get through before we come again.
                await asyncio.sleep(_CONFLICT_PAUSE_S * 2**earlier_tries)
            try:
                async with self._room:
                    return await self._with_connection(run)
            except (errors.SerializationFailure, errors.DeadlockDetected) as error:
                conflict = error
            except errors.QueryCanceled as error:
                raise StatementTooLong(_no_answer(name, error), retry_after_s=_RETRY_AFTER_S) from error
            except (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction) as error:
                raise _unavailable(name, error) from error
        raise _unavailable(name, conflict) from conflict

    async def close(self) -> None:
        """Close idle connections; one in use closes when its statement is answered."""
        self._closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def _with_connection(self, run: Callable[[AsyncConnection[tuple[Any, ...]]], Awaitable[T]]) -> T:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            return await run(connection)
        finally:
            await self._put_back(connection)

    async def _connect(self) -> AsyncConnection[tuple[Any, ...]]:
        connection = await AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            prepare_threshold=0,
            connect_timeout=max(1, round(self._connect_timeout_s)),
        )
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
            rows = await cursor.fetchall() if cursor.description else []
        return StatementResult(rows, cursor.rowcount)

    @contextlib.contextmanager
    def _time_limit(self, connection: AsyncConnection[tuple[Any, ...]]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._statement_timeout_s, _shut_down, connection)
        try:
            yield
        finally:
            timer.cancel()

    async def _put_back(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE and not self._closed:
            self._idle.append(connection)
            return
        await connection.close()
        # What broke this one has most likely broken the others.
        await self._close_idle()


def libpq_url(url: str) -> str:
    """Return the URL without SQLAlchemy's name of the driver."""
    return re.sub(r"^postgresql\+\w+:", "postgresql:", url)


def _shut_down(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as theirs, contextlib.suppress(OSError):
        theirs.shutdown(socket.SHUT_RDWR)  # the kernel's end of it may be gone already


def _unavailable(name: str, error: Exception | None) -> LogUnavailable:
    return LogUnavailable(_no_answer(name, error), retry_after_s=_RETRY_AFTER_S)


def _no_answer(name: str, error: Exception | None) -> str:
    return f"the transaction log did not answer {name}: {error}"
