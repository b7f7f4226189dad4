"""Requests that an overloaded coordinator cannot even read."""

import asyncio

import grpc
import pytest

from coordinator.api import server
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.worker import running, settings_for


async def test_a_request_that_waited_too_long_is_refused(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "QUEUE_TIMEOUT_S", 1)
    async with running(settings_for({}), log_url) as worker:
        with grpc.insecure_channel(worker.address) as channel:
            await asyncio.to_thread(grpc.channel_ready_future(channel).result, 60)
            stub = transaction_pb2_grpc.TransactionServiceStub(channel)
            asked = [
                stub.GetTransaction.future(pb.GetTransactionRequest(gid="unknown"), timeout=60)
                for _ in range(3)
            ]
            # They are not read, because this blocks the coordinator's own loop.
            with pytest.raises(grpc.FutureTimeoutError):
                asked[0].result(timeout=2.5)
            codes = [await asyncio.to_thread(call.code) for call in asked]
    # gRPC had already taken one out of its queue.
    assert sorted(code.name for code in codes) == ["CANCELLED", "CANCELLED", "NOT_FOUND"]
