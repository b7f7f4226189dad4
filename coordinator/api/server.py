"""The coordinator's gRPC server: its services, health and reflection."""

from collections.abc import Callable
from functools import cache

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from msgspec import Struct

from coordinator.api.access import Access
from coordinator.api.arrivals import Arrivals
from coordinator.api.calls import CallLimit, Method, Services, UnreadBytes
from coordinator.api.initiator.batch import batch_decoder, frame_decoder
from coordinator.api.initiator.requests import RequestLimits, transaction_request
from coordinator.api.initiator.service import TransactionService
from coordinator.api.initiator.trace_contexts import NewTrace
from coordinator.api.listener import listen
from coordinator.api.slow_readers import SlowReaders
from coordinator.engine.engine import Engine
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log
from coordinator.ports.participants import StreamLoad
from tcc._internal.channel_options import Options
from tcc._internal.server_options import server_options
from tcc._internal.tls import Tls
from tcc.transaction.v1 import transaction_pb2, transaction_pb2_grpc

# A call that has waited this many whole seconds before it is read is refused by gRPC with
# CANCELLED. Otherwise, under overload, calls would be served whose callers have given up.
QUEUE_TIMEOUT_S = 3
# How long a new connection may take to introduce itself.
HANDSHAKE_TIMEOUT_MS = 10_000
# Requests that carry no content of a transaction.
SMALL_REQUEST_BYTES_MAX = 64 * 2**10
# Then a client connects again, after its calls, and looks up the coordinators' name: a new one gets work.
CONNECTION_AGE_MAX_MS = 30_000

