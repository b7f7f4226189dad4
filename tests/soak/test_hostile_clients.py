"""Hostile clients beside an honest one, against a real `tccd` that may open 1,024 files.

Two minutes; `TCC_SOAK_S=600 pytest -s -m slow tests/soak` takes ten, and prints the figures.

The honest client's rate under attack is compared with its rate while the same program attacks another
coordinator, a decoy: the attackers take the same share of the machine, but not of this coordinator.
What the attack may take away is the share of CPU time that it costs the coordinator; a phase without
the honest client shows it. No transaction of the honest client may fail.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tcc
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tests.support.daemon import Daemon
from tests.support.databases import Databases
from tests.support.log_schema import LogSchema
from tests.support.ports import free_port
from tests.support.processes import python
from tests.support.scripted_participant import ScriptedParticipant, serving

SOAK_S = float(os.environ.get("TCC_SOAK_S", "120"))
FILES_MAX = 1_024
IN_FLIGHT = 32
MIB = 2**20
SHARE_KEPT = 0.8
MEMORY_KEPT_MIB = 50


class Stock(ScriptedParticipant):
    """Succeeds at once; the action "large" returns a large result. It remembers no calls."""

    async def _answer(self, call: participant_pb2.BranchCall, index: int = 0) -> common.CallResult:
        is_large = call.action == "large" and call.operation == common.OPERATION_TRY
        return common.CallResult(
            index=index,
            code=common.OUTCOME_CODE_SUCCEEDED,
            result=bytes(200 * 1024) if is_large else b"",
        )


class Used(NamedTuple):
    """What a phase used and did."""

    wall_s: float
    cpu_s: float
    transactions: int

    @property
    def cpu_share(self) -> float:
        return self.cpu_s / self.wall_s


class Tccd:
    """The process as the operating system sees it, and its ports."""

    def __init__(self, process: Process, address: str, admin_address: str) -> None:
        self.address = address
        self.admin_address = admin_address
        self._process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def resident_mib(self) -> float:
        return self._process.memory_info().rss / MIB

    def files(self) -> int:
        return self._process.num_fds()


class Honest:
    """A client that keeps transactions in flight. None of them may fail."""

    def __init__(self, address: str) -> None:
        self.done = 0
        # Each has a connection of its own.
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._client = tcc.Client(address, timeout_s=60, channel_options=options)

    async def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        await asyncio.gather(*(self._loop(ends) for _ in range(IN_FLIGHT)))

    async def _loop(self, ends: float) -> None:
        while time.monotonic() < ends:
            await self._client.execute([tcc.BranchRequest("stock", "reserve")])  # raises if it is cancelled
            self.done += 1

    async def close(self) -> None:
        await self._client.close()


@asynccontextmanager
async def tccd(config: Path, log_url: str, stock: str) -> AsyncIterator[Tccd]:
    admin = f"127.0.0.1:{free_port()}"
    config.write_text(  # noqa: ASYNC240 - a few lines
        f'[log]\nurl = "{log_url}"\n[admin]\nlisten = "{admin}"\n[metrics]\nlisten = ""\n'
        f'[participants.stock]\ntarget = "{stock}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'ulimit -n {FILES_MAX}; exec "$0" "$@"'),
        *(sys.executable, "-m", "coordinator", "serve", f"--config={config}", "--listen=127.0.0.1:0"),
        stdout=PIPE,
    )
    daemon = Daemon(process)
    try:
        await daemon.listening()
        yield Tccd(process, daemon.address, admin)
    finally:
        await daemon.stop()


async def measured(it: Tccd, seconds: float, honest: Honest | None) -> Used:
    """Run a phase."""
    before, cpu_s, began = honest.done if honest else 0, it.cpu_s(), time.monotonic()
    await (honest.run(seconds) if honest else asyncio.sleep(seconds))
    done = honest.done - before if honest else 0
    return Used(time.monotonic() - began, it.cpu_s() - cpu_s, done)


@asynccontextmanager
async def attacked(address: str, answers: list[str]) -> AsyncIterator[None]:
    """Attack a coordinator during the block, which begins when the attack has filled what it can."""
    async with python("-m", "tests.soak.hostile", address, stderr=None) as hostile:
        assert hostile.stdout is not None
        assert await hostile.stdout.readline() == b"attacking\n"
        await asyncio.sleep(SOAK_S / 24)
        yield
        hostile.terminate()
        answers.append((await hostile.stdout.read()).decode())


async def is_healthy(address: str) -> None:
    """A new connection to the admin port finds it serving."""
    async with grpc.aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        request = health_pb2.HealthCheckRequest()
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=30, wait_for_ready=True)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
async def test_an_honest_client_keeps_its_rate_and_the_memory_comes_back(
    tmp_path: Path, log_url: str, databases: Databases, log_schema: LogSchema
) -> None:
    answers: list[str] = []
    with databases.one() as decoy_url:
        log_schema.make(decoy_url)
        async with (
            serving(Stock()) as stock,
            tccd(tmp_path / "tcc.toml", log_url, stock) as it,
            tccd(tmp_path / "decoy.toml", decoy_url, stock) as decoy,
        ):
            honest = Honest(it.address)
            await honest.run(SOAK_S / 24)  # caches, and connections
            before_mib = it.resident_mib()
            async with attacked(decoy.address, []):
                calm = [await measured(it, SOAK_S / 6, honest)]
            async with attacked(it.address, answers):
                await is_healthy(it.admin_address)
                alone = await measured(it, SOAK_S / 12, None)
                both = await measured(it, SOAK_S / 4, honest)
                during_mib, files = it.resident_mib(), it.files()
                await is_healthy(it.admin_address)
            async with attacked(decoy.address, []):
                calm.append(await measured(it, SOAK_S / 6, honest))
            after_mib = it.resident_mib()
            newcomer = Honest(it.address)  # the accepting goes on
            await newcomer.run(1)
            await newcomer.close()
            await honest.close()
    calm_rate = sum(each.transactions for each in calm) / sum(each.wall_s for each in calm)
    calm_cost = sum(each.cpu_s for each in calm) / sum(each.transactions for each in calm)
    rate = both.transactions / both.wall_s
    kept = rate / (calm_rate * (1 - alone.cpu_share))
    print(
        f"\n{answers[0]}"
        f"attack on a decoy: {calm_rate:.0f} honest transactions/s, "
        f"{calm_cost * 1e6:.0f} us of CPU of tccd each\n"
        f"attack alone: {alone.cpu_share:.2f} of a CPU of tccd\n"
        f"both: {rate:.0f} honest transactions/s, {both.cpu_share:.2f} of a CPU: "
        f"{kept:.2f} of the rate outside the attack's share\n"
        f"memory: {before_mib:.0f} MiB before, {during_mib:.0f} during, {after_mib:.0f} after; "
        f"{files} open files"
    )
    assert files <= FILES_MAX
    assert kept >= SHARE_KEPT
    assert after_mib <= before_mib + MEMORY_KEPT_MIB
