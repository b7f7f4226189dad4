"""The participants as processes: they say when they are ready, answer, and end gracefully."""

import asyncio
import socket
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import create_async_engine

from participants.child_process import Child
from participants.inventory.store import metadata
from participants.serving import create_schema


@pytest.mark.parametrize("name", ["inventory", "coupon", "order", "locks"])
async def test_a_service_starts_on_an_empty_database_and_ends_on_sigterm(
    name: str, database_url: str, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", f"participants.{name}", "--database", database_url)
    process = await Child.start(name, *command, log=tmp_path / "log")
    [address] = await process.lines(r"listening on (\S+)")
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await process.stop()


async def test_the_locks_serve_metrics(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    database = f"sqlite+aiosqlite:///{tmp_path / 'locks'}"
    command = (sys.executable, "-m", "participants.locks", "--database", database)
    process = await Child.start("locks", *command, "--metrics", f"127.0.0.1:{port}", log=tmp_path / "log")
    await process.lines(r"listening on (\S+)")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert "\ntcc_locks_held_keys 0\n" in answer
    await process.stop()


async def test_processes_that_start_together_create_the_schema_together(database_url: str) -> None:
    engines = [create_async_engine(database_url) for _ in range(6)]
    await asyncio.gather(*(create_schema(engine, metadata) for engine in engines))
    for engine in engines:
        await engine.dispose()
