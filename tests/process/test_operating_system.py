"""Which threads of a coordinator may run where and when. Policies and CPUs belong to a thread."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psutil
import pytest
from structlog.testing import capture_logs

from coordinator.process.operating_system import (
    background_threads,
    limit_memory_arenas,
    return_free_memory,
    stay_on_one_cpu,
    warn_of_root,
)

T = TypeVar("T")


def in_a_new_thread(look: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as other_thread:
        return other_thread.submit(look).result()


def policy() -> int:
    return os.sched_getscheduler(0)


def refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(("uid", "warnings"), [(0, 1), (1000, 0)])
def test_running_as_root_is_warned_of(monkeypatch: pytest.MonkeyPatch, uid: int, warnings: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with capture_logs() as lines:
        warn_of_root()
    assert len(lines) == warnings


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="only glibc keeps freed memory")
def test_freed_memory_is_returned_to_the_system() -> None:
    """Every second block stays, so that no whole arena is free."""
    process = psutil.Process()
    blocks = [bytearray(64 * 1024) for _ in range(2_000)]
    for block in blocks:
        block[:] = b"x" * len(block)
    del blocks[::2]
    before = process.memory_info().rss
    return_free_memory()
    assert before - process.memory_info().rss > 30 * 2**20


ARENAS = f"""
import ctypes, os, sys, threading
from {limit_memory_arenas.__module__} import {limit_memory_arenas.__name__} as limit
if sys.argv[1] == "limited":
    limit()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(6)
def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for each in threads: each.start()
for each in threads: each.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the arenas are glibc's")
@pytest.mark.parametrize(
    ("argument", "environment", "arenas"),
    [("unlimited", {}, 7), ("limited", {}, 2), ("limited", {"MALLOC_ARENA_MAX": "4"}, 4)],
)
def test_threads_share_two_arenas_unless_the_environment_sets_more(
    argument: str, environment: dict[str, str], arenas: int
) -> None:
    # The main thread has an arena of its own, and each of the six others gets one while there are more.
    program = [sys.executable, "-c", ARENAS, argument]
    cores = {"MALLOC_ARENA_TEST": "64"}  # below it, glibc does not limit them by the number of CPUs
    done = subprocess.run(
        program, env=os.environ | cores | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("<heap ") == arenas


def test_threads_started_in_the_block_do_not_preempt_others() -> None:
    def ordinary() -> tuple[list[int], int, int]:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        with background_threads():
            inside = [in_a_new_thread(policy), in_a_new_thread(lambda: in_a_new_thread(policy))]
        return inside, policy(), in_a_new_thread(policy)

    assert in_a_new_thread(ordinary) == ([os.SCHED_BATCH] * 2, os.SCHED_OTHER, os.SCHED_OTHER)


def test_the_block_ends_as_it_began_when_it_fails() -> None:
    before = policy()
    with pytest.raises(ZeroDivisionError), background_threads():
        _ = 1 / 0
    assert policy() == before


def test_a_scheduling_policy_that_is_already_set_stays() -> None:
    def chosen() -> tuple[int, int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with background_threads():
            inside = in_a_new_thread(policy)
        return inside, policy()

    assert in_a_new_thread(chosen) == (os.SCHED_IDLE, os.SCHED_IDLE)


@pytest.mark.parametrize("call", ["sched_getscheduler", "sched_setscheduler"])
def test_a_sandbox_that_refuses_policies_changes_nothing(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = policy()
    with monkeypatch.context() as sandbox, capture_logs() as logged:
        sandbox.setattr(os, call, refuse)
        with background_threads():
            ran = in_a_new_thread(lambda: True)
    assert ran
    assert policy() == before
    assert [each["error"] for each in logged] == ["[Errno 1] Operation not permitted"]


def test_workers_take_the_cpus_that_they_may_use_in_turns() -> None:
    usable = sorted(os.sched_getaffinity(0))

    def cpus(slot: int) -> set[int]:
        stay_on_one_cpu(slot)
        return os.sched_getaffinity(0)

    taken = [in_a_new_thread(lambda slot=slot: cpus(slot)) for slot in range(len(usable) + 1)]
    assert taken == [{cpu} for cpu in [*usable, usable[0]]]
    assert sorted(os.sched_getaffinity(0)) == usable


def test_a_sandbox_that_refuses_cpu_pinning_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with capture_logs() as logged:
        stay_on_one_cpu(0)
    assert [each["error"] for each in logged] == ["[Errno 1] Operation not permitted"]
