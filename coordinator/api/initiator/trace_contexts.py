"""The trace context of a new transaction: from its request, or a sampled new one.

The two fields of the request come first: a batch carries many transactions, each with its
own trace. If the coordinator makes spans, the metadata of a call for one transaction counts
as well, for initiators whose gRPC library sends it automatically. A transaction without a
context may get a trace of its own. As W3C Trace Context requires, an invalid context is
ignored: no request is refused because of tracing.
"""

import re
from collections.abc import Callable, Iterable

from coordinator.api.errors import Context
from coordinator.core.model import TraceContext
from tcc.transaction.v1 import transaction_pb2 as pb

TRACESTATE_CHARACTERS_MAX = 512

Request = pb.ExecuteTransactionRequest | pb.BeginTransactionRequest
# Returns a new trace, or None: only a share of the transactions is sampled.
NewTrace = Callable[[], TraceContext | None]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[ -~]+")


def trace_context(traceparent: str, tracestate: str) -> TraceContext | None:
    """Parse the two headers. Return None if the first is missing or is not a traceparent."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = tracestate.strip()
    is_state = len(state) <= TRACESTATE_CHARACTERS_MAX and _TRACESTATE.fullmatch(state)
    return TraceContext(traceparent=f"00-{trace_id}-{span_id}-{flags}", tracestate=state if is_state else "")


def trace_of(request: Request, call: "Context | None", new_trace: NewTrace | None) -> TraceContext | None:
    """Return the trace of the transaction that `request` asks for.

    `call`: the call, if it carries this request alone. `new_trace`: None if this coordinator
    makes no spans.
    """
    given = trace_context(request.traceparent, request.tracestate)
    if given is not None or new_trace is None:
        return given
    if call is not None:
        given = _in_metadata(call.invocation_metadata() or ())
    return given or new_trace()


def _in_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    found: dict[str, list[str]] = {"traceparent": [], "tracestate": []}
    for key, value in metadata:
        if key in found and isinstance(value, str):
            found[key].append(value)
    if len(found["traceparent"]) != 1:
        return None
    return trace_context(found["traceparent"][0], ",".join(found["tracestate"]))
