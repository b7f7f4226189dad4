"""The gRPC server for operators: AdminService, health and reflection, on its own port."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.api.listener import ServerTls, listen
from coordinator.api.operator.service import AdminService
from coordinator.api.server import MESSAGE_BYTES_MAX
from coordinator.engine.auditor import Auditor
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Spans
from coordinator.engine.reconciler import Reconciler
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log
from coordinator.ports.operator_log import OperatorLog
from tcc.admin.v1 import admin_pb2, admin_pb2_grpc

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
# Operators are few. A program that calls too often must not take the coordinator's time.
CALLS_MAX = 64
CALL_MAX_S = 60.0
# tccctl pings at most once a second while it waits for a stream; the network may bring two pings together.
_PING_EVERY_MIN_MS = 500


class AdminServer:
    """A server for operators on one address."""

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        reconciler: Reconciler,
        auditor: Auditor,
        *,
        transactions: Log,
        clock: Clock,
        spans: Spans,
        owner: str,
        share_port: bool,
    ) -> None:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MIN_MS),
            ),
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(
                engine,
                log,
                reconciler,
                auditor,
                transactions=transactions,
                clock=clock,
                spans=spans,
                owner=owner,
                call_max_s=CALL_MAX_S,
            ),
            self._server,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME),
            self._server,
        )

    async def start(self, address: str, tls: ServerTls | None) -> int:
        """Listen on `address` ("host:port"). Return the port.

        Raises:
            ListenError: the address is in use, or not an address of this machine.
        """
        port = await listen(self._server, address, tls)
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no new calls; those in flight have `grace_s` seconds to end."""
        await self._server.stop(grace_s)
