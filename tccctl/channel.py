"""The channel to a coordinator: plain text or TLS."""

from pathlib import Path

import grpc

from tccctl.failures import UsageFailure
from tccctl.settings import Settings

_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# gRPC sends at most one ping per second, and coordinators accept that.
_PING_EVERY_MIN_S = 1.0
# gRPC counts milliseconds in 31 bits.
_PING_EVERY_MAX_S = 3_600.0


def open_channel(settings: Settings) -> grpc.Channel:
    """Return a channel that the caller closes. Raises UsageFailure: a TLS file cannot be read.

    A hung coordinator is detected within `settings.timeout_s` (at least two seconds), even during a stream.
    """
    if settings.ca_file is None:
        if settings.certificate_file or settings.key_file:
            raise UsageFailure(
                "a client certificate requires TLS", advice="give the CA certificates with --ca-file"
            )
        return grpc.insecure_channel(settings.address, options=_options(settings.timeout_s))
    if (settings.certificate_file is None) is not (settings.key_file is None):
        raise UsageFailure("--certificate-file and --key-file must be given together")
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
        # Bounds the first connection attempt, for which gRPC would allow 20 seconds.
        ("grpc.min_reconnect_backoff_ms", 2 * half_ms),
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        # gRPC 1.85 uses the longer of the two, and the default of this one is a minute.
        ("grpc.http2.ping_timeout_ms", half_ms),
        ("grpc.keepalive_permit_without_calls", 0),
        # A client that only reads sends no data, and would stop to ping after two pings.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise UsageFailure(f"{path} cannot be read: {error.strerror}") from error
