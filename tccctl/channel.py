"""The way to a coordinator: in plain text, or by TLS."""

from pathlib import Path

import grpc

from tccctl.failures import UsageFailure
from tccctl.settings import Settings

_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# gRPC pings once a second at most, and coordinators bear that.
_PING_EVERY_MIN_S = 1.0
# gRPC counts milliseconds in 31 bits.
_PING_EVERY_MAX_S = 3_600.0


def open_channel(settings: Settings) -> grpc.Channel:
    """Return a channel, to be closed by the caller. Raises UsageFailure: a TLS file cannot be read.

    Who hangs is found out within `settings.timeout_s`, two seconds at least, also in the midst of a stream.
    """
    if settings.ca_file is None:
        if settings.certificate_file or settings.key_file:
            raise UsageFailure(
                "a certificate is shown by TLS only", advice="name the authorities with --ca-file"
            )
        return grpc.insecure_channel(settings.address, options=_options(settings.timeout_s))
    if (settings.certificate_file is None) is not (settings.key_file is None):
        raise UsageFailure("--certificate-file and --key-file go together")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.ca_file),
        private_key=_read(settings.key_file),
        certificate_chain=_read(settings.certificate_file),
    )
    return grpc.secure_channel(settings.address, credentials, options=_options(settings.timeout_s))


def _options(timeout_s: float) -> list[tuple[str, int]]:
    """Return the channel's options. A stream may be idle for long; pings detect a hung coordinator."""
    half_ms = round(min(max(timeout_s / 2, _PING_EVERY_MIN_S), _PING_EVERY_MAX_S) * 1_000)
    return [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        # It bounds the first attempt to connect, which would otherwise have 20 seconds.
        ("grpc.min_reconnect_backoff_ms", 2 * half_ms),
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        # gRPC 1.85 waits for this one, a minute by default, where it is the longer of the two.
        ("grpc.http2.ping_timeout_ms", half_ms),
        ("grpc.keepalive_permit_without_calls", 0),
        # Who only listens sends no data, and would ping no more after two.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise UsageFailure(f"{path} cannot be read: {error.strerror}") from error
