"""The HTTP port for Prometheus and probes: connections that send or read nothing keep no probe out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from coordinator.observability import metrics_server
from coordinator.observability.metrics_server import MetricsServer
from tests.support.ports import free_port

PROBE = b"GET /healthz HTTP/1.1\r\n\r\n"
LARGE = b"x" * 50_000_000


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with at most two connections."""
    monkeypatch.setattr(metrics_server, "_CONNECTIONS_MAX", 2)
    port = free_port()
    server = MetricsServer(text=lambda: LARGE, content_type="text/plain", not_ready=lambda: "")
    task = asyncio.create_task(server.run("127.0.0.1", port))
    yield port
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_probe_is_answered_beside_idle_connections(port: int) -> None:
    """The oldest makes room."""
    idle = [await _connected(port) for _ in range(2)]
    reader, writer = await _connected(port)
    writer.write(PROBE)
    assert b"200 OK" in await reader.read()
    assert await idle[0][0].read() == b"", "it was ended"
    idle[1][1].write(PROBE)
    assert b"200 OK" in await idle[1][0].read()
    for _, writer in idle:
        writer.close()


async def test_connections_of_another_address_end_no_older_one(port: int) -> None:
    """A flood ends its own connections."""
    honest = await _connected(port)
    flood = [await _connected(port, "127.0.0.2") for _ in range(5)]
    for reader, _ in flood[:-1]:
        assert await reader.read() == b"", "it was ended"
    honest[1].write(PROBE)
    assert b"200 OK" in await honest[0].read()
    for _, writer in (honest, *flood):
        writer.close()


async def test_a_connection_that_does_not_read_is_ended_as_well(port: int) -> None:
    slow = [await _connected(port) for _ in range(2)]
    for _, writer in slow:
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    for reader, _ in slow:
        await reader.read(1)
    reader, writer = await _connected(port)
    writer.write(PROBE)
    assert b"200 OK" in await reader.read()
    read = 0
    with contextlib.suppress(ConnectionResetError):
        while data := await slow[0][0].read(2**20):
            read += len(data)
    assert read < len(LARGE)
    for _, writer in slow:
        writer.transport.abort()


async def _connected(
    port: int, address: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from an address, as soon as the server listens."""
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        except ConnectionRefusedError:
            await asyncio.sleep(0)
