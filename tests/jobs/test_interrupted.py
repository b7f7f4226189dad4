"""Interrupted transactions are resumed in chunks, and at once after a start; on a real log."""

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import NamedTuple, TypeVar

import pytest

from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import NULL_OBSERVER
from coordinator.jobs import resume
from coordinator.jobs.adopt import Adopt
from coordinator.jobs.heartbeat import Heartbeat
from coordinator.jobs.job import Job
from coordinator.jobs.retry import Retry
from coordinator.jobs.settings import RecoverySettings
from coordinator.log.store import LogPool, PostgresLog
from coordinator.participant_client.client import ParticipantClient
from tcc.common.v1 import common_pb2 as common
from tests.log.transactions import begun, confirming, insert, parked, save
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for

# Two chunks of two in a run; after a run that finds less, the next one is due in an hour.
CHUNKS = RecoverySettings(
    claim_max=2,
    chunks_max=2,
    busy_throttle=0.0,
    idle_throttle=0.0,
    adopt_every_s=3600.0,
    poll_every_s=3600.0,
)
GIDS = ("a", "b", "c", "d", "e")


J = TypeVar("J", Heartbeat, Adopt, Retry)


class Chunk(NamedTuple):
    """How long it takes to claim one, and the pause after it."""

    took_s: float
    pause_s: float


class Coordinator:
    """The parts of a coordinator that the jobs need; nothing is served."""

    def __init__(self, log: PostgresLog, participants: ParticipantClient) -> None:
        self.log = log
        self.clock = LogClock()
        self.engine = Engine(log=log, participants=participants, policies={}, clock=self.clock)

    def job(self, kind: type[J], settings: RecoverySettings) -> J:
        return kind(self.engine, settings, log=self.log, clock=self.clock, observer=NULL_OBSERVER)


@pytest.fixture
async def coordinator(log_url: str) -> AsyncIterator[Coordinator]:
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    channels = ParticipantClient({}, result_bytes_max=1)
    coordinator = Coordinator(log, channels)
    await coordinator.job(Heartbeat, RecoverySettings()).run_once()
    yield coordinator
    await channels.close()
    await log.close()


async def leave_behind(log_url: str, *gids: str, is_parked: bool = False) -> None:
    """Decided by a coordinator that has died since."""
    theirs = PostgresLog(LogPool(log_url), owner="theirs", name="host:2")
    await theirs.coordinator_heartbeat(lease_s=60)
    for tx in await insert(theirs, *[begun(gid, "stock") for gid in gids]):
        decided = confirming(tx)
        await save(theirs, parked(decided, until=time.time() - 60, on="") if is_parked else decided)
    await theirs.coordinator_leave()
    await theirs.close()


async def runs(job: Job) -> list[int]:
    return [await job.run_once() for _ in range(3)]


async def test_adoption_takes_chunks_and_the_next_run_continues(
    coordinator: Coordinator, log_url: str
) -> None:
    await leave_behind(log_url, *GIDS)
    assert await runs(coordinator.job(Adopt, CHUNKS)) == [4, 1, 0]
    assert coordinator.engine.live.keys() == set(GIDS)


async def test_retry_claims_chunks_and_the_next_run_continues(coordinator: Coordinator, log_url: str) -> None:
    await leave_behind(log_url, *GIDS, is_parked=True)
    assert await runs(coordinator.job(Retry, CHUNKS)) == [4, 1, 0]
    assert coordinator.engine.live.keys() == set(GIDS)


@pytest.mark.parametrize(
    ("begun", "batch"),
    [
        pytest.param(0, Chunk(took_s=0.01, pause_s=0.03), id="idle"),
        pytest.param(1, Chunk(took_s=0.01, pause_s=0.1), id="busy"),
        pytest.param(1, Chunk(took_s=1.0, pause_s=0.5), id="capped"),
    ],
)
async def test_the_pause_after_a_chunk_is_a_multiple_of_its_time(
    coordinator: Coordinator, log_url: str, monkeypatch: pytest.MonkeyPatch, begun: int, batch: Chunk
) -> None:
    await leave_behind(log_url, *GIDS)
    now_s = 0.0
    paused: list[float] = []
    adopt = coordinator.log.transaction_adopt

    async def slowly(limit: int) -> object:
        nonlocal now_s
        now_s += batch.took_s
        return await adopt(limit)

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(coordinator.log, "transaction_adopt", slowly)
    monkeypatch.setattr(coordinator.clock, "monotonic", lambda: now_s)
    monkeypatch.setattr(Engine, "begun", begun)
    monkeypatch.setattr(resume, "asyncio", SimpleNamespace(sleep=pause))
    settings = RecoverySettings(claim_max=2, busy_throttle=10.0, idle_throttle=3.0, throttle_max_s=0.5)
    assert await coordinator.job(Adopt, settings).run_once() == len(GIDS)
    assert paused == pytest.approx([batch.pause_s, batch.pause_s])


@pytest.mark.parametrize("job", [Adopt, Retry])
async def test_each_run_claims_the_work_left_since_the_previous_one(
    coordinator: Coordinator, log_url: str, job: type[Adopt | Retry]
) -> None:
    looking = coordinator.job(job, RecoverySettings(adopt_every_s=0.0, poll_every_s=0.0))
    assert await looking.run_once() == 0
    for gid in ("a", "b"):
        await leave_behind(log_url, gid, is_parked=job is Retry)
        assert await looking.run_once() == 1


async def test_a_draining_coordinator_claims_no_further_chunk(
    coordinator: Coordinator, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(log_url, *GIDS)
    adopt = coordinator.log.transaction_adopt

    async def drain_during_the_claim(limit: int) -> object:
        coordinator.engine.start_draining()
        return await adopt(limit)

    monkeypatch.setattr(coordinator.log, "transaction_adopt", drain_during_the_claim)
    assert await runs(coordinator.job(Adopt, CHUNKS)) == [2, 0, 0]


async def test_a_new_coordinator_claims_due_work_immediately(log_url: str) -> None:
    """Work that waits already is resumed before the first interval of the jobs has passed."""
    await leave_behind(log_url, "g")
    stock = ScriptedParticipant()
    never = {"sweep_every_s": 3600.0, "adopt_every_s": 3600.0, "heartbeat_every_s": 3600.0, "lease_s": 7200.0}
    async with serving(stock) as address:
        settings = settings_for({"stock": {"target": address}}, recovery=never)
        async with running(settings, log_url):
            await stock.until(lambda: stock.count(common.OPERATION_CONFIRM, gid="g") == 1)
