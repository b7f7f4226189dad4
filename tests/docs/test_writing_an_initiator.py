"""The examples of docs/WRITING_AN_INITIATOR.md run as they are printed."""

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import grpc
import pytest

import tcc
from tcc import errors
from tcc.client.outcome import TransactionState
from tcc.context import TransactionContext, current
from tcc.testing import FakeCoordinator
from tcc.testing.fake_coordinator import Operation
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client import scripted_service

PAGE = (Path(__file__).parents[2] / "docs" / "WRITING_AN_INITIATOR.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL))
BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]


def example(name: str) -> ModuleType:
    module = ModuleType(name.removesuffix(".py"))
    exec(compile(BLOCKS[name], name, "exec"), vars(module))
    return module


@pytest.fixture
def fake() -> FakeCoordinator:
    fake = FakeCoordinator(participants=["inventory", "credit", "order"])
    fake.on("inventory", "reserve_stock").returns({"price": 5})
    return fake


def tries(fake: FakeCoordinator) -> list[str]:
    return [call.action for call in fake.calls if call.operation is Operation.TRY]


async def test_a_whole_transaction(fake: FakeCoordinator) -> None:
    async with tcc.Client(fake) as client:
        assert await example("execute.py").buy(client, "17", "A", "ana") == 5
    assert fake.transaction("order-17").state is TransactionState.CONFIRMED
    assert tries(fake)[-1] == "open_order"


