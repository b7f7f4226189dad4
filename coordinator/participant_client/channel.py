"""The address of a participant, and the channel to it."""

from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import grpc
from msgspec import Struct

from tcc._internal.channel_options import Options, branch_call_options
from tcc._internal.tls import Tls, channel_credentials, channel_options
from tcc._internal.token import TokenChannel, token_source

# Schemes of gRPC targets that are not names in DNS, and need no port of their own.
OTHER_SCHEMES = ("unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:")
# What a call has besides its payload and its result.
_CALL_NAMES_BYTES = 4_096
ChannelT = TypeVar("ChannelT", grpc.Channel, grpc.aio.Channel)

# One for each file: it remembers the last token while the file cannot be read.
_token = cache(token_source)


class ParticipantAddress(Struct, frozen=True, kw_only=True):
    """The address of a participant, and how to call it."""

    # A gRPC target, for example "dns:///inventory:50051".
    target: str
    # None: plain text.
    tls: Tls | None = None
    # Of a token that each call shows.
    token_file: Path | None = None
    # It implements ExecuteBranches; otherwise each branch is a separate call.
    batched: bool = True
    call_timeout_s: float = 5.0
    # Within this time a connection that died silently is noticed. 0: no pings.
    keepalive_s: float = 15.0
    # The proxy that the environment names is used.
    use_http_proxy: bool = False
    # The largest request that it accepts.
    request_bytes_max: int = 16 * 2**20


def is_dns_name(target: str) -> bool:
    """Return whether the target's addresses come from DNS, where they may change."""
    if target.startswith(OTHER_SCHEMES):
        return False
    host = target.removeprefix("dns:").rpartition("/")[2].rpartition(":")[0]
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return True
    return False


def call_bytes_max(payload_bytes_max: int) -> int:
    """Return the size of the largest call: a Confirm with a payload and a result."""
    return 2 * payload_bytes_max + _CALL_NAMES_BYTES


def open_channel(address: ParticipantAddress) -> grpc.aio.Channel | TokenChannel:
    """Return a new channel; it connects when it is first used."""
    options, credentials = _channel_arguments(address)
    if credentials is None:
        channel = grpc.aio.insecure_channel(address.target, options=options)
    else:
        channel = grpc.aio.secure_channel(address.target, credentials, options=options)
    return with_token(channel, address)


def with_token(channel: ChannelT, address: ParticipantAddress) -> ChannelT | TokenChannel:
    """Return the channel, whose calls show the participant's token if it has one."""
    if address.token_file is None:
        return channel
    return TokenChannel(channel, _token(address.token_file))


def open_sync_channel(address: ParticipantAddress) -> grpc.Channel:
    """Return a new channel for a caller without an event loop. Its calls show no token."""
    options, credentials = _channel_arguments(address)
    if credentials is None:
        return grpc.insecure_channel(address.target, options=options)
    return grpc.secure_channel(address.target, credentials, options=options)


def _channel_arguments(address: ParticipantAddress) -> tuple[Options, grpc.ChannelCredentials | None]:
    tls = address.tls
    options = branch_call_options(keepalive_s=address.keepalive_s, use_http_proxy=address.use_http_proxy)
    if tls is None:
        return options, None
    return (*options, *channel_options(tls)), channel_credentials(tls.content())
