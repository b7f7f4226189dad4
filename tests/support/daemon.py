"""`tccd serve` as a real process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import grpc

from tcc.transaction.v1 import transaction_pb2_grpc
from tests.support.processes import TIMEOUT_S, python


class Daemon:
    """A running `tccd serve`: its process, its workers' pids and its address."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.workers: list[int] = []
        self.address = ""

    async def next_worker(self) -> int:
        """Wait for the next ready worker and return its pid."""
        while True:
            words = await self._words()
            if words[0] == "worker":
                self.workers.append(int(words[1]))
                return self.workers[-1]

    async def listening(self) -> None:
        """Wait until it serves. Its workers are then known."""
        while not self.address:
            words = await self._words()
            if words[0] == "worker":
                self.workers.append(int(words[1]))
            else:
                self.address = words[-1]

    def kill_worker(self, pid: int) -> None:
        assert pid in self.workers
        self.workers.remove(pid)
        os.kill(pid, signal.SIGKILL)

    async def stop(self) -> int:
        """Send SIGTERM, wait until it has drained, and return the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), TIMEOUT_S)

    async def _words(self) -> list[str]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), TIMEOUT_S)
        assert line, f"tccd ended with {await self.process.wait()}"
        return line.decode().split()


@asynccontextmanager
async def serving(
    directory: Path,
    config: str,
    *,
    workers: int = 1,
    listen: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
) -> AsyncIterator[Daemon]:
    """Run a coordinator with this TOML during the block; it drains at the end."""
    path = directory / "tcc.toml"
    path.write_text(config)
    async with python(
        *("-m", "coordinator", "serve"),
        *(f"--config={path}", f"--workers={workers}", f"--listen={listen}"),
        stderr=stderr,
        directory=directory,
        environment={"TCC_METRICS__LISTEN": ""} | dict(environment or {}),
    ) as process:
        daemon = Daemon(process)
        try:
            await daemon.listening()
            yield daemon
        finally:
            await daemon.stop()


@asynccontextmanager
async def stub(address: str) -> AsyncIterator[transaction_pb2_grpc.TransactionServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield transaction_pb2_grpc.TransactionServiceStub(channel)
