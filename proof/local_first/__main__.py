"""Kill initiators at each step of local first, and print what was decided.

The last line of standard output is one JSON object. The exit status is 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

# Servers are started while gRPC runs here, and its fork handlers crash the child now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Connections that end are what this is about.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from msgspec import json as msgspec_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import tcc
from coordinator.embedded_postgres.server import EmbeddedPostgres
from participants.child_process import Child
from proof.local_first.initiator import COMMIT_S, SLOW, Command
from proof.local_first.matrix import ASKED, End, Return, Step, expected, table
from tcc.client.outcome import TransactionRecord, TransactionState

_CELLS = [(step, back) for step in Step for back in Return]
# The number of initiators that start at once: none is to be late because of the others.
_STARTING_MAX = 6
_POLL_S = 0.1
_CELL_TIMEOUT_S = 150.0
_SCHEMA = f"""
    CREATE TABLE orders (gid text PRIMARY KEY, note text NOT NULL);
    CREATE TABLE stock (gid text PRIMARY KEY, state text NOT NULL);
    CREATE TABLE delivered (gid text NOT NULL);
    CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_sleep({COMMIT_S}); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.note = '{SLOW}') EXECUTE FUNCTION commit_slowly();
    """
_POLICY = """attempts_before_stuck = 3
retry_first_s = 0.05
retry_max_s = 0.5
breaker_open_first_s = 0.05
breaker_open_max_s = 0.2
"""
_CONFIG = """[listen]
address = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[metrics]
listen = ""
[recovery]
poll_every_s = 0.2
"""


def main() -> int:
    """Run the matrix; return 1 if a cell ended wrongly."""
    argparse.ArgumentParser(prog="python -m proof.local_first", description=__doc__).parse_args()
    started = time.monotonic()
    ends = asyncio.run(_run())
    wrong = [
        f"killed {step}, {back}: {end}"
        for (step, back), end in ends.items()
        if end not in expected(step, back)
    ]
    print(table((step, back, end) for (step, back), end in ends.items()))
    for what in wrong:
        print(f"VIOLATION {what}", file=sys.stderr)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"cells": len(ends), "violations": len(wrong), "seconds": seconds}), flush=True)
    return 1 if wrong or len(ends) != len(_CELLS) else 0


async def _run() -> dict[tuple[Step, Return], End]:
    with tempfile.TemporaryDirectory(prefix="tcc-local-") as home:
        async with _running(Path(home)) as matrix:
            ends = await asyncio.gather(*(matrix.cell(step, back) for step, back in _CELLS))
    return dict(zip(_CELLS, ends, strict=True))


class Matrix:
    """The running system, with a cell for each step and return. Made by `_running`."""

    def __init__(self, home: Path, database: AsyncEngine, client: tcc.Client, initiators: Child) -> None:
        self._home = home
        self._database = database
        self._client = client
        self._initiators = initiators
        self._starting = asyncio.Semaphore(_STARTING_MAX)
        self._reports: dict[str, asyncio.Queue[str]] = {name_of(*cell): asyncio.Queue() for cell in _CELLS}

    async def read(self) -> None:
        """Give each report of the initiators to its cell."""
        while True:
            what, name, *_ = (line := await self._initiators.next_line()).split()
            self._reports[name].put_nowait(line if what == "ended" else what)

    async def cell(self, step: Step, back: Return) -> End:
        """Kill an initiator at a step; return how its transaction has ended."""
        name = name_of(step, back)
        async with asyncio.timeout(_CELL_TIMEOUT_S):
            async with self._starting:
                await self._start(Command(name, address_of(self._home, name), name, step))
                if step in ASKED:
                    await self._hear(name, "waiting")
                else:
                    await self._hear(name, f"ended {name} -9")
            if step in ASKED:
                await self._hear(name, f"ended {name} -9")
            if back is Return.LATE:
                await self._until_asked_in_vain(name)
            if back is not Return.NEVER:
                await self._start(Command(name, address_of(self._home, name)))
            record = await self._until_ended(name)
        return await self._end(record)

    async def _start(self, command: Command) -> None:
        await self._initiators.write(msgspec_json.encode(command).decode())

    async def _hear(self, name: str, wanted: str) -> None:
        heard = await self._reports[name].get()
        assert heard == wanted, f"{name}: {heard}, not {wanted}"

    async def _until_asked_in_vain(self, name: str) -> None:
        """Wait until the coordinator has asked the dead process, or has decided without it."""
        record = await self._client.get(name)
        while record.state is TransactionState.TRYING and not any(
            branch.check_back and branch.last_error for branch in record.branches
        ):
            await asyncio.sleep(_POLL_S)
            record = await self._client.get(name)

    async def _until_ended(self, name: str) -> TransactionRecord:
        """Wait until the transaction has ended, or waits for an operator because it is stuck."""
        record = await self._client.get(name)
        while record.ended_at is None and not (record.stuck and name.endswith(Return.NEVER.name)):
            await asyncio.sleep(_POLL_S)
            record = await self._client.get(name)
        return record

    async def _end(self, record: TransactionRecord) -> End:
        gid = {"gid": record.gid}
        async with self._database.connect() as db:
            orders = await db.scalar(text("SELECT count(*) FROM orders WHERE gid = :gid"), gid)
            stock = await db.scalar(text("SELECT state FROM stock WHERE gid = :gid"), gid)
            delivered = await db.scalar(text("SELECT count(*) FROM delivered WHERE gid = :gid"), gid)
        decisions = {TransactionState.CONFIRMED: "CONFIRM", TransactionState.CANCELLED: "CANCEL"}
        return End(
            decision=decisions.get(record.state, ""),
            is_committed=orders == 1,
            stock=str(stock),
            delivered=delivered or 0,
        )


def name_of(step: Step, back: Return) -> str:
    """Return the gid of a cell, which is the name of its order service, too."""
    return f"{step.name}-{back.name}"


def address_of(home: Path, name: str) -> str:
    """Return where the order service of a cell serves, again and again."""
    return f"unix:{home}/{name}.sock"


@asynccontextmanager
async def _running(home: Path) -> AsyncIterator[Matrix]:
    postgres = EmbeddedPostgres(home / "data")
    await asyncio.to_thread(postgres.start)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, postgres.stop, "immediate")
        for name in ("log", "shop"):
            postgres.create_database(name)
        url = postgres.url("shop").replace("postgresql://", "postgresql+psycopg://", 1)
        database = create_async_engine(url)
        stack.push_async_callback(database.dispose)
        stock = _stock(database)
        await stock.create_schema()
        async with database.begin() as db:
            await db.exec_driver_sql(_SCHEMA)
        port = await stock.start()
        stack.push_async_callback(stock.stop, 1.0)

        (home / "tcc.toml").write_text(_config(home, postgres.url("log"), port))
        coordinator = await Child.start(
            "coordinator",
            *(sys.executable, "-m", "coordinator", "serve", f"--config={home / 'tcc.toml'}"),
            log=home / "coordinator.log",
        )
        stack.push_async_callback(coordinator.stop)
        [address] = await coordinator.lines(r"listening on (\S+)")
        initiators = await Child.start(
            "initiators",
            *(sys.executable, "-m", "proof.local_first.initiator"),
            *(f"--coordinator={address}", f"--database={url}"),
            log=home / "initiators.log",
            stdin=PIPE,
        )
        stack.push_async_callback(initiators.stop)
        client = await stack.enter_async_context(tcc.Client(address))
        matrix = Matrix(home, database, client, initiators)
        reading = asyncio.create_task(matrix.read())
        stack.callback(reading.cancel)
        yield matrix


def _config(home: Path, log_url: str, stock_port: int) -> str:
    targets = {"stock": f"127.0.0.1:{stock_port}"}
    targets |= {name_of(*cell): address_of(home, name_of(*cell)) for cell in _CELLS}
    tables = [
        f"[participants.{name}]\ntarget = {json.dumps(target)}\n{_POLICY}" for name, target in targets.items()
    ]
    return "\n".join([f"drain_s = 1.0\n{_CONFIG}", f"[log]\nurl = {json.dumps(log_url)}\n", *tables])


def _stock(database: AsyncEngine) -> tcc.Participant:
    stock = tcc.Participant("stock", database=database)
    insert = text("INSERT INTO stock VALUES (:gid, 'RESERVED')")
    move = text("UPDATE stock SET state = :state WHERE gid = :gid AND state = 'RESERVED'")

    @stock.action("reserve")
    class _Reserve:
        async def try_(self, branch: tcc.Branch, _request: object, db: AsyncConnection) -> None:
            await db.execute(insert, {"gid": branch.gid})

        async def confirm(self, branch: tcc.Branch, _request: object, db: AsyncConnection) -> None:
            await db.execute(move, {"gid": branch.gid, "state": "CONFIRMED"})

        async def cancel(self, branch: tcc.Branch, _request: object, db: AsyncConnection) -> None:
            await db.execute(move, {"gid": branch.gid, "state": "CANCELLED"})

    @stock.message("tell")
    async def _tell(branch: tcc.Branch, _request: object, db: AsyncConnection) -> None:
        await db.execute(text("INSERT INTO delivered VALUES (:gid)"), {"gid": branch.gid})

    return stock


if __name__ == "__main__":
    sys.exit(main())
