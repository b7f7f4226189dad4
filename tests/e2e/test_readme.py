"""The examples of the README run as they are printed."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.support import daemon
from tests.support.ports import free_port
from tests.support.processes import python, run_python

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def block(name: str) -> str:
    """Return the code block whose first comment names this file."""
    found = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found.group(1)


def code_lines(name: str) -> int:
    return sum(bool(line.strip()) for line in block(name).splitlines())


class Shop:
    """A directory with the README's files, their ports changed to free ones."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inventory = f"127.0.0.1:{free_port()}"
        self.coordinator = ""

    def write(self, name: str) -> str:
        text = block(name).replace("127.0.0.1:50051", self.inventory)
        text = text.replace("127.0.0.1:50050", self.coordinator or "127.0.0.1:50050")
        (self.directory / name).write_text(text)
        return text

    async def run(self, name: str, *arguments: str) -> tuple[str, str]:
        """Run a program. Return its standard output and the last line of its standard error."""
        self.write(name)
        _, out, error = await run_python(name, *arguments, directory=self.directory)
        return out, (error.strip().splitlines() or [""])[-1]


@asynccontextmanager
async def participant(shop: Shop) -> AsyncIterator[None]:
    shop.write("inventory.py")
    async with python("inventory.py", directory=shop.directory, stdout=None, stderr=None) as process:
        async with grpc.aio.insecure_channel(shop.inventory) as channel:
            await asyncio.wait_for(channel.channel_ready(), 120)
        yield
    assert process.returncode == 0


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)
    statements = re.search(r'sqlite3 stock.db "(.*)"', README)
    assert statements
    connection = sqlite3.connect(tmp_path / "stock.db")
    connection.executescript(statements.group(1))
    connection.close()
    config = f'[log]\nurl = "{database_url}"\n' + shop.write("tcc.toml")
    async with participant(shop), daemon.serving(tmp_path, config) as coordinator:
        shop.coordinator = coordinator.address
        yield shop


def stock(shop: Shop) -> tuple[int, int]:
    """Return how many are free and how many are held."""
    connection = sqlite3.connect(shop.directory / "stock.db")
    try:
        return connection.execute("SELECT free, held FROM stock").fetchone()
    finally:
        connection.close()


def sell_out(shop: Shop) -> None:
    with contextlib.closing(sqlite3.connect(shop.directory / "stock.db")) as connection:
        connection.execute("UPDATE stock SET free = 0")
        connection.commit()


async def test_the_participant_and_the_initiators_of_the_readme_work(shop: Shop) -> None:
    out, _ = await shop.run("stepwise.py")
    assert out.startswith("reserved in ")
    assert stock(shop)[0] == 9
    assert (await shop.run("buy.py", "order-1"))[0] in {"CONFIRMING\n", "CONFIRMED\n"}
    again, _ = await shop.run("buy.py", "order-1")
    assert again in {"CONFIRMING\n", "CONFIRMED\n"}
    assert stock(shop)[0] == 8
    sell_out(shop)
    out, error = await shop.run("buy.py", "order-2")
    assert out == ""
    assert "TransactionCancelled" in error
    assert "SOLD_OUT" in error
    assert stock(shop)[0] == 0


def test_the_examples_are_as_short_as_promised() -> None:
    assert code_lines("inventory.py") <= 25
    assert code_lines("buy.py") <= 10
