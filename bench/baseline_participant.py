"""The least that any correct participant must do, and nothing else.

A process that coordinators take for one of the reference participants: it answers
the same gRPC messages, and `floor_sql` writes the same rows. It has no barrier
logic, no handlers, and would get everything wrong that can go wrong.

`batches` says how many branches it settles in one local transaction, as measured
just before at the participant that it stands for. Messages are gathered until
they hold so many or nothing else of their operation is under way, and what they
hold is cut into local transactions of that size. A message is answered at once
for all of its calls.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import grpc
import psycopg
import uvloop
from sqlalchemy.ext.asyncio import create_async_engine

from bench.baseline_sql import CONTENT_TYPE, PARTICIPANTS, Calls, Connection, Participant, Results
from bench.commands import Command, serve_commands
from bench.gathering import Gathering, cut
from bench.noop_participant import all_done
from coordinator.log.connections import libpq_url
from coordinator.log.statements import SESSION
from participants.serving import arguments, create_schema
from tcc._internal.garbage import relax_garbage_collection
from tcc.barrier import schema
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

_OPTIONS = (("grpc.max_receive_message_length", 16 * 2**20),)
_STATEMENT_TIMEOUT_MS = "10000"


class Arrival:
    """One message, and its wait for its answer."""

    __slots__ = ("answer", "calls")

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.answer: asyncio.Future[pb.ExecuteBranchesResponse] = asyncio.get_running_loop().create_future()


class BaselineParticipant(participant_pb2_grpc.ParticipantServiceServicer):
    """Settles batches of Trys and of Confirms, and counts as the no-op participant does."""

    def __init__(self, participant: Participant, database: "Database") -> None:
        self._participant = participant
        self._database = database
        self._branches_max = 1
        self._tries = Gathering(self._try)
        self._confirms = Gathering(self._confirm)
        self.calls = 0
        self.items = 0

    def take_batches(self, branches: int) -> None:
        self._branches_max = branches
        self._tries.enough = self._confirms.enough = branches

    async def ExecuteBranches(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteBranchesRequest, _context: Any
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        """All calls of a message have one operation, as the baseline sends them."""
        calls = request.calls
        self.calls += 1
        self.items += len(calls)
        arrival = Arrival(calls)
        is_try = calls[0].operation == common.OPERATION_TRY
        (self._tries if is_try else self._confirms).put(arrival, len(calls))
        yield await arrival.answer

    async def _try(self, group: Sequence[Arrival]) -> None:
        calls = [call for arrival in group for call in arrival.calls]

        async def transact(some: Calls) -> Results:
            async with self._database.transaction() as db:
                return await self._participant.try_(db, some)

        parts = await asyncio.gather(*[transact(some) for some in cut(calls, self._branches_max)])
        results = iter([result for part in parts for result in part or ()])
        for arrival in group:
            count = len(arrival.calls)
            arrival.answer.set_result(_with_results(list(islice(results, count))) or all_done(count))

    async def _confirm(self, group: Sequence[Arrival]) -> None:
        calls = [call for arrival in group for call in arrival.calls]

        async def transact(some: Calls) -> None:
            async with self._database.transaction() as db:
                await self._participant.confirm(db, some)

        await asyncio.gather(*[transact(some) for some in cut(calls, self._branches_max)])
        for arrival in group:
            arrival.answer.set_result(all_done(len(arrival.calls)))


def _with_results(results: Sequence[bytes]) -> pb.ExecuteBranchesResponse | None:
    if not results:
        return None
    return pb.ExecuteBranchesResponse(
        results=[
            common.CallResult(
                index=index, code=common.OUTCOME_CODE_SUCCEEDED, result=result, content_type=CONTENT_TYPE
            )
            for index, result in enumerate(results)
        ]
    )


class Database:
    """A few connections that are open from the start."""

    def __init__(self) -> None:
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        # Local transactions that were committed.
        self.commits = 0

    async def open(self, url: str, connections: int) -> None:
        for _ in range(connections):
            db = await psycopg.AsyncConnection.connect(url, prepare_threshold=0)
            # Plans that stay good while the tables grow, as the log has them.
            await db.execute(SESSION.sql, SESSION.bind({"statement_timeout_ms": _STATEMENT_TIMEOUT_MS}))
            await db.commit()
            self._idle.put_nowait(db)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        db = await self._idle.get()
        yield db
        await db.commit()
        self.commits += 1
        self._idle.put_nowait(db)

    async def close(self) -> None:
        while not self._idle.empty():
            await self._idle.get_nowait().close()


async def _create_schema(options: argparse.Namespace, participant: Participant) -> None:
    engine = create_async_engine(options.database)
    await create_schema(engine, participant.metadata)
    async with engine.begin() as db:
        await db.run_sync(schema.migrate)
    await engine.dispose()


async def _serve(options: argparse.Namespace) -> None:
    participant = PARTICIPANTS[options.participant]
    await _create_schema(options, participant)
    database = Database()
    await database.open(libpq_url(options.database), options.connections)
    baseline = BaselineParticipant(participant, database)
    server = grpc.aio.server(options=_OPTIONS)
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(baseline, server)
    port = server.add_insecure_port(options.listen)
    await server.start()
    relax_garbage_collection()
    print(f"listening on {options.listen.rpartition(':')[0]}:{port}", flush=True)

    async def handle(command: Command) -> Command:
        if command["do"] == "batches":
            baseline.take_batches(command["branches"])
            return {}
        return {"calls": baseline.calls, "items": baseline.items, "commits": database.commits}

    await serve_commands(handle)
    await server.stop(None)
    await database.close()


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("participant", choices=sorted(PARTICIPANTS), help="for whom it stands")
    uvloop.run(_serve(parser.parse_args()))
