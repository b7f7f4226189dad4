"""The participant under test, as used by the cases of the conformance suite."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
CHECK = common.OPERATION_CHECK
SAGA, MESSAGE = common.BRANCH_KIND_SAGA, common.BRANCH_KIND_MESSAGE

TIMEOUT_S = 10.0
EXPIRY_MS = 10 * 60_000
# How often a call that failed is repeated before the failure counts.
_FAILURES_MAX = 10
_PAUSE_S = 0.1
_JSON = "application/json"
# The statuses that mean that the service is not reachable. Any other one comes from the service.
_ABSENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class ConformanceError(AssertionError):
    """The participant breaks a rule. The message says how to fix it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """The current effects of a branch in the participant's own tables."""

    # The number of reservations that are held for it: 0 or 1 in a correct participant.
    reserved: int = 0
    # The number of times that its reservation was made final: 0 or 1.
    confirmed: int = 0


Observe: TypeAlias = Callable[[str, str], Awaitable[Effects]]
# One payload for all branches, or a function that returns one for each branch.
Payload: TypeAlias = bytes | Callable[[], bytes]
# Called with (gid, branch_id): within the block, a Confirm of that branch violates a constraint.
BreakConfirm: TypeAlias = Callable[[str, str], AbstractAsyncContextManager[object]]
# Kills the service and starts it again: a coroutine function or a command.
Restart: TypeAlias = Callable[[], Awaitable[object]] | Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """An action of kind SAGA or MESSAGE, with a payload that it accepts some hundred times.

    `count(gid, branch_id)` returns how often the branch's work is done now in the participant's
    tables: of a saga executed and not compensated, of a message delivered.
    """

    action: str
    payload: bytes
    content_type: str = "application/json"
    count: Callable[[str, str], Awaitable[int]] | None = None


