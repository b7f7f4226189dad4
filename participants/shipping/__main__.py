"""The shipping service: `python -m participants.shipping --database URL --redis URL`."""

import argparse
import logging
import socket
from functools import partial

import uvloop
from sqlalchemy.ext.asyncio import create_async_engine

from participants.events.redis_streams import TIMEOUT_S, stream_of
from participants.redis_client import connect
from participants.serving import create_schema, until_terminated
from participants.shipping import TOPIC, store
from participants.shipping.consumer import Consumer, Subscription
from participants.shipping.handling import handle
from tcc import Participant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, metavar="URL", help="the database of this service")
    parser.add_argument("--redis", required=True, metavar="URL", help="redis://HOST:PORT, or unix:, rediss:")
    parser.add_argument("--group", default="shipping", help="default: %(default)s")
    parser.add_argument(
        "--consumer",
        default=socket.gethostname(),
        metavar="NAME",
        help="differs among living consumers of a group; default: the host's name",
    )
    parser.add_argument(
        "--claim-after-s",
        type=float,
        default=30.0,
        metavar="S",
        help="take over an entry that was pending for so long; default: %(default)s",
    )
    parser.add_argument(
        "--attempts", type=int, default=5, metavar="N", help="then it is dead; default: %(default)s"
    )
    parser.add_argument("--connections", type=int, default=8, help="the largest number to the database")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_consume(parser.parse_args()))


async def _consume(options: argparse.Namespace) -> None:
    subscription = Subscription(
        stream=stream_of(TOPIC),
        group=options.group,
        consumer=options.consumer,
        claim_after_s=options.claim_after_s,
        attempts_max=options.attempts,
    )
    database = create_async_engine(options.database, pool_size=options.connections, max_overflow=0)
    redis = connect(options.redis, timeout_s=TIMEOUT_S)
    shipping = Participant("shipping", database=database)
    try:
        with until_terminated():
            await create_schema(database, store.metadata)
            await shipping.create_schema()
            print(f"consuming {subscription.stream} as {subscription.consumer}", flush=True)  # noqa: T201
            await Consumer(redis, subscription, partial(handle, shipping), database).run()
    finally:
        await redis.aclose()
        await database.dispose()


if __name__ == "__main__":
    main()
