"""A row that was durable is not in the log: at first, or for good."""

import asyncio

import pytest

from coordinator.engine import driver, log_writer
from coordinator.engine.observer import Anomaly
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import sql
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant
from tests.support.worker import Running, branch, running, settings_for

EXECUTE = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION)


class Missing:
    """The row of a transaction is hidden while its Try is under way."""

    def __init__(self, tcc: Running, url: str, stock: ScriptedParticipant) -> None:
        self.anomalies: list[Anomaly] = []
        self._reported = asyncio.Event()
        self._url = url
        tcc.worker.monitoring.metrics.alert = self._note
        stock.script = self._script

    def _note(self, kind: Anomaly, _facts: object) -> None:
        self.anomalies.append(kind)
        self._reported.set()

    async def _script(self, call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == common.OPERATION_TRY:
            await sql(self._url, "CREATE TABLE hidden AS SELECT * FROM transactions")
            await sql(self._url, "DELETE FROM transactions")
        return SUCCEEDED

    async def until_reported(self) -> None:
        async with asyncio.timeout(30):
            await self._reported.wait()


async def test_a_row_that_appears_late_is_driven_on(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Citus, if a machine is lost between the two phases of the commit that has begun it."""
    monkeypatch.setattr(log_writer, "REJECTED_RETRY_S", 0.02)
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as tcc:
        missing = Missing(tcc, log_url, stock)
        answer = asyncio.ensure_future(tcc.stub.ExecuteTransaction(EXECUTE))
        await missing.until_reported()
        # Nothing was decided that is not in the log.
        assert stock.heard("g") == ["TRY 1"]
        await sql(log_url, "INSERT INTO transactions SELECT * FROM hidden")
        assert (await answer).outcome.state == common.TRANSACTION_STATE_CONFIRMED
        assert await tcc.state("g") == "CONFIRMED"
    assert set(missing.anomalies) == {Anomaly.ROW_MISSING}
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


async def test_a_row_that_is_missing_for_long_is_given_up(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MISSING_ROW_AWAITED_S", 0.0)
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as tcc:
        missing = Missing(tcc, log_url, stock)
        async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
            await tcc.stub.ExecuteTransaction(EXECUTE)
        assert not tcc.engine.live
    assert missing.anomalies == [Anomaly.ROW_MISSING]
    assert stock.heard("g") == ["TRY 1"]
