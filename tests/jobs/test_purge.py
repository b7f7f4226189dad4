"""The purge keeps up with what ends, in bounded runs, on a real log."""

from collections.abc import AsyncIterator

import pytest

from coordinator.config.settings import Settings
from coordinator.engine.observer import NULL_OBSERVER
from coordinator.jobs.purge import Purge
from coordinator.jobs.settings import RecoverySettings
from coordinator.log.store import LogPool, PostgresLog
from tests.log.transactions import begun, confirming, ended, insert, landed, sql


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    yield log
    await log.close()


async def end_an_hour_ago(log: PostgresLog, log_url: str, *gids: str) -> None:
    decided = [confirming(tx) for tx in await insert(log, *map(begun, gids))]
    assert all(await log.transaction_save(decided))
    assert all(await log.transaction_save([ended(landed(tx)) for tx in decided]))
    await sql(
        log_url,
        """UPDATE transactions
           SET created_at = created_at - interval '1 h', ended_at = ended_at - interval '1 h'""",
    )


async def test_a_run_goes_on_while_batches_are_full_up_to_its_bound(log: PostgresLog, log_url: str) -> None:
    await end_an_hour_ago(log, log_url, *[f"g{number}" for number in range(9)])
    await insert(log, begun("live"))
    purge = Purge(
        RecoverySettings(purge_max=2, purge_batches_max=3, retention_s=100), log=log, observer=NULL_OBSERVER
    )
    assert [await purge.run_once() for _ in range(3)] == [6, 3, 0]
    assert await sql(log_url, "SELECT gid FROM transactions") == [("live",)]


async def test_a_batch_that_is_not_full_ends_the_run(
    log: PostgresLog, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await end_an_hour_ago(log, log_url, "a", "b", "c")
    batches: list[int] = []
    purge_batch = log.transaction_purge

    async def counted(*, ended_before_s: float, limit: int) -> int:
        batches.append(await purge_batch(ended_before_s=ended_before_s, limit=limit))
        return batches[-1]

    monkeypatch.setattr(log, "transaction_purge", counted)
    purge = Purge(RecoverySettings(purge_max=2, retention_s=100), log=log, observer=NULL_OBSERVER)
    assert await purge.run_once() == 3
    assert batches == [2, 1]


def test_a_worker_purges_more_than_it_can_end() -> None:
    settings = Settings().recovery_settings()
    purged_per_s = settings.purge_max * settings.purge_batches_max / settings.purge_every_s
    assert purged_per_s >= 10_000
