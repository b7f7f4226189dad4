"""The examples of docs/WRITING_A_PARTICIPANT.md run as they are printed."""

import asyncio
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import grpc
import httpx
import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.orm import Session

import tcc
from tcc.barrier.guarded_connection import GuardedConnection, TransactionControlError
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tcc.transaction.v1 import transaction_pb2
from tests.client import scripted_service
from tests.support.participant_databases import Caller
from tests.support.ports import free_port
from tests.support.processes import python

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "WRITING_A_PARTICIPANT.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))
TABLES = """
    CREATE TABLE stock (sku TEXT PRIMARY KEY, price INT DEFAULT 5, free INT, held INT DEFAULT 0);
    CREATE TABLE sales (number SERIAL PRIMARY KEY, sku TEXT, total INT);
    CREATE TABLE customers (name TEXT PRIMARY KEY);
    INSERT INTO stock (sku, free) VALUES ('A', 100000), ('B', 3)
"""
TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
SUCCEEDED, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)


class Shop:
    """The page's modules as one, on a database with the tables that they need."""

    def __init__(self, module: ModuleType, shop_database: Engine) -> None:
        self.module = module
        self._database = shop_database

    def add(self, name: str, **names: object) -> None:
        """Run a block of the page; `names` are what the page leaves to the reader."""
        vars(self.module).update(names)
        exec(compile(BLOCKS[name], name, "exec"), vars(self.module))

    def stock(self, sku: str) -> tuple[int, int]:
        """Return what is free and what is held."""
        [found] = self.rows(f"SELECT free, held FROM stock WHERE sku = '{sku}'")
        return found

    def rows(self, query: str) -> list[tuple]:
        with self._database.connect() as db:
            return [tuple(row) for row in db.execute(text(query))]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Caller]:
        participant = self.module.inventory
        await participant.create_schema()
        port = await participant.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Caller(channel)
        await participant.stop(0.5)


@pytest.fixture
def shop_database(database_url: str) -> Iterator[Engine]:
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.execute(text(TABLES))
    yield engine
    engine.dispose()


