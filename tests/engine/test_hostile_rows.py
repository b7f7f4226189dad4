"""Rows that hold anything a column can hold: they are quarantined, and everything else goes on."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from psycopg import sql as psql

from coordinator.api.initiator import replies
from coordinator.core.events import Event
from coordinator.core.machine import step
from coordinator.core.model import Transaction
from coordinator.engine import driver
from coordinator.log.rows import record
from coordinator.log.schema import audit, coordinators, participants, transactions
from coordinator.log.statements import RECORD
from coordinator.log.store import LogPool, PostgresLog
from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.operator.conftest import operators_of, until
from tests.log.transactions import (
    SEARCH_PATH,
    begun,
    cancelling,
    confirming,
    ended,
    insert,
    parked,
    save,
    sql,
)
from tests.support.errors import refused
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.worker import Running, branch, running, settings_for

_DEEP = b"\x91" * 100_000 + b"\x00"
_HUGE = 200_000
_BYTES = (b"", b"\x81", b"\xc1", b"\x90", b"\x93\x01\x02\x03", _DEEP, b"\xff" * _HUGE)
_TEXTS = ("", "\n", "\u202e", "x" * _HUGE)
_NUMBERS_64 = (-(2**63), -1, 0, 2**63 - 1)
_NUMBERS_16 = (-(2**15), -1, 0, 6, 2**15 - 1)
_MOMENTS = ("-infinity", "infinity", "0001-01-01", "1969-12-31", "20000-01-01")
_PROGRESS = msgspec.msgpack.encode
# One branch's progress, as it should be, and by position what it should not.
_GOOD_PROGRESS: list[Any] = [1, b"", "", False, 3, "IT_FAILED", 1.0, 0, "", [], ""]
_BAD_PROGRESS = (
    {0: 9}, {0: "x"}, {1: 5}, {2: b"\xff"}, {3: 7}, {4: -1}, {4: 2**40}, {5: None}, {6: float("nan")},
    {6: float("inf")}, {6: -1.0}, {6: 1e300}, {7: 99}, {9: [[1.0, 9, "", 1, 1.0, False, False]]},
    {9: [[float("nan"), 1, "", 1, 1.0, False, False]]}, {9: [[1.0, 1, "", -1, 1.0, False, False]]}, {10: 4},
)  # fmt: skip
# Each column with everything in it that no coordinator writes.
HOSTILE: dict[str, tuple[Any, ...]] = {
    "version": _NUMBERS_64,
    "state": _NUMBERS_16,
    "owner": _TEXTS,
    "claim": (None, *_TEXTS),
    "interactive": (True,),
    "initiator": _TEXTS,
    "labels": ("[1]", "1", "null", '"x"', '{"a": 1}', '{"a": {"b": []}}', "[" * 3_000 + "]" * 3_000),
    "fingerprint": _BYTES,
    "branches": (*_BYTES, _PROGRESS([["1", "stock", "reserve", "", -1, False, False]]),
                 _PROGRESS([["1", "stock", "reserve", "", 2**40, False, False]]),
                 _PROGRESS([["1", "stock", "reserve", "", 0, False, False]] * 2),
                 _PROGRESS([["1", "stock", "reserve", "", 0, False, False, "new", {"in": "version 9"}]])),
    "payloads": (*_BYTES, _PROGRESS([]), _PROGRESS([b"", b""]), _PROGRESS(["text"])),
    "progress": (None, *_BYTES, _PROGRESS([_GOOD_PROGRESS] * 2), _PROGRESS([[*_GOOD_PROGRESS, "new"]]),
                 *(_PROGRESS([[change.get(n, value) for n, value in enumerate(_GOOD_PROGRESS)]])
                   for change in _BAD_PROGRESS)),
    "participants": ([], ["unknown"], ["x"] * 1_000, [None]),
    "cancel_reason": _NUMBERS_16,
    "cancel_branch_id": _TEXTS,
    "cancel_detail": _TEXTS,
    "cancel_message": _TEXTS,
    "stuck": (True,),
    "waiting_on": ("", "unknown", "x" * 2_000),
    "next_attempt_at": (None, *_MOMENTS),
    "created_at": _MOMENTS,
    "expires_at": _MOMENTS,
    "decided_at": (None, *_MOMENTS),
    "ended_at": _MOMENTS,
    "heuristic": (True,),
    "adopted_at": _MOMENTS,
    "adopted_from": _TEXTS,
    "tenant": ("stranger", "x" * 2_000),
    "trace": ("", "00-zz", f"00-{'a' * 32}-{'b' * 16}-zz", "x" * 2_000),
}  # fmt: skip
_NEVER_HOSTILE = {"gid"}


def test_every_column_of_the_transactions_is_hostile_in_turn() -> None:
    assert HOSTILE.keys() | _NEVER_HOSTILE == set(transactions.c.keys())


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="dead", name="host:1")
    yield log
    await log.close()


_COPY = """
    INSERT INTO transactions SELECT (jsonb_populate_record(t, jsonb_build_object('gid', %s::text))).*
    FROM transactions t WHERE gid = %s
