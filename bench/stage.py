"""The processes that a scenario needs, and the counters of all of them.

CPU time is the kernel's, for each process and its children (psutil). The rest comes from
PostgreSQL, over a connection to a database that is not measured:

- commits: transaction ids handed out. Only transactions that write get one; exact;
- WAL bytes: the position where the next record goes; exact;
- statements: `pg_stat_database.xact_commit` of the log's database, because every statement of
  the coordinator is its own transaction. Reported with up to a second of delay;
- fsyncs: `pg_stat_io`, object `wal`, with the same delay.
"""

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench import credentials, work
from bench.children import CommandedChild, child
from bench.figures import Counts, Round
from bench.options import Options
from coordinator.embedded_postgres.server import EmbeddedPostgres

_COUNTERS = """
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
           pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
           (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s),
           (SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal')
    """

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The load that initiators offer."""

    mode: str
    in_flight: int
    wait_for: str = "decision"
    work: Mapping[str, Any] = field(default_factory=work.noop)
    # Mode "raw_load" alone: transactions come at this rate, whatever is under way. 0: a closed loop.
    arrivals_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Participants:
    """Running participants. They are called by the names that are the keys of `addresses`."""

    addresses: Mapping[str, str]
    # Processes by role.
    pids: Mapping[str, Sequence[int]]
    # Those that count their calls. In the order of `addresses`.
    counting: Sequence[CommandedChild] = ()

    def beside(self, others: "Participants") -> "Participants":
        """Return these and the others."""
        roles = {**self.pids, **others.pids}
        return Participants(
            addresses={**self.addresses, **others.addresses},
            pids={role: [*self.pids.get(role, ()), *others.pids.get(role, ())] for role in roles},
            counting=[*self.counting, *others.counting],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """The process that initiators call, and everything that works for it."""

    process: CommandedChild
    address: str
    # The database of its log; a participant that stands alone: its own.
    database: str
    # Processes by role; each with its children.
    pids: Mapping[str, Sequence[int]]
    counting: Sequence[CommandedChild] = ()
    # The directory of credentials that callers show. Empty: they show none.
    secured: str = ""


class Stage:
    """A directory, a PostgreSQL and the processes beside them. Made by `stage`."""

    def __init__(
        self, directory: Path, postgres: EmbeddedPostgres, cleanup: ExitStack, options: Options
    ) -> None:
        self.directory = directory
        self._options = options
        self._postgres = postgres
        self._cleanup = cleanup
        # Runs the children's input and output.
        self._runner = cleanup.enter_context(asyncio.Runner())
        self._counters = cleanup.enter_context(psycopg.connect(postgres.url(), autocommit=True))
        self._postmasters = [_postmaster(self._counters)]
        self._initiators: list[CommandedChild] = []

    # --- processes ----------------------------------------------------------

    def start_initiators(self, count: int) -> None:
        self._initiators = [self._child(f"initiator-{n}", "bench.initiator") for n in range(count)]

    def start_participants(self, names: Sequence[str] = work.PARTICIPANTS, *options: str) -> Participants:
        """Start no-op participants with these options."""
        children = {name: self._child(name, "bench.noop_participant", *options) for name in names}
        return Participants(
            addresses={name: each.address() for name, each in children.items()},
            pids={"participants": [each.pid for each in children.values()]},
            counting=list(children.values()),
        )

    def start_services(self, names: Sequence[str] = work.PARTICIPANTS) -> Participants:
        """Start reference participants, each with a database that has its name. They count nothing."""
        children = {name: self._service(f"participants.{name}", name) for name in names}
        return Participants(
            addresses={name: each.address() for name, each in children.items()},
            pids={name: [each.pid] for name, each in children.items()},
        )

    def start_alone(self, module: str, database: str, *options: str) -> System:
        """Start a participant that initiators call directly."""
        process = self._service(module, database, *options)
        return self._system(process, "participant", database, Participants(addresses={}, pids={}))

    def start_coordinator(
        self,
        participants: Participants,
        *,
        database: str = "log",
        workers: int = 1,
        limits: Mapping[str, str] | None = None,
        policy: Mapping[str, str] | None = None,
    ) -> System:
        """Start `tccd serve`. Its database is created if it does not exist.

        `limits` are dotted settings, and `policy` those of each participant, as TOML values.
        """
        config = self.directory / f"coordinator-{database}.toml"
        url = self._new_database(database)
        own = {"pin_workers": str(self._options.pinned).lower(), "log.cells": str(self._options.cells)}
        settings = {**own, **self._further_servers(database), **(limits or {})}
        config.write_text(
            _coordinator_config(url, participants.addresses, settings=settings, policy=policy or {})
        )
        process = self._child(
            f"coordinator-{database}",
            "coordinator",
            "serve",
            f"--config={config}",
            f"--workers={workers}",
            "--listen=127.0.0.1:0",
        )
        return self._system(process, "coordinator", database, participants)

    def _further_servers(self, database: str) -> Mapping[str, str]:
        """Start the servers that have cells besides the first one, and return the setting."""
        cells, count, tables = self._options.cells, self._options.servers, []
        for number in range(1, count):
            server = EmbeddedPostgres(self.directory / f"server-{database}-{number}")
            server.start()
            self._cleanup.callback(server.stop)
            server.create_database(database)
            with psycopg.connect(server.url()) as db:
                self._postmasters.append(_postmaster(db))
            own = f"{cells * number // count}-{cells * (number + 1) // count - 1}"
            tables.append(f'{{ url = "{server.url(database)}", cells = "{own}" }}')
        return {"log.servers": f"[{', '.join(tables)}]"} if tables else {}

    def start_secured(self) -> tuple[System, System]:
        """Start participants that demand certificates, and two coordinators that do as well.

        Initiators show the first one a JWT, too. The second lets every certificate do everything.
        """
        credentials.make(self.directory)
        participants = self.start_participants(work.PARTICIPANTS, f"--secured={self.directory}")
        policy = credentials.policy(self.directory)
        secured = self.start_coordinator(
            participants, database="secured", limits=credentials.settings(self.directory), policy=policy
        )
        tls_alone = self.start_coordinator(
            participants, database="tls", limits=credentials.tls_settings(self.directory), policy=policy
        )
        return (
            replace(secured, secured=str(self.directory)),
            replace(tls_alone, secured=str(self.directory / credentials.TLS_ALONE)),
        )

    def start_baseline(self, participants: Participants) -> tuple[System, CommandedChild]:
        """Start the baseline program (`bench.baseline`) with its own database."""
        url = self._new_database("baseline")
        targets = [f"--participant={name}={address}" for name, address in participants.addresses.items()]
        pin = ["--pin"] if self._options.pinned else []
        process = self._child("baseline", "bench.baseline", f"--log={url}", *targets, *pin)
        return self._system(process, "baseline", "baseline", participants), process

    def url(self, database: str) -> str:
        """Return the URL of a database, for libpq."""
        return self._postgres.url(database)

    def _service(self, module: str, database: str, *options: str) -> CommandedChild:
        url = self._new_database(database).replace("postgresql:", "postgresql+psycopg:", 1)
        return self._child(database, module, "--listen=127.0.0.1:0", f"--database={url}", *options)

    def _system(
        self, process: CommandedChild, role: str, database: str, participants: Participants
    ) -> System:
        return System(
            process=process,
            address=process.address(),
            database=database,
            pids={
                role: [process.pid],
                "postgresql": self._postmasters,
                **participants.pids,
                "initiators": [each.pid for each in self._initiators],
            },
            counting=participants.counting,
        )

    def execute_many(self, system: System, count: int, *, wait_for: str = "decision") -> None:
        """Execute `count` transactions. Return when all have been decided, or accepted."""
        self._initiators[0].ask("execute", target=system.address, count=count, wait_for=wait_for)

    def _child(self, name: str, *arguments: str) -> CommandedChild:
        return self._cleanup.enter_context(child(self._runner, arguments, self.directory / f"{name}.err"))

    def _new_database(self, name: str) -> str:
        self._postgres.create_database(name)
        return self._postgres.url(name)

    # --- measuring ----------------------------------------------------------

    def counts(self, system: System) -> Counts:
        """Return what `system` has used so far."""
        reports = [each.ask("count") for each in system.counting]
        row = self._counters.execute(_COUNTERS, (system.database,)).fetchone()
        assert row is not None
        commits, wal_bytes, statements, fsyncs = row
        return Counts(
            at_s=time.perf_counter(),
            cpu_s={role: sum(map(_cpu_s, pids)) for role, pids in system.pids.items()},
            machine_cpu_s=_machine_cpu_s(),
            commits=commits,
            statements=statements,
            wal_bytes=wal_bytes,
            fsyncs=fsyncs,
            participant_calls=sum(report["calls"] for report in reports),
            branch_calls=sum(report["items"] for report in reports),
        )

    def measure(self, system: System, load: Load, *, times: float = 1.0) -> Round:
        """Offer `load` for one round. Return when everything under way is answered.

        `times`: how much longer the round and its warm-up are.
        """
        offered = self.offer(system, load)
        time.sleep(times * self._options.warm_up_s)
        offered.begin()
        time.sleep(times * self._options.seconds)
        measured = offered.end()
        offered.stop()
        return measured

    def offer(self, system: System, load: Load) -> "OfferedLoad":
        """Offer `load` until it is stopped."""
        shares = _shares(load.in_flight, len(self._initiators))
        loaded = self._initiators[: len(shares)]
        for position, (initiator, share) in enumerate(zip(loaded, shares, strict=True)):
            initiator.send("start", **_start(system, load, share, position=position, of=len(loaded)))
        _answers(loaded)
        return OfferedLoad(loaded, lambda: self.counts(system))


class OfferedLoad:
    """Initiators at work. What is between `begin` and `end` is a round; there may be several."""

    def __init__(self, initiators: Sequence[CommandedChild], counts: Callable[[], Counts]) -> None:
        self._initiators = initiators
        self._counts = counts
        self._before = counts()

    def begin(self) -> None:
        self._before = self._counts()
        _ask_all(self._initiators, "begin")

    def end(self) -> Round:
        measured = _ask_all(self._initiators, "end")
        used = self._counts().since(self._before)
        failed: Counter[str] = Counter()
        for each in measured:
            failed.update(each["failed"])
        return Round(
            seconds=sum(each["seconds"] for each in measured) / len(measured),
            latencies_us=[latency for each in measured for latency in each["latencies_us"]],
            failed=failed,
            used=used,
        )

    def stop(self) -> None:
        """Stop, and wait until everything under way is answered."""
        _ask_all(self._initiators, "stop")


@contextmanager
def stage(options: Options) -> Iterator[Stage]:
    """Provide a stage during the block. Its data are in `options.data_dir`, and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="tcc-bench-", dir=options.data_dir))
    postgres = EmbeddedPostgres(directory)
    try:
        with ExitStack() as cleanup:
            postgres.start()
            cleanup.callback(postgres.stop)
            yield Stage(directory, postgres, cleanup, options)
    finally:
        shutil.rmtree(directory)


