"""One rig per kind of engine, shared by the tests of a module: programs leave nothing behind."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.participant_databases import DATABASES, DRIVERS, _engine, _sync

from .rig import Database, Rig

_POOL = {"pool_size": 5, "max_overflow": 0, "pool_timeout": 2}
_numbers = count()


@pytest.fixture(scope="module", params=DATABASES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def rig(kind: str, request: pytest.FixtureRequest) -> Iterator[Rig]:
    with _url(kind, request) as url:
        rig = Rig(_maker(kind, url), _engine(_sync(url)), dialect=url.get_backend_name())
        yield rig
        rig.close()


@pytest.fixture(scope="module", autouse=True)
def quiet_log() -> Iterator[None]:
    """Suppress hundreds of tracebacks: pytest-xdist accepts no lone surrogates in them."""
    logger = logging.getLogger("tcc")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def _maker(kind: str, url: URL) -> Callable[[], Database]:
    def make() -> Database:
        if kind.endswith("async"):
            return create_async_engine(url, **_POOL)
        # It is a socket. To get ready for TLS takes PyMySQL longer than a program.
        arguments = {"ssl_disabled": True} if url.drivername == "mysql+pymysql" else {}
        return create_engine(url, connect_args=arguments, **_POOL)

    return make


@contextlib.contextmanager
def _url(kind: str, request: pytest.FixtureRequest) -> Iterator[URL]:
    driver = DRIVERS[kind]
    if kind.startswith("sqlite"):
        with tempfile.TemporaryDirectory() as home:
            yield make_url(f"{driver}:///{Path(home) / 'participant.db'}")
    elif kind.startswith("postgresql"):
        with request.getfixturevalue("databases").one() as url:
            yield make_url(url).set(drivername=driver)
    else:
        server: URL = request.getfixturevalue("mariadb_server")
        name = f"handlers_{next(_numbers)}"
        with _engine(server).begin() as db:
            db.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        yield server.set(drivername=driver, database=name)
        with _engine(server).begin() as db:
            db.execute(text(f"DROP DATABASE {name}"))
