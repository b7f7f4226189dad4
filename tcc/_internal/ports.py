"""Ports in addresses. gRPC takes a number that is too large modulo 65,536: it calls another server."""

import re

PORT_MAX = 65_535

_NO_PORTS = ("unix:", "unix-abstract:", "vsock:")
_PORT = re.compile(r":([0-9]+)")


def check_port(address: str) -> None:
    """Raise ValueError if an address, or a target of gRPC, names a port that does not exist."""
    if address.startswith(_NO_PORTS):
        return
    # After the authority of a target: dns://server/host:port.
    for one in address.rpartition("/")[2].split(","):
        found = _PORT.fullmatch(one, max(one.rfind(":"), 0))
        if found is not None and not _is_port(found[1]):
            raise ValueError(f"{address!r} has the port {found[1][:20]}; the highest is {PORT_MAX}")


def _is_port(digits: str) -> bool:
    return len(digits) <= len(str(PORT_MAX)) and int(digits) <= PORT_MAX
