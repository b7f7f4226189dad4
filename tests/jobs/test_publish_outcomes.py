"""Outcomes of transactions are published from the log: at least once, after any crash, and rarely twice."""

from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from coordinator.core.model import CancelReason, Transaction
from coordinator.engine.clock import LogClock
from coordinator.engine.observer import Observer
from coordinator.jobs.publish_outcomes import OutcomeSettings, PublishOutcomes
from coordinator.log.outcomes import ENDED, PAGE, READER, WAITING, WAITING_UNTIL
from coordinator.log.statements import Statement
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.outcomes import Outcome, OutcomeKind, OutcomePosition, PublishError
from tests.log.transactions import begun, cancelling, confirming, ended, insert, save, sql
from tests.support.plans import generic_plan

# As if every insert took effect at once, and as if the second reading came an hour later.
AT_ONCE = OutcomeSettings(fresh_s=0.0, settled_s=3_600.0)


class Receiver:
    """A target in memory, which may fail after it has accepted some."""

    name = "webhook"

    def __init__(self) -> None:
        self.batches: list[list[Outcome]] = []
        self.is_failing = False

    @property
    def published(self) -> list[str]:
        """The ids of all events, in order."""
        return [f"{one.gid}/{one.kind.value}" for batch in self.batches for one in batch if one.kind]

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        self.batches.append(list(outcomes))
        if self.is_failing:
            raise PublishError("it died before it answered")


class Counts(Observer):
    """What the job reports."""

    def __init__(self) -> None:
        self.published = self.failed = 0
        self.reached: dict[int, float | None] = {}

    def outcomes_published(self, target: str, count: int) -> None:
        self.published += count

    def outcomes_failed(self, target: str) -> None:
        self.failed += 1

    def outcomes_read(self, target: str, cell: int, reached: float | None) -> None:
        self.reached[cell] = reached


class Coordinator:
    """The job of one coordinator, and its clock."""

    def __init__(
        self, url: str, owner: str, receiver: Receiver, settings: OutcomeSettings = AT_ONCE, cell: int = 0
    ) -> None:
        self.now = 0.0
        self.counts = Counts()
        self.log = PostgresLog(LogPool(url), owner=owner, name="host:1", cell=cell)
        self.job = PublishOutcomes(
            settings,
            receiver,
            log=self.log,
            is_draining=lambda: False,
            clock=LogClock(lambda: self.now),
            observer=self.counts,
            cell=cell,
        )

    async def run(self) -> int:
        await self.log.coordinator_heartbeat(lease_s=60.0)
        return await self.job.run_once()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def ours(log_url: str, receiver: Receiver) -> AsyncIterator[Coordinator]:
    """A coordinator that has read what there was: nothing."""
    ours = Coordinator(log_url, "ours", receiver)
    assert await ours.run() == 0
    yield ours
    await ours.log.close()


async def decide(log: PostgresLog, gid: str) -> Transaction:
    (tx,) = await insert(log, begun(gid))
    return await save(log, confirming(tx))


async def end(log: PostgresLog, gid: str) -> None:
    await save(log, ended(await decide(log, gid)))


async def test_each_outcome_is_published_once_in_the_order_of_the_ends(
    ours: Coordinator, receiver: Receiver
) -> None:
    decided = await decide(ours.log, "first-created")
    await end(ours.log, "second")
    (tx,) = await insert(ours.log, begun("third", labels=(("city", "Bern"),), tenant="shop"))
    await save(ours.log, ended(await save(ours.log, cancelling(tx))))
    await save(ours.log, ended(decided))
    assert [await ours.run() for _ in range(3)] == [3, 0, 0]
    assert receiver.published == ["second/confirmed", "third/cancelled", "first-created/confirmed"]
    cancelled = receiver.batches[0][1]
    assert (cancelled.cancel_reason, cancelled.tenant) == (CancelReason.REQUESTED, "shop")
    assert cancelled.labels == '{"city": "Bern"}'
    assert ours.counts.published == 3


async def test_what_has_not_ended_is_awaited(ours: Coordinator, receiver: Receiver, log_url: str) -> None:
    tx = await decide(ours.log, "g")
    assert [await ours.run() for _ in range(2)] == [0, 0]
    assert await sql(log_url, "SELECT target, gid FROM outcomes_awaited") == [("webhook", "g")]
    await save(ours.log, ended(tx))
    assert [await ours.run() for _ in range(2)] == [1, 0]
    assert receiver.published == ["g/confirmed"]
    assert await sql(log_url, "SELECT gid FROM outcomes_awaited") == []


