"""A process of the order service that places orders: the initiator of their transactions.

    python -m participants.demo.checkout --coordinator HOST:PORT --database URL

It reads orders from standard input, one line of JSON each, places them concurrently, and
writes a line with the result of each. It is a process of the participant `order`, as the one
that serves the coordinator's calls, and has the same database: so that one is asked about
what this one committed before it died.
"""

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import create_async_engine

from participants.demo.initiator import INITIATOR, ORDER, OrderResult, place
from participants.demo.plan import PlannedOrder
from tcc import Client, Participant

READY = "ready to place orders"
ORDERS = TypeAdapter(PlannedOrder)
RESULTS = TypeAdapter(OrderResult)

# Each client has its own connection, so that both workers get some of the load.
_CLIENTS = 4
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_CONNECTIONS = 8


async def main() -> None:
    """Place orders until standard input ends, or SIGTERM or SIGINT arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT")
    parser.add_argument("--database", required=True, metavar="URL", help="the database of the order service")
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lines.feed_eof)
    database = create_async_engine(options.database, pool_size=_CONNECTIONS, max_overflow=0)
    try:
        async with _clients(options.coordinator) as clients:
            print(READY, flush=True)  # noqa: T201 - the parent process waits for it
            await _place_all(lines, clients, Participant(ORDER, database=database))
    finally:
        await database.dispose()


async def _place_all(lines: asyncio.StreamReader, clients: list[Client], orders: Participant) -> None:
    in_turn = itertools.cycle(zip(clients, [*clients[1:], clients[0]], strict=True))

    async def place_one(line: bytes) -> None:
        client, other = next(in_turn)
        result = await place(ORDERS.validate_json(line), client, other, orders, is_paid=True)
        print(RESULTS.dump_json(result).decode(), flush=True)  # noqa: T201 - the parent process reads it

    placing: set[asyncio.Task[None]] = set()
    async for line in lines:
        task = asyncio.create_task(place_one(line))
        placing.add(task)
        task.add_done_callback(placing.discard)
    # The customers have left; the coordinator ends what was begun.
    for task in placing:
        task.cancel()
    await asyncio.gather(*placing, return_exceptions=True)


@asynccontextmanager
async def _clients(address: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Client(address, initiator=INITIATOR, channel_options=_OWN_CONNECTION)
            )
            for _ in range(_CLIENTS)
        ]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
