"""Coordinators on a log of several cells: recovery in each, and one that is unavailable."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from coordinator.config.settings import Settings
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.engine.observer import NULL_OBSERVER
from coordinator.jobs.heartbeat import Heartbeat
from coordinator.jobs.scheduler import run_guarded
from coordinator.log.cells import cell_of
from coordinator.log.migration import migrate_cells
from coordinator.log.moving import move_cell
from coordinator.process.log_cells import cell_places
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import sql
from tests.support.databases import Databases
from tests.support.errors import refused
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.webhook import event_webhook
from tests.support.worker import Running, branch, running, settings_for

DATABASE = "log"


def gids(cell: int, count: int, cells: int) -> list[str]:
    """Return gids of one cell."""
    found = (f"order-{number}" for number in range(10_000))
    chosen = [gid for gid in found if cell_of(gid, cells) == cell]
    return chosen[:count]


def execute(gid: str) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION)


@pytest.mark.slow
async def test_what_a_coordinator_leaves_is_finished_in_every_cell(
    database_url: str, stock: ScriptedParticipant
) -> None:
    cells = 4
    settings = settings_for({"stock": {"target": stock.address}}, log={"cells": cells})
    migrate_cells(cell_places(settings.log, database_url))
    go = stock.hold_confirms()
    mine = [gid for cell in range(cells) for gid in gids(cell, 2, cells)]
    async with running(settings, database_url) as survivor:
        async with running(settings, database_url) as leaving:
            begun = [
                asyncio.ensure_future(
                    leaving.stub.ExecuteTransaction(
                        pb.ExecuteTransactionRequest(
                            gid=gid, branches=[branch("1")], wait_for=pb.WAIT_FOR_DECISION
                        )
                    )
                )
                for gid in mine
            ]
            await asyncio.gather(*begun)
        # Its drain has released what it drove, in each cell.
        go.set()
        for gid in mine:
            outcome = await survivor.settled(gid)
            assert outcome.state == common.TRANSACTION_STATE_CONFIRMED
        assert survivor.engine.totals.confirmed == len(mine)


@pytest.mark.slow
async def test_outcomes_of_every_cell_are_published_and_each_has_its_position(
    database_url: str, stock: ScriptedParticipant
) -> None:
    async with event_webhook() as webhook:
        settings = settings_for(
            {"stock": {"target": stock.address}}, log={"cells": 2}, events={"url": webhook.url}
        )
        migrate_cells(cell_places(settings.log, database_url))
        mine = [*gids(0, 2, 2), *gids(1, 3, 2)]
        async with running(settings, database_url) as coordinator:
            for gid in mine:
                await coordinator.stub.ExecuteTransaction(execute(gid))
            await webhook.until_has(*(f"{gid}/confirmed" for gid in mine))
        assert len(webhook.ids) == len(mine)
    owner = coordinator.worker.owner
    for schema in ("tcc", "tcc_1"):
        positions = await sql(database_url, f"SELECT target, reader FROM {schema}.outcome_positions")
        assert positions == [("webhook", owner)]


@pytest.mark.slow
async def test_an_unavailable_cell_stops_only_its_own_transactions(
    database_url: str, own_postgres: EmbeddedPostgres, stock: ScriptedParticipant
) -> None:
    own_postgres.create_database(DATABASE)
    settings = settings_for(
        {"stock": {"target": stock.address}},
        log={
            "url": database_url,
            "cells": 2,
            "servers": [{"url": own_postgres.url(DATABASE), "cells": "1"}],
        },
    )
    migrate_cells(cell_places(settings.log, database_url))
    here, there = gids(0, 12, 2), gids(1, 12, 2)
    async with running(settings, database_url) as tcc:
        for gid in (here.pop(), there.pop()):
            await tcc.stub.ExecuteTransaction(execute(gid))
        go = stock.hold_confirms()
        waiting = asyncio.ensure_future(tcc.stub.ExecuteTransaction(execute(interrupted := there.pop())))
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM, gid=interrupted) > 0)
        own_postgres.stop("immediate")
        go.set()
        await beat(tcc, settings)
        async with refused("UNAVAILABLE", "LOG_UNAVAILABLE") as refusal:
            await tcc.stub.ExecuteTransaction(execute(there[0]))
        assert "cell 1 of the transaction log cannot be reached" in str(refusal.error.details())
        # One batch with both: each gets its own answer.
        mixed = [here.pop(), there[0], here.pop(), there[1]]
        batch = pb.ExecuteTransactionsRequest(transactions=[execute(gid) for gid in mixed])
        replies = [
            reply
            async for response in tcc.stub.ExecuteTransactions(batch, timeout=60)
            for reply in response.replies
        ]
        said = {reply.index: reply.error.reason or reply.outcome.state for reply in replies}
        assert said == {
            0: common.TRANSACTION_STATE_CONFIRMED,
            1: "LOG_UNAVAILABLE",
            2: common.TRANSACTION_STATE_CONFIRMED,
            3: "LOG_UNAVAILABLE",
        }
        for gid in here:
            reply = await tcc.stub.ExecuteTransaction(execute(gid))
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
        assert tcc.engine.writer.available, "the coordinator stays in service"
        assert not waiting.done()
        # A coordinator that starts now serves what it can.
        async with running(settings, database_url) as second:
            await second.stub.ExecuteTransaction(execute(gids(0, 20, 2)[-1]))
            async with refused("UNAVAILABLE", "LOG_UNAVAILABLE"):
                await second.stub.ExecuteTransaction(execute(there[1]))
        own_postgres.start()
        assert (await waiting).outcome.state == common.TRANSACTION_STATE_CONFIRMED
        await beat(tcc, settings)
        await tcc.stub.ExecuteTransaction(execute(there[0]))
        assert await tcc.state(there[0]) == "CONFIRMED"


@pytest.mark.slow
async def test_a_coordinator_follows_a_cell_that_was_moved(
    database_url: str, databases: Databases, stock: ScriptedParticipant
) -> None:
    with databases.one() as elsewhere:
        before, after = (
            settings_for(
                {"stock": {"target": stock.address}},
                log={"url": database_url, "cells": 2, "servers": [{"url": url, "cells": "1"}]},
            )
            for url in (database_url, elsewhere)
        )
        migrate_cells(cell_places(before.log, database_url))
        here, there = gids(0, 2, 2), gids(1, 2, 2)
        async with running(before, database_url) as tcc:
            await asyncio.gather(*[tcc.stub.ExecuteTransaction(execute(mine[0])) for mine in (here, there)])
            log = tcc.worker.log
            assert log.place_of(0) is log.place_of(1)
            old, new = (cell_places(settings.log, database_url) for settings in (before, after))
            await asyncio.to_thread(move_cell, old[1], new[1], home=old[0])
            await reloaded(tcc, after, before)
            await beat(tcc, after)
            assert log.place_of(0) is not log.place_of(1)
            await asyncio.gather(*[tcc.stub.ExecuteTransaction(execute(mine[1])) for mine in (here, there)])
            for gid in (*here, *there):
                assert await tcc.state(gid) == "CONFIRMED"
        # Its lease has ended, and the rows are at the new server.
        ((count,),) = await sql(elsewhere, "SELECT count(*) FROM tcc_1.transactions")
        assert count == len(there)


@pytest.mark.slow
async def test_a_reload_reports_which_cells_it_follows_and_where_it_does_not(
    database_url: str, databases: Databases, stock: ScriptedParticipant
) -> None:
    targets = {"stock": {"target": stock.address}}
    with databases.one() as elsewhere:
        before = settings_for(targets, log={"url": database_url, "cells": 2})
        servers = [{"url": elsewhere, "cells": "1"}]
        after = settings_for(targets, log={"url": database_url, "cells": 2, "servers": servers})
        here, there = cell_places(before.log, database_url), cell_places(after.log, database_url)
        migrate_cells(here)
        async with running(before, database_url) as tcc:
            move_cell(here[1], there[1], home=here[0])
            lines = await reloaded(tcc, after, before)
            assert (lines[0]["moving_cells"], lines[0]["needs_restart"]) == ([1], [])
            assert lines[1]["cells"] == [1]
            await beat(tcc, before)
            await tcc.stub.ExecuteTransaction(execute(gid := gids(1, 1, 2)[0]))
            await sql(database_url, "ALTER SCHEMA tcc_1_moved RENAME TO tcc_1")
            await sql(database_url, "UPDATE tcc_1.cells SET moved_at = NULL")
            lines = await reloaded(tcc, before, before)
            assert "of generation 1, but the cell was moved since" in lines[1]["error"]
            assert await tcc.state(gid) == "CONFIRMED", "it stays where it was"


async def reloaded(
    tcc: Running, settings: Settings, started_with: Settings
) -> list[MutableMapping[str, Any]]:
    """Reload, and return what is logged until the cells were followed, or were not."""
    with capture_logs() as lines:
        tcc.worker.reload(settings, started_with)
        moving = tcc.worker._cells_moving
        assert moving is not None
        await moving
    return [line for line in lines if line["event"].startswith(("configuration", "cells of the log"))]


async def beat(tcc: Running, settings: Settings) -> None:
    """Let the coordinator notice now whether cell 1 is available."""
    heartbeat = Heartbeat(
        tcc.engine,
        settings.recovery_settings(),
        log=tcc.worker.log.cells[1],
        clock=tcc.worker.clock,
        observer=NULL_OBSERVER,
        cell=1,
    )
    await run_guarded(tcc.engine, heartbeat, tcc.worker.report_bug)