async def test_a_stuck_transaction_is_an_event_and_its_end_another(
    ours: Coordinator, receiver: Receiver
) -> None:
    tx = await decide(ours.log, "g")
    await ours.run()
    stuck = await save(ours.log, replace(tx, stuck=True))
    assert [await ours.run() for _ in range(2)] == [1, 0]
    assert receiver.published == ["g/stuck"]
    await save(ours.log, ended(stuck))
    assert [await ours.run() for _ in range(2)] == [1, 0]
    assert receiver.published == ["g/stuck", "g/confirmed"]


async def test_only_chosen_kinds_are_published(log_url: str, receiver: Receiver) -> None:
    settings = replace(AT_ONCE, kinds=frozenset({OutcomeKind.CANCELLED}))
    ours = Coordinator(log_url, "ours", receiver, settings)
    await ours.run()
    stuck = await save(ours.log, replace(await decide(ours.log, "stuck"), stuck=True))
    await end(ours.log, "confirmed")
    (tx,) = await insert(ours.log, begun("cancelled"))
    await save(ours.log, ended(await save(ours.log, cancelling(tx))))
    assert [await ours.run() for _ in range(2)] == [1, 0]
    await save(ours.log, ended(stuck))
    assert await ours.run() == 0
    assert receiver.published == ["cancelled/cancelled"]
    assert await sql(log_url, "SELECT gid FROM outcomes_awaited") == []
    await ours.log.close()


async def test_what_was_not_accepted_is_published_again_after_a_growing_pause(
    ours: Coordinator, receiver: Receiver
) -> None:
    await end(ours.log, "g")
    receiver.is_failing = True
    # Due at 0, 1 and 3 s: after pauses of 1 and 2 s.
    for ours.now, attempts in ((0.0, 1), (0.9, 1), (1.0, 2), (2.9, 2), (3.0, 3)):
        assert await ours.run() == 0
        assert (len(receiver.batches), ours.counts.failed) == (attempts, attempts)
    receiver.is_failing = False
    ours.now = 7.0
    assert [await ours.run() for _ in range(2)] == [1, 0]
    assert receiver.published == ["g/confirmed"] * 4
    assert ours.counts.published == 1


async def test_an_outcome_awaited_is_published_again_too(
    ours: Coordinator, receiver: Receiver, log_url: str
) -> None:
    tx = await decide(ours.log, "g")
    await ours.run()
    await save(ours.log, ended(tx))
    receiver.is_failing = True
    await ours.run()
    assert await sql(log_url, "SELECT gid FROM outcomes_awaited") == [("g",)]
    receiver.is_failing, ours.now = False, 2.0
    assert await ours.run() == 1


async def test_a_row_that_becomes_visible_late_is_published(log_url: str, receiver: Receiver) -> None:
    settings = replace(AT_ONCE, settled_s=5.0)
    first = Coordinator(log_url, "first", receiver, settings)
    await first.run()
    await first.log.coordinator_leave()
    await sql(log_url, "UPDATE outcome_positions SET moment = now() - interval '1 h'")
    ours = Coordinator(log_url, "ours", receiver, settings)
    await end(ours.log, "soon")
    assert await ours.run() == 1
    await end(ours.log, "late")
    # Its insert took five seconds: it is behind all that was read, but not behind the position.
    await sql(
        log_url,
        "UPDATE transactions SET created_at = (SELECT moment FROM outcome_positions) WHERE gid = 'late'",
    )
    assert [await ours.run() for _ in range(2)] == [1, 0]
    assert receiver.published == ["soon/confirmed", "late/confirmed"]
    for coordinator in (first, ours):
        await coordinator.log.close()


async def test_the_second_reading_publishes_nothing_again(ours: Coordinator, receiver: Receiver) -> None:
    tx = await decide(ours.log, "awaited")
    await end(ours.log, "soon")
    assert await ours.run() == 1
    await save(ours.log, ended(tx))
    assert await ours.run() == 1
    # All of it is settled from now on.
    ours.job._settings = replace(AT_ONCE, settled_s=0.0)
    assert [await ours.run() for _ in range(2)] == [0, 0]
    assert receiver.published == ["soon/confirmed", "awaited/confirmed"]


