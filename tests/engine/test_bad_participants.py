"""Participants that answer nonsense, too much, always wrong, or that are configured no more."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

import tcc
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, serving
from tests.support.worker import branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM

# No protobuf message: a field of type string that is not UTF-8.
NONSENSE = b"\x0a\x04\x1a\x02\xff\xfe"


def execute(gid: str, *branches: common.BranchSpec, **fields: object) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches or [branch("1")], **fields)


class Nonsense(grpc.GenericRpcHandler):
    """Answers Confirms with bytes that are no message until it is `mended`; everything else with success."""

    def __init__(self) -> None:
        self.mended = False
        self.nonsense = 0
        self.spoken = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if details.method.endswith("/ExecuteBranches"):
            return grpc.unary_stream_rpc_method_handler(self._batch)
        return grpc.unary_unary_rpc_method_handler(self._one)

    async def _one(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        # The three unary requests are alike.
        call = participant_pb2.ConfirmBranchRequest.FromString(request).call
        if self._is_sensible([call]):
            return participant_pb2.ConfirmBranchResponse(result=SUCCEEDED).SerializeToString()
        return NONSENSE

    async def _batch(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        calls = participant_pb2.ExecuteBranchesRequest.FromString(request).calls
        if not self._is_sensible(calls):
            yield NONSENSE
            return
        outcomes = [common.CallResult(index=index, code=SUCCEEDED.code) for index in range(len(calls))]
        yield participant_pb2.ExecuteBranchesResponse(results=outcomes).SerializeToString()

    def _is_sensible(self, calls) -> bool:
        sensible = self.mended or all(call.operation != CONFIRM for call in calls)
        if not sensible:
            self.nonsense += 1
            self.spoken.set()
        return sensible


@pytest.mark.parametrize("branches", [1, 2], ids=["unary", "batched"])
async def test_a_response_that_cannot_be_decoded_is_a_failure_and_is_retried(
    log_url: str, branches: int
) -> None:
    participant = Nonsense()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((participant,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    settings = settings_for({"stock": {"target": f"127.0.0.1:{port}"}})
    async with running(settings, log_url) as worker:
        request = execute("g", *(branch(str(number)) for number in range(branches)))
        await worker.stub.ExecuteTransaction(request)
        while participant.nonsense < 3:
            participant.spoken.clear()
            await asyncio.wait_for(participant.spoken.wait(), 30)
        tx = (await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
        assert tx.branches[0].last_error.startswith("BAD_ANSWER")
        participant.mended = True
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    await server.stop(None)


async def test_a_result_that_could_not_be_handed_on_cancels(log_url: str, stock: ScriptedParticipant) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        size = 101 if call.gid == "large" else 100
        return common.CallResult(code=SUCCEEDED.code, result=bytes(size))

    stock.script = script
    settings = settings_for({"stock": {"target": stock.address}}, limits={"payload_bytes_max": 100})
    async with running(settings, log_url) as worker:
        assert (await worker.stub.ExecuteTransaction(execute("fits"))).outcome.results[0].result == bytes(100)
        outcome = (await worker.stub.ExecuteTransaction(execute("large"))).outcome
        assert (outcome.cancel_reason, outcome.cancel_detail) == (
            common.CANCEL_REASON_TRY_FAILED,
            "RESULT_TOO_LARGE",
        )
        # What Confirm or Cancel return is ignored.
        assert (await worker.settled("large")).state == common.TRANSACTION_STATE_CANCELLED


@pytest.mark.slow
async def test_a_removed_participant_delays_only_its_own_transactions(
    log_url: str, stock: ScriptedParticipant
) -> None:
    gone = ScriptedParticipant()

    async def refuse(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("NOT_YET") if call.operation == CONFIRM else SUCCEEDED

    gone.script = stock.script = refuse
    async with serving(gone) as address:
        # The one that goes is due first, so that the transaction waits for it.
        slower = {"retry_first_s": 1, "retry_max_s": 1}
        both = {"stock": {"target": stock.address} | slower, "gone": {"target": address}}
        async with running(settings_for(both), log_url) as worker:
            request = execute("g", branch("gone", "gone"), branch("stock"))
            await worker.stub.ExecuteTransaction(request)
            await gone.until(lambda: gone.count(CONFIRM) >= 2)

        async def succeed(_call: participant_pb2.BranchCall) -> common.CallResult:
            return SUCCEEDED

        stock.script = gone.script = succeed
        before = stock.count(CONFIRM)
        async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
            await stock.until(lambda: stock.count(CONFIRM) > before)
            assert await worker.state("g") == "CONFIRMING"
            async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
                await worker.stub.ExecuteTransaction(execute("new", branch("gone", "gone")))
        async with running(settings_for(both), log_url) as worker:
            assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


async def test_new_work_closes_a_breaker_without_other_calls(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """What opened it was parked, claimed by another coordinator and finished there."""
    settings = settings_for({"stock": {"target": stock.address}})
    async with running(settings, log_url) as worker:
        dispatcher = worker.engine.dispatchers["stock"]
        long_ago = worker.worker.clock.now() - 60
        while dispatcher.breaker.closed:
            dispatcher.breaker = dispatcher.breaker.failed(long_ago)
        outcome = (await worker.stub.ExecuteTransaction(execute("g"))).outcome
        assert outcome.state == common.TRANSACTION_STATE_CONFIRMING
        assert dispatcher.breaker.closed


async def test_a_participant_that_always_fails_leaves_room_to_the_others(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """Its transactions wait for their expiry; they may fill half of the bound, and no more."""
    failing = ScriptedParticipant()

    async def fail(_call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("ALWAYS")

    failing.script = fail
    async with serving(failing) as address:
        participants = {"stock": {"target": stock.address}, "failing": {"target": address}}
        settings = settings_for(participants, limits={"live_max": 20})
        async with running(settings, log_url) as worker:
            for number in range(10):
                request = execute(f"f{number}", branch("1", "failing"), wait_for=pb.WAIT_FOR_ACCEPTED)
                await worker.stub.ExecuteTransaction(request)
            async with refused("RESOURCE_EXHAUSTED", "OVERLOADED") as refusal:
                await worker.stub.ExecuteTransaction(execute("one too many", branch("1", "failing")))
            assert refusal.info.metadata["participant"] == "failing"
            for number in range(20):
                request = execute(f"g{number}", wait_for=pb.WAIT_FOR_COMPLETION)
                await worker.stub.ExecuteTransaction(request)
            assert worker.engine.dispatchers["stock"].live == 0
            assert worker.engine.dispatchers["failing"].live == 10


async def _raise_key_error(call: participant_pb2.BranchCall) -> common.CallResult:
    return failed("HANDLER_ERROR", "KeyError: 'sku'") if call.operation == TRY else SUCCEEDED


@pytest.mark.slow
async def test_an_initiator_gets_the_error_of_a_participants_bug(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """By a transaction that is executed and by one that is driven step by step, each with defaults."""
    stock.script = _raise_key_error
    settings = settings_for({"stock": {"target": stock.address}})
    said = "branch stock: HANDLER_ERROR KeyError: 'sku'"
    async with running(settings, log_url) as worker, tcc.Client(worker.address) as client:
        with pytest.raises(tcc.TryTimedOut, match=said):
            await client.execute([tcc.BranchRequest("stock", "reserve")], timeout_s=2)
        async with asyncio.timeout(60):
            with pytest.raises(tcc.TryTimedOut, match=said):
                async with client.transaction(expiry_s=1) as tx:
                    await tx.try_("stock", "reserve")
        with pytest.raises(tcc.errors.DeadlineExceeded) as raised:
            await client.execute([tcc.BranchRequest("stock", "reserve")], expiry_s=60, timeout_s=2)
        assert raised.value.metadata["branch_id"] == "stock"
        assert raised.value.metadata["last_error"] == "HANDLER_ERROR: KeyError: 'sku'"
