"""A participant for lone calls: a row of its own in Try, a change of it in Confirm.

Async and sync it is one of the SDK. `baseline` is the same SQL, with that of the barrier, by bare
psycopg behind the same gRPC: the least that such a participant costs.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, LiteralString

import grpc
import psycopg
import uvloop
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from bench import work
from bench.commands import serve_commands
from tcc import Participant
from tcc._internal.server_options import server_options
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

_TRY = text("INSERT INTO res (gid, n) VALUES (:gid, 1)")
_CONFIRM = text("UPDATE res SET n = 2 WHERE gid = :gid")
# The statements of the baseline, without BEGIN and COMMIT.
_CLAIM = (
    "INSERT INTO tcc_barrier (gid, branch_id, action, state, expires_at_ms, updated_at_ms, digest) "
    "VALUES (%(gid)s, %(branch)s, %(action)s, 1, %(expiry)s, 0, %(digest)s) "
    "ON CONFLICT DO NOTHING RETURNING gid"
)
_LOCK = (
    "SELECT gid, branch_id, action, state, try_result, digest FROM tcc_barrier "
    "WHERE gid = %(gid)s AND branch_id = %(branch)s FOR UPDATE"
)
_MOVE = "UPDATE tcc_barrier SET state = 2 WHERE gid = %(gid)s AND branch_id = %(branch)s"
_BASELINE: Mapping[int, Sequence[LiteralString]] = {
    common.OPERATION_TRY: (_CLAIM, "INSERT INTO res (gid, n) VALUES (%(gid)s, 1)"),
    common.OPERATION_CONFIRM: (_LOCK, _MOVE, "UPDATE res SET n = 2 WHERE gid = %(gid)s"),
}


class AsyncHandlers:
    async def try_(self, branch: Any, _request: Any, db: Any) -> None:
        await db.execute(_TRY, {"gid": branch.gid})

    async def confirm(self, branch: Any, _request: Any, db: Any) -> None:
        await db.execute(_CONFIRM, {"gid": branch.gid})

    cancel = confirm


class SyncHandlers:
    def try_(self, branch: Any, _request: Any, db: Any) -> None:
        db.execute(_TRY, {"gid": branch.gid})

    def confirm(self, branch: Any, _request: Any, db: Any) -> None:
        db.execute(_CONFIRM, {"gid": branch.gid})

    cancel = confirm


class BarePsycopg(participant_pb2_grpc.ParticipantServiceServicer):
    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[psycopg.AsyncConnection[Any]] = []

    async def ExecuteBranches(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteBranchesRequest, _context: Any
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        (call,) = request.calls
        digest = sha256(call.payload).digest()
        names = ("gid", "branch", "action", "expiry", "digest")
        values = (call.gid, call.branch_id, call.action, call.expires_at_ms, digest)
        parameters = dict(zip(names, values, strict=True))
        db = self._free.pop() if self._free else await self._connect()
        await db.execute("BEGIN")
        for statement in _BASELINE[call.operation]:
            await db.execute(statement, parameters)
        await db.execute("COMMIT")
        self._free.append(db)
        yield pb.ExecuteBranchesResponse(results=[common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)])

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True, prepare_threshold=0)


async def serve(kind: str, database: str) -> None:
    """Print the address, and serve until standard input ends."""
    url = database.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE res (gid text PRIMARY KEY, n integer NOT NULL)")
    engine: Any = create_engine(database) if kind == "sync" else create_async_engine(database)
    participant = Participant("lone", database=engine)
    participant.action(work.ACTION)(SyncHandlers if kind == "sync" else AsyncHandlers)
    async with participant.running() as server:
        baseline = grpc.aio.server(options=server_options(reuse_port=False))
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(BarePsycopg(url), baseline)
        baseline_port = baseline.add_insecure_port("127.0.0.1:0")
        await baseline.start()
        print(f"listening on 127.0.0.1:{baseline_port if kind == 'baseline' else server.port}", flush=True)
        await serve_commands(lambda _: asyncio.sleep(0, {}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", help="ignored")
    parser.add_argument("--database", required=True, metavar="URL")
    parser.add_argument("kind", choices=("async", "sync", "baseline"))
    uvloop.run(serve((given := parser.parse_args()).kind, given.database))
