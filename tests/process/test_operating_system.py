"""Which threads of a coordinator may run where and when. Policies and CPUs belong to a thread."""

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psutil
import pytest
from structlog.testing import capture_logs

from coordinator.process.operating_system import (
    background_threads,
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
