"""A participant that does nothing, as cheaply as gRPC allows: every call succeeds.

After the command `stall` it answers Trys alone, so that transactions are decided and cannot end;
after `hang` it answers nothing.

Its cost is the least that any participant costs. The answer to a batch is made once for each size.
"""

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
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
EOF = grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it
_DONE = common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)


@cache
def _done(indices: Sequence[int]) -> pb.ExecuteBranchesResponse:
    return pb.ExecuteBranchesResponse(
        results=[common.CallResult(index=index, code=common.OUTCOME_CODE_SUCCEEDED) for index in indices]
    )


def _unary(response: Any) -> Any:
    async def answer(self: "NoopParticipant", _request: Any, _context: Any) -> Any:
        await self.take(1)
        return response

    return answer


class NoopParticipant(participant_pb2_grpc.ParticipantServiceServicer):
    """Succeeds, and counts: gRPC calls or messages of streams, and branch calls in them."""

    def __init__(self) -> None:
        self.replica_id = secrets.token_hex(8)
        self.calls = 0
        self.items = 0
        self.stalling = False
        self.hanging = False

    async def ExecuteBranches(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteBranchesRequest, _context: Any
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        await self.take(len(request.calls))
        indices: Sequence[int] = range(len(request.calls))
        if self.stalling:
            indices = tuple(n for n in indices if request.calls[n].operation == common.OPERATION_TRY)
        yield _done(indices)
        if len(indices) < len(request.calls):
            await asyncio.Event().wait()

    async def StreamBranches(self, _requests: Any, context: Any) -> None:  # noqa: N802 - gRPC names it
        await context.write(pb.StreamBranchesResponse(credit=2**31, replica_id=self.replica_id))
        while (request := await context.read()) is not EOF:
            self._count(len(request.items))
            if self.hanging:
                continue
            results = [
                pb.StreamBranchesResult(id=item.id, result=_DONE)
                for item in request.items
                if not self.stalling or item.call.operation == common.OPERATION_TRY
            ]
            await context.write(pb.StreamBranchesResponse(results=results))

    TryBranch = _unary(pb.TryBranchResponse(result=_DONE))
    ConfirmBranch = _unary(pb.ConfirmBranchResponse(result=_DONE))
    CancelBranch = _unary(pb.CancelBranchResponse(result=_DONE))

    def _count(self, items: int) -> None:
        self.calls += 1
        self.items += items

    async def take(self, items: int) -> None:
        self._count(items)
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
