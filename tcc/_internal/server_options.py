"""The options of every gRPC server, in one place. A server adds its own limits."""

from tcc._internal.channel_options import Options, keepalive_options

# A client that died silently does not keep its connection and its calls for longer.
KEEPALIVE_S = 15.0
# So that connections with revoked and expired certificates end, and clients reconnect.
CONNECTION_AGE_MAX_MS = 30 * 60 * 1000
# The network may bring pings closer together than they were sent. tccctl sends one a second at most.
_PING_EVERY_MIN_MS = 500


def server_options(*, reuse_port: bool) -> Options:
    """Return the options of a server: of a coordinator, of its port for operators, of a participant.

    Args:
        reuse_port: Let several processes listen on one port (SO_REUSEPORT).
    """
    return (
        ("grpc.so_reuseport", int(reuse_port)),
        *keepalive_options(KEEPALIVE_S),
        # gRPC's default refuses pings that come more often than every five minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MIN_MS),
    )
