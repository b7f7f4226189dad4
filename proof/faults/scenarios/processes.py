"""Processes that are paused, slow, or restarted in order."""

import argparse
import asyncio
from typing import Any

import psycopg
from psycopg import sql

from proof.faults.system import CALL_TIMEOUT_S, LEASE_S
from proof.faults.testbed import Testbed

_PAUSES = 3
_LATE_TABLES = {"inventory": "stock", "coupon": "coupon", "order": "orders"}
_LATE_S = CALL_TIMEOUT_S + 0.7
_CALM_S = 0.7
# Cancelled for another reason than a participant's business no, or the initiator's own wish.
_FAILED = """
    SELECT gid, cancel_reason, cancel_detail FROM tcc.transactions
    WHERE gid LIKE '%-rolling-%' AND (ended_at IS NULL OR cancel_reason NOT IN (0, 1, 3))
    """


async def pause_coordinators(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """SIGSTOP for longer than the lease, so that the other one adopts everything; then SIGCONT."""
    async with testbed.load("paused"):
        for _ in range(_PAUSES):
            for member in testbed.system.coordinators.values():
                await asyncio.sleep(_CALM_S)
                testbed.verifier.note("SIGSTOP", member.name)
                member.stop_clock()
                try:
                    await asyncio.sleep(LEASE_S * 2)
                finally:
                    member.go_on()
                testbed.verifier.note("SIGCONT", member.name)
    return {"pauses": _PAUSES * len(testbed.system.coordinators)}


async def answer_late(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Each participant's table is locked for longer than its calls may take: its answers arrive too late."""
    async with testbed.load("late"):
        for participant, table in _LATE_TABLES.items():
            await asyncio.sleep(_CALM_S)
            testbed.verifier.note("late answers", participant)
            url = testbed.system.postgres.url(participant)
            async with await psycopg.AsyncConnection.connect(url) as db:
                lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
                await db.execute(lock)
                await asyncio.sleep(_LATE_S)
    return {"late_s": _LATE_S, "participants": len(_LATE_TABLES)}


async def restart_everything(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Every process in turn is stopped gracefully. No order may fail or be executed twice because of it."""
    system = testbed.system
    async with testbed.load("rolling", patient_only=True) as load:
        for member in [*system.coordinators.values(), *system.participants.values()]:
            await asyncio.sleep(_CALM_S)
            testbed.verifier.note("SIGTERM", member.name)
            await member.restart()
            # One restart an order: several in a row could outlast its expiry on a slow machine.
            await load.caught_up()
        await asyncio.sleep(_CALM_S)
        testbed.verifier.note("restart", "postgres")
        await asyncio.to_thread(system.postgres.restart)
        await asyncio.sleep(_CALM_S)
    await testbed.settle("rolling-restart")
    with psycopg.connect(system.postgres.url("coordinator")) as db:
        failed = db.execute(_FAILED).fetchall()
    testbed.verifier.violations += [f"rolling-restart: FAILED_ORDER {row}" for row in failed]
    return {"restarts": len(system.members) + 1, "orders": load.placed, "failed": len(failed)}
