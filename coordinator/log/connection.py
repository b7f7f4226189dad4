"""One connection to the log's database: one statement at a time, prepared at its first use.

psycopg opens the connection. Statements go through its libpq layer directly: the socket is watched
once and not for each statement, parameters have known types, and only rows are decoded.
"""

import asyncio
import select
from collections.abc import Sequence
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from coordinator.log.servers import CLIENT_ENCODING, Place, shut_down
from coordinator.log.statements import Statement

# Lists have a statement for each choice of conditions, and each cell has its own statements; the server keeps
# no more of them than this.
_PREPARED_MAX = 500
_DEALLOCATE = b"DEALLOCATE ALL"
_SUCCESSES = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}
_IDLE = TransactionStatus.IDLE


class StatementResult(Struct, frozen=True):
    """The result of a statement."""

    rows: list[tuple[Any, ...]]
    # The number of rows written or read.
    count: int


class Connection:
    """A connection to the server at `place`. It ends at any failure of its own: see `ended`."""

    def __init__(self, opened: AsyncConnection[Any], place: Place) -> None:
        """Take over an open connection, which no one else may use from now on."""
        self.place = place
        self._opened = opened
        self._libpq = opened.pgconn
        self._socket = self._libpq.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        # By the text of the statement.
        self._prepared: dict[str, bytes] = {}
        # Of the statement under way.
        self._answer: asyncio.Future[PGresult] | None = None
        self._result: PGresult | None = None
        self._is_lost = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._on_readable)

    async def execute(self, statement: Statement, parameters: Sequence[Any] = ()) -> StatementResult:
        """Send one statement, and return its result.

        Raises:
            psycopg.Error: what the server answers, or that the connection is lost.
            Exception: the parameters cannot be sent.
        """
        values = statement.encode(parameters)
        name = self._prepared.get(statement.sql) or await self._prepare(statement)
        self._libpq.send_query_prepared(name, values, [Format.BINARY] * len(values), Format.BINARY)
        result = await self._until_answered()
        if not result.nfields:
            return StatementResult([], result.command_tuples or 0)
        # What a statement returns is counted: a server between may count otherwise (`statements`).
        return StatementResult(self._rows(result), result.ntuples)

    @property
    def idle(self) -> bool:
        """True if no statement is under way and no transaction is open."""
        return self._libpq.transaction_status == _IDLE

    @property
    def ended(self) -> bool:
        """True if the server or the network has ended the connection while it was idle.

        The server sends nothing on an idle connection but the reason for which it ends it.
        """
        return self._is_lost or bool(self._poll.poll(0))

    def shut_down(self) -> None:
        """End the connection at its socket, so that the statement under way fails."""
        shut_down(self._opened)

    def close(self) -> None:
        """Close the connection. A statement under way must have been given up."""
        self._stop_watching()
        self._libpq.finish()

    async def _prepare(self, statement: Statement) -> bytes:
        if len(self._prepared) == _PREPARED_MAX:
            self._libpq.send_query(_DEALLOCATE)
            await self._until_answered()
            self._prepared.clear()
        name = b"s%d" % len(self._prepared)
        self._libpq.send_prepare(name, statement.sql.encode(), [kind.oid for kind in statement.types])
        await self._until_answered()
        self._prepared[statement.sql] = name
        return name

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        transformer = Transformer(self._opened)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    async def _until_answered(self) -> PGresult:
        """Send what was handed to libpq, and wait for the result. Raise the error if it is one."""
        self._answer = self._loop.create_future()
        self._flush()
        result = await self._answer
        if result.status in _SUCCESSES:
            return result
        error = error_from_result(result, CLIENT_ENCODING)
        # An error of libpq itself, about the connection, has no code.
        raise error if error.sqlstate else psycopg.OperationalError(str(error))

    def _flush(self) -> None:
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._socket)
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(error)

    def _on_readable(self) -> None:
        if self._answer is None:
            self._stop_watching()
            return
        try:
            self._libpq.consume_input()
            while not self._libpq.is_busy():
                result = self._libpq.get_result()
                if result is None:
                    self._settle()
                    return
                self._result = result
        except psycopg.Error as error:
            self._fail(error)

    def _settle(self) -> None:
        """Pass the result on: the server has nothing to add."""
        answer, self._answer = self._answer, None
        result, self._result = self._result, None
        assert answer is not None
        assert result is not None, "the end of a statement follows its result"
        if not answer.done():
            answer.set_result(result)

    def _fail(self, error: psycopg.Error) -> None:
        """Give the connection up. The server may have told the reason before.

        A success that it told is none: it commits after the result, and says so at the end.
        """
        self._stop_watching()
        if self._result is not None and self._result.status not in _SUCCESSES:
            self._settle()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _stop_watching(self) -> None:
        """Watch the socket no longer: at its end it stays readable."""
        if not self._is_lost:
            self._is_lost = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
