"""Coordinators of the former version are replaced under load, and the other way round."""

import asyncio
import itertools
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

import tcc
from coordinator.core.model import TransactionState
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.daemon import Daemon, serving
from tests.support.ports import free_ports
from tests.support.processes import TIMEOUT_S
from tests.support.scripted_participant import (
    SUCCEEDED,
    ScriptedParticipant,
    rejected,
    serving as serving_participant,
)

HERE = Path(__file__).parent
[CODE] = HERE.glob("tccd-*.tar.xz")
PARTICIPANTS = ("inventory", "coupon")
IN_FLIGHT = 2
# How much is done by the coordinators of each moment before the next one is replaced.
EACH = 50
# One of so many is rejected by its second participant.
REJECTED_EACH = 5
ROOT = HERE.parents[1]
CONFIG = """
log = {{ url = "{url}" }}
drain_s = 5.0
admin = {{ listen = "127.0.0.1:0" }}
reconcile = {{ every_s = 0 }}
"""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the former version, as `docs/RELEASING.md` keeps it."""
    directory = tmp_path_factory.mktemp("former")
    with tarfile.open(CODE) as archive:
        archive.extractall(directory, filter="data")
    return directory / CODE.name.removesuffix(".tar.xz")


class Load:
    """Initiators that execute one transaction after the other, and the decisions that they got."""

    def __init__(self, client: tcc.Client) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._is_over = False
        self._changed = asyncio.Condition()
        self.outcomes: dict[str, bool] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run them beside the block. A call that fails fails the test."""
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._execute())
            try:
                yield
            finally:
                self._is_over = True

    async def go_on(self) -> None:
        """Wait until EACH further transactions have ended."""
        wanted = len(self.outcomes) + EACH
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.outcomes) >= wanted)

    async def _execute(self) -> None:
        while not self._is_over:
            gid = f"order-{next(self._numbers)}"
            outcome = await self._client.execute(
                [tcc.BranchRequest(name, "reserve", {"quantity": 1}) for name in PARTICIPANTS],
                gid=gid,
                timeout_s=TIMEOUT_S,
                raise_on_cancel=False,
            )
            self.outcomes[gid] = outcome.confirmed
            async with self._changed:
                self._changed.notify_all()


class Place:
    """An address at which one coordinator follows another."""

    def __init__(self, directory: Path, config: str, address: str) -> None:
        directory.mkdir()
        self._directory = directory
        self._config = config
        self._address = address
        self._stack = AsyncExitStack()
        self._daemon: Daemon | None = None

    async def replace(self, code: Path) -> None:
        """Let the coordinator finish its work, if there is one, and start one of another version."""
        await self.stop()
        self._daemon = await self._stack.enter_async_context(
            serving(
                self._directory,
                self._config,
                listen=self._address,
                environment={"PYTHONPATH": str(code)},
            )
        )

    def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.process.kill()

    async def stop(self) -> None:
        await self._stack.aclose()


def is_rejected(gid: str) -> bool:
    return int(gid.rpartition("-")[2]) % REJECTED_EACH == 0


async def reject_some(call: pb.BranchCall) -> common.CallResult:
    is_try = call.operation == common.OPERATION_TRY
    return rejected("SOLD_OUT") if is_try and is_rejected(call.gid) else SUCCEEDED


@pytest.mark.slow
async def test_coordinators_of_two_versions_work_side_by_side(
    database_url: str, tmp_path: Path, former: Path
) -> None:
    participants = {name: ScriptedParticipant() for name in PARTICIPANTS}
    participants["coupon"].script = reject_some
    port = free_ports(2)
    addresses = [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]
    async with AsyncExitStack() as stack:
        config = CONFIG.format(url=database_url)
        for name, participant in participants.items():
            target = await stack.enter_async_context(serving_participant(participant))
            config += f'[participants.{name}]\ntarget = "{target}"\n'
        first, second = [Place(tmp_path / str(n), config, address) for n, address in enumerate(addresses)]
        for place in (first, second):
            stack.push_async_callback(place.stop)
        await asyncio.gather(first.replace(former), second.replace(former))
        client = await stack.enter_async_context(tcc.Client(f"ipv4:{','.join(addresses)}"))
        load = Load(client)
        async with load.running():
            await load.go_on()
            # Forward. The first new one migrates the log while a former one works on it.
            await first.replace(ROOT)
            await load.go_on()
            # The new one adopts what the former one leaves.
            second.kill()
            await second.replace(ROOT)
            await load.go_on()
            # Back. A former one starts on the migrated log.
            await first.replace(former)
            await load.go_on()
            # It adopts what the new one leaves, and is alone again.
            second.kill()
            await load.go_on()
        for gid in unfinished(database_url):
            await client.wait(gid, wait_for="completion", timeout_s=TIMEOUT_S)
    check_calls(participants, load.outcomes)
    check_log(database_url, load.outcomes)


def unfinished(url: str) -> list[str]:
    with psycopg.connect(url) as db:
        return [gid for (gid,) in db.execute("SELECT gid FROM tcc.transactions WHERE ended_at IS NULL")]


def check_calls(participants: Mapping[str, ScriptedParticipant], outcomes: Mapping[str, bool]) -> None:
    """Check that each participant got the decision that the initiator got, and never the other."""
    decisions = {True: {common.OPERATION_CONFIRM}, False: {common.OPERATION_CANCEL}}
    for participant in participants.values():
        sent: dict[str, set[common.Operation]] = {gid: set() for gid in outcomes}
        for call in participant.calls:
            if call.operation != common.OPERATION_TRY:
                sent[call.gid].add(call.operation)
        others = {
            gid: sent[gid] for gid, confirmed in outcomes.items() if not sent[gid] <= decisions[confirmed]
        }
        assert others == {}
        assert [gid for gid, confirmed in outcomes.items() if confirmed and not sent[gid]] == []


def check_log(url: str, outcomes: Mapping[str, bool]) -> None:
    """Check that the log has each transaction, ended with the decision that the initiator got."""
    states = {TransactionState.CONFIRMED: True, TransactionState.CANCELLED: False}
    with psycopg.connect(url) as db:
        rows = db.execute("SELECT gid, state FROM tcc.transactions").fetchall()
    assert {gid: states.get(state) for gid, state in rows} == outcomes
    assert {gid: not is_rejected(gid) for gid in outcomes} == outcomes
