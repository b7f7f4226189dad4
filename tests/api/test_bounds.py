"""What grows is bounded, and refused before the work is done: over real gRPC, with a real log."""

import asyncio
import base64
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from fractions import Fraction
from types import FrameType
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs

from coordinator.api.calls import UnreadBytes
from coordinator.api.errors import to_error, to_status
from coordinator.api.initiator import batch
from coordinator.api.initiator.replies import timestamp
from coordinator.api.initiator.requests import RequestLimits, new_interactive
from coordinator.api.operator.reconciliation import PARTICIPANTS_MAX
from coordinator.core.errors import Draining, Refused
from coordinator.core.model import TransactionState
from tcc.admin.v1 import admin_pb2, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2, participant_pb2_grpc
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, Script, ScriptedParticipant, serving
from tests.support.worker import Running, branch, running, settings_for

LIMITS = RequestLimits()
KIB = 1024
SERVICES = {
    "tcc.transaction.v1.TransactionService": pb,
    "tcc.admin.v1.AdminService": admin_pb2,
}
SEVERAL_TRANSACTIONS = {"ExecuteTransactions", "StreamTransactions"}
METHODS = {
    f"/{service}/{method.name}": method
    for service, module in SERVICES.items()
    for method in module.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods
}


@pytest.fixture
async def stock() -> AsyncIterator[ScriptedParticipant]:
    return ScriptedParticipant()


