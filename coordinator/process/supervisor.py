"""`tccd serve`: the embedded PostgreSQL, if configured, the migrations, and the workers on one port."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog

from coordinator.api.listener import ListenError
from coordinator.config.configuration import Source
from coordinator.config.settings import Settings
from coordinator.core.errors import LogUnavailable
from coordinator.embedded_postgres.server import EmbeddedPostgres, EmbeddedPostgresError
from coordinator.log.migration import CellPlace, CellsUnavailable, LogTooNewError, migrate_cells
from coordinator.log.requirements import LogUrlError
from coordinator.observability.logging import configure_logging
from coordinator.process import event_loop
from coordinator.process.log_cells import cell_places
from coordinator.process.operating_system import end_with_parent, stay_on_one_cpu, warn_of_root
from coordinator.process.worker import RELOAD_REFUSED, end_lease, reloaded, run_worker

logger = structlog.get_logger(__name__)

DATABASE = "tcc"
# The pause before a dead worker or PostgreSQL is restarted. It grows while the child keeps dying.
_RESTART_FIRST_S = 0.2
_RESTART_MAX_S = 5.0
# How often the supervisor checks whether it should stop.
_WATCH_S = 0.2
_LOG_POLL_S = 1.0


class StartError(Exception):
    """The command cannot be executed. The message gives the reason in one line."""

    status = 2


class LogUnreachableError(StartError):
    """The log's database does not respond now; it may do so later."""

    status = 1


class CellsUnreachableError(LogUnreachableError):
    """Some cells of the log do not respond now; the others do."""


def serve(source: Source) -> int:
    """Run a coordinator until SIGTERM or SIGINT. Return the exit status.

    SIGHUP reloads its participants.

    Raises:
        StartError: the address or the data directory is in use, or the log's URL is wrong.
        ConfigurationError: the configuration is wrong.
    """
    # The default action would end this process, and its children, before a handler is installed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = source.read().settings
    # Fail before anything is started in vain.
    _listenable(settings.listen.address).close()
    _listenable(settings.admin_address()).close()
    event_loop.log_missing_uvloop()
    with log_url(settings) as url:
        _migrate_when_there(cell_places(settings.log, url))
        if settings.workers == 1:
            return _serve_alone(settings, url, source)
        return _Workers(settings, url, source).run()


