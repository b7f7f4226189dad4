"""Branch kinds and check-back over real gRPC, with a real log and scripted participants."""

import time
from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected, serving
from tests.support.worker import Running, branch, running, settings_for

SAGA = common.BRANCH_KIND_SAGA
MESSAGE = common.BRANCH_KIND_MESSAGE
TCC = common.BRANCH_KIND_TCC


@pytest.fixture
async def stock() -> AsyncIterator[ScriptedParticipant]:
    return ScriptedParticipant()


@pytest.fixture
async def tcc(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    async with serving(stock) as address:
        participants = {"stock": {"target": address, "retry_first_s": 0.01, "retry_max_s": 0.05}}
        async with running(settings_for(participants), log_url) as worker:
            yield worker


def of_kind(branch_id: str, kind: "common.BranchKind", **fields: object) -> common.BranchSpec:
    spec = branch(branch_id)
    spec.MergeFrom(common.BranchSpec(kind=kind, **fields))
    return spec


def answering(answers: dict[int, common.CallResult]) -> object:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return answers.get(call.operation, SUCCEEDED)

    return script


async def local_first(tcc: Running, *messages: common.BranchSpec, expiry_s: float = 30.0) -> None:
    expiry = Duration()
    expiry.FromNanoseconds(round(expiry_s * 1e9))
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g", expiry=expiry))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    await tcc.stub.RegisterBranch(
        pb.RegisterBranchRequest(gid="g", branch=of_kind("l", SAGA), check_back=True, messages=messages)
    )


async def test_each_kind_gets_its_calls(tcc: Running, stock: ScriptedParticipant) -> None:
    request = pb.ExecuteTransactionRequest(
        gid="g",
        branches=[branch("1"), of_kind("2", SAGA), of_kind("3", MESSAGE)],
        wait_for=pb.WAIT_FOR_COMPLETION,
    )
    reply = await tcc.stub.ExecuteTransaction(request)
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert sorted(stock.heard("g")) == ["CONFIRM 1", "CONFIRM 3", "TRY 1", "TRY 2"]
    kinds = {call.branch_id: call.kind for call in stock.calls}
    assert kinds == {"1": common.BRANCH_KIND_UNSPECIFIED, "2": SAGA, "3": MESSAGE}
    shown = (await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert [b.spec.kind for b in shown.branches] == [TCC, SAGA, MESSAGE]


async def test_messages_alone_are_decided_as_they_begin(tcc: Running, stock: ScriptedParticipant) -> None:
    go = stock.hold_confirms()
    reply = await tcc.stub.ExecuteTransaction(
        pb.ExecuteTransactionRequest(gid="g", branches=[of_kind("1", MESSAGE)])
    )
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING
    shown = (await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert shown.version == 1
    assert shown.HasField("decided_at")
    assert shown.branches[0].state == common.BRANCH_STATE_PENDING
    go.set()
    await tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION))


async def test_sagas_alone_end_with_one_write_after_the_first(tcc: Running) -> None:
    request = pb.ExecuteTransactionRequest(gid="g", branches=[of_kind("1", SAGA), of_kind("2", SAGA)])
    reply = await tcc.stub.ExecuteTransaction(request)
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert (await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction.version == 2


async def test_a_message_waits_for_its_time(tcc: Running, stock: ScriptedParticipant) -> None:
    not_before = Timestamp()
    not_before.FromNanoseconds(time.time_ns() + 500_000_000)
    request = pb.ExecuteTransactionRequest(
        gid="g", branches=[of_kind("1", MESSAGE, not_before=not_before)], wait_for=pb.WAIT_FOR_COMPLETION
    )
    await tcc.stub.ExecuteTransaction(request)
    assert time.time_ns() >= not_before.ToNanoseconds()
    assert [call.attempt for call in stock.calls] == [0]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (of_kind("1", 9), "INVALID_KIND"),
        (of_kind("1", MESSAGE, stage=1), "INVALID_STAGE"),
        (of_kind("1", SAGA, not_before=Timestamp(seconds=1)), "INVALID_NOT_BEFORE"),
        (of_kind("1", MESSAGE, not_before=Timestamp(seconds=-1)), "INVALID_TIME"),
    ],
)
async def test_what_does_not_suit_a_kind_is_refused(
    tcc: Running, spec: common.BranchSpec, reason: str
) -> None:
    async with refused("INVALID_ARGUMENT", reason):
        await tcc.stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="g", branches=[spec]))


