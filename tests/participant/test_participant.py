"""A participant as a service: registration, payloads, batches that form, failures, health, drain, purge."""

import asyncio
import dataclasses
import json
import logging

import grpc
import pydantic
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from tcc import Participant, Rejected, TransactionContext, context
from tcc.barrier.schema import STEPS
from tcc.common.v1 import common_pb2 as common
from tcc.participant.participant import SERVICE
from tcc.participant.v1 import participant_pb2 as pb
from tests.barrier.test_barrier import (
    DONE,
    AsyncBatch,
    AsyncSingle,
    SyncSingle,
    _answer,
    make_call,
    make_participant,
)
from tests.support.participant_databases import Caller
from tests.support.processes import ended, python

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
SUCCEEDED, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)


class Idle:
    """Handlers that do nothing, to be overridden one at a time."""

    async def try_(self, branch, request, db):
        pass

    async def confirm(self, branch, request, db):
        pass

    async def cancel(self, branch, request, db):
        pass


def _participant(engine, handlers, kind=dict, **options) -> Participant:
    participant = Participant("test", database=engine, **options)
    participant.action("act", kind)(handlers)
    return participant


async def _call(caller, operation=TRY, **fields):
    [outcome] = await caller.execute(make_call(operation, action="act", **fields))
    return outcome


# Registration


def test_registration_names_the_missing_handler(sqlite):
    class NoCancel:
        async def try_(self, branch, request, db): ...
        async def confirm(self, branch, request, db): ...

    with pytest.raises(TypeError, match="'act' has neither cancel nor cancel_batch"):
        _participant(sqlite[0], NoCancel)


def test_handlers_must_be_async_or_sync_like_their_engine(sqlite):
    with pytest.raises(TypeError, match="must be async def because its database is an AsyncEngine"):
        _participant(sqlite[0], SyncSingle)
    with pytest.raises(TypeError, match="must be plain def because its database is a sync Engine"):
        _participant(create_engine("sqlite://"), AsyncSingle)


def test_action_name_is_registered_once(sqlite):
    participant = _participant(sqlite[0], Idle)
    with pytest.raises(ValueError, match="action 'act' already"):
        participant.action("act")(Idle)


def test_payload_kind_must_be_known(sqlite):
    with pytest.raises(TypeError, match="int is not a kind of payload"):
        _participant(sqlite[0], Idle, int)


def test_autocommit_engine_is_refused():
    engine = create_async_engine("sqlite+aiosqlite://", execution_options={"isolation_level": "AUTOCOMMIT"})
    with pytest.raises(ValueError, match="AUTOCOMMIT"):
        Participant("test", database=engine)


# Payloads and results


class Model(pydantic.BaseModel):
    sku: str
    quantity: int


@dataclasses.dataclass
class Record:
    sku: str
    quantity: int


_JSON = b'{"sku":"a","quantity":2}'


@pytest.mark.parametrize(
    ("kind", "payload", "value", "result", "content_type"),
    [
        (Model, _JSON, Model(sku="a", quantity=2), _JSON, "application/json"),
        (Record, _JSON, Record("a", 2), b'{"quantity":2,"sku":"a"}', "application/json"),
        (dict, _JSON, json.loads(_JSON), b'{"quantity":2,"sku":"a"}', "application/json"),
        (bytes, b"\0\xff", b"\0\xff", b"\0\xff", "application/octet-stream"),
        (pb.BranchCall, b"\n\x01a", pb.BranchCall(gid="a"), b"\n\x01a", "application/x-protobuf"),
    ],
)
async def test_payload_and_result_of_every_kind(  # noqa: PLR0917 - one per column of the table above
    postgresql, call_participant, kind, payload, value, result, content_type
):
    seen = []

    class Echo(Idle):
        async def try_(self, branch, request, db):
            seen.append(request)
            return request

        async def confirm(self, branch, request, db):
            seen.append(branch.try_result_as(kind))

    caller = await call_participant(_participant(postgresql[0], Echo, kind))
    for _ in range(2):
        outcome = await _call(caller, payload=payload)
        assert (outcome.code, outcome.result, outcome.content_type) == (SUCCEEDED, result, content_type)
    # What the caller claims Try returned is not believed; the row is.
    assert _answer(await _call(caller, CONFIRM, payload=payload, try_result=b"forged")) == DONE
    assert seen == [value, value]


