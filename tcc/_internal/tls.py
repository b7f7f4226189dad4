"""TLS with certificates in files, which are read again when they change."""

import logging
import os
import re
import ssl
import threading
from typing import NamedTuple, TypeAlias

import grpc

logger = logging.getLogger("tcc.tls")

File: TypeAlias = str | os.PathLike[str]
# Of each file: its modification time, its number in the file system, and its size.
_Signature: TypeAlias = tuple[tuple[int, int, int], ...]
_PEM_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")


class TlsContent(NamedTuple):
    """What the files hold, in PEM."""

    certificate: bytes | None
    key: bytes | None
    ca: bytes | None


class Tls:
    """TLS with certificates in files, as cert-manager and the agents of SPIFFE renew them.

    Changed files are read again: new connections use the new certificates, without a restart.
    While the files do not fit together, the last ones that did are used.

    Args:
        certificate: The certificate to show, in PEM, with its chain. A server needs one. A client
            needs one if the server asks for it.
        key: The certificate's private key, in PEM, without a password.
        ca: The authorities that are trusted, in PEM. With it, a server accepts only clients that
            show a certificate of these authorities. A client without it trusts gRPC's list of
            public authorities.
        server_name: For a client: the name in the server's certificate, if it differs from the
            target's.

    Raises:
        ValueError: One of `certificate` and `key` is missing.
    """

    def __init__(
        self,
        *,
        certificate: File | None = None,
        key: File | None = None,
        ca: File | None = None,
        server_name: str | None = None,
    ) -> None:
        if (certificate is None) is not (key is None):
            raise ValueError("tcc.Tls takes certificate and key together")
        self.certificate = None if certificate is None else os.fspath(certificate)
        self.key = None if key is None else os.fspath(key)
        self.ca = None if ca is None else os.fspath(ca)
        self.server_name = server_name
        # gRPC asks from threads of its own.
        self._lock = threading.Lock()
        self._content: TlsContent | None = None
        self._read: _Signature | None = None
        self._last_error = ""

    def content(self) -> TlsContent:
        """Return what the files hold; while they do not fit together, what they held before.

        Raises:
            OSError: A file cannot be read for the first time.
            ValueError: It holds no certificate or key, or they do not belong together.
        """
        with self._lock:
            try:
                self._refresh()
                self._last_error = ""
            except (OSError, ValueError) as error:
                if self._content is None:
                    raise
                if str(error) != self._last_error:
                    logger.warning("the certificates in use are kept: %s", error)
                self._last_error = str(error)
            assert self._content is not None, "it was read, or the reason was raised"
            return self._content

    def _refresh(self) -> None:
        before = self._signature()
        if before == self._read and self._content is not None:
            return
        content = TlsContent(*(_bytes(file) for file in (self.certificate, self.key, self.ca)))
        self._check(content)
        # Otherwise they were replaced just now, and the parts may not belong together.
        if self._signature() == before or self._content is None:
            self._content = content
            self._read = before

    def _signature(self) -> _Signature:
        files = [file for file in (self.certificate, self.key, self.ca) if file is not None]
        stats = [os.stat(file) for file in files]  # noqa: PTH116 - twice as fast, and done for each connection
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in stats)

    def _check(self, content: TlsContent) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.certificate is not None:
                # Without a password it would prompt for one on the terminal.
                context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"{self.certificate} and {self.key} do not match") from error
            raise ValueError(
                f"{self.certificate} and {self.key} are not a certificate and its key in PEM, without a "
                f"password: the first contains {pem_labels(content.certificate)}, "
                f"the second {pem_labels(content.key)}"
            ) from error
        try:
            if content.ca is not None:
                context.load_verify_locations(cadata=content.ca.decode(errors="replace"))
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"{self.ca} contains no certificate in PEM, but {pem_labels(content.ca)}"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tls) and self._names() == other._names()

    def __hash__(self) -> int:
        return hash(self._names())

    def __repr__(self) -> str:
        names = ("certificate", "key", "ca", "server_name")
        given = zip(names, self._names(), strict=True)
        return f"Tls({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"

    def _names(self) -> tuple[str | None, ...]:
        return self.certificate, self.key, self.ca, self.server_name


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials of a server that follow the files.

    Raises:
        OSError: A file cannot be read.
        ValueError: There is no certificate, or it cannot be used.
    """
    if tls.certificate is None:
        raise ValueError("a server needs a certificate: tcc.Tls(certificate=…, key=…)")
    shown = tls.content()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Return what has changed since the last connection; None: nothing."""
        nonlocal shown
        content = tls.content()
        if content is shown:
            return None
        shown = content
        return _configuration(content)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        changed,  # type: ignore[arg-type] # the stubs do not know None
        require_client_authentication=tls.ca is not None,
    )


def _configuration(content: TlsContent) -> grpc.ServerCertificateConfiguration:
    assert content.key is not None, "a server has a key"
    assert content.certificate is not None, "a server has a certificate"
    return grpc.ssl_server_certificate_configuration(
        [(content.key, content.certificate)], root_certificates=content.ca
    )


def channel_credentials(content: TlsContent) -> grpc.ChannelCredentials:
    """Return credentials of a channel. They do not follow the files: open another channel then."""
    return grpc.ssl_channel_credentials(content.ca, content.key, content.certificate)


def channel_options(tls: Tls) -> tuple[tuple[str, str], ...]:
    """Return the options that a channel with TLS needs besides its others."""
    return () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)


def pem_labels(content: bytes | None) -> str:
    """Return what a file contains instead of what was expected, for an error: labels are not secret."""
    labels = dict.fromkeys(label.decode() for label in _PEM_LABEL.findall(content or b""))
    return " and ".join(labels) if labels else "nothing in PEM"


def _bytes(file: str | None) -> bytes | None:
    if file is None:
        return None
    with open(file, "rb") as opened:  # noqa: PTH123 - the path is a text
        return opened.read()