@contextmanager
def log_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of the log. If none is configured, run an own PostgreSQL for the block.

    It is empty if all cells are at servers of their own.
    """
    if not settings.log.is_embedded:
        yield settings.log.shared_url()
        return
    with own_postgres(settings.log.data_dir) as server:
        server.create_database(DATABASE)
        yield server.url(DATABASE)


@contextmanager
def own_postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """Run an own PostgreSQL for the duration of the block.

    Raises:
        StartError: another process runs one there, which would stop when that process does.
    """
    server = EmbeddedPostgres(data_dir)
    try:
        _start(server)
        if not server.owned:
            raise StartError(
                f"data directory {data_dir} is in use by another tccd; "
                "to run several coordinators, give all of them the same [log] url"
            )
        with _kept_alive(server):
            yield server
    finally:
        server.stop()


@contextmanager
def _kept_alive(server: EmbeddedPostgres) -> Iterator[None]:
    """Restart the server whenever it ends unexpectedly; its clients reconnect automatically."""
    over = threading.Event()
    keeper = threading.Thread(target=_keep_alive, args=(server, over), name="tcc-postgres-keeper")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _keep_alive(server: EmbeddedPostgres, over: threading.Event) -> None:
    pause_s = _RESTART_FIRST_S
    while not over.wait(pause_s):
        try:
            died = server.revive()
        except (EmbeddedPostgresError, OSError) as error:
            logger.error("PostgreSQL cannot be restarted", error=str(error))  # noqa: TRY400 - no bug of ours
            died = True
        else:
            if died:
                logger.error("PostgreSQL ended unexpectedly and is restarted")
        pause_s = min(pause_s * 2, _RESTART_MAX_S) if died else _RESTART_FIRST_S


def _start(server: EmbeddedPostgres) -> None:
    try:
        server.start()
    except (EmbeddedPostgresError, OSError) as error:
        raise StartError(" ".join(str(error).split())) from error


def migrate(places: Sequence[CellPlace]) -> None:
    """Migrate the schemas of the log's cells to this version.

    Raises:
        CellsUnreachableError: some cells do not respond; the home cell and the others are migrated.
        LogUnreachableError: the database does not respond.
        StartError: the URL is wrong, or the log belongs to a newer version.
    """
    try:
        migrate_cells(places)
    except CellsUnavailable as error:
        raise CellsUnreachableError(error.explained) from error
    except LogUnavailable as error:
        raise LogUnreachableError(error.explained) from error
    except (LogUrlError, LogTooNewError) as error:
        raise StartError(str(error)) from error


def _migrate_when_there(places: Sequence[CellPlace]) -> None:
    while True:
        try:
            return migrate(places)
        except CellsUnreachableError as error:
            # Only their own transactions wait for them.
            logger.warning("cells of the log are unavailable", error=str(error))
            threading.Thread(target=_migrate_later, args=(places,), name="tcc-cells", daemon=True).start()
            return None
        except LogUnreachableError as error:
            logger.warning("waiting for the log", error=str(error))
            time.sleep(_LOG_POLL_S)


def _migrate_later(places: Sequence[CellPlace]) -> None:
    """Migrate cells that were unavailable at the start, once they respond."""
    while True:
        time.sleep(_LOG_POLL_S)
        try:
            migrate(places)
        except LogUnreachableError:
            continue
        except StartError as error:
            logger.error("a cell of the log cannot be used", error=str(error))  # noqa: TRY400 - no bug of ours
        return


def _serve_alone(settings: Settings, url: str, source: Source) -> int:
    def on_ready(port: int, _owner: str) -> None:
        _notify_ready(os.getpid())
        _log_listening(settings, port)

    if settings.pin_workers:
        stay_on_one_cpu(0)
    try:
        event_loop.run(
            run_worker(
                settings, url, source=source, started_with=settings, share_port=False, on_ready=on_ready
            )
        )
    except ListenError as error:
        raise StartError(str(error)) from error
    return 0


def _notify_ready(pid: int) -> None:
    _announce(f"worker {pid} ready")


def _log_listening(settings: Settings, port: int) -> None:
    warn_of_root()
    _announce(f"listening on {_host(settings)}:{port}")


def _announce(line: str) -> None:
    """Print a line. A full disk, or a reader that has gone, must not end a coordinator."""
    try:
        print(line, flush=True)  # noqa: T201 - it is what this command says
    except OSError as error:
        logger.warning("standard output cannot be written", line=line, error=error.strerror)


def _host(settings: Settings) -> str:
    return settings.listen.address.rpartition(":")[0]


@dataclass(kw_only=True, slots=True)
class _Child:
    """A worker process."""

    process: SpawnProcess
    # Receives the owner's id once the worker is ready.
    pipe: Connection
    owner: str | None = None
    # The number of the worker. Its replacement gets the same number.
    slot: int = 0
    # It was started before the last reload and has not been notified yet.
    stale: bool = False

    def poll(self) -> bool:
        """Return whether it has become ready since the last call."""
        if self.owner is not None or not self.pipe.poll():
            return False
        try:
            self.owner = self.pipe.recv()
        except EOFError:
            return False  # it has died; its sentinel reports that
        return True


class _Workers:
    """Worker processes that share one port.

    A worker that dies is restarted. Its transactions are adopted at once: the supervisor
    is the first to know that the lease is void.
    """

    def __init__(self, settings: Settings, url: str, source: Source) -> None:
        self._started_with = settings
        self._settings = settings
        self._url = url
        self._source = source
        self._context = multiprocessing.get_context("spawn")
        self._stopping = threading.Event()
        self._reloading = threading.Event()
        # A changed configuration was refused, and no worker has been notified yet.
        self._refused = False
        self._children: list[_Child] = []
        # One fewer for each worker that an operator has drained.
        self._wanted = settings.workers
        self._announced = False
        # The pause before the next restart, and its end on the monotonic clock.
        self._pause_s = _RESTART_FIRST_S
        self._start_at = 0.0

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: self._reloading.set())
        with (
            closing(_reserve_port(self._settings.listen.address)) as reserved,
            closing(_reserve_port(self._settings.admin_address())) as reserved_for_operators,
        ):
            port = reserved.getsockname()[1]
            self._settings = _with_ports(self._settings, port, reserved_for_operators.getsockname()[1])
            try:
                while not self._stopping.is_set():
                    self._run_once(port)
            finally:
                # Also after an error: the interpreter would wait for the workers without an end.
                status = self._stop_all()
        return status

    def _run_once(self, port: int) -> None:
        self._start_missing()
        self._wait_for_event()
        self._reload()
        # A dead worker may have become ready before: poll all workers before any is reaped.
        dead = [child for child in self._children if not child.process.is_alive()]
        self._poll_children(port)
        self._notify_stale()
        self._notify_refusal()
        if not self._stopping.is_set():
            self._reap(dead)

    def _start_missing(self) -> None:
        if time.monotonic() >= self._start_at:
            while len(self._children) < self._wanted:
                taken = {child.slot for child in self._children}
                self._children.append(self._start(min(set(range(self._settings.workers)) - taken)))

    def _start(self, slot: int) -> _Child:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work,
            args=(self._settings, self._url, self._source, self._started_with),
            kwargs={"slot": slot, "parent_pid": os.getpid(), "ready": theirs},
            name="tcc-worker",
        )
        process.start()
        theirs.close()
        return _Child(process=process, pipe=ours, slot=slot)

    def _wait_for_event(self) -> None:
        sentinels = [child.process.sentinel for child in self._children]
        pipes = [child.pipe for child in self._children if child.owner is None]
        wait([*sentinels, *pipes], timeout=_WATCH_S)

    def _reload(self) -> None:
        """Make the workers read the configuration again, if it is valid."""
        if not self._reloading.is_set():
            return
        self._reloading.clear()
        settings = reloaded(self._source)
        self._refused = settings is None
        if settings is not None:
            self._settings = self._settings.reloaded(settings)
            for child in self._children:
                child.stale = True

    def _notify_stale(self) -> None:
        """Send pending reloads. A worker that is not ready ignores signals; it is notified once it is."""
        for child in self._children:
            if child.stale and child.owner is not None and child.process.is_alive():
                assert child.process.pid is not None
                os.kill(child.process.pid, signal.SIGHUP)
                child.stale = False

    def _notify_refusal(self) -> None:
        """Make one worker count and alert: the supervisor has neither metrics nor a webhook."""
        ready = [child for child in self._children if child.owner is not None and child.process.is_alive()]
        if not self._refused or not ready:
            return
        teller = min(ready, key=lambda child: child.slot)
        assert teller.process.pid is not None
        os.kill(teller.process.pid, RELOAD_REFUSED)
        self._refused = False

    def _poll_children(self, port: int) -> None:
        for child in self._children:
            if child.poll():
                assert child.process.pid is not None
                _notify_ready(child.process.pid)
                self._pause_s = _RESTART_FIRST_S
        ready = sum(child.owner is not None for child in self._children)
        if not self._announced and ready == self._wanted:
            self._announced = True
            _log_listening(self._settings, port)

    def _reap(self, dead: list[_Child]) -> None:
        for child in dead:
            if child.process.exitcode == 0 and child.owner is not None:
                self._detach(child)
                continue
            logger.error("worker died", pid=child.process.pid, exit_code=child.process.exitcode)
            self._children.remove(child)
            child.pipe.close()
            self._start_at = time.monotonic() + self._pause_s
            if child.owner is None:
                self._pause_s = min(self._pause_s * 2, _RESTART_MAX_S)
            else:
                event_loop.run(end_lease(cell_places(self._settings.log, self._url), child.owner))

    def _detach(self, child: _Child) -> None:
        """Handle a worker that ended normally, which happens only after an operator drained it."""
        logger.warning("worker was drained", pid=child.process.pid)
        self._children.remove(child)
        child.pipe.close()
        self._wanted -= 1
        if not self._wanted:
            self._stopping.set()

    def _stop_all(self) -> int:
        for child in self._children:
            child.process.terminate()
        deadline_s = self._settings.drain_s + 10.0
        for child in self._children:
            child.process.join(deadline_s)
            if child.process.is_alive():
                logger.error("worker did not drain in time", pid=child.process.pid)
                child.process.kill()
                child.process.join()
        # A worker that is stopped while it starts dies of the signal. It had nothing to finish.
        orderly = {0, -signal.SIGTERM}
        return int(any(child.process.exitcode not in orderly for child in self._children))


def _work(
    settings: Settings,
    url: str,
    source: Source,
    started_with: Settings,
    *,
    slot: int,
    parent_pid: int,
    ready: Connection,
) -> None:
    """Run a worker process."""
    end_with_parent(parent_pid)
    configure_logging()
    if settings.pin_workers:
        stay_on_one_cpu(slot)

    def on_ready(_port: int, owner: str) -> None:
        with suppress(BrokenPipeError), ready:  # the supervisor is stopping and no longer reads
            ready.send(owner)

    try:
        event_loop.run(
            run_worker(
                settings,
                url,
                source=source,
                started_with=started_with,
                share_port=True,
                slot=slot,
                on_ready=on_ready,
            )
        )
    except ListenError as error:
        sys.exit(str(error))


def _reserve_port(address: str) -> socket.socket:
    """Reserve the port for the workers, so that no other process can take it."""
    return _bind(address, socket.SO_REUSEPORT)


def _listenable(address: str) -> socket.socket:
    """Return a socket bound to a free address, not shared even with a process that would allow it."""
    return _bind(address, socket.SO_REUSEADDR)


def _bind(address: str, option: int) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((host.strip("[]"), int(port)))
    except OSError as error:
        bound.close()
        raise StartError(f"cannot listen on {address}: {error.strerror}") from error
    return bound


def _with_ports(settings: Settings, port: int, admin_port: int) -> Settings:
    listen = settings.listen.model_copy(update={"address": f"{_host(settings)}:{port}"})
    host = settings.admin_address().rpartition(":")[0]
    admin = settings.admin.model_copy(update={"listen": f"{host}:{admin_port}"})
    metrics = settings.metrics.model_copy(update={"listen": settings.metrics_address()})
    return settings.model_copy(update={"listen": listen, "admin": admin, "metrics": metrics})
