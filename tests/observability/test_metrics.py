"""The metrics of a worker, as Prometheus reads them."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.engine import cell_health
from coordinator.log.migration import migrate
from coordinator.observability.metrics import LogGauges, Metrics
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.observability.scraping import get, scrape, until_scraped, value
from tests.support import daemon
from tests.support.ports import free_port, free_ports
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected, serving
from tests.support.streaming_participant import StreamingParticipant, ids_of, results
from tests.support.transaction_stream import TransactionStream
from tests.support.worker import branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM


def execute(gid: str) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(
        gid=gid, branches=[branch("1"), branch("2")], wait_for=pb.WAIT_FOR_COMPLETION
    )


def settings(port: int, stock: ScriptedParticipant, **participant: object):
    return settings_for(
        {"stock": {"target": stock.address} | participant}, metrics={"listen": f"127.0.0.1:{port}"}
    )


async def test_transactions_and_calls_are_counted(log_url: str, stock: ScriptedParticipant) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        is_refused = (call.gid, call.branch_id, call.operation) == ("no", "2", TRY)
        return rejected("SOLD_OUT") if is_refused else SUCCEEDED

    stock.script = script
    port = free_port()
    async with running(settings(port, stock), log_url) as worker:
        for gid in ("a", "b", "no"):
            await worker.stub.ExecuteTransaction(execute(gid))
        # The last write is counted before the initiator is answered.
        samples = await scrape(port)
    assert value(samples, "tcc_transactions_begun_total") == 3
    assert value(samples, "tcc_transactions_decided_total", decision="confirm") == 2
    assert value(samples, "tcc_transactions_decided_total", decision="cancel") == 1
    assert value(samples, "tcc_transactions_ended_total", state="confirmed") == 2
    assert value(samples, "tcc_transactions_ended_total", state="cancelled") == 1
    stock_only = {"participant": "stock"}
    calls = {**stock_only, "kind": "tcc"}
    assert value(samples, "tcc_calls_total", **calls, phase="try", outcome="succeeded") == 5
    assert value(samples, "tcc_calls_total", **calls, phase="try", outcome="rejected") == 1
    assert value(samples, "tcc_calls_total", **calls, phase="confirm", outcome="succeeded") == 4
    assert value(samples, "tcc_calls_total", **calls, phase="cancel", outcome="succeeded") == 2
    # Singly executed: every batch is one transaction.
    assert value(samples, "tcc_log_batch_size_count", write="begin") == 3
    assert value(samples, "tcc_log_batch_size_sum", write="change") == 6
    assert value(samples, "tcc_log_write_seconds_count", write="change") == 6
    assert value(samples, "tcc_transaction_phase_seconds_count", phase="try") == 3
    assert value(samples, "tcc_transaction_phase_seconds_count", phase="confirm") == 2
    assert value(samples, "tcc_transaction_phase_seconds_count", phase="cancel") == 1
    assert value(samples, "tcc_call_batch_size_sum", **stock_only) == 12
    assert value(samples, "tcc_live_transactions") == 0
    assert value(samples, "tcc_log_available") == 1
    assert value(samples, "tcc_breaker_state", **stock_only) == 0
    assert 0 <= value(samples, "tcc_lease_lag_seconds") < 30


@pytest.mark.slow
async def test_failures_are_counted_until_stuck(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogGauges, "every_s", 0.1)
    mended = False

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == CONFIRM and not mended else SUCCEEDED

    stock.script = script
    port = free_port()
    async with running(settings(port, stock, attempts_before_stuck=3), log_url) as worker:
        request = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")])
        await worker.stub.ExecuteTransaction(request)
        stuck = ("tcc_transactions_became_stuck_total", (("participant", "stock"),))
        samples = await until_scraped(port, lambda now: now.get(stuck, 0) == 1)
        assert value(samples, "tcc_anomalies_total", kind="STUCK") == 1
        assert value(samples, "tcc_call_retries_total", participant="stock") >= 2
        assert value(samples, "tcc_transactions_parked_total") >= 2
        assert value(samples, "tcc_transactions_resumed_total", how="retried") >= 2
        calls = {"participant": "stock", "kind": "tcc", "phase": "confirm"}
        assert value(samples, "tcc_calls_total", **calls, outcome="failed") >= 3
        stuck_now = ("tcc_stuck_transactions", ())
        samples = await until_scraped(port, lambda now: now.get(stuck_now, 0) == 1)
        assert value(samples, "tcc_unfinished_transactions", state="confirming") == 1
        assert value(samples, "tcc_unfinished_transactions", state="trying") == 0
        assert value(samples, "tcc_oldest_unfinished_seconds") > 0
        mended = True
        await worker.settled("g")


async def test_a_breaker_that_opens_shows(log_url: str, stock: ScriptedParticipant) -> None:
    port = free_port()
    unreachable = {"target": f"127.0.0.1:{free_port()}", "breaker_failures": 1, "breaker_open_first_s": 60}
    table = settings_for(
        {"gone": unreachable | {"breaker_open_max_s": 60}}, metrics={"listen": f"127.0.0.1:{port}"}
    )
    async with running(table, log_url) as worker:
        request = pb.ExecuteTransactionRequest(
            gid="g", branches=[branch("1", "gone")], wait_for=pb.WAIT_FOR_ACCEPTED
        )
        await worker.stub.ExecuteTransaction(request)
        breaker = ("tcc_breaker_state", (("participant", "gone"),))
        samples = await until_scraped(port, lambda now: now[breaker] == 2)
        assert value(samples, "tcc_anomalies_total", kind="BREAKER_OPENED") == 1
        calls = {"participant": "gone", "kind": "tcc", "phase": "try"}
        assert value(samples, "tcc_calls_total", **calls, outcome="unreachable") == 1


async def test_streams_and_what_is_in_flight_on_them(log_url: str) -> None:
    stock, held, breaking = StreamingParticipant(), asyncio.Event(), asyncio.Event()

    async def serve(context: object) -> None:
        """Break at the call of a transaction named "held"."""
        await stock.greet(context)
        while (request := await stock.read(context)) is not None:
            if not breaking.is_set() and any(item.call.gid == "held" for item in request.items):
                held.set()
                await breaking.wait()
                return
            await context.write(results(*ids_of(request)))

    stock.on_stream = serve
    port, stock_only = free_port(), {"participant": "stock"}
    is_open = ("tcc_participant_streams", (("participant", "stock"),))
    async with serving(stock) as target:
        table = settings_for({"stock": {"target": target}}, metrics={"listen": f"127.0.0.1:{port}"})
        async with running(table, log_url) as worker:
            stream = await TransactionStream(worker.channel).opened()
            await stream.send(i1=execute("first"))  # by RPCs; they open streams
            await stream.reply(1)
            samples = await until_scraped(port, lambda now: now[is_open] == 1)
            assert value(samples, "tcc_client_streams") == 1
            assert value(samples, "tcc_client_stream_transactions") == 0
            assert value(samples, "tcc_participant_stream_calls", **stock_only) == 0
            await stream.send(i2=execute("held"))
            await held.wait()
            samples = await scrape(port)
            assert value(samples, "tcc_client_stream_transactions") == 1
            assert value(samples, "tcc_participant_stream_calls", **stock_only) == 2
            breaking.set()
            assert (await stream.reply(2)).outcome.state == common.TRANSACTION_STATE_CONFIRMED
            samples = await scrape(port)
            # Those that only searched for further replicas were asked to end.
            assert value(samples, "tcc_participant_streams_broken_total", **stock_only) == 1
            assert value(samples, "tcc_participant_stream_calls", **stock_only) == 0
            await stream.end()
            await until_scraped(port, lambda now: value(now, "tcc_client_streams") == 0)


async def test_health_follows_the_log(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_health, "RECOVERED_AFTER_S", 0.2)
    migrate(own_postgres.url())
    port = free_port()
    table = settings_for({}, metrics={"listen": f"127.0.0.1:{port}"})
    async with running(table, own_postgres.url()):
        assert await get(port, "/readyz") == (200, "tcc: ready\n")
        own_postgres.stop("immediate")
        await until_scraped(port, lambda now: value(now, "tcc_log_available") == 0)
        assert await get(port, "/readyz") == (503, "tcc: the log is unavailable\n")
        # It is alive all the same: killing it would not help.
        assert await get(port, "/healthz") == (200, "tcc: alive\n")
        own_postgres.start()
        recovered = ("tcc_anomalies_total", (("kind", "LOG_RECOVERED"),))
        samples = await until_scraped(port, lambda now: now[recovered] == 1)
        assert value(samples, "tcc_log_available") == 1
        # One alert, though a connection from before may have failed once more.
        assert value(samples, "tcc_anomalies_total", kind="LOG_UNAVAILABLE") == 1


def test_a_purge_that_never_succeeds_lags_from_the_start() -> None:
    moments = iter((100.0, 101.0, 160.0))
    metrics = Metrics(lambda: next(moments))
    for _ in range(2):
        metrics.heartbeat()
    metrics.purged(5_000, finished=False)
    assert metrics.purged_at == 100.0
    metrics.purged(1, finished=True)
    assert metrics.purged_at == 160.0


async def test_only_get_and_only_known_paths(log_url: str) -> None:
    port = free_port()
    async with running(settings_for({}, metrics={"listen": f"127.0.0.1:{port}"}), log_url):
        assert (await get(port, "/"))[0] == 404
        assert (await get(port, "/metrics", "POST"))[0] == 405
        assert await get(port, "/healthz", "HEAD") == (200, "")
        assert (await get(port, "/healthz?verbose"))[0] == 200


@pytest.mark.slow
async def test_each_worker_has_a_port_and_keeps_it(log_url: str, tmp_path: Path) -> None:
    port = free_ports(2)
    config = f'[log]\nurl = "{log_url}"\n'
    environment = {"TCC_METRICS__LISTEN": f"127.0.0.1:{port}"}
    async with daemon.serving(tmp_path, config, workers=2, environment=environment) as coordinator:
        for number in (0, 1):
            assert (await get(port + number, "/readyz"))[0] == 200
            assert value(await scrape(port + number), "tcc_live_transactions") == 0
        for pid in list(coordinator.workers):
            os.kill(pid, signal.SIGKILL)
            await coordinator.next_worker()
        for number in (0, 1):
            assert (await get(port + number, "/healthz"))[0] == 200


@pytest.mark.slow
async def test_a_metrics_port_in_use_does_not_delay_the_worker(
    log_url: str, stock: ScriptedParticipant
) -> None:
    port = free_port()
    both = settings(port, stock)
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(running(both, log_url))
        assert (await get(port, "/readyz"))[0] == 200
        async with running(both, log_url) as second:
            reply = await second.stub.ExecuteTransaction(execute("g"))
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
            assert value(await scrape(port), "tcc_transactions_begun_total") == 0
            await first.aclose()
            # It is tried again until it is free.
            assert value(await scrape(port), "tcc_transactions_begun_total") == 1
