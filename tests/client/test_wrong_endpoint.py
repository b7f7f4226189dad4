"""A client that is pointed at another server: the error says what answers there, and what was expected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc.client.endpoint import probe
from tests.client.scripted_service import ScriptedService, serving
from tests.tccctl.test_real_coordinator import make_certificates, needs_openssl

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]
EXPECTED = "expected was a coordinator's listener for initiators (port 50050 by default)"
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"


async def messages(target: str, timeout_s: float = 60.0) -> set[str]:
    """Return the ends of the messages of both kinds of calls."""
    async with tcc.Client(target, timeout_s=timeout_s) as client:
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


# An address that does not answer as gRPC is tried until the timeout of the call, and probed in the meantime.


@pytest.mark.slow
async def test_a_web_server():
    async with answering(HTTP) as target:
        assert await messages(target, timeout_s=5.0) == {f"a server of HTTP/1, not of gRPC; {EXPECTED}"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (HTTP, f"a server of HTTP/1, not of gRPC; {EXPECTED}"),
        (b"<!DOCTYPE HTML>\n<html>", f"a server of HTTP/1, not of gRPC; {EXPECTED}"),
        (b"220 smtp.example ESMTP\r\n", f"a server that is not one of gRPC; {EXPECTED}"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("uses_tls", [False, True])
async def test_a_server_without_grpc(answer, found, uses_tls):
    async with answering(answer) as target:
        assert await probe(target, uses_tls=uses_tls) == found


@pytest.mark.parametrize(
    ("uses_tls", "found"),
    [
        (True, "a gRPC server without TLS; expected was one with TLS, because the client has tls"),
        (False, ""),
    ],
)
async def test_a_grpc_server_in_plain_text(uses_tls, found):
    async with serving(ScriptedService()) as target:
        assert await probe(target, uses_tls=uses_tls) == found


@needs_openssl
async def test_a_grpc_server_with_tls(tmp_path):
    make_certificates(tmp_path)
    key, certificate = ((tmp_path / name).read_bytes() for name in ("tcc.key", "tcc.crt"))
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    shown = "a server with TLS; give the client tls=tcc.Tls(…)"
    assert await probe(f"127.0.0.1:{port}", uses_tls=False) == shown
    assert await probe(f"127.0.0.1:{port}", uses_tls=True) == ""
    await server.stop(None)


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:1", "127.0.0.1:99999", "a..b:1", "unix:/tmp/none", "localhost", "a:1,b:2", ":1"],
)
async def test_where_nothing_answers_nothing_is_found(target):
    assert await probe(target, uses_tls=False) == ""
