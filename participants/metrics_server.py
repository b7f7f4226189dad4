"""A server that shows the metrics of a participant's process to Prometheus."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_REQUEST_TIMEOUT_S = 10.0
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def serving_text(text: Callable[[], Awaitable[str]], address: str) -> AsyncIterator[None]:
    """Listen during the block. Every GET gets the text, whatever its path."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_HEAD + (await text()).encode())
                await writer.drain()
        finally:
            writer.close()

    host, _, port = address.rpartition(":")
    server = await asyncio.start_server(answer, host.strip("[]"), int(port))
    try:
        yield
    finally:
        server.close()
