"""A DNS server on loopback whose one name gets the addresses that a test sets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_HEADER_BYTES = 12
_RESPONSE, _NO_ERROR = 0x8580, 0
_A, _IN = 1, 1
_NAME_OF_THE_QUESTION = 0xC00C


class NameServer(asyncio.DatagramProtocol):
    """Answer each question with the addresses. Without any, do not answer."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override] # asyncio's own class
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        end = data.index(b"\0", _HEADER_BYTES) + 5
        (kind,) = struct.unpack(">H", data[end - 4 : end - 2])
        if not self.addresses:
            return
        addresses = self.addresses if kind == _A else ()
        answer = data[:2] + struct.pack(">HHHHH", _RESPONSE, 1, len(addresses), 0, 0)
        answer += data[_HEADER_BYTES:end]
        for address in addresses:
            answer += struct.pack(">HHHIH", _NAME_OF_THE_QUESTION, _A, _IN, 1, 4) + socket.inet_aton(address)
        self._transport.sendto(answer, addr)

    def target(self, port: int) -> str:
        """Return the gRPC target of a server at the name and this port."""
        assert self._transport is not None
        host, at = self._transport.get_extra_info("sockname")
        return f"dns://{host}:{at}/shop.test:{port}"


@asynccontextmanager
async def naming(*addresses: str) -> AsyncIterator[NameServer]:
    """Serve beside the block."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    server.addresses = addresses
    try:
        yield server
    finally:
        transport.close()
