"""Sagas, messages and local branches: the suite that FakeCoordinator and a coordinator share."""

from datetime import UTC, datetime, timedelta

import pytest

import tcc
from tcc.client.outcome import BranchKind, BranchState, TransactionState
from tcc.common.v1 import common_pb2 as common
from tcc.errors import BranchConflict, GidConflict, InvalidRequest, TccError, TransactionCancelled
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.testing.test_fake_coordinator import STOCK, Subject, subject

__all__ = ["subject"]

CHARGE = tcc.BranchRequest("order", "charge", {"amount": 5}, branch_id="charge", kind="saga", stage=1)
RECEIPT = tcc.BranchRequest("order", "send_receipt", branch_id="receipt", kind="message")
LOCAL = common.BranchSpec(
    branch_id="local", participant="order", action="local", kind=common.BRANCH_KIND_SAGA
)


def message(branch_id: str = "receipt", **fields: object) -> common.BranchSpec:
    return common.BranchSpec(
        branch_id=branch_id,
        participant="order",
        action="send_receipt",
        **{"kind": common.BRANCH_KIND_MESSAGE} | fields,
    )


async def register(subject: Subject, *messages: common.BranchSpec, gid: str = "g", **fields: object) -> None:
    request = pb.RegisterBranchRequest(
        gid=gid, **{"branch": LOCAL, "check_back": True, "messages": messages} | fields
    )
    await subject.client.connection.call(lambda stub: stub.RegisterBranch, request, None)


async def confirm(subject: Subject, *messages: common.BranchSpec) -> None:
    request = pb.ConfirmTransactionRequest(gid="g", messages=messages)
    await subject.client.connection.call(lambda stub: stub.ConfirmTransaction, request, None)


async def reason_of(call) -> str:
    with pytest.raises(TccError) as refused:
        await call
    return refused.value.reason


async def test_each_kind_has_only_its_own_calls_when_confirmed(subject):
    await subject.client.execute([STOCK, CHARGE, RECEIPT], gid="g")

    record = await subject.ended("g")
    assert subject.calls("g") == {
        ("TRY", "inventory"),
        ("CONFIRM", "inventory"),
        ("TRY", "charge"),
        ("CONFIRM", "receipt"),
    }
    assert [branch.kind for branch in record.branches] == [
        BranchKind.TCC,
        BranchKind.SAGA,
        BranchKind.MESSAGE,
    ]
    assert {branch.state for branch in record.branches} == {BranchState.CONFIRMED}


async def test_each_kind_has_only_its_own_calls_when_cancelled(subject):
    subject.on("order", "charge").rejects("DECLINED")
    with pytest.raises(TransactionCancelled):
        await subject.client.execute([STOCK, CHARGE, RECEIPT], gid="g")

    record = await subject.ended("g")
    assert ("CONFIRM", "receipt") not in subject.calls("g")
    assert {operation for operation, _ in subject.calls("g")} == {"TRY", "CANCEL"}
    assert ("CANCEL", "inventory") in subject.calls("g")
    assert record.branches[2].state is BranchState.CANCELLED


async def test_a_transaction_of_sagas_ends_with_its_decision(subject):
    outcome = await subject.client.execute([CHARGE], gid="g", wait_for="completion")

    assert outcome.state is TransactionState.CONFIRMED
    assert subject.calls("g") == {("TRY", "charge")}


async def test_a_message_alone_is_delivered(subject):
    outcome = await subject.client.send("order", "send_receipt", {"to": "a"}, gid="g")

    assert outcome.confirmed
    await subject.ended("g")
    assert subject.calls("g") == {("CONFIRM", "order")}


async def test_a_message_repeated_is_the_same_one(subject):
    for _ in range(2):
        await subject.client.send("order", "send_receipt", {"to": "a"}, gid="g")
    later = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(GidConflict):
        await subject.client.send("order", "send_receipt", {"to": "a"}, gid="g", not_before=later)


async def test_messages_of_an_interactive_transaction_follow_its_confirm(subject):
    async with subject.client.transaction(gid="g") as tx:
        await tx.try_("inventory", "reserve_stock", kind="saga")
        tx.message("order", "send_receipt")
        assert subject.calls("g") == {("TRY", "inventory")}

    await subject.ended("g")
    assert subject.calls("g") == {("TRY", "inventory"), ("CONFIRM", "order")}


