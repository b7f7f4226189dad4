"""Operators see who holds a lock and who waits for it, by labels and payloads."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from participants.locks.service import locks
from participants.locks.show import table
from participants.locks.store import metadata
from participants.serving import create_schema
from tcc.client.interactive import InteractiveTransaction
from tests.support.processes import run_python
from tests.support.worker import running, settings_for


@pytest.mark.slow
async def test_tccctl_shows_the_holder_of_a_lock_and_its_waiters(log_url: str, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'locks'}")
    await create_schema(engine, metadata)
    async with locks(engine).running() as server:
        participants = {"locks": {"target": f"127.0.0.1:{server.port}", "retry_max_s": 0.2}}
        settings = settings_for(participants, admin={"report_every_s": 0.1})
        async with running(settings, log_url) as coordinator, tcc.Client(coordinator.address) as client:

            async def tccctl(*arguments: str) -> str:
                environment = {
                    "TCCCTL_ADDRESS": f"127.0.0.1:{coordinator.worker.admin_port}",
                    "TCCCTL_OPERATOR": "ana",
                    "HOME": "/nonexistent",
                }
                ended = await run_python("-m", "tccctl", *arguments, environment=environment, one_output=True)
                return ended.out

            def purchase(gid: str) -> InteractiveTransaction:
                return client.transaction(gid=gid, expiry_s=600, timeout_s=600, labels={"lock": "cart-1"})

            wanted = {"keys": ["cart-1"], "wait_ms": 600_000}
            async with purchase("order-7") as first, asyncio.TaskGroup() as tasks:
                await first.try_("locks", "acquire", wanted, branch_id="lock")

                async def second() -> None:
                    async with purchase("order-8") as tx:
                        await tx.try_("locks", "acquire", wanted, branch_id="lock")

                tasks.create_task(second())
                with pytest.raises(tcc.TransactionCancelled):
                    async with purchase("order-9") as third:
                        await third.try_("locks", "acquire", wanted | {"wait_ms": 0}, branch_id="lock")
                assert "LOCKED: 'cart-1' is held by order-7" in await tccctl("tx", "show", "order-9")
                while "order-8" not in (
                    listed := await tccctl("tx", "list", "--filter", "live label.lock=cart-1")
                ):
                    pass
                assert "order-7" in listed
                assert '"keys": ["cart-1"]' in await tccctl("tx", "show", "order-7")
                async with engine.connect() as db:
                    shown = (await table(db, now_ms=0)).splitlines()
                assert [line.split()[:3] + line.split()[-1:] for line in shown[1:]] == [
                    ["cart-1", "exclusive", "holds", "order-7"],
                    ["cart-1", "exclusive", "waits", "order-8"],
                ]
                await first.confirm()
    await engine.dispose()
