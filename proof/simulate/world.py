"""A cluster made from a seed, driven through its faults, healed, and judged."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import coordinator.process.worker
from coordinator.config.settings import ListenSettings, Settings
from coordinator.core.model import TransactionState
from coordinator.log.migration import CellPlace
from coordinator.log.rows import record
from coordinator.process.worker import Worker
from proof.history.checker import violations
from proof.history.events import Final, Settled, StockTotals, TransactionState as FinalState
from proof.simulate import business, tenants
from proof.simulate.log_database import LogServer
from proof.simulate.moments import EPOCH_S
from proof.simulate.network import Network
from proof.simulate.observer import Observer, as_read, kind_of
from proof.simulate.orders import Initiator, Order, Shape, make_orders
from proof.simulate.participant_database import ParticipantDatabase
from proof.simulate.virtual_loop import Process, VirtualLoop, context_of, current_process
from tcc.participant.participant import Participant

# Faults stop; then everything has to settle within so much simulated time.
SETTLE_MAX_S = 240.0
# When everything has settled, how long until memories are empty. Longer than any expiry, by
# which a coordinator forgets interactive transactions that others have taken over.
EMPTY_MAX_S = 60.0
# Now and then, so much more for what is minutes late.
LATE_MAX_S = 180.0
# Every so many seeds, each tenant asks for branches in the other's transactions.
_INTRUDED = 4
# Every so many seeds, the log has several cells.
_WITH_CELLS = 4
# There a batch is to have transactions of several cells: commits are slow, and orders come at once.
_COMMIT_OF_CELLS_S = 0.2
_ORDERS_OF_CELLS_S = 2.0
ACCOUNTS = ("a", "bb", "ccc")
# How many participants give odd responses in streams.
ODD_SHARE = 0.3
# What a participant does not implement; one that has two of these alternates, as versions do.
LACKING = (
    *[frozenset[str]()] * 3,
    frozenset({"StreamBranches"}),
    frozenset({"StreamBranches", "ExecuteBranches"}),
)


class Striking(Protocol):
    """The faults of a world while it runs."""

    async def strike(self) -> None: ...

    def heal(self) -> None: ...


class World:
    """Everything of one run. Fields are named for what faults and tests reach for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = VirtualLoop(self._on_error)  # type: ignore[abstract] # the rest is not used
        self.observer = Observer(self.loop.time)
        self.network = Network(self.loop, self.rng, self.observer.note)
        self.network.on_request = self.observer.request_arrived
        self.cells = 2 + seed % 3 if seed % _WITH_CELLS == _WITH_CELLS - 1 else 1
        self.log = LogServer(
            lambda: EPOCH_S + self.loop.time(), self.rng, self.observer.row_changed, cells=self.cells
        )
        if self.cells > 1:
            self.log.health.commit_s = _COMMIT_OF_CELLS_S
        self.observer.log = self.log
        self.broken = self.observer.broken

        rng = self.rng
        self.coordinators = [f"c{number}" for number in range(1, rng.randint(2, 4) + 1)]
        self.participants = [f"p{number}" for number in range(1, rng.randint(2, 4) + 1)]
        self.initiators = [f"i{number}" for number in range(1, rng.randint(1, 3) + 1)]
        self.hosts = dict.fromkeys([*self.coordinators, *self.participants, *self.initiators])
        self.network.names["coordinators"] = [f"{host}:1" for host in self.coordinators]
        self.wall_errors_s = dict.fromkeys(self.hosts, 0.0)
        self.down_s: dict[str, float] = {}
        self.processes: dict[str, Process] = {}
        self.workers: dict[str, Worker] = {}
        self.served: dict[str, Participant] = {}
        self._stopped: dict[str, asyncio.Event] = {}
        self.faults_last_s = rng.choice((5.0, 15.0, 30.0))
        self.settings = _settings(rng, self.participants, cells=self.cells)
        self.businesses = [business.Business(rng) for _ in self.participants]
        self._batched = [rng.random() < 0.5 for _ in self.participants]
        self._lacking = {
            host: [rng.choice(LACKING) for _ in range(rng.choice((1, 1, 2)))] for host in self.participants
        }
        self.network.conditions.odd = {
            host: rng.choice((0.1, 0.5, 1.0)) for host in self.participants if rng.random() < ODD_SHARE
        }
        self._small_queues = rng.random() < 0.3
        self.databases = {
            host: ParticipantDatabase(
                host,
                rng,
                wall_clock=lambda host=host: self._wall_clock_of(host),  # type: ignore[misc] # binds the loop's
                accounts={name: rng.choice((3, 20, 1_000)) for name in ACCOUNTS},
                on_commit=self.observer.committed,
            )
            for host in self.participants
        }
        self.orders = {host: self._orders_of(host) for host in self.initiators}
        self._lives = dict.fromkeys(self.hosts, 0)
        self._finished: dict[str, None] = {}

    def _orders_of(self, host: str) -> list[Order]:
        until_s = self.faults_last_s if self.cells == 1 else _ORDERS_OF_CELLS_S
        orders = make_orders(self.rng, self.participants, list(ACCOUNTS), until_s=until_s)
        for order in orders:
            order.gid = f"{host}-{order.gid}"
        return orders

    # --- clocks --------------------------------------------------------------------------

    def wall_clock(self) -> float:
        """Return the time of the process that calls `time.time`."""
        process = current_process()
        return self._wall_clock_of(process.host) if process else EPOCH_S + self.loop.time()

    def _wall_clock_of(self, host: str) -> float:
        return EPOCH_S + self.loop.time() + self.wall_errors_s[host]

    def monotonic(self) -> float:
        process = current_process()
        return self.loop.time() + (process.monotonic_origin_s if process else 0.0)

    # --- processes -----------------------------------------------------------------------

    def start(self, host: str) -> None:
        """A new life of a host's process."""
        self._lives[host] += 1
        process = Process(self.loop, host, self._lives[host], self.kill)
        process.monotonic_origin_s = self.rng.uniform(0.0, 1e6)
        self.processes[host] = process
        self.observer.fault("start", process.name)
        if host in self.databases:
            main: Coroutine[Any, Any, None] = self._participant(host)
        elif host in self.orders:
            tenant = tenants.tenant_of(host)
            main = Initiator(
                process.name, self.orders[host], self.observer, self.rng, self.databases, tenant=tenant
            ).run()
            if self.seed % _INTRUDED == 0:
                process.spawn(self._intrude(tenant))
        else:
            main = self._coordinator(host)
        process.spawn(main).add_done_callback(lambda task: self._ended(process, task))

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        self.observer.fault("kill", process.name)
        process.kill()
        self.network.process_died(process)
        for database in self.databases.values():
            database.process_died(process)
        if process.host in self.workers and self.rng.random() < 0.5:
            self._supervise(process)
        self._restart_later(process.host)

    def drain(self, process: Process) -> None:
        """Ask a coordinator or a participant to stop gracefully, if it has started."""
        if process.host in self._stopped:
            process.run_soon(self._stopped[process.host].set)
        elif process.host in self.workers:
            process.run_soon(self.workers[process.host].stop)

    def _supervise(self, dead: Process) -> None:
        """The supervisor saw its worker die, and tells the log."""
        supervisor = Process(self.loop, dead.host, dead.life, self.kill)
        supervisor.spawn(
            coordinator.process.worker.end_lease(
                [
                    CellPlace(number=cell, count=self.cells, url="postgresql://simulated")
                    for cell in range(self.cells)
                ],
                self.workers[dead.host].owner,
            )
        )

    def _restart_later(self, host: str) -> None:
        self.loop.call_later(self.down_s.pop(host, 0.5), self.start, host, context=context_of(None))

    async def _intrude(self, tenant: str) -> None:
        """Ask for branches in what the other tenant does step by step."""
        others = [host for host in self.orders if tenants.tenant_of(host) != tenant]
        gids = [
            order.gid
            for host in others
            for order in self.orders[host]
            if order.shape in (Shape.STEPS, Shape.FORGOTTEN)
        ]
        rng = random.Random(f"{tenant} {self.seed}")
        await tenants.intrude(gids, self.participants, rng)

    async def _coordinator(self, host: str) -> None:
        settings = self.settings.model_copy(update={"listen": ListenSettings(address=f"{host}:1")})
        worker = self.workers[host] = Worker(settings, "postgresql://simulated", share_port=True)
        self.observer.fault("owner", host, worker.owner[-12:])
        await worker.run(lambda _port, _owner: None)

    async def _participant(self, host: str) -> None:
        number = self.participants.index(host)
        lacking, stopped = self._lacking[host], asyncio.Event()
        self.network.unimplemented[host] = lacking[self._lives[host] % len(lacking)]
        self._stopped[host] = stopped
        participant = self.served[host] = Participant(
            host,
            database=self.databases[host],  # type: ignore[arg-type] # `seams` opens it
            batch_items_max=5 if self._small_queues else 256,
            waiting_max=8 if self._small_queues else 20_000,
        )
        await business.serve(
            participant,
            self.businesses[number],
            f"{host}:1",
            batched=self._batched[number],
            stopped=stopped,
        )

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        """A process's main function has come to its end: an initiator's work is done, a drained
        coordinator or participant is started again, and anything else is a bug."""
        if not process.alive or task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.broken.append(f"{process.name} died of a bug: {_text(error)}")
        elif process.host in self.orders:
            self._finished[process.host] = None
        else:
            self.observer.fault("left", process.name)
            process.kill()
            self.network.process_died(process)
            self._restart_later(process.host)

    # --- the run -------------------------------------------------------------------------

    def run(self, faults: Striking) -> None:
        """All of it. What went wrong is in `broken`."""
        with self.loop.running():
            for host in self.hosts:
                self.start(host)
            striking = self.loop.create_task(faults.strike())
        self._until(self.faults_last_s)
        with self.loop.running():
            striking.cancel()
            faults.heal()
        if self._comes_true(self._is_settled, SETTLE_MAX_S):
            if self.rng.random() < 0.2:
                self._until(self.loop.time() + LATE_MAX_S)
            if not self._comes_true(lambda: not self._what_is_held(), EMPTY_MAX_S) and not self.broken:
                self.broken.append(f"memories are not empty: {self._what_is_held()}")
            self._record_end()
        elif not self.broken:
            self.broken.append(f"it does not settle: {self._what_is_open()}")
        self.broken += map(str, violations(self.observer.recorder.history))

    def _comes_true(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Goes on until the condition holds or the time is up. A broken promise ends it as well."""
        deadline = self.loop.time() + within_s
        while not condition():
            if self.broken or self.loop.time() >= deadline:
                return False
            self._until(self.loop.time() + 1.0)
        return True

    def _until(self, until_s: float) -> None:
        self.loop.run_until(lambda: bool(self.broken), until_s=until_s)

    def _is_settled(self) -> bool:
        return not self._what_is_open()

    def _what_is_open(self) -> list[str]:
        waiting = [host for host in self.orders if host not in self._finished]
        undone = [
            f"{gid} is {TransactionState(row['state']).name}"
            for gid, row in self.log.transactions.items()
            if not TransactionState(row["state"]).ended
        ]
        return waiting + undone

    def _what_is_held(self) -> list[str]:
        """Return what is left in the memory of coordinators and participants."""
        held = []
        for host in self.coordinators:
            engine = self.workers[host].engine
            dispatchers = [
                name
                for name, dispatcher in engine.dispatchers.items()
                if dispatcher.live or dispatcher.backlog
            ]
            if engine.live or engine.watched or engine.writer.backlog or dispatchers:
                held.append(f"{host}: {[*engine.live, *engine.watched]}, lanes {dispatchers}")
        held += [f"{host}: calls" for host in self.participants if self.served[host].waiting]
        return held

    def _record_end(self) -> None:
        at, recorder = self.loop.time(), self.observer.recorder
        recorder.record(Settled(at=at))
        for gid, row in self.log.transactions.items():
            branches = record(as_read(row)).usable().tx.branches
            recorder.record(
                Final(
                    at=at,
                    gid=gid,
                    state=FinalState(TransactionState(row["state"]).name),
                    branch_ids=tuple([branch.spec.branch_id for branch in branches]),
                    kinds=tuple([kind_of(branch.spec) for branch in branches]),
                )
            )
        for host, database in self.databases.items():
            columns = "sum(initial), sum(available), sum(reserved), sum(taken)"
            ((initial, available, reserved, taken),) = database.sqlite.execute(
                f"SELECT {columns} FROM accounts"
            )
            recorder.record(
                StockTotals(
                    at=at,
                    participant=host,
                    initial=initial,
                    available=available,
                    reserved=reserved,
                    taken=taken,
                )
            )

    def _on_error(self, context: dict[str, Any]) -> None:
        """Record an error that no task handles."""
        error = context.get("exception")
        self.broken.append(f"{context['message']}: {_text(error) if error else context}")


def _settings(rng: random.Random, participants: list[str], *, cells: int) -> Settings:
    """Quick or as they are by default; roomy or so small that queues are full."""
    small = rng.random() < 0.3
    return Settings.model_validate(
        {
            "limits": {"live_max": rng.choice((4, 8, 16)) if small else 20_000},
            "recovery": {"sweep_every_s": rng.choice((0.2, 0.5))},
            "drain_s": rng.choice((0.0, 2.0, 10.0)),
            "log": {"connections": rng.choice((2, 4)) * cells, "cells": cells},
            "participants": {
                name: {
                    "target": f"{name}:1",
                    "batched": rng.random() < 0.85,
                    "call_timeout_s": rng.choice((0.5, 2.0, 5.0)),
                    "retry_max_s": rng.choice((1.0, 5.0, 15.0)),
                    "attempts_before_stuck": rng.choice((2, 10)),
                    "cancel_in_stage_order": rng.random() < 0.3,
                }
                | ({"concurrency_max": 3, "backlog_max": 6, "batch_max": 2} if small else {})
                for name in participants
            },
        }
    )


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_text, error.exceptions))
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" ({at.tb_frame.f_code.co_qualname}:{at.tb_lineno})" if at else ""
    return f"{type(error).__name__}: {error}{where}"
