"""`tx.local`: the initiator's own change decides, on every database, sync and async."""

import asyncio
import contextlib

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc import Participant
from tcc.barrier.guarded_connection import GuardedConnection
from tcc.client.outcome import BranchKind, BranchState, TransactionState
from tcc.errors import (
    BranchConflict,
    DecisionConflict,
    LocalAlreadyCommitted,
    LocalCommitUnknown,
    PreconditionFailed,
    TransactionCancelled,
    Unavailable,
)
from tcc.testing import FakeCoordinator
from tests.support.participant_databases import RECORD

ORDER = {"gid": "g", "branch_id": "order", "operation": "local"}


class Shop:
    """An initiator with its own database, sync or async, and a fake coordinator."""

    def __init__(self, engine, ledger) -> None:
        self.fake = FakeCoordinator()
        self.orders = Participant("order", database=engine)
        self.ledger = ledger

    async def buy(self, *, error=None, statement=RECORD, coupon="", **settings):
        """Reserve stock, change the own database, and confirm."""
        if not self.orders.is_async:
            return await asyncio.to_thread(self._buy, error, statement, coupon, settings)
        async with tcc.Client(self.fake) as client, client.transaction(gid="g", **settings) as tx:
            await tx.try_("inventory", "reserve_stock")
            if coupon:
                await tx.try_("coupon", "use_coupon", {"coupon": coupon})
            tx.message("mail", "send_receipt")
            async with tx.local(self.orders) as db:
                await db.execute(statement, ORDER)
                if error:
                    raise error
        return tx.outcome

    def _buy(self, error, statement, coupon, settings):
        with tcc.SyncClient(self.fake) as client, client.transaction(gid="g", **settings) as tx:
            tx.try_("inventory", "reserve_stock")
            if coupon:
                tx.try_("coupon", "use_coupon", {"coupon": coupon})
            tx.message("mail", "send_receipt")
            with tx.local(self.orders) as db:
                db.execute(statement, ORDER)
                if error:
                    raise error
        return tx.outcome

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(call.operation.name, call.participant) for call in self.fake.calls]

    @property
    def state(self) -> TransactionState:
        return self.fake.transaction("g").state


@pytest.fixture
async def shop(database):
    shop = Shop(*database)
    await shop.orders.create_schema()
    return shop


@pytest.fixture
async def small_shop(sqlite):
    shop = Shop(*sqlite)
    await shop.orders.create_schema()
    return shop


RESERVED = ("TRY", "inventory")
ENDED = [RESERVED, ("CONFIRM", "inventory"), ("CONFIRM", "mail")]
ASKED = [RESERVED, ("CHECK", "order"), ("CANCEL", "inventory")]


async def test_the_local_change_commits_and_the_transaction_confirms(shop):
    outcome = await shop.buy()

    assert outcome.confirmed
    assert shop.ledger.effects("g") == ["local"]
    assert shop.ledger.rows() == [("order", 1)]
    assert shop.calls == ENDED
    [_, mail, local] = shop.fake.transaction("g").branches
    assert (mail.kind, local.kind, local.action) == (BranchKind.MESSAGE, BranchKind.SAGA, "local")
    assert (local.check_back, local.state) == (True, BranchState.CONFIRMED)


async def test_an_error_in_the_block_rolls_back_and_cancels(shop):
    with pytest.raises(KeyError):
        await shop.buy(error=KeyError("odd"))

    assert (shop.ledger.effects("g"), shop.ledger.rows()) == ([], [])
    assert shop.state is TransactionState.CANCELLED
    assert shop.calls == ASKED


async def test_a_failed_statement_rolls_back_and_cancels(shop):
    shop.ledger.execute("CREATE TABLE taken (name VARCHAR(8) PRIMARY KEY)")
    shop.ledger.execute("INSERT INTO taken VALUES ('g')")
    with pytest.raises(IntegrityError):
        await shop.buy(statement=text("INSERT INTO taken VALUES (:gid)"))

    assert shop.ledger.rows() == []
    assert shop.state is TransactionState.CANCELLED


