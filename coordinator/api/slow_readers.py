"""Clients that do not take their responses: their connections are ended.

gRPC cannot end a call whose response waits for its client: even the status of a refusal waits behind
it. Until then the call keeps its place, and its response its memory.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote

import structlog

from coordinator.api.errors import Context

logger = structlog.get_logger(__name__)

_OPEN_FILES = Path("/dev/fd")
# How often connections are searched for at most: in this share of the time that a client has.
_PAUSE_SHARE = 0.1
# How long what is being sent may take if the call is to end.
_LAST_RESPONSE_MAX_S = 0.5
_TCP = ("ipv4", "ipv6")


class SlowReaders:
    """Watches what is being sent to clients."""

    def __init__(self, response_max_s: float) -> None:
        """`response_max_s`: for a client to take a response. After twice that its connection is ended."""
        self._patience_s = 2 * response_max_s
        # The calls that send, and when they must have sent, in order.
        self._sending: dict[asyncio.Task[object], tuple[float, Context]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def sending(self, context: Context) -> Iterator[None]:
        """Watch the call that this task runs while it sends a part of its response."""
        task = self._watch(context)
        try:
            yield
        finally:
            self._forget(task)

    def ending(self, context: Context) -> None:
        """Watch the call that this task runs until it ends: what is left to do is to send."""
        self._watch(context).add_done_callback(self._forget)

    def ending_soon(self) -> Callable[[], None]:
        """Return what ends the connection of the call that this task runs if it does not send on soon."""
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"

        def end_soon() -> None:
            sending = self._sending.get(task)
            if sending is not None:
                asyncio.get_running_loop().call_later(
                    _LAST_RESPONSE_MAX_S, self._end_if_sending, task, sending
                )

        return end_soon

    def _end_if_sending(self, task: "asyncio.Task[object]", sending: tuple[float, Context]) -> None:
        """End the connection of a call that still sends what it was sending."""
        if self._sending.get(task) is sending:
            del self._sending[task]
            end_connections({sending[1].peer()})

    def _watch(self, context: Context) -> "asyncio.Task[object]":
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"
        loop = asyncio.get_running_loop()
        self._sending[task] = (loop.time() + self._patience_s, context)
        if self._timer is None:
            self._timer = loop.call_later(self._patience_s, self._end_due)
        return task

    def _forget(self, task: "asyncio.Task[object]") -> None:
        self._sending.pop(task, None)

    def _end_due(self) -> None:
        """End what is due. Calls that end at the same time are ended together: finding them takes time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        peers: set[str] = set()
        while self._sending:
            task, (at, context) = next(iter(self._sending.items()))
            if at > now:
                break
            del self._sending[task]
            peers.add(context.peer())
        if peers:
            ended = end_connections(peers)
            logger.warning("clients did not take their responses", peers=sorted(peers), ended=ended)
        next_at = next(iter(self._sending.values()), (None, None))[0]
        pause_s = self._patience_s * _PAUSE_SHARE
        self._timer = loop.call_at(max(next_at, now + pause_s), self._end_due) if next_at else None


def end_connections(peers: Collection[str]) -> int:
    """Shut down this process's TCP connections to these peers, as gRPC names them. Return how many."""
    wanted = {address for peer in peers if (address := _address(peer)) is not None}
    ended = 0
    for entry in list(_OPEN_FILES.iterdir()) if wanted else ():
        ended += _end_if(int(entry.name), wanted)
    return ended


def _end_if(file: int, wanted: Collection[tuple[str, int]]) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            return False
        with socket.socket(fileno=os.dup(file)) as connection:
            peer = connection.getpeername()
            if not isinstance(peer, tuple) or (_plain(peer[0]), peer[1]) not in wanted:
                return False
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False  # it is not connected, or was closed in the meantime
    return True


def _address(peer: str) -> tuple[str, int] | None:
    """Return the address in a peer's name, for example ipv4:127.0.0.1:50051; None: it is not TCP."""
    scheme, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return (_plain(host.strip("[]")), int(port)) if scheme in _TCP else None


def _plain(host: str) -> str:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
