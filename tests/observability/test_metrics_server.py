"""The HTTP port for Prometheus and probes: connections that send nothing do not pile up."""

import asyncio

import pytest

from coordinator.observability import metrics_server
from coordinator.observability.metrics_server import MetricsServer
from tests.support.ports import free_port


async def test_connections_beyond_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_CONNECTIONS_MAX", 2)
    port = free_port()
    server = MetricsServer(text=lambda: b"", content_type="text/plain", not_ready=lambda: "")
    task = asyncio.create_task(server.run("127.0.0.1", port))
    silent = [await _connected(port) for _ in range(3)]
    assert await silent[2][0].read() == b""
    silent[0][1].close()
    reader, writer = await _connected(port)
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert b"200 OK" in await reader.read()
    for _, writer in silent:
        writer.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, as soon as the server listens."""
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)
