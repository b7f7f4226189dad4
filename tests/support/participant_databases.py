"""Participants over real databases: all that are installed, sync and async."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

_numbers = count()

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgresql-async": "postgresql+psycopg",
    "sqlite": "sqlite+pysqlite",
    "sqlite-async": "sqlite+aiosqlite",
    "mariadb": "mysql+pymysql",
    "mariadb-async": "mysql+asyncmy",
}
# One engine of each database, sync and async among them, for the short suite.
QUICK = {"postgresql", "sqlite-async", "mariadb-async"}


def _marks(kind: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.mariadb] if kind.startswith("mariadb") else []


DATABASES = [pytest.param(kind, marks=_marks(kind)) for kind in DRIVERS]
FEWER_DATABASES = [
    pytest.param(kind, marks=[*_marks(kind), *([] if kind in QUICK else [pytest.mark.slow])])
    for kind in DRIVERS
]

Database = Engine | AsyncEngine


class Ledger:
    """The effects of a test's handlers, in a separate database: tests compare with these."""

    def __init__(self, url: URL) -> None:
        self._engine = _engine(url)
        with self._engine.begin() as db:
            db.execute(
                text("CREATE TABLE effects (gid VARCHAR(128), branch_id VARCHAR(128), operation VARCHAR(8))")
            )

    def effects(self, gid: str) -> list[str]:
        """Return the operations that took effect for a transaction, sorted."""
        statement = text("SELECT operation FROM effects WHERE gid = :gid ORDER BY operation")
        with self._engine.connect() as db:
            return list(db.scalars(statement, {"gid": gid}))

    def rows(self) -> list[tuple[str, int]]:
        """Return the barrier's rows as (branch_id, state)."""
        with self._engine.connect() as db:
            found = db.execute(text("SELECT branch_id, state FROM tcc_barrier ORDER BY branch_id"))
            return [(key.decode() if isinstance(key, bytes) else key, state) for key, state in found]

    def state(self, gid: str) -> int | None:
        """Return the state of a transaction's only row; None: there is no row."""
        statement = text("SELECT state FROM tcc_barrier WHERE gid = :gid")
        with self._engine.connect() as db:
            return db.scalars(statement, {"gid": gid}).one_or_none()

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """Return a transaction beside those of the participant."""
        return self._engine.begin()

    def execute(self, statement: str) -> None:
        with self._engine.begin() as db:
            db.execute(text(statement))


RECORD = text("INSERT INTO effects VALUES (:gid, :branch_id, :operation)")


@pytest.fixture(params=FEWER_DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Ledger]]:
    """An engine on an empty database of each kind, and the ledger in it."""
    kind = request.param
    with _url(kind, request, tmp_path) as url:
        yield make_engine(kind, url), Ledger(_sync(url))


@pytest.fixture
async def postgresql(database_url: str) -> AsyncIterator[tuple[AsyncEngine, Ledger]]:
    url = make_url(database_url).set(drivername=DRIVERS["postgresql"])
    engine = create_async_engine(url)
    yield engine, Ledger(url)
    await engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> tuple[AsyncEngine, Ledger]:
    url = make_url(f"sqlite+aiosqlite:///{tmp_path / 'participant.db'}")
    return make_engine("sqlite-async", url), Ledger(_sync(url))


def make_engine(kind: str, url: URL) -> Database:
    return create_async_engine(url, poolclass=NullPool) if kind.endswith("async") else _engine(url)


def _engine(url: URL) -> Engine:
    # It is a socket. To get ready for TLS takes PyMySQL longer than most tests.
    arguments = {"ssl_disabled": True} if url.drivername == "mysql+pymysql" else {}
    return create_engine(url, poolclass=NullPool, connect_args=arguments)


# psycopg is both.
_SYNC_TWINS = {"sqlite+aiosqlite": "sqlite+pysqlite", "mysql+asyncmy": "mysql+pymysql"}


def _sync(url: URL) -> URL:
    return url.set(drivername=_SYNC_TWINS.get(url.drivername, url.drivername))


@contextlib.contextmanager
def _url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    driver = DRIVERS[kind]
    if kind.startswith("sqlite"):
        yield make_url(f"{driver}:///{tmp_path / 'participant.db'}")
    elif kind.startswith("postgresql"):
        yield make_url(request.getfixturevalue("database_url")).set(drivername=driver)
    else:
        server: URL = request.getfixturevalue("mariadb_server")
        name = f"test_{next(_numbers)}"
        admin = _engine(server)
        with admin.begin() as db:
            db.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        yield server.set(drivername=driver, database=name)
        with admin.begin() as db:
            db.execute(text(f"DROP DATABASE {name}"))


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[URL]:
    """A MariaDB server of this test process's own, on a socket."""
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("no MariaDB server is installed (Debian: mariadb-server)")
    home = Path(tempfile.mkdtemp(prefix="tcc-mariadb-"))
    data, socket = home / "data", home / "socket"
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ],
        check=True,
        capture_output=True,
    )
    server = subprocess.Popen(
        [
            "mariadbd",
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            "--skip-networking",
            "--user=root",
            f"--pid-file={home / 'pid'}",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(home / "log").open("wb"),
    )
    url = make_url(f"mysql+pymysql://root@localhost/mysql?unix_socket={socket}")
    try:
        _wait_ready(url, server)
        yield url
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(home)


def _wait_ready(url: URL, server: "subprocess.Popen[bytes]") -> None:
    engine = _engine(url)
    for _ in range(600):
        try:
            engine.connect().close()
            return
        except Exception:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.1)
                raise
    raise TimeoutError("MariaDB does not answer")


class Caller:
    """Calls one participant as a coordinator does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = pb_grpc.ParticipantServiceStub(channel)

    async def try_(self, call: pb.BranchCall) -> common.CallResult:
        return (await self.stub.TryBranch(pb.TryBranchRequest(call=call))).result

    async def confirm(self, call: pb.BranchCall) -> common.CallResult:
        return (await self.stub.ConfirmBranch(pb.ConfirmBranchRequest(call=call))).result

    async def cancel(self, call: pb.BranchCall) -> common.CallResult:
        return (await self.stub.CancelBranch(pb.CancelBranchRequest(call=call))).result

    async def check(self, call: pb.BranchCall) -> common.CallResult:
        return (await self.stub.CheckBranch(pb.CheckBranchRequest(call=call))).result

    async def execute(self, *calls: pb.BranchCall) -> list[common.CallResult]:
        """Return the results of a batch, in the order of its calls."""
        outcomes = [
            outcome
            async for response in self.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls))
            for outcome in response.results
        ]
        return sorted(outcomes, key=lambda outcome: outcome.index)


@pytest.fixture
async def call_participant() -> AsyncIterator[Callable[..., Caller]]:
    """Start a participant with its schema, and return its caller."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(participant) -> Caller:
            await participant.create_schema()
            port = await participant.start()
            stack.push_async_callback(participant.stop, 0.5)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            return Caller(channel)

        yield start
