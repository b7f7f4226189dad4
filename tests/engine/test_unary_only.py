"""A participant without ExecuteBranches that is configured as batched."""

import grpc
import pytest
from structlog.testing import capture_logs

from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import branch, running, settings_for

BRANCHES = [branch("1"), branch("2")]


class UnaryOnly(ScriptedParticipant):
    async def ExecuteBranches(self, request, context):  # noqa: N802
        self.batches.append(len(request.calls))
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only unary calls")


async def test_its_branches_are_called_one_by_one_and_it_is_remembered(log_url: str) -> None:
    stock = UnaryOnly()
    with capture_logs() as logs:
        async with (
            serving(stock) as address,
            running(settings_for({"stock": {"target": address}}), log_url) as worker,
        ):
            for gid in ("a", "b"):
                await worker.stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid=gid, branches=BRANCHES))
                assert (await worker.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.batches == [2]
    for gid in ("a", "b"):
        assert sorted(stock.heard(gid)) == ["CONFIRM 1", "CONFIRM 2", "TRY 1", "TRY 2"]
    warnings = [log for log in logs if "does not implement ExecuteBranches" in log["event"]]
    assert [log["target"] for log in warnings] == [address]


@pytest.mark.parametrize("changed", [True, False])
async def test_it_is_remembered_until_its_address_changes(log_url: str, *, changed: bool) -> None:
    stock = UnaryOnly()
    async with serving(stock) as address:
        settings = settings_for({"stock": {"target": address}})
        async with running(settings, log_url) as worker:
            await worker.stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="a", branches=BRANCHES))
            await worker.settled("a")
            changes = {"call_timeout_s": 4} if changed else {"retry_max_s": 9}
            worker.worker.reload(settings_for({"stock": {"target": address} | changes}), settings)
            await worker.stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="b", branches=BRANCHES))
            assert (await worker.settled("b")).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.batches == ([2, 2] if changed else [2])


async def test_an_address_without_any_participant_fails_as_before(log_url: str) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running(settings_for({"stock": {"target": f"127.0.0.1:{port}"}}), log_url) as worker:
            reply = await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid="a", branches=BRANCHES)
            )
    finally:
        await server.stop(None)
    assert (reply.outcome.cancel_reason, reply.outcome.cancel_detail) == (
        common.CANCEL_REASON_TRY_FAILED,
        "UNIMPLEMENTED",
    )
