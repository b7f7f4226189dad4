"""The payloads and results of live transactions are bounded together: over real gRPC, with a real log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, serving
from tests.support.worker import Running, branch, running, settings_for

KIB = 2**10
MIB = 2**20
# Four times the largest transaction; new work is refused from 90 % of it on.
BYTES_MAX = 4 * MIB


class Holding(ScriptedParticipant):
    """Its Trys return a result, and end when `tries` is set; its Confirms, when `confirms` is."""

    def __init__(self, result: bytes = b"") -> None:
        super().__init__()
        self.tries = asyncio.Event()
        self.confirms = asyncio.Event()
        self.result = result
        self.script = self._hold

    async def _hold(self, call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == common.OPERATION_CONFIRM:
            await self.confirms.wait()
        if call.operation != common.OPERATION_TRY:
            return SUCCEEDED
        await self.tries.wait()
        return common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED, result=self.result)


@asynccontextmanager
async def bounded(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    async with serving(stock) as address:
        settings = settings_for(
            {"stock": {"target": address, "call_timeout_s": 60}}, limits={"live_bytes_max": BYTES_MAX}
        )
        async with running(settings, log_url) as worker:
            yield worker


def execute(gid: str, payload_bytes: int = 0, **fields: object) -> pb.ExecuteTransactionRequest:
    """A transaction with four branches."""
    branches = [branch(str(n), payload=bytes(payload_bytes // 4)) for n in range(4)]
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches, **fields)


async def accepted(worker: Running, gid: str, payload_bytes: int = 0) -> None:
    request = execute(gid, payload_bytes, wait_for=pb.WAIT_FOR_ACCEPTED)
    await worker.stub.ExecuteTransaction(request)


async def test_payloads_beyond_the_bound_are_refused_unwritten(log_url: str) -> None:
    stock = Holding()
    async with bounded(log_url, stock) as worker:
        for gid in "abc":
            await accepted(worker, gid, MIB)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await accepted(worker, "d", MIB)
        async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
            await worker.state("d")
        await accepted(worker, "small", 4 * KIB)
        await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="steps"))
        for number in range(2):
            request = pb.TryBranchRequest(gid="steps", branch=branch(str(number), payload=bytes(256 * KIB)))
            registered = pb.RegisterBranchRequest(gid="steps", branch=request.branch)
            await worker.stub.RegisterBranch(registered)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            third = branch("2", payload=bytes(256 * KIB))
            await worker.stub.RegisterBranch(pb.RegisterBranchRequest(gid="steps", branch=third))
        await worker.stub.CancelTransaction(pb.CancelTransactionRequest(gid="steps"))
        stock.tries.set()
        stock.confirms.set()
        for gid in ("a", "b", "c", "small", "steps"):
            await worker.settled(gid)
        await accepted(worker, "d", MIB)
        await worker.settled("d")
        assert worker.engine.held_bytes == 0


async def test_results_count_like_payloads(log_url: str) -> None:
    stock = Holding(bytes(256 * KIB))
    stock.tries.set()
    async with bounded(log_url, stock) as worker:
        for gid in "abcd":
            await worker.stub.ExecuteTransaction(execute(gid))  # decided: its results are there
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await worker.stub.ExecuteTransaction(execute("e"))
        stock.confirms.set()
        for gid in "abcd":
            await worker.settled(gid)
        assert worker.engine.held_bytes == 0


async def test_a_try_whose_result_finds_no_room_cancels(log_url: str) -> None:
    """All of them have begun before the first result comes: of 6 MiB of results, 4 MiB find room."""
    stock = Holding(bytes(256 * KIB))
    async with bounded(log_url, stock) as worker:
        for gid in "abcdef":
            await accepted(worker, gid)
        await stock.until(lambda: stock.count(common.OPERATION_TRY) == 24)
        stock.tries.set()
        stock.confirms.set()
        outcomes = [await worker.settled(gid) for gid in "abcdef"]
        reasons = {outcome.cancel_detail for outcome in outcomes}
        assert "NO_ROOM_FOR_RESULT" in reasons
        assert reasons <= {"", "NO_ROOM_FOR_RESULT"}
        assert worker.engine.held_bytes == 0
