"""A gRPC listener, with or without TLS, whose certificates follow their files."""

import grpc

from tcc._internal.tls import Tls, server_credentials


class ListenError(Exception):
    """The address is in use, or not an address of this machine."""


async def listen(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    """Start a server on `address`. Return the port.

    Raises:
        ListenError: the address is in use, or not an address of this machine.
    """
    try:
        port: int = (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, server_credentials(tls))
        )
    except RuntimeError as error:  # gRPC raises this; the reason is only in its own log
        raise ListenError(f"cannot listen on {address}") from error
    await server.start()
    return port
