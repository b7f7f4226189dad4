"""A client that is pointed at another server: the error says what answers there, and what was expected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc.transaction.v1 import transaction_pb2_grpc
from tests.client.scripted_service import ScriptedService, serving
from tests.support.ports import free_port
from tests.tccctl.test_real_coordinator import make_certificates, needs_openssl

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]
EXPECTED = "expected was a coordinator's listener for initiators (port 50050 by default)"
# Enough for an attempt, and for the probe beside the next ones.
TIMEOUT_S = 1.0


async def messages(target: str, credentials: grpc.ChannelCredentials | None = None) -> set[str]:
    """Return the ends of the messages of both kinds of calls."""
    async with tcc.Client(target, timeout_s=TIMEOUT_S, credentials=credentials) as client:
        calls = (client.execute(BRANCHES), client.get("order-17"))
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(failure, tcc.TccError) for failure in failures)
    return {str(failure).partition(f"; at {target} answers ")[2] for failure in failures}


@asynccontextmanager
async def healthy(*services: str) -> AsyncIterator[str]:
    """Serve health alone, for these services."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for service in services:
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Answer every connection with these bytes and close it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_participant():
    participant = tcc.Participant("inventory", database=create_async_engine("sqlite+aiosqlite:///:memory:"))
    await participant.create_schema()
    port = await participant.start("127.0.0.1:0")
    assert await messages(f"127.0.0.1:{port}") == {f"a participant; {EXPECTED}"}
    await participant.stop(0)


async def test_an_admin_listener():
    async with healthy("", "tcc.admin.v1.AdminService") as target:
        shown = f"the admin listener of a coordinator, which is for tccctl; {EXPECTED}"
        assert await messages(target) == {shown}


async def test_another_grpc_server():
    async with healthy() as target:
        assert await messages(target) == {f"a gRPC server that is no coordinator; {EXPECTED}"}


async def test_a_coordinator_that_does_not_know_the_call():
    async with healthy("tcc.transaction.v1.TransactionService") as target:
        shown = "a coordinator that is older than this client and does not know the call"
        assert await messages(target) == {shown}


async def test_a_web_server():
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as target:
        assert await messages(target) == {f"a server of HTTP/1, not of gRPC; {EXPECTED}"}


async def test_another_server():
    async with answering(b"220 smtp.example ESMTP\r\n") as target:
        assert await messages(target) == {f"a server that is not one of gRPC; {EXPECTED}"}


async def test_tls_against_plain_text():
    async with serving(ScriptedService()) as target:
        shown = "a gRPC server without TLS; expected was one with TLS, because the client has credentials"
        assert await messages(target, grpc.ssl_channel_credentials()) == {shown}


@needs_openssl
async def test_plain_text_against_tls(tmp_path):
    make_certificates(tmp_path)
    key, certificate = ((tmp_path / name).read_bytes() for name in ("tcc.key", "tcc.crt"))
    server = grpc.aio.server()
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(ScriptedService(), server)
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    shown = "a server with TLS; give the client credentials=grpc.ssl_channel_credentials(…)"
    assert await messages(f"127.0.0.1:{port}") == {shown}
    await server.stop(None)


async def test_nothing_answers():
    assert await messages(f"127.0.0.1:{free_port()}") == {""}
