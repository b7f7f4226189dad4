"""docs/GET_STARTED.md runs as it is printed: its files, and its commands in one shell."""

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

import grpc
import pytest

from tests.support import guide
from tests.support.ports import free_port
from tests.support.processes import TIMEOUT_S
from tests.support.shell import shell

PATH = Path(__file__).parents[2] / "docs" / "GET_STARTED.md"
PAGE = PATH.read_text()
FILES = dict(re.findall(r"^```(?:python|toml)\n# ([\w.]+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
INVENTORY, CREDIT, COORDINATOR = "127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50050"


async def ready(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), TIMEOUT_S)


@pytest.mark.slow
async def test_the_page_runs_as_it_is_printed(tmp_path: Path, database_url: str) -> None:
    ports = {printed: f"127.0.0.1:{free_port()}" for printed in (INVENTORY, CREDIT, COORDINATOR)}
    admin = f"127.0.0.1:{free_port()}"
    for name, text in FILES.items():
        replaced = re.sub(r"127\.0\.0\.1:\d+", lambda found: ports[found[0]], text)
        (tmp_path / name).write_text(replaced)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TCC_LISTEN__ADDRESS": ports[COORDINATOR],
        "TCC_ADMIN__LISTEN": admin,
        "TCC_METRICS__LISTEN": "",
        "TCC_LOG__URL": database_url,
        "TCCCTL_ADDRESS": admin,
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
    }
    async with shell(tmp_path, environment) as reader:
        for step in guide.all_steps(PATH):
            match step:
                case guide.Event():
                    assert step.name == "all are ready"
                    await asyncio.gather(*map(ready, ports.values()))
                case guide.Command():
                    printed = await reader.run(step.line)
                    assert guide.lines(printed) == guide.lines(step.shown), step.line
    assert "listening on" in (tmp_path / "tccd.log").read_text()


def test_every_block_is_a_file_a_command_or_how_to_install() -> None:
    blocks = re.findall(r"^```(\w+)\n", PAGE, re.MULTILINE)
    assert PAGE.count("\n```") == 2 * len(blocks)
    assert blocks.count("python") + blocks.count("toml") == len(FILES)
    # `make demo` is tested on its own (tests/e2e/test_demo.py); the tests have an environment.
    installing = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [shlex.split(block)[0] for block in installing] == ["make", "."]


def test_every_file_is_used() -> None:
    commands = " ".join(re.findall(r"^\$ (.*)", PAGE, re.MULTILINE))
    assert [name for name in FILES if name not in commands] == []