async def test_a_message_joins_with_the_confirm_alone(tcc: Running, stock: ScriptedParticipant) -> None:
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    for call, request in (
        (tcc.stub.TryBranch, pb.TryBranchRequest(gid="g", branch=of_kind("m", MESSAGE))),
        (tcc.stub.RegisterBranch, pb.RegisterBranchRequest(gid="g", branch=of_kind("m", MESSAGE))),
    ):
        async with refused("INVALID_ARGUMENT", "INVALID_KIND"):
            await call(request)
    confirm = pb.ConfirmTransactionRequest(
        gid="g", messages=[of_kind("m", MESSAGE)], wait_for=pb.WAIT_FOR_COMPLETION
    )
    for _ in range(2):
        await tcc.stub.ConfirmTransaction(confirm)
    assert stock.heard("g") == ["CONFIRM m"]
    confirm.messages[0].payload = b"other"
    async with refused("ALREADY_EXISTS", "BRANCH_CONFLICT"):
        await tcc.stub.ConfirmTransaction(confirm)


@pytest.mark.parametrize("found", [True, False])
async def test_the_local_change_decides_on_expiry(
    tcc: Running,
    stock: ScriptedParticipant,
    found: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    stock.script = answering({common.OPERATION_CHECK: SUCCEEDED if found else rejected("NOT_TRIED")})
    await local_first(tcc, of_kind("m", MESSAGE), expiry_s=1.0)
    wait = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    outcome = (await tcc.stub.WaitTransaction(wait)).outcome
    if found:
        assert outcome.state == common.TRANSACTION_STATE_CONFIRMED
        assert sorted(stock.heard("g")) == ["CHECK l", "CONFIRM 1", "CONFIRM m", "TRY 1"]
    else:
        assert outcome.state == common.TRANSACTION_STATE_CANCELLED
        assert (outcome.cancel_reason, outcome.cancel_branch_id) == (common.CANCEL_REASON_EXPIRED, "l")
        assert sorted(stock.heard("g")) == ["CANCEL 1", "CHECK l", "TRY 1"]


async def test_it_is_asked_until_it_answers(tcc: Running, stock: ScriptedParticipant) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        checks = stock.count(common.OPERATION_CHECK)
        return (
            failed("LOCAL_TRANSACTION_OPEN")
            if call.operation == common.OPERATION_CHECK and checks < 4
            else SUCCEEDED
        )

    stock.script = script
    await local_first(tcc, expiry_s=0.2)
    outcome = (await tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="g"))).outcome
    assert outcome.state in (common.TRANSACTION_STATE_CONFIRMING, common.TRANSACTION_STATE_CONFIRMED)
    assert stock.count(common.OPERATION_CHECK) == 4


async def test_a_cancel_asks_before_it_decides(tcc: Running, stock: ScriptedParticipant) -> None:
    stock.script = answering({common.OPERATION_CHECK: rejected("NOT_TRIED")})
    await local_first(tcc)
    reply = await tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g", reason="no"))
    assert reply.outcome.cancel_reason == common.CANCEL_REASON_REQUESTED
    assert reply.outcome.cancel_detail == "no"


async def test_a_cancel_after_the_local_commit_confirms(tcc: Running) -> None:
    await local_first(tcc)
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
        await tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"))


async def test_a_cancel_without_an_answer_is_unavailable(tcc: Running, stock: ScriptedParticipant) -> None:
    stock.script = answering({common.OPERATION_CHECK: failed("LOCAL_TRANSACTION_OPEN")})
    await local_first(tcc)
    async with refused("UNAVAILABLE", "CHECK_UNANSWERED"):
        await tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"), timeout=20)
    confirmed = await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"), timeout=20)
    assert confirmed.outcome.cancel_reason == common.CANCEL_REASON_UNSPECIFIED
