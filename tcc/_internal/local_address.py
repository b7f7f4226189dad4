"""Addresses that only this machine can reach."""

from ipaddress import ip_address

_SCHEMES = ("dns:", "ipv4:", "ipv6:")


def is_local(address: str) -> bool:
    """Return whether an address or a gRPC target is on loopback, or a Unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in _SCHEMES:
        address = address.removeprefix(scheme)
    # After the authority of a target: dns://server/host:port.
    return all(is_loopback(one) for one in address.rpartition("/")[2].split(","))


def is_loopback(address: str) -> bool:
    """Return whether a HOST:PORT is on loopback."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
