"""The channel to a coordinator: plain text or TLS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tcc._internal.channel_options import Options, operator_options
from tcc._internal.tls import Tls, TlsContent, channel_credentials
from tcc._internal.token import TokenChannel
from tccctl.failures import UsageFailure
from tccctl.settings import Settings

# gRPC sends at most one ping per second, and coordinators accept that.
_PING_EVERY_MIN_S = 1.0
# gRPC counts milliseconds in 31 bits.
_PING_EVERY_MAX_S = 3_600.0


@contextmanager
def open_channel(settings: Settings) -> Iterator[grpc.Channel | TokenChannel]:
    """Provide a channel during the block. Raises UsageFailure: a TLS file cannot be read.

    A hung coordinator is detected within `settings.timeout_s` (at least two seconds), even during a stream.
    """
    if settings.ca_file is None:
        if settings.certificate_file or settings.key_file:
            raise UsageFailure(
                "a client certificate requires TLS", advice="give the CA certificates with --ca-file"
            )
        if settings.token_file:
            raise UsageFailure("a token requires TLS", advice="give the CA certificates with --ca-file")
        with grpc.insecure_channel(settings.address, options=_options(settings.timeout_s)) as channel:
            yield channel
        return
    if (settings.certificate_file is None) is not (settings.key_file is None):
        raise UsageFailure("--certificate-file and --key-file must be given together")
    credentials = channel_credentials(_tls_content(settings))
    # gRPC's own call credentials have a thread for which closing the channel may wait forever.
    token = None if settings.token_file is None else _token(settings.token_file)
    with grpc.secure_channel(settings.address, credentials, options=_options(settings.timeout_s)) as channel:
        yield channel if token is None else TokenChannel(channel, lambda: token)


def _options(timeout_s: float) -> Options:
    """Return the channel's options. A stream may be idle for long; pings detect a hung coordinator."""
    return operator_options(keepalive_s=min(max(timeout_s, 2 * _PING_EVERY_MIN_S), 2 * _PING_EVERY_MAX_S))


def _tls_content(settings: Settings) -> TlsContent:
    files = Tls(ca=settings.ca_file, certificate=settings.certificate_file, key=settings.key_file)
    try:
        return files.content()
    except OSError as error:
        raise UsageFailure(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageFailure(
            str(error), advice="check --ca-file, --certificate-file and --key-file, or their variables"
        ) from error


def _token(path: Path) -> str:
    token = _read(path).decode(errors="replace").strip()
    if not (token and token.isascii() and token.isprintable()):
        raise UsageFailure(f"{path} does not hold a token")
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageFailure(f"{path} cannot be read: {error.strerror}") from error
