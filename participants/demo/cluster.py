"""The processes of the demo: PostgreSQL, five participants, a coordinator with its workers, two checkouts.

One PostgreSQL server holds a separate database for each of the six.
"""

import asyncio
import json
import os
import signal
import sys
import sysconfig
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import create_async_engine

from participants import redis_server
from participants.child_process import Child, ChildError
from participants.coupon.store import issue
from participants.demo.checkout import ORDERS, READY, RESULTS
from participants.demo.initiator import ORDER, OrderResult
from participants.demo.plan import (
    CHECKOUTS,
    EVENTS,
    REDIS,
    SHIPPING,
    SHOP,
    WORKER,
    PlannedKill,
    PlannedOrder,
)
from participants.inventory.store import restock
from participants.shipping.store import shipment

WORKERS = 2
INVENTORY = "inventory"
COORDINATOR = "coordinator"

# Short, so that an interrupted demo does not wait for transactions that initiators left open.
_DRAIN_S = 2.0

# For the shipments, after all transactions have ended.
_SHIPPED_TIMEOUT_S = 60.0
_SHIPPED_POLL_S = 0.1

_WORKER_LINE = r"worker (\d+) ready"
_LISTENING_LINE = r"listening on (\S+)"
# The order service delays some batches of calls.
_SLOW_ORDER = ("--slow-fraction", "0.05", "--slow-ms", "250")


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A process that was killed, and the time in seconds since the Unix epoch."""

    # A coordinator worker, a checkout, or a participant's name.
    victim: str
    pid: int
    killed_at: float

    @property
    def participant(self) -> str | None:
        """The participant that was killed; None if it was not one."""
        return self.victim if self.victim in SHOP else None


class Checkout:
    """A checkout process, which is asked to place orders."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._results: dict[str, asyncio.Future[OrderResult]] = {}
        self._reading = asyncio.create_task(self._read())
        # Its error is known even if no order waits for it.
        self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())

    async def place(self, order: PlannedOrder) -> OrderResult:
        """Place an order. Raises ChildError if the process ends before it has answered."""
        result: asyncio.Future[OrderResult] = asyncio.get_running_loop().create_future()
        self._results[order.gid] = result
        try:
            await self._child.write(ORDERS.dump_json(order).decode())
            waited_for: set[asyncio.Future[Any]] = {result, self._reading}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                self._reading.result()  # raises
            return result.result()
        finally:
            del self._results[order.gid]

    async def _read(self) -> NoReturn:
        assert await self._child.next_line() == READY
        while True:
            result = RESULTS.validate_json(await self._child.next_line())
            self._results[result.gid].set_result(result)


