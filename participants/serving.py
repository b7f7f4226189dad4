"""A participant as a process: arguments, start and graceful stop."""

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import uvloop
from sqlalchemy import MetaData, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tcc import Participant, Tls
from tcc._internal.garbage import relax_garbage_collection

# Any number, as long as all processes that create one schema use the same.
_SCHEMA_LOCK = 7_423_001


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="port 0 selects a free port"
    )
    parser.add_argument(
        "--database",
        required=True,
        metavar="URL",
        help="the database of this service: postgresql+psycopg://...",
    )
    parser.add_argument(
        "--connections", type=int, default=8, help="the largest number of connections to the database"
    )
    parser.add_argument("--certificate-file", metavar="FILE", help="serve with TLS and this certificate")
    parser.add_argument("--key-file", metavar="FILE", help="the certificate's private key")
    parser.add_argument("--ca-file", metavar="FILE", help="callers need a certificate of these authorities")
    parser.add_argument(
        "--caller",
        action="append",
        default=None,
        metavar="NAME",
        help="who may call, for example spiffe://bank.example/tccd; may be repeated",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen beyond loopback without TLS and callers"
    )
    return parser


@contextlib.contextmanager
def until_terminated() -> Iterator[None]:
    """Run the block of this task until it ends, or until SIGTERM or SIGINT cancels it."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        yield


def main(
    options: argparse.Namespace,
    build: Callable[[AsyncEngine], Participant],
    metadata: MetaData,
    *,
    interceptors: Sequence[Any] = (),
    beside: Callable[[AsyncEngine], AbstractAsyncContextManager[object]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Print `listening on HOST:PORT` when ready.

    `beside` is entered before the participant starts, and left after it has stopped.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_serve(options, build, metadata, interceptors, beside))


async def _serve(
    options: argparse.Namespace,
    build: Callable[[AsyncEngine], Participant],
    metadata: MetaData,
    interceptors: Sequence[Any],
    beside: Callable[[AsyncEngine], AbstractAsyncContextManager[object]] | None,
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    database = create_async_engine(options.database, pool_size=options.connections, max_overflow=0)
    try:
        participant = build(database)
        await create_schema(database, metadata)
        await participant.create_schema()
        async with nullcontext() if beside is None else beside(database):
            port = await participant.start(
                options.listen,
                tls=_tls(options),
                callers=options.caller,
                insecure=options.insecure,
                interceptors=interceptors,
            )
            relax_garbage_collection()
            host = options.listen.rpartition(":")[0]
            print(f"listening on {host}:{port}", flush=True)  # noqa: T201 - the parent process waits for it
            await stopping.wait()
            await participant.stop()
    finally:
        await database.dispose()


def _tls(options: argparse.Namespace) -> Tls | None:
    files = {"certificate": options.certificate_file, "key": options.key_file, "ca": options.ca_file}
    return Tls(**files) if any(files.values()) else None


async def create_schema(database: AsyncEngine, metadata: MetaData) -> None:
    """Create the missing tables. Several processes may do this at the same time."""
    async with database.begin() as db:
        if db.dialect.name == "postgresql":  # SQLite has one writer at a time
            await db.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        await db.run_sync(metadata.create_all)
