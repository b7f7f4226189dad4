"""The log against `ports.Log`, method by method, on real PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.core.model import (
    Branch,
    CancelReason,
    Note,
    Operation,
    TraceContext,
    Transaction,
    TransactionState,
    TryState,
)
from coordinator.log import statements, store
from coordinator.log.statements import (
    ADOPT,
    CLAIM_DUE,
    FIND_UNKNOWN,
    PURGE,
    SAVE_FULL,
    SAVE_PLAIN,
    Statement,
)
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.log import ListFilter, Log
from tests.log.transactions import (
    EXPIRES_AT,
    begun,
    cancelling,
    confirming,
    each_branch,
    ended,
    insert,
    landed,
    parked,
    save,
    sql,
    stored,
)
from tests.support.log_sessions import session
from tests.support.plans import generic_plan


@pytest.fixture
async def ours(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    await log.coordinator_heartbeat(lease_s=60)
    yield log
    await log.close()


@pytest.fixture
async def theirs(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="theirs", name="host:2")
    await log.coordinator_heartbeat(lease_s=60)
    yield log
    await log.close()


async def run_out_lease(url: str, owner: str) -> None:
    await sql(url, "UPDATE coordinators SET lease_until = now() - interval '1 ms' WHERE id = %s", owner)


# --- insert and get ------------------------------------------------------------


async def test_what_is_inserted_is_read_again(ours: PostgresLog) -> None:
    tx = begun(
        "größe-✓",
        initiator="Läden",
        labels=(("a", 'quote " and \\'), ("zone", "ß🎉")),
        interactive=True,
    )
    await insert(ours, tx)
    record = (await ours.transaction_get([tx.gid, "unknown"]))[tx.gid]
    assert record.tx == landed(tx)
    assert record.owner == "ours"
    assert record.created_at > 0
    assert (record.decided_at, record.ended_at) == (None, None)


async def test_the_trace_is_kept_and_nothing_where_there_is_none(ours: PostgresLog, log_url: str) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    contexts = {
        "none": None,
        "bare": TraceContext(traceparent=traceparent),
        "state": TraceContext(traceparent=traceparent, tracestate="shop=1, bank=2"),
    }
    for gid, trace in contexts.items():
        tx = (await insert(ours, begun(gid, trace=trace)))[0]
        await save(ours, ended(await save(ours, confirming(tx))))
    assert {gid: (await stored(ours, gid)).trace for gid in contexts} == contexts
    assert await sql(log_url, "SELECT gid FROM transactions WHERE trace IS NULL") == [("none",)]


async def test_the_span_of_a_failure_is_kept_with_it(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    waiting = parked(await save(ours, confirming(tx)))
    failed = waiting.branches[0]
    note = Note(at=1.0, operation=Operation.CONFIRM, text="IT_FAILED", last_at=1.0)
    failed = replace(failed, notes=(note,), failed_span_id="b7ad6b7169203331")
    await save(ours, replace(waiting, branches=(failed, *waiting.branches[1:])))
    assert (await stored(ours, "a")).branches[0] == failed


async def test_a_repeated_begin_is_recognised_as_our_own(ours: PostgresLog) -> None:
    await insert(ours, begun("a"))
    assert await ours.transaction_begin([begun("b"), begun("a")]) == [None, None]


async def test_a_gid_of_another_coordinator_is_handed_out(ours: PostgresLog, theirs: PostgresLog) -> None:
    await insert(theirs, begun("a"))
    none, other = await ours.transaction_begin([begun("b"), begun("a")])
    assert none is None
    assert other is not None
    assert (other.owner, other.tx.gid, other.tx.fingerprint) == ("theirs", "a", b"a")


async def test_a_repeated_begin_with_other_content_returns_the_existing_one(ours: PostgresLog) -> None:
    await insert(ours, begun("a"))
    (other,) = await ours.transaction_begin([begun("a", fingerprint=b"different")])
    assert other is not None
    assert other.tx.fingerprint == b"a"


async def test_a_gid_twice_in_a_batch_is_inserted_as_it_comes_first(ours: PostgresLog) -> None:
    first, other = begun("a", fingerprint=b"1"), begun("a", fingerprint=b"2")
    none, conflict, repeat = await ours.transaction_begin([first, other, replace(first)])
    assert none is None
    assert repeat is None
    assert conflict is not None
    assert conflict.tx.fingerprint == b"1"


async def test_concurrent_inserts_of_the_same_gids_have_one_winner_each(
    ours: PostgresLog, theirs: PostgresLog
) -> None:
    batch = [begun(f"g{number}") for number in range(50)]
    answers = await asyncio.gather(
        ours.transaction_begin(batch), theirs.transaction_begin(list(reversed(batch)))
    )
    for one, two in zip(answers[0], reversed(answers[1]), strict=True):
        assert (one is None) != (two is None)


async def test_begins_with_parameters_for_each_row_write_the_same(ours: PostgresLog, log_url: str) -> None:
    """As on Citus, which commits arrays of rows in two phases. One statement, and a part of a second one."""
    many = statements.VALUES_MAX + 3
    await insert(ours, *[_any_begun(f"one-{number}", number) for number in range(many)])
    ours.pool._history.is_distributed = True
    different = [_any_begun(f"two-{number}", number) for number in range(many)]
    assert await ours.transaction_begin(different[:2]) == [None, None]
    assert await ours.transaction_begin(different) == [None] * many
    rows = dict(await sql(log_url, "SELECT gid, to_jsonb(t) - 'gid' FROM transactions AS t"))
    assert len(rows) == 2 * many
    for number in range(many):
        one, two = rows[f"one-{number}"], rows[f"two-{number}"]
        for row in (one, two):
            assert row["decided_at"] == (row["created_at"] if number % 2 else None)
            del row["created_at"], row["decided_at"]
        assert one == two


def _any_begun(gid: str, number: int) -> Transaction:
    """Return a new transaction with something in each column, or nothing where a column may have that."""
    return begun(
        gid,
        state=TransactionState.CONFIRMING if number % 2 else TransactionState.TRYING,
        interactive=number % 3 == 0,
        initiator="Läden",
        labels=(("number", str(number)),),
        fingerprint=b"%d" % number,
        trace=TraceContext(traceparent=f"00-{'a' * 32}-{'b' * 16}-01") if number % 5 else None,
        tenant="shop" if number % 7 else "",
    )


async def test_empty_batches_do_nothing(ours: PostgresLog) -> None:
    assert await ours.transaction_begin([]) == []
    assert await ours.transaction_save([]) == []
    assert await ours.transaction_get([]) == {}
    assert await ours.transaction_claim_due({}) == []


async def test_a_megabyte_of_payload(ours: PostgresLog) -> None:
    tx = begun("big")
    spec = replace(tx.branches[0].spec, payload=bytes(range(256)) * 4096)
    tx = replace(tx, branches=(Branch(spec=spec), *tx.branches[1:]))
    (tx,) = await insert(ours, tx)
    tx = await save(ours, confirming(tx))
    assert await stored(ours, "big") == tx


# --- save ------------------------------------------------------------------------


async def test_the_happy_path(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    tx = await save(ours, confirming(tx))
    record = (await ours.transaction_get(["a"]))["a"]
    assert record.tx == tx
    assert record.decided_at is not None
    assert record.ended_at is None
    decided_at = record.decided_at
    tx = await save(ours, ended(tx))
    record = (await ours.transaction_get(["a"]))["a"]
    assert record.tx == tx
    assert record.owner is None
    assert record.decided_at == decided_at
    assert record.ended_at is not None
    assert record.ended_at >= decided_at


async def test_results_and_errors_are_kept(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    first = replace(tx.branches[0], tried=TryState.SUCCEEDED, result=b"\x00id", result_content_type="x/y")
    second = replace(tx.branches[1], tried=TryState.REJECTED, last_error="SOLD_OUT: nothing left")
    tx = replace(
        tx,
        branches=(first, second),
        state=TransactionState.CANCELLING,
        cancel_reason=CancelReason.REJECTED,
        cancel_branch_id="b-coupon",
        cancel_detail="SOLD_OUT",
        cancel_message="nothing left of \N{SNOWMAN}",
    )
    tx = await save(ours, tx)
    assert await stored(ours, "a") == tx
    tx = await save(ours, ended(tx))
    assert await stored(ours, "a") == tx


async def test_results_are_kept_without_any_failure(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    tx = await save(ours, each_branch(confirming(tx), result=b"id", result_content_type="x/y"))
    assert await stored(ours, "a") == tx


async def test_a_branch_that_joins_is_kept_and_later_writes_leave_it(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a", "inventory", interactive=True))
    tx = each_branch(tx, tried=TryState.SUCCEEDED)
    tx = await save(ours, replace(tx, branches=(*tx.branches, *begun("x", "order").branches)))
    assert await stored(ours, "a") == tx
    tx = await save(ours, confirming(tx))
    assert await stored(ours, "a") == tx, "the decision implies progress that the row had otherwise"
    page, _ = await ours.transaction_list(ListFilter(participant="order"), after=None, limit=9)
    assert [record.tx.gid for record in page] == ["a"]


async def test_a_stale_version_is_refused_and_changes_nothing(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    decided = await save(ours, confirming(tx))
    assert await ours.transaction_save([cancelling(tx)]) == [False]
    assert await stored(ours, "a") == decided


async def test_a_stale_version_is_refused_though_its_transition_is_valid(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    repeated = await save(ours, each_branch(tx, attempts=1))
    assert await ours.transaction_save([confirming(tx)]) == [False]
    assert await stored(ours, "a") == repeated


async def test_only_the_owner_saves(ours: PostgresLog, theirs: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    assert await theirs.transaction_save([confirming(tx)]) == [False]
    assert await stored(ours, "a") == tx


async def test_a_batch_with_a_refused_one_writes_the_others(ours: PostgresLog, theirs: PostgresLog) -> None:
    one, two, three = await insert(ours, begun("1"), begun("2"), begun("3"))
    assert await theirs.transaction_take("2", version=1) is not None
    assert await ours.transaction_save([confirming(tx) for tx in (three, two, one)]) == [True, False, True]
    assert (await stored(ours, "2")).state is TransactionState.TRYING


@pytest.mark.parametrize("before", TransactionState)
@pytest.mark.parametrize("after", TransactionState)
async def test_the_database_refuses_invalid_transitions(
    ours: PostgresLog, log_url: str, before: TransactionState, after: TransactionState
) -> None:
    """Whatever a bug requests, a decision never flips, and an ended transaction stays as it is."""
    lawful = {
        (TransactionState.TRYING, TransactionState.CONFIRMING),
        (TransactionState.TRYING, TransactionState.CANCELLING),
        # The decision is at once the end if no branch needs a call for it.
        (TransactionState.TRYING, TransactionState.CONFIRMED),
        (TransactionState.TRYING, TransactionState.CANCELLED),
        (TransactionState.CONFIRMING, TransactionState.CONFIRMED),
        (TransactionState.CANCELLING, TransactionState.CANCELLED),
        *((state, state) for state in TransactionState if not state.ended),
    }
    (tx,) = await insert(ours, begun("a"))
    ended_at = "now()" if before.ended else "NULL"
    await sql(log_url, f"UPDATE transactions SET state = {int(before)}, ended_at = {ended_at}")
    for change in (replace(tx, state=after), replace(tx, state=after, stuck=True)):
        await sql(
            log_url, f"UPDATE transactions SET state = {int(before)}, version = 1, ended_at = {ended_at}"
        )
        assert await ours.transaction_save([change]) == [(before, after) in lawful]


async def test_bad_characters_in_one_row_do_not_fail_the_batch(ours: PostgresLog) -> None:
    odd, plain = await insert(ours, begun("odd"), begun("plain"))
    text = "IT\0BROKE: \ud800 lone"
    odd = replace(
        cancelling(odd),
        cancel_detail=text,
        cancel_message=text,
        cancel_branch_id="b\0",
        branches=(replace(odd.branches[0], last_error=text), *odd.branches[1:]),
    )
    assert await ours.transaction_save([odd, cancelling(plain)]) == [True, True]
    read = await stored(ours, "odd")
    assert read.cancel_detail == read.cancel_message == "IT\N{REPLACEMENT CHARACTER}BROKE: ? lone"
    assert await ours.transaction_save([odd]) == [True], "a repeat is recognised all the same"


# --- parking and claiming ----------------------------------------------------------


async def test_a_parked_transaction_has_no_owner_until_it_is_due(
    ours: PostgresLog, theirs: PostgresLog
) -> None:
    far = await ours.coordinator_heartbeat(lease_s=60) + 3600.123456
    (tx,) = await insert(ours, begun("a"))
    tx = await save(ours, parked(await save(ours, confirming(tx)), until=far))
    record = (await ours.transaction_get(["a"]))["a"]
    assert record.owner is None
    assert record.tx.next_attempt_at == pytest.approx(far, abs=1e-5)
    assert record.tx.branches == tx.branches
    assert await theirs.transaction_claim_due({"inventory": 9, "": 9}) == []
    assert await ours.transaction_save([ended(tx)]) == [False], "not ours any more"


async def test_claiming_takes_what_is_due_within_each_participants_limit(
    ours: PostgresLog, theirs: PostgresLog
) -> None:
    waits = {"inventory": ["i1", "i2", "i3"], "coupon": ["c1"], "order": ["o1", "o2"]}
    for participant, gids in waits.items():
        for next_attempt_at, gid in enumerate(gids, start=1):
            (tx,) = await insert(ours, begun(gid))
            await save(ours, parked(await save(ours, confirming(tx)), until=next_attempt_at, on=participant))
    claimed = await theirs.transaction_claim_due({"inventory": 2, "coupon": 5})
    assert sorted(record.tx.gid for record in claimed) == ["c1", "i1", "i2"], "the longest due first"
    for record in claimed:
        assert record.owner == "theirs"
        assert (record.tx.next_attempt_at, record.tx.waiting_on, record.tx.version) == (0.0, "", 4)
        assert record.tx.branches[0].attempts == 3
        await save(theirs, ended(record.tx))
    assert [r.tx.gid for r in await ours.transaction_claim_due({"inventory": 5})] == ["i3"]


async def test_two_concurrent_claims_do_not_overlap(ours: PostgresLog, theirs: PostgresLog) -> None:
    for tx in await insert(ours, *[begun(f"g{number}") for number in range(100)]):
        await save(ours, parked(await save(ours, confirming(tx))))
    claims = await asyncio.gather(
        *[log.transaction_claim_due({"inventory": 30}) for log in (ours, theirs) for _ in range(3)]
    )
    gids = [record.tx.gid for claim in claims for record in claim]
    assert len(gids) == len(set(gids))
    rest = await ours.transaction_claim_due({"inventory": 100})
    assert len(gids) + len(rest) == 100


async def test_what_is_released_can_be_claimed_at_once(ours: PostgresLog, theirs: PostgresLog) -> None:
    trying, decided = await insert(ours, begun("trying"), begun("decided"))
    decided = await save(ours, confirming(decided))
    assert await ours.transaction_release() == 2
    assert await ours.transaction_release() == 0
    claimed = {record.tx.gid: record.tx for record in await theirs.transaction_claim_due({"": 10})}
    assert claimed["trying"].state is TransactionState.TRYING
    assert claimed["decided"].branches == decided.branches
    assert await ours.transaction_save([confirming(trying)]) == [False]


async def test_a_save_after_our_own_release_does_not_count_as_done(ours: PostgresLog) -> None:
    """The row has our owner and the version that the save would have made, but not its content."""
    (tx,) = await insert(ours, begun("a"))
    await ours.transaction_release()
    assert await ours.transaction_save([confirming(tx)]) == [False]
    assert await ours.transaction_save([tx]) == [False]


async def test_a_save_after_our_own_takeover_does_not_count_as_done(ours: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    assert await ours.transaction_take("a", version=1) is not None
    assert await ours.transaction_save([confirming(tx)]) == [False]


# --- taking and adopting -------------------------------------------------------------


async def test_a_takeover_needs_the_version_of_the_row(ours: PostgresLog, theirs: PostgresLog) -> None:
    (tx,) = await insert(ours, begun("a"))
    assert await theirs.transaction_take("a", version=2) is None
    assert await theirs.transaction_take("unknown", version=1) is None
    taken = await theirs.transaction_take("a", version=1)
    assert taken is not None
    assert (taken.owner, taken.tx.version) == ("theirs", 2)
    assert await ours.transaction_save([confirming(tx)]) == [False]
    await save(theirs, confirming(taken.tx))


async def test_a_parked_transaction_can_be_taken_and_an_ended_one_cannot(
    ours: PostgresLog, theirs: PostgresLog
) -> None:
    (tx,) = await insert(ours, begun("a"))
    tx = await save(ours, parked(await save(ours, confirming(tx)), until=EXPIRES_AT))
    taken = await theirs.transaction_take("a", version=tx.version)
    assert taken is not None
    assert taken.tx.next_attempt_at == 0.0
    tx = await save(theirs, ended(taken.tx))
    assert await ours.transaction_take("a", version=tx.version) is None


async def test_of_two_concurrent_takeovers_one_wins(ours: PostgresLog, theirs: PostgresLog) -> None:
    await insert(ours, *[begun(f"g{number}") for number in range(20)])
    for number in range(20):
        taken = await asyncio.gather(
            *[log.transaction_take(f"g{number}", version=1) for log in (ours, theirs)]
        )
        assert sum(record is not None for record in taken) == 1


async def test_an_adoption_names_the_former_owner(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    await insert(theirs, begun("a"))
    assert (await ours.transaction_get(["a"]))["a"].adopted_from == ""
    await run_out_lease(log_url, "theirs")
    (adopted,) = await ours.transaction_adopt(10)
    assert (adopted.owner, adopted.adopted_from) == ("ours", "theirs")


async def test_adoption_claims_only_transactions_of_dead_coordinators(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    live = await insert(theirs, *[begun(f"g{number}") for number in range(5)])
    await save(theirs, ended(await save(theirs, confirming(live[0]))))
    await save(theirs, parked(await save(theirs, confirming(live[1])), until=EXPIRES_AT))
    await insert(ours, begun("mine"))
    assert await ours.transaction_adopt(10) == []
    await run_out_lease(log_url, "theirs")
    await run_out_lease(log_url, "ours")
    first = await ours.transaction_adopt(2)
    rest = await ours.transaction_adopt(10)
    assert len(first) == 2
    assert sorted(record.tx.gid for record in first + rest) == ["g2", "g3", "g4"]
    assert {record.owner for record in first + rest} == {"ours"}


async def test_a_paused_owner_that_comes_back_finds_its_writes_refused(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    (tx,) = await insert(theirs, begun("a"))
    await run_out_lease(log_url, "theirs")
    (adopted,) = await ours.transaction_adopt(10)
    decided = await save(ours, cancelling(adopted.tx))
    await theirs.coordinator_heartbeat(lease_s=60)
    assert await theirs.transaction_save([confirming(tx)]) == [False]
    assert await stored(theirs, "a") == decided


async def test_transactions_of_a_leaving_coordinator_are_adopted_at_once(
    ours: PostgresLog, theirs: PostgresLog
) -> None:
    await insert(theirs, begun("a"))
    await theirs.coordinator_leave()
    assert [record.tx.gid for record in await ours.transaction_adopt(10)] == ["a"]


async def test_unknown_owners_get_one_lease_and_live_ones_renew_it(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    await insert(ours, begun("a"))
    lost = PostgresLog(LogPool(log_url), owner="lost", name="")
    await insert(lost, begun("b"), begun("c"))
    await insert(theirs, begun("d"))
    await sql(log_url, "DELETE FROM coordinators WHERE id = 'theirs'")
    assert await ours.coordinator_register_unknown(lease_s=60) == 2
    assert await ours.coordinator_register_unknown(lease_s=60) == 0
    assert await ours.transaction_adopt(10) == []
    await run_out_lease(log_url, "lost")
    await run_out_lease(log_url, "theirs")
    await theirs.coordinator_heartbeat(lease_s=60)
    assert [record.tx.gid for record in await ours.transaction_adopt(10)] == ["b", "c"]
    names = await sql(log_url, "SELECT id, name FROM coordinators ORDER BY id")
    assert names == [("lost", "unknown"), ("ours", "host:1"), ("theirs", "host:2")]
    await lost.close()


async def test_a_leaving_coordinator_ends_only_its_own_lease(ours: PostgresLog, theirs: PostgresLog) -> None:
    await insert(ours, begun("a"))
    await theirs.coordinator_leave()
    assert await theirs.transaction_adopt(10) == []


async def test_a_heartbeat_renews_only_the_lease_of_its_sender(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    await insert(ours, begun("a"))
    await insert(theirs, begun("b"))
    await run_out_lease(log_url, "ours")
    await run_out_lease(log_url, "theirs")
    await ours.coordinator_heartbeat(lease_s=60)
    assert await theirs.transaction_adopt(10) == []
    assert [record.tx.gid for record in await ours.transaction_adopt(10)] == ["b"]


async def test_the_heartbeat_returns_the_time_of_the_database(ours: PostgresLog, log_url: str) -> None:
    ((before,),) = await sql(log_url, "SELECT extract(epoch FROM clock_timestamp())::float8")
    told = await ours.coordinator_heartbeat(lease_s=2.5)
    ((after, lease_s),) = await sql(
        log_url,
        """SELECT extract(epoch FROM clock_timestamp())::float8,
                  extract(epoch FROM lease_until - to_timestamp(%s))::float8 FROM coordinators""",
        told,
    )
    assert before <= told <= after
    assert 0 < lease_s <= 2.5


# --- lists -----------------------------------------------------------------------------


async def listed(log: Log, **narrow: Any) -> list[str]:
    page, _ = await log.transaction_list(ListFilter(**narrow), after=None, limit=100)
    return [record.tx.gid for record in page]


async def test_pages_are_stable_where_creation_times_are_equal(ours: PostgresLog) -> None:
    gids = [f"g{number:02}" for number in range(10)]
    await insert(ours, *[begun(gid) for gid in gids])
    seen: list[str] = []
    page, after = await ours.transaction_list(ListFilter(), after=None, limit=3)
    while True:
        seen += [record.tx.gid for record in page]
        if after is None:
            break
        await insert(ours, begun(f"newer{len(seen)}"))
        page, after = await ours.transaction_list(ListFilter(), after=after, limit=3)
    assert seen == sorted(gids, reverse=True)


async def test_a_page_ends_when_its_rows_are_large(
    ours: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read two at a time, and a page has at most the two that exceed the limit."""
    monkeypatch.setattr(store, "_LIST_ROWS", 2)
    monkeypatch.setattr(store, "_LIST_BYTES", 1)
    await insert(ours, *[begun(f"g{number}") for number in range(5)])
    pages: list[list[str]] = []
    after = None
    while not pages or after is not None:
        page, after = await ours.transaction_list(ListFilter(), after=after, limit=100)
        pages.append([record.tx.gid for record in page])
    assert pages == [["g4", "g3"], ["g2", "g1"], ["g0"]]


