"""`Participant.once`: a message from outside the coordinator takes effect once, on every database."""

import asyncio
import threading

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc import Participant
from tcc.participant.inbox import inbox_key
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.participant_databases import RECORD


def record(gid):
    return {"gid": gid, "branch_id": "b", "operation": "once"}


async def handle(participant, message_id, error=None) -> bool:
    """Handle a message as a consumer does, and return whether it was the first time."""
    if participant.is_async:
        async with participant.once(message_id) as db:
            if db is not None:
                await db.execute(RECORD, record(message_id))
                if error:
                    raise error
            return db is not None
    with participant.once(message_id) as db:
        if db is not None:
            db.execute(RECORD, record(message_id))
            if error:
                raise error
        return db is not None


@pytest.fixture
async def orders(database):
    participant = Participant("orders", database=database[0], retention_s=86_400)
    await participant.create_schema()
    return participant, database[1]


async def test_a_message_takes_effect_once(orders):
    participant, ledger = orders

    assert [await handle(participant, "m1") for _ in range(3)] == [True, False, False]
    assert await handle(participant, "m2")

    assert [ledger.effects(each) for each in ("m1", "m2")] == [["once"], ["once"]]


async def test_a_failed_message_takes_effect_when_it_comes_again(orders):
    participant, ledger = orders

    with pytest.raises(KeyError):
        await handle(participant, "m1", error=KeyError("odd"))
    assert ledger.effects("m1") == []
    assert ledger.rows() == []

    assert await handle(participant, "m1")
    assert ledger.effects("m1") == ["once"]


async def test_copies_at_the_same_time_wait_for_the_first(orders):
    """One of them is slow: the others must see that it has committed."""
    participant, ledger = orders
    if participant.is_async:
        firsts = await asyncio.gather(*(handle(participant, "m1") for _ in range(4)))
    else:
        firsts, threads = [], []
        for _ in range(4):
            thread = threading.Thread(target=lambda: firsts.append(asyncio.run(handle(participant, "m1"))))
            threads.append(thread)
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    assert sorted(firsts) == [False, False, False, True]
    assert ledger.effects("m1") == ["once"]


async def commit_early(participant) -> None:
    if participant.is_async:
        async with participant.once("m1") as db:
            await db.commit()
    else:
        with participant.once("m1") as db:
            db.commit()


async def test_a_block_cannot_commit(orders):
    participant, ledger = orders
    with pytest.raises(RuntimeError, match="must not call commit"):
        await commit_early(participant)
    assert ledger.rows() == []


async def test_rows_are_purged_by_age_and_are_no_transactions(database, call_participant):
    engine, ledger = database
    participant = Participant("orders", database=engine, retention_s=86_400)
    caller = await call_participant(participant)
    for message_id in ("old", "new"):
        await handle(participant, message_id)
    two_days_ms = 2 * 86_400_000
    ledger.execute(
        f"UPDATE tcc_barrier SET expires_at_ms = expires_at_ms - {two_days_ms}, "
        f"updated_at_ms = updated_at_ms - {two_days_ms} WHERE branch_id = 'orders/old'"
    )

    listed = await caller.stub.ListBranches(pb.ListBranchesRequest(states=[1, 2, 3]))

    assert await participant.purge_once() == 1
    assert ledger.rows() == [("orders/new", 2)]
    assert not listed.rows
    assert [await handle(participant, each) for each in ("old", "new")] == [True, False]


async def test_without_the_table_the_error_names_what_creates_it(database):
    engine, _ = database
    participant = Participant("orders", database=engine)
    form = r"await participant\.create_schema\(\)"
    if not participant.is_async:
        form += r", or asyncio\.run\(participant\.create_schema\(\)\),"
    with pytest.raises(RuntimeError, match=rf"no table tcc_barrier: {form} creates it"):
        await handle(participant, "m1")
    with pytest.raises(RuntimeError, match="no table tcc_barrier"):
        await participant.start()

    await participant.create_schema()
    assert await handle(participant, "m1")


async def test_participants_of_one_database_have_their_own_messages(orders):
    participant, _ = orders
    mail = Participant("mail", database=participant._executor._engine)

    assert [await handle(each, "m1") for each in (participant, mail)] == [True, True]


async def enter_wrongly(participant) -> None:
    if participant.is_async:
        with participant.once("m1"):
            pass
    else:
        async with participant.once("m1"):
            pass


async def test_the_wrong_form_of_block_is_explained(database):
    participant = Participant("orders", database=database[0])
    form = "async with" if isinstance(database[0], AsyncEngine) else "with"
    with pytest.raises(TypeError, match=rf"write: {form} orders\.once\(message_id\) as db"):
        await enter_wrongly(participant)


def test_a_long_id_is_shortened_and_stays_unlike_others():
    key = inbox_key("orders", "x" * 200)

    assert len(key.encode()) <= 128
    assert key != inbox_key("orders", "x" * 201)
    assert inbox_key("orders", "m1") == "orders/m1"


@pytest.mark.parametrize(("message_id", "error"), [(17, TypeError), ("", ValueError), ("a\0", ValueError)])
def test_an_id_that_is_none_is_refused(message_id, error):
    with pytest.raises(error):
        inbox_key("orders", message_id)
