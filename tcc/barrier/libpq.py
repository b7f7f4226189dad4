"""The barrier's statements on psycopg's libpq layer: prepared once, and BEGIN goes with the first of them.

A cursor of psycopg finds out from each value how to send it, and waits for BEGIN alone: together, half
of what a statement costs. Here all values are texts and whole numbers.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from psycopg import generators, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, PipelineStatus, TransactionStatus
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

# The types of parameters, by number in PostgreSQL's catalog: text and bigint.
_TYPES = {str: 25, int: 20}
_SUCCESSES = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}
# Since libpq 14.
_HAS_PIPELINE = pq.version() >= 140_000
_BEGIN = b"BEGIN"
_NO_SUCH_STATEMENT = b"26000"
_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # it has no type hints

# As psycopg's `wait` takes it.
Exchange = Generator[Any, Any, Any]
# The text of a statement, and the types of its parameters.
_Key = tuple[bytes, tuple[int, ...]]
# A statement, its parameters, and their types. Before 3.3, psycopg takes lists alone.
_Step = tuple[bytes, list[bytes], tuple[int, ...]]


@lru_cache(256)
def _numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with numbered parameters, and their names in order."""
    compiled: Any = text(statement).compile(dialect=_DIALECT)
    return str(compiled).encode(), tuple(compiled.positiontup or ())


class LibpqStatements:
    """The statements of one connection of psycopg, sync or async. It lives as long as the connection."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._libpq = driver.pgconn
        # By the text and the types of the parameters. BEGIN is prepared first, so that the others exist while
        # it does: psycopg deallocates all of them after a rollback.
        self._prepared: dict[_Key, bytes] = {}
        self._numbers = count()

    @property
    def may_begin(self) -> bool:
        """True if no transaction is open, and a plain BEGIN is what the connection begins one with."""
        driver, libpq = self.driver, self._libpq
        chosen = (driver.isolation_level, driver.read_only, driver.deferrable)
        return bool(
            _HAS_PIPELINE
            and libpq.transaction_status == TransactionStatus.IDLE
            and libpq.pipeline_status == PipelineStatus.OFF
            and libpq.parameter_status(b"client_encoding") == b"UTF8"
            and not driver.autocommit
            and chosen == (None, None, None)
        )

    def exchange(self, statement: str, parameters: Mapping[str, Any], *, begins: bool) -> Exchange | None:
        """Return what `wait` of the connection runs; it results in the rows. None: a cursor is needed.

        `begins`: send BEGIN before, which must have happened in every transaction.
        """
        sql, names = _numbered(statement)
        values = [parameters[name] for name in names]
        types = tuple([_TYPES.get(type(value), 0) for value in values])
        if 0 in types:
            return None
        return self._exchanged(sql, [str(value).encode() for value in values], types, begins=begins)

    def _exchanged(
        self, sql: bytes, values: list[bytes], types: tuple[int, ...], *, begins: bool
    ) -> Exchange:
        begin: list[_Step] = [(_BEGIN, [], ())] if begins else []
        steps = [*begin, (sql, values, types)]
        try:
            results = yield from self._pipelined(steps)
            if begins and _is_deallocated(results[0]):
                # Then nothing was done.
                self._prepared.clear()
                results = yield from self._pipelined(steps)
        except BaseException:
            # What it has not answered would be taken for the answer to something else.
            self._libpq.finish()
            raise
        return self._rows(results)

    def _pipelined(self, steps: Iterable[_Step]) -> Generator[Any, Any, list[Any]]:
        """Send statements at once. Return all results but that of the pipeline's end."""
        libpq = self._libpq
        results: list[Any] = []
        # Per result: the statement that it says is prepared.
        prepared: list[tuple[_Key, bytes] | None] = []
        libpq.enter_pipeline_mode()
        for step in steps:
            prepared += self._send(*step)
        libpq.pipeline_sync()
        yield from generators.send(libpq)
        while not results or results[-1].status != ExecStatus.PIPELINE_SYNC:
            results += yield from generators.fetch_many(libpq)
        libpq.exit_pipeline_mode()
        del results[-1]
        for one, result in zip(prepared, results, strict=True):
            if one is not None and result.status == ExecStatus.COMMAND_OK:
                key, name = one
                self._prepared[key] = name
        return results

    def _send(
        self, sql: bytes, values: list[bytes], types: tuple[int, ...]
    ) -> list[tuple[_Key, bytes] | None]:
        """Send a statement. Return, for each of its results, the statement that it says is prepared."""
        if self.driver.prepare_threshold is None:  # as its owner has chosen
            self._libpq.send_query_params(sql, values, list(types))
            return [None]
        name = self._prepared.get((sql, types))
        if name is not None:
            self._libpq.send_query_prepared(name, values)
            return [None]
        name = b"tcc_%d" % next(self._numbers)
        self._libpq.send_prepare(name, sql, list(types))
        self._libpq.send_query_prepared(name, values)
        return [((sql, types), name), None]

    def _rows(self, results: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of the last result. Raise the first error."""
        for result in results:
            if result.status not in _SUCCESSES:
                raise error_from_result(result)
        rows = Transformer(self.driver)
        rows.set_pgresult(results[-1])
        return rows.load_rows(0, results[-1].ntuples, tuple)


def _is_deallocated(result: Any) -> bool:
    return bool(result.error_field(DiagnosticField.SQLSTATE) == _NO_SUCH_STATEMENT)
