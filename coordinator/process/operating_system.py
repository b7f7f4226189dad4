"""Calls of a coordinator process to the operating system."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_PR_SET_PDEATHSIG = 1
# Of malloc.h.
_M_ARENA_MAX = -8
_ARENAS_MAX = 2
# More than any limit on connections needs.
OPEN_FILES_WANTED = 1_048_576

logger = structlog.get_logger(__name__)


def warn_of_root() -> None:
    """Log a warning if this process runs as root, which it never needs."""
    if os.geteuid() == 0:
        logger.warning("tccd runs as root: run it as a user of its own")


def end_with_parent(parent_pid: int) -> None:
    """Make this process receive SIGTERM when its parent ends, for any reason. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


def stay_on_one_cpu(slot: int) -> None:
    """Pin this thread, and those it starts, to one of the CPUs that the process may use.

    The `slot` selects the CPU, modulo their number. An event loop in Python uses one CPU at a time
    anyway. Pinned, the threads that it wakes find its data in the cache, and no other CPU has to be
    woken. Linux only; elsewhere, and in sandboxes that refuse it, nothing changes.
    """
    if sys.platform != "linux":
        return
    usable = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {usable[slot % len(usable)]})
    except OSError as error:
        logger.warning("pin_workers: the worker stays on any CPU", error=str(error))


def raise_open_files_limit() -> int:
    """Let this process open as many files as the system allows it, and return that number.

    Each connection is a file. The usual limit of 1,024 is for programs that use select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def limit_memory_arenas() -> None:
    """Let glibc keep the memory of threads that are started from now on in two arenas.

    By default there are up to eight for each CPU, and each keeps what its threads once needed. A
    variable MALLOC_ARENA_MAX in the environment wins. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS_MAX)


def return_free_memory() -> None:
    """Return freed memory to the operating system, which takes some milliseconds.

    glibc keeps what was freed below anything that is still in use, in an arena for each thread of
    gRPC. Elsewhere nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def background_threads() -> Iterator[None]:
    """Make threads started in this block, and their threads, wait until a CPU is free.

    gRPC wakes its own threads for almost every event. Otherwise they would preempt the event loop
    several times per call, each for a few microseconds. Linux only (its scheduling policy
    SCHED_BATCH). Elsewhere, in sandboxes that refuse it, and if the process already has another
    policy, nothing changes.
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
        logger.info("background threads keep their scheduling policy", error=str(error))
        return False
    return True
