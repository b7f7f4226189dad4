"""A collector of OpenTelemetry traces, over real OTLP, that tests can wait for and inspect."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One span as it came. Ids are hexadecimal; `parent_id` is empty for the root of a trace."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    # The linked spans, as (trace_id, span_id).
    links: list[tuple[str, str]]
    error: str
    began_ns: int
    ended_ns: int
    resource: dict[str, Any]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keep the received spans."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.endpoint = ""
        # Cleared: no request gets a response.
        self.answering = asyncio.Event()
        self.answering.set()
        self._changed = asyncio.Condition()

    def named(self, name: str) -> list[Seen]:
        """Return the spans in the order in which they ended."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.ended_ns)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. It is checked after each batch of spans."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def Export(self, request, context):  # noqa: N802
        await self.answering.wait()
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_seen(span, resource) for span in of_scope.spans]
        async with self._changed:
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector for the duration of the block."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def _seen(span: trace_pb2.Span, resource: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        error=span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else "",
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