async def test_pieces_of_a_page_are_one_page(ours: PostgresLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LIST_ROWS", 2)
    await insert(ours, *[begun(f"g{number}") for number in range(5)])
    for limit, expected in ((3, ["g4", "g3", "g2"]), (4, ["g4", "g3", "g2", "g1"])):
        page, after = await ours.transaction_list(ListFilter(), after=None, limit=limit)
        assert [record.tx.gid for record in page] == expected
        assert after is not None
        assert after.gid == expected[-1]
    page, after = await ours.transaction_list(ListFilter(), after=None, limit=5)
    assert (len(page), after) == (5, None)


async def test_quarantined_rows_are_listed(
    ours: PostgresLog, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are held; b and d because they cannot be read. f cannot be read, but no claim has met it yet."""
    monkeypatch.setattr(store, "_LIST_ROWS", 2)
    for tx in await insert(ours, *[begun(gid) for gid in "abcdefg"]):
        if tx.gid in "abcde":
            assert await ours.transaction_quarantine(tx.gid, version=tx.version)
    await sql(log_url, "UPDATE transactions SET branches = '\\x81' WHERE gid IN ('b', 'd', 'f')")
    assert await listed(ours, quarantined=True) == ["d", "b"]
    assert await listed(ours, held=True, quarantined=False) == ["e", "c", "a"]
    assert await listed(ours, quarantined=False) == ["g", "e", "c", "a"]
    page, after = await ours.transaction_list(ListFilter(quarantined=True), after=None, limit=1)
    assert [record.tx.gid for record in page] == ["d"]
    page, after = await ours.transaction_list(ListFilter(quarantined=True), after=after, limit=1)
    assert [record.tx.gid for record in page] == ["b"]
    assert after is None


async def test_the_last_page_has_no_next_position(ours: PostgresLog) -> None:
    await insert(ours, begun("a"), begun("b"))
    page, after = await ours.transaction_list(ListFilter(), after=None, limit=2)
    assert len(page) == 2
    assert after is None


async def test_lists_are_narrowed(ours: PostgresLog) -> None:
    await insert(ours, begun("old", "order", initiator="shop", labels=(("zone", "eu"),)))
    (tx,) = await insert(ours, begun("new", "coupon", initiator="app", labels=(("zone", "us"), ("vip", "1"))))
    created_at = {gid: r.created_at for gid, r in (await ours.transaction_get(["old", "new"])).items()}
    await save(ours, replace(cancelling(tx), stuck=True))
    assert await listed(ours) == ["new", "old"]
    assert await listed(ours, states=(TransactionState.TRYING, TransactionState.CONFIRMED)) == ["old"]
    assert await listed(ours, participant="coupon") == ["new"]
    assert await listed(ours, labels=(("zone", "us"), ("vip", "1"))) == ["new"]
    assert await listed(ours, labels=(("zone", "eu"), ("vip", "1"))) == []
    assert await listed(ours, initiator="shop") == ["old"]
    assert await listed(ours, stuck=True) == ["new"]
    assert await listed(ours, created_after=created_at["old"]) == ["new"]
    assert await listed(ours, created_before=created_at["new"]) == ["old"]
    assert await listed(ours, participant="coupon", initiator="shop") == []


async def test_lists_carry_no_payloads(ours: PostgresLog) -> None:
    await insert(ours, begun("a"))
    (record,), _ = await ours.transaction_list(ListFilter(), after=None, limit=1)
    assert [branch.spec.payload for branch in record.tx.branches] == [b"", b""]
    assert [branch.spec.branch_id for branch in record.tx.branches] == ["b-inventory", "b-coupon"]


# --- purge -----------------------------------------------------------------------------


async def test_purge_is_bounded_oldest_first_and_keeps_unfinished_transactions(
    ours: PostgresLog, log_url: str
) -> None:
    _live, stuck = await insert(ours, begun("live"), begun("stuck"))
    await save(ours, replace(parked(await save(ours, cancelling(stuck))), stuck=True))
    for gid in ("e1", "e2", "e3", "e4"):
        (tx,) = await insert(ours, begun(gid))
        await save(ours, ended(await save(ours, confirming(tx))))
    assert await ours.transaction_purge(ended_before_s=100, limit=10) == 0
    await sql(
        log_url,
        """UPDATE transactions
           SET created_at = created_at - interval '1 h', ended_at = ended_at - interval '1 h'
           WHERE gid <> 'e4'""",
    )
    assert await ours.transaction_purge(ended_before_s=100, limit=2) == 2
    assert sorted(await listed(ours)) == ["e3", "e4", "live", "stuck"]
    assert await ours.transaction_purge(ended_before_s=100, limit=2) == 1
    assert sorted(await listed(ours)) == ["e4", "live", "stuck"]


async def test_purge_deletes_long_dead_coordinators_without_transactions(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    (tx,) = await insert(theirs, begun("a"))
    await sql(log_url, "UPDATE coordinators SET lease_until = now() - interval '2 days' WHERE id = 'theirs'")
    await ours.transaction_purge(ended_before_s=1, limit=1)
    assert await sql(log_url, "SELECT id FROM coordinators ORDER BY id") == [("ours",), ("theirs",)]
    await save(theirs, ended(await save(theirs, confirming(tx))))
    await ours.transaction_purge(ended_before_s=1, limit=1)
    assert await sql(log_url, "SELECT id FROM coordinators") == [("ours",)]


# --- costs ------------------------------------------------------------------------


async def test_decisions_are_heap_only_updates(ours: PostgresLog, log_url: str) -> None:
    """With room in the page, the decision touches no index."""
    transactions = await insert(ours, *[begun(f"g{number}") for number in range(5)])
    await ours.transaction_save([confirming(tx) for tx in transactions])
    await flush_statistics(ours)
    ((updates, hot),) = await sql(
        log_url, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'transactions'"
    )
    assert (updates, hot) == (5, 5)


async def test_adoption_reads_only_transactions_of_dead_coordinators(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    """The cost is independent of live coordinators' transactions: each coordinator checks every second."""
    await insert(theirs, *[begun(f"g{number}") for number in range(200)])
    await ours.transaction_purge(ended_before_s=100, limit=10)
    before = await index_entries_read(log_url, ours, theirs)
    assert await ours.transaction_adopt(10) == []
    await sql(
        log_url,
        """INSERT INTO coordinators (id, name, started_at, lease_until)
           VALUES ('gone', '', now(), now() - interval '2 days')""",
    )
    assert await ours.transaction_adopt(10) == []
    await ours.transaction_purge(ended_before_s=100, limit=10)
    assert await sql(log_url, "SELECT 1 FROM coordinators WHERE id = 'gone'") == []
    assert await index_entries_read(log_url, ours, theirs) == before
    await run_out_lease(log_url, "theirs")
    assert len(await ours.transaction_adopt(10)) == 10
    # Each is found by its owner, and again by its gid.
    assert await index_entries_read(log_url, ours, theirs) == before + 20


async def test_unknown_owners_are_found_by_one_entry_each(
    ours: PostgresLog, theirs: PostgresLog, log_url: str
) -> None:
    for log in (ours, theirs):
        await insert(log, *[begun(f"{number} of {log.name}") for number in range(100)])
    before = await index_entries_read(log_url, ours, theirs)
    assert await ours.coordinator_register_unknown(lease_s=60) == 0
    assert await index_entries_read(log_url, ours, theirs) == before + 2
    plan = await generic_plan(ours._connections, FIND_UNKNOWN)
    assert "Index Only Scan using transactions_owned" in plan, plan


async def flush_statistics(log: PostgresLog) -> None:
    async with session(log._connections) as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")


async def index_entries_read(url: str, *logs: PostgresLog) -> int:
    """The number of index entries of the transactions that these logs made the server read."""
    for log in logs:
        await flush_statistics(log)
    ((count,),) = await sql(
        url, "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = 'transactions'"
    )
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("statement", [SAVE_PLAIN, SAVE_FULL, CLAIM_DUE, ADOPT, PURGE], ids=lambda s: s.name)
async def test_plans_made_for_a_small_table_are_good_for_a_large_one(
    ours: PostgresLog, log_url: str, statement: Statement
) -> None:
    """Rows are looked up by their key one by one, even where the planner could scan the three there are."""
    await insert(ours, begun("a"), begun("b"), begun("c"))
    await sql(log_url, "VACUUM ANALYZE transactions")
    plan = await generic_plan(ours._connections, statement)
    assert ("Index Scan", "transactions_pkey") in re.findall(r"(Index Scan) using (\w+)", plan), plan
    assert "Index Cond: (gid = ANY (ARRAY[" in plan, plan
    assert "Seq Scan on transactions" not in plan, plan


async def test_sqlalchemy_s_form_of_the_url_is_accepted(log_url: str) -> None:
    log: Log = PostgresLog(
        LogPool(log_url.replace("postgresql:", "postgresql+psycopg:")), owner="o", name="n"
    )
    assert await log.coordinator_heartbeat(lease_s=1) > 0
    await log.coordinator_leave()
    assert isinstance(log, PostgresLog)
    await log.close()
