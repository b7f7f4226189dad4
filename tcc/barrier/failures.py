"""Texts of errors that are safe to send to the coordinator and to log.

A text is bounded and can be encoded. It holds no parameters of a statement and no
values that the database quotes from a row. The message of a handler's own exception is kept.
"""

import logging
import re
import time
import traceback
from collections.abc import Callable
from concurrent import futures
from types import TracebackType
from typing import Any

from sqlalchemy.exc import DBAPIError, StatementError

from tcc._internal.plain_text import message_of, plain_text
from tcc.barrier.decisions import Operation
from tcc.branch import Branch

_TRACEBACK_INTERVAL_S = 60.0
# Beyond this number of causes the oldest ones are dropped.
_CAUSES_MAX = 1_000


class HandlerLeakError(Exception):
    """A handler raised an exception that must not pass through futures and tasks: the `__cause__`."""


def may_pass(error: BaseException) -> bool:
    """Return whether an error may pass unchanged through futures, generators and tasks."""
    # asyncio treats a thread's CancelledError as the cancellation of the task that waits for it.
    return isinstance(error, Exception) and not isinstance(error, StopIteration | futures.CancelledError)


def origin(error: BaseException) -> BaseException:
    """Return the error that the handler or the database's driver raised."""
    if isinstance(error, HandlerLeakError) and error.__cause__ is not None:
        return error.__cause__
    # SQLAlchemy's text holds the parameters.
    if isinstance(error, StatementError) and error.orig is not None:
        return error.orig
    return error


def error_text(error: BaseException) -> str:
    """Return the class and message of an error."""
    cause = origin(error)
    if isinstance(error, DBAPIError) or _is_of_a_driver(cause):
        message = _database_text(cause)
    elif isinstance(error, StatementError):
        message = str(error.args[0]) if error.args else ""
    else:
        message = message_of(cause)
    name = type(cause).__name__
    return plain_text(f"{name}: {message}" if message else name)


def _is_of_a_driver(error: BaseException) -> bool:
    """Return whether a database's driver raised the error: a handler may use one without SQLAlchemy."""
    return any(base.__name__ in _DRIVER_ERRORS for base in type(error).__mro__)


def is_lock_timeout(error: BaseException) -> bool:
    """Return whether a statement waited too long for a lock that another transaction holds."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    cause: Any = error.orig
    # PostgreSQL: lock not available. InnoDB: lock wait timeout exceeded.
    return (
        (getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)) == "55P03"
        or bool(cause.args and cause.args[0] == 1205)
        or is_sqlite_busy(cause)
    )


def is_sqlite_busy(cause: object) -> bool:
    """Return whether SQLite found its file locked by another transaction."""
    return str(getattr(cause, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_database_unavailable(error: BaseException) -> bool:
    """Return whether the database is unavailable, so that repeating each item alone is pointless."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


class FailureLog:
    """Logs each failed call in one line, with at most one traceback per cause and minute."""

    def __init__(self, logger: logging.Logger, now: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._now = now
        self._traceback_at: dict[tuple[object, ...], float] = {}

    def record(
        self, branch: Branch, operation: Operation, reason: str, message: str, error: BaseException | None
    ) -> None:
        """Log that a call failed."""
        text = f"{reason}: {message}"
        frames = self._frames_due(branch.action, operation, error) if error is not None else ""
        self._logger.error(
            "%s of gid %s, branch %s, action %s failed: %s%s",
            operation.name,
            *map(plain_text, (branch.gid, branch.branch_id, branch.action)),
            text,
            f"\n{frames}" if frames else "",
            extra={
                "gid": branch.gid,
                "branch_id": branch.branch_id,
                "action": branch.action,
                "operation": operation.name,
                "reason": reason,
            },
        )

    def _frames_due(self, action: str, operation: Operation, error: BaseException) -> str:
        """Return the traceback unless one was logged for this cause within the interval.

        It has only the frames, because the exceptions' texts may quote values.
        """
        innermost = _innermost(error.__traceback__)
        cause = (action, operation, type(origin(error)), innermost)
        now = self._now()
        if now - self._traceback_at.get(cause, -_TRACEBACK_INTERVAL_S) < _TRACEBACK_INTERVAL_S:
            return ""
        self._traceback_at.pop(cause, None)
        self._traceback_at[cause] = now
        if len(self._traceback_at) > _CAUSES_MAX:
            del self._traceback_at[next(iter(self._traceback_at))]
        return "".join(traceback.format_tb(error.__traceback__)).rstrip()


def _innermost(frame: TracebackType | None) -> tuple[str, int] | None:
    if frame is None:
        return None
    while frame.tb_next is not None:
        frame = frame.tb_next
    return frame.tb_frame.f_code.co_filename, frame.tb_lineno


# As PEP 249 names the base of them; asyncpg has its own.
_DRIVER_ERRORS = frozenset({"DatabaseError", "PostgresError"})
_QUOTED = re.compile(r"""(["']).*["']""", re.DOTALL)


def _database_text(cause: BaseException) -> str:
    """Return the database's message without the values that it quotes.

    PostgreSQL quotes values of rows in DETAIL, and in the message if a value is invalid for its
    type (class 22). MySQL quotes them in the message, before the name of the key.
    """
    diagnostics: Any = getattr(cause, "diag", None)
    if diagnostics is not None and diagnostics.message_primary:
        sqlstate, message = str(diagnostics.sqlstate or ""), str(diagnostics.message_primary)
        if sqlstate.startswith("22"):
            message = _QUOTED.sub("…", message)
        return f"{message} ({sqlstate})"
    if cause.args and isinstance(cause.args[0], int) and len(cause.args) > 1:
        number, message, *_ = cause.args
        text, key, name = str(message).rpartition(" for key ")
        return (
            f"{_QUOTED.sub('…', text)}{key}{name} ({number})"
            if key
            else f"{_QUOTED.sub('…', name)} ({number})"
        )
    # The lines after the first quote rows (DETAIL) and statements (LINE).
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    message = message_of(cause).partition("\n")[0] if sqlstate else message_of(cause)
    return _QUOTED.sub("…", message) if sqlstate.startswith("22") else message
