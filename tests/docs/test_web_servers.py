"""The programs and commands of docs/WEB_SERVERS.md run as they are printed, against a real coordinator."""

import asyncio
import os
import re
import shlex
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import scripted_participant, worker
from tests.support.processes import TIMEOUT_S, ended, python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "WEB_SERVERS.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
SERVERS = [command for command in COMMANDS if not command.startswith("celery")]
# The application makes a call while it is loaded: in the parent, if that loads it.
CALL_AT_IMPORT = "\nlist(client.list(page_size=1))\n"
CELERY_CONFIG = """
broker_url = "filesystem://"
broker_transport_options = {
    "data_folder_in": "queue",
    "data_folder_out": "queue",
    "control_folder": "control",
}
result_backend = "file://results"
"""


class Shop:
    """A directory with the page's programs, and the coordinator that they call."""

    def __init__(self, directory: Path, address: str, participant: scripted_participant.ScriptedParticipant):
        self.directory = directory
        self.address = address
        self.participant = participant

    def write(self, name: str, more: str = "") -> None:
        program = PROGRAMS[name].replace("127.0.0.1:50050", self.address)
        (self.directory / name).write_text(program + more)

    @asynccontextmanager
    async def running(self, command: str) -> AsyncIterator[Process]:
        """Run a command beside the block. Its two outputs are one."""
        program, *arguments = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / program,
            *arguments,
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{self.directory}", "C_FORCE_ROOT": "1"},
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
            print(output.decode())  # pytest shows it if the test fails

    def tried(self) -> list[str]:
        return sorted({call.gid for call in self.participant.calls})


@pytest.fixture
async def shop(tmp_path: Path, log_url: str) -> AsyncIterator[Shop]:
    participant = scripted_participant.ScriptedParticipant()
    async with scripted_participant.serving(participant) as target:
        settings = worker.settings_for({"inventory": {"target": target}})
        async with worker.running(settings, log_url) as coordinator:
            yield Shop(tmp_path, coordinator.address, participant)


async def until_printed(process: Process, pattern: str) -> str:
    """Wait for a line that matches, and return its first group."""
    lines = []
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        while line := (await process.stdout.readline()).decode():
            lines.append(line)
            if found := re.search(pattern, line):
                return found.group(1)
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("loading", ["", CALL_AT_IMPORT], ids=["", "call while loading"])
@pytest.mark.parametrize("command", SERVERS)
async def test_orders_over_http(shop: Shop, command: str, loading: str):
    if command.startswith("gunicorn"):
        command = command.replace("gunicorn", "gunicorn --bind 127.0.0.1:0")
        address = r"Listening at: http://(\S+)"
    else:
        command = command.replace("127.0.0.1:8000", "127.0.0.1:0")
        address = r"bound to TCP address (\S+)"
    shop.write("shop.py", loading)
    gids = [f"order-{number}" for number in range(20)]
    async with shop.running(command) as process:
        url = f"http://{await until_printed(process, address)}"
        # New connections, so that all workers get some.
        responses = await asyncio.gather(*(asyncio.to_thread(order, url, gid) for gid in gids))
    assert {response.status_code for response in responses} == {200}
    assert {response.json()["state"] for response in responses} <= {"CONFIRMING", "CONFIRMED"}
    assert shop.tried() == sorted(gids)


def order(url: str, gid: str) -> httpx.Response:
    return httpx.post(f"{url}/orders/{gid.removeprefix('order-')}", timeout=TIMEOUT_S)


async def test_without_lazy_apps_a_call_while_loading_is_explained(shop: Shop):
    [command] = [command for command in SERVERS if command.startswith("uwsgi")]
    shop.write("shop.py", CALL_AT_IMPORT)
    command = command.replace(" --lazy-apps", "").replace("127.0.0.1:8000", "127.0.0.1:0")
    async with shop.running(command) as process:
        address = await until_printed(process, r"bound to TCP address (\S+)")
        response = await asyncio.to_thread(order, f"http://{address}", "order-1")
        assert response.status_code == 500
        assert await until_printed(process, "RuntimeError: (this process was forked)")


@pytest.mark.parametrize("loading", ["", CALL_AT_IMPORT], ids=["", "call while loading"])
async def test_orders_by_celery(shop: Shop, loading: str):
    [command] = [command for command in COMMANDS if command.startswith("celery")]
    for name in ("queue", "control", "results"):
        (shop.directory / name).mkdir()
    (shop.directory / "celeryconfig.py").write_text(CELERY_CONFIG)
    shop.write("tasks.py", loading)
    send = "from tasks import order; print([order.delay(str(n)) for n in range(6)][-1].get(timeout=120))"
    async with shop.running(command):
        environment = {"PYTHONPATH": f"{ROOT}:{shop.directory}"}
        async with python("-c", send, directory=shop.directory, environment=environment) as sender:
            sent = await ended(sender)
        async with asyncio.timeout(TIMEOUT_S):
            await shop.participant.until(lambda: len({call.gid for call in shop.participant.calls}) == 6)
    assert sent.out.strip() in {"CONFIRMING", "CONFIRMED"}, sent.error
    assert shop.tried() == [f"order-{number}" for number in range(6)]
