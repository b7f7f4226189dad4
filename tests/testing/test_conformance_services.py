"""The conformance suite on real processes, killed: the reference participants, and one without the SDK."""

import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from participants.coupon.store import issue, metadata as coupon_metadata
from participants.inventory.store import metadata as inventory_metadata, restock
from participants.locks.requests import Acquire
from participants.locks.store import enqueue, metadata as locks_metadata
from participants.order.store import metadata as order_metadata
from participants.serving import create_schema
from proof.faults.member import Member
from proof.faults.plan import Rule
from tcc.testing import conformance
from tests.testing.test_conformance import OF_KINDS

# Real processes, killed again and again.
pytestmark = pytest.mark.slow

# Each ends one incarnation of the service at a failpoint, in the middle of a call: the local
# commit is done and the result is not sent, and so on.
HALF_WAY = [
    Rule(name="barrier.commit.after", hits=1),
    Rule(name="barrier.commit.before", hits=2),
    Rule(name="participant.reply.before", hits=4),
]
COUPONS = [f"c-{number}" for number in range(1_000)]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def running(name: str, command: Callable[[str], list[str]], home: Path) -> AsyncIterator[Member]:
    """A service that is started again whenever it dies."""
    member = Member(
        name, lambda address: [sys.executable, "-m", "proof.faults.child", *command(address)], home
    )
    try:
        yield member
    finally:
        await member.stop()


async def killed_and_back(member: Member) -> None:
    member.kill()
    await member.changed(60)
    await member.comes_back()


async def inventory(database: AsyncEngine) -> dict[str, Any]:
    await create_schema(database, inventory_metadata)
    async with database.begin() as db:
        await restock(db, "first", {"a": 10_000})
    return {
        "action": "reserve_stock",
        "payload": b'{"sku": "a", "quantity": 1}',
        "rejected_payload": b'{"sku": "a", "quantity": 10001}',
        "held": "SELECT state FROM reservation WHERE gid = :gid AND branch_id = :branch_id",
        "table": "reservation",
        "states": ("RESERVED", "CONFIRMED"),
    }


async def coupon(database: AsyncEngine) -> dict[str, Any]:
    await create_schema(database, coupon_metadata)
    async with database.begin() as db:
        await issue(db, COUPONS)
    fresh = iter(COUPONS)
    return {
        "action": "use_coupon",
        "payload": lambda: json.dumps({"coupon_id": next(fresh)}).encode(),
        "rejected_payload": b'{"coupon_id": "unknown"}',
        "held": "SELECT state FROM coupon WHERE gid = :gid AND branch_id = :branch_id",
        "table": "coupon",
        "states": ("FROZEN", "USED"),
    }


async def order(database: AsyncEngine) -> dict[str, Any]:
    await create_schema(database, order_metadata)
    numbers = count()

    def payload(order_id: str) -> bytes:
        return json.dumps({"order_id": order_id, "customer_id": "ann", "sku": "a", "quantity": 1}).encode()

    async with database.begin() as db:
        await db.execute(
            text(
                "INSERT INTO orders (order_id, gid, branch_id, customer_id, sku, quantity, state) "
                "VALUES ('taken', 'g', 'b', 'ann', 'a', 1, 'CONFIRMED')"
            )
        )
    return {
        "action": "open_order",
        "payload": lambda: payload(f"o-{next(numbers)}"),
        "rejected_payload": payload("taken"),
        "held": "SELECT state FROM orders WHERE gid = :gid AND branch_id = :branch_id",
        "table": "orders",
        "states": ("PENDING", "CONFIRMED"),
    }


def observing(database: AsyncEngine, held: str, states: tuple[str, str]) -> conformance.Observe:
    """Counts a branch's rows in the service's own table."""
    reserved, confirmed = states

    async def observe(gid: str, branch_id: str) -> conformance.Effects:
        async with database.connect() as db:
            found = (await db.scalars(text(held), {"gid": gid, "branch_id": branch_id})).all()
        return conformance.Effects(reserved=found.count(reserved), confirmed=found.count(confirmed))

    return observe


