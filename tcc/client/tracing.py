"""Traces of initiators, as OpenTelemetry spans. Needs the extra [tracing].

Nobody imports this file who was given no tracer provider. One span stands for a whole
transaction; its request carries it to the coordinator, whose spans and the participants'
hang on it. What is recorded the provider's sampler says, for all of them.
"""

from collections.abc import Awaitable, Callable
from contextvars import Token
from importlib import metadata

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tcc.client.outcome import Outcome
from tcc.transaction.v1 import transaction_pb2 as pb

_PROPAGATOR = TraceContextTextMapPropagator()


class TransactionSpan:
    """An initiator's span of one transaction."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def enter(self) -> None:
        """Make it the current span, until `leave` in the same context."""
        self._token = attach(set_span_in_context(self._span))

    def leave(self) -> None:
        if self._token is not None:
            detach(self._token)
            self._token = None

    def end(self, outcome: Outcome | None = None, error: BaseException | None = None) -> None:
        """How the transaction stands; to be cancelled is no error. What has ended stays as it ended."""
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
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end()


class InitiatorTracing:
    """Makes the spans of a client."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("tcc.client", metadata.version("tcc"))

    def start(
        self, name: str, request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest
    ) -> TransactionSpan:
        """Return a new span below the current one; `request` carries it from now on."""
        attributes = {"tcc.gid": request.gid}
        if request.initiator:
            attributes["tcc.initiator"] = request.initiator
        # It does not become the current one: the client's own tasks, which live longer, would inherit it.
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        request.traceparent = carrier.get("traceparent", "")
        request.tracestate = carrier.get("tracestate", "")
        return TransactionSpan(span)

    async def execute(
        self, request: pb.ExecuteTransactionRequest, execute: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """Return what `execute` returns, with a span around it."""
        span = self.start("tcc.execute", request)
        try:
            outcome = await execute()
        except BaseException as error:
            span.end(error=error)
            raise
        span.end(outcome)
        return outcome
