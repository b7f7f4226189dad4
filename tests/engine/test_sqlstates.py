"""Every SQLSTATE, at every statement of the log: the coordinator goes on, and says so if it cannot."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from psycopg import errors

from coordinator.core.errors import LogError, LogRejected, LogUnavailable
from coordinator.engine import log_writer
from coordinator.log.connection import Connection
from coordinator.log.failures import FailureKind, StatementTooLong, kind_of, refusal
from coordinator.log.statements import Statement
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import Running, branch, running, settings_for

# PostgreSQL's table of codes, as psycopg has it.
ALL = sorted(code for code in errors._sqlcodes if len(code) == 5)
# One of each kind and of each special case.
SOME = [
    "08006", "57P01", "26000", "40003",
    "40001", "40P01", "55P03",
    "22021", "23505", "54000", "53200", "XX000", "XX001", "P0001", "57014",
    "53100", "25006", "42P01", "42501", "58030", "0A000",
]  # fmt: skip
# While every statement fails with one of these, the log as a whole cannot be used.
FATAL = ["53100", "25006", "42P01", "57P03", "XX000"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# The kind of every class. Special codes within a class are listed below.
KINDS = {
    FailureKind.DISCONNECTED: "08 26",
    FailureKind.CONFLICT: "40 72",
    FailureKind.UNAVAILABLE: "0A 0B 0L 0P 25 28 3D 3F 42 53 55 57 58 F0",
    FailureKind.REJECTED: "02 03 09 0F 0Z 10 20 21 22 23 24 27 2B 2D 2F 34 38 39 3B 44 54 HV P0 XX",
}
SPECIAL = {
    FailureKind.DISCONNECTED: "40003 25P03 25P04 57P01 57P02 57P03 57P04 57P05",
    FailureKind.CONFLICT: "55006",
    FailureKind.REJECTED: "53200 53400 55P03 57014",
}


def test_every_code_has_one_of_four_kinds() -> None:
    by_class = {one: kind for kind, classes in KINDS.items() for one in classes.split()}
    special = {one: kind for kind, codes in SPECIAL.items() for one in codes.split()}
    expected = {code: special.get(code) or by_class[code[:2]] for code in ALL}
    assert len(expected) > 200
    assert {code: kind_of(errors.lookup(code)()) for code in ALL} == expected


@pytest.mark.parametrize(
    ("sqlstate", "refused_as"),
    [("XX000", LogRejected), ("22021", LogRejected), ("57014", StatementTooLong), ("53100", LogUnavailable)],
)
def test_callers_learn_whether_others_may_succeed(sqlstate: str, refused_as: type[LogError]) -> None:
    assert type(refusal("save", errors.lookup(sqlstate)("injected"))) is refused_as


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("the connection is closed"), FailureKind.DISCONNECTED),
        (psycopg.InterfaceError("the connection is closed"), FailureKind.DISCONNECTED),
        (ConnectionResetError(), FailureKind.DISCONNECTED),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), FailureKind.REJECTED),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), FailureKind.REJECTED),
        (type("FromTheFuture", (psycopg.DatabaseError,), {"sqlstate": "ZZ999"})(), FailureKind.REJECTED),
    ],
)
def test_an_error_without_a_known_code_has_a_kind(error: Exception, kind: FailureKind) -> None:
    assert kind_of(error) is kind


class Injection:
    """Makes statements fail before they are sent, each once or all of them until further notice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.once: dict[str, str] = {}
        self.always: str | None = None
        # The statements that were sent, and those that failed once.
        self.names: set[str] = set()
        self.failed: set[str] = set()
        execute = Connection.execute

        async def failing(connection: Connection, statement: Statement, parameters: Any = ()) -> Any:
            self.names.add(statement.name)
            sqlstate = self.always or self.once.pop(statement.name, None)
            if sqlstate is not None:
                self.failed.add(statement.name)
                raise errors.lookup(sqlstate)("injected")
            return await execute(connection, statement, parameters)

        monkeypatch.setattr(Connection, "execute", failing)


@pytest.fixture
async def injection(monkeypatch: pytest.MonkeyPatch) -> Injection:
    monkeypatch.setattr(log_writer, "REJECTED_RETRY_S", 0.02)
    return Injection(monkeypatch)


@pytest.fixture
async def worker(log_url: str, injection: Injection) -> AsyncIterator[Running]:
    stock = ScriptedParticipant()
    async with serving(stock) as address:
        table = settings_for({"stock": {"target": address}}, admin={"report_every_s": 0.05})
        async with running(table, log_url) as worker:
            yield worker


async def execute(worker: Running, gid: str) -> None:
    """Execute a transaction as a client does, which repeats what was refused as unavailable."""
    request = pb.ExecuteTransactionRequest(gid=gid, branches=[branch("1")])
    while True:
        try:
            await worker.stub.ExecuteTransaction(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        else:
            break
    while True:
        try:
            assert (await worker.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        else:
            return


async def go_on(worker: Running, injection: Injection, sqlstates: list[str]) -> None:
    """Let each statement fail once with each of the codes."""
    await execute(worker, "first")
    for sqlstate in sqlstates:
        injection.once = dict.fromkeys(injection.names, sqlstate)
        await execute(worker, f"after {sqlstate}")
    injection.once = {}
    assert injection.failed >= {
        "transaction_begin", "transaction_save_plain", "coordinator_heartbeat", "transaction_claim_due",
        "transaction_adopt", "coordinator_report", "participant_list",
    }  # fmt: skip
    await worker.until_health(SERVING)


async def test_any_statement_may_fail_with_some_codes(worker: Running, injection: Injection) -> None:
    await go_on(worker, injection, SOME)


@pytest.mark.slow
async def test_any_statement_may_fail_with_any_code(worker: Running, injection: Injection) -> None:
    await go_on(worker, injection, ALL)


async def test_a_log_that_cannot_be_used_is_reported_until_it_can(
    worker: Running, injection: Injection
) -> None:
    for sqlstate in FATAL:
        injection.always = sqlstate
        await worker.until_health(NOT_SERVING)
        request = pb.ExecuteTransactionRequest(gid=f"during {sqlstate}", branches=[branch("1")])
        async with refused("UNAVAILABLE", "LOG_UNAVAILABLE"):
            await worker.stub.ExecuteTransaction(request)
        injection.always = None
        await worker.until_health(SERVING)
        await execute(worker, f"after {sqlstate}")
