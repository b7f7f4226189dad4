"""A log that an earlier version wrote is migrated, and its transactions are driven on."""

from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from coordinator.log.migration import migrate
from tcc.common.v1 import common_pb2 as common
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for
from tests.upgrade.write_log import dump

LOGS = sorted(Path(__file__).parent.glob("log-*.sql"))
# What was decided stays; what was not is confirmed, because every Try succeeds.
ENDS = {
    "trying": "CONFIRMED",
    "confirming": "CONFIRMED",
    "parked": "CONFIRMED",
    "confirmed": "CONFIRMED",
    "cancelling": "CANCELLED",
    "cancelled": "CANCELLED",
}
ENDED_BEFORE = {"confirmed", "cancelled"}


def load(path: Path, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(path.read_text().encode())


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
async def test_log_of_an_earlier_version_is_driven_on(path: Path, database_url: str) -> None:
    load(path, database_url)
    migrate(database_url)
    participants = {name: ScriptedParticipant() for name in ("inventory", "coupon")}

    async with AsyncExitStack() as stack:
        tables = {
            name: {"target": await stack.enter_async_context(serving(participant))}
            for name, participant in participants.items()
        }
        worker = await stack.enter_async_context(running(settings_for(tables), database_url))
        for gid in ENDS:
            await worker.settled(gid)
        assert {gid: await worker.state(gid) for gid in ENDS} == ENDS

    calls = participants["inventory"].calls
    assert {call.gid for call in calls} == ENDS.keys() - ENDED_BEFORE
    assert {call.payload for call in calls} == {b"\x00\xffinventory"}
    cancelled = {call.gid for call in calls if call.operation == common.OPERATION_CANCEL}
    assert cancelled == {"cancelling"}


def test_coordinators_of_0_1_0_find_no_log_once_it_is_migrated(database_url: str) -> None:
    """They neither write beside newer ones nor, when they start again, create a second log."""
    load(LOGS[0], database_url)
    with psycopg.connect(database_url, autocommit=True) as running:
        heartbeat = "UPDATE coordinators SET lease_until = now() WHERE id = 'the-former'"
        assert running.execute(heartbeat, prepare=True).rowcount == 1
        migrate(database_url)
        # 0.1.0 takes this for a log that is unavailable: it refuses new transactions, and its lease expires.
        with pytest.raises(psycopg.errors.UndefinedTable):
            running.execute(heartbeat, prepare=True)
        # When it starts, it refuses a log with a revision that it does not know: it knows up to 0005.
        found = running.execute("SELECT version_num FROM alembic_version").fetchall()
    assert found == [("moved to the schema tcc",)]


def test_there_is_a_log_of_every_released_version() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    released = {
        line.split()[1] for line in changelog.splitlines() if line.startswith("## ") and " - " in line
    }
    assert released
    assert released <= {path.stem.removeprefix("log-") for path in LOGS}


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_migrated_log_can_be_dumped_for_the_next_version(path: Path, database_url: str) -> None:
    load(path, database_url)
    migrate(database_url)
    assert "CREATE TABLE tcc.transactions" in dump(database_url)
