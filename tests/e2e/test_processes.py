"""The coordinator as real processes: killed, stopped, started."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support import daemon
from tests.support.processes import run_python
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant
from tests.support.worker import branch

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM


def config(stock: ScriptedParticipant, url: str) -> str:
    return f"""
        [log]
        url = "{url}"
        [participants.stock]
        target = "{stock.address}"
        call_timeout_s = 60
        concurrency_max = 4096
    """


@pytest.mark.slow
async def test_killing_a_coordinator_with_500_live_transactions_loses_none(
    log_url: str, stock: ScriptedParticipant, tmp_path: Path
) -> None:
    """Half of them undecided, half decided; the worker that lives finishes all of them."""
    hold = True

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if hold and (call.operation == CONFIRM or call.gid.startswith("trying")):
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = script
    gids = [f"trying-{n}" for n in range(250)] + [f"confirming-{n}" for n in range(250)]
    async with daemon.serving(tmp_path, config(stock, log_url)) as victim:
        async with daemon.stub(victim.address) as stub:
            requests = [
                pb.ExecuteTransactionRequest(
                    gid=gid,
                    branches=[branch("1")],
                    wait_for=pb.WAIT_FOR_ACCEPTED if gid.startswith("trying") else pb.WAIT_FOR_DECISION,
                )
                for gid in gids
            ]
            await asyncio.gather(*(stub.ExecuteTransaction(request) for request in requests))
            await stock.until(lambda: stock.count(TRY) == 500 and stock.count(CONFIRM) == 250)
        survivor_directory = tmp_path / "survivor"
        survivor_directory.mkdir()
        async with daemon.serving(survivor_directory, config(stock, log_url)) as survivor:
            hold = False
            victim.kill_worker(victim.process.pid)
            await victim.process.wait()
            async with daemon.stub(survivor.address) as stub:
                settled = await asyncio.gather(
                    *(
                        stub.WaitTransaction(
                            pb.WaitTransactionRequest(gid=gid, wait_for=pb.WAIT_FOR_COMPLETION), timeout=120
                        )
                        for gid in gids
                    )
                )
    assert {reply.outcome.state for reply in settled} == {common.TRANSACTION_STATE_CONFIRMED}


@pytest.mark.slow
async def test_a_worker_that_is_killed_is_started_again_and_the_others_serve_on(
    log_url: str, stock: ScriptedParticipant, tmp_path: Path
) -> None:
    async with daemon.serving(tmp_path, config(stock, log_url), workers=2) as coordinator:
        assert len(set(coordinator.workers)) == 2
        coordinator.kill_worker(coordinator.workers[0])
        assert await coordinator.next_worker() in coordinator.workers
        async with daemon.stub(coordinator.address) as stub:
            request = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")])
            reply = await stub.ExecuteTransaction(request, wait_for_ready=True, timeout=120)
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING


@pytest.mark.slow
async def test_the_work_of_a_killed_worker_is_adopted_before_its_lease_ends(
    log_url: str, stock: ScriptedParticipant, tmp_path: Path
) -> None:
    hold = True

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if hold and call.operation == CONFIRM:
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = script
    hours = config(stock, log_url) + "\n[recovery]\nlease_s = 7200\nheartbeat_every_s = 1\n"
    async with daemon.serving(tmp_path, hours, workers=2) as coordinator:
        async with daemon.stub(coordinator.address) as stub:
            await stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")]))
            await stock.until(lambda: stock.count(CONFIRM) == 1)
            hold = False
            for pid in list(coordinator.workers):
                coordinator.kill_worker(pid)
                await coordinator.next_worker()
        async with daemon.stub(coordinator.address) as stub:
            wait = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
            reply = await stub.WaitTransaction(wait, wait_for_ready=True, timeout=120)
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_drains_and_exits_with_0(
    log_url: str, stock: ScriptedParticipant, tmp_path: Path, workers: int
) -> None:
    """A transaction whose Confirm is in flight at the signal is finished first."""
    go = stock.hold_confirms()
    async with daemon.serving(tmp_path, config(stock, log_url), workers=workers) as coordinator:
        async with daemon.stub(coordinator.address) as stub:
            await stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")]))
            await stock.until(lambda: stock.count(CONFIRM) == 1)
            stopping = asyncio.create_task(coordinator.stop())
            await _until_refused(stub)
            go.set()
        assert await stopping == 0
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    async with (
        daemon.serving(other_directory, config(stock, log_url)) as other,
        daemon.stub(other.address) as stub,
    ):
        tx = (await stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert tx.state == common.TRANSACTION_STATE_CONFIRMED


async def _until_refused(stub) -> None:
    """Wait until new transactions are refused."""
    async with asyncio.timeout(120):
        while True:
            try:
                await stub.ExecuteTransaction(pb.ExecuteTransactionRequest(branches=[branch("1")]))
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                return


@pytest.mark.slow
async def test_without_a_url_it_brings_its_own_postgres(
    stock: ScriptedParticipant, home: Path, tmp_path: Path
) -> None:
    embedded = f"""
        [log]
        data_dir = "{home / "data"}"
        [participants.stock]
        target = "{stock.address}"
    """
    for expected in (common.TRANSACTION_STATE_CONFIRMING, common.TRANSACTION_STATE_CONFIRMED):
        async with (
            daemon.serving(tmp_path, embedded) as coordinator,
            daemon.stub(coordinator.address) as stub,
        ):
            request = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")])
            reply = await stub.ExecuteTransaction(request)
            wait = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
            await stub.WaitTransaction(wait, timeout=120)
        # The second time it is the same transaction: the data directory is durable.
        assert reply.outcome.state == expected
        assert coordinator.process.returncode == 0
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]
    assert not _postgres_in(home)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_its_own_postgres_is_started_again_when_it_dies(
    stock: ScriptedParticipant, home: Path, tmp_path: Path, workers: int
) -> None:
    """No restart of the coordinator is needed, and what was acknowledged is finished."""
    go = stock.hold_confirms()
    embedded = f"""
        [log]
        data_dir = "{home / "data"}"
        [participants.stock]
        target = "{stock.address}"
    """
    async with (
        daemon.serving(tmp_path, embedded, workers=workers) as coordinator,
        daemon.stub(coordinator.address) as stub,
    ):
        await stub.ExecuteTransaction(pb.ExecuteTransactionRequest(gid="before", branches=[branch("1")]))
        postmaster = _postmaster(home)
        assert postmaster is not None
        os.kill(postmaster, signal.SIGKILL)
        go.set()
        for gid in ("before", "after"):
            request = pb.ExecuteTransactionRequest(
                gid=gid, branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION
            )
            reply = await _once_available(stub, request)
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert coordinator.process.returncode == 0
    assert not _postgres_in(home)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_pinned_workers_keep_to_a_cpu_each_and_leave_postgres_all(
    stock: ScriptedParticipant, home: Path, tmp_path: Path, workers: int
) -> None:
    usable = os.sched_getaffinity(0)
    pinned = f"""
        pin_workers = true
        [log]
        data_dir = "{home / "data"}"
        [participants.stock]
        target = "{stock.address}"
    """
    async with daemon.serving(tmp_path, pinned, workers=workers) as coordinator:
        cpus = [os.sched_getaffinity(pid) for pid in coordinator.workers]
        assert all(len(each) == 1 for each in cpus)
        assert len(set().union(*cpus)) == min(workers, len(usable))
        first = second = _postmaster(home)
        assert first is not None
        assert os.sched_getaffinity(first) == usable
        os.kill(first, signal.SIGKILL)
        async with daemon.stub(coordinator.address) as stub:
            while second in (first, None):
                await _once_available(stub, pb.ExecuteTransactionRequest(branches=[branch("1")]))
                second = _postmaster(home)
        assert os.sched_getaffinity(second) == usable


def _postmaster(home: Path) -> int | None:
    try:
        return int((home / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None  # it is being started


@pytest.mark.slow
async def test_threads_of_grpc_do_not_take_the_cpu_from_the_loop(log_url: str, tmp_path: Path) -> None:
    async with daemon.serving(tmp_path, f'[log]\nurl = "{log_url}"') as coordinator:
        (worker,) = coordinator.workers
        assert os.sched_getscheduler(worker) == os.sched_getscheduler(0)
        assert os.sched_getaffinity(worker) == os.sched_getaffinity(0)
        assert {os.sched_getscheduler(thread) for thread in _threads_of_grpc(worker)} == {os.SCHED_BATCH}


def _threads_of_grpc(pid: int) -> list[int]:
    """Return the threads of gRPC's pool, which never end."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(entry.name) for entry in threads if (entry / "comm").read_text() == "event_engine\n"]


async def _once_available(stub, request: pb.ExecuteTransactionRequest) -> pb.ExecuteTransactionResponse:
    async with asyncio.timeout(120):
        while True:
            try:
                return await stub.ExecuteTransaction(request)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017


def _postgres_in(directory: Path) -> list[str]:
    """The commands of processes that work in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink().is_relative_to(directory):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue  # it has ended
    return found


@pytest.mark.slow
async def test_migrate_may_be_run_again_and_by_several_at_once(database_url: str, tmp_path: Path) -> None:
    environment = {"TCC_LOG__URL": database_url}
    migrations = (run_python("-m", "coordinator", "migrate", environment=environment) for _ in range(3))
    for ended in await asyncio.gather(*migrations):
        assert (ended.status, ended.out) == (0, "the schema of the log is up to date\n")
