"""The load: orders at a steady rate, some at a time, which can be paused to let everything settle."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from participants.demo.initiator import INITIATOR
from participants.demo.plan import PlannedOrder
from proof.faults.orders import place_and_record
from proof.faults.tenants import TENANTS, Credentials, intrude, other_than, tenant_of
from proof.history.recorder import Recorder
from tcc import Participant
from tcc.client.client import Client

PER_S = 45
# How many come at once: those of one client go in a batch.
BURST = 6
IN_FLIGHT_MAX = 96
# For each order that is placed step by step.
_INTRUSIONS = 2
_INTRUSION_PAUSE_S = 0.03
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


Pair = tuple[Client, Client]


@asynccontextmanager
async def clients_of(target: str, credentials: Credentials) -> AsyncIterator[Mapping[str, Pair]]:
    """Two clients of each tenant, with a connection each."""
    async with AsyncExitStack() as stack:

        async def client(tenant: str) -> Client:
            return await stack.enter_async_context(
                Client(
                    target,
                    initiator=INITIATOR,
                    channel_options=_OWN_CONNECTION,
                    tls=credentials.tls,
                    token=credentials.token(tenant),
                )
            )

        yield {tenant: (await client(tenant), await client(tenant)) for tenant in TENANTS}


class Load:
    """Places orders while a block of `running` lasts; `unanswered` holds those without an answer."""

    def __init__(self, clients: Mapping[str, Pair], order_service: Participant, recorder: Recorder) -> None:
        self._clients = clients
        self._order_service = order_service
        self._recorder = recorder
        self._in_flight: set[asyncio.Task[None]] = set()
        self.placed = 0
        # How often a tenant asked for a branch in a transaction of the other.
        self.intrusions = 0
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
        tenant = tenant_of(order.gid)
        client, other = self._clients[tenant]
        if self.placed % 4 < 2:
            client, other = other, client
        self.placed += 1
        try:
            placed, _ = await asyncio.gather(
                place_and_record(
                    order, client, other, self._order_service, recorder=self._recorder, initiator="steady"
                ),
                self._intrude(order, self._clients[other_than(tenant)][0]),
            )
        except Exception as error:  # noqa: BLE001 - a bug of the client's; it is reported with the rest
            self.unanswered.append(f"{order.gid} {order.initiator_fault}: {error!r}")
            return
        if placed.error:
            self.unanswered.append(f"{order.gid} {order.initiator_fault}: {placed.error}")

    async def _intrude(self, order: PlannedOrder, other_tenant: Client) -> None:
        """Ask for a branch in a transaction of another tenant while it goes on, where that takes branches."""
        if not order.is_local_first:
            return
        for _ in range(_INTRUSIONS):
            # The transaction has to begin first, and to end late enough.
            await asyncio.sleep(_INTRUSION_PAUSE_S)
            self.intrusions += 1
            if await intrude(other_tenant, order.gid, order.sku):
                self.unanswered.append(f"{order.gid}: the other tenant was let in")
