"""A participant by hand: unary calls, one table, no SDK. Its reservations are their own barrier.

    python -m tests.testing.plain_service DATABASE_URL HOST:PORT

It prints `listening on HOST:PORT` once calls are welcome.
"""

import asyncio
import hashlib
import signal
import sys

import grpc
import psycopg

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

SCHEMA = """
CREATE TABLE IF NOT EXISTS seat (
    gid bytea, branch_id bytea, state text NOT NULL, seat_number uuid, digest bytea,
    PRIMARY KEY (gid, branch_id)
)"""
# The unique key makes one of two racing calls wait for the other's commit.
CLAIM = """
INSERT INTO seat SELECT %s, %s, %s, gen_random_uuid(), %s
WHERE %s OR clock_timestamp() < to_timestamp(%s / 1000.0)
ON CONFLICT DO NOTHING RETURNING seat_number"""
LOCK = "SELECT state, seat_number, digest FROM seat WHERE gid = %s AND branch_id = %s FOR UPDATE"
MOVE = "UPDATE seat SET state = %s WHERE gid = %s AND branch_id = %s"

OK = common.OUTCOME_CODE_SUCCEEDED


def refused(reason: str) -> common.CallResult:
    return common.CallResult(code=common.OUTCOME_CODE_FAILED, reason=reason, permanent=True)


def digest(call: pb.BranchCall) -> bytes:
    """Return the digest of what a call asks for."""
    # Each part is hashed alone, so that none runs into the next.
    parts = (call.action.encode(), call.content_type.encode(), call.payload)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def conflicts(call: pb.BranchCall, tried: bytes | None) -> bool:
    """Return whether a call differs from its Try. A tombstone and an initiator's own Try have no digest."""
    unknown = call.content_type == "application/x-tcc-unknown"
    return tried is not None and not unknown and tried != digest(call)


def seated(seat_number: object) -> common.CallResult:
    return common.CallResult(code=OK, result=str(seat_number).encode(), content_type="text/plain")


class Seats(pb_grpc.ParticipantServiceServicer):
    """The action `take_seat`. ExecuteBranches is left out."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def TryBranch(self, request, context):
        call = request.call
        if call.action != "take_seat":
            return pb.TryBranchResponse(result=refused("UNKNOWN_ACTION"))
        if call.payload == b"no seat":
            outcome = common.CallResult(code=common.OUTCOME_CODE_REJECTED, reason="NO_SUCH_SEAT")
            return pb.TryBranchResponse(result=outcome)
        return pb.TryBranchResponse(result=await self._in_transaction(try_, call))

    async def ConfirmBranch(self, request, context):
        return pb.ConfirmBranchResponse(result=await self._in_transaction(confirm, request.call))

    async def CancelBranch(self, request, context):
        return pb.CancelBranchResponse(result=await self._in_transaction(cancel, request.call))

    async def _in_transaction(self, handle, call):
        async with await psycopg.AsyncConnection.connect(self._database_url) as db:
            return await handle(db, call, (call.gid.encode(), call.branch_id.encode()))


async def try_(db, call, key):
    claimed = await (
        await db.execute(
            CLAIM,
            (*key, "TAKEN", None if call.tried_by_initiator else digest(call), False, call.expires_at_ms),
        )
    ).fetchone()
    if claimed is not None:
        return seated(claimed[0])
    found = await (await db.execute(LOCK, key)).fetchone()
    if found is None:
        return refused("EXPIRED")
    state, seat_number, tried = found
    if conflicts(call, tried):
        return refused("BRANCH_CONFLICT")
    return refused("LATE_TRY") if state == "FREE" else seated(seat_number)


async def confirm(db, call, key):
    found = await (await db.execute(LOCK, key)).fetchone()
    if found is None:
        return refused("NOT_TRIED")
    state, _, tried = found
    if conflicts(call, tried):
        return refused("BRANCH_CONFLICT")
    if state == "FREE":
        return refused("ALREADY_CANCELLED")
    try:
        await db.execute(MOVE, ("SOLD", *key))
    except psycopg.errors.IntegrityError:
        await db.rollback()
        return common.CallResult(code=common.OUTCOME_CODE_FAILED, reason="NOT_SOLD")
    return common.CallResult(code=OK)


async def cancel(db, call, key):
    await db.execute(CLAIM, (*key, "FREE", None, True, 0))
    [state, _, tried] = await (await db.execute(LOCK, key)).fetchone()
    if conflicts(call, tried):
        return refused("BRANCH_CONFLICT")
    if state == "SOLD":
        return refused("ALREADY_CONFIRMED")
    await db.execute(MOVE, ("FREE", *key))
    return common.CallResult(code=OK)


async def main(database_url: str, address: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as db:
        await db.execute(SCHEMA)
    server = grpc.aio.server()
    pb_grpc.add_ParticipantServiceServicer_to_server(Seats(database_url), server)
    port = server.add_insecure_port(address)
    await server.start()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print(f"listening on {address.rpartition(':')[0]}:{port}", flush=True)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
