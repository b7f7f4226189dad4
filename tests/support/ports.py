"""Ports that nobody takes between our look and the start of whoever is to listen there."""

import itertools
import os
import socket

# Below those that the kernel gives away: to outgoing connections, and to whoever wants any.
_LEAST, _MOST = 10_000, 32_000
# Processes that test at the same time have ports of their own.
_PROCESSES = 64
_EACH = (_MOST - _LEAST) // _PROCESSES
_numbers = itertools.count()


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many in a row; none of them is found again before all others were."""
    first = _LEAST + os.getpid() % _PROCESSES * _EACH
    while True:
        found = [first + next(_numbers) % _EACH for _ in range(count)]
        if found[-1] - found[0] == count - 1 and all(map(_is_free, found)):
            return found[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections that have ended a moment ago do not hinder a server either.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
