"""The least that any correct coordinator must do, and nothing else.

A process that initiators take for a coordinator. For each transaction it sends
the same gRPC messages to the same participants and writes the same rows with the
log's own statements, durably and in the same order: insert, Trys, decision,
reply, Confirms, completion. It has no state machine, keeps no transaction in
memory, and would get everything wrong that can go wrong. What a coordinator
takes more than this is the price of its logic.

The batches are the coordinator's too: `batches` says how many rows it wrote in
one statement and how many branch calls it sent in one message, as measured just
before. Requests are gathered until there are enough for one batch of the larger
kind, or nothing else is under way; such a group stays together to its end, and
cuts the batches of the smaller kind out of itself.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import grpc
import uvloop

from bench import work
from bench.commands import Command, obey
from coordinator.core.model import Branch, BranchSpec, State, Transaction
from coordinator.log import statements
from coordinator.log.connections import Connections
from coordinator.log.migration import migrate
from coordinator.log.rows import insert_columns
from coordinator.rpc.participant_client import CHANNEL_OPTIONS
from tcc.uuid7 import uuid7
from tcc.v1 import (
    participant_pb2 as participant_pb,
    participant_pb2_grpc,
    transaction_pb2 as pb,
    transaction_pb2_grpc,
)

_OWNER = str(uuid7())
_EXPIRY_S = 30.0
_CONNECTIONS = 4
_MESSAGE_BYTES_MAX = 16 * 2**20

# Every row is the same but for its gid; encoding what it holds is coordinator's work.
_ROW = {
    name: values[0]
    for name, values in insert_columns(
        (
            Transaction(
                gid="",
                expires_at=0.0,
                fingerprint=bytes(16),
                branches=tuple(
                    Branch(
                        spec=BranchSpec(
                            branch_id=name,
                            participant=name,
                            action=work.ACTION,
                            payload=work.PAYLOAD,
                            content_type=work.CONTENT_TYPE,
                        )
                    )
                    for name in work.PARTICIPANTS
                ),
            ),
        )
    ).items()
}


class Arrival:
    """Transactions that came in one request, and the request's wait for their decision."""

    __slots__ = ("decided", "gids")

    def __init__(self, gids: Sequence[str]) -> None:
        self.gids = gids
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Floor(transaction_pb2_grpc.TransactionServiceServicer):
    """Whole transactions, as if nothing could go wrong."""

    def __init__(self, log: Connections, participants: Mapping[str, Any]) -> None:
        self._log = log
        self._participants = participants
        # How many rows a statement writes, and how many branch calls a message carries.
        self.rows = 1
        self.calls = 1
        self._waiting: list[Arrival] = []
        self._waiting_count = 0
        self._groups: set[asyncio.Task[None]] = set()

    async def ExecuteTransaction(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteTransactionRequest, _context: Any
    ) -> pb.ExecuteTransactionResponse:
        gid = request.gid or str(uuid7())
        await self._decided([gid])
        return pb.ExecuteTransactionResponse(outcome=_confirming(gid))

    async def ExecuteTransactions(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteTransactionsRequest, context: Any
    ) -> None:
        gids = [item.gid for item in request.transactions]
        await self._decided(gids)
        replies = [
            pb.ExecuteTransactionsReply(index=index, outcome=_confirming(gid))
            for index, gid in enumerate(gids)
        ]
        await context.write(pb.ExecuteTransactionsResponse(replies=replies))

    def _decided(self, gids: Sequence[str]) -> asyncio.Future[None]:
        arrival = Arrival(gids)
        self._waiting.append(arrival)
        self._waiting_count += len(gids)
        self._form_group()
        return arrival.decided

    def _form_group(self) -> None:
        enough = self._waiting_count >= max(self.rows, self.calls)
        if not self._waiting or (self._groups and not enough):
            return
        group, self._waiting, self._waiting_count = self._waiting, [], 0
        task = asyncio.create_task(self._drive(group))
        self._groups.add(task)
        task.add_done_callback(self._group_done)

    def _group_done(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        task.result()
        self._form_group()

    async def _drive(self, group: Sequence[Arrival]) -> None:
        gids = sorted([gid for arrival in group for gid in arrival.gids])
        expires_at = time.time() + _EXPIRY_S
        await self._insert(gids, expires_at)
        await self._call_all(gids, participant_pb.OPERATION_TRY, expires_at)
        await self._save(gids, version=1, state=State.CONFIRMING)
        for arrival in group:
            arrival.decided.set_result(None)
        await self._call_all(gids, participant_pb.OPERATION_CONFIRM, expires_at)
        await self._save(gids, version=2, state=State.CONFIRMED)

    async def _insert(self, gids: Sequence[str], expires_at: float) -> None:
        async def insert(some: Sequence[str]) -> None:
            columns: dict[str, Sequence[Any]] = {name: [value] * len(some) for name, value in _ROW.items()}
            columns |= {"gid": some, "expires_at": [expires_at] * len(some)}
            done = await self._log.execute(statements.INSERT, {"owner": _OWNER, **columns})
            assert done.count == len(some)

        await asyncio.gather(*[insert(some) for some in _cut(gids, self.rows)])

    async def _save(self, gids: Sequence[str], *, version: int, state: State) -> None:
        async def save(some: Sequence[str]) -> None:
            columns = {"gid": some, "version": [version] * len(some), "state": [int(state)] * len(some)}
            done = await self._log.execute(statements.SAVE_PLAIN, {"owner": _OWNER, **columns})
            assert done.count == len(some)

        await asyncio.gather(*[save(some) for some in _cut(gids, self.rows)])

    async def _call_all(
        self, gids: Sequence[str], operation: participant_pb.Operation, expires_at: float
    ) -> None:
        expires_at_ms = int(expires_at * 1000)

        async def call(name: str, stub: Any, some: Sequence[str]) -> None:
            calls = [
                participant_pb.BranchCall(
                    gid=gid,
                    branch_id=name,
                    operation=operation,
                    action=work.ACTION,
                    payload=work.PAYLOAD,
                    content_type=work.CONTENT_TYPE,
                    expires_at_ms=expires_at_ms,
                )
                for gid in some
            ]
            request = participant_pb.ExecuteBranchesRequest(calls=calls)
            answered = 0
            async for response in stub.ExecuteBranches(request, timeout=_EXPIRY_S):
                for outcome in response.outcomes:
                    assert outcome.code == participant_pb.OUTCOME_CODE_SUCCEEDED
                    answered += 1
            assert answered == len(some)

        await asyncio.gather(
            *[
                call(name, stub, some)
                for name, stub in self._participants.items()
                for some in _cut(gids, self.calls)
            ]
        )


def _confirming(gid: str) -> pb.TransactionOutcome:
    return pb.TransactionOutcome(gid=gid, state=pb.TRANSACTION_STATE_CONFIRMING)


def _cut(gids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Parts of about `size`, of one length as far as that is possible."""
    parts = max(1, round(len(gids) / size))
    bounds = [len(gids) * part // parts for part in range(parts + 1)]
    return (gids[low:high] for low, high in pairwise(bounds))


async def _serve(url: str, addresses: Mapping[str, str]) -> None:
    log = Connections(url, most=_CONNECTIONS)
    stubs = {
        name: participant_pb2_grpc.ParticipantServiceStub(
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        )
        for name, address in addresses.items()
    }
    floor = Floor(log, stubs)
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),))
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(floor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)

    async def take_batches(command: Command) -> Command:
        floor.rows, floor.calls = command["rows"], command["calls"]
        return {}

    await obey(take_batches)
    await server.stop(None)
    await log.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True, metavar="URL", help="the database for its log")
    parser.add_argument("--participant", action="append", default=[], metavar="NAME=HOST:PORT")
    options = parser.parse_args()
    migrate(options.log)
    uvloop.run(_serve(options.log, dict(each.split("=", 1) for each in options.participant)))