class SkippedError(Exception):
    """The case cannot be run with the given arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The participant under test, and one branch of it."""

    stub: pb_grpc.ParticipantServiceStub
    action: str
    payload: Payload
    content_type: str
    rejected_payload: bytes | None
    other_payload: bytes | None
    batched: bool
    observe: Observe | None
    break_confirm: BreakConfirm | None
    restart: Restart | None
    restart_timeout_s: float
    saga: "Kind | None" = None
    message: "Kind | None" = None
    gid: str = field(default_factory=lambda: f"conformance-{uuid.uuid4()}")
    # Every call of a branch carries the same payload, except where a case gives another.
    _payloads: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def call(
        self,
        operation: common.Operation,
        *,
        gid: str | None = None,
        branch_id: str = "branch",
        action: str | None = None,
        payload: bytes | None = None,
        content_type: str | None = None,
        expires_in_ms: int = EXPIRY_MS,
        attempt: int = 0,
        tried_by_initiator: bool = False,
    ) -> pb.BranchCall:
        gid = self.gid if gid is None else gid
        return pb.BranchCall(
            gid=gid,
            branch_id=branch_id,
            operation=operation,
            action=self.action if action is None else action,
            payload=self._payload(gid, branch_id) if payload is None else payload,
            content_type=self.content_type if content_type is None else content_type,
            expires_at_ms=int(time.time() * 1000) + expires_in_ms,
            attempt=attempt,
            tried_by_initiator=tried_by_initiator,
        )

    def kind_call(
        self, operation: common.Operation, kind: Kind, *, branch_id: str = "branch"
    ) -> pb.BranchCall:
        """Return a call of a saga's or a message's branch."""
        call = self.call(
            operation,
            branch_id=branch_id,
            action=kind.action,
            payload=kind.payload,
            content_type=kind.content_type,
        )
        call.kind = SAGA if kind is self.saga else MESSAGE
        return call

    async def counted(self, kind: Kind, wanted: int, advice: str, *, branch_id: str = "branch") -> None:
        """Compare with the participant's own tables, if `count` is given."""
        if kind.count is None:
            return
        seen = await kind.count(self.gid, branch_id)
        if seen != wanted:
            raise ConformanceError(f"{advice} (counted {seen}, wanted {wanted})")

    def another_payload(self, branch_id: str = "branch") -> bytes:
        """Return a payload of the action whose bytes differ from the branch's own.

        Raises:
            SkippedError: Only one payload was given, and it is not JSON.
        """
        payload = self._payload(self.gid, branch_id)
        if self.other_payload is not None:
            another = self.other_payload
        elif not isinstance(self.payload, bytes):
            another = self.payload()
        else:
            another = payload
        if another != payload:
            return another
        if self._is_json:
            return _respaced(payload)
        raise SkippedError("give `other_payload`, one that differs from `payload` and can be reserved, too")

    def same_payload_in_other_bytes(self, branch_id: str = "branch") -> bytes:
        """Return the branch's payload in other bytes. Raises SkippedError unless it is JSON."""
        if not self._is_json:
            raise SkippedError("only JSON is known to have other bytes of the same meaning")
        return _respaced(self._payload(self.gid, branch_id))

    @property
    def another_content_type(self) -> str:
        return f"{self.content_type or 'application/octet-stream'}; conformance=another"

    @property
    def _is_json(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() == _JSON

    def _payload(self, gid: str, branch_id: str) -> bytes:
        if isinstance(self.payload, bytes):
            return self.payload
        if (gid, branch_id) not in self._payloads:
            self._payloads[gid, branch_id] = self.payload()
        return self._payloads[gid, branch_id]

    async def send(self, call: pb.BranchCall) -> common.CallResult:
        """Deliver a call once. Raises grpc.aio.AioRpcError for a status other than OK."""
        request, method = {
            TRY: (pb.TryBranchRequest, self.stub.TryBranch),
            CONFIRM: (pb.ConfirmBranchRequest, self.stub.ConfirmBranch),
            CANCEL: (pb.CancelBranchRequest, self.stub.CancelBranch),
            CHECK: (pb.CheckBranchRequest, self.stub.CheckBranch),
        }[call.operation]
        response = await method(request(call=call), timeout=TIMEOUT_S)
        return cast("common.CallResult", response.result)

    async def persist(self, call: pb.BranchCall) -> common.CallResult:
        """Deliver a call repeatedly, as a coordinator does, until the result is conclusive.

        Raises:
            ConformanceError: The service does not respond within `restart_timeout_s` seconds.
            grpc.aio.AioRpcError: The service keeps returning a status other than OK.
        """
        answer_by_s = time.monotonic() + self.restart_timeout_s
        failures = 0
        while True:
            try:
                outcome = await self.send(call)
            except grpc.aio.AioRpcError as error:
                if error.code() in _ABSENT:
                    if time.monotonic() > answer_by_s:
                        raise ConformanceError(
                            f"after it was killed the service must respond again within "
                            f"{self.restart_timeout_s:g} s, at the same address; does `restart` start it? "
                            f"(the last call ended with {error.code().name}: {error.details()})"
                        ) from error
                elif failures == _FAILURES_MAX:
                    raise
                else:
                    failures += 1
            else:
                if is_conclusive(outcome) or failures == _FAILURES_MAX:
                    return outcome
                failures += 1
            call.attempt += 1
            await asyncio.sleep(_PAUSE_S)

    async def succeed(self, call: pb.BranchCall, advice: str) -> common.CallResult:
        outcome = await self.send(call)
        expect(outcome.code == common.OUTCOME_CODE_SUCCEEDED, outcome, advice)
        return outcome

    async def fail(self, call: pb.BranchCall, reason: str, advice: str, *, permanent: bool = True) -> None:
        outcome = await self.send(call)
        expect(failed(outcome, reason, permanent=permanent), outcome, advice)

    async def effects(
        self,
        *,
        reserved: int = 0,
        confirmed: int = 0,
        gid: str | None = None,
        branch_id: str = "branch",
        advice: str,
    ) -> None:
        """Compare with the participant's own tables, if `observe` is given."""
        if self.observe is None:
            return
        seen, wanted = (
            await self.observe(self.gid if gid is None else gid, branch_id),
            Effects(reserved=reserved, confirmed=confirmed),
        )
        if seen != wanted:
            raise ConformanceError(f"{advice} (observed {seen}, wanted {wanted})")


def _respaced(payload: bytes) -> bytes:
    """Return JSON with a space at its end: other bytes, the same meaning."""
    return payload + b" "


# The barrier's own reasons. They do not change when the call is repeated.
_BARRIER = {"LATE_TRY", "EXPIRED", "NOT_TRIED", "ALREADY_CONFIRMED", "ALREADY_CANCELLED", "BRANCH_CONFLICT"}


def is_conclusive(outcome: common.CallResult) -> bool:
    """Return whether a repetition of the call would change nothing."""
    return outcome.code != common.OUTCOME_CODE_FAILED or outcome.permanent or outcome.reason in _BARRIER


def failed(outcome: common.CallResult, reason: str, *, permanent: bool = True) -> bool:
    return (
        outcome.code == common.OUTCOME_CODE_FAILED
        and outcome.reason == reason
        # NOT_TRIED may be permanent or not: a decision to confirm is repeated indefinitely anyway.
        and (outcome.permanent or not permanent)
    )


def expect(holds: bool, outcome: common.CallResult, advice: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise ConformanceError(f"{advice} (got {_text(outcome)})")


def _text(outcome: common.CallResult) -> str:
    code = common.OutcomeCode.Name(outcome.code).removeprefix("OUTCOME_CODE_")
    permanence = " permanent" if outcome.permanent else ""
    return f"{code}{permanence} {outcome.reason} {outcome.message}".strip()


TRY_WORKS = "a first Try of the given payload must succeed; is the payload one that can be reserved?"
