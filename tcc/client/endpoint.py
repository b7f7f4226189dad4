"""What answers at an address, for errors of clients that were pointed at the wrong one.

gRPC reports only UNIMPLEMENTED, or that a connection was closed. So the client asks: the health
service of a gRPC server for its name, and any other server by the first bytes of its answer.
"""

import asyncio
import contextlib
import re
import ssl
from typing import Any

import grpc

from tcc.errors import TccError

_TIMEOUT_S = 1.0
# The result of a probe is used for this long.
_FRESH_S = 2.0
_EXPECTED = "expected was a coordinator's listener for initiators (port 50050 by default)"
_PLAIN = "a gRPC server without TLS; expected was one with TLS, because the client has tls"
_TLS = "a server with TLS; give the client tls=tcc.Tls(…)"
_SERVICES = (
    ("tcc.admin.v1.AdminService", "the admin listener of a coordinator, which is for tccctl"),
    ("tcc.participant.v1.ParticipantService", "a participant"),
)
_COORDINATOR = "tcc.transaction.v1.TransactionService"
# How a client of HTTP/2 begins: the preface, and an empty frame SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
# The last two: the host is no name, the port no number of a port.
_NO_ANSWER = (OSError, TimeoutError, UnicodeError, OverflowError)
_ADDRESS = re.compile(r"(?:dns:(?:///)?|ipv[46]:)?(?P<host>[^/,\[\]]+|\[[^/,\]]+\]):(?P<port>\d+)")


class Endpoint:
    """The server at one target, as the client's errors describe it."""

    def __init__(self, target: str, channel: grpc.aio.Channel, *, uses_tls: bool) -> None:
        self._target = target
        self._channel = channel
        self._uses_tls = uses_tls
        self._probe: asyncio.Task[str] | None = None
        self._probed_at = -_FRESH_S

    def on_error(self, error: TccError) -> None:
        """Find out what answers, in the background, if no coordinator said this."""
        now = asyncio.get_running_loop().time()
        is_running = self._probe is not None and not self._probe.done()
        if _is_of_transport(error) and not is_running and now - self._probed_at >= _FRESH_S:
            self._probed_at = now
            self._probe = asyncio.create_task(probe(self._target, uses_tls=self._uses_tls))

    async def explain(self, error: TccError) -> None:
        """Add what is known about the server to the message of an error that is about to be raised."""
        found = ""
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            found = await name_service(self._channel)
        elif _is_of_transport(error) or error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            found = self._probed()
        if found:
            error.message = f"{error.message}; at {self._target} answers {found}"
            error.args = (error.message,)

    def _probed(self) -> str:
        is_done = self._probe is not None and self._probe.done() and not self._probe.cancelled()
        return self._probe.result() if is_done and self._probe is not None else ""

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])


def _is_of_transport(error: TccError) -> bool:
    """Return whether gRPC itself made an error. A coordinator's has a reason of its own."""
    return error.code is grpc.StatusCode.UNAVAILABLE and error.reason == error.code.name


async def name_service(channel: grpc.aio.Channel) -> str:
    """Return what a gRPC server is that does not know a call."""
    if await _serves(channel, _COORDINATOR):
        return "a coordinator that is older than this client and does not know the call"
    for service, name in _SERVICES:
        if await _serves(channel, service):
            return f"{name}; {_EXPECTED}"
    return f"a gRPC server that is no coordinator; {_EXPECTED}"


async def _serves(channel: grpc.aio.Channel, service: str) -> bool:
    check: Any = channel.unary_unary(
        "/grpc.health.v1.Health/Check", request_serializer=None, response_deserializer=None
    )
    # A HealthCheckRequest; its classes are in a package that initiators need not install.
    request = b"\n" + bytes([len(service)]) + service.encode()
    try:
        await check(request, timeout=_TIMEOUT_S)
    except grpc.aio.AioRpcError:
        return False
    return True


async def probe(target: str, *, uses_tls: bool) -> str:
    """Return what answers at a target; an empty text if it is what was expected, or not known."""
    found = _ADDRESS.fullmatch(target)
    if found is None:
        return ""
    host, port = found["host"].strip("[]"), int(found["port"])
    first = await _first_bytes(host, port)
    if first[3:4] == bytes([_SETTINGS]):
        return _PLAIN if uses_tls else ""
    if first.startswith(b"HTTP/") or b"<html" in first.lower():
        return f"a server of HTTP/1, not of gRPC; {_EXPECTED}"
    if first.startswith(_TLS_RECORDS) or await _speaks_tls(host, port):
        return "" if uses_tls else _TLS
    return f"a server that is not one of gRPC; {_EXPECTED}" if first else ""


async def _first_bytes(host: str, port: int) -> bytes:
    """Return how a server answers the start of a connection in plain text."""
    with contextlib.suppress(*_NO_ANSWER):
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_PREFACE)
                return await reader.read(1_024)
            finally:
                writer.close()
    return b""


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    # Nothing is sent over this connection; gRPC has reported whether the certificate is trusted.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(*_NO_ANSWER):
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.close()
            return True
    return False
