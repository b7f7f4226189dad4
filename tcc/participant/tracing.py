"""OpenTelemetry spans of participants. Needs the extra [tracing].

This module is imported only if the participant has a tracer provider. A call that belongs to
a trace gets a span from its arrival to its result, below the coordinator's span. Other calls
get none. A batch of several traced calls gets one more span, which is linked to theirs and
in which the handler runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from tcc._internal.extras import missing_extra
from tcc.barrier.decisions import CallResult, Operation, OutcomeCode
from tcc.participant.v1 import participant_pb2 as pb

try:
    from opentelemetry.context import Context, attach
    from opentelemetry.trace import (
        Link,
        Span,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        set_span_in_context,
        use_span,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as error:
    raise missing_extra("a tracer_provider", "tracing", error) from error

_NAMES = {operation: f"tcc.{operation.name.lower()}" for operation in Operation}
_PROPAGATOR = TraceContextTextMapPropagator()


class CallSpan:
    """The span of one call, from its arrival to its result."""

    def __init__(self, span: Span) -> None:
        self.span = span

    def enter(self) -> None:
        """Make it the current span for the rest of this task."""
        attach(set_span_in_context(self.span))

    def end(self, outcome: CallResult) -> None:
        """End the span with the call's result."""
        span = self.span
        span.set_attribute("tcc.outcome", outcome.code.name)
        if outcome.reason:
            span.set_attribute("tcc.reason", outcome.reason)
        if outcome.code is OutcomeCode.FAILED:
            span.set_attribute("error.type", outcome.reason)
            reason = f"{outcome.reason}: {outcome.message}" if outcome.message else outcome.reason
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end()


class ParticipantTracing:
    """Creates the spans of a participant."""

    def __init__(self, provider: TracerProvider, participant: str) -> None:
        self._tracer = provider.get_tracer("tcc.participant", metadata.version("tcc"))
        self._participant = participant

    def start(self, call: pb.BranchCall, operation: Operation) -> CallSpan | None:
        """Start the span of a received call; None if it belongs to no trace."""
        carrier = {"traceparent": call.traceparent, "tracestate": call.tracestate}
        context = _PROPAGATOR.extract(carrier, Context())
        if not get_current_span(context).get_span_context().is_valid:
            return None
        attributes: dict[str, AttributeValue] = {
            "tcc.gid": call.gid,
            "tcc.branch_id": call.branch_id,
            "tcc.participant": self._participant,
            "tcc.participant.action": call.action,
            "tcc.operation": operation.name,
            "tcc.attempt": call.attempt,
        }
        return CallSpan(self._tracer.start_span(_NAMES[operation], context, SpanKind.SERVER, attributes))

    @contextmanager
    def together(self, action: str, operation: Operation, calls: Sequence[CallSpan]) -> Iterator[None]:
        """Run the block, which handles all of `calls`, in one more span, or in the span of a single call."""
        spans = [call.span for call in calls]
        if len(spans) == 1:
            with use_span(spans[0], record_exception=False, set_status_on_exception=False):
                yield
            return
        first = next((span for span in spans if span.is_recording()), spans[0])
        with self._tracer.start_as_current_span(
            f"{_NAMES[operation]}_batch",
            set_span_in_context(first, Context()),
            attributes={
                "tcc.participant": self._participant,
                "tcc.participant.action": action,
                "tcc.operation": operation.name,
                "tcc.items": len(spans),
            },
            links=[Link(span.get_span_context()) for span in spans],
            record_exception=False,
        ):
            yield
