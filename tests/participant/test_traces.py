"""Spans of initiators and of participants, as the SDK makes them."""

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from sqlalchemy import create_engine

import tcc
from tcc import errors
from tcc.common.v1 import common_pb2 as common
from tests.barrier.test_barrier import make_call
from tests.client.scripted_service import ScriptedService, confirmed, rejected, serving, status
from tests.client.test_client_interactive import BEGUN, CANCELLED, CONFIRMED, GID, TRIED

TRY, CONFIRM = common.OPERATION_TRY, common.OPERATION_CONFIRM
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
BRANCHES = [tcc.BranchRequest("stock", "reserve")]


class Spans:
    """A tracer provider, and the spans that ended, by name."""

    def __init__(self, sampler=None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
def service():
    return ScriptedService()


def traceparent(span: ReadableSpan) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent(span_id: str = "b7ad6b7169203331", flags: str = "01") -> str:
    return f"00-{TRACE_ID}-{span_id}-{flags}"


# --- initiators --------------------------------------------------------------


async def test_each_transaction_of_a_batch_has_a_span_of_its_own(service, spans):
    many = [f"g{number}" for number in range(20)]

    async def buy(client, gid):
        with spans.tracer.start_as_current_span("checkout"):
            await client.execute(BRANCHES, gid=gid)

    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        await asyncio.gather(*[buy(client, gid) for gid in many])
    assert service.batches, "they went together"
    sent = {item.gid: item.traceparent for item in service.unary}
    sent |= {item.gid: item.traceparent for batch in service.batches for item in batch.transactions}
    executed = {span.attributes["tcc.gid"]: span for span in spans.named("tcc.execute")}
    assert sent == {gid: traceparent(span) for gid, span in executed.items()}
    assert sorted(executed) == sorted(many)
    assert {span.kind for span in executed.values()} == {SpanKind.CLIENT}
    callers = {span.context.span_id for span in spans.named("checkout")}
    assert {span.parent.span_id for span in executed.values()} == callers
    assert len(callers) == len(many)


async def test_a_repeated_request_carries_the_same_span(service, spans):
    answers = [status(14, "LOG_UNAVAILABLE", "away", retry_after_ms=1), confirmed("g")]

    async def script(_request):
        return answers.pop(0)

    service.execute = script
    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        await client.execute(BRANCHES, gid="g")
    (span,) = spans.ended
    assert [request.traceparent for request in service.unary] == [traceparent(span)] * 2


async def test_being_cancelled_is_an_outcome_and_a_failure_is_an_error(service, spans):
    async def script(request):
        if request.gid == "no":
            return rejected("no", "stock", "SOLD_OUT")
        return common.Error(code=3, reason="INVALID_GID", message="bad")

    service.execute = script
    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        with pytest.raises(tcc.TransactionCancelled):
            await client.execute(BRANCHES, gid="no")
        with pytest.raises(errors.InvalidRequest):
            await client.execute(BRANCHES, gid="bad")
    no, bad = spans.ended
    assert no.status.status_code is StatusCode.UNSET
    assert no.attributes["tcc.state"] == "CANCELLING"
    assert no.attributes["tcc.cancel_detail"] == "SOLD_OUT"
    assert bad.status.status_code is StatusCode.ERROR
    assert bad.attributes["error.type"] == "InvalidRequest"


async def test_an_unsampled_trace_is_passed_on_as_unsampled(service):
    spans = Spans(ALWAYS_OFF)
    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        await client.execute(BRANCHES, gid="g")
    assert spans.ended == []
    (request,) = service.unary
    assert request.traceparent[-1] in "02", "its sampled flag is not set"


async def test_an_interactive_transaction_is_one_span_around_its_block(service, spans):
    service.answers = [BEGUN, TRIED, CONFIRMED]
    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        async with client.transaction(gid=GID) as tx:
            await tx.try_("stock", "reserve")
            with spans.tracer.start_as_current_span("pricing"):
                pass
        assert not get_current_span().get_span_context().is_valid
    (whole,), (inside,) = spans.named("tcc.transaction"), spans.named("pricing")
    assert inside.parent == whole.context
    assert whole.attributes["tcc.state"] == "CONFIRMING"
    assert service.requests[0].traceparent == traceparent(whole)


async def test_the_sync_client_makes_the_same_spans(service, spans):
    service.answers = [BEGUN, CONFIRMED]

    def use(target):
        with (
            tcc.SyncClient(target, tracer_provider=spans.provider) as client,
            spans.tracer.start_as_current_span("checkout"),
        ):
            client.execute(BRANCHES, gid="g")
            with client.transaction(gid=GID), spans.tracer.start_as_current_span("pricing"):
                pass

    async with serving(service) as target:
        await asyncio.to_thread(use, target)
    (executed,), (whole,) = spans.named("tcc.execute"), spans.named("tcc.transaction")
    (checkout,), (pricing,) = spans.named("checkout"), spans.named("pricing")
    assert executed.parent == whole.parent == checkout.context
    assert pricing.parent == whole.context
    assert service.unary[0].traceparent == traceparent(executed)


async def test_a_block_that_fails_ends_its_span(service, spans):
    service.answers = [BEGUN, CANCELLED, status(7, "NO", "not you")]
    async with serving(service) as target, tcc.Client(target, tracer_provider=spans.provider) as client:
        with pytest.raises(RuntimeError):
            async with client.transaction(gid=GID):
                raise RuntimeError("the card was refused")
        with pytest.raises(tcc.TccError):
            async with client.transaction(gid=GID):
                raise AssertionError("it was not begun")
    cancelled, refused = spans.named("tcc.transaction")
    assert cancelled.attributes["tcc.state"] == "CANCELLING"
    assert refused.status.status_code is StatusCode.ERROR


# --- participants ------------------------------------------------------------


def current_span_id() -> int:
    return get_current_span().get_span_context().span_id


class Handlers:
    """Notes the span that each call runs in."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    async def try_(self, branch, request, db):
        self.ran.append(current_span_id())
        if branch.gid == "bad":
            raise RuntimeError("it broke")

    async def confirm(self, branch, request, db):
        self.ran.append(current_span_id())

    async def cancel(self, branch, request, db):
        self.ran.append(current_span_id())


class BatchHandlers(Handlers):
    async def try_batch(self, items, db):
        self.ran.append(current_span_id())


def traced(engine, spans, handlers) -> tcc.Participant:
    participant = tcc.Participant("stock", database=engine, tracer_provider=spans.provider)
    participant.action("act")(handlers)
    return participant


async def test_a_handler_runs_in_the_span_of_its_call(sqlite, call_participant, spans):
    engine, _ = sqlite
    handlers = Handlers()
    caller = await call_participant(traced(engine, spans, handlers))
    call = make_call(TRY, action="act", traceparent=parent(), tracestate="a=1", attempt=2)
    await caller.execute(call)
    await caller.confirm(make_call(CONFIRM, action="act", traceparent=parent("c" * 16)))
    tried, confirmed_ = spans.ended
    assert [tried.name, confirmed_.name] == ["tcc.try", "tcc.confirm"]
    assert handlers.ran == [tried.context.span_id, confirmed_.context.span_id]
    assert f"{tried.context.trace_id:032x}" == f"{confirmed_.context.trace_id:032x}" == TRACE_ID
    assert f"{tried.parent.span_id:016x}" == "b7ad6b7169203331"
    assert tried.context.trace_state.to_header() == "a=1"
    assert (tried.kind, tried.attributes["tcc.attempt"]) == (SpanKind.SERVER, 2)
    assert tried.attributes["tcc.outcome"] == "SUCCEEDED"


async def test_a_sync_handler_does_too(tmp_path, call_participant, spans):
    ran: list[int] = []

    class Sync:
        def try_(self, branch, request, db):
            ran.append(current_span_id())

        confirm = cancel = try_

    engine = create_engine(f"sqlite:///{tmp_path / 'stock.db'}")
    caller = await call_participant(traced(engine, spans, Sync()))
    await caller.try_(make_call(TRY, action="act", traceparent=parent()))
    (span,) = spans.ended
    assert ran == [span.context.span_id]


async def test_failures_are_errors(sqlite, call_participant, spans):
    engine, _ = sqlite
    caller = await call_participant(traced(engine, spans, Handlers()))
    await caller.try_(make_call(TRY, action="act", gid="bad", traceparent=parent()))
    (span,) = spans.ended
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "HANDLER_ERROR"


async def test_what_is_done_together_is_linked(sqlite, call_participant, spans):
    engine, _ = sqlite
    handlers = BatchHandlers()
    caller = await call_participant(traced(engine, spans, handlers))
    calls = [
        make_call(TRY, action="act", gid=f"g{number}", traceparent=parent(f"{number + 1:016x}"))
        for number in range(5)
    ]
    untraced = make_call(TRY, action="act", gid="untraced")
    await caller.execute(*calls, untraced)
    items = spans.named("tcc.try")
    assert {f"{item.parent.span_id:016x}" for item in items} == {f"{n + 1:016x}" for n in range(5)}
    # The first call is sent alone, and those that arrive in the meantime are sent together.
    together = spans.named("tcc.try_batch")
    linked = [link.context.span_id for batch in together for link in batch.links]
    alone = [span_id for span_id in handlers.ran if span_id in {item.context.span_id for item in items}]
    assert sorted([*linked, *alone]) == sorted(item.context.span_id for item in items)
    assert together, "some went together"
    assert {batch.context.span_id for batch in together} <= set(handlers.ran)


@pytest.mark.parametrize("sent", ["", "00-nonsense", f"00-{'0' * 32}-{'1' * 16}-01", parent(flags="00")])
async def test_calls_that_are_not_traced_get_no_span(sent, sqlite, call_participant, spans):
    engine, _ = sqlite
    handlers = Handlers()
    caller = await call_participant(traced(engine, spans, handlers))
    outcome = await caller.try_(make_call(TRY, action="act", traceparent=sent))
    assert outcome.code == common.OUTCOME_CODE_SUCCEEDED
    assert spans.ended == []
    assert len(handlers.ran) == 1
