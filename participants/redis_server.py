"""A Redis server of this process's own, on a socket, without persistence."""

import importlib
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READY_TIMEOUT_S = 30.0


def missing() -> str:
    """Return what is not installed here, or an empty string."""
    if shutil.which("redis-server") is None:
        return "no redis-server is installed (Debian: apt-get install redis-server)"
    if importlib.util.find_spec("redis") is None:
        return "the package redis is not installed: pip install 'tcc-demo[redis]'"
    return ""


def open_client(socket: str) -> Any:
    """Return redis-py's asyncio client. Benchmarks without Redis do not need the package."""
    return importlib.import_module("redis.asyncio").Redis(unix_socket_path=socket)


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a server during the block; yield the path of its socket."""
    home = Path(tempfile.mkdtemp(prefix="tcc-redis-"))
    socket = home / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(home)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError("redis-server does not listen")
            time.sleep(0.01)
        yield str(socket)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(home)
