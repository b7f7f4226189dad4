"""Transactions whose calls go in streams, through a whole coordinator."""

import asyncio

from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import serving
from tests.support.streaming_participant import StreamingParticipant, ids_of, results
from tests.support.worker import branch, running, settings_for


async def test_calls_of_a_stream_that_breaks_are_sent_again(log_url: str) -> None:
    stock, breaking = StreamingParticipant(), False

    async def break_once(context) -> None:
        nonlocal breaking
        await stock.greet(context)
        while (request := await stock.read(context)) is not None:
            if breaking and request.items:
                breaking = False
                return
            await context.write(results(*ids_of(request)))

    stock.on_stream = break_once
    number = 0
    async with (
        asyncio.timeout(60),
        serving(stock) as address,
        running(settings_for({"stock": {"target": address}}), log_url) as worker,
    ):
        while not stock.requests:
            number += 1
            await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid=f"g{number}", branches=[branch("1")])
            )
            await worker.settled(f"g{number}")
        breaking = True
        await worker.stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")]))
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    assert not breaking
    # The Try that had no result was sent again.
    assert stock.heard("g") == ["TRY 1", "TRY 1", "CONFIRM 1"]
    assert [call.attempt for call in stock.calls if call.gid == "g"][:2] == [0, 1]
