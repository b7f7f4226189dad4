"""The address of a participant, and the channel to it."""

import grpc
from msgspec import Struct

# gRPC's own reconnection pauses grow to two minutes, but a recovered participant is needed at once.
CHANNEL_OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Results have their own limit, which the coordinator checks: an answer beyond it must arrive.
    ("grpc.max_receive_message_length", 128 * 2**20),
    ("grpc.max_send_message_length", -1),
)
# What a call has besides its payload and its result.
_CALL_NAMES_BYTES = 4_096


class ParticipantTls(Struct, frozen=True, kw_only=True):
    """Trusted authority, certificate and key in PEM. Without `ca`: gRPC's list of public authorities."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    # The name in the participant's certificate, if it differs from the target's.
    server_name: str | None = None


class ParticipantAddress(Struct, frozen=True, kw_only=True):
    """The address of a participant, and how to call it."""

    # A gRPC target, for example "dns:///inventory:50051".
    target: str
    # None: plain text.
    tls: ParticipantTls | None = None
    # It implements ExecuteBranches; otherwise each branch is a separate call.
    batched: bool = True
    call_timeout_s: float = 5.0
    # The largest request that it accepts.
    request_bytes_max: int = 16 * 2**20


def call_bytes_max(payload_bytes_max: int) -> int:
    """Return the size of the largest call: a Confirm with a payload and a result."""
    return 2 * payload_bytes_max + _CALL_NAMES_BYTES


def open_channel(address: ParticipantAddress) -> grpc.aio.Channel:
    """Return a new channel; it connects when it is first used."""
    options, credentials = _channel_arguments(address)
    if credentials is None:
        return grpc.aio.insecure_channel(address.target, options=options)
    return grpc.aio.secure_channel(address.target, credentials, options=options)


def open_sync_channel(address: ParticipantAddress) -> grpc.Channel:
    """Return a new channel for a caller without an event loop."""
    options, credentials = _channel_arguments(address)
    if credentials is None:
        return grpc.insecure_channel(address.target, options=options)
    return grpc.secure_channel(address.target, credentials, options=options)


def _channel_arguments(
    address: ParticipantAddress,
) -> tuple[tuple[tuple[str, str | int], ...], grpc.ChannelCredentials | None]:
    tls = address.tls
    if tls is None:
        return CHANNEL_OPTIONS, None
    override = () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)
    return (*CHANNEL_OPTIONS, *override), grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