@pytest.fixture
async def shop(shop_database: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setenv("DATABASE_URL", shop_database.url.render_as_string(hide_password=False))
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    shop = Shop(module, shop_database)
    shop.add("inventory.py")
    yield shop
    await module.engine.dispose()


def call(operation: int, action: str, request: object, branch_id: str = "b") -> pb.BranchCall:
    return pb.BranchCall(
        operation=operation,
        gid="g",
        branch_id=branch_id,
        action=action,
        payload=json.dumps(request).encode(),
        content_type="application/json",
    )


def reservation(quantity: int) -> dict[str, object]:
    return {"sku": "B", "quantity": quantity}


async def test_single_handlers(shop: Shop) -> None:
    async with shop.serving() as caller:
        tried = await caller.try_(call(TRY, "reserve_stock", reservation(2)))
        refused = await caller.try_(call(TRY, "reserve_stock", reservation(2), "c"))
        assert (tried.code, json.loads(tried.result)) == (SUCCEEDED, {"price": 5})
        assert (refused.code, refused.reason, refused.message) == (
            REJECTED, "SOLD_OUT", "fewer than 2 are left",
        )  # fmt: skip
        assert shop.stock("B") == (1, 2)

        for _ in range(2):
            await caller.confirm(call(CONFIRM, "reserve_stock", reservation(2)))
        assert shop.stock("B") == (1, 0)
        assert shop.rows("SELECT sku, total FROM sales") == [("B", 10)]

        await caller.try_(call(TRY, "reserve_stock", reservation(1), "d"))
        await caller.cancel(call(CANCEL, "reserve_stock", reservation(1), "d"))
        assert shop.stock("B") == (1, 0)


async def test_batch_handlers(shop: Shop) -> None:
    shop.add("batches.py")
    async with shop.serving() as caller:
        calls = [call(TRY, "reserve_many", reservation(1), f"b{n}") for n in range(4)]
        outcomes = await caller.execute(*calls)
        assert sorted(outcome.code for outcome in outcomes) == [SUCCEEDED] * 3 + [REJECTED]
        assert shop.stock("B") == (0, 3)

        held = [
            one.branch_id for one, outcome in zip(calls, outcomes, strict=True) if outcome.code == SUCCEEDED
        ]
        await caller.execute(
            call(CONFIRM, "reserve_many", reservation(1), held[0]),
            *(call(CANCEL, "reserve_many", reservation(1), branch_id) for branch_id in held[1:]),
        )
        assert shop.stock("B") == (2, 0)


async def test_savepoint(shop: Shop) -> None:
    shop.add("savepoint.py")
    async with shop.serving() as caller:
        answers = [
            (await caller.try_(call(TRY, "add_customer", {"name": "ana"}, branch_id))).result
            for branch_id in ("b1", "b2")
        ]
    assert [json.loads(answer) for answer in answers] == [{"new": True}, {"new": False}]


async def test_effects_outside(shop: Shop) -> None:
    called: list[tuple[str, str]] = []

    def provider(name: str):
        async def record(key: str, *_: object) -> None:
            called.append((name, key))

        return record

    payments = SimpleNamespace(**{name: provider(name) for name in ("authorize", "capture", "void")})
    shop.add("charging.py", payments=payments)
    async with shop.serving() as caller:
        await caller.try_(call(TRY, "charge_card", {"amount": 7}))
        await caller.confirm(call(CONFIRM, "charge_card", {"amount": 7}))
        empty = await caller.cancel(call(CANCEL, "charge_card", {"amount": 7}, "unseen"))
    assert empty.code == SUCCEEDED
    assert called == [("authorize", '["g", "b"]'), ("capture", '["g", "b"]'), ("void", '["g", "unseen"]')]


def as_kind(call: pb.BranchCall, kind: common.BranchKind) -> pb.BranchCall:
    call.kind = kind
    return call


async def test_sagas_and_messages(shop: Shop) -> None:
    shop.add("kinds.py")
    saga, message = common.BRANCH_KIND_SAGA, common.BRANCH_KIND_MESSAGE
    async with shop.serving() as caller:
        for _ in range(2):
            done = [
                await caller.try_(as_kind(call(TRY, "charge", {"cents": 7}), saga)),
                await caller.confirm(as_kind(call(CONFIRM, "note_sale", {"cents": 9}, "m"), message)),
            ]
            assert [each.code for each in done] == [SUCCEEDED, SUCCEEDED]
        assert sorted(shop.rows("SELECT sku, total FROM sales")) == [("g", 7), ("noted", 9)]
        await caller.cancel(as_kind(call(CANCEL, "charge", {"cents": 7}), saga))
    assert shop.rows("SELECT sku, total FROM sales") == [("noted", 9)]


async def test_inbox(shop: Shop) -> None:
    shop.add("inbox.py")
    await shop.module.inventory.create_schema()
    for _ in range(2):
        await shop.module.on_message("m1", 3)
    assert shop.rows("SELECT sku, total FROM sales") == [("queued", 3)]


class CountingApi(BaseHTTPRequestHandler):
    """A payment service that counts what it has done, once for each idempotency key."""

    charges: ClassVar[dict[str, int]] = {}
    refunds: ClassVar[dict[str, str]] = {}

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 200
        if self.path == "/charges":
            status = 402 if body["cents"] > 100 else 200
            if status == 200:
                self.charges.setdefault(key, body["cents"])
        elif body["charge"] in self.charges:
            self.refunds.setdefault(key, body["charge"])
        else:
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


async def test_http_api_is_called_with_a_key_for_each_operation(shop: Shop) -> None:
    CountingApi.charges, CountingApi.refunds = {}, {}
    api = ThreadingHTTPServer(("127.0.0.1", 0), CountingApi)
    thread = threading.Thread(target=api.serve_forever)
    thread.start()
    saga = common.BRANCH_KIND_SAGA

    def of(operation: common.Operation, branch_id: str, cents: int = 7) -> pb.BranchCall:
        return as_kind(call(operation, "charge_by_http", {"cents": cents}, branch_id), saga)

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.server_port}") as http:
            shop.add("http_charging.py", http=http)
            async with shop.serving() as caller:
                await caller.try_(of(TRY, "a/b"))
                # Its local commit is lost; the coordinator repeats the call.
                await http.post("/charges", json={"cents": 7}, headers={"Idempotency-Key": "g/lost/execute"})
                declined = await caller.try_(of(TRY, "declined", 101))
                ended = [
                    await caller.cancel(of(CANCEL, each)) for each in ("a/b", "lost", "declined", "lost")
                ]
    finally:
        api.shutdown()
        thread.join()
        api.server_close()
    assert (declined.code, declined.reason) == (REJECTED, "DECLINED")
    assert [each.code for each in ended] == [SUCCEEDED] * 4
    assert CountingApi.charges == {"g/a%2Fb/execute": 7, "g/lost/execute": 7}
    assert CountingApi.refunds == {
        "g/a%2Fb/compensate": "g/a%2Fb/execute",
        "g/lost/compensate": "g/lost/execute",
    }


