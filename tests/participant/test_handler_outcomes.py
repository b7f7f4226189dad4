"""Whatever a handler does, the answer is what its database did, and the participant serves on."""

import asyncio
import contextlib
import enum
import json
import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, make_url, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

import tcc
from tcc import Participant, Rejected
from tcc.barrier.guarded_connection import TransactionControlError
from tcc.common.v1 import common_pb2 as common
from tcc.context import TransactionContext, handling_participant
from tcc.participant.supervision import BackgroundTaskError
from tests.barrier.test_barrier import DONE, _answer, make_call
from tests.support.participant_databases import DRIVERS, RECORD

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
SUCCEEDED, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)
NUMBERS = {"try": TRY, "confirm": CONFIRM, "cancel": CANCEL}
DDL = CreateTable(Table("made", MetaData(), Column("a", Integer)))
UNIQUE = text("INSERT INTO taken VALUES ('a')")


class Script:
    """Handlers, async or sync, single or batch, that run `step(branch, request, db)` for each item.

    A step is written once, as an `async def` whose awaitables are `run(db.method, …)`.
    """

    def __init__(self, step, *, is_async: bool, batched: bool) -> None:
        names = {"try": "try_", "confirm": "confirm", "cancel": "cancel"}
        for operation, name in names.items():
            handler = self._batch if batched else self._single
            setattr(
                self, f"{operation}_batch" if batched else name, handler(step, operation, is_async=is_async)
            )

    @staticmethod
    def _single(step, operation, *, is_async):
        async def single(branch, request, db):
            return await step(operation, branch, request, Database(db))

        def single_sync(branch, request, db):
            return _finish(step(operation, branch, request, Database(db, is_async=False)))

        return single if is_async else single_sync

    @staticmethod
    def _batch(step, operation, *, is_async):
        async def batch(items, db):
            return [await step(operation, branch, request, Database(db)) for branch, request in items]

        def batch_sync(items, db):
            return [
                _finish(step(operation, branch, request, Database(db, is_async=False)))
                for branch, request in items
            ]

        return batch if is_async else batch_sync


class Database:
    """One way to speak to both kinds of connection."""

    def __init__(self, db, *, is_async: bool = True) -> None:
        self.db = db
        self._is_async = is_async

    async def call(self, method, *args):
        result = getattr(self.db, method)(*args)
        return await result if self._is_async else result

    async def execute(self, statement, parameters=None):
        return await self.call("execute", statement, parameters)

    async def record(self, branch, operation):
        await self.execute(RECORD, {"gid": branch.gid, "branch_id": branch.branch_id, "operation": operation})

    async def begin_nested(self):
        return await self.db.begin_nested() if self._is_async else self.db.begin_nested()

    async def end(self, savepoint, method):
        result = getattr(savepoint, method)()
        if self._is_async:
            await result


