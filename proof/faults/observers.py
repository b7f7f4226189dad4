"""Observers in the databases: triggers that write down what becomes durable.

They do so in the very transaction that makes it durable: a killed process can neither
hide an effect nor invent one. The log's observer sees branches and decisions. A
participant's sees its business rows move, whatever its barrier believes: that is what
has to happen at most once. It also sees the barrier's tombstones.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from coordinator.core.model import DECISIONS, BranchKind, TransactionState
from proof.history.events import LOG, AnyEvent, Decided, Decision, Effect, Kind, Operation, Registered

_SEEN = """
    CREATE TABLE seen (
        position bigserial PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        gid text NOT NULL,
        branch_id text NOT NULL DEFAULT '',
        what text NOT NULL,
        quantity bigint NOT NULL DEFAULT 0,
        state smallint,
        branches bytea,
        tenant text NOT NULL DEFAULT ''
    );
    """
_LOG = """
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' OR NEW.branches IS DISTINCT FROM OLD.branches THEN
            INSERT INTO seen (gid, what, branches, tenant)
            VALUES (NEW.gid, 'BRANCHES', NEW.branches, NEW.tenant);
        END IF;
        IF TG_OP = 'UPDATE' AND NEW.state <> OLD.state THEN
            INSERT INTO seen (gid, what, state) VALUES (NEW.gid, 'STATE', NEW.state);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT OR UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION see();
    """
_TOMBSTONES = """
    CREATE FUNCTION see_tombstone() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen (gid, branch_id, what) VALUES (NEW.gid, NEW.branch_id,
            CASE NEW.action WHEN 'local' THEN 'TOMBSTONE OF CHECK' ELSE 'TOMBSTONE' END);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER INSERT ON tcc_barrier FOR EACH ROW WHEN (NEW.state = 3)
        EXECUTE FUNCTION see_tombstone();
    """


def _rows_of_branches(table: str, quantity: str) -> str:
    """For a table with one row a branch, whose state ends as CONFIRMED or CANCELLED."""
    return f"""
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO seen (gid, branch_id, what, quantity)
                VALUES (NEW.gid, NEW.branch_id, 'TRY', {quantity});
            ELSE
                INSERT INTO seen (gid, branch_id, what, quantity)
                VALUES (NEW.gid, NEW.branch_id,
                        CASE NEW.state WHEN 'CONFIRMED' THEN 'CONFIRM' ELSE 'CANCEL' END, {quantity});
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION see();
        """


_COUPONS = """
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen (gid, branch_id, what, quantity)
        VALUES (coalesce(NEW.gid, OLD.gid), coalesce(NEW.branch_id, OLD.branch_id),
                CASE NEW.state WHEN 'FROZEN' THEN 'TRY' WHEN 'USED' THEN 'CONFIRM' ELSE 'CANCEL' END, 1);
        RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER UPDATE ON coupon FOR EACH ROW EXECUTE FUNCTION see();
    """

_PARTICIPANTS: Mapping[str, str] = {
    "inventory": _rows_of_branches("reservation", "NEW.quantity"),
    "coupon": _COUPONS,
    "order": _rows_of_branches("orders", "1"),
}
COORDINATOR = "coordinator"
_TCC_FIELDS = 7
_OPERATIONS: Mapping[str, tuple[Operation, bool]] = {
    "TRY": (Operation.TRY, False),
    "CONFIRM": (Operation.CONFIRM, False),
    "CANCEL": (Operation.CANCEL, False),
    "TOMBSTONE": (Operation.CANCEL, True),
    "TOMBSTONE OF CHECK": (Operation.CHECK, True),
}
_DECISIONS = {state: Decision[operation.name] for state, operation in DECISIONS.items()}


def _connection(url: str) -> psycopg.Connection:
    """Connect with the schema of the log, where there is one: its triggers run with that search path."""
    return psycopg.connect(url, options="-c search_path=tcc,public")


class Observers:
    """The observers of one system. `urls`: libpq URLs of the databases by name."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._read_to = dict.fromkeys(urls, 0)
        self._decided: dict[str, Decision] = {}

    def install(self) -> None:
        """The tables that are watched must exist."""
        for name, url in self._urls.items():
            observer = _LOG if name == COORDINATOR else _PARTICIPANTS[name] + _TOMBSTONES
            with _connection(url) as db:
                db.execute(_SEEN + observer)

    def read(self) -> list[AnyEvent]:
        """Return the events since the last call. Nothing may be under way: positions have gaps then."""
        return [event for name, url in self._urls.items() for event in self._read(name, url)]

    def open_transactions(self) -> int:
        """Count the transactions that have not ended."""
        with _connection(self._urls[COORDINATOR]) as db:
            row = db.execute("SELECT count(*) FROM transactions WHERE ended_at IS NULL").fetchone()
        assert row is not None
        return int(row[0])

    def _read(self, name: str, url: str) -> Iterator[AnyEvent]:
        with _connection(url) as db:
            rows = db.execute(
                "SELECT position, at, gid, branch_id, what, quantity, state, branches, tenant FROM seen"
                " WHERE position > %s ORDER BY position",
                (self._read_to[name],),
            ).fetchall()
        for position, at, gid, branch_id, what, quantity, state, branches, tenant in rows:
            self._read_to[name] = position
            if name == COORDINATOR:
                yield from self._of_log(at, gid, state, branches, tenant)
            else:
                operation, is_tombstone = _OPERATIONS[what]
                yield Effect(
                    at=at.timestamp(),
                    gid=gid,
                    branch_id=branch_id,
                    participant=name,
                    operation=operation,
                    quantity=quantity,
                    tombstone=is_tombstone,
                )

    def _of_log(
        self, at: datetime, gid: str, state: int | None, branches: bytes | None, tenant: str
    ) -> Iterator[AnyEvent]:
        if branches is not None:
            specs: list[list[Any]] = msgspec.msgpack.decode(branches)
            yield Registered(
                at=at.timestamp(),
                gid=gid,
                branch_ids=tuple(spec[0] for spec in specs),
                kinds=tuple(map(_kind, specs)),
                tenant=tenant,
            )
        if state is not None and (
            decision := _DECISIONS.get(TransactionState(state))
        ) is not self._decided.get(gid):
            assert decision is not None, "nothing goes back to TRYING"
            # The second state of one decision says nothing new; another decision would.
            self._decided[gid] = decision
            yield Decided(at=at.timestamp(), gid=gid, decision=decision, observer=LOG)


def _kind(spec: list[Any]) -> Kind:
    """Return the kind of a stored branch, as coordinator.log.rows writes it: TCC branches are shorter."""
    if len(spec) == _TCC_FIELDS:
        return Kind.TCC
    kind, _not_before, is_check_back = spec[_TCC_FIELDS:]
    return Kind.LOCAL if is_check_back else Kind[BranchKind(kind).name]
