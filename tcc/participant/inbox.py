"""The inbox: a message from outside the coordinator (a queue, a webhook) takes effect once.

Its barrier row has no gid, which no transaction can have. It is written in the local
transaction of the consumer's own block.
"""

import time
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tcc.barrier.decisions import BarrierDecision, BranchKind, Operation
from tcc.barrier.plans import BarrierSql, Plan, decide_one
from tcc.branch import Branch

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

_KEY_BYTES_MAX = 128
_ACTION = "inbox"


class Once:
    """The block of a message, from `Participant.once`."""

    def __init__(self, participant: str, block: Any, sql: BarrierSql, message_id: str) -> None:
        self._participant = participant
        self._block = block
        self._sql = sql
        self._key = inbox_key(participant, message_id)
        self._is_first = False

    async def __aenter__(self) -> "AsyncConnection | None":
        self._check(is_async=True)
        decision, db = await self._block.begin(self._plan())
        self._is_first = decision is BarrierDecision.RUN
        if self._is_first:
            return db  # type: ignore[no-any-return] # an AsyncBlock's
        await self._block.roll_back()
        return None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_first:
            await (self._block.commit() if error is None else self._block.roll_back())

    def __enter__(self) -> "Connection | None":
        self._check(is_async=False)
        decision, db = self._block.begin(self._plan())
        self._is_first = decision is BarrierDecision.RUN
        if self._is_first:
            return db  # type: ignore[no-any-return] # a SyncBlock's
        self._block.roll_back()
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_first:
            return
        if error is None:
            self._block.commit()
        else:
            self._block.roll_back()

    def _plan(self) -> Plan[BarrierDecision]:
        # Its age counts from now.
        branch = Branch("", self._key, _ACTION, expires_at_ms=int(time.time() * 1000))
        return decide_one(self._sql, Operation.CONFIRM, branch, kind=BranchKind.MESSAGE)

    def _check(self, *, is_async: bool) -> None:
        if self._block.is_async is not is_async:
            engine, form = ("an AsyncEngine", "async with") if self._block.is_async else ("an Engine", "with")
            raise TypeError(
                f"the database of participant {self._participant} is {engine}; "
                f"write: {form} {self._participant}.once(message_id) as db"
            )


def inbox_key(participant: str, message_id: str) -> str:
    """Return the branch_id of a message's row: participants may share a table."""
    if not isinstance(message_id, str):
        raise TypeError(f"message_id is a text, not {type(message_id).__name__}")
    if not message_id or "\0" in message_id:
        raise ValueError("message_id is not empty, and has no NUL")
    key = f"{participant}/{message_id}"
    encoded = key.encode()
    return key if len(encoded) <= _KEY_BYTES_MAX else f"sha256:{sha256(encoded).hexdigest()}"