async def test_orm_session(shop: Shop) -> None:
    shop.add("orm.py")
    sale = {"sku": "A", "total": 12}
    async with shop.serving() as caller:
        await caller.try_(call(TRY, "record_sale", sale))
        assert (await caller.confirm(call(CONFIRM, "record_sale", sale))).code == SUCCEEDED
    assert shop.rows("SELECT sku, total FROM sales") == [("A", 12)]


REFUSED = object()


@pytest.mark.parametrize(
    ("mode", "commit", "rollback", "leaving"),
    [
        ("create_savepoint", True, False, False),
        ("conditional_savepoint", True, REFUSED, True),
        ("rollback_only", True, REFUSED, True),
        ("control_fully", REFUSED, REFUSED, REFUSED),
    ],
)
def test_modes_of_sessions(shop_database: Engine, mode, commit, rollback, leaving) -> None:
    assert f"`{mode}`" in PAGE

    def kept(end: str) -> object:
        guarded = GuardedConnection.begun(shop_database)
        try:
            with Session(bind=guarded, join_transaction_mode=mode) as session:
                session.execute(text("INSERT INTO customers VALUES (:end)"), {"end": end})
                getattr(session, end, lambda: None)()
            guarded.finish()
        except TransactionControlError:
            guarded.abandon()
            return REFUSED
        with shop_database.connect() as db:
            return db.scalar(text("SELECT count(*) FROM customers WHERE name = :end"), {"end": end}) == 1

    assert (kept("commit"), kept("rollback"), kept("leave")) == (commit, rollback, leaving)


async def test_what_the_initiator_catches() -> None:
    order = ModuleType("order")
    exec(BLOCKS["order.py"], vars(order))
    service = scripted_service.ScriptedService()

    async def execute(
        request: transaction_pb2.ExecuteTransactionRequest,
    ) -> transaction_pb2.TransactionOutcome:
        if request.gid == "sold-out":
            return scripted_service.rejected(request.gid, "stock", "SOLD_OUT", "only 2 are left")
        if request.gid == "failing":
            outcome = scripted_service.rejected(request.gid, "stock", "HANDLER_ERROR", "KeyError: 'sku'")
            outcome.cancel_reason = common.CANCEL_REASON_EXPIRED
            return outcome
        return scripted_service.confirmed(request.gid)

    service.execute = execute
    async with scripted_service.serving(service) as target, tcc.Client(target) as client:
        assert await order.order(client, "fine", "A") == "ordered"
        assert await order.order(client, "sold-out", "A") == "SOLD_OUT: only 2 are left"
        assert (
            await order.order(client, "failing", "A") == "stock kept failing: HANDLER_ERROR KeyError: 'sku'"
        )


async def test_embedding(shop: Shop) -> None:
    shop.add("embedded.py")
    stopped = asyncio.Event()
    running = asyncio.create_task(shop.module.run(stopped))
    while not shop.module.inventory.port:  # noqa: ASYNC110 - it has no other sign
        await asyncio.sleep(0)
    stopped.set()
    await running


async def test_conformance_suite(shop: Shop) -> None:
    async with shop.serving():
        port = shop.module.inventory.port
        test = ModuleType("test_inventory")
        exec(BLOCKS["test_inventory.py"].replace("127.0.0.1:50051", f"127.0.0.1:{port}"), vars(test))
        await test.test_inventory_conforms()


