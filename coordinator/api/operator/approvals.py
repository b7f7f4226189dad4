"""Two persons for a command: one operator requests it, and it is carried out when another repeats it.

A request is a record in the audit chain, with the arguments of the command. So it is durable, every
coordinator knows it, and no person can change or remove it unnoticed. The record of the command that
was carried out names the requests that it used up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coordinator.api.operator.requests import OperatorContext
from coordinator.core.audit import AuditRecord
from coordinator.core.errors import ApprovalRequired
from coordinator.ports.clock import Clock
from coordinator.ports.operator_log import AuditFilter, OperatorLog
from coordinator.security.caller import CALLER

REQUEST_SUFFIX = ".request"
# Records of one kind about one target that are read, the newest.
_RECORDS_MAX = 1_000


class Approvals:
    """The requests that wait for a second person."""

    def __init__(self, log: OperatorLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def used(
        self, action: str, target: str, arguments: Mapping[str, str], context: OperatorContext
    ) -> list[int]:
        """Return the requests that this command uses up; none: no second person is needed.

        Raises:
            ApprovalRequired: no other person has requested it. This request is recorded now.
        """
        valid_s = _approval_s()
        if not valid_s:
            return []
        since_us = (self._clock.now() - valid_s) * 1e6
        closed = _used_up(await self._records(action, target))
        same = [
            one
            for one in await self._records(action + REQUEST_SUFFIX, target)
            if one.sequence not in closed and one.at_us > since_us and _detail(one)["arguments"] == arguments
        ]
        if any(one.entry.operator != context.operator for one in same):
            return [one.sequence for one in same]
        if same:
            raise _required(same[0].sequence)
        detail = {"arguments": arguments, "expires_at": round(self._clock.now() + valid_s)}
        requested = await self._log.audit_append(context.entry(action + REQUEST_SUFFIX, target, detail))
        raise _required(requested.sequence)

    async def check_first(self, done: AuditRecord, used: Sequence[int]) -> None:
        """Check that no other record than `done` has used up these requests: the chain has one order.

        Raises:
            ApprovalRequired
        """
        if not used:
            return
        records = await self._records(done.entry.action, done.entry.target)
        if _used_up([one for one in records if one.sequence < done.sequence]) & set(used):
            raise ApprovalRequired("another operator has carried this out just now; request it again")

    async def _records(self, action: str, target: str) -> list[AuditRecord]:
        chosen = AuditFilter(action=action, target=target)
        return await self._log.audit_list(chosen, before=None, limit=_RECORDS_MAX)


def _approval_s() -> float:
    """Return for how long another person's request of this caller's command is valid; 0: none is needed."""
    caller = CALLER.get()
    return caller.operator.approval_s if caller is not None and caller.operator is not None else 0.0


def _used_up(records: Sequence[AuditRecord]) -> set[int]:
    return {sequence for one in records for sequence in _detail(one).get("approves", ())}


def _detail(record: AuditRecord) -> dict[str, Any]:
    return msgspec.json.decode(record.entry.detail, type=dict[str, Any])


def _required(sequence: int) -> ApprovalRequired:
    return ApprovalRequired(
        f"this needs two persons: it is recorded as request {sequence}, and is carried out when another "
        "admin repeats it",
        metadata={"request": str(sequence)},
    )