async def test_undecodable_payload_is_refused_for_good_and_its_cancel_succeeds(sqlite, call_participant):
    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Idle, Model))

    for payload in (b"{", b"[]", b'{"sku": "a"}', b"\xff"):
        assert _answer(await _call(caller, payload=payload)) == (FAILED, "INVALID_PAYLOAD", True)
    assert ledger.rows() == []
    assert _answer(await _call(caller, CANCEL, payload=b"{")) == DONE
    assert _answer(await _call(caller, TRY, payload=_JSON)) == (FAILED, "LATE_TRY", True)


async def test_cancel_that_cannot_be_understood_keeps_the_reservation(sqlite, call_participant):
    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Idle, Model))
    await _call(caller, payload=_JSON, tried_by_initiator=True)

    cancelled = await _call(caller, CANCEL, payload=b"{", tried_by_initiator=True)

    assert _answer(cancelled) == (FAILED, "INVALID_PAYLOAD", True)
    assert ledger.rows() == [("b", 1)]


async def test_unknown_action_is_refused_for_good_and_its_cancel_succeeds(sqlite, call_participant):
    caller = await call_participant(_participant(sqlite[0], Idle))

    for operation in (TRY, CONFIRM):
        [outcome] = await caller.execute(make_call(operation, action="none"))
        assert outcome.code == FAILED
        assert outcome.reason == ("UNKNOWN_ACTION" if operation == TRY else "NOT_TRIED")
    assert _answer(await caller.cancel(make_call(CANCEL, action="none"))) == DONE


@pytest.mark.parametrize(
    "fields", [{"gid": ""}, {"branch_id": "é" * 65}, {"gid": "a\0b"}, {"operation": 0}, {"operation": 9}]
)
async def test_malformed_call_is_refused_for_good(sqlite, call_participant, fields):
    caller = await call_participant(_participant(sqlite[0], Idle))

    assert _answer(await _call(caller, **fields)) == (FAILED, "INVALID_CALL", True)


async def test_unary_method_refuses_another_operation(sqlite, call_participant):
    caller = await call_participant(_participant(sqlite[0], Idle))

    for operation in (CONFIRM, CANCEL, 9, -1):
        answer = _answer(await caller.try_(make_call(operation, action="act")))
        assert answer == (FAILED, "INVALID_CALL", True)
    for method in (caller.confirm, caller.cancel):
        assert _answer(await method(make_call(9, action="act"))) == (FAILED, "INVALID_CALL", True)
    assert _answer(await caller.try_(make_call(0, action="act"))) == DONE


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("a\n", ValueError), ("é" * 65, ValueError), (5, TypeError), (None, TypeError)],
)
def test_a_participant_has_a_name(sqlite, name, error):
    with pytest.raises(error, match=r'a participant.s name .* as in Participant."inventory"'):
        Participant(name, database=sqlite[0])


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (50051, TypeError),
        (None, TypeError),
        ("50051", ValueError),
        ("127.0.0.1", ValueError),
        ("127.0.0.1:http", ValueError),
        ("127.0.0.1:70000", ValueError),
        ("", ValueError),
    ],
)
async def test_a_participant_serves_at_an_address(sqlite, address, error):
    with pytest.raises(error, match=r"the address is HOST:PORT, as in|the highest is 65535"):
        await _participant(sqlite[0], Idle).serve(address)


async def test_what_a_reason_of_a_rejection_has_too_much_is_cut_off(sqlite, call_participant):
    class Verbose(Idle):
        async def try_(self, branch, request, db):
            raise Rejected("X" * 200, "y" * 600)

    assert str(Rejected("X" * 200)) == "X" * 128
    outcome = await _call(await call_participant(_participant(sqlite[0], Verbose)), payload=_JSON)
    assert (outcome.reason, outcome.message) == ("X" * 128, "y" * 500)


