"""The operators' side of the log: answers that are lost, and plans that never read what has ended."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.core.audit import AuditEntry, AuditHead, first_break
from coordinator.core.errors import LogUnavailable
from coordinator.log.operator_statements import COORDINATOR_DRIVING, UNSETTLED_COUNTS, UNSETTLED_OLDEST
from coordinator.log.operator_store import PostgresOperatorLog
from coordinator.log.statements import Statement, list_statement
from coordinator.log.store import PostgresLog
from coordinator.ports import ParticipantRecord

from .transactions import begun, insert

ENTRY = AuditEntry(operator="ann", action="participant.pause", target="participant/p", reason="r")


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresOperatorLog]:
    log = PostgresOperatorLog(log_url, owner="ours")
    yield log
    await log.close()


async def test_an_action_whose_answer_was_lost_is_found_done(
    log: PostgresOperatorLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = log._connections.execute_all

    async def lose_answer(steps: Sequence[tuple[Statement, Mapping[str, Any]]]) -> None:
        assert await really(steps) is None
        raise LogUnavailable("cut while it committed")

    monkeypatch.setattr(log._connections, "execute_all", lose_answer)
    record = await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    assert await log.audit_after(0, 10) == [record]
    assert (await log.participant_list())["p"].version == 1


async def test_an_action_that_never_arrived_is_not_said_to_be_done(
    log: PostgresOperatorLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_request(_steps: object) -> None:
        raise LogUnavailable("cut before it arrived")

    with monkeypatch.context() as patch:
        patch.setattr(log._connections, "execute_all", lose_request)
        with pytest.raises(LogUnavailable):
            await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    assert await log.audit_after(0, 10) == []
    assert await log.participant_list() == {}
    await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)


async def test_what_is_recorded_alone_is_a_link_of_the_chain(log: PostgresOperatorLog) -> None:
    first = await log.audit_append(ENTRY)
    await log.participant_change(ParticipantRecord(name="p", paused=True), ENTRY)
    third = await log.audit_append(ENTRY)
    records = await log.audit_after(0, 10)
    assert (records[0], records[2]) == (first, third)
    assert first_break(AuditHead(), records) is None


async def test_transactions_are_read_in_brief(log: PostgresOperatorLog, log_url: str) -> None:
    store = PostgresLog(log_url, owner="ours", name="here")
    known, _ = await insert(store, begun("a"), begun("b"))
    await store.close()
    read = await log.transaction_brief(["a", "unknown"])
    without_payloads = [replace(branch, spec=replace(branch.spec, payload=b"")) for branch in known.branches]
    assert read.keys() == {"a"}
    assert list(read["a"].branches) == without_payloads
    assert await log.transaction_brief([]) == {}


@pytest.mark.parametrize(
    "statement",
    [
        UNSETTLED_COUNTS,
        UNSETTLED_OLDEST,
        COORDINATOR_DRIVING,
        list_statement(frozenset({"unsettled", "stuck"})),
        list_statement(frozenset({"unsettled", "held", "participants", "created_before"})),
    ],
    ids=lambda statement: statement.name,
)
async def test_what_has_ended_is_not_read_to_find_what_has_not(
    log: PostgresOperatorLog, statement: Statement
) -> None:
    await log.audit_head()  # so that there is a connection with the log's own settings
    (connection,) = log._connections._idle
    numbers = iter(range(1, 100))
    numbered = re.sub("%b", lambda _: f"${next(numbers)}", statement.sql)
    cursor = await connection.execute(f"EXPLAIN (GENERIC_PLAN) {numbered}", prepare=False)
    plan = "\n".join(line for (line,) in await cursor.fetchall())
    assert "Seq Scan on transactions" not in plan, plan
    scans = set(re.findall(r"Index.*Scan.* (?:on|using) (transactions_\w+)", plan))
    assert scans <= {"transactions_owned", "transactions_parked"}, plan
