"""The one place that classifies what can go wrong with a statement of the log.

There are four kinds, and no fifth: whatever is not known is REJECTED, which concerns one
statement. So no error of the database ends the process or holds up what does not have it.
"""

import re
from enum import Enum

import psycopg

from coordinator.core.errors import LogError, LogRejected, LogUnavailable

_RETRY_AFTER_S = 0.5


class FailureKind(Enum):
    """What follows from an error."""

    # The connection is gone, and the outcome is unknown: connect again, repeat.
    DISCONNECTED = "disconnected"
    # The statement lost a race, and had no effect: repeat it.
    CONFLICT = "conflict"
    # This statement, or one of its rows, is bad: it had no effect; others may succeed.
    REJECTED = "rejected"
    # The log as a whole cannot be used: wait, repeat.
    UNAVAILABLE = "unavailable"


class StatementTooLong(LogUnavailable):
    """The server gave up the statement, which had no effect. The server is available for other statements."""


# The longest prefix of an SQLSTATE decides. Classes and conditions that are missing are REJECTED:
# data (22), constraints (23), limits (54), triggers (P0), corrupted data and internal errors (XX).
_KINDS = {
    "08": FailureKind.DISCONNECTED,
    "40": FailureKind.CONFLICT,
    "40003": FailureKind.DISCONNECTED,  # statement_completion_unknown
    "55P03": FailureKind.REJECTED,  # lock_not_available: only a batch of several cells does not wait
    "55006": FailureKind.CONFLICT,  # object_in_use
    "72000": FailureKind.CONFLICT,  # snapshot_too_old
    "26": FailureKind.DISCONNECTED,  # a prepared statement is gone: the session is not ours
    "0A": FailureKind.UNAVAILABLE,
    "0B": FailureKind.UNAVAILABLE,
    "0L": FailureKind.UNAVAILABLE,
    "0P": FailureKind.UNAVAILABLE,
    "25": FailureKind.UNAVAILABLE,  # read-only, among others
    "25P03": FailureKind.DISCONNECTED,  # idle_in_transaction_session_timeout
    "25P04": FailureKind.DISCONNECTED,  # transaction_timeout
    "28": FailureKind.UNAVAILABLE,
    "3D": FailureKind.UNAVAILABLE,
    "3F": FailureKind.UNAVAILABLE,
    "42": FailureKind.UNAVAILABLE,  # a table or a privilege is missing
    "53": FailureKind.UNAVAILABLE,  # the disk is full, among others
    "53200": FailureKind.REJECTED,  # out_of_memory: a smaller statement may succeed
    "53400": FailureKind.REJECTED,  # configuration_limit_exceeded: likewise
    "55": FailureKind.UNAVAILABLE,
    "57": FailureKind.UNAVAILABLE,
    "57014": FailureKind.REJECTED,  # query_canceled: see StatementTooLong
    "57P01": FailureKind.DISCONNECTED,  # admin_shutdown
    "57P02": FailureKind.DISCONNECTED,  # crash_shutdown
    "57P03": FailureKind.DISCONNECTED,  # cannot_connect_now
    "57P04": FailureKind.DISCONNECTED,  # database_dropped
    "57P05": FailureKind.DISCONNECTED,  # idle_session_timeout
    "58": FailureKind.UNAVAILABLE,
    "F0": FailureKind.UNAVAILABLE,
}
# Errors that psycopg raises itself, without a message of the server.
_ABOUT_THE_CONNECTION = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
# Citus: a node was lost during a transaction, or at its commit. They have the code of internal errors.
_NODE_LOST = ("failure on connection marked as essential", "could not commit transaction for shard")
_QUOTED = re.compile(r"""(["']).*["']""", re.DOTALL)


def kind_of(error: Exception) -> FailureKind:
    """Return the kind of an error that a statement, or the connection for it, has raised."""
    sqlstate = getattr(error, "sqlstate", None)
    if not sqlstate:
        is_lost = isinstance(error, _ABOUT_THE_CONNECTION)
        return FailureKind.DISCONNECTED if is_lost else FailureKind.REJECTED
    if is_about_a_node(error):
        return FailureKind.DISCONNECTED
    return _KINDS.get(sqlstate) or _KINDS.get(sqlstate[:2]) or FailureKind.REJECTED


def is_about_names(error: Exception) -> bool:
    """Return whether a name or a privilege is missing: of one cell, and others work over this connection."""
    return (getattr(error, "sqlstate", None) or "").startswith(("3F", "42"))


def is_about_a_node(error: Exception) -> bool:
    """Return whether a server reports that one behind it is lost (Citus). The session with it goes on."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    return sqlstate.startswith("08") or (sqlstate == "XX000" and str(error).startswith(_NODE_LOST))


def refusal(name: str, error: Exception) -> LogError:
    """Return what the callers of the statement `name` get for an error that is not repeated here."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return StatementTooLong(_no_answer(name, error), detail=_text(error), retry_after_s=_RETRY_AFTER_S)
    if kind_of(error) is FailureKind.REJECTED:
        return LogRejected(f"the transaction log rejected {name}{_sqlstate(error)}", detail=_text(error))
    return unreachable(name, error)


def unreachable(name: str, error: Exception) -> LogUnavailable:
    """Return what callers get if no connection could be made, whatever the error: nothing was sent."""
    return LogUnavailable(_no_answer(name, error), detail=_text(error), retry_after_s=_RETRY_AFTER_S)


def _no_answer(name: str, error: Exception) -> str:
    return f"the transaction log did not answer {name}{_sqlstate(error)}"


def _sqlstate(error: Exception) -> str:
    sqlstate = getattr(error, "sqlstate", None)
    return f" (SQLSTATE {sqlstate})" if sqlstate else ""


def _text(error: Exception) -> str:
    """Return the error in one line, without values of parameters and rows.

    PostgreSQL quotes them in DETAIL and CONTEXT, and in the message if a value is invalid (class 22).
    """
    diagnostics = getattr(error, "diag", None)
    message = (diagnostics and diagnostics.message_primary) or str(error) or type(error).__name__
    if (getattr(error, "sqlstate", None) or "").startswith("22"):
        message = _QUOTED.sub("…", message)
    return " ".join(message.split())
