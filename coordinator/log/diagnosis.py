"""Facts about the log's database for `tccd doctor`. Read-only."""

import contextlib
import time
from collections.abc import Mapping, Sequence

from alembic.script import ScriptDirectory
from msgspec import Struct
from sqlalchemy import Connection, text

from coordinator.core.errors import LogError
from coordinator.log.migration import (
    CellPlace,
    CellRecord,
    alembic_config,
    applied_revisions,
    check_place,
    database_engine,
    explained,
    is_of_newer_version,
    recorded_cells,
)
from coordinator.log.requirements import LogUrlError, check_requirements
from coordinator.log.schema import HOME, SCHEMA

_SETTINGS = (
    "server_version",
    "server_version_num",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
)
# A role without the privileges of pg_monitor sees the standbys, but not their state.
_STANDBYS = text("""
    SELECT count(*) FILTER (WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')),
           count(*),
           CAST(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)) AS BIGINT)
    FROM pg_stat_replication WHERE NOT pg_is_in_recovery()
""")
_CLOCK = text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)")
# The defaults of a session, whatever this one has set.
_READ_SETTINGS = text("SELECT name, reset_val FROM pg_settings WHERE name = ANY(:names)")
_ABOUT = text("SELECT CAST(max(reltuples) AS BIGINT) FROM pg_class WHERE oid = to_regclass(:name)")
_READ_ONLY = text("SELECT current_setting('transaction_read_only')")
# The fastest of several responses bounds the error of the clock offset best.
_CLOCK_READINGS = 5


class LogFacts(Struct, frozen=True, kw_only=True):
    """Facts about a database that responds."""

    # Those of `_SETTINGS` that this server has.
    settings: dict[str, str]
    read_only: bool
    # How many standbys a COMMIT may wait for are connected.
    synchronous_standbys: int
    # How many are connected at all, and what the slowest has not flushed yet; None: there is none, or the
    # role may not know.
    standbys: int
    standby_behind_bytes: int | None
    # Migrations: those applied, and those that this version of tccd requires.
    applied: frozenset[str]
    wanted: frozenset[str]
    # Whether those applied are of a newer version, and this one can run on the result.
    is_newer: bool
    # How far this machine's clock is ahead of the database's, and the bound of the error.
    clock_ahead_s: float
    clock_error_s: float


def examine(url: str, schema: str = SCHEMA) -> LogFacts:
    """Query the database that has a cell in this schema.

    Raises:
        LogUnavailable: it cannot be reached.
        LogUrlError: the URL is invalid, lacks privileges, or leads to a database that cannot hold the log.
    """
    with explained():
        check_requirements(url)
        with database_engine(url).connect() as connection:
            return _facts(connection, schema)


def _facts(connection: Connection, schema: str) -> LogFacts:
    rows = connection.execute(_READ_SETTINGS, {"names": list(_SETTINGS)}).all()
    ahead_s, error_s = min((_clock(connection) for _ in range(_CLOCK_READINGS)), key=lambda read: read[1])
    synchronous, standbys, behind_bytes = connection.execute(_STANDBYS).one()
    script = ScriptDirectory.from_config(alembic_config(connection))
    return LogFacts(
        settings={row[0]: row[1] for row in rows},
        synchronous_standbys=synchronous,
        standbys=standbys,
        standby_behind_bytes=behind_bytes,
        read_only=connection.execute(_READ_ONLY).scalar_one() == "on",
        applied=applied_revisions(connection, schema),
        wanted=frozenset(script.get_heads()),
        is_newer=is_of_newer_version(connection, schema),
        clock_ahead_s=ahead_s,
        clock_error_s=error_s,
    )


def why_unusable(places: Sequence[CellPlace]) -> dict[int, str]:
    """Return which cells cannot be used, and why, from what their databases and the home cell say."""
    recorded: Mapping[int, CellRecord] = {}
    with contextlib.suppress(LogError, LogUrlError), explained():  # then the home cell has the cause
        recorded = recorded_cells(places[HOME], places[HOME].url)
    found = {place.number: _why_unusable(place, recorded.get(place.number)) for place in places}
    return {number: why for number, why in found.items() if why}


def _why_unusable(place: CellPlace, recorded: CellRecord | None) -> str:
    try:
        with explained():
            check_place(database_engine(place.url, place.schema), place, recorded=recorded)
    except (LogError, LogUrlError) as error:
        return str(error)
    return ""


def transactions_in(place: CellPlace) -> int:
    """Return about how many transactions a cell has: as of the last time that the database counted."""
    with explained(), database_engine(place.url, place.schema).connect() as connection:
        found = connection.execute(_ABOUT, {"name": f"{place.schema}.transactions"}).scalar_one()
    return max(0, int(found or 0))


def _clock(connection: Connection) -> tuple[float, float]:
    """Return how far our clock is ahead, and the error bound: half the time of the query."""
    asked_at = time.time()
    theirs: float = connection.execute(_CLOCK).scalar_one()
    answered_at = time.time()
    return (asked_at + answered_at) / 2 - theirs, (answered_at - asked_at) / 2
