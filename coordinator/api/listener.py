"""A listener, with TLS or without."""

import grpc
from msgspec import Struct


class ListenError(Exception):
    """The address is in use, or not one of this machine's."""


class ServerTls(Struct, frozen=True, kw_only=True):
    """What a server shows, in PEM; with `client_ca`, whom it believes and lets in."""

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
        ListenError: somebody else listens there, or the address is not ours.
    """
    try:
        port: int = (
            server.add_insecure_port(address)
            if tls is None
            else server.add_secure_port(address, _credentials(tls))
        )
    except RuntimeError as error:  # gRPC's word for it; the reason is in its own log only
        raise ListenError(f"cannot listen on {address}") from error
    await server.start()
    return port
