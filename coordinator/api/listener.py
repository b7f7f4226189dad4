"""A gRPC listener, with or without TLS."""

import grpc
from msgspec import Struct


class ListenError(Exception):
    """The address is in use, or not an address of this machine."""


class ServerTls(Struct, frozen=True, kw_only=True):
    """A server's certificate and key in PEM. With `client_ca`, clients need a certificate of it."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


async def listen(server: grpc.aio.Server, address: str, tls: ServerTls | None) -> int:
    """Start a server on `address`. Return the port.

    Raises:
        ListenError: the address is in use, or not an address of this machine.
    """
    try:
        port: int = (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, _credentials(tls))
        )
    except RuntimeError as error:  # gRPC raises this; the reason is only in its own log
        raise ListenError(f"cannot listen on {address}") from error
    await server.start()
    return port
