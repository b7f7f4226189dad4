"""A participant's database: real SQLite in memory, with the SDK's own statements, under the simulated clock.

It survives its participant's deaths. A transaction that is open then is rolled
back, as a server does when a connection dies. What goes wrong: it is slow, it fails
before a commit, and it commits although its answer is an error.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sqlalchemy.exc import OperationalError

from proof.simulate.virtual_loop import Process
from tcc.barrier import sql
from tcc.barrier.block import BlockState
from tcc.barrier.driving import Handler, no_handler
from tcc.barrier.plans import Invoke, Plan, Statement
from tcc.barrier.schema import barrier

T = TypeVar("T")

# Julian days between the origin of that count and the Unix epoch.
_EPOCH_JULIAN_DAY = 2440587.5
_TABLES = """
CREATE TABLE tcc_barrier (
    gid TEXT NOT NULL, branch_id TEXT NOT NULL, action TEXT NOT NULL, state INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL, updated_at_ms INTEGER NOT NULL,
    try_result BLOB, try_result_content_type TEXT, digest BLOB, kind INTEGER, PRIMARY KEY (gid, branch_id));
CREATE TABLE accounts (
    name TEXT PRIMARY KEY, initial INTEGER NOT NULL, available INTEGER NOT NULL,
    reserved INTEGER NOT NULL, taken INTEGER NOT NULL);
CREATE TABLE effects (
    number INTEGER PRIMARY KEY, gid TEXT NOT NULL, branch_id TEXT NOT NULL,
    operation TEXT NOT NULL, account TEXT NOT NULL, quantity INTEGER NOT NULL, kind TEXT NOT NULL);
"""


@dataclass(kw_only=True)
class DatabaseHealth:
    """How a participant's database is now. Chances are for each transaction."""

    delay_s: float = 0.0005
    fails: float = 0.0
    commits_and_fails: float = 0.0


class ParticipantDatabase:
    """The tables of one participant, and the only connection to them."""

    def __init__(
        self,
        host: str,
        rng: random.Random,
        *,
        wall_clock: Callable[[], float],
        accounts: dict[str, int],
        on_commit: Callable[["ParticipantDatabase"], None],
    ) -> None:
        self.host = host
        self.health = DatabaseHealth()
        self.rng = rng
        self.on_commit = on_commit
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        # The only place where the SDK's statements ask for the time.
        self.sqlite.create_function("julianday", 1, lambda _: wall_clock() / 86_400 + _EPOCH_JULIAN_DAY)
        self.sqlite.executescript(_TABLES)
        columns = {name for _, name, *_ in self.sqlite.execute("PRAGMA table_info(tcc_barrier)")}
        assert columns == set(barrier.c.keys()), "the barrier has other columns now"
        self.sqlite.executemany(
            "INSERT INTO accounts VALUES (?1, ?2, ?2, 0, 0)",
            list(accounts.items()),
        )
        self._holder: Process | None = None

    def process_died(self, process: Process) -> None:
        if self._holder is process:
            self.rollback()

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open."""
        return self._holder is not None

    def begin(self, process: Process) -> None:
        self._holder = process
        self.sqlite.execute("BEGIN")

    def commit(self) -> None:
        self.sqlite.execute("COMMIT")
        self._holder = None
        self.on_commit(self)

    def rollback(self) -> None:
        self.sqlite.execute("ROLLBACK")
        self._holder = None


class LocalTransaction:
    """What a handler is given to write its business tables with."""

    def __init__(self, database: ParticipantDatabase) -> None:
        self._database = database

    async def execute(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Return the number of changed rows."""
        await asyncio.sleep(0)
        return self._database.sqlite.execute(statement, parameters).rowcount