# Failures


async def test_handler_that_raises_is_rolled_back_logged_and_tried_again(sqlite, call_participant, caplog):
    engine, ledger = sqlite
    caller = await call_participant(make_participant(engine))

    with caplog.at_level(logging.ERROR, "tcc.participant"):
        outcome = await caller.try_(make_call(payload=b'{"poison": 1}'))

    assert _answer(outcome) == (FAILED, "HANDLER_ERROR", False)
    assert outcome.message == "RuntimeError: poison"
    assert (ledger.effects("g"), ledger.rows()) == ([], [])
    [record] = caplog.records
    assert (record.gid, record.branch_id) == ("g", "b")
    assert _answer(await caller.try_(make_call())) == DONE


async def test_handler_runs_in_the_context_of_its_transaction(sqlite, call_participant):
    seen = []

    class Enlisting(Idle):
        async def try_(self, branch, request, db):
            seen.append(context.current())

    engine, _ = sqlite
    caller = await call_participant(_participant(engine, Enlisting))
    await _call(caller, gid="g", branch_id="b", expires_at_ms=32503680000000)
    assert seen == [TransactionContext(gid="g", branch_id="b", expires_at_ms=32503680000000)]
    assert context.current() is None


@pytest.mark.parametrize("operation", [CONFIRM, CANCEL])
async def test_phase_two_that_raises_leaves_the_branch_tried(sqlite, call_participant, operation):
    class Broken(Idle):
        async def confirm(self, branch, request, db):
            raise Rejected("NO_MORE")

        cancel = confirm

    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Broken))
    await _call(caller)

    # A business no is no answer to a Confirm or a Cancel.
    assert _answer(await _call(caller, operation)) == (FAILED, "HANDLER_ERROR", False)
    assert ledger.rows() == [("b", 1)]


async def test_error_in_a_batch_answer_fails_only_that_item(postgresql, call_participant):
    class Odd(AsyncBatch):
        async def confirm_batch(self, items, db):
            await super().confirm_batch(items, db)
            return [RuntimeError("odd") if branch.branch_id == "b1" else None for branch, _ in items]

    engine, ledger = postgresql
    caller = await call_participant(_participant(engine, Odd))
    branch_ids = ["b0", "b1", "b2"]
    await caller.execute(*(make_call(TRY, action="act", branch_id=branch_id) for branch_id in branch_ids))

    outcomes = await caller.execute(
        *(make_call(CONFIRM, action="act", branch_id=branch_id) for branch_id in branch_ids)
    )

    assert [outcome.code for outcome in outcomes] == [SUCCEEDED, FAILED, SUCCEEDED]
    assert ledger.rows() == [("b0", 2), ("b1", 1), ("b2", 2)]
    assert ledger.effects("g").count("confirm") == 2


async def test_batch_answer_of_the_wrong_length_is_an_error(sqlite, call_participant):
    class Short(AsyncBatch):
        async def try_batch(self, items, db):
            return []

    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Short))

    outcome = await _call(caller)

    assert _answer(outcome) == (FAILED, "INVALID_RESULT", True)
    assert "called with 1 items and returned 0 entries" in outcome.message
    assert ledger.rows() == []


async def test_deadlock_is_run_again(postgresql, call_participant):
    """Two Trys that lock two business rows crosswise: the database ends one, the SDK runs it again."""
    engine, ledger = postgresql
    ledger.execute("CREATE TABLE stock (sku TEXT PRIMARY KEY, held INT NOT NULL)")
    ledger.execute("INSERT INTO stock VALUES ('a', 0), ('b', 0)")
    both_hold_one = asyncio.Barrier(2)
    runs = []

    class Crosswise(Idle):
        async def try_(self, branch, request, db):
            runs.append(branch.branch_id)
            for number, sku in enumerate(request["skus"]):
                await db.execute(text("UPDATE stock SET held = held + 1 WHERE sku = :sku"), {"sku": sku})
                if number == 0 and len(runs) <= 2:
                    await both_hold_one.wait()

    caller = await call_participant(_participant(engine, Crosswise))
    outcomes = await caller.execute(
        make_call(action="act", branch_id="b0", payload=b'{"skus": ["a", "b"]}'),
        make_call(action="act", branch_id="b1", payload=b'{"skus": ["b", "a"]}'),
    )

    assert [_answer(outcome) for outcome in outcomes] == [DONE, DONE]
    assert len(runs) == 3
    async with engine.connect() as db:
        assert (await db.scalars(text("SELECT held FROM stock"))).all() == [2, 2]


