"""A webhook for CloudEvents, in the test's own process."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

OK, HANG = 200, 0


class EventWebhook:
    """Answers each POST with `status`; HANG: not at all. `events` are those that it has accepted."""

    def __init__(self) -> None:
        self.status = OK
        self.events: list[dict[str, Any]] = []
        # Of each POST, in lower case.
        self.heads: list[str] = []
        self.url = ""
        self._posted = asyncio.Condition()
        self._ended = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    async def until_posts(self, count: int) -> None:
        """Wait until so many POSTs have come, accepted or not."""
        async with asyncio.timeout(60), self._posted:
            await self._posted.wait_for(lambda: len(self.heads) >= count)

    async def until_has(self, *ids: str) -> None:
        """Wait until these events were accepted."""
        async with asyncio.timeout(60), self._posted:
            await self._posted.wait_for(lambda: set(ids) <= set(self.ids))

    def end(self) -> None:
        """Let go of the clients that it lets hang."""
        self._ended.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        self.heads.append(head)
        if self.status == OK:
            found = json.loads(body)
            self.events += found if isinstance(found, list) else [found]
        async with self._posted:
            self._posted.notify_all()
        if self.status == HANG:
            await self._ended.wait()
        else:
            writer.write(
                f"HTTP/1.1 {self.status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
        writer.close()


@asynccontextmanager
async def event_webhook(tls: ssl.SSLContext | None = None) -> AsyncIterator[EventWebhook]:
    """Serve during the block. `tls`: over https, for the name localhost."""
    hook = EventWebhook()
    server = await asyncio.start_server(hook.answer, "127.0.0.1", 0, ssl=tls)
    place = "https://localhost" if tls else "http://127.0.0.1"
    hook.url = f"{place}:{server.sockets[0].getsockname()[1]}/events?key=secret"
    try:
        yield hook
    finally:
        hook.end()
        server.close()
