"""A PostgreSQL with a synchronous standby: a log that can fail over, for tests and the fault suite."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from coordinator.embedded_postgres import server
from coordinator.embedded_postgres.server import SUPERUSER, EmbeddedPostgres

_TIMEOUT_S = 60.0
_POLL_S = 0.02
_STANDBY = "standby"
_IS_SYNCHRONOUS = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"


class _Server(EmbeddedPostgres):
    def __init__(self, data_dir: Path, source: "_Server | None" = None) -> None:
        """Describe a server. With a `source` its data begin as a copy, and it follows the source."""
        super().__init__(data_dir)
        self._source = source

    @property
    def socket_dir(self) -> Path:
        return self._socket_dir

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the server, none if it does not run."""
        if self._server is None:
            return []
        postmaster = psutil.Process(self._server.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def follow(self, primary: "_Server") -> None:
        """Become a standby of `primary` at the next start, with its data instead of the own ones."""
        shutil.rmtree(self._cluster)
        self._source = primary

    def _initialise(self, identity: Any) -> None:
        if self._source is None:
            super()._initialise(identity)
            return
        source = make_conninfo(
            host=str(self._source.socket_dir), user=SUPERUSER, application_name=_STANDBY, dbname="postgres"
        )
        server.own_directory(self._cluster, identity)
        copy = [str(server.bin_dir() / "pg_basebackup"), f"--dbname={source}", f"--pgdata={self._cluster}"]
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"]
        subprocess.run([*copy, *options], check=True, cwd="/", capture_output=True, **identity.popen)
        # The socket may be in the data directory. It is not copied, but its lock file is.
        (self._cluster / ".s.PGSQL.5432.lock").unlink(missing_ok=True)


class ReplicatedPostgres:
    """Two servers: `primary` and `standby`, also after a failover. `exchange_roles` makes them so again.

    Each COMMIT of the primary waits for the standby, so that nothing acknowledged is lost by a failover.
    """

    def __init__(self, home: Path) -> None:
        self.primary = _Server(home / "first")
        self.standby = _Server(home / "second", self.primary)
        self._hosts = [str(each.socket_dir) for each in (self.primary, self.standby)]

    def url(self, database: str = "postgres") -> str:
        """Return the URL that names both servers, the first one first."""
        hosts = quote(",".join(self._hosts), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={hosts}"

    def start(self) -> None:
        """Start both, and return when the standby follows."""
        self.primary.start()
        self.start_standby()

    def stop(self) -> None:
        """Stop both, whatever they are doing."""
        self.resume_primary()
        for each in (self.primary, self.standby):
            each.stop("immediate")

    def start_standby(self) -> None:
        """Start the standby, and return when COMMITs wait for it."""
        self.standby.start()
        _set(self.primary, "synchronous_standby_names", _STANDBY)
        _until(lambda: _value(self.primary, _IS_SYNCHRONOUS))

    def promote(self) -> None:
        """Make the standby accept writes, as a failover manager does. The primary is not asked."""
        assert _value(self.standby, "SELECT pg_promote(true, 60)"), "the standby was not promoted"

    def exchange_roles(self) -> None:
        """Stop the former primary, and let it follow the standby that was promoted."""
        self.primary.stop("immediate")
        self.primary.follow(self.standby)
        self.primary, self.standby = self.standby, self.primary
        self.start_standby()

    def make_asynchronous(self) -> None:
        """Let no COMMIT wait for the standby any more."""
        _set(self.primary, "synchronous_standby_names", "")
        _until(lambda: not _value(self.primary, _IS_SYNCHRONOUS))

    def freeze_primary(self) -> None:
        """Suspend the primary, as if its machine hung. Its connections stay open."""
        for process in self.primary.processes():
            process.suspend()

    def resume_primary(self) -> None:
        """Let the primary go on, if it is frozen."""
        for process in self.primary.processes():
            process.resume()


@contextmanager
def replicated(home: Path) -> Iterator[ReplicatedPostgres]:
    """Run a primary and its standby during the block."""
    pair = ReplicatedPostgres(home)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


def _set(which: EmbeddedPostgres, name: str, value: str) -> None:
    with psycopg.connect(which.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        connection.execute("SELECT pg_reload_conf()")


def _value(which: EmbeddedPostgres, statement: str) -> Any:
    with psycopg.connect(which.url(), autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(_POLL_S)