async def test_database_that_is_gone_fails_the_call_and_is_used_again_when_back(
    own_postgres, call_participant
):
    url = own_postgres.url().replace("postgresql://", "postgresql+psycopg://")
    engine = create_async_engine(url)
    caller = await call_participant(_participant(engine, Idle))
    assert _answer(await _call(caller)) == DONE

    await asyncio.to_thread(own_postgres.stop, "immediate")
    outcome = await _call(caller, CONFIRM)
    assert (outcome.code, outcome.permanent) == (FAILED, False)
    await asyncio.to_thread(own_postgres.start)

    # The pool may hand out one more connection that died before.
    outcomes = [await _call(caller, CONFIRM) for _ in range(3)]
    assert _answer(outcomes[-1]) == DONE
    await engine.dispose()


# Batches and streams


async def test_waiting_calls_of_many_rpcs_share_one_transaction(postgresql, call_participant):
    first_runs, release = asyncio.Event(), asyncio.Event()
    sizes = []

    class Gate(AsyncBatch):
        async def try_batch(self, items, db):
            sizes.append(len(items))
            if len(sizes) == 1:
                first_runs.set()
                await release.wait()

    participant = _participant(postgresql[0], Gate, max_batches_in_flight=1)
    caller = await call_participant(participant)
    first = asyncio.create_task(caller.try_(make_call(action="act", branch_id="first")))
    await first_runs.wait()
    others = [
        asyncio.create_task(caller.try_(make_call(action="act", branch_id=f"b{number}")))
        for number in range(10)
    ]
    while participant.waiting < 11:  # noqa: ASYNC110 - the calls arrive on this very loop
        await asyncio.sleep(0)
    release.set()

    assert {outcome.code for outcome in await asyncio.gather(first, *others)} == {SUCCEEDED}
    assert sizes == [1, 10]


async def test_slow_item_does_not_delay_the_others(postgresql, call_participant):
    release = asyncio.Event()

    class Slow(Idle):
        async def try_(self, branch, request, db):
            if branch.branch_id == "slow":
                await release.wait()

    caller = await call_participant(_participant(postgresql[0], Slow))
    calls = [make_call(action="act", branch_id=branch_id) for branch_id in ("slow", "b1", "b2")]
    responses = caller.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls))

    answered = []
    async for response in responses:
        answered += [outcome.index for outcome in response.results]
        if len(answered) == 2:
            release.set()

    assert sorted(answered[:2]) == [1, 2]
    assert answered[2:] == [0]


async def test_more_calls_than_the_limit_are_refused_as_a_whole(sqlite, call_participant):
    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Idle, waiting_max=2))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await caller.execute(*(make_call(action="act", branch_id=f"b{number}") for number in range(3)))

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ledger.rows() == []
    assert _answer(await _call(caller)) == DONE


@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_screen_rejects_without_a_transaction(how, sqlite, call_participant):
    class Screened(AsyncSingle):
        def screen(self, request):
            if how in request:
                no = Rejected("SOLD_OUT")
                if how == "raised":
                    raise no
                return no
            return None

    engine, ledger = sqlite
    caller = await call_participant(_participant(engine, Screened))
    ledger.execute("ALTER TABLE tcc_barrier RENAME TO away")

    outcome = await _call(caller, payload=b'{"%s": 1}' % how.encode())

    assert _answer(outcome) == (REJECTED, "SOLD_OUT", False)
    assert (await _call(caller)).code == FAILED


class Quantity(pydantic.BaseModel, frozen=True):
    units: int = 1