@asynccontextmanager
async def _django(shop_database: Engine, tmp_path: Path, extra: str = "") -> AsyncIterator[Caller]:
    """The participant with Django's models as a process: Django has one configuration a process."""
    address = f"127.0.0.1:{free_port()}"
    program = BLOCKS["django_inventory.py"].replace("127.0.0.1:50051", address)
    (tmp_path / "django_inventory.py").write_text(program.replace("\nif __name__", f"\n{extra}\nif __name__"))
    url = shop_database.url
    environment = {
        "PGHOST": str(url.host or url.query["host"]),
        "PGDATABASE": str(url.database),
        "PGUSER": str(url.username),
    }
    async with (
        python(
            "django_inventory.py", directory=tmp_path, environment=environment, stdout=None, stderr=None
        ) as process,
        grpc.aio.insecure_channel(address) as channel,
    ):
        await asyncio.wait_for(channel.channel_ready(), 120)
        yield Caller(channel)
    assert process.returncode == 0


# What the page says of misuse, as further actions of its participant.
_MISUSE = """
from django.db import IntegrityError, connection


class Misuse:
    def try_(self, branch, request, db):
        with django_uses(db):
            Stock.objects.create(sku=branch.branch_id, free=1)
            self.misuse()

    def confirm(self, branch, request, db): ...
    def cancel(self, branch, request, db): ...


def swallow():
    try:
        Stock.objects.create(sku="A", free=1)
    except IntegrityError:
        pass


def swallow_in_savepoint():
    try:
        with transaction.atomic():
            Stock.objects.create(sku="A", free=1)
    except IntegrityError:
        pass


MISUSES = {
    "swallow": swallow,
    "commit": transaction.commit,
    "rollback": transaction.rollback,
    "durable": lambda: transaction.atomic(durable=True).__enter__(),
    "on_commit": lambda: transaction.on_commit(print),
    "close": lambda: connection.close(),
    "allowed": swallow_in_savepoint,
}
for name, misuse in MISUSES.items():
    inventory.action(name)(type("Misused", (Misuse,), {"misuse": staticmethod(misuse)}))

"""


@pytest.mark.slow
async def test_django(shop_database: Engine, tmp_path: Path, shop: Shop) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    async with _django(shop_database, tmp_path, _MISUSE) as caller:
        assert (await caller.try_(call(TRY, "reserve_stock", reservation(2)))).code == SUCCEEDED
        assert (await caller.try_(call(TRY, "reserve_stock", reservation(2), "c"))).reason == "SOLD_OUT"
        assert shop.stock("B") == (1, 2)
        for _ in range(2):
            assert (await caller.confirm(call(CONFIRM, "reserve_stock", reservation(2)))).code == SUCCEEDED
        assert shop.stock("B") == (1, 0)
        assert (await caller.try_(call(TRY, "reserve_stock", reservation(1), "d"))).code == SUCCEEDED
        assert (await caller.cancel(call(CANCEL, "reserve_stock", reservation(1), "d"))).code == SUCCEEDED
        assert shop.stock("B") == (1, 0)

        for action in ("swallow", "commit", "rollback", "durable", "on_commit", "close"):
            outcome = await caller.try_(call(TRY, action, {}, action))
            assert outcome.code == FAILED, (action, outcome)
        assert (await caller.try_(call(TRY, "allowed", {}, "allowed"))).code == SUCCEEDED
    assert shop.rows("SELECT sku FROM stock WHERE sku NOT IN ('A', 'B')") == [("allowed",)]
    assert shop.rows("SELECT branch_id FROM tcc_barrier ORDER BY 1") == [("allowed",), ("b",), ("d",)]


def test_every_reason_of_the_page_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tcc").rglob("*.py"))
    named = set(re.findall(r"FAILED `([A-Z_]+)`", PAGE))
    assert len(named) > 10
    assert [name for name in named if name not in sources] == []


def test_every_code_block_is_named_and_run() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    source = Path(__file__).read_text()
    assert [name for name in BLOCKS if f'"{name}"' not in source] == []
