"""Who holds which key, who waits, and since when: `python -m participants.locks.show --database URL`."""

import argparse
import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from participants.locks import store

_ROW = "{:<24} {:<9} {:<8} {:>10}  {}"


async def table(db: AsyncConnection, now_ms: int) -> str:
    """Return a line for each request, in the order of the queues."""
    lines = [_ROW.format("KEY", "MODE", "STATE", "SINCE", "GID")]
    for name, gid, exclusive, requested_at_ms, acquired_at_ms in await db.execute(store.QUEUES):
        mode = "exclusive" if exclusive else "shared"
        state, since_ms = ("waits", requested_at_ms) if acquired_at_ms is None else ("holds", acquired_at_ms)
        lines.append(_ROW.format(name, mode, state, f"{(now_ms - since_ms) / 1000:.1f}s", gid))
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True, metavar="URL", help="the database of the locks")
    engine = create_async_engine(parser.parse_args().database)
    async with engine.connect() as db:
        print(await table(db, time.time_ns() // 1_000_000))  # noqa: T201 - it is a command
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
