"""A real Redis that a test kills and starts again on the same socket, with its files."""

import os
from pathlib import Path
from typing import Any

import pytest

from participants import redis_server
from participants.child_process import Child

needs_redis = pytest.mark.skipif(
    bool(redis_server.missing()), reason=redis_server.missing() or "all is there"
)


class RedisProcess:
    """A server with an append-only file that is written every second."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.url = f"unix://{home / 'redis.sock'}"
        self._child: Child | None = None

    async def start(self) -> None:
        self._child = await Child.start(
            "redis",
            *redis_server.command(self._home, redis_server.DURABLE),
            log=self._home / "redis.log",
        )
        await self._child.lines(redis_server.READY_LINE)

    async def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        await self._child.stop()

    async def fail_power(self) -> None:
        """Start again without the last tenth of the append-only file.

        SIGKILL alone loses nothing: what was written is with the operating system.
        """
        await self.kill()
        [log] = (self._home / "appendonlydir").glob("*.incr.aof")
        os.truncate(log, log.stat().st_size * 9 // 10)
        await self.start()

    async def lose_everything(self) -> None:
        """Start again without the files, as after a lost disk."""
        await self.kill()
        for file in (self._home / "appendonlydir").iterdir():
            file.unlink()
        await self.start()

    async def stop(self) -> None:
        assert self._child is not None
        await self._child.stop(any_status=True)

    def client(self) -> Any:
        from redis.asyncio import Redis

        return Redis.from_url(self.url)
