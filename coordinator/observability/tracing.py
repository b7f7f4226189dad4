"""Traces: traced transactions as OpenTelemetry spans, sent to a collector over OTLP.

One trace holds the whole transaction, no matter which coordinators drive it and how often
it is interrupted, because no state of the trace is only in a process:

- The initiator's span context is in the log, with the transaction (`Transaction.trace`).
- The id of the transaction's own span, the parent of all others, is derived from that and
from the gid, so every coordinator knows it.
- The id of a failed call is saved with the failure (`Branch.failed_span_id`), so that
the next attempt can link to it.

No span is open while a transaction lives: each is made when it ends, from values. A
coordinator that dies leaves no half-finished span, and the one that adopts its work continues
the same trace. A span is one branch call and not one RPC, which may carry hundreds.
"""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from importlib import metadata

import structlog
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from coordinator.core.model import (
    DECISIONS,
    BranchCall,
    CallResult,
    CancelReason,
    Operation,
    OutcomeCode,
    TraceContext,
    Transaction,
)
from coordinator.engine.observer import Spans
from coordinator.ports.clock import Clock
from coordinator.ports.log import Record
from coordinator.ports.participants import CallResults, OnResults, Participants

logger = structlog.get_logger(__name__)

Attributes = Mapping[str, AttributeValue]

SERVICE_DEFAULT = "tccd"

_CALLS = {operation: f"tcc.{operation.name.lower()}" for operation in Operation}
# A business rejection is not an error.
_FAILURES = {CancelReason.EXPIRED, CancelReason.TRY_FAILED}


