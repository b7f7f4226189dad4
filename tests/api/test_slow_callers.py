"""Callers that send their requests, or take their responses, slowly or never: over real connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from coordinator.api import slow_readers
from coordinator.api.arrivals import Arrivals
from coordinator.core.errors import Overloaded
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.raw_http2 import connect
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import Running, branch, running, settings_for

SERVICE = "/tcc.transaction.v1.TransactionService"
KIB = 2**10
MIB = 2**20


@asynccontextmanager
async def coordinator(log_url: str, **listen: object) -> AsyncIterator[Running]:
    async with serving(ScriptedParticipant()) as address:
        table = {"address": "127.0.0.1:0"} | listen
        async with running(settings_for({"stock": {"target": address}}, listen=table), log_url) as worker:
            yield worker


def execute(gid: str, payload: bytes = b"") -> pb.ExecuteTransactionRequest:
    branches = [branch("1", payload=payload)]
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches, wait_for=pb.WAIT_FOR_COMPLETION)


# --- requests --------------------------------------------------------------------------------


async def test_half_uploaded_requests_are_bounded_and_others_served(log_url: str) -> None:
    limits = {"request_bytes_max": 2 * MIB, "arriving_bytes_max": 4 * MIB, "request_max_s": 3.0}
    async with coordinator(log_url, **limits) as worker:
        raw = await connect(worker.address)
        streams = [raw.call(f"{SERVICE}/ExecuteTransaction") for _ in range(5)]
        uploads = [asyncio.create_task(raw.upload(stream, 2 * MIB, 64 * KIB)) for stream in streams]
        # Two have room. The others are ended before the time in which a request may arrive is over.
        async with asyncio.timeout(2.5):
            await raw.until_ended(3)
        await worker.stub.ExecuteTransaction(execute("g"))
        assert len(raw.ended) == 3
        await raw.until_ended(5)
        await asyncio.gather(*uploads)
        await raw.close()


@pytest.mark.parametrize(("late_s", "is_refused"), [(0.0, True), (0.2, False)])
async def test_a_busy_process_takes_no_request_for_a_slow_one(*, late_s: float, is_refused: bool) -> None:
    """The loop comes to its timers late. The request may be there."""
    arrivals = Arrivals(request_max_s=3.0, slow_max=0)
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    class Call:
        async def read(self) -> str:
            loop.call_soon(block)
            await arrived.wait()
            return "request"

    def block() -> None:
        until = loop.time() + late_s
        while loop.time() < until:
            pass
        if late_s:
            loop.call_later(0.01, arrived.set)

    if is_refused:
        with pytest.raises(Overloaded):
            await arrivals.read(Call())
    else:
        assert await arrivals.read(Call()) == "request"


# --- responses -------------------------------------------------------------------------------

SHORT = {"response_max_s": 0.4, "calls_max": 2}


async def test_a_stream_that_is_not_read_leaves_its_place(log_url: str) -> None:
    async with coordinator(log_url, **SHORT) as worker:
        raw = await connect(worker.address, window=0)
        batch = pb.ExecuteTransactionsRequest(transactions=[execute("g")]).SerializeToString()
        for _ in range(2):
            raw.call(f"{SERVICE}/ExecuteTransactions", is_complete=True, message=batch)
        await worker.settled("g")
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))
        async with asyncio.timeout(60):
            await raw.closed.wait()
            # The calls of a closed connection end a moment later.
            while await all_places_are_taken(worker, "g"):
                pass
        assert await worker.state("g") == "CONFIRMED"
        await raw.close()


async def all_places_are_taken(worker: Running, gid: str) -> bool:
    code = await worker.stub.GetTransaction(pb.GetTransactionRequest(gid=gid)).code()
    return code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_response_that_is_not_read_leaves_its_place(log_url: str) -> None:
    async with coordinator(log_url, **SHORT) as worker:
        await worker.stub.ExecuteTransaction(execute("g", bytes(100 * KIB)))
        raw = await connect(worker.address, window=0)
        get = pb.GetTransactionRequest(gid="g").SerializeToString()
        for _ in range(2):
            raw.call(f"{SERVICE}/GetTransaction", is_complete=True, message=get)
        async with asyncio.timeout(60):
            await raw.closed.wait()
        # The connection of the stub is another one.
        assert await worker.state("g") == "CONFIRMED"
        await raw.close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_only_the_connections_of_those_peers_are_ended() -> None:
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: accepted.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    ports = [writer.get_extra_info("sockname")[1] for _, writer in clients]
    files = open_files()
    assert slow_readers.end_connections(set()) == 0
    assert slow_readers.end_connections({"unix:", f"ipv4:127.0.0.1:{ports[1]}"}) == 1
    assert slow_readers.end_connections({f"ipv6:%5B::ffff:127.0.0.1%5D:{ports[0]}"}) == 1
    assert open_files() == files
    for reader, _ in clients[:2]:
        assert await reader.read() == b""
    assert not clients[2][0].at_eof()
    for _, writer in clients:
        writer.close()
    server.close()
