"""A way between two processes that breaks on demand: to a PostgreSQL, or from one gRPC peer to another.

A `Fault` strikes one statement, once. The weather of each direction lasts until it
is changed: `delay_s`, `holds` (packets are lost, and TCP sends them again: all
arrives once the network is restored) and `swallows` (the connection is forgotten half-way:
what was sent never arrives, and neither end is notified).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

SOCKET_NAME = ".s.PGSQL.5432"
_CHUNK_BYTES = 2**16

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Fault(Enum):
    """What happens to the next statement."""

    # It never arrives.
    LOSE_REQUEST = auto()
    # It is carried out; its answer never arrives.
    LOSE_REPLY = auto()
    # It is carried out; the reply never comes, and the connection stays.
    HANG = auto()
    # It arrives only when `deliver` is called.
    DELAY = auto()


@dataclass(kw_only=True, slots=True)
class NetworkConditions:
    """How one direction is."""

    delay_s: float = 0.0
    swallows: bool = False
    _fair: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._fair.set()

    @property
    def holds(self) -> bool:
        return not self._fair.is_set()

    @holds.setter
    def holds(self, held: bool) -> None:
        if held:
            self._fair.clear()
        else:
            self._fair.set()

    async def pass_through(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._fair.wait()


class Proxy:
    """Forwards connections to a server. An armed fault strikes once."""

    def __init__(self, reach: Callable[[], Awaitable[Streams]], where: str) -> None:
        self._reach = reach
        # What to connect to instead of the server: a URL of PostgreSQL, or HOST:PORT.
        self.where = where
        self.fault: Fault | None = None
        self.struck = asyncio.Event()
        # From the client to the server, and back.
        self.there = NetworkConditions()
        self.back = NetworkConditions()
        # New connections are closed at once.
        self.refuses = False
        # Connections are numbered. Those with a smaller number than this are forgotten.
        self._remembered_from = 0
        self._connections = 0
        self._deliver = asyncio.Event()
        self._delivered = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def arm(self, fault: Fault) -> None:
        self.fault = fault
        self.struck.clear()

    async def deliver(self) -> None:
        """Let the delayed statement arrive, and wait for the server's answer."""
        self._deliver.set()
        await self._delivered.wait()

    def cut(self) -> int:
        """Closes every connection; answers how many there were."""
        for task in self._tasks:
            task.cancel()
        return len(self._tasks)

    def forget(self) -> None:
        """From now on connections swallow everything, as after a loss of power. New ones work."""
        self._remembered_from = self._connections

    async def until_unused(self) -> None:
        """Waits until every connection that is open now has ended."""
        await asyncio.gather(*self._tasks)

    def heal(self) -> None:
        """Fair weather. Connections that lost something are cut, as their ends would find out later."""
        if self.there.swallows or self.back.swallows:
            self.cut()
        for direction in (self.there, self.back):
            direction.delay_s, direction.swallows, direction.holds = 0.0, False, False
        self.fault, self.refuses = None, False

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._forward(reader, writer)
        except asyncio.CancelledError:  # by `cut`; asyncio would report it as an error
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        tasks = list(self._tasks)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            return
        try:
            server_reader, server_writer = await self._reach()
        except OSError:
            return  # the server is unavailable; the client finds its connection closed
        number, self._connections = self._connections, self._connections + 1
        there = asyncio.create_task(self._pump(reader, server_writer, self.there, Fault.LOSE_REQUEST, number))
        back = asyncio.create_task(self._pump(server_reader, writer, self.back, Fault.LOSE_REPLY, number))
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()
            back.cancel()
            server_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        conditions: NetworkConditions,
        loses_here: Fault,
        number: int,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.fault is loses_here:
                    self._strike()
                    return
                if self.fault is Fault.DELAY and loses_here is Fault.LOSE_REQUEST:
                    self._strike()
                    await self._deliver.wait()
                    writer.write(data)
                    await self._delivered.wait()
                    return
                if self._deliver.is_set() and loses_here is Fault.LOSE_REPLY:
                    self._delivered.set()
                if self.fault is Fault.HANG and loses_here is Fault.LOSE_REPLY:
                    self._strike()
                    await asyncio.Event().wait()
                await conditions.pass_through()
                if not conditions.swallows and number >= self._remembered_from:
                    writer.write(data)
                    await writer.drain()

    def _strike(self) -> None:
        self.fault = None
        self.struck.set()


@contextlib.asynccontextmanager
async def proxied(url: str, socket_dir: Path) -> AsyncIterator[Proxy]:
    """A proxy before the PostgreSQL whose socket is in `socket_dir`; `where` is the URL through it."""

    async def reach() -> Streams:
        return await asyncio.open_unix_connection(str(socket_dir / SOCKET_NAME))

    with TemporaryDirectory(prefix="tcc-proxy-") as directory:
        path, _, _ = url.partition("?")
        proxy = Proxy(reach, f"{path}?host={directory}")
        server = await asyncio.start_unix_server(proxy.connect, f"{directory}/{SOCKET_NAME}")
        async with _serving(server, proxy):
            yield proxy


@contextlib.asynccontextmanager
async def proxied_address(address: str) -> AsyncIterator[Proxy]:
    """A proxy before the server at HOST:PORT; `where` is the HOST:PORT of the proxy."""
    host, _, port = address.rpartition(":")

    async def reach() -> Streams:
        return await asyncio.open_connection(host, int(port))

    proxy = Proxy(reach, "")
    server = await asyncio.start_server(proxy.connect, "127.0.0.1", 0)
    proxy.where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with _serving(server, proxy):
        yield proxy


@contextlib.asynccontextmanager
async def _serving(server: asyncio.Server, proxy: Proxy) -> AsyncIterator[None]:
    try:
        yield
    finally:
        server.close()
        await proxy.close()
