"""The responses to a batch of calls: each is small enough for a client without options of its own."""

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