class CountedScreen(AsyncSingle):
    """Rejects every other time, and counts how often it was asked."""

    asked = 0

    def screen(self, request):
        self.asked += 1
        return Rejected("SOLD_OUT") if self.asked % 2 else None


async def test_a_repeated_try_is_not_screened(sqlite, call_participant):
    """Its first attempt may have reserved: a rejection would leave that to be cancelled."""
    handlers = CountedScreen()
    caller = await call_participant(_participant(sqlite[0], handlers))

    assert _answer(await _call(caller, attempt=1)) == DONE
    assert handlers.asked == 0


async def test_equal_calls_of_a_message_are_screened_once(sqlite, call_participant):
    handlers = CountedScreen()
    caller = await call_participant(_participant(sqlite[0], handlers, kind=Quantity))

    calls = [make_call(action="act", branch_id=f"b{number}", payload=b"{}") for number in range(3)]
    assert {outcome.reason for outcome in await caller.execute(*calls)} == {"SOLD_OUT"}
    assert handlers.asked == 1
    assert _answer(await _call(caller, payload=b"{}")) == DONE


async def test_screen_that_returns_something_else_fails_the_call(sqlite, call_participant):
    class Screened(AsyncSingle):
        def screen(self, request):
            return False

    caller = await call_participant(_participant(sqlite[0], Screened))

    assert _answer(await _call(caller)) == (FAILED, "INVALID_RESULT", True)


class ScreenedBatch(AsyncBatch):
    """Rejects "sold_out" before the transaction, and remembers what did not succeed after it."""

    def __init__(self):
        self.succeeded, self.unsuccessful = [], []
        self.error = None

    async def screen_batch(self, items):
        if self.error is not None:
            raise self.error
        return [Rejected("SOLD_OUT") if "sold_out" in request else None for _, request in items]

    async def tried_batch(self, succeeded, unsuccessful):
        self.succeeded += [branch.branch_id for branch, _ in succeeded]
        self.unsuccessful += [branch.branch_id for branch, _ in unsuccessful]


async def test_a_batch_is_screened_without_a_transaction(sqlite, call_participant):
    engine, ledger = sqlite
    screened = ScreenedBatch()
    caller = await call_participant(_participant(engine, screened))

    outcomes = await caller.execute(
        make_call(action="act", branch_id="b1", payload=b'{"sold_out": 1}'),
        make_call(action="act", branch_id="b2"),
    )
    assert [_answer(outcome) for outcome in outcomes] == [(REJECTED, "SOLD_OUT", False), DONE]
    ledger.execute("ALTER TABLE tcc_barrier RENAME TO away")
    outcome = await _call(caller, payload=b'{"sold_out": 1}')
    assert _answer(outcome) == (REJECTED, "SOLD_OUT", False)
    assert (screened.succeeded, screened.unsuccessful) == (["b2"], [])


async def test_trys_are_screened_while_a_batch_is_in_its_transaction(sqlite, call_participant):
    running, may_end = asyncio.Event(), asyncio.Event()

    class Slow(ScreenedBatch):
        async def try_batch(self, items, db):
            running.set()
            await may_end.wait()

    caller = await call_participant(_participant(sqlite[0], Slow(), max_batches_in_flight=1))
    first = asyncio.create_task(_call(caller, branch_id="b1"))
    await running.wait()
    async with asyncio.timeout(60):
        refused = await _call(caller, branch_id="b2", payload=b'{"sold_out": 1}')
    may_end.set()
    assert [_answer(refused), _answer(await first)] == [(REJECTED, "SOLD_OUT", False), DONE]


async def test_an_action_is_notified_of_trys_that_did_not_succeed(sqlite, call_participant):
    engine, ledger = sqlite
    screened = ScreenedBatch()
    caller = await call_participant(_participant(engine, screened))
    assert _answer(await _call(caller, branch_id="b1")) == DONE
    await _call(caller, branch_id="b2", operation=CANCEL)
    assert _answer(await _call(caller, branch_id="b2"))[1] == "LATE_TRY"
    ledger.execute("ALTER TABLE tcc_barrier RENAME TO away")
    assert (await _call(caller, branch_id="b3")).code == FAILED
    assert screened.unsuccessful == ["b2", "b3"]