"""


async def _add_hostile_rows(url: str, original: str, values_max: int = 100) -> list[str]:
    """Copy a row once for each hostile value of each column, or for the first few."""
    gids: list[str] = []
    async with await psycopg.AsyncConnection.connect(url, options=SEARCH_PATH) as db:
        for column, values in HOSTILE.items():
            update = psql.SQL("UPDATE transactions SET {} = %s WHERE gid = %s").format(
                psql.Identifier(column)
            )
            for number, value in enumerate(values[:values_max]):
                gid = f"{original}-{column}-{number}"
                await db.execute(_COPY, (gid, original))
                await db.execute(update, (value, gid))
                gids.append(gid)
    return gids


async def _pages(stub: admin_pb2_grpc.AdminServiceStub) -> list[common.Transaction]:
    found: list[common.Transaction] = []
    token = ""
    while True:
        page = await stub.SearchTransactions(apb.SearchTransactionsRequest(page_size=100, page_token=token))
        found += page.transactions
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.not_on_citus("it sends on a wrong statement for one of the test")
async def test_hostile_rows_are_quarantined_and_all_others_go_on(
    log_url: str, log: PostgresLog, stock: ScriptedParticipant
) -> None:
    """Start, recovery, adoption, lists, inspection, purge: one coordinator over every hostile row."""
    await log.coordinator_heartbeat(lease_s=0.0)
    due, old, *_ = await insert(log, *(begun(gid, "stock") for gid in ("due", "old", "left", "good")))
    await save(log, parked(await save(log, confirming(due)), on="stock"))
    await save(log, ended(await save(log, cancelling(old))))
    hostile = await _add_hostile_rows(log_url, "due")
    hostile += await _add_hostile_rows(log_url, "left", values_max=2)
    hostile += await _add_hostile_rows(log_url, "old", values_max=2)
    table = settings_for({"stock": {"target": stock.address}})
    async with running(table, log_url) as worker, _admin(worker) as stub:
        for gid in ("due", "left", "good"):
            assert (await worker.settled(gid)).state in {
                common.TRANSACTION_STATE_CONFIRMED,
                common.TRANSACTION_STATE_CANCELLED,
            }
        reply = await worker.stub.ExecuteTransaction(
            pb.ExecuteTransactionRequest(gid="new", branches=[branch("1")]), timeout=60
        )
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING
        shown = {tx.gid: tx for tx in await _pages(stub)}
        assert set(hostile) - shown.keys() == set()
        for gid in hostile:
            reply = await stub.InspectTransaction(apb.InspectTransactionRequest(gid=gid))
            # A list reads no payloads.
            assert reply.transaction.quarantine_reason or not shown[gid].quarantine_reason
            await stub.ExplainTransaction(apb.ExplainTransactionRequest(gid=gid))
        assert shown["due-progress-2"].quarantine_reason.startswith("ValidationError")
        await stub.GetStats(apb.GetStatsRequest())
        await log.transaction_purge(ended_before_s=0.0, limit=10_000)
        left_over = {tx.gid for tx in await _pages(stub)}
        assert {gid for gid, tx in shown.items() if tx.held and not tx.HasField("ended_at")} <= left_over


async def test_a_repaired_row_is_taken_up_again_when_it_is_released(
    log_url: str, log: PostgresLog, stock: ScriptedParticipant
) -> None:
    (tx,) = await insert(log, begun("g", "stock"))
    await save(log, parked(await save(log, confirming(tx)), on="stock"))
    await sql(log_url, r"UPDATE transactions SET progress = '\x81'")
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        async with refused("FAILED_PRECONDITION", "TRANSACTION_QUARANTINED") as refusal:
            await worker.settled("g")
        assert "ValidationError" in refusal.error.details()
        async with _admin(worker) as stub:
            await until(lambda: _is_held(stub))
            context = apb.OperatorContext(
                operator="ann", reason="repaired", version=(await _read(stub)).version
            )
            release = apb.ReleaseTransactionRequest(gid="g", operator_context=context)
            async with refused("FAILED_PRECONDITION", "TRANSACTION_QUARANTINED"):
                await stub.ReleaseTransaction(release)
            await sql(log_url, "UPDATE transactions SET progress = NULL")
            await stub.ReleaseTransaction(release)
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


@pytest.mark.not_on_citus("it refuses triggers")
async def test_a_row_that_the_database_cannot_return_delays_no_other(
    log_url: str, log: PostgresLog, stock: ScriptedParticipant
) -> None:
    """As if it were damaged on disk: every UPDATE of it fails, so that it cannot even be held."""
    for tx in await insert(log, *(begun(gid, "stock") for gid in ("a", "bad", "c"))):
        await save(log, parked(await save(log, confirming(tx)), on="stock"))
    await sql(
        log_url,
        """
        CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.gid = 'bad' THEN RAISE EXCEPTION 'damaged' USING ERRCODE = 'XX001'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER reject BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION reject();
        """,
    )
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        for gid in ("a", "c"):
            assert (await worker.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
        assert await worker.state("bad") == "CONFIRMING"
        await sql(log_url, "DROP TRIGGER reject ON transactions")
        assert (await worker.settled("bad")).state == common.TRANSACTION_STATE_CONFIRMED


@pytest.mark.not_on_citus("it refuses triggers")
async def test_a_row_that_cannot_be_deleted_delays_no_other(log_url: str, log: PostgresLog) -> None:
    for tx in await insert(log, *(begun(gid) for gid in ("a", "bad", "c"))):
        await save(log, ended(await save(log, cancelling(tx))))
    await sql(
        log_url,
        """
        CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.gid = 'bad' THEN RAISE EXCEPTION 'damaged' USING ERRCODE = 'XX001'; END IF;
            RETURN OLD;
        END $$;
        CREATE TRIGGER reject BEFORE DELETE ON transactions FOR EACH ROW EXECUTE FUNCTION reject();
        """,
    )
    assert await log.transaction_purge(ended_before_s=0.0, limit=10) == 2
    assert await sql(log_url, "SELECT gid FROM transactions") == [("bad",)]


async def test_a_transaction_that_meets_a_bug_of_ours_delays_no_other(
    log_url: str, log: PostgresLog, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_bug(tx: Transaction, event: Event, now: float) -> Any:
        assert tx.gid != "bad", "a bug"
        return step(tx, event, now)

    monkeypatch.setattr(driver, "step", with_a_bug)
    for tx in await insert(log, *(begun(gid, "stock") for gid in ("a", "bad", "c"))):
        await save(log, parked(await save(log, confirming(tx)), on="stock"))
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        for gid in ("a", "c"):
            assert (await worker.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
        async with _admin(worker) as stub:
            await until(lambda: _is_held(stub, "bad"))


# What the tables of operators can hold, by table and column.
HOSTILE_OF_OPERATORS: dict[str, dict[str, tuple[Any, ...]]] = {
    "coordinators": {
        "name": _TEXTS,
        "started_at": _MOMENTS,
        "lease_until": _MOMENTS,
        "drain_requested_at": (None, *_MOMENTS),
        "report": (
            None,
            *_BYTES,
            b"[1]",
            b'{"live": -1}',
            b'{"live": 1e300}',
            b'{"live": 99999999999999999999}',
            b'{"participants": {"stock": {"probe_at": 1e300, "last_error_at": -1e300}}}',
            b'{"from": {"version": 9}}',
        ),
        "reported_at": (None, *_MOMENTS),
    },
    "participants": {
        "version": _NUMBERS_64,
        "paused": (True,),
        "breaker_resets": _NUMBERS_64,
        "operator": _TEXTS,
        "reason": _TEXTS,
        "changed_at": _MOMENTS,
    },
    "audit": {
        "at_us": _NUMBERS_64,
        "operator": _TEXTS,
        "action": _TEXTS,
        "reason": _TEXTS,
        "detail": (*_TEXTS, "[]", '{"outcome": 5, "branch_id": {}}', "[" * 3_000),
        "previous_hash": _BYTES,
        "hash": _BYTES,
        "on_behalf_of": _TEXTS,
        "method": _TEXTS,
        "peer": _TEXTS,
        "credential": _TEXTS,
        "role": _TEXTS,
    },
}
_KEYS = {"coordinators": "id", "participants": "name", "audit": "sequence"}


def test_every_column_of_operators_is_hostile_in_turn() -> None:
    for table in (coordinators, participants, audit):
        keys = {_KEYS[table.name], *({"target"} if table is audit else ())}
        assert HOSTILE_OF_OPERATORS[table.name].keys() | keys == set(table.c.keys())


async def test_hostile_rows_of_operators_are_shown_and_end_nothing(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async with await psycopg.AsyncConnection.connect(log_url, autocommit=True, options=SEARCH_PATH) as db:
        number = 0
        for table, columns in HOSTILE_OF_OPERATORS.items():
            for column, values in columns.items():
                for value in values:
                    number += 1
                    await db.execute(_OPERATORS_ROWS[table], (number,))
                    update = psql.SQL("UPDATE {} SET {} = %s WHERE {} = %s::text::{}").format(
                        psql.SQL(table),
                        psql.Identifier(column),
                        psql.Identifier(_KEYS[table]),
                        psql.SQL("bigint" if table == "audit" else "text"),
                    )
                    await db.execute(update, (value, number))
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        reply = await worker.stub.ExecuteTransaction(
            pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")]), timeout=60
        )
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING
        async with _admin(worker) as stub:
            listed = await stub.ListCoordinators(apb.ListCoordinatorsRequest())
            # Those whose lease ended long ago are forgotten: three of the moments. One more is alive.
            hostile = sum(map(len, HOSTILE_OF_OPERATORS["coordinators"].values()))
            assert len(listed.coordinators) in {hostile + 1, hostile - 3 + 1}
            await stub.ListParticipants(apb.ListParticipantsRequest())
            await stub.GetStats(apb.GetStatsRequest())
            records = await stub.ListAuditRecords(apb.ListAuditRecordsRequest(page_size=500))
            assert len(records.records) == sum(map(len, HOSTILE_OF_OPERATORS["audit"].values()))
            await stub.InspectTransaction(apb.InspectTransactionRequest(gid="g"))


_OPERATORS_ROWS = {
    "coordinators": """INSERT INTO coordinators (id, name, started_at, lease_until)
        VALUES (%s, 'x', now(), now())""",
    "participants": """INSERT INTO participants
        (name, version, paused, breaker_resets, operator, reason, changed_at)
        VALUES (%s, 1, false, 0, 'ann', 'a test', now())""",
    "audit": """INSERT INTO audit
        (sequence, at_us, operator, action, target, reason, detail, previous_hash, hash)
        VALUES (%s, 1, 'ann', 'transaction.hold', 'transaction/g', 'a test', '{}', '', '')""",
}


# --- generated rows -----------------------------------------------------------

_numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 7))
_packed = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=40,
).map(_PROGRESS)
_blobs = st.one_of(st.binary(max_size=60), _packed)
_floats = st.floats(allow_nan=False)
_COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "gid": st.text(min_size=1, max_size=9),
    "version": _numbers,
    "state": st.integers(-(2**15), 2**15 - 1) | st.integers(0, 6),
    "owner": st.text(max_size=5),
    "interactive": st.booleans(),
    "initiator": st.text(max_size=5),
    "labels": st.sampled_from(("{}", '{"a": "b"}', "[]", "3", '{"a": 1}')),
    "fingerprint": st.binary(max_size=5),
    "branches": _blobs,
    "payloads": st.none() | _blobs,
    "progress": st.none() | _blobs,
    "cancel_reason": st.integers(-(2**15), 2**15 - 1) | st.integers(0, 5),
    "cancel_branch_id": st.text(max_size=5),
    "cancel_detail": st.text(max_size=5),
    "cancel_message": st.text(max_size=5),
    "stuck": st.booleans(),
    "waiting_on": st.text(max_size=5),
    "next_attempt_at": st.none() | _floats,
    "created_at": _floats,
    "expires_at": _floats,
    "decided_at": st.none() | _floats,
    "ended_at": st.none() | _floats,
    "adopted_from": st.none() | st.text(max_size=5),
    "trace": st.none() | st.text(max_size=60),
    "tenant": st.text(max_size=60),
}


@hypothesis_settings(max_examples=50)
@given(st.fixed_dictionaries(_COLUMNS))
def test_any_row_becomes_a_record_that_can_be_shown(row: dict[str, Any]) -> None:
    assert row.keys() == RECORD.keys()
    found = record(tuple(row[name] for name in RECORD))
    shown = replies.transaction(found, with_payloads=True)
    assert (shown.gid, shown.quarantine_reason) == (row["gid"], found.quarantined)
    assert len(shown.SerializeToString()) > 0


def _admin(worker: Running) -> AbstractAsyncContextManager[admin_pb2_grpc.AdminServiceStub]:
    return operators_of(worker)


async def _read(stub: admin_pb2_grpc.AdminServiceStub, gid: str = "g") -> common.Transaction:
    return (await stub.InspectTransaction(apb.InspectTransactionRequest(gid=gid))).transaction


async def _is_held(stub: admin_pb2_grpc.AdminServiceStub, gid: str = "g") -> bool:
    return (await _read(stub, gid)).held
