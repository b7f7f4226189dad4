"""The structure of the coordinator's server."""

from typing import cast

import grpc
import pytest

from coordinator.api.server import Server, ServerLimits
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.ports.log import Log
from tests.support.worker import settings_for


async def test_methods_have_no_queues_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise gRPC's server would check each of them for every call."""
    queued = []

    def note(_: grpc.aio.Server, service: str, __: object) -> None:
        queued.append(service)

    monkeypatch.setattr(type(grpc.aio.server()), "add_registered_method_handlers", note)
    Server(
        cast("Engine", None),
        settings_for({}).request_limits(),
        log=cast("Log", None),
        clock=LogClock(),
        share_port=False,
        server_limits=ServerLimits(),
    )
    assert queued == []
