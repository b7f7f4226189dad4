"""A participant that does every Try, and then nobody hears of it again.

What leaves transactions decided and unfinished. A batch gets the outcomes of its
Trys; its other calls wait until their caller gives up, or until this process ends.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import uvloop

from bench.noop_participant import NoopParticipant, serve
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb


class StallingParticipant(NoopParticipant):
    """Counts like the one that does nothing."""

    async def ExecuteBranches(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteBranchesRequest, _context: Any
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        await self.take(len(request.calls))
        tries = [index for index, call in enumerate(request.calls) if call.operation == common.OPERATION_TRY]
        if tries:
            yield pb.ExecuteBranchesResponse(
                results=[
                    common.CallResult(index=index, code=common.OUTCOME_CODE_SUCCEEDED) for index in tries
                ]
            )
        if len(tries) < len(request.calls):
            await _never()

    async def ConfirmBranch(  # noqa: N802 - gRPC names it
        self, _request: pb.ConfirmBranchRequest, _context: Any
    ) -> pb.ConfirmBranchResponse:
        await self.take(1)
        await _never()

    async def CancelBranch(  # noqa: N802 - gRPC names it
        self, _request: pb.CancelBranchRequest, _context: Any
    ) -> pb.CancelBranchResponse:
        await self.take(1)
        await _never()


async def _never() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="0 picks a free port")
    uvloop.run(serve(StallingParticipant(), parser.parse_args().listen))