def _finish(coroutine):
    """Run a coroutine that never waits; what it raises comes out as raised in plain code."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a sync step must not wait")


def is_async_engine(engine) -> bool:
    return hasattr(engine, "sync_engine")


def script(engine, step, *, batched=False, **options) -> Participant:
    participant = Participant("test", database=engine, **options)
    participant.action("act")(Script(step, is_async=is_async_engine(engine), batched=batched))
    return participant


@pytest.fixture(params=["single", "batch"])
def batched(request) -> bool:
    return request.param == "batch"


@pytest.fixture
async def taken(database):
    """The engine and the ledger of a database where the key 'a' is taken in the table `taken`."""
    engine, ledger = database
    ledger.execute("CREATE TABLE taken (name VARCHAR(8) PRIMARY KEY)")
    ledger.execute("INSERT INTO taken VALUES ('a')")
    return engine, ledger


# H1, H2: a swallowed violation


async def swallow_if_told(operation, branch, request, db):
    await db.record(branch, operation)
    if request.get("swallow") == operation:
        with contextlib.suppress(IntegrityError):
            await db.execute(UNIQUE)


@pytest.mark.parametrize("operation", ["try", "confirm", "cancel"])
async def test_swallowed_violation_fails_the_call(taken, batched, operation, call_participant):
    """PostgreSQL rolls the whole transaction back; elsewhere the statement alone is undone."""
    engine, ledger = taken
    caller = await call_participant(script(engine, swallow_if_told, batched=batched))
    payload = b'{"swallow": "%s"}' % operation.encode()
    if operation != "try":
        assert _answer(await caller.try_(make_call(action="act", payload=payload))) == DONE
    state_before, effects_before = ledger.rows(), ledger.effects("g")

    [outcome] = await caller.execute(make_call(NUMBERS[operation], action="act", payload=payload))

    if engine.dialect.name == "postgresql":
        assert _answer(outcome) == (FAILED, "TRANSACTION_ABORTED", False)
        assert (ledger.rows(), ledger.effects("g")) == (state_before, effects_before)
    else:
        assert _answer(outcome) == DONE
        assert operation in ledger.effects("g")


async def test_one_swallowed_violation_fails_one_item_of_a_batch(postgresql, call_participant):
    engine, ledger = postgresql
    ledger.execute("CREATE TABLE taken (name VARCHAR(8) PRIMARY KEY)")
    ledger.execute("INSERT INTO taken VALUES ('a')")
    caller = await call_participant(script(engine, swallow_if_told, batched=True))

    outcomes = await caller.execute(
        *(
            make_call(action="act", branch_id=f"b{n}", payload=b'{"swallow": "try"}' if n == 3 else b"{}")
            for n in range(8)
        )
    )

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED] * 3 + [FAILED] + [SUCCEEDED] * 4
    assert ledger.rows() == [(f"b{n}", 1) for n in range(8) if n != 3]


async def test_violation_within_a_savepoint_may_be_caught(taken, batched, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        savepoint = await db.begin_nested()
        try:
            await db.execute(UNIQUE)
        except IntegrityError:
            await db.end(savepoint, "rollback")

    engine, ledger = taken
    caller = await call_participant(script(engine, step, batched=batched))

    assert _answer(await caller.try_(make_call(action="act"))) == DONE
    assert ledger.effects("g") == ["try"]


# H3: transaction control


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
async def test_handler_cannot_end_the_transaction(database, batched, method, call_participant):
    errors = []

    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        try:
            await db.call(method)
        except TransactionControlError as error:
            errors.append(str(error))
        if "raise" in request:
            raise RuntimeError("after all")

    engine, ledger = database
    caller = await call_participant(script(engine, step, batched=batched))

    raised = await caller.try_(make_call(action="act", branch_id="raised", payload=b'{"raise": 1}'))
    returned = await caller.try_(make_call(action="act", branch_id="returned"))

    assert f"a handler must not call {method}()" in errors[0]
    assert (raised.code, raised.reason) == (FAILED, "HANDLER_ERROR")
    assert _answer(returned) == DONE
    assert ledger.rows() == [("returned", 1)]
    assert ledger.effects("g") == ["try"]


async def test_refused_call_that_is_let_out_is_a_permanent_failure(database, batched, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        await db.call("commit")

    engine, ledger = database
    caller = await call_participant(script(engine, step, batched=batched))

    outcome = await caller.try_(make_call(action="act"))

    assert _answer(outcome) == (FAILED, "HANDLER_ERROR", True)
    assert "begin_nested()" in outcome.message
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


@pytest.mark.parametrize("statement", ["COMMIT", " /* now */ rollback", "BEGIN", "-- on\nEND"])
async def test_handler_cannot_end_the_transaction_by_text(database, statement, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        await db.execute(text(statement))

    engine, ledger = database
    caller = await call_participant(script(engine, step))

    assert (await caller.try_(make_call(action="act"))).code == FAILED
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


async def test_transaction_object_cannot_be_ended_either(database, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        sync = getattr(db.db, "sync_connection", db.db)
        if request.get("bad"):
            with contextlib.suppress(TransactionControlError):
                sync.get_transaction().commit()

    engine, ledger = database
    caller = await call_participant(script(engine, step))

    outcome = await caller.try_(make_call(action="act", branch_id="bad", payload=b'{"bad": 1}'))

    assert _answer(outcome) == (FAILED, "TRANSACTION_ENDED", True)
    assert ledger.rows() == []
    assert _answer(await caller.try_(make_call(action="act", branch_id="good"))) == DONE
    assert ledger.rows() == [("good", 1)]
    assert ledger.effects("g") == ["try"]


async def test_open_savepoint_fails_the_call(database, batched, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        await db.begin_nested()

    engine, ledger = database
    caller = await call_participant(script(engine, step, batched=batched))

    assert _answer(await caller.try_(make_call(action="act"))) == (FAILED, "SAVEPOINT_OPEN", True)
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


async def test_implicit_rollback_is_noticed(database, call_participant):
    """SQLite rolls the whole transaction back on OR ROLLBACK; what follows begins another one."""
    engine, ledger = database
    if engine.dialect.name != "sqlite":
        pytest.skip("elsewhere a failed statement ends no transaction, or H1 covers it")
    ledger.execute("CREATE TABLE taken (name VARCHAR(8) PRIMARY KEY)")
    ledger.execute("INSERT INTO taken VALUES ('a')")

    async def step(operation, branch, request, db):
        with contextlib.suppress(IntegrityError):
            await db.execute(text("INSERT OR ROLLBACK INTO taken VALUES ('a')"))
        await db.record(branch, operation)

    caller = await call_participant(script(engine, step))

    outcome = await caller.try_(make_call(action="act"))

    assert _answer(outcome) == (FAILED, "TRANSACTION_ABORTED", False)
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


@pytest.mark.parametrize("statement", ["CREATE TABLE made (a INT)", "/* x */ truncate table effects", DDL])
async def test_ddl_that_commits_implicitly_is_refused(database, statement, call_participant):
    """Other databases have transactional DDL, and MySQL's temporary tables commit nothing."""
    engine, ledger = database
    if engine.dialect.name == "sqlite" and statement is not DDL:
        pytest.skip("SQLite has no TRUNCATE; its DDL is transactional")
    commits = engine.dialect.name in {"mysql", "mariadb"}

    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        if commits:
            await db.execute(text("CREATE TEMPORARY TABLE scratch (a INT)"))
        await db.execute(text(statement) if isinstance(statement, str) else statement)
        await db.record(branch, operation)

    caller = await call_participant(script(engine, step))

    outcomes = [await caller.try_(make_call(action="act")) for _ in range(2)]

    if commits:
        assert [_answer(outcome) for outcome in outcomes] == [(FAILED, "HANDLER_ERROR", True)] * 2
        assert (ledger.rows(), ledger.effects("g")) == ([], [])
    else:
        assert [_answer(outcome) for outcome in outcomes] == [DONE, DONE]


