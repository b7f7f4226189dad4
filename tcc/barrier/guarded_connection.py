"""The connection of one local transaction, which its handler may use but not end.

The barrier is correct only if one COMMIT covers both the barrier's row and the business
change. Therefore:

- `commit`, `rollback`, `close` and SQL with the same effect (on MySQL and MariaDB also DDL)
  raise `TransactionControlError` at the call. Savepoints (`begin_nested`) are allowed.
- After the handler, the transaction must still be the one that was begun, and must still
  be usable. If the driver knows this, the check is free (libpq's transaction
  status: PostgreSQL aborts a transaction at its first error). Otherwise a savepoint is set
  before the handler and released after it. Anything that ends a transaction (an implicit
  commit of MySQL's DDL, a deadlock, SQLite's OR ROLLBACK) also ends its savepoints.

The driver's own connection (`get_raw_connection`) is not guarded.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, Dialect, Engine, RootTransaction, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.util import await_only

from tcc.barrier.decisions import CallResult, OutcomeCode

# libpq's PGTransactionStatusType.
_IN_TRANSACTION, _IN_ERROR = 2, 3
_SAVEPOINT = "tcc_handler"
# Where a pooled connection keeps its statements.
_STATEMENTS = "tcc_statements"

_BLANKS = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_ENDS_TRANSACTION = re.compile(
    rf"""{_BLANKS}
        (?:COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|XA\s
           |SET\s+(?:SESSION\s+|LOCAL\s+|@@)?AUTOCOMMIT
           |ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b))\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# MySQL's manual, "Statements That Cause an Implicit Commit", and MariaDB's.