def breaking(database: AsyncEngine, table: str, confirmed: str) -> conformance.BreakConfirm:
    """Forbids a branch's row the state that its Confirm would give it."""

    async def execute(statement: str) -> None:
        async with database.begin() as db:
            await db.execute(text(statement))

    @asynccontextmanager
    async def break_confirm(gid: str, branch_id: str) -> AsyncIterator[None]:
        # `seat` has keys of bytes, which PostgreSQL compares with such a literal just as well.
        await execute(
            f"ALTER TABLE {table} ADD CONSTRAINT broken "
            f"CHECK (gid <> '{gid}' OR branch_id <> '{branch_id}' OR state <> '{confirmed}')"
        )
        try:
            yield
        finally:
            await execute(f"ALTER TABLE {table} DROP CONSTRAINT broken")

    return break_confirm


@pytest.mark.parametrize("seed", [inventory, coupon, order], ids=lambda seed: seed.__name__)
@pytest.mark.timeout(300)
async def test_reference_participant_conforms_and_survives_kills(
    seed: Callable[[AsyncEngine], Any], database: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    given = await seed(database)
    states = given.pop("states")
    observe = observing(database, given.pop("held"), states)
    break_confirm = breaking(database, given.pop("table"), states[1])
    name = seed.__name__

    def command(address: str) -> list[str]:
        return [f"participants.{name}", f"--database={database_url}", f"--listen={address}"]

    async with running(name, command, tmp_path) as member:
        await member.start()

        async def restart() -> None:
            if not member.kills:
                # From now on its incarnations also end at a failpoint, before they are killed.
                member.hand, member.lives = deque(HALF_WAY), len(HALF_WAY)
            await killed_and_back(member)

        report = await conformance.run(
            member.address, observe=observe, break_confirm=break_confirm, restart=restart, **given
        )

    assert report.ok, str(report)
    assert {result.case for result in report.results if result.skipped} == OF_KINDS
    assert "barrier.commit.after" in member.killed_at
    assert not member.failures


@pytest.mark.timeout(300)
async def test_locks_conform_and_survive_kills(
    database: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    """Nothing is left of a lock that was confirmed: only the results of the calls are compared."""
    await create_schema(database, locks_metadata)
    async with database.begin() as db:
        await enqueue(db, [(("other", "b"), Acquire(keys=frozenset({"taken"})))], now_ms=0)
    numbers = count()

    def command(address: str) -> list[str]:
        return ["participants.locks", f"--database={database_url}", f"--listen={address}"]

    async with running("locks", command, tmp_path) as member:
        await member.start()
        report = await conformance.run(
            member.address,
            action="acquire",
            payload=lambda: json.dumps({"keys": [f"k-{next(numbers)}"]}).encode(),
            rejected_payload=b'{"keys": ["taken"]}',
            restart=lambda: killed_and_back(member),
        )
    assert report.ok, str(report)
    assert not member.failures


@pytest.mark.timeout(300)
async def test_plain_unary_service_without_the_sdk_conforms(
    database: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    plain_url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    held = (
        "SELECT state FROM seat "
        "WHERE gid = convert_to(:gid, 'UTF8') AND branch_id = convert_to(:branch_id, 'UTF8')"
    )

    async with running(
        "plain", lambda address: ["tests.testing.plain_service", plain_url, address], tmp_path
    ) as member:
        await member.start()
        report = await conformance.run(
            member.address,
            action="take_seat",
            payload=b"any",
            rejected_payload=b"no seat",
            batched=False,
            observe=observing(database, held, ("TAKEN", "SOLD")),
            break_confirm=breaking(database, "seat", "SOLD"),
            restart=lambda: killed_and_back(member),
        )

    assert report.ok, str(report)
    skipped = {result.case for result in report.results if result.skipped}
    streams = {"stream_of_calls", "stream_half_closed"}
    unary = {"mixed_batch", "duplicates_in_a_batch", "listing_agrees", "check_without_try"} | streams
    assert skipped == unary | OF_KINDS
    assert member.kills >= 4
    assert not member.failures
