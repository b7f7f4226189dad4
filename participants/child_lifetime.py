"""Execute another program that gets SIGTERM when its parent ends, for any reason.

    python child_lifetime.py PARENT_PID PROGRAM [ARGUMENT...]

This is a separate program instead of a `preexec_fn` of subprocess, which would run Python
in a fork of a process that has gRPC's threads. The setting survives the exec.
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
    if os.getppid() != parent_pid:  # it ended before the request
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