async def test_a_local_change_after_the_question_is_refused(shop):
    """The Check has left a tombstone: the change can never commit, and nothing of it is there."""
    outcome = await shop.orders._executor.transact_briefly(
        lambda: shop.orders.local_block("g", "order", 0, b"")[1]
    )
    shop.ledger.execute("UPDATE tcc_barrier SET state = 3, digest = NULL")

    assert outcome.name == "RUN"
    with pytest.raises(PreconditionFailed) as refused:
        await shop.buy()
    assert refused.value.reason == "LOCAL_REFUSED"
    assert "cancelled before its Try arrived" in refused.value.message
    assert shop.ledger.effects("g") == []
    assert shop.state is TransactionState.CANCELLED


async def test_a_second_run_does_not_repeat_the_change_and_confirms(shop):
    """The first run died after its local commit: what it had committed is found."""
    await shop.buy()
    shop.fake = FakeCoordinator()  # which knows nothing of the first run's Confirm

    with pytest.raises(LocalAlreadyCommitted):
        await shop.buy()

    assert shop.ledger.effects("g") == ["local"]
    assert shop.calls == ENDED


async def test_a_run_with_other_branches_is_refused_by_the_row(shop):
    """The row carries what its initiator asked for: another initiator of this gid cannot vouch for it."""
    await shop.buy()
    shop.fake = FakeCoordinator()  # which knows nothing of the first run

    with pytest.raises(PreconditionFailed) as refused:
        await shop.buy(coupon="spring")

    assert refused.value.reason == "LOCAL_REFUSED"
    assert "was tried with another" in refused.value.message
    assert shop.ledger.effects("g") == ["local"]
    assert ("CONFIRM", "inventory") not in shop.calls


async def test_a_second_initiator_with_other_branches_cannot_register(small_shop):
    async with tcc.Client(small_shop.fake) as client:
        first, second = (client.transaction(gid="g") for _ in range(2))
        await first.begin()
        await first.try_("inventory", "reserve_stock")
        await first.try_("coupon", "use_coupon")
        await first.local(small_shop.orders).register()
        await second.begin()
        await second.try_("inventory", "reserve_stock")
        with pytest.raises(BranchConflict):
            await second.local(small_shop.orders).register()
        await first.cancel()


async def test_a_second_run_asks_for_the_same_in_any_order(small_shop):
    async with tcc.Client(small_shop.fake) as client:
        for participants in (("inventory", "coupon"), ("coupon", "inventory")):
            tx = client.transaction(gid="g")
            await tx.begin()
            for participant in participants:
                await tx.try_(participant, "reserve")
            await tx.local(small_shop.orders).register()
        await tx.cancel()


async def test_an_expired_transaction_commits_nothing(small_shop):
    """Its local transaction would commit after the coordinator has begun to ask."""
    with pytest.raises(PreconditionFailed) as refused:
        await small_shop.buy(expiry_s=0.001)
    assert refused.value.reason == "LOCAL_REFUSED"
    assert (small_shop.ledger.effects("g"), small_shop.ledger.rows()) == ([], [])


