"""One trace for a transaction: through phases, retries, coordinators that die, and processes."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, get_current_span
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation, OutcomeCode, TraceContext
from coordinator.engine.clock import LogClock
from coordinator.observability.tracing import Tracing, new_span, transaction_span
from coordinator.ports.participants import CallResults, OnResults
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.operator.conftest import act_on, operators_of
from tests.log.transactions import begun, confirming, sql
from tests.observability.collector import Collector, collecting
from tests.support import daemon
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected, serving
from tests.support.streaming_participant import StreamingParticipant
from tests.support.transaction_stream import TransactionStream
from tests.support.worker import branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    # Spans are sent at once, because tests wait for them.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    async with collecting() as collector:
        yield collector


def settings(stock: ScriptedParticipant, collector: Collector | None, ratio: float = 0.0, **changes: Any):
    """`ratio` is the share for transactions without a trace context; None: tracing is off."""
    tracing = {"tracing": {"endpoint": collector.endpoint, "ratio": ratio}} if collector else {}
    return settings_for({"stock": {"target": stock.address}}, **tracing, **changes)


def execute(gid: str, traceparent: str = TRACEPARENT, *branch_ids: str, **fields: Any):
    return pb.ExecuteTransactionRequest(
        gid=gid,
        branches=[branch(branch_id) for branch_id in branch_ids or ("1",)],
        wait_for=pb.WAIT_FOR_COMPLETION,
        traceparent=traceparent,
        **fields,
    )


def place(call: participant_pb2.BranchCall) -> tuple[str, str, str]:
    """The trace, span and flags that a participant received."""
    version, trace_id, span_id, flags = call.traceparent.split("-")
    assert version == "00"
    return trace_id, span_id, flags


async def stored(url: str, gid: str) -> str | None:
    ((trace,),) = await sql(url, "SELECT trace FROM transactions WHERE gid = %s", gid)
    return trace


async def test_a_transaction_is_one_trace(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async with running(settings(stock, collector), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g", TRACEPARENT, "1", "2", initiator="shop"))
        await collector.until(lambda: len(collector.spans) == 6)
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}
    (transaction,) = collector.named("tcc.transaction")
    assert (transaction.parent_id, transaction.kind) == (SPAN_ID, "SERVER")
    assert transaction.attributes["tcc.gid"] == "g"
    assert transaction.attributes["tcc.decision"] == "CONFIRM"
    assert transaction.attributes["tcc.initiator"] == "shop"
    assert transaction.resource["service.name"] == "tccd"
    assert transaction.resource["service.instance.id"] == worker.worker.owner
    (phase_two,) = collector.named("tcc.phase_two")
    assert phase_two.parent_id == transaction.span_id
    assert phase_two.attributes["tcc.state"] == "CONFIRMED"
    assert transaction.began_ns < transaction.ended_ns == phase_two.began_ns < phase_two.ended_ns
    calls = [*collector.named("tcc.try"), *collector.named("tcc.confirm")]
    assert {(call.parent_id, call.kind) for call in calls} == {(transaction.span_id, "CLIENT")}
    assert {call.attributes["tcc.outcome"] for call in calls} == {"SUCCEEDED"}
    assert sorted(call.attributes["tcc.branch_id"] for call in calls) == ["1", "1", "2", "2"]
    assert not any(span.error or span.links for span in collector.spans)
    # The parent of a participant's span is this very call.
    assert {place(call) for call in stock.calls} == {(TRACE_ID, call.span_id, "01") for call in calls}


async def test_each_item_of_a_stream_has_its_own_trace(log_url: str, collector: Collector) -> None:
    """Both ways: transactions of one stream of an initiator, and their calls in one of a participant."""
    stock = StreamingParticipant()
    traces = {f"i{number}": f"{number:032x}" for number in range(2, 5)}
    table = {"endpoint": collector.endpoint, "ratio": 0.0}
    async with (
        serving(stock) as target,
        running(settings_for({"stock": {"target": target}}, tracing=table), log_url) as worker,
    ):
        stream = await TransactionStream(worker.channel).opened()
        number = 100
        while not stock.requests:  # the first calls are RPCs, and open the participant's stream
            await stream.send(**{f"i{number}": execute(f"g{number}", "")})
            await stream.reply(number)
            number += 1
        sent = {name: execute(name, f"00-{trace}-{SPAN_ID}-01") for name, trace in traces.items()}
        await stream.send(**sent)
        for name in traces:
            await stream.reply(int(name[1:]))
        await collector.until(lambda: len(collector.named("tcc.confirm")) == len(traces))
    calls = [item.call for request in stock.requests for item in request.items if item.call.gid in traces]
    spans = {(span.trace_id, span.span_id) for span in collector.spans}
    assert len(calls) == 2 * len(traces)
    for call in calls:
        trace_id, span_id, flags = place(call)
        assert (trace_id, flags) == (traces[call.gid], "01")
        assert (trace_id, span_id) in spans


async def test_initiator_coordinator_and_participants_share_one_trace(
    log_url: str, tmp_path: Path, collector: Collector
) -> None:
    """With the SDK on both sides; the initiator's batches hold transactions of several traces."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'stock.db'}")
    stock = tcc.Participant("stock", database=engine, tracer_provider=provider)
    # Which span each handler ran in.
    ran: set[tuple[str, str, int]] = set()

    def note(operation: str, branch: tcc.Branch) -> None:
        ran.add((branch.gid, operation, get_current_span().get_span_context().span_id))

    @stock.action("reserve")
    class _Reserve:
        async def try_(self, branch: tcc.Branch, request: object, db: object) -> None:
            note("tcc.try", branch)

        async def confirm(self, branch: tcc.Branch, request: object, db: object) -> None:
            note("tcc.confirm", branch)

        async def cancel(self, branch: tcc.Branch, request: object, db: object) -> None: ...

    await stock.create_schema()
    table = settings_for(
        {"stock": {"target": f"127.0.0.1:{await stock.start()}"}},
        tracing={"endpoint": collector.endpoint, "ratio": 0.0},
    )
    gids = [f"g{number}" for number in range(8)]
    async with (
        running(table, log_url) as worker,
        tcc.Client(worker.address, tracer_provider=provider) as client,
    ):
        branches = [tcc.BranchRequest("stock", "reserve", {})]
        await asyncio.gather(*[client.execute(branches, gid=gid, wait_for="completion") for gid in gids])
    await stock.stop()
    await engine.dispose()
    own = {(span.attributes["tcc.gid"], span.name, span.kind): span for span in exporter.get_finished_spans()}
    theirs = {(span.attributes["tcc.gid"], span.name): span for span in collector.spans}
    assert len(own) == len(exporter.get_finished_spans()) == 3 * len(gids)
    assert len(theirs) == len(collector.spans) == 4 * len(gids)
    for gid in gids:
        root = own[gid, "tcc.execute", SpanKind.CLIENT]
        assert root.attributes["tcc.state"] == "CONFIRMED"
        trace_id = f"{root.context.trace_id:032x}"
        assert theirs[gid, "tcc.transaction"].parent_id == f"{root.context.span_id:016x}"
        for name in ("tcc.try", "tcc.confirm"):
            handler = own[gid, name, SpanKind.SERVER]
            assert handler.context.trace_id == root.context.trace_id
            assert f"{handler.parent.span_id:016x}" == theirs[gid, name].span_id
            assert handler.attributes["tcc.outcome"] == "SUCCEEDED"
            assert (gid, name, handler.context.span_id) in ran
        assert {span.trace_id for (of, _), span in theirs.items() if of == gid} == {trace_id}
    assert len({span.context.trace_id for span in exporter.get_finished_spans()}) == len(gids)


