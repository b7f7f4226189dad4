"""The coordinator's gRPC server: its services, health and reflection."""

from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from coordinator.api.initiator.requests import RequestLimits
from coordinator.api.initiator.service import TransactionService
from coordinator.api.initiator.trace_contexts import NewTrace
from coordinator.api.listener import ServerTls, listen
from coordinator.engine.engine import Engine
from coordinator.ports.clock import Clock
from coordinator.ports.log import Log
from tcc._internal.server_options import server_options
from tcc.transaction.v1 import transaction_pb2, transaction_pb2_grpc

# Room for the results of all branches of the largest transaction.
MESSAGE_BYTES_MAX = 32 * 2**20
# A call that has waited this many whole seconds before it is read is refused by gRPC with
# CANCELLED. Otherwise, under overload, calls would be served whose callers have given up.
QUEUE_TIMEOUT_S = 3

# Then a client connects again, after its calls, and looks up the coordinators' name: a new one gets work.
CONNECTION_AGE_MAX_MS = 30_000

SERVICE = transaction_pb2.DESCRIPTOR.services_by_name["TransactionService"].full_name


class Services:
    """The registry for generated code, with one queue of calls for all methods.

    Generated code would make a queue per method, and gRPC's server would check all of them per call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Ignore them: they are served as generic handlers, which generated code adds as well."""


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
        calls_max: int,
        new_trace: NewTrace | None = None,
    ) -> None:
        self._server = grpc.aio.server(
            options=(
                *server_options(reuse_port=share_port),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.server_max_unrequested_time_in_server", QUEUE_TIMEOUT_S),
            ),
            maximum_concurrent_rpcs=calls_max,
        )
        services = Services(self._server)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
        transaction_pb2_grpc.add_TransactionServiceServicer_to_server(
            TransactionService(engine, limits, log=log, clock=clock, new_trace=new_trace), services
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names),  # type: ignore[attr-defined] # the stubs lack it
            services,
        )

    async def start(self, address: str, tls: ServerTls | None = None) -> int:
        """Listen on `address` ("host:port"), without `tls` in plain text. Return the port.

        Raises:
            ListenError: the address is in use, or not an address of this machine.
        """
        return await listen(self._server, address, tls)

    async def set_serving(self, *, serving: bool) -> None:
        """Set what health checks report."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", SERVICE):
            await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Accept no new calls; those in flight have `grace_s` seconds to end."""
        await self._server.stop(grace_s)
