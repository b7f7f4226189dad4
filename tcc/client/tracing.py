"""OpenTelemetry spans of initiators. Needs the extra [tracing].

This module is imported only if the client has a tracer provider. One span covers a whole
transaction. Its context is sent in the request, so the spans of the coordinator and the
participants are below it. The provider's sampler decides for all of them.
"""

from collections.abc import Awaitable, Callable
from contextvars import Token
from importlib import metadata

from tcc._internal.extras import missing_extra
from tcc._internal.plain_text import message_of, plain_text
from tcc.client.outcome import Outcome
from tcc.transaction.v1 import transaction_pb2 as pb

try:
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise missing_extra("a tracer_provider", "tracing", error) from error

_PROPAGATOR = TraceContextTextMapPropagator()


class TransactionSpan:
    """An initiator's span of one transaction."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def enter(self) -> None:
        """Make it the current span until `leave`, which must be called in the same context."""
        self._token = attach(set_span_in_context(self._span))

    def leave(self) -> None:
        if self._token is not None:
            detach(self._token)
            self._token = None

    def end(self, outcome: Outcome | None = None, error: BaseException | None = None) -> None:
        """Record the outcome or error and end the span, once. A cancelled transaction is not an error."""
        span = self._span
        if not span.is_recording():
            return
        if outcome is not None:
            span.set_attribute("tcc.state", outcome.state.name)
            if outcome.cancelled:
                span.set_attribute("tcc.cancel_reason", outcome.cancel_reason.name)
                span.set_attribute("tcc.cancel_branch_id", outcome.cancel_branch_id)
                span.set_attribute("tcc.cancel_detail", outcome.cancel_detail)
        elif error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, plain_text(message_of(error))))
        span.end()


class InitiatorTracing:
    """Creates the spans of a client."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("tcc.client", metadata.version("tcc"))

    def start(
        self, name: str, request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest
    ) -> TransactionSpan:
        """Start a span below the current one, and put its context into the request."""
        attributes = {"tcc.gid": request.gid}
        if request.initiator:
            attributes["tcc.initiator"] = request.initiator
        # It does not become the current span: the client's background tasks would inherit it.
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        request.traceparent = carrier.get("traceparent", "")
        request.tracestate = carrier.get("tracestate", "")
        return TransactionSpan(span)

    async def execute(
        self, request: pb.ExecuteTransactionRequest, execute: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """Run `execute` in a span and return its outcome."""
        span = self.start("tcc.execute", request)
        try:
            outcome = await execute()
        except BaseException as error:
            span.end(error=error)
            raise
        span.end(outcome)
        return outcome