SERVICE = transaction_pb2.DESCRIPTOR.services_by_name["TransactionService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class ServerLimits(Struct, frozen=True, kw_only=True):
    """The bounds of one server, beyond which calls and connections are refused."""

    connections_max: int = 8_192
    # Calls in flight, but for those below.
    calls_max: int = 8_192
    # WaitTransaction.
    waits_max: int = 2_048
    # ConfirmTransaction and CancelTransaction; half of them may wait for the completion.
    decisions_max: int = 2_048
    # Health checks, watches of the health, and reflection: of each.
    health_max: int = 1_024
    # The largest request, which is a batch.
    request_bytes_max: int = 8 * 2**20
    response_bytes_max: int = 32 * 2**20
    # Responses that wait until their clients read them.
    unread_bytes_max: int = 256 * 2**20
    # Requests that arrive slowly, each counted as the largest one. As much again: open streams, whose next
    # request may be arriving.
    arriving_bytes_max: int = 256 * 2**20
    # How long a request may take to arrive, a response to be taken, and a connection to be idle.
    request_max_s: float = 30.0
    response_max_s: float = 10.0
    idle_max_s: float = 300.0

    @property
    def slow_max(self) -> int:
        """How many requests may arrive slowly at once, and how many streams may be open."""
        return max(1, self.arriving_bytes_max // self.request_bytes_max)


def limit_options(limits: ServerLimits) -> Options:
    """Return the limits that gRPC itself keeps, of both servers."""
    return (
        ("grpc.max_receive_message_length", limits.request_bytes_max),
        ("grpc.max_send_message_length", limits.response_bytes_max),
        ("grpc.max_allowed_incoming_connections", limits.connections_max),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_connection_idle_ms", round(limits.idle_max_s * 1000)),
    )


def arrivals(limits: ServerLimits) -> Arrivals:
    """Return the reader of requests of a server with these limits."""
    return Arrivals(request_max_s=limits.request_max_s, slow_max=limits.slow_max)


def health_methods(limits: ServerLimits) -> Callable[[str, str], Method]:
    """Return the bounds of health checks and reflection: they do not depend on other calls."""

    @cache
    def method(_service: str, name: str) -> Method:
        limit = CallLimit(limits.health_max, f"calls of {name}")
        return Method(limit=limit, request_bytes_max=SMALL_REQUEST_BYTES_MAX)

    return method


def _methods(limits: ServerLimits, requests: RequestLimits) -> Callable[[str, str], Method]:
    """Return the bounds of the methods for initiators."""
    calls = CallLimit(limits.calls_max, "calls")
    waits = CallLimit(limits.waits_max, "waits")
    decisions = CallLimit(limits.decisions_max, "decisions")
    small = Method(limit=calls, request_bytes_max=SMALL_REQUEST_BYTES_MAX)
    branch = Method(limit=calls, request_bytes_max=requests.branch_request_bytes_max)
    decision = Method(limit=decisions, request_bytes_max=SMALL_REQUEST_BYTES_MAX)
    # Both may bring messages.
    branches = Method(limit=calls, request_bytes_max=requests.branches_request_bytes_max)
    confirm = Method(limit=decisions, request_bytes_max=requests.branches_request_bytes_max)
    known = {
        "ExecuteTransaction": Method(
            limit=calls,
            request_bytes_max=limits.request_bytes_max,
            decode=lambda raw: transaction_request(raw, requests),
        ),
        "ExecuteTransactions": Method(
            limit=calls,
            request_bytes_max=limits.request_bytes_max,
            decode=batch_decoder(requests.batch_max),
        ),
        "StreamTransactions": Method(
            # Besides those with a place, as many may wait for one.
            limit=CallLimit(2 * limits.slow_max, "streams"),
            request_bytes_max=limits.request_bytes_max,
            decode=frame_decoder(requests.batch_max),
        ),
        "TryBranch": branch,
        "RegisterBranch": branches,
        "ConfirmTransaction": confirm,
        "CancelTransaction": decision,
        "WaitTransaction": Method(limit=waits, request_bytes_max=SMALL_REQUEST_BYTES_MAX),
    }
    health_method = health_methods(limits)

    def method(service: str, name: str) -> Method:
        return known.get(name, small) if service == SERVICE else health_method(service, name)

    return method


class Server:
    """A server for initiators on one address."""

    def __init__(
        self,
        engine: Engine,
        limits: RequestLimits,
        *,
        log: Log,
        clock: Clock,
        share_port: bool,
        server_limits: ServerLimits,
        coordinator_id: str = "",
        new_trace: NewTrace | None = None,
        access: Access | None = None,
        tls: Tls | None = None,
        reflect: bool = False,
    ) -> None:
        """`access`: checks every call. `tls`: of the listener; None: plain text.

        `reflect`: describe the services to callers. `coordinator_id`: of this process.
        """
        self._tls = tls
        self._server = grpc.aio.server(
            options=(
                *server_options(reuse_port=share_port),
                *limit_options(server_limits),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),
                ("grpc.server_max_unrequested_time_in_server", QUEUE_TIMEOUT_S),
            ),
        )
        unread = UnreadBytes(server_limits.unread_bytes_max)
        slow_readers = SlowReaders(server_limits.response_max_s)
        services = Services(
            self._server,
            _methods(server_limits, limits),
            arrivals=arrivals(server_limits),
            slow_readers=slow_readers,
            access=access,
            uses_tls=tls is not None,
            unread=unread,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
        self._service = TransactionService(
            engine,
            limits,
            log=log,
            clock=clock,
            completions=CallLimit(server_limits.decisions_max // 2, "waits for completions"),
            unread=unread,
            slow_readers=slow_readers,
            response_max_s=server_limits.response_max_s,
            streams_max=server_limits.slow_max,
            coordinator_id=coordinator_id,
            new_trace=new_trace,
            access=access,
        )
        transaction_pb2_grpc.add_TransactionServiceServicer_to_server(self._service, services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        if reflect:
            names = (SERVICE, HEALTH, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names),  # type: ignore[attr-defined] # the stubs lack it
                services,
            )

    async def start(self, address: str) -> int:
        """Listen on `address` ("host:port"). Return the port.

        Raises:
            ListenError: the address is in use, or not an address of this machine.
        """
        return await listen(self._server, address, self._tls)

    async def set_serving(self, *, serving: bool) -> None:
        """Set what health checks report."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", SERVICE):
            await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    def stream_load(self) -> StreamLoad:
        """Return what is open to initiators."""
        return self._service.stream_load()

    def start_draining(self) -> None:
        """Ask clients with streams to open others elsewhere."""
        self._service.drain_streams()

    async def stop(self, grace_s: float) -> None:
        """Accept no new calls; those in flight have `grace_s` seconds to end."""
        await self._server.stop(grace_s)
