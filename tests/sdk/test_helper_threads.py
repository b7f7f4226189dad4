"""Which scheduling policy threads get; it belongs to a thread, not to its process."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from tcc.helper_threads import helper_threads


def policy_of_a_new_thread(*, generations: int = 1) -> int:
    """That of a thread which this one starts, or of one that such a thread starts, and so on."""
    found: list[int] = []

    def look() -> None:
        older = generations > 1
        found.append(
            policy_of_a_new_thread(generations=generations - 1) if older else os.sched_getscheduler(0)
        )

    thread = Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_threads_started_in_the_block_do_not_push_others_aside() -> None:
    with helper_threads():
        assert [policy_of_a_new_thread(generations=n) for n in (1, 2)] == [os.SCHED_BATCH] * 2
    assert os.sched_getscheduler(0) == policy_of_a_new_thread() == os.SCHED_OTHER


def test_the_block_ends_as_it_began_when_it_fails() -> None:
    with pytest.raises(ZeroDivisionError), helper_threads():
        _ = 1 / 0
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_has_chosen_stays() -> None:
    def chosen() -> tuple[int, int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with helper_threads():
            inside = policy_of_a_new_thread()
        return inside, os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as other_thread:
        assert other_thread.submit(chosen).result() == (os.SCHED_IDLE, os.SCHED_IDLE)


def test_a_sandbox_that_refuses_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with caplog.at_level("INFO"), helper_threads():
        assert policy_of_a_new_thread() == os.SCHED_OTHER
    assert "Operation not permitted" in caplog.text
