"""The incidents of docs/OPERATIONS.md, each prepared for real, with the commands that the guide shows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from coordinator.config.settings import Settings
from coordinator.log.migration import migrate
from proof.faults.scenarios import disk_full
from tcc import Participant
from tcc.barrier.decisions import BarrierState
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support import daemon
from tests.support.errors import refused
from tests.support.guide import steps, walk
from tests.support.ports import free_port
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, serving
from tests.support.small_disk import postgres_on_a_small_disk
from tests.support.worker import Running, branch, running, settings_for, until_health

GUIDE = Path(__file__).parent.parent.parent / "docs" / "OPERATIONS.md"
TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM
# Stuck soon; then the breaker opens, and all is still.
BREAKING = {
    "retry_first_s": 0.05,
    "retry_max_s": 0.2,
    "attempts_before_stuck": 3,
    "breaker_failures": 30,
    "breaker_open_first_s": 600,
    "breaker_open_max_s": 600,
}
# Stuck soon; and then tried so seldom that nothing changes between an operator's look and act.
STUCK_AT = 3
BRISK = {"retry_first_s": 0.05, "retry_max_s": 0.2, "attempts_before_stuck": STUCK_AT}
SELDOM = {"retry_first_s": 36_000, "retry_max_s": 36_000}


def asked_by(address: str) -> dict[str, str]:
    """The environment of an operator."""
    return {"TCCCTL_ADDRESS": address, "TCCCTL_OPERATOR": "ana", "HOME": "/nonexistent", "NO_COLOR": "1"}


async def begin(
    coordinator: Running,
    gid: str,
    *branches: common.BranchSpec,
    wait_for: "pb.WaitFor" = pb.WAIT_FOR_DECISION,
) -> None:
    request = pb.ExecuteTransactionRequest(
        gid=gid, branches=branches, initiator="shop", labels={"region": "eu"}, wait_for=wait_for
    )
    # However long the commands take, what the guide shows as to come is to come.
    request.expiry.FromSeconds(3_600)
    await coordinator.stub.ExecuteTransaction(request, timeout=60)


@contextlib.asynccontextmanager
async def coordinator(
    url: str, participants: Mapping[str, str], policy: Mapping[str, object]
) -> AsyncIterator[Running]:
    """A worker that has these participants, by their addresses."""
    async with running(treated(participants, policy), url) as worker:
        yield worker


def treated(participants: Mapping[str, str], policy: Mapping[str, object]) -> Settings:
    tables = {name: {"target": target} | dict(policy) for name, target in participants.items()}
    return settings_for(tables, admin={"report_every_s": 0.1})


async def walk_at(worker: Running, section: str, **events: Callable[[], Awaitable[None]]) -> None:
    """Follows a section of the guide; the names of events have _ for spaces."""
    address = f"127.0.0.1:{worker.worker.admin_port}"
    named = {name.replace("_", " "): happens for name, happens in events.items()}
    await walk(steps(GUIDE, section), asked_by(address), named)


@pytest.mark.slow
async def test_a_participant_is_down(log_url: str) -> None:
    """It goes after its Trys have succeeded, before anything is decided."""
    stock, coupons, gone = ScriptedParticipant(), ScriptedParticipant(), asyncio.Event()

    async def wait_until_it_is_gone(call: participant_pb2.BranchCall) -> common.CallResult:
        await gone.wait()
        return SUCCEEDED

    coupons.script = wait_until_it_is_gone
    async with contextlib.AsyncExitStack() as again, serving(coupons) as coupon_address:
        up = contextlib.AsyncExitStack()
        address = await up.enter_async_context(serving(stock))

        async def back() -> None:
            await again.enter_async_context(serving(stock, int(address.rpartition(":")[2])))

        participants = {"inventory": address, "coupon": coupon_address}
        async with coordinator(log_url, participants, BREAKING) as worker:
            branches = branch("stock", "inventory"), branch("coupon", "coupon", action="freeze")
            for number in (1, 2, 3):
                await begin(worker, f"order-{number}", *branches, wait_for=pb.WAIT_FOR_ACCEPTED)
            await stock.until(lambda: stock.count(TRY) == 3)
            await up.aclose()
            gone.set()
            await walk_at(worker, "A participant is down", inventory_is_back=back)
        assert stock.count(CONFIRM) == 3


@pytest.mark.slow
async def test_a_confirm_always_fails(log_url: str) -> None:
    stock, decided = ScriptedParticipant(), asyncio.Event()
    failing = "CONFIRM stock"

    async def fail_confirms(call: participant_pb2.BranchCall) -> common.CallResult:
        if (call.gid, call.branch_id, call.operation) == ("order-17", "stock", CONFIRM):
            await decided.wait()
            return failed("SKU_DELETED")
        return SUCCEEDED

    stock.script = fail_confirms
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(stock))
        participants = {"inventory": address, "coupon": address}
        worker = await stack.enter_async_context(coordinator(log_url, participants, BRISK))
        for gid in ("order-17", "order-18"):
            payload = b'{"sku": "A-1", "quantity": 2, "card": {"number": "4111111111111111"}}'
            reserve = branch("stock", "inventory", payload=payload, content_type="application/json")
            await begin(worker, gid, reserve, branch("coupon", "coupon", action="freeze"))
        await worker.settled("order-18")
        decided.set()
        await stock.until(lambda: stock.heard("order-17").count(failing) > STUCK_AT)
        worker.worker.reload(treated(participants, SELDOM), treated(participants, BRISK))
        await walk_at(worker, "A Confirm always fails")
        assert (await worker.settled("order-17")).heuristic


@pytest.mark.slow
async def test_an_initiator_died(log_url: str) -> None:
    stock = ScriptedParticipant()
    async with serving(stock) as address, coordinator(log_url, {"inventory": address}, {}) as worker:
        for number in (1, 2, 3):
            gid = f"order-{number}"
            request = pb.BeginTransactionRequest(gid=gid, initiator="shop", labels={"region": "eu"})
            request.expiry.FromSeconds(3_600)
            await worker.stub.BeginTransaction(request)
            await worker.stub.TryBranch(pb.TryBranchRequest(gid=gid, branch=branch("stock", "inventory")))
        await walk_at(worker, "An initiator died")
        assert stock.count(common.OPERATION_CANCEL) == 3


@pytest.mark.slow
async def test_postgresql_is_full(tmp_path: Path) -> None:
    """Its disk fills up while Trys are under way; they succeed while nothing can be written."""
    if reason := await asyncio.to_thread(disk_full.why_not):
        pytest.skip(reason)
    stock, full = ScriptedParticipant(), asyncio.Event()

    async def wait_until_it_is_full(call: participant_pb2.BranchCall) -> common.CallResult:
        await full.wait()
        return SUCCEEDED

    stock.script = wait_until_it_is_full
    address, operators = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    async with serving(stock) as target, postgres_on_a_small_disk() as disk:
        config = f'[listen]\naddress = "{address}"\n' + daemon_config(target, disk.url, operators)
        async with (
            daemon.serving(tmp_path, config, listen=address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = transaction_pb2_grpc.TransactionServiceStub(channel)

            async def place(gid: str) -> None:
                request = pb.ExecuteTransactionRequest(
                    gid=gid,
                    branches=[branch("stock", "inventory")],
                    initiator="shop",
                    wait_for=pb.WAIT_FOR_ACCEPTED,
                )
                await stub.ExecuteTransaction(request, timeout=60)

            for number in (1, 2, 3):
                await place(f"order-{number}")
            await stock.until(lambda: stock.count(TRY) == 3)

            async def fill() -> None:
                await disk.fill()
                full.set()
                await until_health(channel, health_pb2.HealthCheckResponse.NOT_SERVING)
                async with refused("UNAVAILABLE", "LOG_UNAVAILABLE"):
                    await place("order-4")

            await walk(
                steps(GUIDE, "PostgreSQL is full"),
                asked_by(operators) | {"TCC_METRICS__LISTEN": ""},
                {"its disk is full": fill, "it has room again": disk.extend},
                tmp_path,
            )
            await place("order-4")
    # Nothing was asked for twice, and what was refused was not begun.
    assert all(stock.heard(f"order-{number}") == ["TRY stock", "CONFIRM stock"] for number in (1, 2, 3))
    assert stock.heard("order-4")[0] == "TRY stock"


def daemon_config(stock: str, url: str, admin: str) -> str:
    return f"""
        [log]
        url = "{url}"
        [admin]
        listen = "{admin}"
        report_every_s = 0.1
        [participants.inventory]
        target = "{stock}"
        call_timeout_s = 60
    """


@pytest.mark.slow
async def test_a_coordinator_is_gone(log_url: str, tmp_path: Path) -> None:
    stock = ScriptedParticipant()
    held = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == CONFIRM:
            await held.wait()
        return SUCCEEDED

    stock.script = script
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    operators = f"127.0.0.1:{free_port()}"
    async with serving(stock) as address:
        config = daemon_config(address, log_url, f"127.0.0.1:{free_port()}")
        async with daemon.serving(homes[0], config) as victim:
            async with daemon.stub(victim.address) as stub:
                for number in (1, 2, 3):
                    request = pb.ExecuteTransactionRequest(
                        gid=f"order-{number}", branches=[branch("stock", "inventory")], initiator="shop"
                    )
                    await stub.ExecuteTransaction(request, timeout=60)
            config = daemon_config(address, log_url, operators)
            async with daemon.serving(homes[1], config):

                async def gone() -> None:
                    victim.kill_worker(victim.process.pid)
                    await victim.process.wait()

                async def answering() -> None:
                    held.set()

                await walk(
                    steps(GUIDE, "A coordinator is gone"),
                    asked_by(operators),
                    {"it is killed": gone, "inventory answers": answering},
                )


class Held:
    """Holds stock, one row a reservation, which Confirm and Cancel find by their branch."""

    async def try_(self, branch, request, db):
        await db.execute(text("INSERT INTO held VALUES (:gid, :branch_id)"), branch._asdict())

    async def confirm(self, branch, request, db):
        await self._detach(branch, db)

    async def cancel(self, branch, request, db):
        await self._detach(branch, db)

    async def _detach(self, branch, db):
        gone = await db.execute(text("DELETE FROM held WHERE gid = :gid"), {"gid": branch.gid})
        assert gone.rowcount == 1


@pytest.mark.slow
async def test_an_orphaned_reservation(log_url: str, database_url: str, tmp_path: Path) -> None:
    """One log is lost after a Try; the participant's table is as before a Confirm."""
    migrate(database_url)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'stock.db'}", poolclass=NullPool)
    inventory = Participant("inventory", database=engine)
    inventory.action("reserve", needs_request=False)(Held)

    async def run(*statements: str) -> list[tuple[object, ...]]:
        async with engine.begin() as db:
            for statement in statements:
                result = await db.execute(text(statement))
            return [tuple(row) for row in result.all()] if result.returns_rows else []

    await inventory.create_schema()
    await run("CREATE TABLE held (gid TEXT, branch_id TEXT)")
    address = f"127.0.0.1:{await inventory.start()}"
    settings = settings_for({"inventory": {"target": address}}, reconcile={"every_s": 0, "min_age_s": 0})
    try:
        reserve = branch("stock", "inventory", payload=b"{}")
        async with running(settings, database_url) as lost:
            await lost.stub.BeginTransaction(pb.BeginTransactionRequest(gid="order-7"))
            await lost.stub.TryBranch(pb.TryBranchRequest(gid="order-7", branch=reserve))
        async with running(settings, log_url) as worker:
            await begin(worker, "order-8", reserve, wait_for=pb.WAIT_FOR_COMPLETION)
            assert await run("SELECT gid FROM held") == [("order-7",)]
            await run(
                "INSERT INTO held VALUES ('order-8', 'stock')",
                "UPDATE tcc_barrier SET state = 1 WHERE gid = 'order-8'",
                f"UPDATE tcc_barrier SET updated_at_ms = updated_at_ms - {40 * 60_000}",
                "UPDATE tcc_barrier SET expires_at_ms = updated_at_ms",
            )
            await walk_at(worker, "An orphaned reservation")
        assert await run("SELECT gid FROM held") == []
        assert await run("SELECT gid, state FROM tcc_barrier ORDER BY gid") == [
            ("order-7", BarrierState.CANCELLED),
            ("order-8", BarrierState.CONFIRMED),
        ]
    finally:
        await inventory.stop(0.5)
        await engine.dispose()
