"""Sagas and messages in the requests of an initiator, and how their mistakes are explained."""

from datetime import UTC, datetime

import pytest

import tcc
from tcc.common.v1 import common_pb2 as common
from tcc.testing import FakeCoordinator
from tests.client.scripted_service import ScriptedService, serving
from tests.client.test_client_interactive import BEGUN, CONFIRMED, GID, REGISTERED, TRIED

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def service():
    return ScriptedService()


@pytest.fixture
async def client(service):
    async with serving(service) as target, tcc.Client(target) as client:
        yield client


async def test_kinds_are_sent(client, service):
    await client.execute(
        [
            tcc.BranchRequest("inventory", "reserve_stock"),
            tcc.BranchRequest("payment", "charge", kind="saga", stage=1),
            tcc.BranchRequest("mail", "send_receipt", kind="message", not_before=NOON),
        ],
        gid=GID,
    )

    [request] = service.unary
    stock, charge, receipt = request.branches
    assert [branch.kind for branch in request.branches] == [
        common.BRANCH_KIND_UNSPECIFIED,  # TCC, as older coordinators know it
        common.BRANCH_KIND_SAGA,
        common.BRANCH_KIND_MESSAGE,
    ]
    assert (charge.stage, receipt.not_before.ToDatetime(UTC)) == (1, NOON)
    assert not stock.HasField("not_before")


async def test_send_is_a_transaction_of_one_message(client, service):
    outcome = await client.send("mail", "send_receipt", {"to": "a"}, gid=GID, not_before=NOON)

    assert outcome.confirmed
    [request] = service.unary
    [branch] = request.branches
    assert (request.gid, branch.kind, branch.payload) == (GID, common.BRANCH_KIND_MESSAGE, b'{"to":"a"}')
    assert branch.not_before.ToDatetime(UTC) == NOON


async def test_messages_come_with_the_confirm(client, service):
    service.answers = [BEGUN, TRIED, REGISTERED, CONFIRMED]
    async with client.transaction(gid=GID) as tx:
        tx.message("mail", "send_receipt", {"to": "a"})
        await tx.try_("payment", "charge", kind="saga")
        await tx.register("bank", "transfer", kind="saga")
        tx.message("mail", "send_receipt", {"to": "b"}, not_before=NOON)

    _begin, tried, registered, confirm = service.requests
    assert tried.branch.kind == registered.branch.kind == common.BRANCH_KIND_SAGA
    assert [(each.branch_id, each.kind) for each in confirm.messages] == [
        ("mail", common.BRANCH_KIND_MESSAGE),
        ("mail-2", common.BRANCH_KIND_MESSAGE),
    ]
    assert confirm.messages[1].not_before.ToDatetime(UTC) == NOON


def test_the_sync_client_sends_and_adds_messages():
    fake = FakeCoordinator()
    with tcc.SyncClient(fake) as client:
        assert client.send("mail", "send_receipt", gid="m").confirmed
        with client.transaction(gid="g") as tx:
            tx.try_("payment", "charge", kind="saga")
            tx.message("mail", "send_receipt")
    calls = [(call.gid, call.branch_id, call.operation.name) for call in fake.calls]
    assert calls == [("m", "mail", "CONFIRM"), ("g", "payment", "TRY"), ("g", "mail", "CONFIRM")]


MISTAKES = [
    ({"kind": "sagas"}, "kind is one of 'tcc', 'saga', 'message', not 'sagas'"),
    ({"kind": 2}, "kind is one of 'tcc', 'saga', 'message', not 2"),
    ({"kind": "message", "stage": 1}, "a message has no stage: it is delivered after the decision"),
    ({"not_before": NOON}, 'only a message has not_before: give kind="message"'),
    ({"kind": "saga", "not_before": NOON}, "only a message has not_before"),
    ({"kind": "message", "not_before": datetime(2030, 1, 1)}, "not_before needs a time zone"),  # noqa: DTZ001
]


@pytest.mark.parametrize(("fields", "text"), MISTAKES, ids=str)
async def test_mistakes_are_explained_before_anything_is_sent(fields, text):
    fake = FakeCoordinator()
    async with tcc.Client(fake) as client:
        with pytest.raises(ValueError, match=text):
            await client.execute([tcc.BranchRequest("mail", "send_receipt", **fields)])
    assert fake.transactions == []


async def test_a_message_has_no_try():
    text = r'a message has no Try; write: tx\.message\("mail"'
    async with tcc.Client(FakeCoordinator()) as client, client.transaction() as tx:
        with pytest.raises(ValueError, match=text):
            await tx.try_("mail", "send_receipt", kind="message")
        with pytest.raises(ValueError, match=text):
            tx.register("mail", "send_receipt", kind="message")


async def test_a_local_branch_without_check_back_is_refused():
    async with tcc.Client(FakeCoordinator()) as client, client.transaction() as tx:
        with pytest.raises(ValueError, match=r"async with tx\.local\(participant\)"):
            await tx.register("order", "local")
        with pytest.raises(ValueError, match=r"async with tx\.local\(participant\)"):
            await client.execute([tcc.BranchRequest("order", "local", kind="saga")])
