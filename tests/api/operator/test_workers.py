"""Workers share the operators' port, report on each other, and are drained one by one."""

import asyncio
import os
import select
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tcc.admin.v1 import admin_pb2 as apb
from tests.support.daemon import serving
from tests.support.ports import free_port

from .conftest import Stub, operator_context


async def alive(address: str) -> set[str]:
    """The live coordinators, as reported by any worker that accepts this new connection."""
    # Channels to one address share a connection unless their options differ.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        reply = await Stub(channel).ListCoordinators(apb.ListCoordinatorsRequest(), wait_for_ready=True)
    return {one.id for one in reply.coordinators if one.alive}


async def drain(address: str, coordinator_id: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        request = apb.DrainCoordinatorRequest(
            coordinator_id=coordinator_id, operator_context=operator_context()
        )
        await Stub(channel).DrainCoordinator(request, wait_for_ready=True)


async def one_has_ended(pids: list[int]) -> None:
    with ExitStack() as stack:
        processes = [os.pidfd_open(pid) for pid in pids]
        for process in processes:
            stack.callback(os.close, process)
        ended, _, _ = await asyncio.to_thread(select.select, processes, [], [], 180)
    assert len(ended) == 1


@pytest.mark.slow
async def test_drained_workers_exit_and_are_not_restarted(tmp_path: Path, log_url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    config = f'[log]\nurl = "{log_url}"\n[admin]\nlisten = "{address}"\nreport_every_s = 0.1\n'
    async with serving(tmp_path, config, workers=2) as daemon:
        both = await alive(address)
        assert len(both) == 2
        first, second = sorted(both)
        await drain(address, first)
        # Before its process has ended, it may accept a connection that it can no longer serve.
        await one_has_ended(daemon.workers)
        assert await alive(address) == {second}
        await drain(address, second)
        assert await asyncio.wait_for(daemon.process.wait(), 180) == 0
