"""The transaction log as one row: the coordinator's own code turns transactions into columns and back.

What the SQL of `coordinator/log/statements.py` does to the columns is said here once
more; versions and owners are the world's (`world`), which compares them.
"""

from typing import Any

from coordinator.core.model import Transaction, TransactionState
from coordinator.log.rows import (
    Columns,
    full_columns,
    insert_columns,
    is_begun,
    is_plain,
    is_saved,
    plain_columns,
    record,
)
from coordinator.log.statements import RECORD

Row = tuple[Any, ...]

_POSITION = {name: position for position, name in enumerate(RECORD)}
# A moment that passed; nothing reads it but whether it is there.
_THEN = 1.0
_OWNER = "owner"


def inserted(tx: Transaction) -> Row:
    """The row that `statements.INSERT` makes."""
    values: dict[str, Any] = dict.fromkeys(RECORD)
    values |= {"created_at": _THEN, "stuck": False, "waiting_on": ""}
    values |= {"cancel_reason": 0, "cancel_branch_id": "", "cancel_detail": "", "cancel_message": ""}
    values |= _only(insert_columns((tx,)))
    values["decided_at"] = _THEN if TransactionState(values["state"]).decided else None
    return _row(values)


def saved(row: Row, tx: Transaction) -> Row:
    """The row that `statements.SAVE_PLAIN` or `SAVE_FULL` makes of `row`."""
    values = dict(zip(RECORD, row, strict=True))
    if is_plain(tx):
        values |= {**_only(plain_columns((tx,))), "progress": None, "stuck": False, "waiting_on": ""}
        values |= {"cancel_reason": 0, "cancel_detail": ""}
    else:
        changes = _only(full_columns((tx,)))
        values |= {key: value for key, value in changes.items() if key not in _JOINED or value is not None}
    state = TransactionState(values["state"])
    values["decided_at"] = _THEN if state.decided else None
    values["ended_at"] = _THEN if state.ended else None
    return _row(values)


def taken(row: Row) -> Row:
    """Return the row after a coordinator has taken it over."""
    return _row({**dict(zip(RECORD, row, strict=True)), "next_attempt_at": None, "waiting_on": ""})


def released(row: Row, now: float) -> Row:
    """The row after its owner gave it up."""
    return _row({**dict(zip(RECORD, row, strict=True)), "next_attempt_at": now, "waiting_on": ""})


def loaded(row: Row) -> Transaction:
    """Return what a reader of the row knows; the version only means that it was written."""
    return record(_named(row, version=1)).usable().tx


def holds_insert(row: Row, tx: Transaction) -> bool:
    """Return whether an earlier attempt inserted `tx`, if the row is ours and in its first version."""
    return is_begun(tx, _named(row, version=1), _OWNER)


def holds_save(row: Row, tx: Transaction) -> bool:
    """Return whether an earlier attempt saved `tx`, given that the row is ours and in the next version."""
    return is_saved(tx, _named(row, version=tx.version + 1), _OWNER)


_JOINED = ("branches", "payloads", "participants")


def _only(columns: Columns) -> dict[str, Any]:
    return {name: values[0] for name, values in columns.items()}


def _row(values: dict[str, Any]) -> Row:
    """Without owner and version."""
    return tuple(None if name in ("owner", "version") else values[name] for name in RECORD)


def _named(row: Row, *, version: int) -> Row:
    columns = list(row)
    columns[_POSITION["owner"]], columns[_POSITION["version"]] = _OWNER, version
    return tuple(columns)
