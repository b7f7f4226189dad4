"""tccctl and idle streams: a hung coordinator is detected, an idle stream continues."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support import daemon
from tests.support.ports import free_port
from tests.support.scripted_barrier import ScriptedBarrier
from tests.support.scripted_participant import serving
from tests.tccctl.test_real_coordinator import tccctl_at

# The exit code, standard output and standard error.
Ended: TypeAlias = tuple[int, str, str]

PATIENCE_S = 240
# A server that does not accept frequent pings closes the connection at the fourth.
MORE_PINGS_THAN_ARE_BORNE_UNMEANT = 6

_PREFACE_BYTES = 24
_FRAME_HEAD_BYTES = 9
_PING, _ACK = 0x6, 0x1


class QuietBarrier(ScriptedBarrier):
    """List its barrier rows once it is allowed to."""

    def __init__(self) -> None:
        super().__init__([[]], [])
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def ListBranches(self, request, context):  # noqa: N802
        self.asked.set()
        await self.may_answer.wait()
        return await super().ListBranches(request, context)


class Pings:
    """Forward the traffic to a server, and count the HTTP/2 pings in it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.address = ""
        self.count = 0
        self._counted = asyncio.Condition()

    async def until(self, count: int) -> None:
        async with self._counted:
            await self._counted.wait_for(lambda: self.count >= count)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._address.rpartition(":")
        back, there = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on_frames(reader, there))
                both.create_task(_pass_on(back, writer))
        finally:
            there.close()
            writer.close()

    async def _pass_on_frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.readexactly(_PREFACE_BYTES))
            while True:
                head = await reader.readexactly(_FRAME_HEAD_BYTES)
                writer.write(head + await reader.readexactly(int.from_bytes(head[:3])))
                if head[3] == _PING and not head[4] & _ACK:
                    async with self._counted:
                        self.count += 1
                        self._counted.notify_all()
        except asyncio.IncompleteReadError:  # the client has left
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def counted_pings(address: str) -> AsyncIterator[Pings]:
    pings = Pings(address)
    server = await asyncio.start_server(pings.connect, "127.0.0.1", 0)
    pings.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield pings
    finally:
        server.close()


class Shop:
    """A coordinator as a process, its admin listener, and a participant."""

    def __init__(self, coordinator: daemon.Daemon, admin: str, barrier: QuietBarrier) -> None:
        self.coordinator = coordinator
        self.admin = admin
        self.barrier = barrier


@pytest.fixture
async def shop(log_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    barrier, admin = QuietBarrier(), f"127.0.0.1:{free_port()}"
    async with serving(barrier) as target:
        config = f"""
            [log]
            url = "{log_url}"
            [admin]
            listen = "{admin}"
            [participants.inventory]
            target = "{target}"
            call_timeout_s = {PATIENCE_S}
        """
        async with daemon.serving(tmp_path, config) as coordinator:
            try:
                yield Shop(coordinator, admin, barrier)
            finally:
                coordinator.process.send_signal(signal.SIGCONT)


async def given_up(shop: Shop, command: "asyncio.Task[Ended]") -> None:
    """The command ends while the coordinator hangs, before one with a longer timeout, which succeeds."""
    patient = asyncio.create_task(tccctl_at(shop.admin, "stats", "--timeout", "15"))
    ended, _ = await asyncio.wait((command, patient), return_when=asyncio.FIRST_COMPLETED)
    shop.coordinator.process.send_signal(signal.SIGCONT)
    assert (await patient)[0] == 0
    assert ended == {command}
    code, out, error = await command
    assert (code, out) == (5, "")
    assert f"{shop.admin} does not respond" in error


@pytest.mark.slow
async def test_a_coordinator_that_hangs_in_a_stream_is_detected(shop: Shop) -> None:
    async with asyncio.timeout(PATIENCE_S):
        command = asyncio.create_task(tccctl_at(shop.admin, "reconcile", "--timeout", "2"))
        await shop.barrier.asked.wait()
        shop.coordinator.process.send_signal(signal.SIGSTOP)
        await given_up(shop, command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("reconcile",), ("tx", "hold", "--filter", "live", "--yes", "--reason", "r")]
)
async def test_a_coordinator_that_already_hangs_is_given_up(shop: Shop, arguments: tuple[str, ...]) -> None:
    shop.coordinator.process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_S):
        await given_up(shop, asyncio.create_task(tccctl_at(shop.admin, *arguments, "--timeout", "2")))


@pytest.mark.slow
async def test_an_idle_stream_continues(shop: Shop) -> None:
    async with asyncio.timeout(PATIENCE_S), counted_pings(shop.admin) as pings:
        command = asyncio.create_task(tccctl_at(pings.address, "reconcile", "--timeout", "2", "-o", "json"))
        await shop.barrier.asked.wait()
        more = asyncio.create_task(pings.until(pings.count + MORE_PINGS_THAN_ARE_BORNE_UNMEANT))
        await asyncio.wait((command, more), return_when=asyncio.FIRST_COMPLETED)
        assert not command.done(), await command
        shop.barrier.may_answer.set()
        code, out, error = await command
    assert (code, error) == (0, "")
    assert json.loads(out)["participants"][0]["outcome"] == "COMPARED"