class Cluster:
    """The running processes. A context manager that starts and stops them."""

    def __init__(self, home: Path, *, ships: bool = False) -> None:
        self._home = home
        # With events and shipping, and the Redis between them, which also has the stock gate.
        self._ships = ships
        self._participants = (*SHOP, EVENTS) if ships else SHOP
        self._children: dict[str, Child] = {}
        self._checkouts: dict[str, Checkout] = {}
        # Set while the checkout serves.
        self._is_open = {name: asyncio.Event() for name in CHECKOUTS}
        self._watches: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._worker_deaths: list[int] = []
        # Participant to HOST:PORT, and the URLs of all databases.
        self._addresses: dict[str, str] = {}
        self.databases: Mapping[str, str] = {}
        # HOST:PORT of the coordinator.
        self.address = ""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def failed(self) -> None:
        """Wait until a process ends unexpectedly, then raise ChildError."""
        await asyncio.shield(self._failed)

    async def seed(self, stock: Mapping[str, int], coupons: tuple[str, ...]) -> None:
        """Put stock into the inventory, and issue coupons."""
        inventory, coupon = (create_async_engine(self.databases[name]) for name in ("inventory", "coupon"))
        try:
            async with inventory.begin() as db:
                await restock(db, "opening", stock)
            async with coupon.begin() as db:
                await issue(db, coupons)
        finally:
            await inventory.dispose()
            await coupon.dispose()

    async def place(self, checkout: str, order: PlannedOrder) -> OrderResult | None:
        """Place an order at a checkout, once that is there. None: it was killed before it answered."""
        await self._is_open[checkout].wait()
        try:
            return await self._checkouts[checkout].place(order)
        except ChildError:
            if self._is_open[checkout].is_set():
                await asyncio.Event().wait()  # it was not killed: `failed` reports it and ends the demo
            return None

    def kill(self, planned: PlannedKill) -> Death:
        """Kill a process with SIGKILL."""
        if planned.victim == WORKER:
            pid = self._kill_worker(planned.draw)
        else:
            pid = self._children[planned.victim].pid
            self._children[planned.victim].kill()
        if planned.victim in CHECKOUTS:
            self._is_open[planned.victim].clear()
        return Death(victim=planned.victim, pid=pid, killed_at=time.time())

    async def is_back(self, death: Death) -> int:
        """Restart a killed process, or wait for a worker's restart; return the new pid when ready."""
        if death.victim == WORKER:
            count = WORKERS + len(self._worker_deaths)
            ready = await self._children[COORDINATOR].lines(_WORKER_LINE, count=count)
            return int(ready[count - 1])
        await self._children[death.victim].stop()
        await self._restart(death.victim)
        return self._children[death.victim].pid

    async def _restart(self, victim: str) -> None:
        if victim in CHECKOUTS:
            await self._start_checkout(victim)
        elif victim == REDIS:
            await self._start_redis()
        elif victim == SHIPPING:
            await self._start_shipping()
        else:
            await self._start_participant(victim)

    async def shipped(self, count: int) -> None:
        """Wait for so many shipments, up to a limit. The audit finds what is missing then."""
        database = create_async_engine(self.databases[SHIPPING])
        deadline = time.monotonic() + _SHIPPED_TIMEOUT_S
        found = 0
        while found < count and time.monotonic() < deadline:
            await asyncio.sleep(_SHIPPED_POLL_S)
            async with database.connect() as db:
                found = await db.scalar(select(func.count()).select_from(shipment)) or 0
        await database.dispose()

    # --- the start ---------------------------------------------------------

    async def _start(self) -> None:
        await self._start_postgres()
        if self._ships:
            await self._start_redis()
        await asyncio.gather(
            *(self._start_participant(name) for name in self._participants),
            *([self._start_shipping()] if self._ships else []),
        )
        await self._start_coordinator()
        await asyncio.gather(*(self._start_checkout(name) for name in CHECKOUTS))

    async def _start_postgres(self) -> None:
        names = [COORDINATOR, *self._participants, *([SHIPPING] if self._ships else [])]
        wanted = [f"--database={name}" for name in names]
        await self._start_child("postgres", _tccd(), "postgres", f"--data-dir={self._home}", *wanted)
        urls = await self._children["postgres"].lines(r"database \S+ at (\S+)", count=len(names))
        # SQLAlchemy and libpq use different schemes; only the coordinator accepts libpq's.
        self.databases = {
            name: url.replace("postgresql://", "postgresql+psycopg://", 1)
            for name, url in zip(names, urls, strict=True)
        }

    async def _start_redis(self) -> None:
        await self._start_child(REDIS, *redis_server.command(self._home, redis_server.DURABLE))
        await self._children[REDIS].lines(redis_server.READY_LINE)

    async def _start_shipping(self) -> None:
        await self._start_child(
            SHIPPING,
            *(sys.executable, "-m", "participants.shipping"),
            *(f"--database={self.databases[SHIPPING]}", f"--redis={self._redis}", "--claim-after-s=2"),
        )
        await self._children[SHIPPING].lines(r"consuming (\S+) .*")

    @property
    def _redis(self) -> str:
        return f"unix://{self._home / 'redis.sock'}"

    async def _start_participant(self, name: str) -> None:
        await self._start_child(
            name,
            *(sys.executable, "-m", f"participants.{name}"),
            f"--listen={self._addresses.get(name, '127.0.0.1:0')}",
            f"--database={self.databases[name]}",
            *(_SLOW_ORDER if name == "order" else ()),
            *((f"--broker={self._redis}",) if name == EVENTS else ()),
            *((f"--redis={self._redis}",) if name == INVENTORY and self._ships else ()),
        )
        [self._addresses[name]] = await self._children[name].lines(_LISTENING_LINE)

    async def _start_coordinator(self) -> None:
        config = self._home / "tcc.toml"
        config.write_text(coordinator_config(self.databases[COORDINATOR], self._addresses))
        await self._start_child(
            COORDINATOR,
            *(_tccd(), "serve", f"--config={config}", f"--workers={WORKERS}", "--listen=127.0.0.1:0"),
        )
        [self.address] = await self._children[COORDINATOR].lines(_LISTENING_LINE)

    async def _start_checkout(self, name: str) -> None:
        await self._start_child(
            name,
            *(sys.executable, "-m", "participants.demo.checkout"),
            *(f"--coordinator={self.address}", f"--database={self.databases[ORDER]}"),
            stdin=PIPE,
        )
        await self._children[name].lines(f"({READY})")
        self._checkouts[name] = Checkout(self._children[name])
        self._is_open[name].set()

    async def _start_child(self, name: str, *command: str | Path, stdin: int = DEVNULL) -> None:
        child = await Child.start(name, *command, log=self._home / f"{name}.log", stdin=stdin)
        self._children[name] = child
        watch = asyncio.create_task(child.watch())
        self._watches.add(watch)
        watch.add_done_callback(self._child_ended)

    def _child_ended(self, watch: asyncio.Task[None]) -> None:
        self._watches.discard(watch)
        error = None if watch.cancelled() else watch.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    # --- the end -----------------------------------------------------------

    def _kill_worker(self, draw: float) -> int:
        started = map(int, self._children[COORDINATOR].said(_WORKER_LINE))
        alive = [pid for pid in started if pid not in self._worker_deaths]
        pid = alive[int(draw * len(alive))]
        os.kill(pid, signal.SIGKILL)
        self._worker_deaths.append(pid)
        return pid

    async def _stop(self) -> None:
        """Stop a caller before the process that it calls, and PostgreSQL last."""
        async with AsyncExitStack() as stops:  # in reverse order, each even if an earlier one fails
            for name in ("postgres", REDIS, SHIPPING, *self._participants, COORDINATOR, *CHECKOUTS):
                if name in self._children:
                    stops.push_async_callback(self._children[name].stop)
        await asyncio.gather(*self._watches)
        if self._failed.done():
            self._failed.exception()  # retrieved here; the caller that awaited `failed` has raised it


def coordinator_config(log_url: str, addresses: Mapping[str, str]) -> str:
    """Return the coordinator's TOML file. JSON strings are valid TOML strings."""
    tables = [f"drain_s = {_DRAIN_S}\n\n[log]\nurl = {json.dumps(log_url)}\n"]
    tables += [
        f"[participants.{name}]\ntarget = {json.dumps(addresses[name])}\n" for name in sorted(addresses)
    ]
    return "\n".join(tables)


def _tccd() -> Path:
    """Return the command that was installed beside this interpreter."""
    command = Path(sysconfig.get_path("scripts")) / "tccd"
    if not command.exists():
        raise ChildError(f"there is no {command}: pip install 'tcc-coordinator[demo]'")
    return command