async def test_another_coordinator_goes_on_after_a_crash(
    ours: Coordinator, receiver: Receiver, log_url: str
) -> None:
    tx = await decide(ours.log, "awaited")
    await end(ours.log, "published")
    assert await ours.run() == 1
    await save(ours.log, ended(tx))
    await end(ours.log, "new")
    theirs = Coordinator(log_url, "theirs", receiver)
    assert await theirs.run() == 0
    assert theirs.counts.reached == {0: None}
    await sql(log_url, "UPDATE coordinators SET lease_until = now() WHERE id = 'ours'")
    await theirs.run()
    # What was published since the position in the log comes again.
    assert sorted(receiver.published) == [
        *(
            "awaited/confirmed",
            "awaited/confirmed",
            "new/confirmed",
            "published/confirmed",
            "published/confirmed",
        ),
    ]
    # The first one was only paused, and goes on from where it is: no more than that.
    assert await ours.job.run_once() == 0
    assert ours.counts.reached == {0: None}
    await theirs.log.close()


async def test_one_that_was_overtaken_does_not_move_the_position(
    ours: Coordinator, receiver: Receiver, log_url: str
) -> None:
    position = await sql(log_url, "SELECT moment FROM outcome_positions")
    await sql(log_url, "UPDATE outcome_positions SET reader = 'theirs'")
    reached = OutcomePosition(created_at=4_000_000_000.0)
    assert not await ours.log.outcome_position_set(receiver.name, reached)
    assert await sql(log_url, "SELECT moment FROM outcome_positions") == position


async def test_the_position_moves_behind_what_is_settled(log_url: str, receiver: Receiver) -> None:
    ours = Coordinator(log_url, "ours", receiver, replace(AT_ONCE, settled_s=15.0))
    await ours.run()
    await sql(log_url, "UPDATE outcome_positions SET moment = now() - interval '1 h', reader = 'gone'")
    for number in range(501):  # two pages
        await insert(ours.log, begun(f"g{number:03}"))
    await sql(
        log_url, "UPDATE transactions SET state = 4, ended_at = now(), created_at = now() - interval '1 m'"
    )
    assert await ours.run() == 501
    assert [len(batch) for batch in receiver.batches] == [100] * 5 + [1]
    ((age_s,),) = await sql(log_url, "SELECT extract(epoch FROM now() - moment) FROM outcome_positions")
    assert 15 <= age_s < 60
    again = Coordinator(log_url, "again", receiver, AT_ONCE)
    await sql(log_url, "UPDATE coordinators SET lease_until = now() WHERE id = 'ours'")
    assert await again.run() == 0
    await ours.log.close()
    await again.log.close()


async def test_what_is_purged_before_its_end_was_seen_is_forgotten(ours: Coordinator, log_url: str) -> None:
    await decide(ours.log, "g")
    await ours.run()
    await sql(log_url, "DELETE FROM transactions")
    with capture_logs() as logs:
        assert await ours.run() == 0
    assert [(entry["event"], entry["gids"]) for entry in logs] == [
        ("transactions were purged before their outcome was published", ["g"])
    ]
    assert await sql(log_url, "SELECT gid FROM outcomes_awaited") == []


async def test_targets_have_positions_of_their_own(
    ours: Coordinator, receiver: Receiver, log_url: str
) -> None:
    other = Receiver()
    other.name = "participant"
    second = Coordinator(log_url, "ours", other)
    await second.run()
    receiver.is_failing = True
    await end(ours.log, "g")
    assert [await ours.run(), await second.run()] == [0, 1]
    await second.log.close()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (PAGE, "transactions_created"),
        (READER, "outcome_positions_pkey"),
        (WAITING_UNTIL, "outcomes_awaited_pkey"),
        (WAITING, "transactions_pkey"),
        (ENDED, "outcomes_awaited_pkey"),
    ],
    ids=lambda value: value.name if isinstance(value, Statement) else "",
)
async def test_outcomes_are_read_by_an_index(ours: Coordinator, statement: Statement, index: str) -> None:
    plan = await generic_plan(ours.log._connections, statement)
    assert f"using {index}" in plan or f"on {index}" in plan, plan
    assert "Seq Scan" not in plan, plan
