"""What every round works with: the system, its load, its judge."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proof.faults.load import Load, clients_of
from proof.faults.orders import Warehouse, order_service, orders
from proof.faults.replicated_postgres import ReplicatedPostgres
from proof.faults.system import System, running_system
from proof.faults.verifier import Verifier
from proof.history.events import AnyEvent


@dataclass(kw_only=True)
class Testbed:
    """One system under load; rounds follow each other on it."""

    system: System
    verifier: Verifier
    warehouse: Warehouse
    chance: random.Random
    say: Callable[[str], None]
    # Orders placed, over all rounds.
    placed: int = 0
    # How often a tenant asked for a branch in a transaction of the other.
    intrusions: int = 0
    unanswered: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def load(self, name: str, *, patient_only: bool = False) -> AsyncIterator[Load]:
        """Place orders during the block; those without an answer are violations."""
        async with (
            clients_of(self.system.target, self.system.credentials) as clients,
            order_service(self.system.sqlalchemy_url("order")) as service,
        ):
            load = Load(clients, service, self.verifier.recorder)
            waiting = orders(self.warehouse, name, self.chance, patient_only=patient_only)
            try:
                async with load.running(waiting):
                    yield load
            finally:
                await waiting.aclose()
        self.placed += load.placed
        self.intrusions += load.intrusions
        self.verifier.violations += [f"{name}: UNANSWERED {what}" for what in load.unanswered]
        self.unanswered += load.unanswered

    async def settle(self, name: str, journal: list[AnyEvent] | None = None) -> None:
        """Judges the round that ended, and says so where something is wrong."""
        found = await self.verifier.verify(name, journal or [])
        for what in found:
            self.say(f"VIOLATION {what}")


@asynccontextmanager
async def running_testbed(
    home: Path, chance: random.Random, say: Callable[[str], None], pair: ReplicatedPostgres | None = None
) -> AsyncIterator[Testbed]:
    """A system with everything around it, below `home`. `pair`: see `System`."""
    async with running_system(home, pair) as system:
        warehouse = Warehouse(system.sqlalchemy_url("inventory"), system.sqlalchemy_url("coupon"))
        try:
            yield Testbed(
                system=system, verifier=Verifier(system), warehouse=warehouse, chance=chance, say=say
            )
        finally:
            await warehouse.close()


async def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether the condition held in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
