"""A participant that does nothing, as cheaply as gRPC allows: every call succeeds.

After the command `stall` it answers Trys alone, so that transactions are decided and cannot end;
after `hang` it answers nothing.

Its cost is the least that any participant costs. It answers a batch with one message, which is
the same for every batch of that size and is made once.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import cache
from typing import Any

import grpc
import uvloop

from bench import credentials
from bench.commands import Command, serve_commands
from tcc._internal.server_options import server_options
from tcc._internal.tls import server_credentials
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

_OPTIONS = (*server_options(reuse_port=True), ("grpc.max_receive_message_length", 64 * 2**20))
_DONE = common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)


@cache
def all_done(count: int) -> pb.ExecuteBranchesResponse:
    """Return the message that each of `count` calls has succeeded without a result."""
    return _done(range(count))


def _done(indices: Iterable[int]) -> pb.ExecuteBranchesResponse:
    return pb.ExecuteBranchesResponse(
        results=[common.CallResult(index=index, code=common.OUTCOME_CODE_SUCCEEDED) for index in indices]
    )


class NoopParticipant(participant_pb2_grpc.ParticipantServiceServicer):
    """Succeeds, and counts: gRPC calls, and branch calls in them."""

    def __init__(self) -> None:
        self.calls = 0
        self.items = 0
        self.stalling = False
        self.hanging = False

    async def ExecuteBranches(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteBranchesRequest, _context: Any
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        await self.take(len(request.calls))
        if not self.stalling:
            yield all_done(len(request.calls))
            return
        tries = [index for index, call in enumerate(request.calls) if call.operation == common.OPERATION_TRY]
        if tries:
            yield _done(tries)
        if len(tries) < len(request.calls):
            await asyncio.Event().wait()

    async def TryBranch(  # noqa: N802 - gRPC names it
        self, _request: pb.TryBranchRequest, _context: Any
    ) -> pb.TryBranchResponse:
        await self.take(1)
        return pb.TryBranchResponse(result=_DONE)

    async def ConfirmBranch(  # noqa: N802 - gRPC names it
        self, _request: pb.ConfirmBranchRequest, _context: Any
    ) -> pb.ConfirmBranchResponse:
        await self.take(1)
        return pb.ConfirmBranchResponse(result=_DONE)

    async def CancelBranch(  # noqa: N802 - gRPC names it
        self, _request: pb.CancelBranchRequest, _context: Any
    ) -> pb.CancelBranchResponse:
        await self.take(1)
        return pb.CancelBranchResponse(result=_DONE)

    async def take(self, items: int) -> None:
        self.calls += 1
        self.items += items
        if self.hanging:
            await asyncio.Event().wait()


async def serve(participant: NoopParticipant, listen: str, secured: str) -> None:
    """Print the address, and serve until standard input ends."""
    server = grpc.aio.server(options=_OPTIONS)
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(participant, server)
    tls = credentials.tls(secured)
    port = (
        server.add_secure_port(listen, server_credentials(tls)) if tls else server.add_insecure_port(listen)
    )
    await server.start()
    print(f"listening on {listen.rpartition(':')[0]}:{port}", flush=True)

    async def handle(command: Command) -> Command:
        match command["do"]:
            case "count":
                return {"calls": participant.calls, "items": participant.items}
            case "stall" | "hang":
                participant.stalling = True
                participant.hanging = command["do"] == "hang"
                return {}
        raise ValueError(command["do"])

    await serve_commands(handle)
    await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="0 picks a free port")
    parser.add_argument("--secured", default="", metavar="DIR", help="mutual TLS with the files of DIR")
    uvloop.run(serve(NoopParticipant(), **vars(parser.parse_args())))
