"""A PostgreSQL on a small disk of its own, which can be filled up and extended.

The disk is a tmpfs in the mount namespace of a child process, so it is removed when that
process ends. Its files are visible only there. The server's socket is elsewhere, because
the path of the data is too long for a socket's address.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from time import monotonic

import psycopg

from coordinator.embedded_postgres.server import EmbeddedPostgres
from participants.child_process import Child
from proof.faults.scenarios import disk_full

_DISK_BYTES = 160 * 2**20
_EXTENDED_BYTES = 2 * _DISK_BYTES
_TIMEOUT_S = 180.0
_RECOVERY_S = 20.0
# Decreasing, so that there is not even room for the record that would end a recovery.
_WRITES_BYTES = (2**20, 2**16, 2**12, 2**8, 2**4, 0)


class SmallDisk:
    """The server on the disk, at `url`."""

    def __init__(self, process: Child, url: str) -> None:
        self._process = process
        self.url = url

    async def fill(self) -> None:
        """Fill the disk, and write until the server ends because it is full."""
        await self._execute("fill")

    async def extend(self) -> None:
        """Enlarge the disk, and start the server again."""
        await self._execute("extend")

    async def _execute(self, command: str) -> None:
        await self._process.write(command)
        assert await asyncio.wait_for(self._process.next_line(), _TIMEOUT_S) == "done"


@asynccontextmanager
async def postgres_on_a_small_disk() -> AsyncIterator[SmallDisk]:
    """Run the server during the block. `disk_full.why_not` returns why that is not permitted, if so."""
    place = Path(tempfile.mkdtemp(prefix="tcc-test-"))
    process = await Child.start(
        "small disk",
        *("unshare", "--mount", sys.executable, "-m", __name__, str(place / ("d" * 80))),
        log=place / "log",
        stdin=PIPE,
    )
    try:
        yield SmallDisk(process, await asyncio.wait_for(process.next_line(), _TIMEOUT_S))
    finally:
        await process.stop()
        shutil.rmtree(place)


def main(home: Path) -> None:
    """Run the child process: print the URL, then execute commands until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    disk_full.mount(home, _DISK_BYTES)
    server = EmbeddedPostgres(home)
    server.start()
    try:
        print(server.url(), flush=True)
        for word in sys.stdin:
            if word.strip() == "fill":
                _fill(home / "ballast", server)
            else:
                subprocess.run(["mount", "-o", f"remount,size={_EXTENDED_BYTES}", str(home)], check=True)
                server.restart("immediate")
            print("done", flush=True)
    finally:
        server.stop("immediate")
        disk_full.unmount(home)


def _fill(ballast: Path, server: EmbeddedPostgres) -> None:
    """Fill the disk until the server ends. Stop it if it hangs: its recovery may have failed."""
    hangs_at = monotonic() + _RECOVERY_S
    for size in cycle(_WRITES_BYTES):
        disk_full.fill(ballast)
        try:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                while True:
                    connection.execute("SELECT pg_logical_emit_message(true, '', repeat('x', %s))", (size,))
        except psycopg.OperationalError as error:
            if _has_ended(error):
                return
            if monotonic() > hangs_at:
                server.stop("immediate")
                return


def _has_ended(error: psycopg.OperationalError) -> bool:
    """Return whether the server has ended. A server in recovery still accepts connections."""
    return "No such file or directory" in str(error) or "Connection refused" in str(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
