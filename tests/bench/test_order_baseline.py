"""The baseline of the order flow is fair: it leaves the rows that the real processes leave."""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

import tcc
from bench import work
from bench.flow import fill_stock, issue_coupons
from bench.options import Options
from bench.stage import Stage, System, baseline_database, stage
from coordinator.core.model import TransactionState

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ORDERS = 40
SKUS = 7
RUN = "R1"
DATABASES = ("inventory", "coupon", "order", "log")
# Each run's own, and the fingerprint, which the baseline does not compute.
LEFT_OUT = {"expires_at_ms", "updated_at_ms", "owner", "fingerprint"}

_FREEZE_ID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATES = "SELECT state FROM transactions"
_TABLES = """
    SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'coordinators' ORDER BY 1
    """

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def here() -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="tcc-test-") as directory,
        stage(Options(data_dir=Path(directory))) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def real(here: Stage) -> tuple[System, Rows]:
    """The real system, and what its databases hold after some orders."""
    system = here.start_coordinator(here.start_services())
    return system, after_orders(here, system, {name: name for name in DATABASES})


@pytest.fixture(scope="module")
def baseline(here: Stage) -> tuple[System, Rows]:
    """The baseline, and what its databases hold after the same orders."""
    participants = here.start_baseline_services()
    system, coordinator = here.start_baseline(participants)
    # Batches that cut messages, and messages that cut groups.
    coordinator.ask("batches", rows=11, calls=7)
    for participant in participants.counting:
        participant.ask("batches", branches=5)
    names = {name: baseline_database(name) for name in DATABASES} | {"log": "baseline"}
    return system, after_orders(here, system, names)


def after_orders(here: Stage, system: System, names: Mapping[str, str]) -> Rows:
    """Takes the same orders with the same gids, and answers all rows of the databases when all are done."""
    fill_stock(here, names["inventory"])
    issue_coupons(here, names["coupon"], [work.coupon_id(RUN, number) for number in range(ORDERS + 5)])
    outcomes = execute(system)
    assert all(outcome.confirmed for outcome in outcomes)
    with psycopg.connect(here.url(names["log"]), autocommit=True, row_factory=dict_row) as log:
        until(
            lambda: all(row["state"] == TransactionState.CONFIRMED for row in log.execute(_STATES).fetchall())
        )
    assert_initiators_know(outcomes, here, names["inventory"])
    return {
        f"{database}.{table}": rows
        for database, name in names.items()
        for table, rows in tables(here.url(name)).items()
    }


def execute(system: System) -> list[tcc.Outcome]:
    """All at once, so that batches form."""

    async def run() -> list[tcc.Outcome]:
        client = tcc.Client(system.address, timeout_s=60.0)
        orders = islice(work.transactions(work.orders(RUN, SKUS)), ORDERS)
        done = await asyncio.gather(
            *[client.execute(branches, gid=f"G-{number:03}") for number, branches in enumerate(orders)]
        )
        await client.close()
        return done

    return asyncio.run(run())


def until(condition: Callable[[], bool]) -> None:
    """Waits for other processes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def assert_initiators_know(outcomes: Sequence[tcc.Outcome], here: Stage, inventory: str) -> None:
    """What Try returned is what the reservation is called."""
    with psycopg.connect(here.url(inventory)) as db:
        freezes = dict(db.execute("SELECT gid, freeze_id::text FROM reservation").fetchall())
    told = {outcome.gid: json.loads(outcome.results["inventory"].data) for outcome in outcomes}
    assert told == {gid: {"freeze_id": freeze_id} for gid, freeze_id in freezes.items()}


def tables(url: str) -> Rows:
    """Every row of every table in the order of its columns, without what may differ."""
    with psycopg.connect(url, row_factory=dict_row) as db:
        names = [row["tablename"] for row in db.execute(_TABLES).fetchall()]
        found = {
            name: db.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))).fetchall()
            for name in names
        }
    return {
        name: sorted([comparable(row) for row in rows], key=lambda row: list(map(repr, row.values())))
        for name, rows in found.items()
    }


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Moments say only whether there is one; freeze ids, which are random, only where one is."""
    return {name: _comparable(value) for name, value in row.items() if name not in LEFT_OUT}


def _comparable(value: Any) -> Any:
    match value:
        case datetime():
            return "a moment"
        case UUID():
            return "a freeze id"
        case bytes():
            return _FREEZE_ID.sub(b"a freeze id", value)
    return value


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("inventory.tcc_barrier", ORDERS),
        ("inventory.reservation", ORDERS),
        ("inventory.stock", 500),
        ("coupon.tcc_barrier", ORDERS),
        ("coupon.coupon", ORDERS + 5),
        ("order.tcc_barrier", ORDERS),
        ("order.orders", ORDERS),
        ("log.transactions", ORDERS),
    ],
)
def test_the_floor_leaves_the_rows_that_the_real_processes_leave(
    real: tuple[System, Rows], baseline: tuple[System, Rows], table: str, count: int
) -> None:
    _, rows = real
    _, floor_rows = baseline
    assert len(rows[table]) == count
    assert floor_rows[table] == rows[table]


def test_no_table_is_left_out(real: tuple[System, Rows], baseline: tuple[System, Rows]) -> None:
    (_, rows), (_, floor_rows) = real, baseline
    assert rows.keys() == floor_rows.keys()


def test_the_floor_makes_the_batches_that_it_is_told(baseline: tuple[System, Rows]) -> None:
    """Two operations at each of three participants."""
    system, _ = baseline
    counts = [each.ask("count") for each in system.counting]
    assert [count["items"] for count in counts] == [2 * ORDERS] * 3
    for count in counts:
        # Neither one by one nor all at once, whatever groups have formed.
        assert 2 * ORDERS / 7 / 2 <= count["calls"] < 2 * ORDERS
        assert 2 * ORDERS / 5 / 2 <= count["commits"] < 2 * ORDERS
