"""Lines `audit` of the coordinator's log: every action, every refusal, every reading of payloads."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from tcc.admin.v1 import admin_pb2 as apb
from tests.support.worker import Running

from .conftest import Stub, execute, inspect, operator_context


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def audit_lines(logged: list[Any]) -> list[Any]:
    return [entry for entry in logged if entry["event"] == "audit"]


async def test_an_action_is_logged_with_its_record(admin: Stub, logged: list[Any]) -> None:
    reply = await admin.PauseParticipant(
        apb.PauseParticipantRequest(participant="stock", operator_context=operator_context())
    )
    (line,) = audit_lines(logged)
    assert (line["outcome"], line["sequence"], line["hash"]) == ("DONE", 1, reply.audit_record.hash.hex())
    assert (line["operator"], line["action"], line["target"], line["reason"]) == (
        "ann",
        "participant.pause",
        "participant/stock",
        "incident 7",
    )


async def test_a_refusal_is_logged_although_it_has_no_record(admin: Stub, logged: list[Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await admin.PauseParticipant(
            apb.PauseParticipantRequest(participant="stock", operator_context=operator_context(version=7))
        )
    with pytest.raises(grpc.aio.AioRpcError):
        await admin.HoldTransaction(apb.HoldTransactionRequest(gid="g", operator_context=operator_context(1)))
    changed, unknown = audit_lines(logged)
    assert (changed["outcome"], changed["operator"], changed["target"]) == (
        "VERSION_CHANGED",
        "ann",
        "participant/stock",
    )
    assert (unknown["outcome"], unknown["action"], unknown["target"]) == (
        "TRANSACTION_NOT_FOUND",
        "HoldTransaction",
        "transaction/g",
    )
    assert changed["peer"].startswith("ipv4:127.0.0.1:")


async def test_a_bulk_action_logs_each_refusal(
    tcc: Running, admin: Stub, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await tcc.stub.ExecuteTransaction(execute("g"))
    await tcc.settled("g")
    request = apb.RunBulkActionRequest(
        filter="gid=g", action=apb.BULK_ACTION_HOLD, operator_context=operator_context()
    )
    (dry,) = [response async for response in admin.RunBulkAction(request)]
    request.confirmation_token = dry.confirmation_token
    (run,) = [response async for response in admin.RunBulkAction(request)]
    assert run.failed == 1
    (line,) = audit_lines(logged)
    assert (line["outcome"], line["target"], line["operator"]) == (
        run.failures[0].error.reason,
        "transaction/g",
        "ann",
    )


async def test_reading_payloads_is_logged_and_reading_lists_is_not(
    tcc: Running, admin: Stub, logged: list[Any]
) -> None:
    await tcc.stub.ExecuteTransaction(execute("g"))
    await admin.SearchTransactions(apb.SearchTransactionsRequest(filter="gid=g"))
    assert audit_lines(logged) == []
    await inspect(admin, "g")
    (line,) = audit_lines(logged)
    assert (line["outcome"], line["action"], line["target"]) == (
        "DONE",
        "transaction.read_payloads",
        "transaction/g",
    )