async def test_a_database_without_transactions_is_refused(small_shop, tmp_path):
    """What it has written could not be rolled back. The participant need not have been started."""
    url = f"sqlite+aiosqlite:///{tmp_path}/autocommit.db"
    engine = create_async_engine(url, connect_args={"isolation_level": None})
    orders = Participant("order", database=engine)
    await orders.create_schema()
    async with tcc.Client(small_shop.fake) as client:
        with pytest.raises(ValueError, match="AUTOCOMMIT"):
            await change_and_raise(client.transaction(gid="g"), orders)
    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        async with orders.once("m"):
            pass

    assert small_shop.state is TransactionState.CANCELLED
    async with engine.connect() as db:
        assert await db.scalar(text("SELECT count(*) FROM tcc_barrier")) == 0
    await engine.dispose()


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_commit_whose_outcome_is_unknown_decides_nothing(shop, monkeypatch, is_committed):
    finish = GuardedConnection.finish

    def lose_connection(guarded):
        if is_committed:
            finish(guarded)
        raise OperationalError("COMMIT", {}, Exception("lost"), connection_invalidated=True)

    monkeypatch.setattr(GuardedConnection, "finish", lose_connection)
    with pytest.raises(LocalCommitUnknown) as unknown:
        await shop.buy()
    monkeypatch.undo()

    assert isinstance(unknown.value.__cause__, OperationalError)
    assert shop.calls == [RESERVED]
    assert shop.state is TransactionState.TRYING
    assert shop.ledger.effects("g") == (["local"] if is_committed else [])


async def test_a_commit_that_the_database_refuses_cancels(small_shop, monkeypatch):
    def refuse(guarded):
        raise OperationalError("COMMIT", {}, Exception("constraint"))

    monkeypatch.setattr(GuardedConnection, "finish", refuse)
    with pytest.raises(OperationalError):
        await small_shop.buy()

    assert small_shop.state is TransactionState.CANCELLED
    assert small_shop.calls == ASKED


# --- after the local commit -------------------------------------------------


async def change_and_raise(tx, orders) -> None:
    async with tx:
        async with tx.local(orders) as db:
            await db.execute(RECORD, ORDER)
        raise KeyError("odd")


async def test_a_local_branch_that_is_not_entered_cancels(small_shop):
    """`async with` was forgotten: without the change, nothing may be confirmed."""
    async with tcc.Client(small_shop.fake) as client:
        tx = client.transaction(gid="g")
        await tx.begin()
        await tx.try_("inventory", "reserve_stock")
        tx.local(small_shop.orders)
        with pytest.raises(PreconditionFailed) as refused:
            await tx.confirm()
    assert refused.value.reason == "LOCAL_BRANCH_NOT_ENTERED"
    assert "async with" in refused.value.message
    assert small_shop.state is TransactionState.CANCELLED


async def test_the_client_does_not_confirm_while_the_local_block_is_open(small_shop):
    """By the gid alone, too: the block may still fail."""
    async with tcc.Client(small_shop.fake) as client:
        with pytest.raises(PreconditionFailed) as refused:
            async with client.transaction(gid="g") as tx, tx.local(small_shop.orders):
                await client.confirm("g")
    assert refused.value.reason == "LOCAL_BRANCH_OPEN"
    assert small_shop.state is TransactionState.CANCELLED


async def test_an_error_after_the_local_commit_confirms(small_shop):
    shop = small_shop
    async with tcc.Client(shop.fake) as client:
        tx = client.transaction(gid="g")
        with pytest.raises(KeyError):
            await change_and_raise(tx, shop.orders)

    assert tx.outcome.confirmed
    assert shop.ledger.effects("g") == ["local"]


async def test_a_cancel_after_the_local_commit_is_refused(small_shop):
    shop = small_shop
    shop.fake.on("order", "local").returns()
    async with tcc.Client(shop.fake) as client, client.transaction(gid="g") as tx:
        async with tx.local(shop.orders) as db:
            await db.execute(RECORD, ORDER)
        with pytest.raises(DecisionConflict):
            await tx.cancel()
    assert shop.state is TransactionState.CONFIRMED


async def swallow(tx, orders, error=None) -> None:
    async with tx:
        with contextlib.suppress(KeyError, LocalCommitUnknown):
            async with tx.local(orders):
                if error:
                    raise error


async def test_a_swallowed_failure_of_the_local_commit_cancels(small_shop):
    shop = small_shop
    async with tcc.Client(shop.fake) as client:
        with pytest.raises(TransactionCancelled):
            await swallow(client.transaction(gid="g"), shop.orders, KeyError("odd"))
    assert shop.ledger.rows() == []


