"""Outcomes of transactions as events, for those who are no initiators: CONFIRMED, CANCELLED, stuck.

    python -m participants.events.outcomes --coordinator HOST:PORT --database URL --broker URL

It reads the coordinator's list of transactions, in the order of their creation, and keeps in its own
database how far it has read and which of them had not ended. So it costs the coordinator a query a second
and nothing for each transaction. A transaction is read `lag_s` after its creation, when its row is visible
for sure: a write of the log takes at most 10 s. One that has not ended then is checked again and again.

Each outcome is published at least once, before the own database commits, in no particular order.
"""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from participants.events import outcome_store, store
from participants.events.brokers import Broker, BrokerError, open_broker
from participants.events.envelope import Event, event_id, structured
from participants.events.publication import publish
from participants.serving import create_schema, until_terminated
from tcc import Tls
from tcc.barrier.failures import error_text
from tcc.client.client import Client
from tcc.client.outcome import TransactionRecord, TransactionState
from tcc.errors import NotFound, TccError

logger = logging.getLogger(__name__)

SOURCE = "/tcc/coordinator"
CONFIRMED, CANCELLED, STUCK = "confirmed", "cancelled", "stuck"
_ENDS = {TransactionState.CONFIRMED: CONFIRMED, TransactionState.CANCELLED: CANCELLED}
_PAGE_SIZE = 500
_OPEN_MAX = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Following:
    """What is published where, and when."""

    topic: str = "transactions"
    source: str = SOURCE
    lag_s: float = 15.0
    every_s: float = 1.0
    # Of creation times that are read in one step.
    window_s: float = 10.0


def outcome_event(record: TransactionRecord, kind: str, following: Following) -> Event:
    """Return the event of a transaction that has ended, or is stuck. It has no payloads."""
    data: dict[str, Any] = {
        "gid": record.gid,
        "state": record.state.name,
        "initiator": record.initiator,
        "labels": record.labels,
        "participants": sorted({branch.participant for branch in record.branches}),
        "created_at": _text(record.created_at),
        "ended_at": _text(record.ended_at),
    }
    if kind == CANCELLED:
        data |= {
            "cancel_reason": record.cancel_reason.name,
            "cancel_branch_id": record.cancel_branch_id,
            "cancel_detail": record.cancel_detail,
        }
    identity = event_id(record.gid, kind)
    attributes = {
        "id": identity,
        "source": following.source,
        "type": f"tcc.transaction.{kind}",
        "subject": record.gid,
        "time": record.ended_at or datetime.now(UTC),
    }
    return Event(identity, following.topic, record.gid, structured(attributes, data))


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