async def test_messages_may_be_repeated_with_the_confirm_but_not_changed(subject):
    await subject.client.transaction(gid="g").begin()
    for _ in range(2):
        await confirm(subject, message())
    with pytest.raises(BranchConflict):
        await confirm(subject, message(payload=b"other"))


async def test_messages_of_a_cancelled_transaction_are_not_delivered(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    await tx.try_("inventory", "reserve_stock")
    tx.message("order", "send_receipt")
    await tx.cancel()

    await subject.ended("g")
    assert subject.calls("g") == {("TRY", "inventory"), ("CANCEL", "inventory")}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (common.BranchSpec(kind=9), "INVALID_KIND"),
        (common.BranchSpec(kind=common.BRANCH_KIND_MESSAGE, stage=1), "INVALID_STAGE"),
        (common.BranchSpec(kind=common.BRANCH_KIND_SAGA, not_before={"seconds": 1}), "INVALID_NOT_BEFORE"),
    ],
    ids=["kind", "stage", "not_before"],
)
async def test_a_branch_of_an_invalid_kind_is_refused(subject, spec, reason):
    spec.branch_id, spec.participant, spec.action = "b", "order", "a"
    request = pb.ExecuteTransactionRequest(gid="g", branches=[spec])
    with pytest.raises(InvalidRequest) as refused:
        await subject.client.connection.execute(request, None)
    assert refused.value.reason == reason


async def test_a_message_joins_by_no_other_call(subject):
    await subject.client.transaction(gid="g").begin()
    by_try = pb.TryBranchRequest(gid="g", branch=message())
    call = subject.client.connection.call
    assert await reason_of(call(lambda stub: stub.TryBranch, by_try, None)) == "INVALID_KIND"
    assert await reason_of(register(subject, branch=message(), check_back=False)) == "INVALID_KIND"
    assert await reason_of(register(subject, branch=message())) == "INVALID_KIND"
    assert await reason_of(register(subject, message(), check_back=False)) == "INVALID_MESSAGES"
    assert await reason_of(confirm(subject, LOCAL)) == "INVALID_KIND"


# --- local branches -----------------------------------------------------------


async def test_a_local_branch_has_no_calls_when_confirmed(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    await tx.try_("inventory", "reserve_stock")
    await register(subject, message())
    await subject.client.confirm("g")

    record = await subject.ended("g")
    assert subject.calls("g") == {("TRY", "inventory"), ("CONFIRM", "inventory"), ("CONFIRM", "receipt")}
    assert {branch.branch_id for branch in record.branches if branch.check_back} == {"local"}


async def test_a_local_branch_comes_last_and_once(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    for _ in range(2):  # repeated, it is the same
        await register(subject, message())

    assert await reason_of(tx.try_("inventory", "reserve_stock")) == "CHECK_BACK_EXISTS"
    other = common.BranchSpec(branch_id="other", participant="order", action="local")
    assert await reason_of(register(subject, branch=other)) == "CHECK_BACK_EXISTS"


async def test_the_initiator_vouches_for_its_own_trys(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    await tx.register("order", "open_order")
    await register(subject)
    record = await subject.client.get("g")
    assert [branch.state for branch in record.branches] == [BranchState.TRIED, BranchState.TRYING]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_cancel_asks_the_local_branch(subject, is_committed):
    local = subject.on("order", "local")
    local.returns() if is_committed else local.rejects("NOT_TRIED")
    await subject.client.transaction(gid="g").begin()
    await register(subject)

    if is_committed:
        assert await reason_of(subject.client.cancel("g")) == "DECISION_CONFLICT"
    else:
        assert (await subject.client.cancel("g")).cancelled
    await subject.ended("g")
    assert subject.calls("g") == {("CHECK", "local")}


@pytest.mark.parametrize("is_committed", [True, False])
async def test_the_expiry_asks_the_local_branch(subject, is_committed):
    local = subject.on("order", "local")
    local.returns() if is_committed else local.rejects("NOT_TRIED")
    await subject.client.transaction(gid="g", expiry_s=2.0).begin()
    await register(subject)

    await subject.expire("g")

    record = await subject.ended("g")
    assert subject.calls("g") == {("CHECK", "local")}
    if is_committed:
        assert record.state is TransactionState.CONFIRMED
    else:
        assert (record.state, record.cancel_branch_id, record.cancel_detail) == (
            TransactionState.CANCELLED,
            "local",
            "NOT_TRIED",
        )
