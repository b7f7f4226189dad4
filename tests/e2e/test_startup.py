"""`tccd` before it serves: errors in one line, signals, and a log that is not available yet."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psycopg
import pytest

from coordinator.embedded_postgres.server import EmbeddedPostgres
from tests.support import daemon
from tests.support.processes import TIMEOUT_S, ended, python, run_python

NOWHERE = "postgresql://user:secret@127.0.0.1:1/tcc"


def tccd(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return python("-m", "coordinator", *arguments, environment=environment)


async def refusal(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """The exit status and the only line of a command that says no and nothing else."""
    async with tccd(*arguments, environment=environment) as process:
        status, out, error = await ended(process)
    assert out == ""
    (line,) = error.splitlines()
    return status, line


async def said(stream: asyncio.StreamReader | None, words: str) -> str:
    """The next line with these words."""
    assert stream is not None
    async with asyncio.timeout(TIMEOUT_S):
        while words not in (line := (await stream.readline()).decode()):
            assert line, f"it ended before it said {words!r}"
    return line


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another process."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.005)


def working_in(directory: Path) -> set[int]:
    """The processes that work in a directory, as an embedded PostgreSQL does."""
    return {pid for pid in pids() if cwd(pid).is_relative_to(directory)}


def pids() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def cwd(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # it has ended
        return Path("/")


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--listen=127.0.0.1:0"],
        pytest.param(["migrate"], marks=pytest.mark.slow),
        pytest.param(["postgres"], marks=pytest.mark.slow),
    ],
)
async def test_a_data_directory_that_another_uses_is_refused(
    postgres: EmbeddedPostgres, command: list[str]
) -> None:
    home = home_of(postgres)
    arguments = [*command, f"--data-dir={home}"] if command == ["postgres"] else command
    words = (
        f"data directory {home} is in use by another tccd; "
        "to run several coordinators, give all of them the same [log] url"
    )
    assert await refusal(*arguments, environment={"TCC_LOG__DATA_DIR": str(home)}) == (2, words)


def home_of(postgres: EmbeddedPostgres) -> Path:
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0]).parent


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_in_use_is_refused_before_anything_is_started(tmp_path: Path, workers: int) -> None:
    with socket.socket() as theirs:
        # One who would share it, as the workers of another coordinator do.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        address = f"127.0.0.1:{theirs.getsockname()[1]}"
        data_dir = tmp_path / "data"
        assert await refusal(
            "serve",
            f"--listen={address}",
            f"--workers={workers}",
            environment={"TCC_LOG__DATA_DIR": str(data_dir)},
        ) == (2, f"cannot listen on {address}: Address already in use")
    assert not data_dir.exists()


@pytest.mark.slow
async def test_a_wrong_address_is_refused() -> None:
    status, line = await refusal("serve", "--listen=127.0.0.1:99999")
    assert (status, line.split(": ")[:2]) == (2, ["command line", "listen.address"])


@pytest.mark.slow
async def test_a_wrong_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text("[log\n")
    status, line = await refusal("serve", f"--config={path}")
    assert (status, line.partition(": ")[0]) == (2, str(path))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["migrate", "serve"])
@pytest.mark.parametrize("url", [NOWHERE.replace("postgresql", "mysql"), f"{NOWHERE}?nonsense=1"])
async def test_a_log_url_that_makes_no_sense_is_refused(command: str, url: str) -> None:
    status, line = await refusal(
        command, environment={"TCC_LOG__URL": url, "TCC_LISTEN__ADDRESS": "127.0.0.1:0"}
    )
    assert status == 2
    assert "log.url: " in line
    assert "secret" not in line


@pytest.mark.slow
async def test_migrate_reports_an_unreachable_log_in_one_line() -> None:
    status, line = await refusal("migrate", environment={"TCC_LOG__URL": NOWHERE})
    assert status == 1
    assert line.startswith("the log cannot be reached: ")
    assert "secret" not in line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["migrate", "serve"])
async def test_the_log_of_a_newer_version_that_allows_no_older_is_refused(command: str, log_url: str) -> None:
    """As after a rollback over several releases."""
    with psycopg.connect(log_url) as connection:
        connection.execute("UPDATE tcc.alembic_version SET version_num = '9999', oldest = '9999'")
    environment = {"TCC_LOG__URL": log_url, "TCC_LISTEN__ADDRESS": "127.0.0.1:0"}
    status, line = await refusal(command, environment=environment)
    assert status == 2
    assert line.startswith("the log is at 9999, and this version of tccd supports it up to ")


async def test_serve_waits_for_its_log(postgres: EmbeddedPostgres) -> None:
    name = "log_that_comes_later"
    environment = {"TCC_LOG__URL": postgres.url(name)}
    async with tccd("serve", "--listen=127.0.0.1:0", environment=environment) as process:
        await said(process.stderr, "waiting for the log")
        postgres.create_database(name)
        await said(process.stdout, "listening on")
    assert process.returncode == 0


@pytest.mark.slow
async def test_serve_that_waits_for_its_log_ends_on_sigterm() -> None:
    environment = {"TCC_LOG__URL": NOWHERE}
    async with tccd("serve", "--listen=127.0.0.1:0", environment=environment) as process:
        line = await said(process.stderr, "waiting for the log")
    assert "secret" not in line
    assert process.returncode == 0


@pytest.fixture
def blocked_log(home: Path) -> Iterator[int]:
    """A full pipe in place of the embedded PostgreSQL's log: until it is read, the server gets no further."""
    path = home / "postgres.log"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"\n")
    yield pipe
    os.close(pipe)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_its_postgres_starts_ends_all_in_order(
    home: Path, blocked_log: int, number: signal.Signals
) -> None:
    environment = {"TCC_LOG__DATA_DIR": str(home)}
    async with tccd("serve", "--listen=127.0.0.1:0", environment=environment) as process:
        await until(lambda: bool(working_in(home / "postgres")))
        process.send_signal(number)
        asyncio.get_running_loop().add_reader(blocked_log, os.read, blocked_log, 65_536)
        assert await ended(process) == (0, "", "")
        asyncio.get_running_loop().remove_reader(blocked_log)
    await until(lambda: not working_in(home))


@pytest.mark.slow
async def test_a_worker_that_dies_is_noticed_while_another_is_starting(
    database_url: str, tmp_path: Path
) -> None:
    async with daemon.serving(tmp_path, f'[log]\nurl = "{database_url}"', workers=2) as coordinator:
        supervisor = coordinator.process.pid
        first, second = coordinator.workers
        before = children(supervisor)
        coordinator.kill_worker(first)
        await until(lambda: bool(children(supervisor) - before))
        (starting,) = children(supervisor) - before
        # Until it has called exec, the supervisor is blocked in fork: it would be stopped with it.
        await until(lambda: command_line(starting) != command_line(supervisor))
        # It never becomes ready.
        os.kill(starting, signal.SIGSTOP)
        try:
            coordinator.kill_worker(second)
            async with asyncio.timeout(TIMEOUT_S):
                # On a busy machine it may have said that it is ready before it was stopped.
                while await coordinator.next_worker() == starting:
                    pass
        finally:
            os.kill(starting, signal.SIGCONT)


@pytest.mark.slow
async def test_a_skipped_job_is_not_logged() -> None:
    code = (
        "import logging; from coordinator.observability.logging import configure_logging; "
        "configure_logging();"
        "log = logging.getLogger('apscheduler.scheduler'); log.warning('skipped'); log.error('failed')"
    )
    assert await run_python("-c", code) == (0, "", "ERROR apscheduler.scheduler failed\n")
