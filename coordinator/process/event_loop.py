"""The event loop of workers: uvloop's where it is installed, else asyncio's."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

logger = structlog.get_logger(__name__)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a new event loop, and return its result."""
    with asyncio.Runner(loop_factory=_uvloop()) as runner:
        return runner.run(main)


def log_missing_uvloop() -> None:
    """Log that workers will be slower, unless uvloop is installed."""
    if _uvloop() is None:
        logger.warning(
            "uvloop is not installed: workers are slower", install="pip install 'tcc-coordinator[uvloop]'"
        )


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
