"""A participant as a process: its arguments, its start, its graceful end."""

import argparse
import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import uvloop
from sqlalchemy import MetaData, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tcc import Participant
from tcc._internal.garbage import relax_garbage_collection

# Any number will do, as long as all processes that create one schema use it.
_SCHEMA_LOCK = 7_423_001


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="0 picks a free port")
    parser.add_argument(
        "--database", required=True, metavar="URL", help="this service's own: postgresql+psycopg://..."
    )
    parser.add_argument("--connections", type=int, default=8, help="to the database, at most")
    return parser


def main(
    options: argparse.Namespace,
    build: Callable[[AsyncEngine], Participant],
    metadata: MetaData,
    *,
    interceptors: Sequence[Any] = (),
) -> None:
    """Serve until SIGTERM or SIGINT. Prints `listening on HOST:PORT` once calls are welcome."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_serve(options, build, metadata, interceptors))


async def _serve(
    options: argparse.Namespace,
    build: Callable[[AsyncEngine], Participant],
    metadata: MetaData,
    interceptors: Sequence[Any],
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    database = create_async_engine(options.database, pool_size=options.connections, max_overflow=0)
    try:
        participant = build(database)
        await create_schema(database, metadata)
        await participant.create_schema()
        port = await participant.start(options.listen, interceptors=interceptors)
        relax_garbage_collection()
        host = options.listen.rpartition(":")[0]
        print(f"listening on {host}:{port}", flush=True)  # noqa: T201 - whoever started us waits for it
        await stopping.wait()
        await participant.stop()
    finally:
        await database.dispose()


async def create_schema(database: AsyncEngine, metadata: MetaData) -> None:
    """Create the tables that are missing; safe when several processes start at once."""
    async with database.begin() as db:
        await db.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        await db.run_sync(metadata.create_all)
