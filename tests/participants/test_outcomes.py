"""Outcomes of a real coordinator's transactions as events: none is missed, and few come twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import tcc
from participants.events import outcome_store, store
from participants.events.brokers import BrokerError
from participants.events.envelope import Event
from participants.events.outcomes import Following, Outcomes
from participants.serving import create_schema
from tests.support.worker import running, settings_for

AT_ONCE = Following(lag_s=0, window_s=3_600)


class Recorder:
    """A broker in memory. It may fail after it has accepted some events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_failing = False

    async def start(self) -> None: ...

    async def publish(self, events: Sequence[Event]) -> Sequence[str]:
        self.events += events
        if self.is_failing:
            raise BrokerError("it died before it answered")
        return [str(number) for number in range(len(events))]

    async def close(self) -> None: ...

    def seen(self) -> list[tuple[str, str]]:
        bodies = [json.loads(event.body) for event in self.events]
        return sorted((body["subject"], body["type"]) for body in bodies)


class BreakableService:
    """A participant whose Try or Confirm fails on request."""

    def __init__(self, database: AsyncEngine) -> None:
        self.is_broken = False
        self.participant = tcc.Participant("shop", database=database)
        self.participant.action("buy")(self)

    async def try_(self, _branch, request: dict[str, Any], db) -> None:
        if request.get("sold_out"):
            raise tcc.Rejected("SOLD_OUT")

    async def confirm(self, _branch, _request, db) -> None:
        if self.is_broken:
            raise RuntimeError("broken")

    async def cancel(self, _branch, _request, db) -> None: ...


class Shop:
    """A coordinator with a participant, and what follows its outcomes."""

    def __init__(self, client: tcc.Client, orders: BreakableService, database: AsyncEngine) -> None:
        self._client = client
        self.orders = orders
        self.broker = Recorder()
        self.outcomes = Outcomes(client, self.broker, database, AT_ONCE)

    async def buy(self, gid: str, *, wait_for: Any = "completion", **request: Any) -> None:
        await self._client.execute(
            [tcc.BranchRequest("shop", "buy", request, branch_id="buy")],
            gid=gid,
            wait_for=wait_for,
            labels={"city": "Bern"},
            raise_on_cancel=False,
        )

    async def step(self) -> None:
        assert not await self.outcomes.step(datetime.now(UTC) + timedelta(seconds=1))


@asynccontextmanager
async def opened(log_url: str, home: Path) -> AsyncIterator[Shop]:
    ours, theirs = (create_async_engine(f"sqlite+aiosqlite:///{home / name}") for name in ("ours", "theirs"))
    for metadata in (store.metadata, outcome_store.metadata):
        await create_schema(ours, metadata)
    orders = BreakableService(theirs)
    async with orders.participant.running() as server:
        participants = {"shop": {"target": f"127.0.0.1:{server.port}", "attempts_before_stuck": 2}}
        async with (
            running(settings_for(participants), log_url) as coordinator,
            tcc.Client(coordinator.address) as client,
        ):
            shop = Shop(client, orders, ours)
            await shop.outcomes.begin(datetime.now(UTC))
            yield shop
    await ours.dispose()
    await theirs.dispose()


async def test_each_outcome_is_an_event_without_payloads(log_url: str, tmp_path: Path) -> None:
    async with opened(log_url, tmp_path) as shop:
        await shop.buy("g1", secret="4711")
        await shop.buy("g2", sold_out=True)
        await shop.step()
        await shop.step()
        await shop.outcomes.look_again()
        assert shop.broker.seen() == [
            ("g1", "tcc.transaction.confirmed"),
            ("g2", "tcc.transaction.cancelled"),
        ]
        cancelled = next(json.loads(e.body) for e in shop.broker.events if e.key == "g2")
        assert cancelled["id"] == "g2/cancelled"
        assert cancelled["data"]["labels"] == {"city": "Bern"}
        assert cancelled["data"]["cancel_detail"] == "SOLD_OUT"
        assert "4711" not in str([event.body for event in shop.broker.events])


async def test_a_stuck_transaction_is_an_event_and_its_end_another(log_url: str, tmp_path: Path) -> None:
    async with opened(log_url, tmp_path) as shop:
        shop.orders.is_broken = True
        await shop.buy("g1", wait_for="decision")
        await shop.step()
        async with asyncio.timeout(60):
            while not shop.broker.events:
                await shop.outcomes.look_again()
        await shop.outcomes.look_again()
        assert shop.broker.seen() == [("g1", "tcc.transaction.stuck")]
        shop.orders.is_broken = False
        async with asyncio.timeout(60):
            while len(shop.broker.events) == 1:
                await shop.outcomes.look_again()
        await shop.outcomes.look_again()
        assert shop.broker.seen() == [("g1", "tcc.transaction.confirmed"), ("g1", "tcc.transaction.stuck")]


async def test_outcomes_are_published_again_if_the_broker_failed(log_url: str, tmp_path: Path) -> None:
    async with opened(log_url, tmp_path) as shop:
        await shop.buy("g1")
        shop.broker.is_failing = True
        with pytest.raises(BrokerError):
            await shop.step()
        shop.broker.is_failing = False
        await shop.step()
        assert [event.event_id for event in shop.broker.events] == ["g1/confirmed"] * 2


@pytest.mark.slow
async def test_no_creation_time_is_skipped_between_windows(log_url: str, tmp_path: Path) -> None:
    async with opened(log_url, tmp_path) as shop:
        for number in range(5):
            await shop.buy(f"g{number}")
        narrow = Following(lag_s=0, window_s=0.002)
        outcomes = Outcomes(shop._client, shop.broker, shop.outcomes._database, narrow)
        end = datetime.now(UTC) + timedelta(milliseconds=10)
        while await outcomes.step(end):
            pass
        assert [gid for gid, _ in shop.broker.seen()] == [f"g{number}" for number in range(5)]


async def test_a_transaction_is_read_only_after_its_row_is_visible(log_url: str, tmp_path: Path) -> None:
    async with opened(log_url, tmp_path) as shop:
        await shop.buy("g1")
        late = Outcomes(shop._client, shop.broker, shop.outcomes._database, Following(lag_s=15))
        assert not await late.step(datetime.now(UTC) + timedelta(seconds=10))
        assert shop.broker.seen() == []
        while await late.step(datetime.now(UTC) + timedelta(seconds=20)):
            pass
        assert shop.broker.seen() == [("g1", "tcc.transaction.confirmed")]
