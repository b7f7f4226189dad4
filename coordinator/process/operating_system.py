"""What a coordinator process asks of the operating system."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_PR_SET_PDEATHSIG = 1

logger = structlog.get_logger(__name__)


def end_with_parent(parent_pid: int) -> None:
    """Make this process get SIGTERM when its parent ends, however that ends. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def stay_on_one_cpu(slot: int) -> None:
    """Keep this thread, and those it starts, on one CPU of those the process may use.

    It is the `slot`-th, counted round. An event loop in Python computes on one at a time anyway; what
    the threads beside it wake up for is still in that CPU's cache, and no other has to be woken. Linux
    only; elsewhere, and in sandboxes that refuse it, nothing changes.
    """
    if sys.platform != "linux":
        return
    usable = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {usable[slot % len(usable)]})
    except OSError as error:
        logger.warning("pin_workers: the worker stays on any CPU", error=str(error))


@contextmanager
def background_threads() -> Iterator[None]:
    """Threads that are started in this block, and by those, wait for a CPU until somebody leaves one.

    gRPC wakes threads of its own for almost every event. Otherwise they would take the event loop's
    CPU at once, several times a call, each for a few microseconds. Linux only (its scheduling policy
    SCHED_BATCH); elsewhere, in sandboxes that refuse it, and where somebody has chosen another policy for
    the process, nothing changes.
    """
    if not _has_become_a_batch_thread():
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _has_become_a_batch_thread() -> bool:
    if sys.platform != "linux":
        return False
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        logger.info("threads in the background keep their scheduling policy", error=str(error))
        return False
    return True
