"""Where the product leaves Python, and what it meets there instead.

The product is not changed for the simulation and knows nothing of it. While a
`World` runs, the library calls by which it would ask the machine for time, luck, a
connection or a server lead into the world; everything above them is what runs in
production. A new way out of Python that is not listed here shows as a run that
cannot be repeated, which a test looks for.
"""

import asyncio
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import grpc

import coordinator.log.store
import coordinator.process.worker
import tcc.client.endpoint
import tcc.participant.participant
from coordinator.engine.clock import LogClock, LoopLoad
from proof.simulate.jobs import schedule
from proof.simulate.log_database import LogServer, SimulatedConnections
from proof.simulate.network import Channel, Network, Server
from proof.simulate.participant_database import ParticipantDatabase, SimulatedBarrierExecutor
from proof.simulate.virtual_loop import current_process
from tcc._internal import uuid7

_FULL_CHANCE = 0.5


@contextmanager
def installed(
    *,
    rng: random.Random,
    network: Network,
    log: LogServer,
    wall_clock: Callable[[], float],
    monotonic: Callable[[], float],
) -> Iterator[None]:
    """Leads every way out of Python into this world, for the length of the block."""

    def connections(_url: str, *, most: int, statement_timeout_s: float, **_: Any) -> SimulatedConnections:
        return SimulatedConnections(log, network, most=most, statement_timeout_s=statement_timeout_s)

    def open_executor(database: ParticipantDatabase) -> SimulatedBarrierExecutor:
        process = current_process()
        assert process is not None
        return SimulatedBarrierExecutor(database, process)

    def server(*, maximum_concurrent_rpcs: int | None = None, **_: Any) -> Server:
        return Server(network, calls_max=maximum_concurrent_rpcs)

    async def probe(_target: str, *, uses_tls: bool) -> str:  # noqa: ARG001 - as the product's
        """Find out nothing: this world has no sockets."""
        return ""

    # In this world all processes have much to do, or none.
    load = float(rng.random() < _FULL_CHANCE)

    replacements: list[tuple[Any, str, Any]] = [
        (secrets, "token_hex", lambda count: rng.randbytes(count).hex()),
        (os, "urandom", rng.randbytes),
        (uuid7, "_unused_ends", []),
        (time, "time", wall_clock),
        (time, "time_ns", lambda: int(wall_clock() * 1e9)),
        (time, "monotonic", monotonic),
        (coordinator.log.store, "monotonic", monotonic),
        (coordinator.log.store, "Connections", connections),
        (coordinator.process.worker, "LogClock", lambda: LogClock(monotonic)),
        (coordinator.process.worker, "LoopLoad", lambda **_: LoopLoad(monotonic, lambda: load * monotonic())),
        (coordinator.process.worker, "schedule", schedule),
        (coordinator.process.worker.Worker, "report_bug", _break_the_run),
        (tcc.participant.participant, "open_executor", open_executor),
        (tcc.client.endpoint, "probe", probe),
        (grpc.aio, "insecure_channel", lambda target, **_: Channel(network, target)),
        (grpc.aio, "server", server),
    ]
    with ExitStack() as stack:
        # The module's own generator, whose methods the product has bound here and there.
        stack.callback(random.setstate, random.getstate())
        random.seed(rng.getrandbits(64))
        for owner, name, replacement in replacements:
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def _break_the_run(_worker: Any, error: Exception) -> None:
    """Report a bug to the world, which no run survives. In production the process goes on."""
    context = {"message": "a coordinator has a bug", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
