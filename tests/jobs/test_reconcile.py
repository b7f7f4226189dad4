"""The scheduled look at participants' books, as its metrics show it."""

from contextlib import AsyncExitStack

from coordinator.core.reconciliation import FindingKind
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as ppb
from tests.observability.scraping import Samples, until_scraped, value
from tests.support.ports import free_port
from tests.support.scripted_barrier import ScriptedBarrier, tried
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for

SOON = {"every_s": 0.05, "min_age_s": 0}


def settings(port: int, address: str, **reconcile: float):
    tables = {"stock": {"target": address}}
    return settings_for(tables, metrics={"listen": f"127.0.0.1:{port}"}, reconcile=SOON | reconcile)


def findings(samples: Samples, kind: str = "orphan") -> float | None:
    return samples.get(("tcc_reconcile_findings", (("kind", kind), ("participant", "stock"))))


async def test_findings_are_counted_until_they_are_repaired(log_url: str) -> None:
    barrier = ScriptedBarrier([[tried("a")], [tried("b")]], [tried("a"), tried("b")])
    port = free_port()
    async with serving(barrier) as address, running(settings(port, address), log_url):
        samples = await until_scraped(port, lambda now: findings(now) == 2)
        assert (findings(samples, "leak"), findings(samples, "mixed")) == (0, 0)
        assert value(samples, "tcc_reconcile_age_seconds", participant="stock") >= 0
        barrier.pages = [[]]
        samples = await until_scraped(port, lambda now: findings(now) == 0)
        # Told once, however often it was looked.
        assert value(samples, "tcc_anomalies_total", kind="UNRECONCILED") == 1
    assert not barrier.calls, "the job repairs nothing"


async def test_one_coordinator_scans_for_all_and_another_succeeds_it(log_url: str) -> None:
    barrier = ScriptedBarrier([[tried("a")]], [tried("a")])
    ports = free_port(), free_port()
    async with serving(barrier) as address, AsyncExitStack() as second:
        async with running(settings(ports[0], address), log_url):
            await until_scraped(ports[0], lambda now: findings(now) == 1)
            other = await second.enter_async_context(running(settings(ports[1], address), log_url))
            job = other.worker._reconciling
            assert await job.run_once() == 0
            assert job.scans == {}
        await until_scraped(ports[1], lambda now: findings(now) == 1)


async def test_ended_rows_are_scanned_if_configured(log_url: str) -> None:
    asked: list[ppb.ListBranchesRequest] = []

    class Listening(ScriptedBarrier):
        async def ListBranches(self, request, context):  # noqa: N802
            asked.append(request)
            return await super().ListBranches(request, context)

    port = free_port()
    async with (
        serving(Listening([[]], [])) as address,
        running(settings(port, address, ended_within_s=60, min_age_s=2), log_url),
    ):
        age = ("tcc_reconcile_age_seconds", (("participant", "stock"),))
        await until_scraped(port, lambda now: age in now)
    opened, ended = asked[:2]
    assert (list(opened.states), opened.min_age_ms, opened.max_age_ms) == (
        [common.BARRIER_STATE_TRIED],
        2_000,
        0,
    )
    assert list(ended.states) == [common.BARRIER_STATE_CONFIRMED, common.BARRIER_STATE_CANCELLED]
    assert (ended.min_age_ms, ended.max_age_ms) == (2_000, 60_000)


async def test_a_participant_without_list_branches_is_skipped(log_url: str) -> None:
    port = free_port()
    async with (
        serving(ScriptedParticipant()) as address,
        running(settings(port, address), log_url) as worker,
    ):
        job = worker.worker._reconciling
        await job.run_once()
        assert job.scans == {}
        assert "stock" in job._next_scan_at, "it is asked again as seldom as the others"


async def test_a_recovered_participant_is_scanned_and_then_at_the_interval(
    log_url: str,
) -> None:
    barrier = ScriptedBarrier([[tried("a")]], [tried("a")])
    away = free_port()
    table = settings(free_port(), f"127.0.0.1:{away}", every_s=3_600)
    async with running(table, log_url) as worker:
        job = worker.worker._reconciling
        await job.run_once()
        assert (job.scans, job._next_scan_at) == ({}, {})
        async with serving(barrier, away):
            while not job.scans:  # until the channel has found it
                assert await job.run_once() in {0, 1}
            assert job.scans["stock"].findings == {FindingKind.ORPHAN: 1}
            barrier.pages = [[]]
            assert await job.run_once() == 0
            assert job.scans["stock"].findings == {FindingKind.ORPHAN: 1}, "it is not due yet"