@pytest.fixture
async def tcc(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    async with (
        serving(stock) as address,
        running(settings_for({"stock": {"target": address}}), log_url) as worker,
    ):
        yield worker


@pytest.fixture
async def admin(tcc: Running) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{tcc.worker.admin_port}") as channel:
        yield channel


def channel_of(path: str, tcc: Running, admin: grpc.aio.Channel) -> grpc.aio.Channel:
    return admin if ".admin." in path else tcc.channel


async def call_raw(channel: grpc.aio.Channel, path: str, request: bytes) -> bytes:
    """Call a method with these bytes; return its first response, or its last one if it takes a stream."""
    if METHODS[path].client_streaming:
        responses = [each async for each in channel.stream_stream(path)(iter([request]), timeout=60)]
        return responses[-1]
    if METHODS[path].server_streaming:
        async for response in channel.unary_stream(path)(request, timeout=60):
            return response
        return b""
    return await channel.unary_unary(path)(request, timeout=60)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a call of this test makes true."""
    while not condition():  # noqa: ASYNC110 - an event would have to be in the product
        await asyncio.sleep(0)


def execute(gid: str, *branches: common.BranchSpec, **fields: object) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches, **fields)


# --- the number of items -------------------------------------------------------------------


def repeated_fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    """The repeated fields of a message and of the messages in it."""
    for field in message.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.is_repeated:
            yield field
        if field.message_type is not None and not is_map:
            yield from repeated_fields(field.message_type)


MESSAGES = [
    common.BranchSpec(branch_id=str(n), participant="stock", action="notify", kind=common.BRANCH_KIND_MESSAGE)
    for n in range(LIMITS.branches_max + 1)
]
# Each repeated field of a request: a method, the least request that has too many, and the reason.
TOO_MANY: dict[str, tuple[str, Message, str]] = {
    "tcc.transaction.v1.ExecuteTransactionsRequest.transactions": (
        "/tcc.transaction.v1.TransactionService/ExecuteTransactions",
        pb.ExecuteTransactionsRequest(
            transactions=[pb.ExecuteTransactionRequest() for _ in range(LIMITS.batch_max + 1)]
        ),
        "BATCH_TOO_LARGE",
    ),
    "tcc.transaction.v1.StreamTransactionsRequest.items": (
        "/tcc.transaction.v1.TransactionService/StreamTransactions",
        pb.StreamTransactionsRequest(
            items=[pb.StreamTransactionsItem(id=1) for _ in range(LIMITS.batch_max + 1)]
        ),
        "BATCH_TOO_LARGE",
    ),
    "tcc.transaction.v1.StreamTransactionsRequest.cancelled_ids": (
        "/tcc.transaction.v1.TransactionService/StreamTransactions",
        pb.StreamTransactionsRequest(cancelled_ids=range(1, 64 * KIB)),
        "INVALID_MESSAGE",
    ),
    "tcc.transaction.v1.ExecuteTransactionRequest.branches": (
        "/tcc.transaction.v1.TransactionService/ExecuteTransaction",
        execute("g", *(branch(str(n)) for n in range(LIMITS.branches_max + 1))),
        "TOO_MANY_BRANCHES",
    ),
    "tcc.transaction.v1.ExecuteTransactionRequest.labels": (
        "/tcc.transaction.v1.TransactionService/ExecuteTransaction",
        execute("g", branch("1"), labels={str(n): "" for n in range(LIMITS.labels_max + 1)}),
        "TOO_MANY_LABELS",
    ),
    "tcc.transaction.v1.BeginTransactionRequest.labels": (
        "/tcc.transaction.v1.TransactionService/BeginTransaction",
        pb.BeginTransactionRequest(gid="g", labels={str(n): "" for n in range(LIMITS.labels_max + 1)}),
        "TOO_MANY_LABELS",
    ),
    "tcc.transaction.v1.RegisterBranchRequest.messages": (
        "/tcc.transaction.v1.TransactionService/RegisterBranch",
        pb.RegisterBranchRequest(gid="g", branch=branch("local"), check_back=True, messages=MESSAGES),
        "TOO_MANY_BRANCHES",
    ),
    "tcc.transaction.v1.ConfirmTransactionRequest.messages": (
        "/tcc.transaction.v1.TransactionService/ConfirmTransaction",
        pb.ConfirmTransactionRequest(gid="g", messages=MESSAGES),
        "TOO_MANY_BRANCHES",
    ),
    "tcc.transaction.v1.ListTransactionsRequest.states": (
        "/tcc.transaction.v1.TransactionService/ListTransactions",
        pb.ListTransactionsRequest(states=[common.TRANSACTION_STATE_TRYING] * (len(TransactionState) + 1)),
        "TOO_MANY_STATES",
    ),
    "tcc.transaction.v1.ListTransactionsRequest.labels": (
        "/tcc.transaction.v1.TransactionService/ListTransactions",
        pb.ListTransactionsRequest(labels={str(n): "" for n in range(LIMITS.labels_max + 1)}),
        "TOO_MANY_LABELS",
    ),
    "tcc.admin.v1.ReconcileRequest.participants": (
        "/tcc.admin.v1.AdminService/Reconcile",
        admin_pb2.ReconcileRequest(participants=["stock"] * (PARTICIPANTS_MAX + 1)),
        "TOO_MANY_PARTICIPANTS",
    ),
}


def test_every_repeated_field_of_a_request_has_a_bound() -> None:
    fields = {field.full_name for method in METHODS.values() for field in repeated_fields(method.input_type)}
    assert fields == TOO_MANY.keys()


async def test_one_item_too_many_is_refused(tcc: Running, admin: grpc.aio.Channel) -> None:
    for path, request, reason in TOO_MANY.values():
        async with refused("INVALID_ARGUMENT", reason):
            await call_raw(channel_of(path, tcc, admin), path, request.SerializeToString())
    assert not tcc.engine.live


async def test_a_batch_of_millions_is_refused_before_one_item_is_decoded(
    tcc: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "coordinator.api.initiator.service.transaction_request", lambda raw, _: decoded.append(raw)
    )
    empty = pb.ExecuteTransactionsRequest(transactions=[pb.ExecuteTransactionRequest()]).SerializeToString()
    path = "/tcc.transaction.v1.TransactionService/ExecuteTransactions"
    async with refused("INVALID_ARGUMENT", "BATCH_TOO_LARGE"):
        await call_raw(tcc.channel, path, empty * 3_000_000)
    assert decoded == []


@pytest.mark.slow
async def test_no_request_but_a_batch_may_have_megabytes(tcc: Running, admin: grpc.aio.Channel) -> None:
    too_large = LIMITS.transaction_request_bytes_max + 1
    # An unknown field, which every message may have.
    request = b"\xfa\x7f" + bytes([too_large & 0x7F | 0x80, too_large >> 7 & 0x7F | 0x80, too_large >> 14])
    for path in (path for path, method in METHODS.items() if method.name not in SEVERAL_TRANSACTIONS):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call_raw(channel_of(path, tcc, admin), path, request + bytes(too_large))
        assert error.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_a_batch_is_taken_apart_as_protobuf_does() -> None:
    """Between known items, a newer client's fields of every wire type."""
    items = [execute(f"g{n}", branch("1", payload=bytes(200))).SerializeToString() for n in range(3)]
    wire = b"".join(b"\x0a" + bytes([len(item) & 0x7F | 0x80, len(item) >> 7]) + item for item in items)
    others = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x03abc"
    decode = batch.batch_decoder(3)
    assert decode(wire + others).items == decode(others + wire).items == items
    parsed = pb.ExecuteTransactionsRequest.FromString(others + wire)
    assert [item.SerializeToString() for item in parsed.transactions] == items


# --- the memory of refused requests ----------------------------------------------------------


async def test_calls_that_fail_leave_no_cycles(tcc: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise their requests stay in memory until a garbage collection, which is rare."""
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="idle"))
    service = "/tcc.transaction.v1.TransactionService"

    async def bug(_gid: str) -> None:
        raise KeyError("a bug")

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="unknown")).code()
        await tcc.stub.ExecuteTransaction(execute("g")).code()
        await tcc.channel.unary_unary(f"{service}/GetTransaction")(b"\xff").code()
        await tcc.channel.unary_unary(f"{service}/GetTransaction")(bytes(100 * KIB)).code()
        await tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="idle"), timeout=0.1).code()
        await until(lambda: all(each.is_cancelled() for each in tcc.engine.live["idle"].waiters))
        waiting = tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="idle"), timeout=60)
        await until(lambda: not all(each.is_cancelled() for each in tcc.engine.live["idle"].waiters))
        tcc.engine.fail_waiters(Draining("the test ends the wait"))
        await waiting.code()
        monkeypatch.setattr(tcc.engine, "get", bug)
        await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="idle")).code()
        gc.collect()
        # The test's own client has cycles.
        kept = [each for each in gc.garbage if _is_of_the_server(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kept == []


def _is_of_the_server(thing: object) -> bool:
    if isinstance(thing, FrameType):
        return "/coordinator/" in thing.f_code.co_filename
    return isinstance(thing, Refused) or type(thing).__name__ == "_ServicerContext"


# --- odd requests ----------------------------------------------------------------------------


async def test_malformed_bytes_are_an_invalid_message(tcc: Running, admin: grpc.aio.Channel) -> None:
    for path in METHODS:
        async with refused("INVALID_ARGUMENT", "INVALID_MESSAGE"):
            await call_raw(channel_of(path, tcc, admin), path, b"\xff\xff\xff")
    for method in ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"):
        for channel in (tcc.channel, admin):
            async with refused("INVALID_ARGUMENT", "INVALID_MESSAGE"):
                await channel.unary_unary(f"/{method}")(b"\xff\xff\xff", timeout=60)


async def test_a_malformed_item_of_a_batch_fails_alone(tcc: Running) -> None:
    wire = pb.ExecuteTransactionsRequest(transactions=[execute("g", branch("1"))]).SerializeToString()
    answers: dict[int, str] = {}
    call = tcc.channel.unary_stream("/tcc.transaction.v1.TransactionService/ExecuteTransactions")
    async for response in call(b"\x0a\x01\xff" + wire, timeout=60):
        for reply in pb.ExecuteTransactionsResponse.FromString(response).replies:
            answers[reply.index] = reply.error.reason
    assert answers == {0: "INVALID_MESSAGE", 1: ""}


NUMBERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), -1, 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), -1, 2**63 - 1, 253_402_300_800),
    FieldDescriptor.TYPE_UINT32: (2**31, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (2**63, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), -1, 99, 2**31 - 1),
}
TEXTS = (
    "\0",
    "\ud7ff\U0010ffff",
    "\r\n",
    "%s%n",
    "x" * 20_000,
    "\u20ac" * 8_000,
    "AAAA",
    "=",
    "audit:1",
    "1.x",
)
# What makes the other fields of a request valid.
VALID: dict[str, object] = {
    "gid": "idle",
    "branch_id": "1",
    "participant": "stock",
    "participants": ["stock"],
    "action": "reserve",
    "branches": [branch("1")],
    "transactions": [execute("valid", branch("1"))],
    "branch": branch("1"),
    "filter": "live",
    "operator_context": admin_pb2.OperatorContext(operator="ann", reason="test", version=2),
    "outcome": common.HEURISTIC_OUTCOME_CONFIRMED,
}


def valid_request(kind: type[Message]) -> Message:
    names = {field.name for field in kind.DESCRIPTOR.fields}
    # An action of AdminService is a number or a text that has no default.
    fields = {name: value for name, value in VALID.items() if name in names and name != "action"}
    return kind(**fields)


def odd_variants(request: Message) -> Iterator[bytes]:
    """The request with one field changed: each of its scalar fields, at any depth, to each odd value."""
    for field in request.DESCRIPTOR.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.message_type is not None and not is_map:
            inner = getattr(request, field.name)
            for part in inner if field.is_repeated else (inner,):
                before = part.SerializeToString()
                for odd in odd_variants(part):
                    part.ParseFromString(odd)
                    part.SetInParent() if not field.is_repeated else None
                    yield request.SerializeToString()
                    part.ParseFromString(before)
        elif not (is_map or field.is_repeated):
            before = getattr(request, field.name)
            for odd in NUMBERS.get(field.type, TEXTS if field.type == FieldDescriptor.TYPE_STRING else ()):
                setattr(request, field.name, odd)
                yield request.SerializeToString()
                setattr(request, field.name, before)


async def error_of(call: Awaitable[object]) -> grpc.aio.AioRpcError | None:
    """The error of a call; None if it succeeds, or is valid and waits."""
    try:
        await asyncio.wait_for(call, 0.2)
    except TimeoutError:
        return None
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.mark.parametrize("service", SERVICES)
async def test_odd_values_are_refused_with_a_reason(
    tcc: Running, admin: grpc.aio.Channel, service: str
) -> None:
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="idle"))
    with capture_logs() as logged:
        for path, method in METHODS.items():
            if not path.startswith(f"/{service}/"):
                continue
            kind = GetMessageClass(method.input_type)
            for request in odd_variants(valid_request(kind)):
                error = await error_of(call_raw(channel_of(path, tcc, admin), path, request))
                if error is not None:
                    assert error.code().name not in {"UNKNOWN", "INTERNAL"}, (path, kind.FromString(request))
                    assert rpc_status.from_call(error) is not None, (path, error)
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


# --- errors fit into headers -----------------------------------------------------------------


@settings(max_examples=30)
@given(
    message=st.text(max_size=2_000),
    metadata=st.dictionaries(st.sampled_from("abc"), st.text(max_size=3_000)),
    character=st.sampled_from(["", "x", "%", "\u20ac", "\U0001f600"]),
)
def test_an_error_fits_into_headers(message: str, metadata: dict[str, str], character: str) -> None:
    error = Refused(message + character * 5_000, metadata={"gid": "g", **metadata})
    status = to_status(error)
    details = base64.b64encode(status.SerializeToString())
    assert len(quote(status.message, safe="")) + len(details) < 8 * KIB
    assert error.message.startswith(status.message)
    item = to_error(error)
    assert item.message == status.message
    assert item.metadata["gid"] == "g"


def test_a_usual_error_is_not_cut() -> None:
    metadata = {"gid": "g" * 128, "branch_id": "b" * 128, "last_error": "\u20ac" * 333}
    error = Refused("x" * 1_500, metadata=metadata)
    assert to_error(error) == common.Error(code=9, reason="REFUSED", message="x" * 1_500, metadata=metadata)


async def test_a_name_of_half_a_megabyte_is_refused_with_its_status(admin: grpc.aio.Channel) -> None:
    context = admin_pb2.OperatorContext(operator="ann", reason="test")
    stub = admin_pb2_grpc.AdminServiceStub(admin)
    async with refused("NOT_FOUND", "COORDINATOR_NOT_FOUND"):
        request = admin_pb2.DrainCoordinatorRequest(
            coordinator_id="\u20ac" * 170_000, operator_context=context
        )
        await stub.DrainCoordinator(request)


# --- calls of each kind ----------------------------------------------------------------------

FULL = {"calls_max": 2, "waits_max": 2, "decisions_max": 4, "request_max_s": 0.5}


@pytest.fixture
async def small(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    """A coordinator with room for few calls."""
    async with serving(stock) as address:
        settings = settings_for({"stock": {"target": address}}, listen={"address": "127.0.0.1:0", **FULL})
        async with running(settings, log_url) as worker:
            yield worker


async def test_waits_keep_no_decision_health_check_or_operator_out(small: Running) -> None:
    await small.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    request = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    waiting = [small.stub.WaitTransaction(request, timeout=60) for _ in range(FULL["waits_max"])]
    await until(lambda: len(small.engine.live["g"].waiters) == FULL["waits_max"])
    async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
        await small.stub.WaitTransaction(request)
    health = health_pb2_grpc.HealthStub(small.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
    async with grpc.aio.insecure_channel(f"127.0.0.1:{small.worker.admin_port}") as channel:
        await admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest())
    # It ends the waits.
    await small.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"))
    for wait in waiting:
        assert (await wait).outcome.state == common.TRANSACTION_STATE_CANCELLED
    async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        await small.stub.WaitTransaction(pb.WaitTransactionRequest(gid="unknown"))


async def test_waits_whose_callers_have_left_are_forgotten(tcc: Running) -> None:
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    waiting = [tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="g"), timeout=60) for _ in range(20)]
    entry = tcc.engine.live["g"]
    await until(lambda: len(entry.waiters) == 20)
    for wait in waiting:
        wait.cancel()
    await until(lambda: not entry.waiters)


async def test_decisions_that_wait_for_the_completion_keep_no_other_out(
    small: Running, stock: ScriptedParticipant
) -> None:
    go = stock.hold_confirms()
    gids = [f"g{n}" for n in range(4)]
    for gid in gids:
        await small.stub.BeginTransaction(pb.BeginTransactionRequest(gid=gid))
        await small.stub.TryBranch(pb.TryBranchRequest(gid=gid, branch=branch("1")))
    completed = [
        small.stub.ConfirmTransaction(
            pb.ConfirmTransactionRequest(gid=gid, wait_for=pb.WAIT_FOR_COMPLETION), timeout=60
        )
        for gid in gids[:2]
    ]
    await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 2)
    async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
        request = pb.ConfirmTransactionRequest(gid=gids[2], wait_for=pb.WAIT_FOR_COMPLETION)
        await small.stub.ConfirmTransaction(request)
    outcome = (await small.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid=gids[2]))).outcome
    assert outcome.state == common.TRANSACTION_STATE_CONFIRMING
    go.set()
    for call in completed:
        assert (await call).outcome.state == common.TRANSACTION_STATE_CONFIRMED


async def test_calls_without_a_request_are_ended_and_leave_room(small: Running) -> None:
    """Calls of which only the headers arrive count as calls."""

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    method = small.channel.stream_unary("/tcc.transaction.v1.TransactionService/GetTransaction")
    open_calls = [method(nothing(), timeout=60) for _ in range(FULL["calls_max"] + 1)]
    codes = [await call.code() for call in open_calls]
    assert sorted(code.name for code in codes) == [
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    ]
    async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        await small.stub.GetTransaction(pb.GetTransactionRequest(gid="unknown"))


async def test_connections_beyond_the_limit_are_closed(log_url: str) -> None:
    listen = {"address": "127.0.0.1:0", "connections_max": 4}
    async with running(settings_for({}, listen=listen), log_url) as worker:
        await worker.until_health(health_pb2.HealthCheckResponse.SERVING)
        host, port = worker.address.split(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        # The fourth has no place beside the stub's own: it is closed, the others are not.
        assert await asyncio.wait_for(_ended(connections), 60) == 1
        await worker.until_health(health_pb2.HealthCheckResponse.SERVING)
        for _, writer in connections:
            writer.close()


async def _ended(connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> int:
    """Wait until a server has ended one of these connections; return how many it has ended."""
    reads = [asyncio.ensure_future(_until_closed(reader)) for reader, _ in connections]
    done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
    for read in reads:
        read.cancel()
    return len(done)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(KIB):
            pass


async def test_idle_interactive_transactions_leave_room_for_whole_ones(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async with serving(stock) as address:
        settings = settings_for({"stock": {"target": address}}, limits={"live_max": 10})
        async with running(settings, log_url) as worker:
            for number in range(5):
                await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid=f"idle{number}"))
            async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
                await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="idle5"))
            outcome = (await worker.stub.ExecuteTransaction(execute("whole", branch("1")))).outcome
            assert outcome.state == common.TRANSACTION_STATE_CONFIRMING
            await worker.stub.CancelTransaction(
                pb.CancelTransactionRequest(gid="idle0", wait_for=pb.WAIT_FOR_COMPLETION)
            )
            await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="idle5"))


# --- results ---------------------------------------------------------------------------------


def returning(result: bytes, content_type: str = "application/json") -> Script:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation != common.OPERATION_TRY:
            return SUCCEEDED
        return common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED, result=result, content_type=content_type)

    return script


@pytest.mark.parametrize(
    ("result", "content_type", "branches", "reason"),
    [
        (bytes(200 * KIB), "", 6, "RESULT_TOO_LARGE"),
        (b"x", "x" * 5_000_000, 1, "INVALID_RESULT"),
        (b"x", "x" * 256, 1, "INVALID_RESULT"),
        (b"x", "\n", 1, "INVALID_RESULT"),
    ],
)
async def test_results_beyond_the_limits_cancel(
    tcc: Running,
    stock: ScriptedParticipant,
    *,
    result: bytes,
    content_type: str,
    branches: int,
    reason: str,
) -> None:
    stock.script = returning(result, content_type)
    outcome = (
        await tcc.stub.ExecuteTransaction(
            execute("g", *(branch(str(n)) for n in range(branches)), wait_for=pb.WAIT_FOR_COMPLETION)
        )
    ).outcome
    assert outcome.state == common.TRANSACTION_STATE_CANCELLED
    assert (outcome.cancel_reason, outcome.cancel_detail) == (common.CANCEL_REASON_TRY_FAILED, reason)


async def test_what_a_try_may_return_can_be_confirmed(tcc: Running, stock: ScriptedParticipant) -> None:
    """The largest payloads and results: no call is larger than gRPC's servers accept by default."""
    stock.script = returning(bytes(256 * KIB), "x" * 255)
    branches = [branch(str(n), payload=bytes(256 * KIB), content_type="x" * 255) for n in range(4)]
    requests = [execute(f"g{n}", *branches) for n in range(4)]
    async for _ in tcc.stub.ExecuteTransactions(pb.ExecuteTransactionsRequest(transactions=requests)):
        pass
    for request in requests:
        assert (await tcc.settled(request.gid)).state == common.TRANSACTION_STATE_CONFIRMED
    assert {call.attempt for call in stock.calls} == {0}


@pytest.mark.slow
async def test_message_limits_follow_raised_limits(log_url: str, stock: ScriptedParticipant) -> None:
    """The Confirm carries both, more than any of gRPC's limits by default."""
    mib = 2**20
    stock.script = returning(bytes(9 * mib))
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 20 * mib),))
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(stock, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    settings = settings_for(
        {"stock": {"target": target, "request_bytes_max": 20 * mib}},
        limits={"payload_bytes_max": 9 * mib, "transaction_bytes_max": 9 * mib},
        listen={"address": "127.0.0.1:0", "request_bytes_max": 10 * mib},
    )
    async with running(settings, log_url) as worker:
        await worker.stub.ExecuteTransaction(
            execute("g", branch("1", payload=bytes(9 * mib)), wait_for=pb.WAIT_FOR_ACCEPTED)
        )
        large = (("grpc.max_receive_message_length", -1),)
        async with grpc.aio.insecure_channel(worker.address, options=large) as channel:
            stub = transaction_pb2_grpc.TransactionServiceStub(channel)
            request = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
            outcome = (await stub.WaitTransaction(request, timeout=60)).outcome
            read = (await stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    await server.stop(None)
    assert outcome.state == common.TRANSACTION_STATE_CONFIRMED
    (only,) = read.branches
    assert (len(only.spec.payload), len(only.result), only.attempts) == (9 * mib, 9 * mib, 0)


async def test_the_results_of_a_repeated_batch_come_in_several_messages(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    """Each fits into what gRPC's clients accept by default: 4 MiB."""
    stock.script = returning(bytes(256 * KIB))
    branches = [branch(str(n)) for n in range(4)]
    requests = [execute(f"g{n}", *branches, wait_for=pb.WAIT_FOR_COMPLETION) for n in range(6)]
    for _ in range(2):
        replies: dict[int, int] = {}
        async for response in tcc.stub.ExecuteTransactions(
            pb.ExecuteTransactionsRequest(transactions=requests)
        ):
            for reply in response.replies:
                replies[reply.index] = sum(len(each.result) for each in reply.outcome.results)
        assert replies == dict.fromkeys(range(6), 1024 * KIB)


async def test_unread_replies_are_bounded() -> None:
    """One call gets a quarter of the room; a slow reader loses what it has not taken."""
    unread = UnreadBytes(4_000)
    replies = batch.Replies(unread)
    added = 0
    while replies.has_room(300):
        replies.add(pb.ExecuteTransactionsReply(index=added), 300)
        added += 1
    assert (added, unread.held) == (3, 900)
    other = batch.Replies(unread)
    assert other.has_room(1_000)
    assert not other.has_room(1_001)
    assert [reply.index for reply in await replies.take()] == [0, 1, 2]
    assert not replies.has_room(300)  # they are being sent
    replies.add(pb.ExecuteTransactionsReply(index=3), 50)
    replies.close()
    assert unread.held == 900
    replies.add(pb.ExecuteTransactionsReply(index=4), 50)
    replies.release_sent()
    assert unread.held == 0


# --- when a transaction expires --------------------------------------------------------------


async def test_all_replies_hold_the_same_millisecond(tcc: Running, stock: ScriptedParticipant) -> None:
    for number in range(20):
        request = pb.BeginTransactionRequest(gid=f"g{number}")
        request.expiry.FromMilliseconds(30_001 + number)
        begun = await tcc.stub.BeginTransaction(request)
        await tcc.stub.TryBranch(pb.TryBranchRequest(gid=request.gid, branch=branch("1")))
        assert begun.expires_at.nanos % 1_000_000 == 0
        assert stock.calls[-1].expires_at_ms == begun.expires_at.ToMilliseconds()


@given(
    now=st.floats(1.6e9, 4e9),
    expiry_ms=st.integers(50, 3_600_000),
)
def test_the_expiry_is_as_asked_to_the_millisecond(now: float, expiry_ms: int) -> None:
    request = pb.BeginTransactionRequest(gid="g")
    request.expiry.FromMilliseconds(expiry_ms)
    tx = new_interactive(request, gid="", now=now, limits=LIMITS)
    asked_ms = Fraction(now) * 1_000 + expiry_ms
    moment = timestamp(tx.expires_at)
    assert moment is not None
    assert abs(moment.ToMilliseconds() - asked_ms) <= Fraction(1, 2) + Fraction(1, 1000)
    assert moment.nanos % 1_000_000 == 0
    assert round(tx.expires_at * 1_000) == moment.ToMilliseconds()
