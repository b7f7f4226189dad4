"""One connection to the log's database: one statement or one pipeline at a time, prepared at its first use.

psycopg opens the connection. Statements go through its libpq layer directly: the socket is watched
once and not for each statement, parameters have known types, and only rows are decoded.
"""

import asyncio
import contextlib
import select
from collections.abc import Sequence
from typing import Any, TypeAlias

import psycopg
from msgspec import Struct
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult

from coordinator.log.servers import CLIENT_ENCODING, Place, shut_down
from coordinator.log.statements import Statement

# Lists have a statement for each choice of conditions; the server keeps no more of them than this. Each
# further cell has its own writes, claims and reads, which are sent again and again.
_PREPARED_MAX = 500
_PREPARED_OF_CELL = 16
_DEALLOCATE = b"DEALLOCATE ALL"
_SUCCESSES = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}
_IDLE = TransactionStatus.IDLE


# A statement and its parameters, in order.
BoundStatement: TypeAlias = tuple[Statement, Sequence[Any]]


class StatementResult(Struct, frozen=True):
    """The result of a statement."""

    rows: list[tuple[Any, ...]]
    # The number of rows written or read.
    count: int


class Connection:
    """A connection to the server at `place`. It ends at any failure of its own: see `ended`."""

    def __init__(self, opened: AsyncConnection[Any], place: Place, *, cells: int = 1) -> None:
        """Take over an open connection, which no one else may use from now on. `cells`: those it is for."""
        self.place = place
        self._opened = opened
        self._libpq = opened.pgconn
        self._socket = self._libpq.socket
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._prepared_max = _PREPARED_MAX + _PREPARED_OF_CELL * (cells - 1)
        # By the text of the statement.
        self._prepared: dict[str, bytes] = {}
        # Of what is under way.
        self._answer: asyncio.Future[list[PGresult]] | None = None
        self._results: list[PGresult] = []
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
        self._send(name, values)
        (result,) = await self._flushed()
        return self._read(result)

    async def execute_together(self, bound: Sequence[BoundStatement]) -> list[StatementResult]:
        """Send statements back to back, and return their results. All take effect, or none.

        It is one pipeline, which PostgreSQL carries out as one transaction: it commits at the end. `bound`
        has few: one for each cell.

        Raises:
            psycopg.Error, Exception: see `execute`.
        """
        encoded = [statement.encode(parameters) for statement, parameters in bound]
        names = await self._names([statement for statement, _ in bound])
        self._libpq.enter_pipeline_mode()
        for name, values in zip(names, encoded, strict=True):
            self._send(name, values)
        self._libpq.pipeline_sync()
        try:
            results = await self._flushed()
        except psycopg.Error:
            self._leave_pipeline()
            raise
        self._libpq.exit_pipeline_mode()
        return [self._read(result) for result in results]

    def _send(self, name: bytes, values: Sequence[bytes | None]) -> None:
        self._libpq.send_query_prepared(name, values, [Format.BINARY] * len(values), Format.BINARY)

    def _read(self, result: PGresult) -> StatementResult:
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
        return self._is_lost or self._is_readable()

    def shut_down(self) -> None:
        """End the connection at its socket, so that the statement under way fails."""
        shut_down(self._opened)

    def close(self) -> None:
        """Close the connection. A statement under way must have been given up."""
        self._stop_watching()
        self._libpq.finish()

    async def _names(self, together: Sequence[Statement]) -> list[bytes]:
        """Return the names of prepared statements that are sent together."""
        new = {statement.sql: statement for statement in together if statement.sql not in self._prepared}
        if len(self._prepared) + len(new) > self._prepared_max:
            await self._forget_prepared()
            new = {statement.sql: statement for statement in together}
        for statement in new.values():
            await self._prepare(statement)
        return [self._prepared[statement.sql] for statement in together]

    async def _forget_prepared(self) -> None:
        self._libpq.send_query(_DEALLOCATE)
        await self._flushed()
        self._prepared.clear()

    async def _prepare(self, statement: Statement) -> bytes:
        if len(self._prepared) == self._prepared_max:
            await self._forget_prepared()
        name = b"s%d" % len(self._prepared)
        self._libpq.send_prepare(name, statement.sql.encode(), [kind.oid for kind in statement.types])
        await self._flushed()
        self._prepared[statement.sql] = name
        return name

    def _rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        transformer = Transformer(self._opened)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _flushed(self) -> asyncio.Future[list[PGresult]]:
        """Send what was handed to libpq. Return the future of its results, or of their first error."""
        answer = self._answer = self._loop.create_future()
        self._flush()
        if self._is_readable():  # it may have failed after the previous answer, which was reported then
            self._on_readable()
        return answer

    def _leave_pipeline(self) -> None:
        if not self._is_lost and self._libpq.pipeline_status:
            self._libpq.exit_pipeline_mode()

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
            # uvloop reports only once that a connection has failed, whatever is still to be read on it.
            while not self._is_answered() and self._is_readable():
                pass
        except psycopg.Error as error:
            self._fail(error)

    def _is_readable(self) -> bool:
        """Return whether the server has sent something, or the connection has ended."""
        return bool(self._poll.poll(0))

    def _is_answered(self) -> bool:
        """Read once. Return whether all results have been read; then they are passed on."""
        self._libpq.consume_input()
        result: PGresult | None = None
        while not self._libpq.is_busy():
            before, result = result, self._libpq.get_result()
            if self._is_end(result):
                self._settle()
                return True
            if result is not None:
                self._results.append(result)
            elif before is None:
                return False  # libpq has nothing more, and the server has not ended the pipeline yet
        return False

    def _is_end(self, result: PGresult | None) -> bool:
        """Return whether this is what follows all results. In a pipeline nothing follows each of them."""
        if self._libpq.pipeline_status:
            return result is not None and result.status == ExecStatus.PIPELINE_SYNC
        return result is None

    def _settle(self) -> None:
        """Pass the results on: the server has nothing to add."""
        answer, self._answer = self._answer, None
        results, self._results = self._results, []
        assert answer is not None
        assert results, "the end of a statement follows its result"
        if answer.done():
            return
        for result in results:
            if result.status not in _SUCCESSES:
                answer.set_exception(_error_of(result))
                return
        answer.set_result(results)

    def _fail(self, error: psycopg.Error) -> None:
        """Give the connection up. The server may have told the reason before.

        A success that it told is none: it commits after the result, and says so at the end.
        """
        self._stop_watching()
        if any(result.status not in _SUCCESSES for result in self._results):
            self._settle()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _stop_watching(self) -> None:
        """Watch the socket no longer: at its end it stays readable."""
        if self._is_lost:
            return
        self._is_lost = True
        for stop in (self._loop.remove_reader, self._loop.remove_writer):
            with contextlib.suppress(OSError):  # libpq has closed the socket: it is watched no longer
                stop(self._socket)


def _error_of(failed: PGresult) -> psycopg.Error:
    error = error_from_result(failed, CLIENT_ENCODING)
    # An error of libpq itself, about the connection, has no code.
    return error if error.sqlstate else psycopg.OperationalError(str(error))
