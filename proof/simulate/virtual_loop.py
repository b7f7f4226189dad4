"""An event loop whose time is simulated, and the processes that live on it.

Nothing waits: when no callback is ready the clock jumps to the next timer. Every
callback belongs to the process in whose context it was scheduled. A process that
is *paused* runs nothing until it is woken, and finds its timers and its mail
waiting then; one that is *killed* never runs again, whatever it was awaiting, and
no `finally` of it runs either: that is SIGKILL. A *fuse* kills a process after a
number of callbacks, so that it dies between any two awaits.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_PROCESS: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("simulated_process", default=None)


class Process:
    """One life of a simulated operating-system process. A restart makes a new one."""

    def __init__(
        self, loop: "VirtualLoop", host: str, life: int, on_fuse: Callable[["Process"], None]
    ) -> None:
        self.host = host
        self.life = life
        self.alive = True
        self.paused = False
        # Callbacks to run until it is killed; None: it lives on.
        self.fuse: int | None = None
        self.on_fuse = on_fuse
        self.parked: deque[asyncio.Handle] = deque()
        # Kept, so that nothing of a killed process is closed and cleaned up behind its back.
        self.tasks: list[asyncio.Task[Any]] = []
        # What its machine's wall clock is off by, and where its monotonic clock began.
        self.wall_error_s = 0.0
        self.monotonic_origin_s = 0.0
        self._loop = loop
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)

    @property
    def name(self) -> str:
        return f"{self.host}.{self.life}"

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return self.context.run(self._loop.create_task, coroutine)

    def run_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(callback, *args, context=self.context.copy())

    def pause(self) -> None:
        self.paused = True

    def wake(self) -> None:
        self.paused = False
        self._loop.ready.extend(self.parked)
        self.parked.clear()

    def kill(self) -> None:
        self.alive = False
        self.parked.clear()


def current_process() -> Process | None:
    """The process whose code is running; None: the world itself."""
    return _PROCESS.get()


def context_of(process: Process | None) -> contextvars.Context:
    """A context to schedule a callback in: the process's, or the world's."""
    return contextvars.Context() if process is None else process.context.copy()


class _Task(asyncio.Task[T]):
    """A task that sets hold in an order that does not depend on its address."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        number: int,
        loop: "VirtualLoop",
        name: str | None,
        context: contextvars.Context | None,
    ) -> None:
        self.number = number
        super().__init__(coroutine, loop=loop, name=name or f"task-{number}", context=context)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.AbstractEventLoop):
    """The loop. `run_until` drives it; everything on it is deterministic."""

    def __init__(self, on_error: Callable[[dict[str, Any]], None]) -> None:
        self.ready: deque[asyncio.Handle] = deque()
        self.steps = 0
        self.closed = False
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._scheduled = 0
        self._created = 0
        self._on_error = on_error

    # --- driving ------------------------------------------------------------------

    def run_until(self, done: Callable[[], bool], *, until_s: float) -> bool:
        """Run until `done`, which is checked after every step, or until simulated time is up.

        Returns whether it is done.
        """
        with self.running():
            while not done():
                if not self.ready and not self._advance(until_s):
                    return False
                self._step()
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        asyncio._set_running_loop(self)  # noqa: SLF001 - how every event loop announces itself
        try:
            yield
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - the same

    def _advance(self, until_s: float) -> bool:
        """Jumps to the next timer. Returns False if that lies beyond `until_s`."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers or timers[0][0] > until_s:
            self._now = max(self._now, until_s)
            return False
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self.ready.append(handle)
        return True

    def _step(self) -> None:
        if not self.ready:
            return
        handle = self.ready.popleft()
        if handle.cancelled():
            return
        process = handle._context.get(_PROCESS)  # type: ignore[attr-defined] # noqa: SLF001 - whose callback it is
        if process is not None:
            if not process.alive:
                return
            if process.paused:
                process.parked.append(handle)
                return
            if process.fuse is not None:
                process.fuse -= 1
                if process.fuse < 0:
                    process.on_fuse(process)
                    return
        self.steps += 1
        handle._run()  # noqa: SLF001 - what an event loop does

    def close(self) -> None:
        """From here on nothing is scheduled any more, whatever the garbage collector closes."""
        self.closed = True
        self.ready.clear()
        self._timers.clear()

    # --- what asyncio asks of a loop ------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override] # any arguments will do here
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.closed:
            self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override] # the same
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # the same
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.closed:
            self._scheduled += 1
            heapq.heappush(self._timers, (when, self._scheduled, handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        self._created += 1
        task: asyncio.Task[Any] = _Task(coro, number=self._created, loop=self, name=name, context=context)
        process = _PROCESS.get()
        if process is not None:
            _keep(process.tasks, task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.closed:
            self._on_error(context)


def _keep(tasks: list[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    tasks.append(task)
    if len(tasks) % 512 == 0:
        tasks[:] = [kept for kept in tasks if not kept.done()]
