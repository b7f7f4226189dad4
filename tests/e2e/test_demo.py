"""`tccd demo` as a person runs it: real processes, real kills, and nothing left behind."""

import json
import shutil
import signal
import sysconfig
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import pytest

from participants.child_process import ended, running

# Enough that the demo is far from its end when the first process is killed.
MANY = "2000"
_TIMEOUT_S = 400
TCCD = Path(sysconfig.get_path("scripts")) / "tccd"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files, with a path short enough for a socket in it."""
    scratch = Path(tempfile.mkdtemp(prefix="tcc-test-"))
    yield scratch
    shutil.rmtree(scratch)


def demo_process(scratch: Path, *arguments: str) -> AbstractAsyncContextManager[Process]:
    return running(TCCD, "demo", *arguments, environment={"TMPDIR": str(scratch)})


async def until_first_kill(demo: Process) -> list[psutil.Process]:
    """Wait until the first process is killed; return all that run then."""
    assert demo.stdout is not None
    while not (line := await demo.stdout.readline()).startswith(b"killed coordinator worker"):
        assert line, "the demo ended before it killed a process"
    return psutil.Process(demo.pid).children(recursive=True)


def command_line(process: psutil.Process) -> list[str]:
    """Nothing where the process has ended: PostgreSQL's own come and go."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def assert_nothing_is_left(processes: list[psutil.Process], scratch: Path) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
async def test_load_with_kills_loses_nothing(scratch: Path):
    async with demo_process(scratch, "--orders", "150", "--json", "--seed", "3") as demo:
        status, output, notes = await ended(demo, _TIMEOUT_S)
    assert status == 0, notes
    result = json.loads(output.splitlines()[-1])

    assert result["orders"] == 150
    assert result["confirmed"] + result["cancelled"] == 150
    assert sum(result["cancelled_by_reason"].values()) == result["cancelled"]
    assert (result["undecided"], result["unanswered"], result["audit"]) == (0, [], "ok")
    assert result["charged"] == result["confirmed"] + result["refunded"]
    assert result["receipts"] == result["confirmed"]
    assert {"SOLD_OUT", "EXPIRED", "REQUESTED"} <= result["cancelled_by_reason"].keys()
    assert 0 < result["local_commits"] <= result["confirmed"]
    assert result["check_backs"] > 0
    assert result["kills"] == len(result["killed"]) == 3
    assert result["killed"][0]["victim"] == "coordinator worker"
    assert result["killed"][1]["victim"].startswith("checkout-")
    assert all(kill["pid"] != kill["back_pid"] for kill in result["killed"])
    assert 0 < result["recovered"] <= 150
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]
    assert result["seconds"] > 0
    assert_nothing_is_left([], scratch)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
async def test_an_interrupted_demo_leaves_no_process_and_no_file(scratch: Path, number: signal.Signals):
    async with demo_process(scratch, "--orders", MANY) as demo:
        processes = await until_first_kill(demo)
        demo.send_signal(number)
        status, _, errors = await ended(demo, _TIMEOUT_S)
    assert (
        len(processes) > 8
    )  # five participants, a checkout, PostgreSQL, the coordinator and a worker at the least
    assert (status, errors.strip()) == (130, "interrupted")
    assert_nothing_is_left(processes, scratch)


@pytest.mark.slow
async def test_a_process_that_crashes_ends_the_demo_and_its_log_is_shown(scratch: Path):
    async with demo_process(scratch, "--orders", MANY) as demo:
        processes = await until_first_kill(demo)
        [coupon] = [process for process in processes if "participants.coupon" in command_line(process)]
        coupon.send_signal(signal.SIGSEGV)
        status, _, errors = await ended(demo, _TIMEOUT_S)
    assert status == 1
    assert f"coupon (pid {coupon.pid}) ended with status -11" in errors
    assert "participant coupon serves on port" in errors
    assert_nothing_is_left(processes, scratch)