async def test_a_swallowed_unknown_commit_is_not_confirmed(small_shop, monkeypatch):
    shop = small_shop

    def lose_connection(guarded):
        raise OperationalError("COMMIT", {}, Exception("lost"), connection_invalidated=True)

    monkeypatch.setattr(GuardedConnection, "finish", lose_connection)
    async with tcc.Client(shop.fake) as client:
        with pytest.raises(LocalCommitUnknown):
            await swallow(client.transaction(gid="g"), shop.orders)
    assert shop.state is TransactionState.TRYING


# --- mistakes ---------------------------------------------------------------


async def test_a_second_local_branch_and_later_branches_are_refused(small_shop):
    shop = small_shop
    async with tcc.Client(shop.fake) as client, client.transaction(gid="g") as tx:
        async with tx.local(shop.orders) as db:
            await db.execute(RECORD, ORDER)
        with pytest.raises(PreconditionFailed) as second:
            await tx.local(shop.orders).__aenter__()
        with pytest.raises(PreconditionFailed) as message:
            tx.message("mail", "send_receipt")
        with pytest.raises(PreconditionFailed) as tried:
            await tx.try_("inventory", "reserve_stock")
        # A Try that did not join would otherwise cancel a transaction that can only be confirmed.
    assert [each.value.reason for each in (second, message, tried)] == ["LOCAL_BRANCH_REGISTERED"] * 3
    assert tx.outcome.confirmed


async def test_the_decision_waits_for_the_end_of_the_block(small_shop):
    shop = small_shop
    async with tcc.Client(shop.fake) as client, client.transaction(gid="g") as tx, tx.local(shop.orders):
        for decide in (tx.confirm, tx.cancel):
            with pytest.raises(PreconditionFailed) as refused:
                await decide()
            assert refused.value.reason == "LOCAL_BRANCH_OPEN"
    assert tx.outcome.confirmed


async def test_a_local_change_does_not_follow_a_failed_try(small_shop):
    shop = small_shop
    async with tcc.Client(shop.fake) as client, client.transaction(gid="g") as tx:
        with pytest.raises(KeyError):
            async with tx.register("bank", "transfer"):
                raise KeyError("odd")
        with pytest.raises(PreconditionFailed) as refused:
            await tx.local(shop.orders).__aenter__()
        await tx.cancel()
    assert refused.value.reason == "TRY_PENDING"
    assert shop.ledger.rows() == []


async def test_the_wrong_participant_is_explained(small_shop, tmp_path):
    shop = small_shop
    sync_orders = Participant("order", database=create_engine(f"sqlite:///{tmp_path / 'x.db'}"))
    async with tcc.Client(shop.fake) as client, client.transaction(gid="g") as tx:
        with pytest.raises(TypeError, match=r"participant is given as a tcc\.Participant of this process"):
            tx.local("order")
        with pytest.raises(TypeError, match="a Client needs a participant whose database is an AsyncEngine"):
            await tx.local(sync_orders).__aenter__()
        await tx.cancel()


# --- the question -----------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (lambda local: local.returns(), TransactionState.CONFIRMED),
        (lambda local: local.rejects("NOT_TRIED"), TransactionState.CANCELLED),
        (lambda local: local.times_out(), TransactionState.TRYING),
    ],
    ids=["committed", "not tried", "no answer"],
)
async def test_the_fake_asks_at_the_expiry(small_shop, script, state):
    shop = small_shop
    script(shop.fake.on("order", "local"))
    async with tcc.Client(shop.fake) as client:
        tx = client.transaction(gid="g")
        await tx.begin()
        async with tx.local(shop.orders):
            shop.fake.expire("g")
        assert shop.state is state
        if state is TransactionState.TRYING:
            with pytest.raises(Unavailable) as refused:
                await client.cancel("g", timeout_s=0.2)
            assert refused.value.reason == "CHECK_UNANSWERED"
