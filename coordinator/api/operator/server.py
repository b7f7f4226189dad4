"""The gRPC server for operators: AdminService, health and reflection, on its own port."""

from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from coordinator.api.access import Access
from coordinator.api.calls import CallLimit, Method, Services, UnreadBytes
from coordinator.api.listener import listen
from coordinator.api.operator.service import AdminService
from coordinator.api.server import HEALTH, ServerLimits, arrivals, health_methods, limit_options
from coordinator.api.slow_readers import SlowReaders
from coordinator.engine.auditor import Auditor
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Spans
from coordinator.engine.reconciler import Reconciler
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log
from coordinator.ports.operator_log import OperatorLog
from tcc._internal.server_options import CONNECTION_AGE_MAX_MS, server_options
from tcc._internal.tls import Tls
from tcc.admin.v1 import admin_pb2, admin_pb2_grpc

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
CALL_MAX_S = 60.0
# A request without its payload. The largest is a reconciliation of many participants.
ADMIN_REQUEST_BYTES = 512 * 2**10


def _methods(limits: ServerLimits) -> Callable[[str, str], Method]:
    method = Method(limit=CallLimit(limits.calls_max, "calls"), request_bytes_max=limits.request_bytes_max)
    health_method = health_methods(limits)
    return lambda service, name: method if service == SERVICE else health_method(service, name)


class AdminServer:
    """A server for operators on one address."""

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        reconciler: Reconciler,
        auditors: Sequence[Auditor],
        *,
        transactions: Log,
        clock: Clock,
        spans: Spans,
        owner: str,
        share_port: bool,
        limits: ServerLimits,
        payload_bytes_max: int,
        access: Access | None = None,
        tls: Tls | None = None,
        reflect: bool = False,
    ) -> None:
        """`access`: checks every call. `tls`: of the listener; None: plain text.

        `reflect`: describe the services to callers.
        """
        self._tls = tls
        self._server = grpc.aio.server(
            options=(
                *server_options(reuse_port=share_port),
                *limit_options(limits),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),
            ),
        )
        services = Services(
            self._server,
            _methods(limits),
            arrivals=arrivals(limits),
            slow_readers=SlowReaders(limits.response_max_s),
            access=access,
            uses_tls=tls is not None,
            unread=UnreadBytes(limits.unread_bytes_max),
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(
                engine,
                log,
                reconciler,
                auditors,
                transactions=transactions,
                clock=clock,
                spans=spans,
                owner=owner,
                call_max_s=CALL_MAX_S,
                payload_bytes_max=payload_bytes_max,
                access=access,
            ),
            services,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
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
        port = await listen(self._server, address, self._tls)
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no new calls; those in flight have `grace_s` seconds to end."""
        await self._server.stop(grace_s)
