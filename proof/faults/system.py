"""What is made to suffer: two coordinators over one log, three participants, one PostgreSQL.

Every way between two of them can lead through a proxy: `System.ways` says where a
member finds another one, and a member that is started again finds it there.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

from coordinator.embedded_postgres.server import EmbeddedPostgres
from participants.demo.cluster import coordinator_config
from participants.demo.plan import PARTICIPANTS
from proof.faults.member import Member
from proof.faults.observers import COORDINATOR, Observers
from proof.faults.replicated_postgres import ReplicatedPostgres
from proof.faults.tenants import Credentials

# Gets the address to listen on; answers the program and its arguments.
Command: TypeAlias = Callable[[str], list[str]]

# The directory of PostgreSQL, below that of everything else.
DISK = "disk"
# Starts a program of the product in which failpoints may kill.
_CHILD = (sys.executable, "-m", "proof.faults.child")
COORDINATORS = ("coordinator-a", "coordinator-b")
LEASE_S = 1.5
CALL_TIMEOUT_S = 2.0
# Quick to notice and to repeat, so that a run is short; two on one machine, without
# doors that both would want.
_QUICK = {
    "TCC_ADMIN__LISTEN": "127.0.0.1:0",
    "TCC_METRICS__LISTEN": "",
    "TCC_RECOVERY__LEASE_S": str(LEASE_S),
    "TCC_RECOVERY__HEARTBEAT_EVERY_S": "0.4",
    "TCC_RECOVERY__ADOPT_EVERY_S": "0.3",
    "TCC_RECOVERY__POLL_EVERY_S": "0.3",
    "TCC_RECOVERY__PURGE_EVERY_S": "1",
    # Its looks would pass the failpoints where calls are to be killed.
    "TCC_RECONCILE__EVERY_S": "0",
}
_QUICK_PARTICIPANT = {
    "CALL_TIMEOUT_S": str(CALL_TIMEOUT_S),
    "RETRY_MAX_S": "0.5",
    "BREAKER_OPEN_FIRST_S": "0.2",
    "BREAKER_OPEN_MAX_S": "0.5",
}


class System:
    """The running processes. Made by `running_system`.

    `pair`: what holds the log, if not the one PostgreSQL of everybody.
    """

    def __init__(
        self, home: Path, postgres: EmbeddedPostgres, pair: ReplicatedPostgres | None = None
    ) -> None:
        self.home = home
        self.postgres = postgres
        self._pair = pair
        self.credentials = Credentials(home)
        # The observers, too, connect to the server that accepts writes.
        self._log_url = (
            postgres.url(COORDINATOR)
            if pair is None
            else f"{pair.url(COORDINATOR)}&target_session_attrs=read-write"
        )
        # Where (member, database or participant) finds it, if not at the place itself.
        self.ways: dict[tuple[str, str], str] = {}
        self.participants = {name: Member(name, self._participant(name), home) for name in PARTICIPANTS}
        self.coordinators = {name: Member(name, self._coordinator(name), home) for name in COORDINATORS}
        urls = {name: postgres.url(name) for name in PARTICIPANTS}
        self.observers = Observers({COORDINATOR: self._log_url} | urls)

    @property
    def members(self) -> list[Member]:
        return [*self.participants.values(), *self.coordinators.values()]

    @property
    def target(self) -> str:
        """Where initiators find the coordinators."""
        addresses = (self.ways.get(("initiator", m.name), m.address) for m in self.coordinators.values())
        return "ipv4:" + ",".join(addresses)

    def sqlalchemy_url(self, database: str) -> str:
        return _sqlalchemy(self.postgres.url(database))

    @property
    def socket_dir(self) -> Path:
        """Where the server's socket is."""
        [host] = parse_qs(urlsplit(self.postgres.url()).query)["host"]
        return Path(host)

    @property
    def failures(self) -> list[str]:
        """Return every unexpected end of a process."""
        return [failure for member in self.members for failure in member.failures]

    async def start(self) -> None:
        """Start every process. Raises ChildError if one does not become ready."""
        await asyncio.to_thread(self.credentials.make)
        await asyncio.to_thread(self._create_databases)
        await asyncio.gather(*(member.start() for member in self.participants.values()))
        for member in self.coordinators.values():
            member.environment = _environment()
        await asyncio.gather(*(member.start() for member in self.coordinators.values()))
        await asyncio.to_thread(self.observers.install)

    async def restart(self, *members: Member) -> None:
        """These members, all at once; ready again when it returns."""
        await asyncio.gather(*(member.restart() for member in members))

    async def stop(self) -> None:
        """Coordinators first, for they call the participants."""
        for member in reversed(self.members):
            await member.stop()

    def _create_databases(self) -> None:
        for name in PARTICIPANTS:
            self.postgres.create_database(name)
        (self.postgres if self._pair is None else self._pair.primary).create_database(COORDINATOR)

    def _participant(self, name: str) -> Command:
        def command(listen: str) -> list[str]:
            url = _sqlalchemy(self.ways.get((name, "postgres"), self.postgres.url(name)))
            return [*_CHILD, f"participants.{name}", f"--listen={listen}", f"--database={url}"]

        return command

    def _coordinator(self, name: str) -> Command:
        def command(listen: str) -> list[str]:
            url = self.ways.get((name, "postgres"), self._log_url)
            addresses = {p: self.ways.get((name, p), m.address) for p, m in self.participants.items()}
            config = self.home / f"{name}.toml"
            config.write_text(coordinator_config(url, addresses) + self.credentials.settings())
            return [
                *(*_CHILD, "coordinator", "serve"),
                *(f"--config={config}", f"--listen={listen}"),
            ]

        return command


@asynccontextmanager
async def running_system(home: Path, pair: ReplicatedPostgres | None = None) -> AsyncIterator[System]:
    """A system whose files are below `home`. `pair`: see `System`."""
    postgres = EmbeddedPostgres(home / DISK)
    await asyncio.to_thread(postgres.start)
    try:
        system = System(home, postgres, pair)
        try:
            await system.start()
            yield system
        finally:
            await system.stop()
    finally:
        await asyncio.to_thread(postgres.stop, "immediate")


def _environment() -> Mapping[str, str]:
    return _QUICK | {
        f"TCC_PARTICIPANTS__{participant.upper()}__{name}": value
        for participant in PARTICIPANTS
        for name, value in _QUICK_PARTICIPANT.items()
    }


def _sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