class Tracing(Spans):
    """Make the spans of one coordinator, and send them to `endpoint`, an http:// or https:// URL.

    `ratio` is the share of transactions without a trace context for which a trace is started.
    Those with a context are recorded if its sampled flag is set. The `OTEL_*` variables of
    OpenTelemetry's SDK apply (headers, certificates, batches, resource attributes).
    """

    def __init__(
        self,
        *,
        endpoint: str,
        ratio: float,
        service_name: str,
        coordinator: str,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """`coordinator`: the owner's id. `service_name`: if empty, OTEL_SERVICE_NAME, or else tccd."""
        self._ratio = ratio
        self._rng = rng
        self._coordinator = coordinator
        version = metadata.version("tcc")
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._ids = _ChosenIds()
        self._provider = TracerProvider(
            # The initiator that began the trace has decided.
            sampler=ALWAYS_ON,
            id_generator=self._ids,
            resource=Resource.create(
                {
                    SERVICE_NAME: service_name or os.environ.get("OTEL_SERVICE_NAME") or SERVICE_DEFAULT,
                    SERVICE_VERSION: version,
                    SERVICE_INSTANCE_ID: coordinator,
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("tcc.coordinator", version)

    def new_trace(self) -> TraceContext | None:
        """Return a new trace for a transaction without one; None: it is not sampled."""
        if self._rng() >= self._ratio:
            return None
        trace_id = f"{random.getrandbits(128) or 1:032x}"
        return TraceContext(traceparent=_traceparent(trace_id, _id_of(trace_id)))

    def traced(self, participants: Participants, clock: Clock) -> Participants:
        """Return the participants, with a span for each traced call."""
        return TracedParticipants(participants, self, clock)

    async def close(self, timeout_s: float) -> None:
        """Send pending spans; drop what is not sent in time."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the caller no longer waits, and the loop may be closed
                loop.call_soon_threadsafe(ended.set)

        # A daemon thread, which does not delay the exit: an unreachable collector blocks it for long.
        threading.Thread(target=close, name="tcc-tracing", daemon=True).start()
        try:
            await asyncio.wait_for(ended.wait(), timeout_s)
        except TimeoutError:
            logger.warning("traces could not be sent in time")
            self._exporter.shutdown(timeout_millis=0)

    # --- transactions -------------------------------------------------------------

    def phase_ended(self, tx: Transaction, began_at: float, ended_at: float) -> None:
        """See `Spans`."""
        assert tx.trace is not None, "only traced transactions are reported"
        if not tx.trace.sampled:
            return
        own = transaction_span(tx.trace, tx.gid)
        if not (tx.saved_state and tx.saved_state.decided):
            parent = None if own.span_id == tx.trace.span_id else tx.trace
            self._make(
                "tcc.transaction",
                own,
                parent,
                (began_at, ended_at),
                _decided(tx),
                kind=SpanKind.SERVER,
                error=tx.cancel_reason.name if tx.cancel_reason in _FAILURES else "",
            )
        else:
            state: dict[str, AttributeValue] = {
                "tcc.gid": tx.gid,
                "tcc.state": tx.state.name,
                "tcc.heuristic": tx.heuristic,
            }
            self._make("tcc.phase_two", new_span(own), own, (began_at, ended_at), state)

    def adopted(self, record: Record, at: float) -> None:
        """See `Spans`."""
        tx = record.tx
        assert tx.trace is not None, "only traced transactions are reported"
        if not tx.trace.sampled:
            return
        own = transaction_span(tx.trace, tx.gid)
        attributes = {
            "tcc.gid": tx.gid,
            "tcc.state": tx.state.name,
            "tcc.owner": self._coordinator,
            "tcc.former_owner": record.adopted_from,
        }
        links = [Link(_span_context(tx.trace))]
        self._make("tcc.adopt", new_span(own), own, (at, at), attributes, links=links)

    # --- calls ----------------------------------------------------------------------

    def called(
        self,
        participant: str,
        call: BranchCall,
        answer: CallResult,
        *,
        sent_at: float,
        answered_at: float,
    ) -> None:
        """Make the span of a traced call that has ended."""
        own = call.span
        assert own is not None, "only calls with a span are reported"
        assert call.trace is not None, "a span is in a trace"
        attributes: dict[str, AttributeValue] = {
            "tcc.gid": call.gid,
            "tcc.branch_id": call.spec.branch_id,
            "tcc.participant": participant,
            "tcc.participant.action": call.spec.action,
            "tcc.operation": call.operation.name,
            "tcc.branch_kind": call.spec.kind.name,
            "tcc.attempt": call.attempt,
            "tcc.outcome": answer.code.name,
            "tcc.owner": self._coordinator,
            "service.peer.name": participant,
        }
        if answer.reason:
            attributes["tcc.reason"] = answer.reason
        links = []
        if call.failed_span_id:
            before = _at(own, call.failed_span_id)
            links.append(Link(_span_context(before), {"tcc.link": "the attempt before"}))
        self._make(
            _CALLS[call.operation],
            own,
            transaction_span(call.trace, call.gid),
            (sent_at, answered_at),
            attributes,
            kind=SpanKind.CLIENT,
            links=links,
            error=(answer.reason or "UNKNOWN") if answer.code is OutcomeCode.FAILED else "",
            message=answer.message,
        )

    def _make(
        self,
        name: str,
        own: TraceContext,
        parent: TraceContext | None,
        times: tuple[float, float],
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
        error: str = "",
        message: str = "",
    ) -> None:
        """Make one span, from its beginning to its end."""
        began_at, ended_at = times
        self._ids.trace_id, self._ids.span_id = int(own.trace_id, 16), int(own.span_id, 16)
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(_span_context(parent)), context)
        span = self._tracer.start_span(
            name, context, kind, attributes, links, start_time=_nanoseconds(began_at)
        )
        if error:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR, f"{error}: {message}" if message else error))
        span.end(_nanoseconds(max(began_at, ended_at)))


class TracedParticipants:
    """See `Tracing.traced`. Implements `ports.Participants`."""

    def __init__(self, participants: Participants, tracing: Tracing, clock: Clock) -> None:
        self._participants = participants
        self._tracing = tracing
        self._clock = clock

    def execute(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        """See `ports.Participants.execute`."""
        if any(call.trace is not None and call.trace.sampled for call in calls):
            self._execute_traced(participant, calls, on_results)
        else:
            self._participants.execute(participant, calls, on_results)

    def _execute_traced(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        sent_at = self._clock.now()

        def on_traced(answers: CallResults) -> None:
            answered_at = self._clock.now()
            results: CallResults = []
            for call, answer in answers:
                if call.span is None:
                    results.append((call, answer))
                    continue
                try:
                    self._tracing.called(participant, call, answer, sent_at=sent_at, answered_at=answered_at)
                except Exception:  # the result does not depend on it
                    logger.exception("the span of a branch call could not be made", gid=call.gid)
                failed = answer.code is OutcomeCode.FAILED
                results.append((call, replace(answer, span_id=call.span.span_id) if failed else answer))
            on_results(results)

        self._participants.execute(participant, [_with_span(call) for call in calls], on_traced)


def _with_span(call: BranchCall) -> BranchCall:
    """Return the call with a span of its own, if it is traced."""
    if call.trace is None or not call.trace.sampled:
        return call
    return replace(call, span=new_span(call.trace))


def transaction_span(given: TraceContext, gid: str) -> TraceContext:
    """Return the span of the transaction that came with the context `given`.

    Every reader of the transaction derives the same span. If the trace is our own
    (`Tracing.new_trace`), the context of the transaction is already its span.
    """
    if given.span_id == _id_of(given.trace_id):
        return given
    return _at(given, _id_of(given.trace_id + gid))


def new_span(beside: TraceContext) -> TraceContext:
    """Return a new span context in the same trace."""
    return _at(beside, f"{random.getrandbits(64) or 1:016x}")


def _at(beside: TraceContext, span_id: str) -> TraceContext:
    return replace(beside, traceparent=_traceparent(beside.trace_id, span_id))


def _traceparent(trace_id: str, span_id: str) -> str:
    return f"00-{trace_id}-{span_id}-01"


def _id_of(name: str) -> str:
    """Return the id of a span, derived from its meaning."""
    return blake2b(name.encode(), digest_size=8).hexdigest()


def _span_context(place: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(place.trace_id, 16),
        span_id=int(place.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([place.tracestate]) if place.tracestate else TraceState(),
    )


def _decided(tx: Transaction) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "tcc.gid": tx.gid,
        "tcc.decision": DECISIONS[tx.state].name,
        "tcc.branches": len(tx.branches),
        "tcc.client.interactive": tx.interactive,
    }
    if tx.initiator:
        attributes["tcc.initiator"] = tx.initiator
    if tx.cancel_reason:
        attributes["tcc.cancel_reason"] = tx.cancel_reason.name
        attributes["tcc.cancel_branch_id"] = tx.cancel_branch_id
        attributes["tcc.cancel_detail"] = tx.cancel_detail
    return attributes


def _nanoseconds(moment: float) -> int:
    return round(moment * 1e9)


class _ChosenIds(IdGenerator):
    """Give the next span the ids chosen for it. One event loop makes all spans."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id
