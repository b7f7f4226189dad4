"""The HTTP port of one worker: `/metrics` for Prometheus, `/healthz` and `/readyz` for process managers.

It answers only GET, from the worker's own loop: a response shows that the loop runs,
and reading the state needs no lock.

Connections that send nothing, or do not read, keep no other caller out: beyond the limit, the oldest
connection of the address that has most of them is ended.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

logger = structlog.get_logger(__name__)

# Such a request has a few lines.
_REQUEST_BYTES_MAX = 16_384
_REQUEST_TIMEOUT_S = 10.0
# Scrapers and probes are few. Each connection is a file, of which a process may open only so many.
_CONNECTIONS_MAX = 64
# A draining predecessor may still have the port.
_LISTEN_AGAIN_S = 2.0

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """Serve `text` (in `content_type`), and readiness: `not_ready` returns the reason, or an empty string."""

    def __init__(self, *, text: Callable[[], bytes], content_type: str, not_ready: Callable[[], str]) -> None:
        self._text = text
        self._content_type = content_type
        self._not_ready = not_ready
        self._server: asyncio.Server | None = None
        # The address of each connection, the oldest first.
        self._connections: dict[asyncio.WriteTransport, str] = {}

    async def run(self, host: str, port: int) -> None:
        """Listen until cancelled. If the port is in use, keep trying: transactions do not wait for it."""
        waiting = False
        while self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._answer, host.strip("[]"), port, limit=_REQUEST_BYTES_MAX
                )
            except OSError as error:
                if not waiting:
                    logger.warning("cannot listen for metrics; retrying", port=port, error=error.strerror)
                waiting = True
                await asyncio.sleep(_LISTEN_AGAIN_S)
        port = self._server.sockets[0].getsockname()[1]
        logger.info("serving metrics", url=f"http://{host}:{port}/metrics")
        async with self._server:
            await self._server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername") or ("",)
        self._connections[writer.transport] = address[0]
        if len(self._connections) > _CONNECTIONS_MAX:
            self._end_one()
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.split(b"\r\n", 1)[0]))
                await writer.drain()
        except TimeoutError:
            # Closing it would wait until the rest of the response is read.
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # an invalid or aborted request gets no response
        finally:
            self._connections.pop(writer.transport, None)
            writer.close()

    def _end_one(self) -> None:
        """End the oldest connection of the address that has most of them."""
        ((most, _),) = Counter(self._connections.values()).most_common(1)
        oldest = next(transport for transport, address in self._connections.items() if address == most)
        del self._connections[oldest]
        oldest.abort()

    def _response(self, request_line: bytes) -> bytes:
        method, _, rest = request_line.decode("latin-1").partition(" ")
        status, content_type, body = self._content(method, rest.partition(" ")[0].partition("?")[0])
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == "HEAD" else body)

    def _content(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in {"GET", "HEAD"}:
            return 405, _TEXT, b"only GET is supported\n"
        match path:
            case "/metrics":
                return 200, self._content_type, self._text()
            case "/healthz":
                return 200, _TEXT, b"tcc: alive\n"
            case "/readyz":
                reason = self._not_ready()
                return (503, _TEXT, f"{reason}\n".encode()) if reason else (200, _TEXT, b"tcc: ready\n")
            case _:
                return 404, _TEXT, b"/metrics, /healthz, /readyz\n"
