"""The way to the participants over gRPC. Implements `ports.Participants`."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import grpc
import structlog
from msgspec import Struct

from coordinator.core.model import Answer, Operation, Verdict
from coordinator.ports import BranchCall
from tcc.v1 import participant_pb2 as pb, participant_pb2_grpc

logger = structlog.get_logger(__name__)

# gRPC's own reconnection pauses grow to two minutes; a participant that is back is wanted at once.
CHANNEL_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", 16 * 2**20),
)

_UNREACHABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
# Repeating such a call cannot help.
_PERMANENT = {
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}
_OPERATIONS = {
    Operation.TRY: pb.OPERATION_TRY,
    Operation.CONFIRM: pb.OPERATION_CONFIRM,
    Operation.CANCEL: pb.OPERATION_CANCEL,
}
_VERDICTS = {
    pb.OUTCOME_CODE_SUCCEEDED: Verdict.SUCCEEDED,
    pb.OUTCOME_CODE_REJECTED: Verdict.REJECTED,
    pb.OUTCOME_CODE_FAILED: Verdict.FAILED,
}
_DONE = Answer(verdict=Verdict.SUCCEEDED)

Answers = list[tuple[int, Answer]]


class ParticipantAddress(Struct, frozen=True, kw_only=True):
    """Where a participant is, and how to call it."""

    # A gRPC target, for example "dns:///inventory:50051".
    target: str
    # It implements ExecuteBranches; otherwise every branch is a call of its own.
    batched: bool = True
    call_timeout_s: float = 5.0


class ParticipantClient:
    """Channels to all configured participants."""

    def __init__(self, addresses: Mapping[str, ParticipantAddress], *, result_bytes_max: int) -> None:
        self._addresses = addresses
        self._result_bytes_max = result_bytes_max
        self._channels = {
            name: grpc.aio.insecure_channel(address.target, options=CHANNEL_OPTIONS)
            for name, address in addresses.items()
        }
        self._stubs = {
            name: participant_pb2_grpc.ParticipantServiceStub(channel)
            for name, channel in self._channels.items()
        }

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)

    def execute(self, participant: str, calls: Sequence[BranchCall]) -> AsyncIterator[Answers]:
        """See `ports.Participants.execute`. A call that is alone costs least as a unary one."""
        if len(calls) == 1:
            return self._execute_alone(participant, calls[0])
        if self._addresses[participant].batched:
            return self._execute_batch(participant, calls)
        return self._execute_singly(participant, calls)

    async def _execute_batch(self, participant: str, calls: Sequence[BranchCall]) -> AsyncIterator[Answers]:
        missing = set(range(len(calls)))
        failure = _no_answer("the stream ended without an outcome for this call")
        request = batch_request(calls)
        timeout_s = self._addresses[participant].call_timeout_s
        stream = self._stubs[participant].ExecuteBranches(request, timeout=timeout_s)
        try:
            async for response in stream:
                if response is None:  # gRPC could not decode it
                    failure = _UNREADABLE
                    break
                # A dict: of several outcomes for one call the last one counts.
                answers = {
                    outcome.index: self._answer(outcome, calls[outcome.index].operation)
                    for outcome in response.outcomes
                    if outcome.index in missing
                }
                missing.difference_update(answers)
                if answers:
                    yield list(answers.items())
        except grpc.aio.AioRpcError as error:
            failure = _failure(error)
        finally:
            stream.cancel()
        if missing:
            yield [(position, failure) for position in sorted(missing)]

    async def _execute_alone(self, participant: str, call: BranchCall) -> AsyncIterator[Answers]:
        yield [await self._execute_one(participant, 0, call)]

    async def _execute_singly(self, participant: str, calls: Sequence[BranchCall]) -> AsyncIterator[Answers]:
        tasks = [
            asyncio.ensure_future(self._execute_one(participant, position, call))
            for position, call in enumerate(calls)
        ]
        try:
            for done in asyncio.as_completed(tasks):
                yield [await done]
        finally:
            for task in tasks:
                task.cancel()

    async def _execute_one(self, participant: str, position: int, call: BranchCall) -> tuple[int, Answer]:
        stub = self._stubs[participant]
        timeout_s = self._addresses[participant].call_timeout_s
        message = _write(pb.BranchCall(), call)
        try:
            match call.operation:
                case Operation.TRY:
                    reply = await stub.TryBranch(
                        pb.ParticipantServiceTryBranchRequest(call=message), timeout=timeout_s
                    )
                case Operation.CONFIRM:
                    reply = await stub.ConfirmBranch(pb.ConfirmBranchRequest(call=message), timeout=timeout_s)
                case Operation.CANCEL:
                    reply = await stub.CancelBranch(pb.CancelBranchRequest(call=message), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return position, _failure(error)
        if reply is None:  # gRPC could not decode it
            return position, _UNREADABLE
        return position, self._answer(reply.outcome, call.operation)

    def _answer(self, outcome: pb.BranchOutcome, operation: Operation) -> Answer:
        verdict = _VERDICTS.get(outcome.code)
        if verdict is None:
            return _no_answer(f"the participant answered with the unknown outcome {outcome.code}")
        if verdict is not Verdict.SUCCEEDED:
            return Answer(
                verdict=verdict,
                reason=outcome.reason,
                message=outcome.message,
                permanent=outcome.permanent,
            )
        result = outcome.result
        if not result or operation is not Operation.TRY:
            return _DONE
        if len(result) > self._result_bytes_max:
            return _result_too_large(self._result_bytes_max)
        return Answer(verdict=verdict, result=result, result_content_type=outcome.content_type)


def batch_request(calls: Sequence[BranchCall]) -> pb.ExecuteBranchesRequest:
    """All `calls` in one message, in their order."""
    request = pb.ExecuteBranchesRequest()
    for call in calls:
        _write(request.calls.add(), call)
    return request


def _write(message: pb.BranchCall, call: BranchCall) -> pb.BranchCall:
    """Writes `call` into the empty `message`, field by field: that costs half of what arguments cost."""
    spec = call.spec
    message.gid = call.gid
    message.branch_id = spec.branch_id
    message.operation = _OPERATIONS[call.operation]
    message.action = spec.action
    message.payload = spec.payload
    message.content_type = spec.content_type
    message.expires_at_ms = int(call.expires_at * 1000)
    message.attempt = call.attempt
    if call.result:
        message.try_result = call.result
        message.try_result_content_type = call.result_content_type
    return message


def _result_too_large(result_bytes_max: int) -> Answer:
    """Such a result could be stored, but not be handed to Confirm, Cancel and the initiator."""
    return Answer(
        verdict=Verdict.FAILED,
        reason="RESULT_TOO_LARGE",
        message=f"what a Try returns may hold at most {result_bytes_max} bytes",
        permanent=True,
    )


def _no_answer(message: str) -> Answer:
    return Answer(verdict=Verdict.FAILED, reason="BAD_ANSWER", message=message)


def _failure(error: grpc.aio.AioRpcError) -> Answer:
    code = error.code()
    return Answer(
        verdict=Verdict.FAILED,
        reason=code.name,
        message=error.details() or "",
        permanent=code in _PERMANENT,
        unreachable=code in _UNREACHABLE,
    )


_UNREADABLE = _no_answer("the participant's answer could not be decoded")
