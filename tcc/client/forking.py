"""The environments in which gRPC cannot work, found out at the first call.

*Forks.* The poller thread of grpc.aio does not exist in a forked child, and gRPC's own threads
are restarted there only if the poller was not running. A child that was forked beside an open
grpc.aio channel or server crashes or hangs at its first call. So the synchronous clients close
their channels before a fork (tcc.client.background). The channels of asynchronous clients and
the servers of participants belong to other event loops and cannot be closed here. A child that
was forked beside one of them gets an error at its first call.

*Monkey patching.* gevent and eventlet replace the threads, sockets and selectors of the standard
library. gRPC blocks in C, outside of them: the first call would block the whole process.
"""

import _thread
import inspect
import select
import socket
import threading

_forked_beside_grpc = False


def check_usable() -> None:
    """Raise RuntimeError if gRPC cannot work in this process."""
    if _forked_beside_grpc:
        raise RuntimeError(
            "this process was forked while its parent had an open grpc.aio channel or server (a tcc.Client "
            "or a participant), and gRPC does not work in such a child: fork first, close it before the "
            "fork, or start the process with the method 'spawn' or 'forkserver'; an open tcc.SyncClient is "
            "no obstacle"
        )
    if is_monkey_patched():
        raise RuntimeError(
            "the standard library of this process is monkey-patched (by gevent or eventlet), and gRPC does "
            "not work there: use a worker with threads or processes (gunicorn: --worker-class gthread; "
            "Celery: --pool prefork or threads)"
        )


def is_monkey_patched() -> bool:
    """Return whether threads, sockets or selectors are not those of the standard library."""
    return (
        not inspect.isbuiltin(_thread.start_new_thread)
        or not inspect.isbuiltin(select.select)
        or socket.socket.__module__ != "socket"
    )


def is_poller_running() -> bool:
    """Return whether a grpc.aio channel or server exists in this process."""
    # The first name is that of newer versions.
    return any(
        thread.name == "grpc-aio-poller" or "_poll_wrapper" in thread.name for thread in threading.enumerate()
    )


def on_forked_beside_grpc() -> None:
    """Make every later first call raise. Called in a forked child."""
    global _forked_beside_grpc  # noqa: PLW0603 - a fact of the process
    _forked_beside_grpc = True
