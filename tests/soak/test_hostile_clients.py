"""Hostile clients beside an honest one, against a real `tccd` that may open 1,024 files.

Two minutes; `TCC_TEST_SOAK_S=600 pytest -s -m slow tests/soak` takes ten, and prints the figures.

Two coordinators run all the time, and hostile clients attack one of them. The honest client uses
them in turn, for a few seconds each. So whatever else the machine does, and the attackers do, slows
both alike, and each pair of rates is compared alone; the median of the pairs counts. What the attack
may take away is the share of CPU time that it costs the attacked coordinator, measured while the
honest client is with the other one. No transaction of the honest client may fail.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tcc
from tcc._internal.uuid7 import uuid7
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tests.support.daemon import Daemon
from tests.support.databases import Databases
from tests.support.log_schema import LogSchema
from tests.support.ports import free_port
from tests.support.processes import python
from tests.support.scripted_participant import ScriptedParticipant, serving

SOAK_S = float(os.environ.get("TCC_TEST_SOAK_S", "120"))
FILES_MAX = 1_024
IN_FLIGHT = 32
MIB = 2**20
SHARE_KEPT = 0.8
MEMORY_KEPT_MIB = 50
# The coordinator returns freed memory to the system this often, at least.
MEMORY_RETURNED_S = 35.0
# Of one phase. Long enough that every attack happens in it.
PHASE_S = 5.0


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

    @property
    def rate(self) -> float:
        return self.transactions / self.wall_s


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

    def __init__(self, address: str, prefix: str = "", **credentials: Any) -> None:
        """`prefix`: of its gids."""
        self.done = 0
        self._prefix = prefix
        # Each has a connection of its own.
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._client = tcc.Client(address, timeout_s=60, channel_options=options, **credentials)

    async def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        await asyncio.gather(*(self._loop(ends) for _ in range(IN_FLIGHT)))

    async def _loop(self, ends: float) -> None:
        while time.monotonic() < ends:
            branches = [tcc.BranchRequest("stock", "reserve")]
            await self._client.execute(branches, gid=f"{self._prefix}{uuid7()}")  # raises if it is cancelled
            self.done += 1

    def has_stream(self) -> bool:
        """Return whether its transactions go over a stream now."""
        session = self._client.connection._session
        streams = session and session.submitter._streams
        return bool(streams and streams._open)

    async def close(self) -> None:
        await self._client.close()


@asynccontextmanager
async def tccd(config: Path, log_url: str, stock: str, more: str = "") -> AsyncIterator[Tccd]:
    admin = f"127.0.0.1:{free_port()}"
    config.write_text(  # noqa: ASYNC240 - a few lines
        f'[log]\nurl = "{log_url}"\n[admin]\nlisten = "{admin}"\n[metrics]\nlisten = ""\n'
        f'[participants.stock]\ntarget = "{stock}"\n{more}\n'
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
        await asyncio.sleep(PHASE_S)
        yield
        hostile.terminate()
        answers.append((await hostile.stdout.read()).decode())


class Pair(NamedTuple):
    """The honest client at one coordinator and then at the attacked one."""

    calm: Used
    # The attacked coordinator, in the meantime.
    alone: Used
    both: Used
    # Whether the client's transactions went over a stream there.
    has_stream: bool

    @property
    def kept(self) -> float:
        """Return the share of its rate that the client kept, outside what the attack costs."""
        return self.both.rate / (self.calm.rate * (1 - self.alone.cpu_share))


async def measured_pair(it: Tccd, other: Tccd, honest: Honest, elsewhere: Honest) -> Pair:
    alone, calm = await asyncio.gather(
        measured(it, PHASE_S, None),
        measured(other, PHASE_S, elsewhere),
    )
    both = await measured(it, PHASE_S, honest)
    return Pair(calm=calm, alone=alone, both=both, has_stream=honest.has_stream())


async def is_healthy(address: str) -> None:
    """A new connection to the admin port finds it serving."""
    async with grpc.aio.insecure_channel(
        address, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        request = health_pb2.HealthCheckRequest()
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=30, wait_for_ready=True)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 300)
async def test_an_honest_client_keeps_its_rate_and_the_memory_comes_back(
    tmp_path: Path, log_url: str, databases: Databases, log_schema: LogSchema
) -> None:
    answers: list[str] = []
    pairs: list[Pair] = []
    with databases.one() as other_url:
        log_schema.make(other_url)
        async with (
            serving(Stock()) as stock,
            tccd(tmp_path / "tcc.toml", log_url, stock) as it,
            tccd(tmp_path / "other.toml", other_url, stock) as other,
        ):
            honest, elsewhere = Honest(it.address), Honest(other.address)
            for client in (elsewhere, honest):
                await client.run(PHASE_S)  # caches, and connections
            before_mib = it.resident_mib()
            ends = time.monotonic() + SOAK_S - 2 * PHASE_S - MEMORY_RETURNED_S
            async with attacked(it.address, answers):
                await is_healthy(it.admin_address)
                while time.monotonic() < ends:
                    pairs.append(await measured_pair(it, other, honest, elsewhere))
                during_mib, files = it.resident_mib(), it.files()
                await is_healthy(it.admin_address)
            await honest.run(MEMORY_RETURNED_S)
            after_mib, other_mib = it.resident_mib(), other.resident_mib()
            newcomer = Honest(it.address)  # the accepting goes on
            await newcomer.run(1)
            for client in (newcomer, honest, elsewhere):
                await client.close()
    kept = sorted(pair.kept for pair in pairs)
    print(
        f"\n{answers[0]}"
        f"{len(pairs)} pairs of {PHASE_S:g} s; load of the machine {os.getloadavg()[0]:.1f}\n"
        f"honest transactions/s at the other coordinator: {spread(pair.calm.rate for pair in pairs)}\n"
        f"honest transactions/s at the attacked one: {spread(pair.both.rate for pair in pairs)}\n"
        f"CPU of the attack alone: {spread(pair.alone.cpu_share for pair in pairs)}; "
        f"with the honest client: {spread(pair.both.cpu_share for pair in pairs)}\n"
        f"kept outside the attack's share: {spread(kept)}\n"
        f"with a stream at the end of {sum(pair.has_stream for pair in pairs)} phases\n"
        f"memory: {before_mib:.0f} MiB before, {during_mib:.0f} during, {after_mib:.0f} after; "
        f"of the other coordinator after: {other_mib:.0f} MiB; {files} open files"
    )
    assert files <= FILES_MAX
    assert median(pair.has_stream for pair in pairs)
    assert median(kept) >= SHARE_KEPT
    assert after_mib <= before_mib + MEMORY_KEPT_MIB


def spread(values: Iterable[float]) -> str:
    """Return the least, the median and the greatest."""
    ordered = sorted(values)
    return f"{ordered[0]:.2f} … {median(ordered):.2f} … {ordered[-1]:.2f}"
