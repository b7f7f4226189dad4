"""Two persons for a command: one operator requests it, and it is carried out when another repeats it.

A request is a record in the audit chain, with the arguments of the command. So it is durable, every
coordinator knows it, and no person can change or remove it unnoticed. The record of the command that
was carried out names the requests that it used up.

The person who requested it must still be allowed to: the request names the principals that gave the right.
Whether a person still belongs to a group of an issuer of tokens is not known here; what the group may do is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coordinator.api.operator.requests import OperatorContext
from coordinator.api.operator.rights import Rights
from coordinator.core.audit import AuditRecord
from coordinator.core.errors import ApprovalRequired, RequesterNotAllowed
from coordinator.ports.clock import Clock
from coordinator.ports.operator_log import AuditFilter, OperatorLog
from coordinator.security.caller import CALLER, Caller

REQUEST_SUFFIX = ".request"
# The method that each action needs the permission for.
_METHODS = {"branch.resolve": "ResolveBranch", "branch.repair": "RepairBranch"}
# Records of one kind about one target that are read, the newest.
_RECORDS_MAX = 1_000


class Approvals:
    """The requests that wait for a second person."""

    def __init__(self, log: OperatorLog, clock: Clock, rights: Rights) -> None:
        self._log = log
        self._clock = clock
        self._rights = rights

    async def used(
        self,
        action: str,
        target: str,
        arguments: Mapping[str, str],
        context: OperatorContext,
        *,
        tenant: str | None,
    ) -> list[int]:
        """Return the requests that this command uses up; none: no second person is needed.

        `tenant`: of the transaction that it concerns; None: the command needs rights for all tenants.

        Raises:
            ApprovalRequired: no other person has requested it. This request is recorded now.
            RequesterNotAllowed: the same, because those who have requested it may not do so any more.
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
        others = [one for one in same if one.entry.operator != context.operator]
        if any(self._rights.may_still(_requester(one), _METHODS[action], tenant) for one in others):
            return [one.sequence for one in same]
        own = [one.sequence for one in same if one not in others]
        sequence = own[0] if own else await self._request(action, target, arguments, context)
        raise _requester_not_allowed(others[0], sequence) if others else _required(sequence)

    async def _request(
        self, action: str, target: str, arguments: Mapping[str, str], context: OperatorContext
    ) -> int:
        caller = CALLER.get()
        detail = {
            "arguments": arguments,
            "expires_at": round(self._clock.now() + _approval_s()),
            "principals": caller.operator_principals if caller else (),
        }
        requested = await self._log.audit_append(context.entry(action + REQUEST_SUFFIX, target, detail))
        return requested.sequence

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


def _requester(record: AuditRecord) -> Caller:
    """Return who requested a command. Earlier versions recorded no more than the identity."""
    name = record.entry.operator
    principals = _detail(record).get("principals", (name,))
    return Caller(principal=name, method=record.entry.method, operator_principals=tuple(principals))


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


def _requester_not_allowed(request: AuditRecord, sequence: int) -> RequesterNotAllowed:
    return RequesterNotAllowed(
        f"{request.entry.operator}, who requested this as {request.sequence}, may not do it any more: it is "
        f"recorded as request {sequence} of yours, and is carried out when another admin repeats it",
        metadata={"request": str(sequence)},
    )
