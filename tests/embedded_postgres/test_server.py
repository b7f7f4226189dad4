import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from coordinator.embedded_postgres import server as embedded
from coordinator.embedded_postgres.server import EmbeddedPostgres, EmbeddedPostgresError

OWNER = """
import sys, time
from coordinator.embedded_postgres.server import EmbeddedPostgres
server = EmbeddedPostgres(sys.argv[1])
server.start()
print("started", flush=True)
time.sleep(600)
"""


def ask(server: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def server_pid(server: EmbeddedPostgres) -> int:
    return int((server._cluster / "postmaster.pid").read_text().splitlines()[0])


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def owner(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns a running server in `data_dir`."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "started\n"
        pid = server_pid(EmbeddedPostgres(data_dir))
        yield process
        process.kill()
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_commits_survive_a_crash_of_the_server(own_postgres: EmbeddedPostgres) -> None:
    ask(own_postgres, "CREATE TABLE kept AS SELECT 1 AS n")
    own_postgres.restart("immediate")
    assert ask(own_postgres, "SELECT n FROM kept") == [(1,)]


def test_it_is_durable(postgres: EmbeddedPostgres) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert ask(postgres, f"SHOW {setting}") == [("on",)]


def test_a_database_is_created_once(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.create_database("of mine/1")
    own_postgres.create_database("of mine/1")
    with psycopg.connect(own_postgres.url("of mine/1")) as connection:
        assert connection.info.dbname == "of mine/1"


def test_stopping_leaves_no_process(own_postgres: EmbeddedPostgres) -> None:
    assert own_postgres._server is not None
    assert own_postgres._watcher is not None
    pids = own_postgres._server.pid, own_postgres._watcher.pid
    own_postgres.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_server_ends_when_its_owner_is_killed(data_dir: Path, owner: "subprocess.Popen[str]") -> None:
    pid = server_pid(EmbeddedPostgres(data_dir))
    owner.kill()
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_second_process_attaches_and_never_stops_the_server(
    data_dir: Path, owner: "subprocess.Popen[str]"
) -> None:
    second = EmbeddedPostgres(data_dir)
    second.start()
    assert not second.owned
    second.stop()
    assert ask(second, "SELECT 1") == [(1,)]


def test_a_start_right_after_the_owner_was_killed_owns_a_new_server(
    data_dir: Path, owner: "subprocess.Popen[str]"
) -> None:
    second = EmbeddedPostgres(data_dir)
    before = server_pid(second)
    ask(second, "CREATE TABLE kept AS SELECT 1 AS n")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    second.start()
    try:
        assert second.owned
        assert server_pid(second) != before
        assert ask(second, "SELECT n FROM kept") == [(1,)]
    finally:
        second.stop()


@pytest.mark.parametrize("lock_file", ["postmaster.pid", ".s.PGSQL.5432.lock"])
def test_a_lock_file_with_a_foreign_pid_does_not_prevent_the_start(data_dir: Path, lock_file: str) -> None:
    server = EmbeddedPostgres(data_dir)
    # A live process of the server's own user, so that PostgreSQL would trust the file.
    with subprocess.Popen(["sleep", "600"], user=server._cluster.stat().st_uid, cwd="/") as stranger:
        lines = [str(stranger.pid), str(server._cluster), "1700000000", "5432", str(server._cluster), "", ""]
        (server._cluster / lock_file).write_text("\n".join(lines))
        try:
            server.start()
            assert server.owned
            server.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_server_that_died_is_revived_and_keeps_what_was_committed(own_postgres: EmbeddedPostgres) -> None:
    ask(own_postgres, "CREATE TABLE kept AS SELECT 1 AS n")
    assert not own_postgres.revive()
    assert own_postgres._server is not None
    own_postgres._server.kill()
    until(own_postgres.revive)
    until(own_postgres._answers)
    assert ask(own_postgres, "SELECT n FROM kept") == [(1,)]
    # It still ends with its owner.
    assert own_postgres._watcher is not None
    assert own_postgres._watcher.poll() is None


def test_no_server_starts_beside_a_process_of_one_that_died(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes without a postmaster may still write; without the pid file PostgreSQL has no protection."""
    session = psycopg.connect(own_postgres.url())
    left_over = session.info.backend_pid
    os.kill(left_over, signal.SIGSTOP)
    assert own_postgres._server is not None
    own_postgres._server.kill()
    own_postgres._server.wait()
    waited_for: list[str] = []

    def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
        if not condition():
            waited_for.append(otherwise)
            os.kill(left_over, signal.SIGCONT)
        until(condition)

    monkeypatch.setattr(embedded, "_wait_until", wait_until)
    assert own_postgres.revive()
    assert waited_for == [f"processes of a former server in {own_postgres._cluster} do not end"]
    until(own_postgres._answers)


def test_a_server_that_cannot_start_reports_the_cause(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("9.6\n")
    server = EmbeddedPostgres(data_dir)
    with pytest.raises(EmbeddedPostgresError, match="incompatible with server"):
        server.start()
    assert not server.owned


def test_a_long_path_works(home: Path) -> None:
    server = EmbeddedPostgres(home / ("long" * 30))
    server.start()
    try:
        assert ask(server, "SELECT 1") == [(1,)]
    finally:
        server.stop()
    assert not server._socket_dir.exists()