async def test_an_error_of_screen_batch_fails_the_trys_of_the_batch(sqlite, call_participant):
    screened = ScreenedBatch()
    screened.error = RuntimeError("no answer")
    caller = await call_participant(_participant(sqlite[0], screened))
    assert _answer(await _call(caller)) == (FAILED, "HANDLER_ERROR", False)
    screened.error = None
    assert _answer(await _call(caller)) == DONE


def test_screen_batch_needs_a_batch_handler(sqlite):
    class Single(AsyncSingle):
        async def screen_batch(self, items): ...

    with pytest.raises(TypeError, match="screen_batch of action 'act' needs a batch handler of the Try"):
        _participant(sqlite[0], Single)


async def test_empty_batch_is_answered_with_nothing(sqlite, call_participant):
    caller = await call_participant(_participant(sqlite[0], Idle))
    assert await caller.execute() == []


# Life


async def test_health_and_reflection(sqlite):
    participant = _participant(sqlite[0], Idle)
    await participant.create_schema()
    port = await participant.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            response = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert response.status == health_pb2.HealthCheckResponse.SERVING

        request = reflection_pb2.ServerReflectionRequest(list_services="")
        responses = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        names = [
            service.name
            async for response in responses
            for service in response.list_services_response.service
        ]
        assert SERVICE in names
    await participant.stop()


async def test_stop_reports_not_serving_and_finishes_what_it_has(postgresql):
    engine, ledger = postgresql
    running, release = asyncio.Event(), asyncio.Event()

    class Slow(AsyncSingle):
        async def try_(self, branch, request, db):
            running.set()
            await release.wait()
            await super().try_(branch, request, db)

    participant = _participant(engine, Slow)
    await participant.create_schema()
    port = await participant.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await statuses.read()).status == health_pb2.HealthCheckResponse.SERVING
        trying = asyncio.create_task(Caller(channel).try_(make_call(action="act")))
        await running.wait()
        stopping = asyncio.create_task(participant.stop(grace_s=5))
        assert (await statuses.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        statuses.cancel()
        release.set()
        assert _answer(await trying) == DONE
        await stopping
    assert ledger.effects("g") == ["try"]


async def test_call_whose_caller_hung_up_is_finished(postgresql, call_participant):
    engine, ledger = postgresql
    running, release, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(AsyncSingle):
        async def try_(self, branch, request, db):
            running.set()
            await release.wait()
            finished.set()
            return await super().try_(branch, request, db)

    caller = await call_participant(_participant(engine, Slow))
    trying = asyncio.create_task(caller.try_(make_call(action="act")))
    await running.wait()
    trying.cancel()
    release.set()
    await finished.wait()

    # The duplicate waits for the first one's commit and finds its row.
    assert _answer(await caller.try_(make_call(action="act"))) == DONE
    assert ledger.effects("g") == ["try"]


async def test_stop_finishes_a_call_whose_caller_hung_up(postgresql):
    engine, ledger = postgresql
    running, release = asyncio.Event(), asyncio.Event()

    class Slow(AsyncSingle):
        async def try_(self, branch, request, db):
            running.set()
            await release.wait()
            await super().try_(branch, request, db)

    participant = _participant(engine, Slow)
    await participant.create_schema()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await participant.start()}") as channel:
        trying = asyncio.create_task(Caller(channel).try_(make_call(action="act")))
        await running.wait()
        trying.cancel()
    asyncio.get_running_loop().call_later(0.05, release.set)
    await participant.stop(grace_s=10)

    assert ledger.effects("g") == ["try"]


async def test_stop_rolls_back_what_outlasts_its_grace(postgresql):
    engine, ledger = postgresql
    running, ended = asyncio.Event(), asyncio.Event()

    class Endless(AsyncSingle):
        async def try_(self, branch, request, db):
            await super().try_(branch, request, db)
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
                raise

    participant = _participant(engine, Endless)
    await participant.create_schema()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await participant.start()}") as channel:
        trying = asyncio.create_task(Caller(channel).try_(make_call(action="act")))
        await running.wait()
        await participant.stop(grace_s=0.05)
        with pytest.raises(grpc.aio.AioRpcError):
            await trying

    assert ended.is_set()
    assert (ledger.effects("g"), ledger.rows()) == ([], [])


