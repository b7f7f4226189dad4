"""The responses to a batch of calls: each is small enough for a client without options of its own."""

import asyncio

from tcc.barrier.decisions import CallResult, OutcomeCode
from tcc.participant.work import Replies

MIB = 2**20


async def test_large_results_come_in_several_responses() -> None:
    replies = Replies(7)
    for index in range(5):
        replies.deliver(index, CallResult(OutcomeCode.SUCCEEDED, result=bytes(MIB)))
    responses = []
    async for response in replies:
        if not responses:  # these come while the first is being sent
            replies.deliver(5, CallResult(OutcomeCode.SUCCEEDED))
            replies.deliver(6, CallResult(OutcomeCode.SUCCEEDED, result=bytes(3 * MIB)))
        responses.append(response)
    assert [[result.index for result in response.results] for response in responses] == [
        [0],
        [1],
        [2],
        [3],
        [4],
        [5],
        [6],
    ]


async def test_small_results_come_together() -> None:
    replies = Replies(100)
    for index in range(100):
        replies.deliver(index, CallResult(OutcomeCode.SUCCEEDED, result=b"x"))
    (response,) = [response async for response in replies]
    assert len(response.results) == 100


async def test_equal_and_different_results_keep_their_places() -> None:
    sold_out = CallResult(OutcomeCode.REJECTED, "SOLD_OUT", "none left")
    done = CallResult(OutcomeCode.SUCCEEDED, result=b"x", content_type="text/plain")
    gone = CallResult(OutcomeCode.FAILED, "GONE", permanent=True)
    outcomes = [sold_out, sold_out, done, done, gone, sold_out, gone, gone]
    replies = Replies(len(outcomes))
    for index, outcome in enumerate(outcomes):
        replies.deliver(index, outcome)
    (response,) = [response async for response in replies]
    found = [
        CallResult(
            OutcomeCode(each.code), each.reason, each.message, each.result, each.content_type, each.permanent
        )
        for each in response.results
    ]
    assert found == outcomes
    assert [each.index for each in response.results] == list(range(len(outcomes)))


async def test_an_rpc_that_has_ended_waits_for_no_result() -> None:
    replies = Replies(2)
    assert replies.waits_for(0)
    reading = asyncio.create_task(anext(aiter(replies)))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    assert not replies.waits_for(0)
