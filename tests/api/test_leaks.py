"""What a caller learns although it may not: from errors, from what differs, from logs and from metrics."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.test_access import BANK, NOT_ALLOWED, SHOP, STEPS, Guarded, execute, guarded, refusal
from tests.support.identities import bearer
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import branch


@pytest.fixture
async def stock() -> Any:
    participant = ScriptedParticipant()
    async with serving(participant) as participant.address:
        yield participant


@pytest.fixture
async def tcc(log_url: str, tmp_path: Path, stock: ScriptedParticipant) -> Any:
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}) as made:
        yield made


class Broken:
    """An authenticator with a bug."""

    def authenticate(self, *_: object) -> None:
        raise RuntimeError("postgresql://tcc:secret@db")


async def test_the_text_of_a_bug_before_a_method_stays_inside(tcc: Guarded) -> None:
    shop = tcc.client(SHOP)
    access = tcc.worker.worker._access
    assert access is not None
    access.authenticator = Broken()  # type: ignore[assignment]
    batch = pb.ExecuteTransactionsRequest(transactions=[execute("shop-1")])
    for call in (
        shop.ExecuteTransaction(execute("shop-1"), timeout=30),
        shop.ExecuteTransactions(batch, timeout=30).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(caught.value)


async def answer_of(call: Any) -> tuple[object, ...]:
    """Return all that a refused caller gets."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), error.details(), sorted(error.trailing_metadata() or ())


async def test_anothers_gid_and_an_unknown_one_get_the_same_answers(tcc: Guarded) -> None:
    bank = tcc.client(BANK)
    answers = {}
    for exists in (False, True):
        if exists:
            begin = pb.BeginTransactionRequest(gid="shop-1")
            await tcc.client(SHOP).BeginTransaction(begin, timeout=30)
        answers[exists] = [
            await answer_of(getattr(bank, name)(step, timeout=30)) for name, step in STEPS.items()
        ]
    assert answers[False] == answers[True]


async def test_a_batch_calls_only_what_its_client_is_allowed(
    tcc: Guarded, stock: ScriptedParticipant
) -> None:
    forbidden = execute("shop-2", branches=[branch("0"), branch("1", action="release")])
    batch = pb.ExecuteTransactionsRequest(transactions=[execute("shop-1"), forbidden])
    replies = {}
    async for response in tcc.client(SHOP).ExecuteTransactions(batch, timeout=30):
        replies |= {reply.index: reply for reply in response.replies}
    assert replies[0].outcome.gid == "shop-1"
    assert replies[1].error.reason == NOT_ALLOWED[1]
    assert stock.heard("shop-2") == []


async def test_refused_tokens_are_not_logged(tcc: Guarded) -> None:
    tokens = [
        tcc.token[:-1] + "x",
        tcc.issuer.token(aud="another"),
        tcc.issuer.token(exp=1),
        tcc.issuer.token({"kid": "unknown"}),
        "tcc_nobody_guessed-secret",
    ]
    admin = admin_pb2_grpc.AdminServiceStub(tcc.channel(tcc.tls.authority.issue(SHOP), admin=True))
    with capture_logs() as logged:
        for token in tokens:
            call = admin.GetStats(apb.GetStatsRequest(), metadata=bearer(token), timeout=30)
            assert (await refusal(call))[0] == "UNAUTHENTICATED"
    lines = [str(entry) for entry in logged if entry["event"] == "audit"]
    # The two static tokens are refused for the same reason: the second line of it comes with the interval.
    assert len(lines) == len(tokens) - 1
    for token in tokens:
        secrets = [part for part in token.split(".") if len(part) > 8]
        assert [part for part in secrets for line in lines if part in line] == []


async def test_metrics_name_no_transaction_and_no_caller(tcc: Guarded) -> None:
    secret = branch("branch-7", payload=b"4111 1111 1111 1111", content_type="text/plain")
    request = execute("shop-1", branches=[secret], labels={"order": "label-9"})
    await tcc.client(SHOP).ExecuteTransaction(request, timeout=30)
    await refusal(tcc.client(BANK).ExecuteTransaction(request, timeout=30))
    text = tcc.worker.worker.monitoring.metrics.text().decode()
    assert "tcc_transactions_ended_total" in text
    for hidden in ("shop-1", "4111 1111", "label-9", "branch-7", "spiffe", "bank"):
        assert hidden not in text