async def test_scalar_cannot_end_the_transaction_either(database, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        await db.call("scalar", text("COMMIT"))

    engine, ledger = database
    caller = await call_participant(script(engine, step))

    assert (await caller.try_(make_call(action="act"))).code == FAILED
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


async def test_sessions_of_the_orm_share_the_transaction(postgresql, database_url, call_participant):
    engine, ledger = postgresql

    class OperatorContext:
        async def try_(self, branch, request, db):
            mode = {"join_transaction_mode": "create_savepoint"} if "savepoint" in request else {}
            async with AsyncSession(bind=db, **mode) as session:
                await session.execute(RECORD, {"gid": "g", "branch_id": branch.branch_id, "operation": "try"})
                await session.commit()
                if "rollback" in request:
                    await session.rollback()
            if "raise" in request:
                raise RuntimeError("after the session's commit")

        async def confirm(self, branch, request, db): ...
        async def cancel(self, branch, request, db): ...

    participant = Participant("test", database=engine)
    participant.action("act")(OperatorContext)
    caller = await call_participant(participant)

    for branch_id, payload, code in [
        ("plain", b"{}", SUCCEEDED),
        ("savepoint", b'{"savepoint": 1}', SUCCEEDED),
        ("raised", b'{"raise": 1}', FAILED),
        ("savepoint-raised", b'{"savepoint": 1, "raise": 1}', FAILED),
    ]:
        outcome = await caller.try_(make_call(action="act", branch_id=branch_id, payload=payload))
        assert outcome.code == code, (branch_id, outcome)
    assert ledger.rows() == [("plain", 1), ("savepoint", 1)]
    assert ledger.effects("g") == ["try", "try"]


def test_sync_session_works_in_a_sync_handler(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'p.db'}")
    with engine.begin() as db:
        db.execute(text("CREATE TABLE notes (a INT)"))
    from tcc.barrier.guarded_connection import GuardedConnection

    guarded = GuardedConnection.begun(engine)
    with Session(bind=guarded) as session:
        session.execute(text("INSERT INTO notes VALUES (1)"))
        session.commit()
    guarded.finish()
    with engine.connect() as db:
        assert db.scalar(text("SELECT count(*) FROM notes")) == 1


# H4, H7: whatever is raised, returned or leaked


class Reason(enum.Enum):
    SOLD_OUT = "sold out"
    NUMBER = 7


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class BareRejection(Rejected):
    def __init__(self):
        pass


def _stop():
    return next(iter(()))


RAISED = {
    "StopIteration": _stop,
    "StopAsyncIteration": lambda: _raise(StopAsyncIteration()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "SystemExit": lambda: _raise(SystemExit(1)),
    "BaseExceptionGroup": lambda: _raise(BaseExceptionGroup("several", [KeyboardInterrupt()])),
    "lone surrogate": lambda: _raise(ValueError("\udcff")),
    "unprintable": lambda: _raise(UnprintableError()),
    "Rejected(error)": lambda: _raise(Rejected(ValueError("x"))),
    "Rejected(7)": lambda: _raise(Rejected(7)),
}


def _raise(error):
    raise error


async def test_odd_exception_fails_only_its_call(database, batched, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        if "odd" in request:
            RAISED[request["odd"]]()

    engine, ledger = database
    participant = script(engine, step, batched=batched)
    caller = await call_participant(participant)

    for name in RAISED:
        payloads = [b"{}", json.dumps({"odd": name}).encode(), b"{}"]
        outcomes = await caller.execute(
            *(
                make_call(action="act", gid=name, branch_id=f"b{n}", payload=payload)
                for n, payload in enumerate(payloads)
            )
        )
        codes = [(outcome.code, outcome.reason) for outcome in outcomes]
        assert codes == [(SUCCEEDED, ""), (FAILED, "HANDLER_ERROR"), (SUCCEEDED, "")], name
        assert ledger.effects(name) == ["try", "try"], name
        assert participant.waiting == 0, name


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Rejected(Reason.SOLD_OUT), "sold out"),
        (Rejected(Reason.NUMBER), "NUMBER"),
        (Rejected("A\udcffB"), "A\\udcffB"),
        (Rejected("NO", "line\nline"), "NO"),
        (BareRejection(), "REJECTED"),
    ],
)
async def test_odd_rejection_is_a_rejection(sqlite, batched, error, reason, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        raise error

    engine, ledger = sqlite
    caller = await call_participant(script(engine, step, batched=batched))

    outcome = await caller.try_(make_call(action="act"))

    assert (outcome.code, outcome.reason) == (REJECTED, reason)
    assert "\n" not in outcome.message
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


@pytest.mark.parametrize(
    "result", [7, object(), {"a": object()}, {"a": "\udcff"}, "text", b"x" * (2**20 + 1)]
)
async def test_result_that_cannot_be_sent_is_a_permanent_failure(sqlite, batched, result, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        return result

    engine, ledger = sqlite
    caller = await call_participant(script(engine, step, batched=batched))

    assert _answer(await caller.try_(make_call(action="act"))) == (FAILED, "INVALID_RESULT", True)
    assert (ledger.rows(), ledger.effects("g")) == ([], [])


async def test_leaked_cancellation_fails_the_call(sqlite, batched, call_participant):
    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        if "leak" in request:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    engine, ledger = sqlite
    caller = await call_participant(script(engine, step, batched=batched))

    leaked = await caller.try_(make_call(action="act", branch_id="leaked", payload=b'{"leak": 1}'))

    assert _answer(leaked) == (FAILED, "HANDLER_ERROR", False)
    assert _answer(await caller.try_(make_call(action="act", branch_id="next"))) == DONE
    assert ledger.rows() == [("next", 1)]


async def test_serve_raises_when_a_background_task_has_ended(sqlite):
    """No handler can do that; a bug of the SDK could. Half a participant must not go on serving."""
    participant = script(sqlite[0], swallow_if_told, batched=True)
    serving = asyncio.create_task(participant.serve("127.0.0.1:0"))
    while not participant.port:  # noqa: ASYNC110 - it has no other sign
        await asyncio.sleep(0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{participant.port}") as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        while (await statuses.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        [sender] = [task for task in asyncio.all_tasks() if task.get_name() == "CONFIRM of act"]

        sender.cancel()

        try:
            async with asyncio.timeout(30):  # for what hangs
                assert (await statuses.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                statuses.cancel()
                with pytest.raises(BackgroundTaskError, match="CONFIRM of act"):
                    await serving
        finally:
            # gRPC does not survive the end of its event loop while it serves.
            serving.cancel()
            await asyncio.wait([serving])


# H5: connections without transactions


@pytest.mark.parametrize("kind", [kind for kind in DRIVERS if not kind.startswith("mariadb")])
async def test_autocommit_by_connection_arguments_is_refused_at_start(kind, database_url, tmp_path):
    if kind.startswith("sqlite"):
        url = make_url(f"{DRIVERS[kind]}:///{tmp_path / 'p.db'}")
        arguments = {"isolation_level": None}
    else:
        url, arguments = make_url(database_url).set(drivername=DRIVERS[kind]), {"autocommit": True}
    make = create_async_engine if kind.endswith("async") else create_engine
    await _check_autocommit_is_refused(make(url, connect_args=arguments))


@pytest.mark.mariadb
@pytest.mark.parametrize("kind", ["mariadb", "mariadb-async"])
async def test_autocommit_by_connection_arguments_is_refused_on_mariadb(kind, mariadb_server):
    make = create_async_engine if kind.endswith("async") else create_engine
    arguments = {"autocommit": True} | ({} if kind.endswith("async") else {"ssl_disabled": True})
    await _check_autocommit_is_refused(
        make(mariadb_server.set(drivername=DRIVERS[kind]), connect_args=arguments)
    )


async def _check_autocommit_is_refused(engine):
    participant = script(engine, swallow_if_told)
    await participant.create_schema()

    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        await participant.start()

    await _dispose(engine)


async def _dispose(engine):
    if is_async_engine(engine):
        await engine.dispose()
    else:
        engine.dispose()


# H8: payloads that cannot be decoded

_DEEP = b'{"a":' * 50_000


async def test_deeply_nested_payload_is_refused_and_its_cancel_succeeds(database, batched, call_participant):
    engine, ledger = database
    caller = await call_participant(script(engine, swallow_if_told, batched=batched))

    tried = await caller.try_(make_call(action="act", payload=_DEEP))
    cancelled = [await caller.cancel(make_call(CANCEL, action="act", payload=_DEEP)) for _ in range(2)]

    assert _answer(tried) == (FAILED, "INVALID_PAYLOAD", True)
    assert [_answer(outcome) for outcome in cancelled] == [DONE, DONE]
    assert ledger.rows() == [("b", 3)]


@pytest.mark.parametrize("operation", [CONFIRM, CANCEL])
async def test_payload_is_decoded_only_for_a_handler_that_runs(sqlite, batched, operation, call_participant):
    decoded = []

    class Request:
        @classmethod
        def model_validate_json(cls, data):
            decoded.append(data)
            return {}

    engine, _ = sqlite
    participant = Participant("test", database=engine)
    participant.action("act", Request)(Script(swallow_if_told, is_async=True, batched=batched))
    caller = await call_participant(participant)
    await caller.try_(make_call(action="act"))

    for _ in range(3):
        await caller.execute(make_call(operation, action="act"))

    assert len(decoded) == 2  # once for Try, and once for the handler that ran


# H9, H10: causes are logged


async def test_failures_are_logged_in_a_line_each_and_one_traceback_a_cause(sqlite, call_participant, caplog):
    async def step(operation, branch, request, db):
        return request["sku"]

    caller = await call_participant(script(sqlite[0], step))
    with caplog.at_level(logging.ERROR, "tcc.participant"):
        for n in range(5):
            outcome = await caller.try_(make_call(action="act", branch_id=f"b{n}"))
        await caller.try_(make_call(action="none"))

    assert outcome.message == "KeyError: 'sku'"
    failures = [record for record in caplog.records if record.name == "tcc.participant"]
    assert [record.branch_id for record in failures] == ["b0", "b1", "b2", "b3", "b4", "b"]
    for record in failures[:5]:
        assert "TRY of gid g, branch b" in record.getMessage()
        assert "action act failed: HANDLER_ERROR: KeyError: 'sku'" in record.getMessage()
    assert ["Traceback" in record.message or 'File "' in record.message for record in failures[:5]] == [
        True, False, False, False, False,
    ]  # fmt: skip
    assert "UNKNOWN_ACTION" in failures[5].getMessage()


async def test_failures_carry_no_values_of_statements_and_rows(database, call_participant, caplog):
    secret = "4929-1234-5678"

    async def step(operation, branch, request, db):
        await db.execute(text("CREATE TABLE cards (number VARCHAR(40) PRIMARY KEY)"))

    async def violate(operation, branch, request, db):
        for _ in range(2):
            await db.execute(text("INSERT INTO cards VALUES (:number)"), {"number": secret})

    engine, ledger = database
    ledger.execute("CREATE TABLE cards (number VARCHAR(40) PRIMARY KEY)")
    caller = await call_participant(script(engine, violate))
    with caplog.at_level(logging.DEBUG, "tcc"):
        outcome = await caller.try_(make_call(action="act", payload=b'{"number": "4929-1234-5678"}'))

    assert outcome.reason == "HANDLER_ERROR"
    assert "IntegrityError" in outcome.message or "UniqueViolation" in outcome.message
    assert secret not in outcome.message
    assert secret not in caplog.text


# H11: registration


def test_registration_refuses_what_cannot_be_called(sqlite):
    engine, _ = sqlite
    participant = Participant("test", database=engine)

    class Complete:
        async def try_(self, branch, request, db): ...
        async def confirm(self, branch, request, db): ...
        async def cancel(self, branch, request, db): ...

    class MissingBranch(Complete):
        async def try_(self, request, db): ...

    class SyncBatch(Complete):
        def try_batch(self, items, db): ...

    class Generator(Complete):
        async def confirm(self, branch, request, db):
            yield

    with pytest.raises(TypeError, match=r'write: @participant.action\("complete"\)'):
        participant.action(Complete)
    with pytest.raises(TypeError, match=r"write: async def try_\(self, branch, request, db\)"):
        participant.action("a")(MissingBranch)
    with pytest.raises(TypeError, match=r"write: async def try_batch\(self, items, db\)"):
        participant.action("a")(SyncBatch)
    with pytest.raises(TypeError, match=r"write: async def confirm"):
        participant.action("a")(Generator)
    with pytest.raises(TypeError, match="create_async_engine"):
        Participant("test", database="postgresql://localhost/x")


# H12: one port


async def test_second_participant_on_a_port_is_refused(sqlite, tmp_path):
    engine, _ = sqlite
    first, second, third = (script(engine, swallow_if_told) for _ in range(3))
    await first.create_schema()
    port = await first.start()

    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await second.start(f"127.0.0.1:{port}")

    await first.stop()
    shared = await second.start("127.0.0.1:0", reuse_port=True)
    assert await third.start(f"127.0.0.1:{shared}", reuse_port=True) == shared
    await second.stop()
    await third.stop()


# H13: copies of a running call


async def test_copy_of_a_running_call_takes_no_connection(postgresql, database_url, call_participant):
    _, ledger = postgresql
    url = make_url(database_url).set(drivername=DRIVERS["postgresql"])
    engine = create_async_engine(url, pool_size=2, max_overflow=0)
    running, release = asyncio.Event(), asyncio.Event()

    async def step(operation, branch, request, db):
        await db.record(branch, operation)
        if branch.branch_id == "slow":
            running.set()
            await release.wait()

    participant = script(engine, step)
    caller = await call_participant(participant)
    slow = [asyncio.create_task(caller.try_(make_call(action="act", branch_id="slow"))) for _ in range(4)]
    await running.wait()
    while participant.waiting < 4:  # noqa: ASYNC110 - the copies arrive on this very loop
        await asyncio.sleep(0)

    assert _answer(await caller.try_(make_call(action="act", branch_id="quick"))) == DONE
    assert engine.pool.checkedout() == 1

    release.set()
    assert [_answer(outcome) for outcome in await asyncio.gather(*slow)] == [DONE] * 4
    assert ledger.effects("g") == ["try", "try"]
    assert participant.waiting == 0
    await engine.dispose()


# H14: a Try within a Try


async def test_handler_cannot_enlist_a_branch_at_its_own_participant(sqlite, call_participant):
    refused = []

    async def step(operation, branch, request, db):
        async with tcc.Client("127.0.0.1:1") as client:
            context = TransactionContext(gid=branch.gid, branch_id=branch.branch_id)
            try:
                await client.join(context).try_("test", "act", {})
            except tcc.TccError as error:
                refused.append(error.reason)

    caller = await call_participant(script(sqlite[0], step))
    await caller.try_(make_call(action="act"))

    assert refused == ["NESTED_TRY"]
    assert handling_participant.get() == ""


# H17: other content under the same key


async def test_branch_tried_with_other_content_is_a_conflict(database, call_participant):
    engine, ledger = database
    caller = await call_participant(script(engine, swallow_if_told))
    assert _answer(await caller.try_(make_call(action="act", payload=b'{"n": 1}'))) == DONE

    conflict = (FAILED, "BRANCH_CONFLICT", True)
    for operation in (TRY, CONFIRM, CANCEL):
        for other in ({"payload": b'{"n": 2}'}, {"content_type": "application/other+json"}):
            fields = {"payload": b'{"n": 1}'} | other
            [outcome] = await caller.execute(make_call(operation, action="act", **fields))
            assert _answer(outcome) == conflict
    assert ledger.rows() == [("b", 1)]

    # Nor is it believed that the initiator tried: a stored transaction may have been rewritten.
    forged = make_call(CONFIRM, action="act", payload=b'{"n": 2}', tried_by_initiator=True)
    [outcome] = await caller.execute(forged)
    assert _answer(outcome) == conflict
    assert ledger.effects("g") == ["try"]


async def test_content_of_an_initiators_own_try_is_not_compared(database, call_participant):
    """Its coordinator knows what was registered, and not what was sent."""
    engine, ledger = database
    caller = await call_participant(script(engine, swallow_if_told))
    own = {"action": "act", "tried_by_initiator": True}
    for payload in (b'{"n": 1}', b'{"n":1}'):
        assert _answer(await caller.try_(make_call(**own, payload=payload))) == DONE
    assert _answer(await caller.confirm(make_call(CONFIRM, **own, payload=b'{"n": 2}'))) == DONE
    assert ledger.effects("g") == ["confirm", "try"]


async def test_concurrent_calls_with_other_content_are_decided_by_the_barrier(
    postgresql, batched, call_participant
):
    engine, ledger = postgresql
    caller = await call_participant(script(engine, swallow_if_told, batched=batched))

    outcomes = await caller.execute(
        *(make_call(action="act", payload=b'{"n": %d}' % (n % 2)) for n in range(6))
    )

    assert [_answer(outcome) for outcome in outcomes] == [DONE, (FAILED, "BRANCH_CONFLICT", True)] * 3
    assert ledger.effects("g") == ["try"]


async def test_rows_of_the_schema_before_digests_are_not_compared(database, call_participant):
    engine, ledger = database
    caller = await call_participant(script(engine, swallow_if_told))
    await caller.try_(make_call(action="act"))
    ledger.execute("UPDATE tcc_barrier SET digest = NULL")

    assert _answer(await caller.confirm(make_call(CONFIRM, action="act", payload=b'{"n": 2}'))) == DONE
