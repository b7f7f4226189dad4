"""Initiators: a process that keeps a number of transactions under way.

Commands (`commands.serve_commands`): `start` begins the load against a target, `begin` and
`end` enclose what is measured, `stop` lets what is under way finish. `execute` is a
number of transactions and no load: it is answered when all of them are decided.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import grpc
import uvloop

import tcc
from bench import credentials, work
from bench.commands import Command, serve_commands
from bench.raw_load import CANCELLED, Measured, RawLoad
from tcc._internal.channel_options import branch_call_options, client_options
from tcc._internal.tls import channel_credentials
from tcc._internal.uuid7 import uuid7
from tcc.client.outcome import WaitFor
from tcc.client.requests import BranchIds, branch_spec
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as participant_pb, participant_pb2_grpc
from tcc.payload import encode
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

# Executes one element of the work, and returns how many were done.
Execute = Callable[[work.Transaction], Awaitable[int]]

_WAIT_FOR: Mapping[str, pb.WaitFor] = {
    "decision": pb.WAIT_FOR_DECISION,
    "completion": pb.WAIT_FOR_COMPLETION,
    "accepted": pb.WAIT_FOR_ACCEPTED,
}
_TIMEOUT_S = 30.0
# Of `execute`. Accepted transactions stay undecided while a participant does not answer.
_IN_FLIGHT = 512
_EXPIRY_S = 3_600.0


class Batched:
    """Whole transactions through the SDK, which batches them automatically."""

    def __init__(
        self, target: str, wait_for: WaitFor, secured: str = "", expiry_s: float | None = None
    ) -> None:
        tls, token = credentials.tls(secured), credentials.token(secured)
        self._client = tcc.Client(target, timeout_s=_TIMEOUT_S, tls=tls, token=token)
        self._wait_for = wait_for
        self._expiry_s = expiry_s

    async def execute(self, branches: work.Transaction) -> int:
        await self._client.execute(branches, wait_for=self._wait_for, expiry_s=self._expiry_s)
        return 1

    async def close(self) -> None:
        await self._client.close()


class Interactive(Batched):
    """Step by step through the SDK: begin, the Trys one after the other, confirm."""

    async def execute(self, branches: work.Transaction) -> int:
        async with self._client.transaction(wait_for=self._wait_for) as tx:
            for each in branches:
                await tx.try_(each.participant, each.action, each.payload)
        return 1


class Unary:
    """Whole transactions through the generated stub, one call each."""

    def __init__(self, target: str, wait_for: WaitFor, secured: str) -> None:
        tls, token = credentials.tls(secured), credentials.token(secured)
        self._channel = (
            grpc.aio.secure_channel(target, channel_credentials(tls.content()), client_options())
            if tls
            else grpc.aio.insecure_channel(target, options=client_options())
        )
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._stub = transaction_pb2_grpc.TransactionServiceStub(self._channel)
        self._wait_for = _WAIT_FOR[wait_for]

    async def execute(self, branches: work.Transaction) -> int:
        ids = BranchIds()
        specs = [
            branch_spec(each.participant, each.action, each.payload, each.participant, ids=ids)
            for each in branches
        ]
        request = pb.ExecuteTransactionRequest(gid=uuid7(), branches=specs, wait_for=self._wait_for)
        response = await self._stub.ExecuteTransaction(request, timeout=_TIMEOUT_S, metadata=self._metadata)
        if response.outcome.state in CANCELLED:
            raise RuntimeError("cancelled")
        return 1

    async def close(self) -> None:
        await self._channel.close(None)


class Direct:
    """No coordinator: one element is one `ExecuteBranches` of Trys at a participant, the target.

    Each is the branch of another transaction, as in a coordinator's batch.
    """

    expected = common.OUTCOME_CODE_SUCCEEDED

    def __init__(self, target: str, _wait_for: WaitFor, _secured: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=branch_call_options(keepalive_s=0))
        self._stub = participant_pb2_grpc.ParticipantServiceStub(self._channel)

    async def execute(self, branches: work.Transaction) -> int:
        await self._call(_trys(branches))
        return len(branches)

    async def _call(self, request: participant_pb.ExecuteBranchesRequest) -> None:
        async for response in self._stub.ExecuteBranches(request, timeout=_TIMEOUT_S):
            for outcome in response.results:
                if outcome.code != self.expected:
                    raise RuntimeError(f"{outcome.reason}: {outcome.message}")

    async def close(self) -> None:
        await self._channel.close(None)


class Refused(Direct):
    """The same of what is sold out."""

    expected = common.OUTCOME_CODE_REJECTED


class TryConfirm(Direct):
    """No coordinator: a lone Try, and then its Confirm."""

    async def execute(self, branches: work.Transaction) -> int:
        request = _trys(branches)
        await self._call(request)
        request.calls[0].operation = common.OPERATION_CONFIRM
        await self._call(request)
        return 1


def _trys(branches: work.Transaction) -> participant_pb.ExecuteBranchesRequest:
    """Return a Try of each branch. All are the first but for their gid, so a call costs the load little."""
    name, action, content = branches[0].participant, branches[0].action, branches[0].payload
    call = participant_pb.BranchCall(branch_id=name, action=action, operation=common.OPERATION_TRY)
    call.payload, call.content_type = encode(content)
    call.expires_at_ms = int((time.time() + _TIMEOUT_S) * 1000)
    request, gid = participant_pb.ExecuteBranchesRequest(), uuid7()
    for number in range(len(branches)):
        call.gid = f"{gid}-{number}"
        request.calls.append(call)
    return request


MODES: Mapping[str, Callable[[str, WaitFor, str], Any]] = {
    "batched": Batched,
    "unary": Unary,
    "interactive": Interactive,
    "direct": Direct,
    "refused": Refused,
    "try_confirm": TryConfirm,
}


class Load(Measured):
    """Keeps `in_flight` elements of the work under way until `stop`."""

    def __init__(self, execute: Execute, wanted: Iterator[work.Transaction], in_flight: int) -> None:
        self._execute = execute
        self._wanted = wanted
        self._running = True
        self._loops = [asyncio.create_task(self._loop()) for _ in range(in_flight)]
        self.begin()

    async def stop(self) -> None:
        self._running = False
        await asyncio.gather(*self._loops)

    async def _loop(self) -> None:
        clock = time.perf_counter
        while self._running:
            asked_at = clock()
            try:
                done = await self._execute(next(self._wanted))
            except (tcc.TccError, grpc.aio.AioRpcError, RuntimeError) as error:
                self._failed[f"{type(error).__name__}: {error}"[:200]] += 1
                # A refusal must not turn the closed loop into a busy loop.
                await asyncio.sleep(0.01)
            else:
                self._latencies_us += [round((clock() - asked_at) * 1e6)] * done


class Initiator:
    """Executes commands; one load at a time."""

    def __init__(self) -> None:
        self._front: Any = None
        self._load: Any = None

    async def handle(self, command: Command) -> Command:
        match command["do"]:
            case "start":
                wanted = work.transactions(command["work"], position=command["position"], of=command["of"])
                if command["mode"] == "raw_load":
                    self._load = self._front = RawLoad(
                        command["target"],
                        next(wanted),
                        wait_for=_WAIT_FOR[command["wait_for"]],
                        in_flight=command["in_flight"],
                        arrivals_per_second=command["arrivals_per_second"],
                    )
                    return {}
                self._front = MODES[command["mode"]](
                    command["target"], command["wait_for"], command["secured"]
                )
                self._load = Load(self._front.execute, wanted, command["in_flight"])
                return {}
            case "begin":
                self._load.begin()
                return {}
            case "end":
                return dict(self._load.measured())
            case "execute":
                await _execute(command["target"], command["count"], command["wait_for"])
                return {}
            case "stop":
                await self._load.stop()
                await self._front.close()
                return {}
        raise ValueError(command["do"])


async def _execute(target: str, count: int, wait_for: WaitFor) -> None:
    front = Batched(target, wait_for, expiry_s=_EXPIRY_S)
    wanted = islice(work.transactions(work.noop()), count)

    async def execute_in_turn() -> None:
        for branches in wanted:
            await front.execute(branches)

    await asyncio.gather(*[execute_in_turn() for _ in range(min(count, _IN_FLIGHT))])
    await front.close()


if __name__ == "__main__":
    uvloop.run(serve_commands(Initiator().handle))