_SERVICE_PROGRAM = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from tcc import Participant

participant = Participant("program", database=create_async_engine(sys.argv[1]))

@participant.action("act")
class Act:
    async def try_(self, branch, request, db): ...
    async def confirm(self, branch, request, db): ...
    async def cancel(self, branch, request, db): ...

async def main():
    serving = asyncio.create_task(participant.serve("127.0.0.1:0"))
    while not participant.port:
        await asyncio.sleep(0.01)
    print(participant.port, flush=True)
    await serving
    print("ended", flush=True)

asyncio.run(main())
"""


async def test_serve_ends_gracefully_on_sigterm(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'p.db'}"
    async with python("-c", _SERVICE_PROGRAM, url, stderr=None) as program:
        assert int(await program.stdout.readline()) > 0
        program.terminate()
        assert await ended(program) == (0, "ended\n", "")


# Schema and retention


async def test_schema_is_created_once_by_participants_that_start_together(database):
    engine, _ledger = database
    participants = [_participant(engine, make_handlers(engine)) for _ in range(4)]

    steps = await asyncio.gather(*(participant.create_schema() for participant in participants))

    assert sorted(steps) == [0, 0, 0, len(STEPS)]
    assert await participants[0].create_schema() == 0


def make_handlers(engine):
    return AsyncSingle if hasattr(engine, "sync_engine") else SyncSingle


async def test_purge_deletes_only_old_ended_rows_in_bounded_batches(database):
    engine, ledger = database
    participant = _participant(engine, make_handlers(engine), retention_s=3600, purge_rows_max=2)
    await participant.create_schema()
    now_ms, old_ms = 4_000_000_000_000, 1_000
    for branch_id, state, expires_at_ms, updated_at_ms in [
        ("confirmed", 2, old_ms, old_ms),
        ("cancelled", 3, old_ms, old_ms),
        ("tombstone", 3, 0, old_ms),
        ("still tried", 1, old_ms, old_ms),
        ("confirmed lately", 2, old_ms, now_ms),
        ("not yet expired", 3, now_ms, old_ms),
    ]:
        ledger.execute(
            "INSERT INTO tcc_barrier (gid, branch_id, action, state, expires_at_ms, updated_at_ms) "
            f"VALUES ('g', '{branch_id}', 'act', {state}, {expires_at_ms}, {updated_at_ms})"
        )

    assert [await participant.purge_once() for _ in range(3)] == [2, 1, 0]
    assert {branch_id for branch_id, _ in ledger.rows()} == {
        "still tried", "confirmed lately", "not yet expired",
    }  # fmt: skip


async def test_running_participant_purges_automatically(postgresql, call_participant):
    engine, ledger = postgresql
    participant = _participant(engine, Idle, retention_s=0, purge_interval_s=0.01)
    caller = await call_participant(participant)
    await _call(caller, CANCEL, expires_at_ms=1)

    async with asyncio.timeout(60):
        while ledger.rows():  # noqa: ASYNC110 - only the table shows it
            await asyncio.sleep(0.01)


async def test_sqlite_that_another_writer_holds_fails_the_call_for_now(tmp_path, call_participant):
    url = f"sqlite+aiosqlite:///{tmp_path / 'p.db'}"
    engine = create_async_engine(url, connect_args={"timeout": 0.01})
    caller = await call_participant(_participant(engine, Idle))
    holder = create_engine(f"sqlite:///{tmp_path / 'p.db'}")
    with holder.connect() as db:
        db.exec_driver_sql("BEGIN IMMEDIATE")
        outcome = await _call(caller)
        db.rollback()

    assert _answer(outcome) == (FAILED, "HANDLER_ERROR", False)
    assert OperationalError.__name__ in outcome.message
    assert _answer(await _call(caller)) == DONE
    await engine.dispose()
