"""A way to PostgreSQL that breaks on demand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory

SOCKET_NAME = ".s.PGSQL.5432"


class Fault(Enum):
    """What happens to the next statement."""

    # It never arrives.
    LOSE_REQUEST = auto()
    # It is carried out; nobody hears of it.
    LOSE_REPLY = auto()
    # It is carried out; the reply never comes, and the connection stays.
    HANG = auto()
    # It arrives only when `deliver` is called.
    DELAY = auto()


class Proxy:
    """Forwards connections to a server's socket. An armed fault strikes once."""

    def __init__(self, server: Path, url: str) -> None:
        self._server = server
        self.url = url
        self.fault: Fault | None = None
        self.struck = asyncio.Event()
        self._deliver = asyncio.Event()
        self._delivered = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def arm(self, fault: Fault) -> None:
        self.fault = fault
        self.struck.clear()

    async def deliver(self) -> None:
        """Lets the delayed statement arrive; returns when the server has answered it."""
        self._deliver.set()
        await self._delivered.wait()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._server))
        there = asyncio.create_task(self._pump(reader, server_writer, Fault.LOSE_REQUEST))
        back = asyncio.create_task(self._pump(server_reader, writer, Fault.LOSE_REPLY))
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # by `close`; asyncio would report it as an error
            pass
        finally:
            there.cancel()
            back.cancel()
            writer.close()
            server_writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses_here: Fault
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
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
                writer.write(data)
                await writer.drain()

    def _strike(self) -> None:
        self.fault = None
        self.struck.set()


@contextlib.asynccontextmanager
async def proxied(url: str, socket_dir: Path) -> AsyncIterator[Proxy]:
    """A proxy before the server whose socket is in `socket_dir`."""
    with TemporaryDirectory(prefix="tcc-proxy-") as directory:
        path, _, _ = url.partition("?")
        proxy = Proxy(socket_dir / SOCKET_NAME, f"{path}?host={directory}")
        server = await asyncio.start_unix_server(proxy.connect, f"{directory}/{SOCKET_NAME}")
        try:
            yield proxy
        finally:
            server.close()
            await proxy.close()
