"""The way to a coordinator: in plain text, or by TLS."""

from pathlib import Path

import grpc

from tccctl.failures import UsageFailure
from tccctl.settings import Settings

_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]


def open_channel(settings: Settings) -> grpc.Channel:
    """A channel, to be closed by the caller. Raises UsageFailure: a TLS file is missing or cannot be read."""
    if settings.ca_file is None:
        if settings.certificate_file or settings.key_file:
            raise UsageFailure(
                "a certificate is shown by TLS only", advice="name the authorities with --ca-file"
            )
        return grpc.insecure_channel(settings.address, options=_OPTIONS)
    if (settings.certificate_file is None) is not (settings.key_file is None):
        raise UsageFailure("--certificate-file and --key-file go together")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.ca_file),
        private_key=_read(settings.key_file),
        certificate_chain=_read(settings.certificate_file),
    )
    return grpc.secure_channel(settings.address, credentials, options=_OPTIONS)


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise UsageFailure(f"{path} cannot be read: {error.strerror}") from error
