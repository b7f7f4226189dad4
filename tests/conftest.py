"""Real PostgreSQL for every test that needs one: one server a test process, one database a test."""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from coordinator.log.embedded import EmbeddedPostgres
from coordinator.log.migration import migrate

_numbers = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The server that all tests of this process share. Never stop it; `own_postgres` is for that."""
    data_dir = _data_dir()
    server = EmbeddedPostgres(data_dir)
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(data_dir)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def log_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database that has the schema of the log; copying it is cheaper than migrating."""
    name = "log_template"
    postgres.create_database(name)
    migrate(postgres.url(name))
    return name


@pytest.fixture
def log_url(postgres: EmbeddedPostgres, log_template: str) -> Iterator[str]:
    """The URL of an empty transaction log for this test alone."""
    name = f"log_{next(_numbers)}"
    postgres.create_database(name, template=log_template)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A started server for this test alone, which may stop, crash and start it."""
    data_dir = _data_dir()
    server = EmbeddedPostgres(data_dir)
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(data_dir)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that a PostgreSQL may work in.

    It runs as another user, whom a run of pytest that begins shuts out of those below /tmp/pytest-of-root.
    """
    home = _data_dir()
    yield home
    shutil.rmtree(home)


def _data_dir() -> Path:
    """A short path: a socket's address has to fit in about 100 bytes."""
    return Path(tempfile.mkdtemp(prefix="tcc-test-"))
