"""Payloads and results are erased after their retention; the transactions stay, and are recognised."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from coordinator.core.errors import BranchConflict
from coordinator.core.events import BranchAdded
from coordinator.core.machine import step
from coordinator.core.model import UNKNOWN_CONTENT_TYPE, Branch, BranchSpec, TransactionState
from coordinator.jobs.erase import ErasePayloads
from coordinator.jobs.settings import RecoverySettings
from coordinator.log.erasure import CREATED, ENDED, POSITION_GET, WRITE
from coordinator.log.statements import Statement
from coordinator.log.store import LogPool, PostgresLog
from tcc import payload
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import begun, confirming, each_branch, ended, insert, landed, save, sql, stored
from tests.support.errors import refused
from tests.support.plans import generic_plan
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import QUICK, branch, running, settings_for

HOUR_S = 3600.0


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    yield log
    await log.close()


async def end(log: PostgresLog, gid: str) -> None:
    (tx,) = await insert(log, begun(gid))
    decided = each_branch(confirming(tx), result=b"secret result", result_content_type="text/plain")
    await save(log, ended(await save(log, decided)))


async def move_back(url: str, gid: str, *, created_h: float, ended_h: float | None) -> None:
    """Let a transaction begin, and end, this many hours ago."""
    await sql(
        url,
        """UPDATE transactions SET created_at = now() - %s * interval '1 h',
           ended_at = CASE WHEN ended_at IS NOT NULL THEN now() - %s * interval '1 h' END WHERE gid = %s""",
        created_h,
        ended_h,
        gid,
    )


async def move_all_back(url: str) -> None:
    await sql(url, "UPDATE transactions SET created_at = now() - interval '2 h'")
    await sql(url, "UPDATE transactions SET ended_at = created_at")


def erasing(log: PostgresLog, **settings: int) -> ErasePayloads:
    return ErasePayloads(RecoverySettings(**settings), log=log, retention_s=HOUR_S)


async def erased(url: str) -> set[str]:
    """The gids without any payload or result."""
    rows = await sql(url, "SELECT gid, payloads, coalesce(progress, '') FROM transactions")
    return {
        gid for gid, payloads, progress in rows if b"inventory" not in payloads and b"secret" not in progress
    }


async def test_payloads_are_erased_after_their_retention_and_no_earlier(
    log: PostgresLog, log_url: str
) -> None:
    for gid in ("soon", "late", "recent", "late-recent"):
        await end(log, gid)
    await insert(log, begun("open"))
    await move_back(log_url, "soon", created_h=1.3, ended_h=1.2)
    await move_back(log_url, "late", created_h=9, ended_h=1.1)
    await move_back(log_url, "recent", created_h=1.05, ended_h=0.95)
    await move_back(log_url, "late-recent", created_h=9, ended_h=0.9)
    await move_back(log_url, "open", created_h=9, ended_h=None)
    before = {gid: await stored(log, gid) for gid in ("soon", "open", "recent")}
    assert await erasing(log).run_once() == 5
    assert await erased(log_url) == {"soon", "late"}
    tx = await stored(log, "soon")
    blank = {"payload": b"", "content_type": UNKNOWN_CONTENT_TYPE}
    assert tx == replace(
        before["soon"],
        version=before["soon"].version + 1,
        branches=tuple(
            replace(
                one, spec=replace(one.spec, **blank), result=b"", result_content_type=UNKNOWN_CONTENT_TYPE
            )
            for one in before["soon"].branches
        ),
    )
    assert [await stored(log, gid) for gid in ("open", "recent")] == [before["open"], before["recent"]]
    # It ends now, long after it was passed.
    decided = await save(log, confirming(landed(begun("open"))))
    await save(log, ended(decided))
    await move_back(log_url, "open", created_h=9, ended_h=1.01)
    await move_back(log_url, "late-recent", created_h=9, ended_h=1.01)
    await move_back(log_url, "recent", created_h=1.2, ended_h=1.1)
    await erasing(log).run_once()
    assert await erased(log_url) == {"soon", "late", "recent", "late-recent", "open"}
    assert await erasing(log).run_once() == 0


async def test_each_row_is_read_once_in_bounded_runs(log: PostgresLog, log_url: str) -> None:
    for number in range(5):
        await end(log, f"g{number}")
    # As those of one batch: with one creation time.
    await move_all_back(log_url)
    job = erasing(log, erase_max=2, erase_batches_max=2)
    assert [await job.run_once() for _ in range(3)] == [4, 1, 0]
    assert len(await erased(log_url)) == 5


async def test_a_row_that_cannot_be_read_is_left_alone(log: PostgresLog, log_url: str) -> None:
    for gid in ("a", "damaged", "z"):
        await end(log, gid)
    await move_all_back(log_url)
    await sql(log_url, "UPDATE transactions SET branches = 'x' WHERE gid = 'damaged'")
    assert await erasing(log).run_once() == 3
    assert await erased(log_url) == {"a", "z"}


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (CREATED, "transactions_created"),
        (ENDED, "transactions_ended_late"),
        (WRITE, "transactions_pkey"),
        (POSITION_GET, "erasures_pkey"),
    ],
    ids=lambda value: value.name if isinstance(value, Statement) else "",
)
async def test_erasure_reads_by_an_index(
    log: PostgresLog, log_url: str, statement: Statement, index: str
) -> None:
    await end(log, "a")
    await sql(log_url, "VACUUM ANALYZE transactions")
    plan = await generic_plan(log._connections, statement)
    assert f"using {index}" in plan, plan
    assert "Seq Scan" not in plan, plan
    if statement in (CREATED, ENDED):
        # It begins at the position, instead of at the oldest row.
        assert "Index Cond: ((" in plan, plan
        assert " >= $" in plan, plan


async def test_a_repeated_request_is_recognised_after_the_erasure(log_url: str) -> None:
    stock = ScriptedParticipant()
    request = pb.ExecuteTransactionRequest(
        gid="g", branches=[branch("1", payload=b"secret")], wait_for=pb.WAIT_FOR_COMPLETION
    )
    async with serving(stock) as address:
        settings = settings_for(
            {"stock": {"target": address}},
            log={"payload_retention_s": 60.0},
            recovery=QUICK | {"purge_every_s": 0.05},
        )
        async with running(settings, log_url) as coordinator:
            await coordinator.stub.ExecuteTransaction(request)
            await move_back(log_url, "g", created_h=2, ended_h=1.99)
            while (await sql(log_url, "SELECT version FROM transactions")) == [(3,)]:
                pass
            assert await sql(log_url, "SELECT payloads FROM transactions") == [(b"\x91\xc4\x00",)]
            repeated = await coordinator.stub.ExecuteTransaction(request)
            assert repeated.outcome.state == common.TRANSACTION_STATE_CONFIRMED
            request.branches[0].payload = b"other"
            async with refused("ALREADY_EXISTS", "GID_CONFLICT"):
                await coordinator.stub.ExecuteTransaction(request)
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


def test_a_repeated_branch_is_recognised_after_the_erasure() -> None:
    spec = BranchSpec(branch_id="1", participant="stock", action="reserve", payload=b"secret")
    blank = replace(spec, payload=b"", content_type=UNKNOWN_CONTENT_TYPE)
    done = landed(ended(confirming(begun("g", interactive=True))))
    tx = replace(done, branches=(replace(done.branches[0], spec=blank),), saved_branches=1)
    assert tx.state is TransactionState.CONFIRMED
    _, effects = step(tx, BranchAdded(spec, 10, 1000), 1.0)
    assert len(effects) == 2
    with pytest.raises(BranchConflict):
        step(tx, BranchAdded(replace(spec, action="other"), 10, 1000), 1.0)
    # While it runs, the content type is one like any other.
    running_tx = replace(tx, branches=(Branch(spec=blank),), state=TransactionState.TRYING)
    with pytest.raises(BranchConflict):
        step(running_tx, BranchAdded(spec, 10, 1000), 1.0)


def test_the_content_type_of_what_was_erased_is_that_of_the_contract() -> None:
    assert UNKNOWN_CONTENT_TYPE == payload.UNKNOWN
