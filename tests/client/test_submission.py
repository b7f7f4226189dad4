"""How many transactions share a call, in simulated time: whatever the speed of this machine."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proof.simulate.virtual_loop import VirtualLoop
from tcc.client.submission import Submitter
from tcc.transaction.v1 import transaction_pb2 as pb

CALLERS, TURNS = 256, 8


class Coordinator:
    """Answers the first of a call after `first_s`, and each next one a hundredth of that later."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self.calls: list[int] = []

    async def execute_transaction(
        self, request: pb.ExecuteTransactionRequest, **_: float
    ) -> pb.ExecuteTransactionResponse:
        self.calls.append(1)
        await asyncio.sleep(self._first_s)
        return pb.ExecuteTransactionResponse(outcome=pb.TransactionOutcome(gid=request.gid))

    async def execute_transactions(
        self, request: pb.ExecuteTransactionsRequest, **_: float
    ) -> AsyncIterator[pb.ExecuteTransactionsResponse]:
        self.calls.append(len(request.transactions))
        await asyncio.sleep(self._first_s)
        for index, transaction in enumerate(request.transactions):
            await asyncio.sleep(self._first_s / 100)
            outcome = pb.TransactionOutcome(gid=transaction.gid)
            reply = pb.ExecuteTransactionsReply(index=index, outcome=outcome)
            yield pb.ExecuteTransactionsResponse(replies=[reply])


@pytest.mark.parametrize("first_s", [0.005, 0.02])
def test_256_callers_that_repeat_fill_batches_of_32_and_more(first_s: float) -> None:
    coordinator = Coordinator(first_s)
    errors: list[dict[str, object]] = []
    loop = VirtualLoop(errors.append)

    async def callers() -> None:
        submitter = Submitter(
            coordinator.execute_transaction,
            coordinator.execute_transactions,
            batch_items_max=1_000,
            batch_bytes_max=2**20,
        )

        async def caller(number: int) -> None:
            for turn in range(TURNS):
                request = pb.ExecuteTransactionRequest(gid=f"{number}-{turn}")
                assert (await submitter.submit(request, timeout_s=60)).gid == request.gid

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        await submitter.close()

    done = loop.create_task(callers())
    assert loop.run_until(done.done, until_s=60)
    done.result()
    loop.close()
    assert errors == []
    assert sum(coordinator.calls) == CALLERS * TURNS
    assert sum(coordinator.calls) / len(coordinator.calls) >= 32
