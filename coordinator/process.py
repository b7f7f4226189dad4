"""What a coordinator process asks of the operating system."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Makes this process get SIGTERM when its parent ends, however that ends. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def stay_on_one_cpu(slot: int) -> None:
    """Keeps this thread, and those it starts, on one CPU of those the process may use: the `slot`-th.

    An event loop in Python computes on one at a time anyway; what its helpers wake up there is still in
    that CPU's cache, and no other has to be woken. Linux only; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[slot % len(usable)]})
