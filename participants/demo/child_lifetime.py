"""Becomes another program that gets SIGTERM when its parent ends, however that ends.

    python leash.py PARENT_PID PROGRAM [ARGUMENT...]

A program of its own instead of subprocess's `preexec_fn`, which would run Python
in a fork of a process that has gRPC's threads. The request survives the exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it ended before we asked
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted
