"""The audit chain in the log: written with each action, concurrently, and every tampering is found."""

import asyncio

import psycopg
import pytest

from coordinator.core.audit import AuditEntry
from coordinator.core.errors import VersionChanged
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.schema import HOME
from coordinator.ports.operator_log import AuditFilter, ParticipantRecord
from tcc.admin.v1 import admin_pb2 as apb
from tests.log.transactions import SEARCH_PATH
from tests.support.worker import Running

from .conftest import Stub, operator_context

COUNT = 12


def entry(number: int) -> AuditEntry:
    return AuditEntry(operator="ann", action="participant.pause", target=f"participant/p{number}", reason="r")


async def act_often(log_url: str, count: int = COUNT) -> None:
    """Execute this many actions, from two coordinators at once."""
    logs = [PostgresOperatorLog(OperatorPool(log_url), owner=f"c{number}") for number in range(2)]
    await asyncio.gather(
        *(
            logs[number % 2].participant_change(ParticipantRecord(name=f"p{number}"), entry(number))
            for number in range(count)
        )
    )
    for log in logs:
        await log.close()


async def test_several_coordinators_write_one_chain(log_url: str) -> None:
    await act_often(log_url)
    log = PostgresOperatorLog(OperatorPool(log_url), owner="c")
    records = await log.audit_after(0, 100)
    assert [record.sequence for record in records] == list(range(1, COUNT + 1))
    assert {record.entry.target for record in records} == {f"participant/p{n}" for n in range(COUNT)}
    assert (await log.audit_head()).hash == records[-1].hash
    await log.close()


async def test_what_is_refused_leaves_neither_record_nor_gap(log_url: str) -> None:
    log = PostgresOperatorLog(OperatorPool(log_url), owner="c")
    await log.participant_change(ParticipantRecord(name="p", paused=True), entry(1))
    for version in (0, 7):
        with pytest.raises(VersionChanged):
            await log.participant_change(ParticipantRecord(name="p", version=version), entry(2))
    await log.participant_change(ParticipantRecord(name="p", version=1), entry(3))
    records = await log.audit_list(AuditFilter(), before=None, limit=10)
    assert [(record.sequence, record.entry.target) for record in records] == [
        (2, "participant/p3"),
        (1, "participant/p1"),
    ]
    assert (await log.participant_list())["p"].version == 2
    await log.close()


async def _verify(admin: Stub) -> apb.VerifyAuditChainResponse:
    return await admin.VerifyAuditChain(apb.VerifyAuditChainRequest())


async def test_an_intact_chain_is_reported_as_intact(admin: Stub, log_url: str) -> None:
    assert (await _verify(admin)).intact
    await act_often(log_url)
    verified = await _verify(admin)
    assert (verified.intact, verified.records, verified.head_sequence) == (True, COUNT, COUNT)


@pytest.mark.parametrize(
    ("tampering", "broken_at"),
    [
        ("UPDATE audit SET operator = 'eve' WHERE sequence = 5", 5),
        ("UPDATE audit SET reason = 'other' WHERE sequence = 1", 1),
        ("UPDATE audit SET at_us = at_us + 1 WHERE sequence = 12", 12),
        ("DELETE FROM audit WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence = 12", 12),
        ("DELETE FROM audit", 1),
    ],
)
async def test_tampering_is_found(
    tcc: Running, admin: Stub, log_url: str, tampering: str, broken_at: int
) -> None:
    await act_often(log_url)
    await tcc.worker.auditors[HOME].state_head()
    async with await psycopg.AsyncConnection.connect(
        log_url, autocommit=True, options=SEARCH_PATH
    ) as connection:
        await connection.execute(tampering)
    verified = await _verify(admin)
    assert (verified.intact, verified.broken_at_sequence) == (False, broken_at)
    assert verified.problem


async def test_records_come_in_pages_and_by_filter(admin: Stub, log_url: str) -> None:
    await act_often(log_url)
    await admin.PauseParticipant(
        apb.PauseParticipantRequest(participant="stock", operator_context=operator_context(operator="bob"))
    )
    seen: list[int] = []
    token = ""
    while True:
        page = await admin.ListAuditRecords(apb.ListAuditRecordsRequest(page_size=5, page_token=token))
        seen += [record.sequence for record in page.records]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(range(COUNT + 1, 0, -1))
    (by_bob,) = (await admin.ListAuditRecords(apb.ListAuditRecordsRequest(operator="bob"))).records
    assert (by_bob.action, by_bob.target) == ("participant.pause", "participant/stock")