_COMMITS_IMPLICITLY = re.compile(
    rf"""{_BLANKS}
        (?:(?:CREATE|DROP)(?!\s+TEMPORARY\s)|ALTER|RENAME|TRUNCATE|GRANT|REVOKE|ANALYZE|CHECK|OPTIMIZE|REPAIR
           |FLUSH|RESET|LOCK\s+TABLES?|UNLOCK\s+TABLES?|CACHE\s+INDEX|LOAD\s+INDEX|INSTALL|UNINSTALL
           |SET\s+PASSWORD)\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


class TransactionControlError(RuntimeError):
    """A handler tried to end the barrier's transaction. The transaction was not ended.

    The participant commits when the handler returns, and rolls back when it raises. For a part
    that may fail alone, use `begin_nested()`.
    """


class TransactionLostError(Exception):
    """The handler returned, but its transaction cannot be committed. This call committed nothing."""

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(reason, message)
        self.result = CallResult(OutcomeCode.FAILED, reason, message, permanent=permanent)


class _DriverStatement(NamedTuple):
    """A statement in the form of the database's driver."""

    text: str
    # The names of the parameters in their order; None if the driver takes them by name.
    names: list[str] | None
    returns_rows: bool


# The barrier has about ten texts for a dialect; on MySQL they depend on the size of the batch.
@lru_cache(256)
def _driver_statement(statement: str, dialect: Dialect) -> _DriverStatement:
    compiled: Any = text(statement).compile(dialect=dialect)
    returns_rows = statement.lstrip().startswith(("SELECT", "WITH")) or "RETURNING" in statement
    return _DriverStatement(
        str(compiled), compiled.positiontup if compiled.positional else None, returns_rows
    )


def _in_order(parameters: dict[str, Any], names: list[str] | None) -> Any:
    return parameters if names is None else [parameters[name] for name in names]


async def _wait_async(driver: Any, exchange: Any) -> Any:
    async with driver.lock:
        return await driver.wait(exchange)


class GuardedConnection(Connection):
    """A connection with one transaction. Only `finish` commits it, and only `abandon` rolls it back."""

    _may_end = False
    _in_handler = False
    _begun: RootTransaction
    # The statement that undoes `limit_lock_wait`, for databases where that outlives the transaction.
    _lock_wait_before = ""
    # Set if the transaction was begun by it, until the handler runs.
    _libpq: Any = None

    @classmethod
    def begun(cls, engine: Engine) -> Self:
        """Return a connection of the engine's pool in a new transaction. Raises DBAPIError."""
        guarded = cls(engine)
        try:
            guarded._begun = guarded.begin()
        except BaseException:
            guarded._may_end = True
            guarded.close()
            raise
        return guarded

    def finish(self) -> None:
        """Commit, and return the connection to the pool.

        Raises TransactionLostError if the transaction is lost, DBAPIError if its COMMIT fails.
        """
        self._check()
        self._may_end = True
        self._begun.commit()
        self._restore_lock_wait()
        self._close_committed()

    def _close_committed(self) -> None:
        # Without the pool's rollback, which most drivers send to the database.
        pooled: Any = self._dbapi_connection
        if pooled is not None:
            self._dbapi_connection = None
            pooled._close_special(transaction_reset=True)  # noqa: SLF001 - as SQLAlchemy's own close()
        self.close()

    def limit_lock_wait(self, wait_ms: int) -> None:
        """Let a statement of this transaction fail that waits longer for a lock: `is_lock_timeout`."""
        match self.dialect.name:
            case "postgresql":
                self.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
            case "sqlite":
                before = self.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
                self._lock_wait_before = f"PRAGMA busy_timeout = {before}"
                self.exec_driver_sql(f"PRAGMA busy_timeout = {wait_ms}")
            case _:
                before = self.exec_driver_sql("SELECT @@SESSION.innodb_lock_wait_timeout").scalar_one()
                self._lock_wait_before = f"SET SESSION innodb_lock_wait_timeout = {before}"
                self.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {max(1, wait_ms // 1000)}")

    def _restore_lock_wait(self) -> None:
        if not self._lock_wait_before or self.closed or self.invalidated:
            return
        try:
            # On the driver's cursor, because SQLAlchemy would begin another transaction.
            cursor = self.connection.cursor()
            cursor.execute(self._lock_wait_before)
            cursor.close()
        except Exception:  # noqa: BLE001 - the connection is of no more use, whatever the driver raises
            self.invalidate()

    def abandon(self) -> None:
        """Roll back any open transaction, and return the connection to the pool."""
        self._may_end = True
        try:
            if self._begun.is_active:
                self._begun.rollback()
            elif not self.closed and not self.invalidated:
                # SQLAlchemy may regard it as ended while it is still open in the database.
                self.connection.rollback()
            self._restore_lock_wait()
        finally:
            self.close()

    def before_handler(self) -> None:
        """Set a savepoint if the driver cannot distinguish one transaction from the next."""
        if not self._is_libpq:
            self.run(f"SAVEPOINT {_SAVEPOINT}")
        self._in_handler = True
        self._libpq = None  # psycopg deallocates all statements after a rollback, even to a savepoint

    def after_handler(self) -> None:
        """Raise TransactionLostError unless the transaction is usable and the one that was begun."""
        self._in_handler = False
        self._check()
        if self._is_libpq:
            return
        try:
            self.run(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            raise TransactionLostError(
                "TRANSACTION_ABORTED",
                "the database ended the transaction while the handler ran, and the handler went on: "
                "a statement committed implicitly, or failed and its error was caught",
            ) from error

    def is_in_transaction(self) -> bool:
        """Return whether the database has a transaction open here; False in AUTOCOMMIT mode."""
        driver: Any = self.connection.driver_connection
        if self._is_libpq:
            return bool(driver.info.transaction_status == _IN_TRANSACTION)
        if self.dialect.name == "sqlite":
            return bool(driver.in_transaction)
        self.before_handler()
        try:
            self.after_handler()
        except TransactionLostError:
            return False
        return True

    def run(
        self, statement: str, parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> Sequence[Any]:
        """Execute a statement of the barrier by the driver, and return its rows. Raises DBAPIError.

        SQLAlchemy's own execution takes several times what the driver takes.
        """
        exchange = self._exchange(statement, parameters or {})
        if exchange is not None:
            return self._wait(exchange, statement, parameters)
        sql, names, returns_rows = _driver_statement(statement, self.dialect)
        rows: Sequence[Any] = ()
        cursor = self.connection.cursor()
        try:
            if isinstance(parameters, list):
                cursor.executemany(sql, [_in_order(each, names) for each in parameters])
            else:
                cursor.execute(sql, _in_order(parameters or {}, names))
                rows = cursor.fetchall() if returns_rows else ()
            cursor.close()
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy raises it again, as its own execution does
            self._handle_dbapi_exception(error, statement, parameters, cursor, None)
        return rows

    def _exchange(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any]) -> Any:
        """Return the exchange that executes a statement with psycopg; None if its cursor has to."""
        if self.dialect.driver != "psycopg" or not isinstance(parameters, Mapping):
            return None
        if self._libpq is not None:
            return self._libpq.exchange(statement, parameters, begins=False)
        pooled = self.connection
        statements = pooled.info.get(_STATEMENTS)
        if statements is None:
            from tcc.barrier.libpq import LibpqStatements  # noqa: PLC0415 - psycopg is there: it is the driver

            statements = pooled.info[_STATEMENTS] = LibpqStatements(pooled.driver_connection)
        if not statements.may_begin:
            return None
        exchange = statements.exchange(statement, parameters, begins=True)
        if exchange is not None:
            self._libpq = statements
        return exchange

    def _wait(self, exchange: Any, statement: str, parameters: Any) -> Sequence[Any]:
        driver: Any = self._libpq.driver
        try:
            if self.dialect.is_async:
                return await_only(_wait_async(driver, exchange))
            with driver.lock:
                return driver.wait(exchange)  # type: ignore[no-any-return] # rows
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy raises it again, as its own execution does
            self._handle_dbapi_exception(error, statement, parameters, None, None)

    # SQLAlchemy's statements all pass through these three.

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute as `Connection.execute`. Raises TransactionControlError for SQL that ends a transaction."""
        if self._in_handler:
            self._check_statement(statement)
        return super().execute(statement, *args, **kwargs)

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        """Execute as `Connection.scalar`. Raises TransactionControlError as `execute` does."""
        if self._in_handler:
            self._check_statement(statement)
        return super().scalar(statement, *args, **kwargs)

    def exec_driver_sql(self, statement: str, *args: Any, **kwargs: Any) -> Any:
        """Execute as `Connection.exec_driver_sql`. Raises TransactionControlError as `execute` does."""
        if self._in_handler:
            self._check_statement(statement)
        return super().exec_driver_sql(statement, *args, **kwargs)

    # Transaction objects and Sessions end a transaction through these methods. SQLAlchemy also has
    # events for this, but they cost time at each statement.

    def _commit_impl(self) -> None:
        if not self._may_end:
            self._refuse("commit() of its transaction or session")
        super()._commit_impl()

    def _rollback_impl(self) -> None:
        if not self._may_end:
            self._refuse("rollback() of its transaction or session")
        super()._rollback_impl()

    def commit(self) -> None:
        """Refuse. Raises TransactionControlError."""
        self._refuse("commit()")

    def rollback(self) -> None:
        """Refuse. Raises TransactionControlError."""
        self._refuse("rollback()")

    def close(self) -> None:
        """Refuse until the transaction has ended. Raises TransactionControlError."""
        if not self._may_end:
            self._refuse("close()")
        super().close()

    @property
    def _is_libpq(self) -> bool:
        return self.dialect.driver in {"psycopg", "psycopg_async", "psycopg2"}

    def _refuse(self, call: str) -> None:
        raise TransactionControlError(
            f"a handler must not call {call}: the transaction belongs to the barrier, which commits it when "
            "the handler returns and rolls it back when it raises; for a savepoint use begin_nested()"
        )

    def _check_statement(self, statement: object) -> None:
        commits_implicitly = self.dialect.name in {"mysql", "mariadb"}
        if commits_implicitly and isinstance(statement, ExecutableDDLElement):
            self._refuse(type(statement).__name__)
        text = statement.text if isinstance(statement, TextClause) else statement
        if isinstance(text, str) and (
            _ENDS_TRANSACTION.match(text) or (commits_implicitly and _COMMITS_IMPLICITLY.match(text))
        ):
            self._refuse(repr(text.strip()[:40]))

    def _check(self) -> None:
        if self.in_nested_transaction():
            raise TransactionLostError(
                "SAVEPOINT_OPEN", "the handler returned with an open savepoint", permanent=True
            )
        if self.invalidated:
            raise TransactionLostError(
                "DATABASE_UNAVAILABLE", "the connection was lost while the handler ran"
            )
        if self.get_transaction() is not self._begun or not self._begun.is_active:
            raise TransactionLostError(
                "TRANSACTION_ENDED", "the handler ended the barrier's transaction", permanent=True
            )
        if self._is_libpq:
            driver: Any = self.connection.driver_connection
            _check_status(driver.info.transaction_status)


def _check_status(status: int) -> None:
    if status == _IN_TRANSACTION:
        return
    if status == _IN_ERROR:
        raise TransactionLostError(
            "TRANSACTION_ABORTED",
            "a statement of the handler failed and its error was caught: PostgreSQL rolls the whole "
            "transaction back; let the error out, or run the statement within begin_nested()",
        )
    raise TransactionLostError(
        "TRANSACTION_ENDED", f"the barrier's transaction is not open any more (status {status})"
    )
