"""Supervision of background tasks, so that none ends unnoticed."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger("tcc.participant")


class BackgroundTaskError(RuntimeError):
    """A task that the service depends on has ended. Its error, if any, is the `__cause__`."""


class TaskSupervisor:
    """Runs the tasks of a service. If a task fails, or an endless one ends, the service fails."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._endless: set[asyncio.Task[None]] = set()
        self._stopping = False
        # Set when a task has ended unexpectedly.
        self.failed = asyncio.Event()
        self.error: BackgroundTaskError | None = None

    def start(self, work: Coroutine[Any, Any, None], name: str, *, endless: bool = False) -> None:
        """Run a coroutine as a task. It must handle its errors: an exception that leaves it is a bug."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        if endless:
            self._endless.add(task)
        task.add_done_callback(self._on_done)

    async def stop(self) -> None:
        """Cancel the running tasks, and wait until they have ended."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        is_endless = task in self._endless
        self._endless.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._stopping or (error is None and not is_endless and not task.cancelled()):
            return
        if self.error is None:
            self.error = BackgroundTaskError(
                f"the background task {task.get_name()!r} has ended unexpectedly"
            )
            self.error.__cause__ = error
        logger.critical("the background task %s has ended unexpectedly", task.get_name(), exc_info=error)
        self.failed.set()
