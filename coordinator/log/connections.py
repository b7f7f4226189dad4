"""The connections to the log's database: few, opened when needed, discarded when they fail.

Every statement is its own commit (autocommit), is prepared once per connection, and
completes or is given up within a time limit. A connection that is given up is shut
down at its socket: a cancel request to a hung server could hang as well.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from coordinator.log.connection import BoundStatement, Connection, StatementResult
from coordinator.log.failures import (
    FailureKind,
    is_about_a_node,
    is_about_names,
    kind_of,
    refusal,
    unreachable,
)
from coordinator.log.servers import History, ServerRefusedError, connect_async, look_for_promoted, servers
from coordinator.log.statements import BEGIN, CITUS, COMMIT, LOCK_TIMEOUT, ROLLBACK, SESSION, Statement

T = TypeVar("T")
P = ParamSpec("P")

_CONFLICTS_MAX = 6
_CONFLICT_PAUSE_S = 0.01
# The share of the client's time limit after which the server gives the statement up.
_SERVER_SHARE = 0.9
# For how long a batch of several cells waits for a lock in one of them.
_LOCK_TIMEOUT_MS = "200"
# A statement that waits this long may wait for a server that hangs, while another one is promoted.
_LOOK_EVERY_S = 1.0
# What a connection survives.
_HARMLESS = {FailureKind.CONFLICT, FailureKind.REJECTED}


class Connections:
    """At most `most` connections to one database, whose primary they find and follow.

    All connections to one log share a `history`: what one of them learns of a failover holds for all.
    `statement_timeout_s` bounds a statement from sending it to its response. A server that is
    available gives the statement up a little earlier, and reports that. `cells`: those that it is for.
    """

    def __init__(
        self,
        url: str,
        *,
        most: int,
        statement_timeout_s: float = 10.0,
        history: History | None = None,
        cells: int = 1,
    ) -> None:
        self._servers = servers(url)
        self._cells = cells
        self._history = history or History()
        self._statement_timeout_s = statement_timeout_s
        self._room = asyncio.Semaphore(most)
        self._idle: list[Connection] = []
        self._closed = False
        # When what is under way on each connection began, in this order. One timer watches them all.
        self._began: dict[Connection, float] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def execute(
        self, statement: Statement, values: Mapping[str, Any]
    ) -> Coroutine[Any, Any, StatementResult]:
        """Run one statement in a transaction of its own.

        A conflict with another transaction is over when it is reported, so the statement is
        repeated.

        Raises:
            StatementTooLong: the server gave it up.
            LogRejected: the statement had no effect; others may succeed.
            LogUnavailable: the database is unavailable, or it is unknown whether the
                statement took effect.
        """
        return self._until_no_conflict(statement.name, Connection.execute, statement, statement.bind(values))

    async def execute_together(
        self, steps: Sequence[tuple[Statement, Mapping[str, Any]]]
    ) -> list[StatementResult]:
        """Run statements of several cells in one transaction, and return their results.

        None waits long for a lock: the others would wait as well.

        Raises:
            LogError: see `execute`. Nothing has changed, or it is unknown whether all has.
        """
        bound: list[BoundStatement] = [(LOCK_TIMEOUT, [_LOCK_TIMEOUT_MS])]
        bound += [(statement, statement.bind(values)) for statement, values in steps]
        _, *results = await self._until_no_conflict(
            "a batch of several cells", Connection.execute_together, bound
        )
        return results

    async def execute_all(self, steps: Sequence[tuple[Statement, Mapping[str, Any]]]) -> int | None:
        """Run statements in one transaction. Each has to write one row.

        Return None if all did, and all are durable. Otherwise return the position of
        the first that did not; then nothing has changed.

        Raises:
            LogError: see `execute`.
        """
        bound = [(statement, statement.bind(values)) for statement, values in steps]

        async def run(connection: Connection) -> int | None:
            await connection.execute(BEGIN)
            for position, (statement, parameters) in enumerate(bound):
                if (await connection.execute(statement, parameters)).count != 1:
                    await connection.execute(ROLLBACK)
                    return position
            await connection.execute(COMMIT)
            return None

        return await self._until_no_conflict(bound[0][0].name, run)

    async def _until_no_conflict(
        self,
        name: str,
        run: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        for tries_left in reversed(range(_CONFLICTS_MAX)):
            await self._room.acquire()
            try:
                connection = self._take_idle() or await self._open(name)
                failed: Exception | None = None
                self._watch(connection)
                try:
                    result = await run(connection, *args, **kwargs)
                    self._check_place(connection)
                    return result
                except Exception as error:
                    failed = error
                    if kind_of(error) is not FailureKind.CONFLICT or not tries_left:
                        raise refusal(name, error) from error
                finally:
                    self._put_back(connection, failed)
            finally:
                self._room.release()
            # The winner of the conflict must finish before the next try.
            await asyncio.sleep(_CONFLICT_PAUSE_S * 2 ** (_CONFLICTS_MAX - tries_left))
        raise AssertionError("the last try returns or raises")

    async def close(self) -> None:
        """Close idle connections. One in use closes when its statement completes."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.ended and not self._history.is_over(connection.place):
                return connection
            # Nothing was sent on it, so no caller is affected.
            connection.close()
        return None

    async def _open(self, name: str) -> Connection:
        try:
            return await self._connect()
        except Exception as error:
            raise unreachable(name, error) from error

    async def _connect(self) -> Connection:
        connection = Connection(*await connect_async(self._servers, self._history), cells=self._cells)
        try:
            timeout_ms = str(round(self._statement_timeout_s * _SERVER_SHARE * 1_000))
            values = SESSION.bind({"statement_timeout_ms": timeout_ms})
            self._watch(connection)
            settings = await connection.execute(SESSION, values)
            self._history.is_distributed = CITUS in settings.rows
        except BaseException:
            connection.close()
            raise
        finally:
            self._began.pop(connection, None)
        return connection

    def _watch(self, connection: Connection) -> None:
        """Bound the time of what is under way on a connection from now on."""
        self._began[connection] = asyncio.get_running_loop().time()
        if self._alarm is None:
            self._set_alarm()

    def _set_alarm(self) -> None:
        loop = asyncio.get_running_loop()
        oldest, now = next(iter(self._began.values())), loop.time()
        at = oldest + self._statement_timeout_s
        if len(self._servers) > 1:
            look_at = oldest + _LOOK_EVERY_S
            at = min(at, look_at if look_at > now else now + _LOOK_EVERY_S)
        self._alarm = loop.call_at(at, self._on_alarm)

    def _on_alarm(self) -> None:
        """Give up what takes too long. While something may, look whether another server was promoted."""
        now, several = asyncio.get_running_loop().time(), len(self._servers) > 1
        for connection, began in list(self._began.items()):
            is_overdue = several and now >= began + _LOOK_EVERY_S
            if now >= began + self._statement_timeout_s or (
                is_overdue and self._history.is_over(connection.place)
            ):
                del self._began[connection]
                connection.shut_down()
            elif is_overdue:
                self._look_for_promoted()
        self._alarm = None
        if self._began:
            self._set_alarm()

    def _look_for_promoted(self) -> None:
        if not self._closed and (self._look is None or self._look.done()):
            self._look = asyncio.get_running_loop().create_task(
                look_for_promoted(self._servers, self._history)
            )

    def _check_place(self, connection: Connection) -> None:
        """Refuse what a former primary has answered, if a failover has been seen in the meantime."""
        if self._history.is_over(connection.place):
            raise ServerRefusedError("the answer came from a former primary, and counts for nothing")

    def _put_back(self, connection: Connection, failed: Exception | None) -> None:
        self._began.pop(connection, None)
        is_usable = (
            failed is None
            or kind_of(failed) in _HARMLESS
            or is_about_names(failed)
            or is_about_a_node(failed)
        )
        if is_usable and connection.idle and not self._closed:
            self._idle.append(connection)
            return
        connection.close()
        # The cause has probably broken the others, too.
        self._close_idle()