class SimulatedBarrierExecutor:
    """In place of `tcc.barrier.executor`'s doors: the same plans, over the simulated connection."""

    is_async = True
    dialect_name = "sqlite"
    # SQLite has one writer at a time.
    connections = 1

    def __init__(self, database: ParticipantDatabase, process: Process) -> None:
        self.sql = sql.statements(self.dialect_name)
        self._database = database
        self._process = process

    async def transact(self, plan: Callable[[], Plan[T]], handler: Handler) -> T:
        database, rng = self._database, self._database.rng
        await self._take_time()
        while database.is_open:  # a local transaction of an initiator's
            await self._take_time()
        database.begin(self._process)
        try:
            outcome = await self._drive(plan(), handler)
            await self._take_time()
            _perhaps_lose_connection(rng, database.health.fails)
        except BaseException:
            database.rollback()
            raise
        database.commit()
        await self._take_time()
        _perhaps_lose_connection(rng, database.health.commits_and_fails)
        return outcome

    async def transact_briefly(self, plan: Callable[[], Plan[T]]) -> T:
        return await self.transact(plan, no_handler)

    def block(self) -> "SimulatedBlock":
        return SimulatedBlock(self, self._database, self._process)

    async def check(self) -> None:
        pass

    async def create_schema(self) -> int:
        return 0

    async def purge(self, *, margin_ms: int, rows_max: int) -> int:
        statement = sql.purge(self.dialect_name)
        parameters = {"margin_ms": margin_ms, "rows_max": rows_max}
        return self._database.sqlite.execute(statement.text, parameters).rowcount

    async def take_time(self) -> None:
        """Wait as long as a statement takes."""
        await self._take_time()

    async def drive(self, plan: Plan[T]) -> T:
        """Run a plan without a handler, in the transaction that is open."""
        return await self._drive(plan, no_handler)

    async def _drive(self, plan: Plan[T], handler: Handler) -> T:
        came: Any = None
        try:
            while True:
                match plan.send(came):
                    case Statement(statement, parameters):
                        came = self._execute(statement, parameters)
                    case Invoke(items=items):
                        await asyncio.sleep(0)
                        came = await handler(items, LocalTransaction(self._database))
        except StopIteration as done:
            return cast("T", done.value)

    def _execute(self, text: str, parameters: dict[str, Any] | list[dict[str, Any]]) -> list[Any]:
        if isinstance(parameters, list):
            self._database.sqlite.executemany(text, parameters)
            return []
        return self._database.sqlite.execute(text, parameters).fetchall()

    async def _take_time(self) -> None:
        await asyncio.sleep(self._database.rng.expovariate(1 / self._database.health.delay_s))


class SimulatedBlock:
    """In place of `tcc.barrier.block.AsyncBlock`: the local transaction of an initiator."""

    is_async = True

    def __init__(
        self, executor: SimulatedBarrierExecutor, database: ParticipantDatabase, process: Process
    ) -> None:
        self._executor = executor
        self._database = database
        self._process = process
        self.state = BlockState.ROLLED_BACK

    async def begin(self, plan: Plan[T]) -> tuple[T, LocalTransaction]:
        await self._executor.take_time()
        while self._database.is_open:
            await self._executor.take_time()
        self._database.begin(self._process)
        self.state = BlockState.OPEN
        try:
            return await self._executor.drive(plan), LocalTransaction(self._database)
        except BaseException:
            await self.roll_back()
            raise

    async def commit(self) -> None:
        health, rng = self._database.health, self._database.rng
        await self._executor.take_time()
        if rng.random() < health.fails:
            await self.roll_back()
            _perhaps_lose_connection(rng, 1.0)
        self._database.commit()
        self.state = BlockState.UNKNOWN
        _perhaps_lose_connection(rng, health.commits_and_fails)
        self.state = BlockState.COMMITTED

    async def roll_back(self) -> None:
        self._database.rollback()
        self.state = BlockState.ROLLED_BACK


def _perhaps_lose_connection(rng: random.Random, chance: float) -> None:
    if rng.random() < chance:
        cause = ConnectionError("the connection to the database is lost")
        raise OperationalError("COMMIT", {}, cause, connection_invalidated=True)
