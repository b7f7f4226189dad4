"""Coordinators with different configurations share a log: one that lacks a participant decides nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from msgspec.structs import replace

from coordinator.core.model import TransactionState
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import NULL_OBSERVER
from coordinator.jobs.heartbeat import Heartbeat
from coordinator.jobs.retry import Retry
from coordinator.jobs.settings import RecoverySettings
from coordinator.log.store import LogPool, PostgresLog
from coordinator.participant_client.client import ParticipantClient
from coordinator.ports.log import Record
from tcc.admin.v1 import admin_pb2, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common
from tests.log.transactions import EXPIRES_AT, begun, confirming, insert, parked, save
from tests.support.processes import TIMEOUT_S
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for


@asynccontextmanager
async def left_behind(
    log_url: str, *, state: TransactionState, expires_at: float = EXPIRES_AT
) -> AsyncIterator[PostgresLog]:
    """A transaction of participant stock whose coordinator has died."""
    theirs = PostgresLog(LogPool(log_url), owner="theirs", name="host:2")
    await theirs.coordinator_heartbeat(lease_s=60)
    (tx,) = await insert(theirs, replace(begun("g", "stock"), expires_at=expires_at))
    if state is TransactionState.CONFIRMING:
        await save(theirs, confirming(tx))
    await theirs.coordinator_leave()
    try:
        yield theirs
    finally:
        await theirs.close()


async def until_parked(log: PostgresLog) -> Record:
    """Wait until the transaction is parked. Return its row."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            record = (await log.transaction_get(["g"]))["g"]
            if record.tx.next_attempt_at:
                return record
            await asyncio.sleep(0.005)  # another coordinator sets no event of ours


async def explained(port: int) -> admin_pb2.ExplainTransactionResponse:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        return await stub.ExplainTransaction(admin_pb2.ExplainTransactionRequest(gid="g"))


@pytest.mark.parametrize(
    "state", [TransactionState.TRYING, pytest.param(TransactionState.CONFIRMING, marks=pytest.mark.slow)]
)
async def test_an_unknown_participant_is_left_to_one_that_knows_it(
    log_url: str, state: TransactionState
) -> None:
    stock = ScriptedParticipant()
    async with (
        left_behind(log_url, state=state) as log,
        running(settings_for({}), log_url) as older,
        serving(stock) as address,
    ):
        row = await until_parked(log)
        assert (row.tx.state, row.tx.waiting_on, row.tx.stuck) == (state, "stock", False)
        why = await explained(older.worker.admin_port)
        assert "UNKNOWN_PARTICIPANT" in why.branches[0].last_error
        assert "no live coordinator is configured with participant stock" in why.summary
        async with running(settings_for({"stock": {"target": address}}), log_url) as newer:
            assert (await newer.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    tried = ["TRY b-stock"] if state is TransactionState.TRYING else []
    assert stock.heard("g") == [*tried, "CONFIRM b-stock"]


async def test_an_expired_transaction_is_left_to_one_that_knows_it(log_url: str) -> None:
    stock = ScriptedParticipant()
    async with left_behind(log_url, state=TransactionState.TRYING, expires_at=time.time() - 1) as log:
        async with running(settings_for({}), log_url):
            row = await until_parked(log)
        assert (row.tx.state, row.tx.waiting_on) == (TransactionState.TRYING, "stock")
        async with (
            serving(stock) as address,
            running(settings_for({"stock": {"target": address}}), log_url) as newer,
        ):
            outcome = await newer.settled("g")
    assert outcome.cancel_reason == common.CANCEL_REASON_EXPIRED
    assert stock.heard("g") == ["CANCEL b-stock"]


async def test_what_waits_for_an_unknown_participant_is_claimed_rarely(log_url: str) -> None:
    """If it were claimed whenever it is due, a coordinator that knows the participant would come second."""
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    clock, channels = LogClock(), ParticipantClient({}, result_bytes_max=1)
    engine = Engine(log=log, participants=channels, policies={}, clock=clock)
    often = RecoverySettings(poll_every_s=0.0, unconfigured_every_s=3_600.0)
    await Heartbeat(engine, often, log=log, clock=clock, observer=NULL_OBSERVER).run_once()
    retry = Retry(engine, often, log=log, clock=clock, observer=NULL_OBSERVER)
    claimed: list[int] = []
    for gid in ("a", "b"):
        (tx,) = await insert(log, begun(gid, "stock"))
        await save(log, parked(confirming(tx), until=clock.now() - 60, on="stock"))
        claimed.append(await retry.run_once())
    assert claimed == [1, 0]
    await channels.close()
    await log.close()
