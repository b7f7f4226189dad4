"""The gRPC options of the SDK's channels and servers, in one place."""

from typing import Any, TypeAlias

Options: TypeAlias = tuple[tuple[str, Any], ...]

# A transaction is returned with its payloads and results, and a list with many of them.
_RESPONSE_BYTES_MAX = 64 * 2**20
_BRANCH_CALLS_BYTES_MAX = 16 * 2**20


def client_options(more: Options = ()) -> Options:
    """Return the options of a channel to the coordinators.

    Args:
        more: The caller's own options. Where both name an option, the caller's value is used.
    """
    return (
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.max_receive_message_length", _RESPONSE_BYTES_MAX),
        # gRPC's default waits for minutes. With these, a restarted coordinator is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        *more,
    )


def participant_options(*, reuse_port: bool) -> Options:
    """Return the options of a participant's server."""
    return (
        ("grpc.max_receive_message_length", _BRANCH_CALLS_BYTES_MAX),
        ("grpc.so_reuseport", int(reuse_port)),
    )


def conformance_options() -> Options:
    """Return the options of a channel to a participant that the suite restarts again and again."""
    return (
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
    )
