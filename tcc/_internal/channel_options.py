"""The options of every gRPC channel, in one place: to coordinators, to participants, for operators."""

from typing import Any, TypeAlias

Options: TypeAlias = tuple[tuple[str, Any], ...]

# A call of an initiator has 10 s by default. If its connection dies, there is still time to call another
# coordinator.
INITIATOR_KEEPALIVE_S = 8.0
# A transaction is returned with its payloads and results, and a list with many of them.
_RESPONSE_BYTES_MAX = 64 * 2**20
BRANCH_CALLS_BYTES_MAX = 16 * 2**20

# gRPC's default waits for minutes. With these, a restarted server is found within a second.
_RECONNECT: Options = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time limit of one connection attempt: a distant server with TLS needs several round trips.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
# Coordinators and participants are inside the network. A proxy in the environment is for the outside.
_DIRECT: Options = (("grpc.enable_http_proxy", 0),)
_ALL_ADDRESSES: Options = (("grpc.lb_policy_name", "round_robin"),)


def keepalive_options(noticed_within_s: float) -> Options:
    """Return the options with which one end notices in time that a connection has died silently.

    After half of the time without data it sends a ping; after the other half without an
    answer it closes the connection. Any data counts as an answer. The peer must allow pings.
    """
    half_ms = round(noticed_within_s * 500)
    return (
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        # gRPC 1.85 uses the longer of the two, and the default of this one is a minute.
        ("grpc.http2.ping_timeout_ms", half_ms),
        # Otherwise the first call after an idle time would find the dead connection.
        ("grpc.keepalive_permit_without_calls", 1),
        # An end that only reads sends no data, and would stop to ping after two pings.
        ("grpc.http2.max_pings_without_data", 0),
    )


def client_options(more: Options = ()) -> Options:
    """Return the options of an initiator's channel to the coordinators.

    Args:
        more: The caller's own options. Where both name an option, the caller's value is used.
    """
    ours = (
        *_ALL_ADDRESSES,
        *_RECONNECT,
        *_DIRECT,
        *keepalive_options(INITIATOR_KEEPALIVE_S),
        ("grpc.max_receive_message_length", _RESPONSE_BYTES_MAX),
    )
    # Of an option that is given twice, gRPC uses the first value.
    return tuple((dict(ours) | dict(more)).items())


def branch_call_options(*, keepalive_s: float, use_http_proxy: bool = False) -> Options:
    """Return the options of a coordinator's channel to a participant.

    Args:
        keepalive_s: Within this time a dead connection is noticed. 0: no pings.
        use_http_proxy: Use the proxy that the environment names.
    """
    return (
        *_ALL_ADDRESSES,
        *_RECONNECT,
        *(() if use_http_proxy else _DIRECT),
        *(keepalive_options(keepalive_s) if keepalive_s else ()),
        # Results have their own limit, which the coordinator checks: an answer beyond it must arrive.
        ("grpc.max_receive_message_length", 128 * 2**20),
        ("grpc.max_send_message_length", -1),
    )


def operator_options(*, keepalive_s: float) -> Options:
    """Return the options of an operator's channel, which ends with one command.

    The time limit of the connection attempt is `keepalive_s`, too.
    """
    return (
        *_DIRECT,
        *keepalive_options(keepalive_s),
        ("grpc.min_reconnect_backoff_ms", round(keepalive_s * 1_000)),
        ("grpc.max_receive_message_length", _RESPONSE_BYTES_MAX),
    )


def conformance_options() -> Options:
    """Return the options of a channel to a participant that the suite restarts again and again."""
    return (
        *_DIRECT,
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
    )
