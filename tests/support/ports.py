"""Ports that no other process takes before the tested process listens on them."""

import itertools
import os
import socket

# Below the range of the kernel for outgoing connections and for port 0.
_LEAST, _MOST = 10_000, 32_000
# Processes that test at the same time have ports of their own.
_PROCESSES = 64
_EACH = (_MOST - _LEAST) // _PROCESSES
_numbers = itertools.count()


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports. Ports are reused only after all others."""
    first = _LEAST + os.getpid() % _PROCESSES * _EACH
    while True:
        found = [first + next(_numbers) % _EACH for _ in range(count)]
        if found[-1] - found[0] == count - 1 and all(map(_is_free, found)):
            return found[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections in TIME_WAIT do not prevent a server from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
