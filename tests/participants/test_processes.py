"""The participants as processes: they say when they are ready, answer, and end gracefully."""

import asyncio
import signal
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import create_async_engine

from participants.inventory.store import metadata
from participants.serving import create_schema


@pytest.mark.parametrize("name", ["inventory", "coupon", "order"])
def test_a_service_starts_on_an_empty_database_and_ends_on_sigterm(name: str, database_url: str) -> None:
    command = [sys.executable, "-m", f"participants.{name}", "--database", database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "on"]
            with grpc.insecure_channel(words[2]) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


async def test_processes_that_start_together_create_the_schema_together(database_url: str) -> None:
    engines = [create_async_engine(database_url) for _ in range(6)]
    await asyncio.gather(*(create_schema(engine, metadata) for engine in engines))
    for engine in engines:
        await engine.dispose()
