"""Real PostgreSQL for every test that needs it: one server per test process, one database per test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from coordinator.embedded_postgres.server import EmbeddedPostgres
from tests.support.databases import Databases, ExternalServer
from tests.support.golden import GoldenFiles
from tests.support.log_schema import LogSchema

# The variable with the URL of another server to test on.
EXTERNAL_SERVER = "TCC_TEST_SERVER_URL"
# Many tests write to disk and wait for it, and none needs what is written to survive the machine. A disk in
# memory answers at once: the databases keep their settings, fsync among them.
MEMORY_DISK = Path("/dev/shm")
MEMORY_DISK_BYTES_MIN = 4 * 2**30
# Participants over every kind of database, and one whose results are scripted.
pytest_plugins = ["tests.support.participant_databases", "tests.support.scripted_participant"]


# How long an example takes is the machine's affair.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one switch that rewrites every golden file.

    A golden file keeps what the project produces: `tests/core/golden/*.txt` (what the state machine
    does), `tests/golden/statements.sql` (all SQL) and `docs/STATES.md` (the state diagram). Tests
    compare them. After an intended change run `pytest --rewrite`, read the diff, and commit it with
    the change. A new golden test uses the fixture `golden`.
    """
    parser.addoption("--rewrite", action="store_true", help="rewrite the golden files instead of failing")


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory, those of child processes too, unless TMPDIR is set."""
    config.addinivalue_line("markers", "not_on_citus(reason): the test, not the log, does what Citus refuses")
    if "TMPDIR" not in os.environ and _is_roomy(MEMORY_DISK):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY_DISK)


def _is_roomy(directory: Path) -> bool:
    """Return whether there is room for the databases of all workers, and programs can run from there."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize >= MEMORY_DISK_BYTES_MIN and not found.f_flag & os.ST_NOEXEC


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what Citus refuses of a test, if the tests run on it."""
    url, marker = os.environ.get(EXTERNAL_SERVER), item.get_closest_marker("not_on_citus")
    if url and marker and ExternalServer(url).is_citus:
        pytest.skip(f"Citus: {marker.args[0]}")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> GoldenFiles:
    return GoldenFiles(rewrite=request.config.getoption("--rewrite"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server that all tests of this process share. Never stop it; use `own_postgres` for that."""
    if EXTERNAL_SERVER in os.environ:
        pytest.skip("this test needs the tests' own server")
    data_dir = _data_dir()
    server = EmbeddedPostgres(data_dir)
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Databases of the tests' own server, or of the one whose URL is in `EXTERNAL_SERVER`.

    Its user must be a superuser. Tests that stop the server, or change it as a whole, use their own.
    """
    url = os.environ.get(EXTERNAL_SERVER)
    if not url:
        yield Databases(request.getfixturevalue("postgres"))
        return
    databases = Databases(ExternalServer(url), prefix=f"test_{os.getpid()}")
    yield databases
    databases.drop()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    with databases.one() as url:
        yield url


@pytest.fixture(scope="session")
def log_schema(databases: Databases) -> LogSchema:
    with databases.one() as url:
        return LogSchema(url)


@pytest.fixture
def log_url(databases: Databases, log_schema: LogSchema) -> Iterator[str]:
    """The URL of an empty transaction log for this test alone."""
    with databases.log(log_schema) as url:
        yield url


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The data of a stopped server, to be copied: creating it takes three times as long."""
    data_dir = _data_dir()
    server = EmbeddedPostgres(data_dir)
    server.start()
    server.stop()
    yield data_dir / "postgres"
    shutil.rmtree(data_dir)


@pytest.fixture
def data_dir(cluster: Path, home: Path) -> Path:
    """The data directory of a stopped server."""
    subprocess.run(["cp", "-a", cluster, home], check=True)
    return home


@pytest.fixture
def own_postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A started server for this test alone. The test may stop, crash and start it."""
    server = EmbeddedPostgres(data_dir)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for a PostgreSQL server.

    The server runs as another user, and pytest denies other users access to /tmp/pytest-of-root.
    """
    home = _data_dir()
    yield home
    shutil.rmtree(home)


def _data_dir() -> Path:
    """Return a short path, because the address of a socket is limited to about 100 bytes."""
    return Path(tempfile.mkdtemp(prefix="tcc-test-"))
