"""Two roles of the database: one owns the log, the other runs coordinators and cannot rewrite the audit."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url

from coordinator.core.audit import AuditEntry
from coordinator.log.migration import migrate
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.requirements import LogUrlError
from coordinator.log.schema import HOME
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import branch, running, settings_for

pytestmark = pytest.mark.not_on_citus("the right to create schemas is granted at one node")

OWNER, RUNNER = "tcc-owner", "tcc-runner"
ENTRY = AuditEntry(operator="ann", action="participant.pause", target="participant/p", reason="r")


def as_role(url: str, role: str) -> str:
    return make_url(url).set(username=role).render_as_string(hide_password=False)


@pytest.fixture
def roles(database_url: str) -> Iterator[tuple[str, str]]:
    """The URLs of two new roles: the owner of the database, and one without any rights."""
    name = make_url(database_url).database
    assert name
    with psycopg.connect(database_url, autocommit=True) as db:
        for role in (OWNER, RUNNER):
            db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {}")
        db.execute(grant.format(sql.Identifier(name), sql.Identifier(OWNER)))
    yield as_role(database_url, OWNER), as_role(database_url, RUNNER)
    with psycopg.connect(database_url, autocommit=True) as db:
        for role in (OWNER, RUNNER):
            db.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            db.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def test_a_coordinator_runs_with_the_role_that_cannot_rewrite(roles: tuple[str, str]) -> None:
    owner_url, url = roles
    migrate(url, owner_url)
    # As a later start without the owner's URL.
    migrate(url)
    async with (
        serving(stock := ScriptedParticipant()) as stock.address,
        running(settings_for({"stock": {"target": stock.address}}), url) as coordinator,
    ):
        await coordinator.stub.ExecuteTransaction(
            pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")]), timeout=60
        )
        await coordinator.settled("g")
        await coordinator.worker.auditors[HOME].state_head()
        assert await coordinator.worker.log.transaction_purge(ended_before_s=0.0, limit=10) == 1
        log = PostgresOperatorLog(OperatorPool(url), owner="c")
        await log.audit_append(ENTRY)
        assert len(await log.confirmation_key()) == 32
        await coordinator.worker.auditors[HOME].state_head()
        assert (await coordinator.worker.auditors[HOME].check()).problem == ""
        await log.close()


@pytest.mark.parametrize("table", ["audit", "audit_heads"])
@pytest.mark.parametrize(
    "attack", ["UPDATE {} SET sequence = 7", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"]
)
def test_the_running_role_cannot_change_what_is_audited(
    roles: tuple[str, str], table: str, attack: str
) -> None:
    owner_url, url = roles
    migrate(url, owner_url)
    with psycopg.connect(make_conninfo(url)) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute(sql.SQL(attack).format(sql.Identifier("tcc", table)))


def test_the_owner_as_the_running_role_is_refused(roles: tuple[str, str]) -> None:
    owner_url, _ = roles
    with pytest.raises(LogUrlError, match="may still change audit records"):
        migrate(owner_url, owner_url)
