"""A log that an earlier version wrote is migrated, and its transactions are driven on."""

import re
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from coordinator.core.model import TransactionState
from coordinator.log.migration import migrate
from tcc.common.v1 import common_pb2 as common
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for
from tests.upgrade.test_rolling_upgrade import CODE
from tests.upgrade.write_log import dump

LOGS = sorted(Path(__file__).parent.glob("log-*.sql"))
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
# The newest first.
RELEASED = re.findall(r"^## (\S+) - ", CHANGELOG.read_text(), re.MULTILINE)
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


def test_statements_of_0_1_0_work_on_a_migrated_log(database_url: str) -> None:
    """A coordinator of 0.1.0 goes on with the connections that it has, and can start again."""
    load(LOGS[0], database_url)
    with psycopg.connect(database_url, autocommit=True) as running:
        heartbeat = "UPDATE coordinators SET name = 'host:1' WHERE id = 'the-former'"
        assert running.execute(heartbeat, prepare=True).rowcount == 1
        migrate(database_url)
        assert running.execute(heartbeat, prepare=True).rowcount == 1
        # What it has no column for gets the default. It finds what is there before it inserts.
        begin = """
            INSERT INTO transactions SELECT (jsonb_populate_record(t, jsonb_build_object('gid', %s::TEXT))).*
            FROM transactions AS t WHERE gid = 'trying' ON CONFLICT (gid) DO NOTHING
            """
        assert running.execute(begin, ["trying"]).rowcount == 0
        assert running.execute(begin, ["of 0.1.0"]).rowcount == 1
        stored = running.execute("SELECT state, tenant FROM tcc.transactions WHERE gid = 'of 0.1.0'")
        assert stored.fetchall() == [(TransactionState.TRYING, "")]
        # When it starts, it migrates nothing: it knows the revisions up to 0005.
        assert running.execute("SELECT version_num FROM alembic_version").fetchall() == [("0005",)]
        assert running.execute("SELECT id FROM migration_lock FOR UPDATE").fetchall() == [(1,)]


def test_there_is_a_log_of_every_released_version() -> None:
    assert RELEASED
    assert set(RELEASED) <= {path.stem.removeprefix("log-") for path in LOGS}


def test_the_code_of_the_last_release_is_kept() -> None:
    assert CODE.name == f"tccd-{RELEASED[0]}.tar.xz"


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_migrated_log_can_be_dumped_for_the_next_version(path: Path, database_url: str) -> None:
    load(path, database_url)
    migrate(database_url)
    assert "CREATE TABLE tcc.transactions" in dump(database_url)