async def test_a_rejection_is_no_error_in_a_span_but_a_failure_is(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation != TRY:
            return SUCCEEDED
        return rejected("SOLD_OUT") if call.gid == "no" else failed("BROKEN", permanent=True)

    stock.script = script
    async with running(settings(stock, collector), log_url) as worker:
        for gid in ("no", "broken"):
            await worker.stub.ExecuteTransaction(execute(gid))
        await collector.until(lambda: len(collector.spans) == 8)
    errors = {(span.name, span.attributes["tcc.gid"]): span.error for span in collector.spans if span.error}
    assert errors == {("tcc.transaction", "broken"): "TRY_FAILED", ("tcc.try", "broken"): "BROKEN"}
    assert [span.attributes["tcc.reason"] for span in collector.named("tcc.try")] == ["SOLD_OUT", "BROKEN"]
    assert {span.attributes["tcc.decision"] for span in collector.named("tcc.transaction")} == {"CANCEL"}


async def test_each_attempt_links_to_the_previous_one(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    """Between attempts the transaction is in no coordinator's memory."""

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == CONFIRM and call.attempt < 2 else SUCCEEDED

    stock.script = script
    async with running(settings(stock, collector), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g"))
        await collector.until(lambda: bool(collector.named("tcc.phase_two")))
    first, second, third = collector.named("tcc.confirm")
    assert [span.attributes["tcc.attempt"] for span in (first, second, third)] == [0, 1, 2]
    assert [span.error for span in (first, second, third)] == ["BROKEN", "BROKEN", ""]
    assert [span.links for span in (first, second, third)] == [
        [],
        [(TRACE_ID, first.span_id)],
        [(TRACE_ID, second.span_id)],
    ]
    (transaction,) = collector.named("tcc.transaction")
    assert {span.parent_id for span in (first, second, third)} == {transaction.span_id}
    assert first.ended_ns < second.began_ns < second.ended_ns < third.began_ns
    # The log has the start of phase two: the coordinator that ended it had not seen it.
    ((decided_at,),) = await sql(log_url, "SELECT extract(epoch FROM decided_at)::float8 FROM transactions")
    (phase_two,) = collector.named("tcc.phase_two")
    assert phase_two.began_ns == round(decided_at * 1e9)


@pytest.mark.slow
async def test_an_adopting_coordinator_continues_the_trace(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant, collector: Collector
) -> None:
    """The first coordinator is killed, with one transaction undecided and one decided."""
    dying = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if dying.is_set() and (call.operation == CONFIRM or call.gid == "trying"):
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = script
    config = f"""
        [log]
        url = "{log_url}"
        [recovery]
        lease_s = 0.5
        heartbeat_every_s = 0.1
        [tracing]
        endpoint = "{collector.endpoint}"
        [participants.stock]
        target = "{stock.address}"
        """
    async with daemon.serving(tmp_path, config) as one, daemon.stub(one.address) as stub:
        dying.set()
        for gid, wait_for in (("trying", pb.WAIT_FOR_ACCEPTED), ("confirming", pb.WAIT_FOR_DECISION)):
            request = execute(gid)
            request.wait_for = wait_for
            await stub.ExecuteTransaction(request)
        await stock.until(lambda: stock.count(CONFIRM) == 1 and stock.count(TRY) == 2)
        await collector.until(lambda: bool(collector.named("tcc.transaction")))
        one.process.kill()
        await one.process.wait()
    dying.clear()
    async with running(settings(stock, collector), log_url) as other:
        for gid in ("trying", "confirming"):
            assert (await other.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
        await collector.until(lambda: len(collector.named("tcc.phase_two")) == 2)
    adopted = {span.attributes["tcc.gid"]: span for span in collector.named("tcc.adopt")}
    transactions = {span.attributes["tcc.gid"]: span for span in collector.named("tcc.transaction")}
    assert adopted.keys() == transactions.keys() == {"trying", "confirming"}
    # Decided by one, executed by the other: below the same span.
    owner = transactions["confirming"].resource["service.instance.id"]
    assert owner != other.worker.owner
    (confirm,) = [c for c in collector.named("tcc.confirm") if c.attributes["tcc.gid"] == "confirming"]
    assert confirm.resource["service.instance.id"] == other.worker.owner
    assert confirm.parent_id == transactions["confirming"].span_id
    for gid, span in adopted.items():
        assert span.links == [(TRACE_ID, SPAN_ID)]
        assert span.attributes["tcc.former_owner"] == owner
        assert span.attributes["tcc.owner"] == other.worker.owner
        assert (span.trace_id, span.parent_id) == (TRACE_ID, transactions[gid].span_id)
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}


async def test_what_an_operator_decides_or_ends_belongs_to_it_too(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == CONFIRM else SUCCEEDED

    stock.script = script
    async with running(settings(stock, collector), log_url) as worker, operators_of(worker) as admin:
        await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="open", traceparent=TRACEPARENT))
        await worker.stub.TryBranch(pb.TryBranchRequest(gid="open", branch=branch("1")))
        await act_on(admin, "CancelTransaction", "open")
        await worker.settled("open")
        request = execute("failing")
        request.wait_for = pb.WAIT_FOR_DECISION
        await worker.stub.ExecuteTransaction(request)
        outcome = common.HEURISTIC_OUTCOME_CONFIRMED
        await act_on(admin, "ResolveBranch", "failing", branch_id="1", outcome=outcome)
        await collector.until(lambda: len(collector.named("tcc.phase_two")) == 2)
    decisions = {s.attributes["tcc.gid"]: s.attributes for s in collector.named("tcc.transaction")}
    assert decisions["open"]["tcc.decision"] == "CANCEL"
    assert decisions["open"]["tcc.cancel_detail"] == "incident 7"
    ends = {s.attributes["tcc.gid"]: s.attributes for s in collector.named("tcc.phase_two")}
    assert (ends["open"]["tcc.state"], ends["open"]["tcc.heuristic"]) == ("CANCELLED", False)
    assert (ends["failing"]["tcc.state"], ends["failing"]["tcc.heuristic"]) == ("CONFIRMED", True)


@pytest.mark.parametrize("traces", ["on", "off"])
async def test_a_transaction_without_a_trace_costs_nothing(
    traces: str, log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async with running(settings(stock, collector if traces == "on" else None), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g", ""))
        await worker.stub.ExecuteTransaction(execute("unreadable", "00-nonsense"))
        assert await stored(log_url, "g") is None
        assert await stored(log_url, "unreadable") is None
    # The worker has sent what it had.
    assert collector.spans == []
    assert {(call.traceparent, call.tracestate) for call in stock.calls} == {("", "")}


async def test_a_coordinator_without_spans_passes_the_trace_on(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async with running(settings(stock, None), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g", TRACEPARENT, tracestate="shop=1,bank=2 3"))
        assert await stored(log_url, "g") == f"{TRACEPARENT} shop=1,bank=2 3"
        # Only a coordinator that makes spans reads the metadata.
        await worker.stub.ExecuteTransaction(execute("bare", ""), metadata=[("traceparent", TRACEPARENT)])
        assert await stored(log_url, "bare") is None
        shown = await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))
        assert shown.transaction.trace_id == TRACE_ID
    heard = {(call.traceparent, call.tracestate) for call in stock.calls if call.gid == "g"}
    assert heard == {(TRACEPARENT, "shop=1,bank=2 3")}


async def test_what_the_initiator_does_not_sample_is_not_recorded(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async with running(settings(stock, collector, ratio=1.0), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g", UNSAMPLED))
    assert collector.spans == []
    assert {call.traceparent for call in stock.calls} == {UNSAMPLED}


async def test_a_transaction_without_a_trace_may_get_one(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async with running(settings(stock, collector, ratio=1.0), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("one", ""))
        await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="other"))
        await worker.stub.TryBranch(pb.TryBranchRequest(gid="other", branch=branch("1")))
        await worker.stub.CancelTransaction(
            pb.CancelTransactionRequest(gid="other", wait_for=pb.WAIT_FOR_COMPLETION)
        )
        await collector.until(lambda: len(collector.named("tcc.phase_two")) == 2)
    one, other = collector.named("tcc.transaction")
    assert one.trace_id != other.trace_id
    assert (one.parent_id, other.parent_id) == ("", "")
    for transaction in (one, other):
        below = [s for s in collector.spans if s.trace_id == transaction.trace_id and s is not transaction]
        assert {span.parent_id for span in below} == {transaction.span_id}
        assert len(below) == 3


async def test_metadata_counts_if_the_request_has_no_trace_context(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    other = f"00-{'c' * 32}-{'d' * 16}-01"
    async with running(settings(stock, collector), log_url) as worker:
        metadata = [("traceparent", other), ("tracestate", "a=1"), ("tracestate", "b=2")]
        await worker.stub.ExecuteTransaction(execute("bare", ""), metadata=metadata)
        await worker.stub.ExecuteTransaction(execute("said"), metadata=metadata)
        begin = pb.BeginTransactionRequest(gid="begun")
        await worker.stub.BeginTransaction(begin, metadata=metadata)
        batch = pb.ExecuteTransactionsRequest(transactions=[execute("item", "")])
        async for _ in worker.stub.ExecuteTransactions(batch, metadata=metadata):
            pass
        traces = {gid: await stored(log_url, gid) for gid in ("bare", "said", "begun", "item")}
    # The metadata of a batch is not specific to one transaction.
    whole = f"{other} a=1,b=2"
    assert traces == {"bare": whole, "said": TRACEPARENT, "begun": whole, "item": None}


async def test_a_repeated_request_may_come_with_another_trace(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    async with running(settings(stock, collector), log_url) as worker:
        first = await worker.stub.ExecuteTransaction(execute("g"))
        again = await worker.stub.ExecuteTransaction(execute("g", f"00-{'c' * 32}-{'d' * 16}-01"))
        assert again == first
    assert await stored(log_url, "g") == TRACEPARENT
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}


async def test_a_stuck_transaction_is_reported_with_its_trace(
    log_url: str, stock: ScriptedParticipant, collector: Collector
) -> None:
    told: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == CONFIRM else SUCCEEDED

    stock.script = script
    table = settings_for(
        {"stock": {"target": stock.address, "attempts_before_stuck": 1}},
        tracing={"endpoint": collector.endpoint},
    )
    async with running(table, log_url) as worker:
        worker.worker.monitoring.metrics.alert = lambda _kind, facts: told.put_nowait(dict(facts))
        request = execute("g")
        request.wait_for = pb.WAIT_FOR_DECISION
        await worker.stub.ExecuteTransaction(request)
        assert (await told.get())["trace_id"] == TRACE_ID


@pytest.mark.slow
async def test_a_coordinator_sends_pending_spans_before_it_exits(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant, collector: Collector
) -> None:
    """Without the shutdown it would send after an hour."""
    config = f"""
        [log]
        url = "{log_url}"
        [tracing]
        endpoint = "{collector.endpoint}"
        [participants.stock]
        target = "{stock.address}"
        """
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_RESOURCE_ATTRIBUTES": "region=here"}
    async with daemon.serving(tmp_path, config, environment=environment) as coordinator:
        async with daemon.stub(coordinator.address) as stub:
            await stub.ExecuteTransaction(execute("g"))
        assert collector.spans == []
        assert await coordinator.stop() == 0
    names = sorted(span.name for span in collector.spans)
    assert names == ["tcc.confirm", "tcc.phase_two", "tcc.transaction", "tcc.try"]
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}
    assert {span.resource["region"] for span in collector.spans} == {"here"}


async def test_a_hung_collector_does_not_delay_the_shutdown(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the shutdown the exporter would wait for an hour.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    tracing = Tracing(endpoint=collector.endpoint, ratio=1.0, service_name="shop", coordinator="me")
    collector.answering.clear()
    tx = confirming(begun("g", trace=tracing.new_trace()))
    tracing.phase_ended(tx, 1.0, 2.0)
    await asyncio.wait_for(tracing.close(0.1), 20)
    assert collector.spans == []
    collector.answering.set()


def test_the_ratio_is_the_share_of_new_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = iter([0.0, 0.29, 0.3, 0.99])
    tracing = Tracing(
        endpoint="http://127.0.0.1:1", ratio=0.3, service_name="", coordinator="me", rng=lambda: next(lots)
    )
    assert [tracing.new_trace() is not None for _ in range(4)] == [True, True, False, False]


def test_a_result_does_not_depend_on_its_span(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answering:
        """Participants that answer at once."""

        def execute(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
            on_results([(call, CallResult(code=OutcomeCode.SUCCEEDED)) for call in calls])

    tracing = Tracing(endpoint="http://127.0.0.1:1", ratio=0.0, service_name="", coordinator="c")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tracing, "called", fail)
    clock = LogClock()
    clock.set(0.0, asked_at=0.0, answered_at=0.0)
    call = BranchCall(
        gid="g",
        index=0,
        operation=Operation.TRY,
        spec=BranchSpec(branch_id="b", participant="stock", action="reserve"),
        expires_at=100.0,
        trace=TraceContext(traceparent=TRACEPARENT),
    )
    results: CallResults = []
    tracing.traced(Answering(), clock).execute("stock", [call], results.extend)
    assert [result.code for _, result in results] == [OutcomeCode.SUCCEEDED]


def test_every_coordinator_derives_the_same_span_of_a_transaction() -> None:
    given = TraceContext(traceparent=TRACEPARENT, tracestate="a=1")
    own = transaction_span(given, "g")
    assert own == transaction_span(given, "g")
    assert (own.trace_id, own.tracestate, own.sampled) == (TRACE_ID, "a=1", True)
    # One trace may hold several transactions.
    assert len({own.span_id, transaction_span(given, "h").span_id, SPAN_ID, new_span(own).span_id}) == 4


NOT_IMPORTED = """
import sys
sys.modules["opentelemetry"] = None
import coordinator.process.worker, tcc, tcc.participant.participant
from sqlalchemy import create_engine
tcc.Participant("stock", database=create_engine("sqlite://"))
tcc.SyncClient("127.0.0.1:1").close()
"""


def test_without_spans_opentelemetry_is_not_needed() -> None:
    subprocess.run([sys.executable, "-c", NOT_IMPORTED], check=True)
