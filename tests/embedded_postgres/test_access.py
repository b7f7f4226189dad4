"""The embedded PostgreSQL lets no other local user in, neither to its data nor to its socket."""

import os
import pwd
import stat
import subprocess
from pathlib import Path

import pytest

from coordinator.embedded_postgres import server as embedded
from coordinator.embedded_postgres.directory_access import ENTER, READ, allow
from coordinator.embedded_postgres.server import EmbeddedPostgres

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
STRANGER = "daemon"


def by_stranger(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, user=STRANGER, group=STRANGER_GROUP, extra_groups=[], cwd="/", capture_output=True,
        text=True, check=False,
    )  # fmt: skip


STRANGER_GROUP = pwd.getpwnam(STRANGER).pw_gid


def may_enter(directory: Path) -> bool:
    return by_stranger("/bin/sh", "-c", 'cd "$1"', "sh", directory).returncode == 0


def test_all_that_is_written_is_for_its_owner_alone(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.create_database("d")
    home = own_postgres._home
    paths = [*home.rglob("*")]
    assert len(paths) > 100
    for path in paths:
        mode = path.lstat().st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) or stat.S_ISSOCK(mode) else 0o600
        assert stat.S_IMODE(mode) == wanted, path


def test_a_new_data_directory_is_closed_to_others(home: Path) -> None:
    server = EmbeddedPostgres(home / "made" / "var")
    server._make_home()
    assert stat.S_IMODE((home / "made" / "var").stat().st_mode) == 0o700


@as_root
def test_no_other_user_can_connect(own_postgres: EmbeddedPostgres) -> None:
    connect = (embedded.bin_dir() / "psql", own_postgres.url(), "--command", "SELECT 1")
    assert "Permission denied" in by_stranger(*connect).stderr
    # Even where the directory and the socket were opened to all users.
    for path in (own_postgres._home, own_postgres._cluster):
        path.chmod(0o755)
    (own_postgres._socket_dir / embedded._SOCKET_NAME).chmod(0o777)
    refused = by_stranger(*connect)
    assert refused.returncode != 0
    assert 'Peer authentication failed for user "postgres"' in refused.stderr


@as_root
def test_only_the_server_is_let_into_directories_that_exist(home: Path) -> None:
    """The data of root below a directory of root."""
    private = home / "private"
    private.mkdir(mode=0o700)
    home.chmod(0o755)
    server = EmbeddedPostgres(private / "data")
    server.start()
    try:
        assert server.owned
        assert private.stat().st_mode & stat.S_IRWXO == 0
        assert not may_enter(private)
    finally:
        server.stop()


@as_root
def test_a_permission_is_given_to_one_user_and_to_no_other(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir(mode=0o770)
    one, other = 4001, 4002
    allow(directory, one, READ | ENTER)
    # The group has all bits; what is masked stays without effect when another user is added.
    directory.chmod(0o700)
    allow(directory, other, ENTER)
    allow(directory, other, ENTER)

    def may(uid: int, what: str) -> bool:
        script = f'[ -{what} "$1" ]'
        tried = subprocess.run(
            ["/bin/sh", "-c", script, "sh", f"/proc/self/fd/{opened}"],
            user=uid, group=uid, extra_groups=[], pass_fds=[opened], check=False,
        )  # fmt: skip
        return tried.returncode == 0

    opened = os.open(directory, os.O_PATH)
    try:
        assert {(uid, what): may(uid, what) for uid in (one, other, 4003) for what in "rx"} == {
            (one, "r"): False, (one, "x"): False,
            (other, "r"): False, (other, "x"): True,
            (4003, "r"): False, (4003, "x"): False,
        }  # fmt: skip
    finally:
        os.close(opened)