async def test_opening_a_client(fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    page = example("client.py")
    named: list[str] = []

    def client(target: str, **options: str) -> tcc.Client:
        named.append(target)
        return tcc.Client(fake, initiator=options["initiator"])

    async def work(client: tcc.Client) -> None:
        await client.execute(BRANCHES, gid="order-17")

    monkeypatch.setattr(page, "tcc", SimpleNamespace(Client=client))
    await page.main(work)
    assert named == ["dns:///tcc:50050"]
    assert fake.transaction("order-17").initiator == "shop"


def test_the_synchronous_client(fake: FakeCoordinator) -> None:
    page = example("sync_client.py")
    with tcc.SyncClient(fake) as client:
        assert page.buy(client, "order-17", "A").confirmed
        page.buy_in_steps(client, "order-18", "A")
    assert fake.transaction("order-18").state is TransactionState.CONFIRMED
    assert next(call.json() for call in fake.calls if call.action == "open_order") == {"price": 5}


async def test_step_by_step(fake: FakeCoordinator) -> None:
    page = example("stepwise.py")
    async with tcc.Client(fake) as client:
        assert await page.buy(client, "order-17", "A", limit=5) in {"CONFIRMING", "CONFIRMED"}
        with pytest.raises(ValueError, match="5 is too much"):
            await page.buy(client, "order-18", "A", limit=4)
    assert fake.transaction("order-18").state is TransactionState.CANCELLED


async def test_the_gid_behaves_as_the_page_describes(fake: FakeCoordinator) -> None:
    async with tcc.Client(fake) as client:
        for _ in range(2):
            assert (await client.execute(BRANCHES, gid="order-17")).confirmed
        assert tries(fake) == ["reserve_stock"]
        with pytest.raises(errors.GidConflict):
            await client.execute([tcc.BranchRequest("credit", "reserve_credit")], gid="order-17")
        for _ in range(2):
            await client.execute(BRANCHES)
    assert tries(fake) == ["reserve_stock"] * 3


async def test_waiting(fake: FakeCoordinator) -> None:
    fake.on("credit", "reserve_credit").rejects("NO_CREDIT")
    page = example("waiting.py")
    async with tcc.Client(fake) as client:
        await client.execute(BRANCHES, gid="order-17")
        assert await page.is_confirmed(client, "order-17") is True
        refused = [tcc.BranchRequest("credit", "reserve_credit")]
        await client.execute(refused, gid="order-18", raise_on_cancel=False)
        assert await page.is_confirmed(client, "order-18") is False


async def test_the_kinds_of_errors(fake: FakeCoordinator) -> None:
    page = example("errors.py")
    async with tcc.Client(fake, timeout_s=0.2) as client:
        assert await page.buy(client, "order-17", BRANCHES) == "yes"
        fake.on("inventory", "reserve_stock").rejects("SOLD_OUT")
        assert await page.buy(client, "order-18", BRANCHES) == "no: SOLD_OUT"
        fake.on("inventory", "reserve_stock").times_out("HANDLER_ERROR", "KeyError")
        assert await page.buy(client, "order-19", BRANCHES) == "try later: inventory kept failing"
        with fake.unavailable():
            assert await page.buy(client, "order-20", BRANCHES) == "unknown"
        with pytest.raises(errors.InvalidRequest):
            await page.buy(client, "order-21", [])


async def test_repeating_until_the_outcome_is_known(fake: FakeCoordinator) -> None:
    page = example("repeating.py")
    saved: dict[str, str] = {}

    async def save(gid: str, outcome: str) -> None:
        saved[gid] = outcome

    refused = [tcc.BranchRequest("credit", "reserve_credit")]
    fake.on("credit", "reserve_credit").rejects("NO_CREDIT")
    pending = [("order-17", BRANCHES), ("order-18", refused)]
    async with tcc.Client(fake) as client:
        fake.lose_responses()
        await page.settle(client, pending, save)
        assert saved == {"order-18": "no: NO_CREDIT"}
        await page.settle(client, pending, save)
    assert saved == {"order-17": "yes", "order-18": "no: NO_CREDIT"}
    assert tries(fake).count("reserve_stock") == 1


async def test_a_service_with_its_own_stub(fake: FakeCoordinator) -> None:
    page = example("own_stub.py")
    contexts: list[TransactionContext | None] = []

    async def open_order(request: str) -> str:
        contexts.append(current())
        if request == "refused":
            raise ValueError(request)
        return "opened"

    orders = SimpleNamespace(OpenOrder=open_order)
    async with tcc.Client(fake) as client:
        assert await page.buy(client, orders, "order-17", "open") == "opened"
        with pytest.raises(ValueError, match="refused"):
            await page.buy(client, orders, "order-18", "refused")
    [first, _] = contexts
    assert first is not None
    assert (first.gid, first.branch_id) == ("order-17", "order")
    assert tries(fake) == ["reserve_stock"] * 2, "the coordinator does not call a registered Try"
    assert fake.transaction("order-17").state is TransactionState.CONFIRMED
    assert fake.transaction("order-18").state is TransactionState.CANCELLED


async def test_finding_transactions(fake: FakeCoordinator) -> None:
    async with tcc.Client(fake) as client:
        await client.execute(BRANCHES, gid="order-17", labels={"region": "eu"})
        assert await example("finding.py").stuck_orders(client, "eu") == []


async def test_a_raw_stub() -> None:
    page = example("raw_stub.py")
    service = scripted_service.ScriptedService()

    async def execute(request: pb.ExecuteTransactionRequest) -> object:
        match request.gid:
            case "sold-out":
                return scripted_service.rejected(request.gid, "stock", "SOLD_OUT")
            case "unavailable":
                return scripted_service.UNAVAILABLE
            case "conflict":
                return scripted_service.status(grpc.StatusCode.ALREADY_EXISTS.value[0], "GID_CONFLICT")
        return scripted_service.confirmed(request.gid)

    service.execute = execute
    async with (
        scripted_service.serving(service) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        answers = [
            await page.buy(channel, gid, b"{}") for gid in ("fine", "sold-out", "unavailable", "conflict")
        ]
    assert answers == ["yes", "no: SOLD_OUT", "unknown", "refused: ALREADY_EXISTS"]
    assert service.unary[0].branches[0].content_type == "application/json"


def test_every_class_of_the_page_exists() -> None:
    [table] = re.findall(r"^\| kind \| classes.*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    names = re.findall(r"`([A-Z]\w+)`", table)
    assert len(names) > 6
    assert [name for name in names if not hasattr(errors, name)] == []


def test_every_code_block_is_named_and_run() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    source = Path(__file__).read_text()
    assert [name for name in BLOCKS if f'"{name}"' not in source] == []