class Outcomes:
    """Follows one coordinator's log. Of several processes over one database, one reads at a time."""

    def __init__(self, client: Client, broker: Broker, database: AsyncEngine, following: Following) -> None:
        self._client = client
        self._broker = broker
        self._database = database
        self._following = following

    async def begin(self, now: datetime) -> None:
        """Remember where to begin, unless this database knows: with what is created from now on.

        Raises:
            DBAPIError
        """
        async with self._database.begin() as db:
            await outcome_store.read_to(db, otherwise=now)

    async def run(self) -> None:
        """Publish outcomes until cancelled."""
        while True:
            try:
                while await self.step(datetime.now(UTC)):
                    pass
                await self.look_again()
            except (TccError, BrokerError, DBAPIError) as error:
                logger.warning("outcomes are published later: %s", error_text(error))
            await asyncio.sleep(self._following.every_s)

    async def step(self, now: datetime) -> bool:
        """Read the transactions of one window; return whether there is a further one now.

        At its first call there are no earlier ones to read: it begins with what is created from now on.

        Raises:
            TccError, BrokerError, DBAPIError: Nothing was committed. Run it again.
        """
        end = now - timedelta(seconds=self._following.lag_s)
        async with self._database.begin() as db:
            start = await outcome_store.read_to(db, otherwise=now)
            until = min(end, start + timedelta(seconds=self._following.window_s))
            if until <= start:
                return False
            page: list[TransactionRecord] = []
            # Both limits are exclusive.
            async for record in self._client.list(
                created_after=start - timedelta(microseconds=1), created_before=until, page_size=_PAGE_SIZE
            ):
                page.append(record)
                if len(page) == _PAGE_SIZE:
                    await self._publish_ended(db, page)
                    page = []
            await self._publish_ended(db, page)
            await outcome_store.set_read_to(db, until)
        return until < end

    async def look_again(self) -> None:
        """Look at transactions that had not ended: those that were checked longest ago.

        Raises:
            TccError, BrokerError, DBAPIError: Nothing was committed. Run it again.
        """
        async with self._database.begin() as db:
            known = await outcome_store.open_ones(db, limit=_OPEN_MAX)
            found = await asyncio.gather(*map(self._get, known))
            ended = [record for record in found if record is not None and record.state in _ENDS]
            stuck = [
                record
                for record in found
                if record is not None and record.stuck and record.state not in _ENDS and not known[record.gid]
            ]
            await self._publish(
                db,
                [
                    *(outcome_event(record, _ENDS[record.state], self._following) for record in ended),
                    *(outcome_event(record, STUCK, self._following) for record in stuck),
                ],
            )
            gone = [gid for gid, record in zip(known, found, strict=True) if record is None]
            if gone:
                logger.warning("transactions were purged before their outcome was seen: %s", gone)
            await outcome_store.close(db, [*gone, *(record.gid for record in ended)])
            await outcome_store.looked_at(
                db, known.keys(), stuck=[record.gid for record in stuck], now=datetime.now(UTC)
            )

    async def _get(self, gid: str) -> TransactionRecord | None:
        try:
            return await self._client.get(gid)
        except NotFound:
            return None

    async def _publish_ended(self, db: AsyncConnection, records: Sequence[TransactionRecord]) -> None:
        ended = [record for record in records if record.state in _ENDS]
        await self._publish(
            db, [outcome_event(record, _ENDS[record.state], self._following) for record in ended]
        )
        await outcome_store.add_open(db, [record.gid for record in records if record.state not in _ENDS])

    async def _publish(self, db: AsyncConnection, events: Sequence[Event]) -> None:
        if events:
            await publish(self._broker, events, db)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--database", required=True, metavar="URL", help="that of the service events, which reconciles it"
    )
    parser.add_argument("--broker", required=True, metavar="URL", help="as of the service events")
    parser.add_argument("--topic", default="transactions", help="default: %(default)s")
    parser.add_argument("--source", default=SOURCE, help="default: %(default)s")
    parser.add_argument("--stream-entries-max", type=int, default=1_000_000, metavar="N")
    parser.add_argument(
        "--lag-s",
        type=float,
        default=15.0,
        metavar="S",
        help="read a transaction so long after its creation; more than 10; default: %(default)s",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="speak TLS, and trust these authorities")
    parser.add_argument("--certificate-file", metavar="FILE", help="speak TLS, and show this certificate")
    parser.add_argument("--key-file", metavar="FILE", help="the certificate's private key")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="show the token in this file")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = parser.parse_args()
    try:
        broker = open_broker(options.broker, stream_entries_max=options.stream_entries_max)
    except ValueError as error:
        parser.error(str(error))
    uvloop.run(_follow(options, broker))


async def _follow(options: argparse.Namespace, broker: Broker) -> None:
    following = Following(topic=options.topic, source=options.source, lag_s=options.lag_s)
    database = create_async_engine(options.database)
    files = {"ca": options.ca_file, "certificate": options.certificate_file, "key": options.key_file}
    tls = Tls(**files) if any(files.values()) else None
    try:
        with until_terminated():
            await create_schema(database, store.metadata)
            await create_schema(database, outcome_store.metadata)
            await broker.start()
            async with Client(options.coordinator, tls=tls, token=options.token_file) as client:
                outcomes = Outcomes(client, broker, database, following)
                await outcomes.begin(datetime.now(UTC))
                print(f"following {options.coordinator}", flush=True)  # noqa: T201 - a parent process may wait for it
                await outcomes.run()
    finally:
        await broker.close()
        await database.dispose()


if __name__ == "__main__":
    main()
