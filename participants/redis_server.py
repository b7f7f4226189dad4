"""Redis servers on a socket: one of this process's own without persistence, and the command of any."""

import importlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Of what a server loses, at most the last second or two.
DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
# A line of its output.
READY_LINE = r".*(ready to accept connections at).*"

_IN_MEMORY = ("--save", "")
_READY_TIMEOUT_S = 30.0


def missing() -> str:
    """Return what is not installed here, or an empty string."""
    if shutil.which("redis-server") is None:
        return "no redis-server is installed (Debian: apt-get install redis-server)"
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed: pip install 'tcc-demo[redis]'"
    return ""


def command(home: Path, persistence: Sequence[str]) -> list[str]:
    """Return the command of a server with its files in `home`, and its socket `redis.sock` beside them."""
    return [
        *("redis-server", "--port", "0", "--unixsocket", str(home / "redis.sock")),
        *("--dir", str(home), *persistence),
    ]


def open_client(path: str) -> Any:
    """Return redis-py's asyncio client. Benchmarks without Redis do not need the package."""
    return importlib.import_module("redis.asyncio").Redis(unix_socket_path=path)


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a server during the block; yield the path of its socket."""
    home = Path(tempfile.mkdtemp(prefix="tcc-redis-"))
    path = home / "redis.sock"
    server = subprocess.Popen(command(home, _IN_MEMORY), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not _listens(path):
            if server.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError("redis-server does not listen")
            time.sleep(0.01)
        yield str(path)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(home)


def _listens(path: Path) -> bool:
    """Return whether a server accepts connections. Its socket exists a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
