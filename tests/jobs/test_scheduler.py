"""The jobs of one name, one for each cell, run side by side."""

import asyncio
from typing import cast

from coordinator.engine.engine import Engine
from coordinator.jobs.scheduler import SameJobs

NO_ENGINE = cast("Engine", None)


class Counted:
    """A job that counts its runs, each of which waits for `may_end`."""

    name = "counted"
    every_s = 1.0

    def __init__(self) -> None:
        self.runs = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def run_once(self) -> int:
        self.runs += 1
        self.began.set()
        await self.may_end.wait()
        return 1


class Broken(Counted):
    async def run_once(self) -> int:
        self.runs += 1
        raise ZeroDivisionError


async def test_a_job_that_is_under_way_delays_no_other() -> None:
    slow, quick, bugs = Counted(), Counted(), list[Exception]()
    quick.may_end.set()
    same = SameJobs(NO_ENGINE, [slow, quick], bugs.append)
    first = asyncio.ensure_future(same.run())
    await slow.began.wait()
    await same.run()
    await same.run()
    assert (slow.runs, quick.runs) == (1, 3)
    slow.may_end.set()
    await first
    await same.run()
    assert (slow.runs, quick.runs) == (2, 4)
    assert bugs == []


async def test_a_job_that_fails_runs_again_and_so_do_the_others() -> None:
    broken, quick, bugs = Broken(), Counted(), list[Exception]()
    quick.may_end.set()
    same = SameJobs(NO_ENGINE, [broken, quick], bugs.append)
    await same.run()
    await same.run()
    assert (broken.runs, quick.runs, len(bugs)) == (2, 2, 2)


async def test_jobs_end_with_the_scheduler() -> None:
    """What a job would take over later, no coordinator would drive."""
    slow = Counted()
    same = SameJobs(NO_ENGINE, [slow], lambda _: None)
    running = asyncio.ensure_future(same.run())
    await slow.began.wait()
    running.cancel()
    await running  # a CancelledError would be in the journal as an error of the job
    slow.may_end.set()
    await same.run()
    assert slow.runs == 2
