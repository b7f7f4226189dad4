"""A certificate authority, and the files of one server or client, for tests."""

import ssl
from pathlib import Path

import grpc
from cryptography import x509

import tcc
from tests.support.identities import SERVER_NAME, Authority, Pair


class Site:
    """An authority, and the files of one server or client."""

    def __init__(self, directory: Path, authority: Authority | None = None, pair: Pair | None = None) -> None:
        """`pair`: its first certificate; None: one for servers."""
        self.directory = directory
        self.authority = authority or Authority()
        self.write(pair or self.authority.issue(SERVER_NAME, client=False))
        (directory / "ca.crt").write_bytes(self.authority.own.certificate_pem)

    def write(self, pair: Pair) -> None:
        """Replace the files, one after the other."""
        for name, content in (("tls.crt", pair.certificate_pem), ("tls.key", pair.key_pem)):
            (self.directory / "new").write_bytes(content)
            (self.directory / "new").replace(self.directory / name)

    def tls(self, *, ca: bool = True) -> tcc.Tls:
        return tcc.Tls(
            certificate=self.directory / "tls.crt",
            key=self.directory / "tls.key",
            ca=self.directory / "ca.crt" if ca else None,
            server_name=SERVER_NAME,
        )

    def served_serial(self, port: int) -> int:
        """Return the serial number of the certificate that a new connection is shown."""
        pem = ssl.get_server_certificate(("127.0.0.1", port))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def channel(self, port: int, pair: Pair | None = None) -> grpc.aio.Channel:
        return self.authority.channel(f"127.0.0.1:{port}", pair)