def _postmaster(db: psycopg.Connection) -> int:
    parent: int = psutil.Process(db.info.backend_pid).ppid()
    return parent


def wait_until(done: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Ask again and again whether it is done. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(_LOOK_EVERY_S)


def _coordinator_config(
    url: str, addresses: Mapping[str, str], *, settings: Mapping[str, str], policy: Mapping[str, str]
) -> str:
    lines = [f"{name} = {value}" for name, value in settings.items()]
    lines.append(f'log.url = "{url}"')
    for name, address in addresses.items():
        lines += [f"[participants.{name}]", f'target = "{address}"']
        lines += [f"{setting} = {value}" for setting, value in policy.items()]
    return "\n".join(lines)


def _start(system: System, load: Load, in_flight: int, *, position: int, of: int) -> dict[str, Any]:
    """Return the command that starts an initiator's share of the load."""
    return {
        "target": system.address,
        "secured": system.secured,
        "mode": load.mode,
        "wait_for": load.wait_for,
        "in_flight": in_flight,
        "arrivals_per_second": load.arrivals_per_second / of,
        "work": load.work,
        "position": position,
        "of": of,
    }


def _shares(in_flight: int, initiators: int) -> list[int]:
    """Return how many transactions each initiator keeps under way, without those that have none."""
    most, rest = divmod(in_flight, initiators)
    return [share for n in range(initiators) if (share := most + (n < rest))]


def _ask_all(initiators: Sequence[CommandedChild], do: str) -> list[dict[str, Any]]:
    """Send the command to all, then wait for the answers."""
    for initiator in initiators:
        initiator.send(do)
    return _answers(initiators)


def _answers(initiators: Sequence[CommandedChild]) -> list[dict[str, Any]]:
    return [initiator.answer() for initiator in initiators]


def _machine_cpu_s() -> float:
    """Return the CPU seconds of all processes of the machine and of its kernel."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, its living children, and those it has waited for."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for each in process.children():
        try:
            own = each.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has its time now, or soon
        used += own.user + own.system
    return float(used)
