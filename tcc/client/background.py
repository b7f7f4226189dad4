"""The event loop of the synchronous clients: one thread for all of them, in each process.

The thread is started by the first call and runs until the process ends. Closing a client closes
its channel and never the loop, so no call of another thread can be lost with it.

Before a fork, the loop closes all channels and pauses (tcc.client.forking has the reason). Then
the parent continues: calls that were in flight are repeated, which is safe because every request
has a gid. The child starts a loop of its own with its first call.
"""

import asyncio
import atexit
import contextlib
import gc
import os
import threading
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from tcc.client.connection import Connection
from tcc.client.forking import check_usable, is_poller_running, on_forked_beside_grpc

R = TypeVar("R")

# A loop that is busy for longer than this is not waited for: the child then gets an error.
_PAUSE_TIMEOUT_S = 5.0
_EXIT_TIMEOUT_S = 2.0
# Their sum bounds what a fork beside another grpc.aio channel or server costs.
_POLLER_WAITS_S = (0.0, 0.001, 0.004, 0.016, 0.064, 0.256)


class Background:
    """Runs the calls of one synchronous client. Its transactions share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, start: Callable[[], Awaitable[R]]) -> R:
        """Await `start()` on the loop, in a copy of this thread's context, and return the result.

        If the wait is interrupted, the work is cancelled.
        """
        thread = _loop_thread()
        if thread.is_current:
            raise RuntimeError(
                "a SyncClient was called from the thread of the synchronous clients, which would wait for "
                "its own result: prepare the value before the call"
            )
        running = thread.start(start, self._connection)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if _thread is None:
            self._connection.close_unopened()
        else:
            self.run(self._connection.close)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._connection.is_open and _thread is not None:
            _warn(
                "unclosed SyncClient: call its close(), or use it with `with`", ResourceWarning, source=self
            )
            _thread.start(self._connection.close, self._connection)


class _LoopThread:
    """An event loop on a thread of its own, with the connections that are open there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._resumed = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcc-client", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def start(self, start: Callable[[], Awaitable[R]], connection: Connection) -> Future[R]:
        """Await `start()` on the loop."""

        async def work() -> R:
            # An open connection has tasks, which must not be collected as garbage.
            self._connections.add(connection)
            try:
                return await start()
            finally:
                if connection.is_closed:
                    self._connections.discard(connection)

        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def pause(self) -> None:
        """Close all channels and stop the loop, until `resume`."""
        if self.is_current:
            return
        self._resumed.clear()
        paused = threading.Event()
        asyncio.run_coroutine_threadsafe(self._pause(paused), self._loop)
        paused.wait(_PAUSE_TIMEOUT_S)

    def resume(self) -> None:
        self._resumed.set()

    def abandon(self) -> None:
        """Forget a loop whose thread does not exist in this process."""
        self._loop.set_exception_handler(lambda _loop, _context: None)
        for connection in list(self._connections):
            connection.abandon()

    def suspend_at_exit(self) -> None:
        """Close all channels, so that the end of the interpreter finds no running task."""
        self._loop.set_exception_handler(lambda _loop, _context: None)
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._suspend(), self._loop).result(_EXIT_TIMEOUT_S)

    async def _pause(self, paused: threading.Event) -> None:
        suspended = await self._suspend()
        await _until_poller_ends()
        paused.set()
        self._resumed.wait()
        for connection in suspended:
            connection.resume()

    async def _suspend(self) -> set[Connection]:
        suspended: set[Connection] = set()
        # A client may make its first call in the meantime.
        while new := self._connections - suspended:
            for connection in new:
                await connection.suspend()
            suspended |= new
        return suspended


async def _until_poller_ends() -> None:
    """Wait until the calls and channels that were closed are gone, and gRPC's poller with them."""
    for wait_s in _POLLER_WAITS_S:
        if not is_poller_running():
            return
        # Calls end with their last callbacks. Then they and their channel still refer to each other.
        await asyncio.sleep(wait_s)
        gc.collect()


_thread: _LoopThread | None = None
_lock = threading.RLock()
# Of a parent process. If they were collected as garbage, they would touch gRPC.
_abandoned: list[Any] = []
_process_id = os.getpid()
_is_before_fork = False
_poller_before_fork = False


def _loop_thread() -> _LoopThread:
    global _thread  # noqa: PLW0603 - one per process
    if _process_id != os.getpid():
        # Forked by C code that calls no hook of Python.
        _after_fork_in_child()
    with _lock:
        if _thread is None:
            check_usable()
            _thread = _LoopThread()
        return _thread


def _before_fork() -> None:
    global _is_before_fork, _poller_before_fork
    _lock.acquire()
    if _thread is not None:
        _thread.pause()
    _is_before_fork, _poller_before_fork = True, is_poller_running()


def _after_fork_in_parent() -> None:
    global _is_before_fork  # noqa: PLW0603 - a fact of the process
    _is_before_fork = False
    if _thread is not None:
        _thread.resume()
    _lock.release()


def _after_fork_in_child() -> None:
    global _thread, _lock, _process_id, _is_before_fork
    # Without the hook before the fork, all channels of the parent were still open.
    if _poller_before_fork if _is_before_fork else _thread is not None:
        on_forked_beside_grpc()
    if _thread is not None:
        _thread.abandon()
        _abandoned.append(_thread)
    _thread, _lock, _process_id, _is_before_fork = None, threading.RLock(), os.getpid(), False


def _at_exit() -> None:
    if _thread is not None and _process_id == os.getpid():
        _thread.suspend_at_exit()


atexit.register(_at_exit)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
