"""The event loops on which the log's connections are tested: they use the loop's own calls."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
# Tests of these run on each loop.
_MODULES = {"tests.log.test_connection", "tests.log.test_ended_connections"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loops of a test by name. `config`: pytest passes it by name."""
    is_on_each = isinstance(item, pytest.Function) and item.module.__name__ in _MODULES
    return _LOOPS if is_on_each else {"asyncio": asyncio.new_event_loop}
