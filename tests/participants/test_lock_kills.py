"""200 transactions over 5 hot keys, while the coordinator and the locks are killed again and again."""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import tcc
from participants.child_process import Child
from participants.locks import fencing, store
from participants.serving import create_schema
from tests.support import daemon
from tests.support.databases import Databases
from tests.support.ports import free_port

NAMES = ["a", "b", "c", "d", "e"]
TRANSACTIONS = 200
IN_FLIGHT = 100
# What the database has seen. A release is written before its commit, an acquisition by a transaction
# that has seen the commit: so in the order of the ids, no two conflicting holders may overlap.
JOURNAL = """
    CREATE TABLE journal (
        id bigserial PRIMARY KEY, event text, name text, token bigint, exclusive boolean
    );
    CREATE FUNCTION write_journal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (event, name, token, exclusive)
        VALUES (TG_ARGV[0], OLD.name, OLD.token, OLD.exclusive);
        RETURN NULL;
    END $$;
    CREATE TRIGGER acquired AFTER UPDATE ON lock_request FOR EACH ROW
        WHEN (OLD.acquired_at_ms IS NULL AND NEW.acquired_at_ms IS NOT NULL)
        EXECUTE FUNCTION write_journal('acquired');
    CREATE TRIGGER released AFTER DELETE ON lock_request FOR EACH ROW
        WHEN (OLD.acquired_at_ms IS NOT NULL) EXECUTE FUNCTION write_journal('released');
"""


class Event(NamedTuple):
    """A row of the journal."""

    event: str
    name: str
    token: int
    exclusive: bool


class LockService:
    """The process of the locks, which is killed and started again on the same address."""

    def __init__(self, database: str, home: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._command = (sys.executable, "-m", "participants.locks")
        self._options = ("--database", database, "--listen", self.address)
        self._log = home / "locks.log"
        self.child: Child | None = None

    async def start(self) -> None:
        self.child = await Child.start("locks", *self._command, *self._options, log=self._log)
        await self.child.lines(r"listening on (\S+)")

    async def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        await self.child.stop()


@asynccontextmanager
async def accounts(database: AsyncEngine) -> AsyncIterator[str]:
    """Serve the resource behind the locks: it accepts a change only with a token that is not older."""
    participant = tcc.Participant("accounts", database=database)

    @participant.action("change")
    class Change:
        async def try_(self, _branch, request: dict[str, Any], db) -> None:
            for name, token in sorted(request["tokens"].items()):
                await fencing.check_token(db, name, token)

        async def confirm(self, _branch, _request, db) -> None: ...

        async def cancel(self, _branch, _request, db) -> None: ...

    async with participant.running() as server:
        yield f"127.0.0.1:{server.port}"


def config(log_url: str, locks: str, changes: str) -> str:
    return f"""
        [log]
        url = "{log_url}"
        [recovery]
        adopt_every_s = 0.3
        [participants.locks]
        target = "{locks}"
        retry_max_s = 0.2
        breaker_open_max_s = 0.5
        [participants.accounts]
        target = "{changes}"
    """


async def purchase(client: tcc.Client, number: int, rng: random.Random) -> None:
    """Lock one or two keys, change what they protect with the tokens, and confirm."""
    mode = "shared" if rng.random() < 0.2 else "exclusive"
    request = {"keys": rng.sample(NAMES, rng.choice([1, 2])), "mode": mode, "wait_ms": 300_000}
    async with client.transaction(gid=f"g{number}", expiry_s=300, timeout_s=240) as tx:
        locked = await tx.try_("locks", "acquire", request, branch_id="locks")
        if mode == "exclusive":
            await tx.try_("accounts", "change", locked.json(), branch_id="change")
    assert tx.outcome is not None


@pytest.mark.slow
async def test_no_two_holders_and_everyone_is_served_under_kills(
    databases: Databases, log_url: str, database_url: str, tmp_path: Path
) -> None:
    rng = random.Random(17)
    with databases.one() as resource_url:
        locked, resource = create_async_engine(database_url), create_async_engine(resource_url)
        await create_schema(locked, store.metadata)
        await create_schema(resource, fencing.metadata)
        async with locked.begin() as db:
            await db.execute(text(JOURNAL))
        service = LockService(database_url, tmp_path)
        await service.start()
        async with (
            accounts(resource) as changes,
            daemon.serving(tmp_path, config(log_url, service.address, changes), workers=2) as coordinator,
            tcc.Client(coordinator.address, timeout_s=240) as client,
        ):
            room = asyncio.Semaphore(IN_FLIGHT)

            async def run(number: int) -> None:
                async with room:
                    await purchase(client, number, rng)

            running = asyncio.gather(*map(run, range(TRANSACTIONS)))
            kills = 0
            while not running.done():
                await kill_one(service, coordinator, kills)
                kills += 1
                await asyncio.wait([running], timeout=rng.uniform(0.5, 1.5))
            await running
            outcomes = await asyncio.gather(
                *(client.wait(f"g{n}", wait_for="completion", timeout_s=240) for n in range(TRANSACTIONS))
            )
        await service.child.stop()
        events = await journal(locked)
        async with locked.connect() as db:
            assert (await db.execute(text("SELECT gid FROM lock_request"))).all() == []
        await locked.dispose()
        await resource.dispose()
    assert kills >= 4
    assert {outcome.state.name for outcome in outcomes} == {"CONFIRMED"}
    check(events)


async def kill_one(service: LockService, coordinator: daemon.Daemon, turn: int) -> None:
    """Kill the locks or a worker of the coordinator, and wait until it serves again."""
    if turn % 2:
        coordinator.kill_worker(coordinator.workers[0])
        await coordinator.next_worker()
    else:
        await service.kill()
        await service.start()


async def journal(database: AsyncEngine) -> list[Event]:
    statement = text("SELECT event, name, token, exclusive FROM journal ORDER BY id")
    async with database.connect() as db:
        return [Event(*row) for row in await db.execute(statement)]


def check(events: Iterable[Event]) -> None:
    """Check that no holder conflicts with another one, that tokens grow, and that each lock is released."""
    holders: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    newest: defaultdict[str, int] = defaultdict(int)
    for event, name, token, exclusive in events:
        if event == "released":
            del holders[name][token]
            continue
        assert not any(exclusive or other for other in holders[name].values()), f"two holders of {name}"
        # Shared holders that got the lock together may be recorded in any order.
        assert token > newest[name] or not exclusive
        newest[name] = max(newest[name], token)
        holders[name][token] = exclusive
    assert not any(holders.values())
    assert newest.keys() == set(NAMES)
