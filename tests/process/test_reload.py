"""SIGHUP: participants are added, changed and removed under load, and no call is lost."""

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.observability.scraping import scrape, value
from tests.support import daemon
from tests.support.errors import refused
from tests.support.ports import free_port, free_ports
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, serving
from tests.support.worker import branch
from tests.tccctl.test_real_coordinator import make_certificates, needs_openssl

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM
TIMEOUT_S = 120


@pytest.fixture
async def participants() -> AsyncIterator[dict[str, ScriptedParticipant]]:
    here, there = ScriptedParticipant(), ScriptedParticipant()
    async with serving(here) as here.address, serving(there) as there.address:
        yield {"here": here, "there": there}


def config(url: str, **targets: str) -> str:
    tables = [
        f'[participants.{name}]\ntarget = "{target}"\ncall_timeout_s = 60' for name, target in targets.items()
    ]
    return f'[log]\nurl = "{url}"\n' + "\n".join(tables)


class Journal:
    """A coordinator's standard error, which goes to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self, words: str) -> int:
        return self._path.read_text().count(words)

    async def until(self, words: str, times: int) -> None:
        await until(lambda: self.count(words) >= times)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another process."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.01)


@asynccontextmanager
async def coordinator(
    directory: Path, text: str, *, workers: int = 1, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[daemon.Daemon, Journal, Callable[[str], None]]]:
    """A coordinator, its output, and a way to change its configuration."""
    said = directory / "stderr"
    with said.open("wb") as stderr:
        async with daemon.serving(
            directory, text, workers=workers, stderr=stderr, environment=environment
        ) as process:

            def change(changed: str) -> None:
                (directory / "tcc.toml").write_text(changed)
                os.kill(process.process.pid, signal.SIGHUP)

            yield process, Journal(said), change


def execute(gid: str, participant: str = "stock") -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(
        gid=gid, branches=[branch("1", participant)], wait_for=pb.WAIT_FOR_COMPLETION
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_participant_moves_under_load_and_no_call_is_lost(
    log_url: str, participants: dict[str, ScriptedParticipant], tmp_path: Path, workers: int
) -> None:
    here, there = participants["here"], participants["there"]
    go = asyncio.Event()

    async def hold(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.gid.startswith("held"):
            await go.wait()
        return SUCCEEDED

    here.script = hold
    before = config(log_url, stock=here.address)
    after = config(log_url, stock=there.address)
    async with (
        coordinator(tmp_path, before, workers=workers) as (process, journal, change),
        daemon.stub(process.address) as stub,
    ):
        held = [asyncio.ensure_future(stub.ExecuteTransaction(execute(f"held-{n}"))) for n in range(100)]
        await here.until(lambda: here.count(TRY) == 100)
        stop = asyncio.Event()
        stream = asyncio.create_task(_load(stub, stop))
        change(after)
        await journal.until("configuration reloaded", workers)
        # The earlier Trys are still in flight where they were sent.
        await there.until(lambda: there.count(CONFIRM) >= 20)
        go.set()
        replies = await asyncio.gather(*held)
        stop.set()
        gids = await stream
    assert {reply.outcome.state for reply in replies} == {common.TRANSACTION_STATE_CONFIRMED}
    for gid in [f"held-{n}" for n in range(100)] + gids:
        assert here.heard(gid) + there.heard(gid) == ["TRY 1", "CONFIRM 1"], gid
    # They were tried here, and confirmed there.
    assert all(there.heard(f"held-{n}") == ["CONFIRM 1"] for n in range(100))


async def _load(stub, stop: asyncio.Event) -> list[str]:
    """Transactions side by side until `stop`; each has to succeed at the first attempt. Their gids."""
    gids: list[str] = []

    async def one_after_another(lane: int) -> None:
        number = 0
        while not stop.is_set():
            gid = f"load-{lane}-{number}"
            reply = await stub.ExecuteTransaction(execute(gid), timeout=TIMEOUT_S)
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
            gids.append(gid)
            number += 1

    async with asyncio.TaskGroup() as tasks:
        for lane in range(8):
            tasks.create_task(one_after_another(lane))
    return gids


@pytest.mark.slow
async def test_participants_are_added_and_removed(
    log_url: str, participants: dict[str, ScriptedParticipant], tmp_path: Path
) -> None:
    here, there = participants["here"], participants["there"]
    go = asyncio.Event()

    async def hold_confirms(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == CONFIRM:
            await go.wait()
        return SUCCEEDED

    here.script = hold_confirms
    async with (
        coordinator(tmp_path, config(log_url, stock=here.address)) as (process, journal, change),
        daemon.stub(process.address) as stub,
    ):
        in_flight = asyncio.ensure_future(stub.ExecuteTransaction(execute("g")))
        await here.until(lambda: here.count(CONFIRM) == 1)
        async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
            await stub.ExecuteTransaction(execute("early", "coupon"))
        change(config(log_url, coupon=there.address))
        await journal.until("configuration reloaded", 1)
        reply = await stub.ExecuteTransaction(execute("c", "coupon"), timeout=TIMEOUT_S)
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
        async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
            await stub.ExecuteTransaction(execute("late"))
        go.set()
        # The call in flight succeeds, although its participant was removed from the configuration.
        assert (await in_flight).outcome.state == common.TRANSACTION_STATE_CONFIRMED
        change(config(log_url, stock=here.address))
        await journal.until("configuration reloaded", 2)
        assert (await stub.ExecuteTransaction(execute("again"), timeout=TIMEOUT_S)).outcome.state == (
            common.TRANSACTION_STATE_CONFIRMED
        )
    assert here.heard("g") == ["TRY 1", "CONFIRM 1"]
    assert here.heard("late") == []


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_broken_file_changes_nothing_and_reports_every_mistake(
    log_url: str, participants: dict[str, ScriptedParticipant], tmp_path: Path, workers: int
) -> None:
    right = config(log_url, stock=participants["here"].address)
    wrong = config(log_url, stock="nowhere") + "\nretry = 1\n"
    async with coordinator(tmp_path, right, workers=workers) as (process, journal, change):
        change(wrong)
        await journal.until("configuration not reloaded", 2)
        assert journal.count("participants.stock.target: must be HOST:PORT") == 1
        assert journal.count("participants.stock.retry: unknown key") == 1
        async with daemon.stub(process.address) as stub:
            reply = await stub.ExecuteTransaction(execute("g"), timeout=TIMEOUT_S)
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_refused_file_is_counted_once_for_all_workers(
    log_url: str, tmp_path: Path, workers: int
) -> None:
    port = free_ports(workers)

    async def refusals() -> float:
        pages = [await scrape(port + number) for number in range(workers)]
        return sum(value(page, "tcc_anomalies_total", kind="RELOAD_REFUSED") for page in pages)

    metrics = {"TCC_METRICS__LISTEN": f"127.0.0.1:{port}"}
    right = config(log_url)
    async with coordinator(tmp_path, right, workers=workers, environment=metrics) as (
        process,
        journal,
        change,
    ):
        # Exported from zero on: an alert uses the increase.
        assert await refusals() == 0
        for refused_so_far in (1, 2):
            change(right + "\nretry = 1\n")
            async with asyncio.timeout(TIMEOUT_S):
                while await refusals() < refused_so_far:
                    pass
            change(right)
            await journal.until("configuration reloaded", workers * refused_so_far)
            assert await refusals() == refused_so_far
        assert len(process.workers) == workers


@pytest.mark.slow
async def test_a_worker_that_starts_later_knows_the_new_participants(
    log_url: str, participants: dict[str, ScriptedParticipant], tmp_path: Path
) -> None:
    here, there = participants["here"], participants["there"]
    before = config(log_url, stock=here.address)
    async with coordinator(tmp_path, before, workers=2) as (process, journal, change):
        change(config(log_url, coupon=there.address))
        await journal.until("configuration reloaded", 2)
        for pid in list(process.workers):
            process.kill_worker(pid)
            await process.next_worker()
        async with daemon.stub(process.address) as stub:
            request = execute("g", "coupon")
            reply = await stub.ExecuteTransaction(request, wait_for_ready=True, timeout=TIMEOUT_S)
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_changes_that_need_a_restart_are_reported(log_url: str, tmp_path: Path, workers: int) -> None:
    before = config(log_url)
    admin = f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n'
    async with coordinator(tmp_path, before, workers=workers) as (_, journal, change):
        change(before)
        await journal.until('"needs_restart": []', workers)
        change(f"{before}\n[listen]\ncalls_max = 7\n{admin}[limits]\nlive_max = 5\n")
        await journal.until('"needs_restart": ["listen", "admin", "limits"]', workers)


@pytest.mark.slow
@needs_openssl
async def test_a_listener_shows_a_renewed_certificate_at_once(log_url: str, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    pair = f'certificate_file = "{tmp_path}/tcc.crt"\nkey_file = "{tmp_path}/tcc.key"\n'
    port = free_port()
    text = f'{config(log_url)}[admin]\nlisten = "127.0.0.1:{port}"\n[admin.tls]\n{pair}'
    async with coordinator(tmp_path, text) as (_, journal, change):
        make_certificates(tmp_path)
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        assert shown.split() == (tmp_path / "tcc.crt").read_text().split()
        change(text)
        await journal.until('"needs_restart": []', 1)
