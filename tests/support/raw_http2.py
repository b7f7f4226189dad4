"""A client that speaks just enough HTTP/2 to misbehave: frames as RFC 9113 has them, headers uncompressed."""

import asyncio
import contextlib
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
_FRAME_BYTES = 16_384


class RawConnection:
    """A connection whose window for responses is chosen, and which sends as much as the server allows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._may_send = asyncio.Condition()
        # How much the server allows: for the connection (0), and for each stream.
        self._windows = {0: 65_535}
        self._initial_window = 65_535
        self._next_stream = 1
        self.closed = asyncio.Event()
        # Streams that the server has reset or ended.
        self.ended: set[int] = set()
        self._reading = asyncio.create_task(self._read())

    def send(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        header = struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
        self._writer.write(header + content)

    def call(self, path: str, *, is_complete: bool = False, message: bytes = b"") -> int:
        """Begin a call; return its stream. `is_complete`: with this message, and nothing follows."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._windows[stream] = self._initial_window
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        self.send(HEADERS, END_HEADERS, stream, b"".join(_literal(*field) for field in fields.items()))
        if is_complete:
            self.send(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)
        return stream

    async def upload(self, stream: int, announced: int, sent: int) -> None:
        """Announce a message of a size, and send the beginning of it."""
        left = sent
        self.send(DATA, 0, stream, b"\0" + struct.pack(">I", announced))
        while left and stream not in self.ended and not self.closed.is_set():
            async with self._may_send:
                room = min(self._windows[0], self._windows[stream], left, _FRAME_BYTES)
                if room <= 0:
                    await self._may_send.wait()
                    continue
                self._windows[0] -= room
                self._windows[stream] -= room
            self.send(DATA, 0, stream, bytes(room))
            await self._writer.drain()
            left -= room

    async def until_ended(self, count: int) -> None:
        """Wait until the server has ended so many streams, or the connection."""
        async with self._may_send:
            await self._may_send.wait_for(lambda: len(self.ended) >= count or self.closed.is_set())

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                header = await self._reader.readexactly(9)
                content = await self._reader.readexactly(int.from_bytes(header[:3]))
                self._on_frame(header[3], header[4], int.from_bytes(header[5:]), content)
                async with self._may_send:
                    self._may_send.notify_all()
        self.closed.set()
        async with self._may_send:
            self._may_send.notify_all()

    def _on_frame(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(content)
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(content), 6):
                name, value = struct.unpack(">HI", content[at : at + 6])
                if name == INITIAL_WINDOW_SIZE:
                    change, self._initial_window = value - self._initial_window, value
                    self._windows = {
                        key: each + (change if key else 0) for key, each in self._windows.items()
                    }
            self.send(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.send(PING, ACK, 0, content)
        elif kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
            self.ended.add(stream)


async def connect(address: str, *, window: int = 65_535) -> RawConnection:
    """Connect. `window`: how many bytes of each response the server may send."""
    host, _, port = address.rpartition(":")
    connection = RawConnection(*await asyncio.open_connection(host, int(port)))
    connection._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    connection.send(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
    return connection


def _literal(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
