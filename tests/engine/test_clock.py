"""Whose clock counts: the log's, and no other."""

import ast
import time
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest

import coordinator
from coordinator.engine.clock import LogClock, LoopLoad

PACKAGE = Path(coordinator.__file__).parent
# Uses that move no deadline, by file: when the scheduler ticks first; how far this machine's clock
# is from the log's and from those of participants, which the doctor reports; when something happened,
# for who is alerted; until when tokens and certificates are valid, which is a time of day.
HARMLESS = {
    "config/commands.py": 1,
    "jobs/scheduler.py": 1,
    "log/diagnosis.py": 2,
    "observability/alerts.py": 1,
    "observability/metrics.py": 1,
    "process/doctor.py": 1,
    "process/participant_checks.py": 2,
    "process/worker.py": 2,
}
# What asks this machine for the time of day.
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def test_the_clock_has_the_log_s_time_and_advances_monotonically() -> None:
    monotonic = iter([107.0, 110.0])
    clock = LogClock(lambda: next(monotonic))
    clock.set(5_000.0, asked_at=100.0, answered_at=104.0)  # the log answered at 102, as far as we know
    assert clock.now() == 5_005.0
    assert clock.now() == 5_008.0


def test_a_slow_answer_moves_the_clock_no_further_than_it_must() -> None:
    clock = LogClock(lambda: 100.0)
    clock.set(5_000.0, asked_at=100.0, answered_at=100.0)
    clock.set(5_002.0, asked_at=99.0, answered_at=103.0)  # at 102 the log's time may well be 5,002
    assert clock.now() == 5_000.0
    clock.set(5_002.0, asked_at=99.0, answered_at=101.0)  # it went on by more than it can have here
    assert clock.now() == 5_001.0
    clock.set(4_000.0, asked_at=100.0, answered_at=101.0)
    assert clock.now() == 4_000.0


def test_a_thread_is_full_while_it_has_hardly_a_pause() -> None:
    now = computed = 0.0
    load = LoopLoad(lambda: now, lambda: computed)

    def after(passed_s: float, share: float) -> bool:
        nonlocal now, computed
        now += passed_s
        computed += passed_s * share
        return load.is_saturated()

    assert not after(0.2, 0.65)
    assert after(0.2, 0.75)
    assert after(0.01, 0.0)  # too short to say anything new
    assert after(0.19, 0.7)
    assert after(0.2, 0.55)  # it does not change its mind at every breath
    assert not after(0.2, 0.45)
    assert not after(0.2, 0.65)
    assert not after(3_600.0, 0.001)


@pytest.mark.parametrize("asks_itself", [True, False])
def test_only_what_the_asking_thread_computes_makes_it_full(asks_itself: bool) -> None:  # noqa: FBT001
    """Other threads of its process may compute all the time: the loop has its pauses."""
    load = LoopLoad(time.process_time)
    if asks_itself:
        compute()
    else:
        other = Thread(target=compute)
        other.start()
        other.join()
    assert load.is_saturated() is asks_itself


def compute() -> None:
    """Takes a while of CPU time, be it slowly."""
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass


def test_dtm_no_local_wall_clock_or_time_zone_can_move_a_deadline() -> None:
    """DTM's retries shift by hours with a wrong clock; nothing that decides ever asks one."""
    asked = Counter(
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS
    )
    assert asked == HARMLESS
