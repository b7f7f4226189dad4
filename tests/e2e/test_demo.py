"""`tccd demo` as a person runs it: real processes, real kills, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

# Enough that the demo is far from its end when the first process is killed.
MANY = "2000"
TCCD = Path(sysconfig.get_path("scripts")) / "tccd"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files, with a path short enough for a socket in it."""
    scratch = Path(tempfile.mkdtemp(prefix="tcc-test-"))
    yield scratch
    shutil.rmtree(scratch)


@contextmanager
def demo_process(scratch: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    demo = subprocess.Popen(
        [TCCD, "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    )
    with demo:
        yield demo
        demo.terminate()  # does nothing once it has ended


def until_first_kill(demo: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Waits until the first process is killed; answers all that run then."""
    assert demo.stdout is not None
    assert any(line.startswith("killed coordinator worker") for line in demo.stdout)
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


def test_load_with_kills_loses_nothing(scratch: Path):
    with demo_process(scratch, "--orders", "150", "--json", "--seed", "3") as demo:
        output, notes = demo.communicate(timeout=400)
    assert demo.returncode == 0, notes
    result = json.loads(output.splitlines()[-1])

    assert result["orders"] == 150
    assert result["confirmed"] + result["cancelled"] == 150
    assert sum(result["cancelled_by_reason"].values()) == result["cancelled"]
    assert (result["undecided"], result["unanswered"], result["audit"]) == (0, [], "ok")
    assert {"SOLD_OUT", "EXPIRED", "REQUESTED"} <= result["cancelled_by_reason"].keys()
    assert result["kills"] == len(result["killed"]) == 2
    assert result["killed"][0]["victim"] == "coordinator worker"
    assert all(kill["pid"] != kill["back_pid"] for kill in result["killed"])
    assert 0 < result["recovered"] <= 150
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"] <= result["latency_ms"]["p99"]
    assert result["seconds"] > 0
    assert_nothing_is_left([], scratch)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_demo_leaves_no_process_and_no_file(scratch: Path, number: signal.Signals):
    with demo_process(scratch, "--orders", MANY) as demo:
        running = until_first_kill(demo)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=400)
    assert len(running) > 6  # three participants, PostgreSQL, the coordinator and a worker at the least
    assert (demo.returncode, errors.strip()) == (130, "interrupted")
    assert_nothing_is_left(running, scratch)


@pytest.mark.slow
def test_a_process_that_ends_by_itself_ends_the_demo_and_its_log_is_shown(scratch: Path):
    with demo_process(scratch, "--orders", MANY) as demo:
        running = until_first_kill(demo)
        [coupon] = [process for process in running if "participants.coupon" in command_line(process)]
        coupon.send_signal(signal.SIGSEGV)
        _, errors = demo.communicate(timeout=400)
    assert demo.returncode == 1
    assert f"coupon (pid {coupon.pid}) ended with status -11" in errors
    assert "participant coupon serves on port" in errors
    assert_nothing_is_left(running, scratch)


@pytest.mark.parametrize("count", ["0", "-5", "many", ""])
def test_a_number_of_orders_that_is_none_is_refused_in_words(scratch: Path, count: str):
    with demo_process(scratch, f"--orders={count}") as demo:
        _, errors = demo.communicate()
    assert demo.returncode == 2
    assert errors.splitlines()[-1].endswith("argument --orders: a whole number, at least 1")
