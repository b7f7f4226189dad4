"""A coordinator worker in the test's own process: real log, real gRPC, all jobs running."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.config.settings import Settings
from coordinator.process.worker import Worker
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

# Fast enough that no test waits long, slow enough to be realistic.
QUICK = {"sweep_every_s": 0.02, "poll_every_s": 0.05, "adopt_every_s": 0.1, "heartbeat_every_s": 0.1}
QUICK_RETRIES = {
    "retry_first_s": 0.01,
    "retry_max_s": 0.05,
    "breaker_open_first_s": 0.02,
    "breaker_open_max_s": 0.1,
}


def settings_for(participants: Mapping[str, Mapping[str, object]], **changes: object) -> Settings:
    """Return settings for a test. `participants` maps names to changes of the quick defaults."""
    return Settings.model_validate(
        {
            "listen": {"address": "127.0.0.1:0"},
            "recovery": QUICK,
            "drain_s": 2.0,
            "metrics": {"listen": ""},
            "participants": {name: QUICK_RETRIES | dict(table) for name, table in participants.items()},
        }
        | changes
    )


class Running:
    """A worker that serves, and a stub for it."""

    def __init__(self, worker: Worker, address: str, channel: grpc.aio.Channel) -> None:
        self.worker = worker
        self.engine = worker.engine
        self.address = address
        self.channel = channel
        self.stub = transaction_pb2_grpc.TransactionServiceStub(channel)

    async def state(self, gid: str) -> str:
        reply = await self.stub.GetTransaction(pb.GetTransactionRequest(gid=gid))
        return common.TransactionState.Name(reply.transaction.state).removeprefix("TRANSACTION_STATE_")

    async def until_health(self, status: int) -> None:
        """Wait until health checks return this status."""
        await until_health(self.channel, status)

    async def settled(self, gid: str) -> pb.TransactionOutcome:
        """Wait until the transaction has ended, and return its outcome."""
        request = pb.WaitTransactionRequest(gid=gid, wait_for=pb.WAIT_FOR_COMPLETION)
        return (await self.stub.WaitTransaction(request, timeout=120)).outcome


async def until_health(channel: grpc.aio.Channel, status: int) -> None:
    """Wait until health checks of the server on a channel return this status."""
    stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
    async for response in stream:
        if response.status == status:
            stream.cancel()
            return


@asynccontextmanager
async def running(settings: Settings, url: str) -> AsyncIterator[Running]:
    """Run a worker during the block; it drains at the end."""
    worker = Worker(settings, url, share_port=False)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(worker.run(lambda port, _owner: ready.set_result(port)))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    address = f"127.0.0.1:{ready.result()}"
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield Running(worker, address, channel)
        finally:
            worker.stop()
            await task


def branch(branch_id: str, participant: str = "stock", **fields: object) -> common.BranchSpec:
    return common.BranchSpec(branch_id=branch_id, participant=participant, **({"action": "reserve"} | fields))
