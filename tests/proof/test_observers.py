"""What the observers in the databases write down, against the real log and real participants' tables."""

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from msgspec.structs import replace
from sqlalchemy import create_engine

from coordinator.core.model import BranchKind
from coordinator.log.store import LogPool, PostgresLog
from participants.coupon.store import metadata as coupon_metadata
from participants.inventory.store import metadata as inventory_metadata
from participants.order.store import metadata as order_metadata
from proof.faults.observers import Observers
from proof.history.events import LOG, Decided, Decision, Effect, Kind, Operation, Registered
from tcc.barrier.schema import migrate as migrate_barrier
from tests.log.transactions import begun, confirming, ended, insert, save
from tests.support.databases import Databases

PARTICIPANTS = {"inventory": inventory_metadata, "coupon": coupon_metadata, "order": order_metadata}


@pytest.fixture
def urls(databases: Databases, log_url: str) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        urls = {name: stack.enter_context(databases.one()) for name in PARTICIPANTS}
        for name, url in urls.items():
            engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
            with engine.begin() as db:
                PARTICIPANTS[name].create_all(db)
                migrate_barrier(db)
            engine.dispose()
        yield {"coordinator": log_url} | urls


async def test_branches_and_the_decision_are_seen_once(urls: dict[str, str]) -> None:
    observers = Observers(urls)
    observers.install()
    log = PostgresLog(LogPool(urls["coordinator"]), owner="ours", name="host:1")
    await log.coordinator_heartbeat(lease_s=60)
    (tx,) = await insert(log, replace(begun("a", "inventory", "order"), tenant="red"))
    assert observers.open_transactions() == 1
    await save(log, ended(await save(log, confirming(tx))))
    await log.close()
    seen = observers.read()
    assert [type(event) for event in seen] == [Registered, Decided]
    registered, decided = seen
    assert isinstance(registered, Registered)
    assert isinstance(decided, Decided)
    assert registered.tenant == "red"
    assert registered.branch_ids == tuple(branch.spec.branch_id for branch in tx.branches)
    assert (decided.gid, decided.decision, decided.observer) == ("a", Decision.CONFIRM, LOG)
    assert registered.at < decided.at
    assert observers.read() == []
    assert observers.open_transactions() == 0


def test_effects_are_seen_even_where_the_barrier_is_silent(urls: dict[str, str]) -> None:
    observers = Observers(urls)
    observers.install()
    with psycopg.connect(urls["inventory"]) as db:
        db.execute(
            "INSERT INTO reservation (gid, branch_id, freeze_id, sku, quantity, state)"
            " VALUES ('a', '1', gen_random_uuid(), 'tea', 3, 'RESERVED')"
        )
        db.execute("UPDATE reservation SET state = 'CANCELLED'")
        db.execute("INSERT INTO tcc_barrier VALUES ('b', '1', 'reserve_stock', 3, 0, 0)")
        db.execute("INSERT INTO tcc_barrier VALUES ('c', '1', 'reserve_stock', 1, 0, 0)")
    with psycopg.connect(urls["coupon"]) as db:
        db.execute("INSERT INTO coupon (coupon_id, state) VALUES ('x', 'AVAILABLE')")
        db.execute("UPDATE coupon SET state = 'FROZEN', gid = 'a', branch_id = '2'")
        db.execute("UPDATE coupon SET state = 'AVAILABLE', gid = NULL, branch_id = NULL")
    seen = [event for event in observers.read() if isinstance(event, Effect)]
    assert [(e.participant, e.gid, e.branch_id, e.operation, e.quantity, e.tombstone) for e in seen] == [
        ("inventory", "a", "1", Operation.TRY, 3, False),
        ("inventory", "a", "1", Operation.CANCEL, 3, False),
        ("inventory", "b", "1", Operation.CANCEL, 0, True),
        ("coupon", "a", "2", Operation.TRY, 1, False),
        ("coupon", "a", "2", Operation.CANCEL, 1, False),
    ]


def test_what_is_rolled_back_was_never_seen(urls: dict[str, str]) -> None:
    observers = Observers(urls)
    observers.install()
    with psycopg.connect(urls["coupon"]) as db:
        db.execute("INSERT INTO coupon (coupon_id, state) VALUES ('x', 'AVAILABLE')")
        db.commit()
        db.execute("UPDATE coupon SET state = 'FROZEN', gid = 'a', branch_id = '2'")
        db.rollback()
    assert observers.read() == []


async def test_a_local_branch_and_the_tombstone_of_its_check_are_seen(urls: dict[str, str]) -> None:
    observers = Observers(urls)
    observers.install()
    log = PostgresLog(LogPool(urls["coordinator"]), owner="ours", name="host:1")
    await log.coordinator_heartbeat(lease_s=60)
    tx = begun("a", "inventory", "order")
    local = replace(tx.branches[1], spec=replace(tx.branches[1].spec, kind=BranchKind.SAGA, check_back=True))
    await insert(log, replace(tx, branches=(tx.branches[0], local)))
    await log.close()
    with psycopg.connect(urls["order"]) as db:
        db.execute("INSERT INTO tcc_barrier VALUES ('a', 'order', 'local', 3, 0, 0)")

    [registered, tombstone] = observers.read()
    assert isinstance(registered, Registered)
    assert registered.kinds == (Kind.TCC, Kind.LOCAL)
    assert isinstance(tombstone, Effect)
    assert (tombstone.operation, tombstone.tombstone) == (Operation.CHECK, True)
