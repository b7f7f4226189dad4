"""What an odd participant sends in a stream in place of a right response. Nothing in it may be believed."""

import random
from collections.abc import Callable, Iterator

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb

_LATE_MAX_S = 2.0
_UNKNOWN_ID = 2**63

_SUCCEEDED = common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)

# A message, and how late it is sent.
Sending = tuple[float, pb.StreamBranchesResponse]


def odd_responses(raw: bytes, rng: random.Random) -> Iterator[tuple[float, bytes]]:
    """Yield what is sent in place of a response, each with its delay."""
    response = pb.StreamBranchesResponse.FromString(raw)
    kind = rng.choice(_KINDS) if response.results else _little_credit
    for delay_s, message in kind(response, rng):
        yield delay_s, message.SerializeToString()


def _one_by_one(response: pb.StreamBranchesResponse, rng: random.Random) -> Iterator[Sending]:
    """Results come alone and in another order, with those of other messages between them."""
    for result in response.results:
        yield rng.uniform(0.0, _LATE_MAX_S), pb.StreamBranchesResponse(results=[result])
    yield 0.0, pb.StreamBranchesResponse(credit=response.credit, draining=response.draining)


def _twice(response: pb.StreamBranchesResponse, rng: random.Random) -> Iterator[Sending]:
    """Each call has a second result, which is another one."""
    yield 0.0, response
    again = [
        pb.StreamBranchesResult(id=result.id, result=_other(result.result)) for result in response.results
    ]
    rng.shuffle(again)
    yield rng.choice((0.0, _LATE_MAX_S)), pb.StreamBranchesResponse(results=again)


def _unknown_ids(response: pb.StreamBranchesResponse, rng: random.Random) -> Iterator[Sending]:
    """Calls that were never sent have succeeded, before those that were sent have results."""
    ids = [0, *range(_UNKNOWN_ID, _UNKNOWN_ID + len(response.results))]
    yield (
        0.0,
        pb.StreamBranchesResponse(
            results=[pb.StreamBranchesResult(id=each, result=_SUCCEEDED) for each in ids]
        ),
    )
    yield rng.uniform(0.0, _LATE_MAX_S), response


def _little_credit(response: pb.StreamBranchesResponse, rng: random.Random) -> Iterator[Sending]:
    """Hardly a call may be sent from here on."""
    response.credit = rng.choice((1, 2, 5))
    yield 0.0, response


def _other(result: common.CallResult) -> common.CallResult:
    """Return what a call did not come to."""
    if result.code == common.OUTCOME_CODE_SUCCEEDED:
        return common.CallResult(code=common.OUTCOME_CODE_REJECTED, reason="ODD")
    return _SUCCEEDED


_KINDS: tuple[Callable[[pb.StreamBranchesResponse, random.Random], Iterator[Sending]], ...] = (
    _one_by_one,
    _twice,
    _unknown_ids,
    _little_credit,
)
