"""The examples of docs/EMBEDDING.md run as they are printed."""

import asyncio
import re
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import create_engine

from tcc import Participant
from tests.support import daemon
from tests.support.ports import free_port
from tests.support.processes import TIMEOUT_S, python

PAGE = (Path(__file__).parents[2] / "docs" / "EMBEDDING.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))
SERVING = health_pb2.HealthCheckResponse.SERVING
TABLES = "CREATE TABLE stock (sku TEXT PRIMARY KEY, free INT, held INT); INSERT INTO stock VALUES ('A', 1, 0)"


def write(directory: Path, name: str, **replacements: str) -> None:
    text = BLOCKS[name]
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    (directory / name).write_text(text)


@asynccontextmanager
async def web_server(directory: Path) -> AsyncIterator[str]:
    """Serve fastapi_shop.py by uvicorn during the block; SIGTERM ends it."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    async with python(
        *("-m", "uvicorn", "fastapi_shop:app", f"--host={host}", f"--port={port}", "--no-access-log"),
        directory=directory,
    ) as process:
        assert process.stderr is not None
        while b"Uvicorn running" not in (line := await process.stderr.readline()):
            assert line, "uvicorn has ended"
        yield f"http://{address}"
        process.terminate()
        assert await asyncio.wait_for(process.wait(), TIMEOUT_S) in {0, -15}  # uvicorn repeats the signal


@pytest.mark.slow
async def test_fastapi_is_participant_and_initiator_in_one_process(tmp_path: Path, database_url: str) -> None:
    database = sqlite3.connect(tmp_path / "stock.db")
    database.executescript(TABLES)
    inventory = f"127.0.0.1:{free_port()}"
    config = f'[log]\nurl = "{database_url}"\n[participants.inventory]\ntarget = "{inventory}"\n'
    async with daemon.serving(tmp_path, config) as coordinator:
        write(
            tmp_path,
            "fastapi_shop.py",
            **{"127.0.0.1:50051": inventory, "127.0.0.1:50050": coordinator.address},
        )
        async with web_server(tmp_path) as url, httpx.AsyncClient(timeout=TIMEOUT_S) as http:
            bought = await http.post(f"{url}/orders/1/A")
            refused = await http.post(f"{url}/orders/2/A")

    assert (bought.json(), refused.json()) == ({"confirmed": True}, {"confirmed": False})
    assert database.execute("SELECT free FROM stock").fetchone() == (0,)
    database.close()


class Handlers:
    def try_(self, branch, request, db): ...
    def confirm(self, branch, request, db): ...
    def cancel(self, branch, request, db): ...


@pytest.fixture
def in_a_thread(tmp_path: Path) -> SimpleNamespace:
    """The page's function, and a participant for it."""
    names: dict[str, object] = {}
    exec(compile(BLOCKS["in_a_thread.py"], "in_a_thread.py", "exec"), names)
    participant = Participant("threaded", database=create_engine(f"sqlite:///{tmp_path / 'threaded.db'}"))
    participant.action("act")(Handlers)
    return SimpleNamespace(run=names["in_a_thread"], participant=participant)


def status(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status


def test_a_participant_serves_in_a_thread_and_can_run_again(in_a_thread: SimpleNamespace) -> None:
    for _ in range(2):
        with in_a_thread.run(in_a_thread.participant, "127.0.0.1:0") as port:
            assert status(port) == SERVING


def test_a_thread_that_cannot_serve_raises_the_reason(in_a_thread: SimpleNamespace) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        host, port = other.getsockname()
        context = in_a_thread.run(in_a_thread.participant, f"{host}:{port}")
        with pytest.raises(OSError, match="cannot listen"):
            context.__enter__()


MANAGE = """
import sys
import django
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(INSTALLED_APPS=["shop"])
django.setup()
execute_from_command_line(sys.argv)
"""
INVENTORY = """
from sqlalchemy import create_engine
from tcc import Participant

inventory = Participant("inventory", database=create_engine("sqlite:///inventory.db"))
"""


@pytest.mark.slow
async def test_django_serves_a_participant_by_a_management_command(tmp_path: Path) -> None:
    commands = tmp_path / "shop" / "management" / "commands"
    commands.mkdir(parents=True)
    for folder in (commands, commands.parent, commands.parent.parent):
        (folder / "__init__.py").touch()
    (tmp_path / "shop" / "inventory.py").write_text(INVENTORY)
    (tmp_path / "manage.py").write_text(MANAGE)
    write(commands, "serve_inventory.py")
    address = f"127.0.0.1:{free_port()}"

    arguments = ("manage.py", "serve_inventory", f"--listen={address}")
    async with (
        python(*arguments, directory=tmp_path, stdout=None, stderr=None) as process,
        grpc.aio.insecure_channel(address) as channel,
    ):
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)
    assert process.returncode == 0
