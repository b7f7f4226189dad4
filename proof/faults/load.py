"""The load: orders at a steady rate, some at a time, which can be paused to let everything settle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from participants.demo.initiator import INITIATOR
from participants.demo.plan import PlannedOrder
from proof.faults.orders import place_and_record
from proof.history.recorder import Recorder
from tcc import Participant
from tcc.client.client import Client

PER_S = 45
# How many come at once: those of one client go in a batch.
BURST = 6
IN_FLIGHT_MAX = 96
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@asynccontextmanager
async def clients_of(target: str, count: int) -> AsyncIterator[list[Client]]:
    """Clients with a connection each."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(target, initiator=INITIATOR, channel_options=_OWN_CONNECTION)
            )
            for _ in range(count)
        ]


class Load:
    """Places orders while a block of `running` lasts; `unanswered` holds those without an answer."""

    def __init__(self, clients: list[Client], order_service: Participant, recorder: Recorder) -> None:
        self._clients = clients
        self._order_service = order_service
        self._recorder = recorder
        self._in_flight: set[asyncio.Task[None]] = set()
        self.placed = 0
        self.unanswered: list[str] = []

    @asynccontextmanager
    async def running(self, waiting: AsyncIterator[PlannedOrder]) -> AsyncIterator[None]:
        """Offers orders beside the block. Returns when all of them are answered."""
        offering = asyncio.create_task(self._offer(waiting))
        try:
            yield
        finally:
            offering.cancel()
            [error] = await asyncio.gather(offering, return_exceptions=True)
            await asyncio.gather(*self._in_flight)
        if isinstance(error, Exception):
            raise error

    async def caught_up(self) -> None:
        """Wait until every order that is under way now is answered."""
        if self._in_flight:
            await asyncio.wait(set(self._in_flight))

    async def _offer(self, waiting: AsyncIterator[PlannedOrder]) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        offered = 0
        async for order in waiting:
            while len(self._in_flight) >= IN_FLIGHT_MAX:
                await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._place(order))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
            offered += 1
            if offered % BURST == 0:
                # Late orders are not made up for: the system has its reasons.
                next_at = max(next_at + BURST / PER_S, loop.time())
                await asyncio.sleep(next_at - loop.time())

    async def _place(self, order: PlannedOrder) -> None:
        client, other = self._clients[self.placed % 2], self._clients[(self.placed + 1) % 2]
        self.placed += 1
        try:
            placed = await place_and_record(
                order, client, other, self._order_service, recorder=self._recorder, initiator="steady"
            )
        except Exception as error:  # noqa: BLE001 - a bug of the client's; it is reported with the rest
            self.unanswered.append(f"{order.gid} {order.initiator_fault}: {error!r}")
            return
        if placed.error:
            self.unanswered.append(f"{order.gid} {order.initiator_fault}: {placed.error}")
