"""Who may call what, over real gRPC with real certificates: each attack, and what is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from structlog.testing import capture_logs

from coordinator.api.operator.commands import AdminCommands
from coordinator.config.settings import OperatorSettings
from coordinator.security.permissions import PERMISSIONS
from coordinator.security.tokens import new_token, token_hash
from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.identities import AUDIENCE, ISSUER, Authority, Issuer, Pair, Tls, bearer
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.worker import Running, branch, running, settings_for

SHOP, BANK = "spiffe://bank.example/shop", "spiffe://bank.example/bank"
PRINTER = "spiffe://bank.example/printer"
ANA, READER = "spiffe://bank.example/ana", "spiffe://bank.example/reader"
TRANSACTIONS = pb.DESCRIPTOR.services_by_name["TransactionService"]
ADMIN = apb.DESCRIPTOR.services_by_name["AdminService"]


class Guarded:
    """A coordinator with `[auth]`, and channels to it as anybody."""

    def __init__(self, worker: Running, tls: Tls, issuer: Issuer, token: str) -> None:
        self.worker = worker
        self.tls = tls
        self.issuer = issuer
        self.token = token
        self._channels: list[grpc.aio.Channel] = []

    def channel(self, pair: Pair | None, *, admin: bool = False) -> grpc.aio.Channel:
        address = f"127.0.0.1:{self.worker.worker.admin_port}" if admin else self.worker.address
        channel = self.tls.channel(address, pair)
        self._channels.append(channel)
        return channel

    def client(self, name: str) -> Any:
        return transaction_pb2_grpc.TransactionServiceStub(self.channel(self.tls.authority.issue(name)))

    def operator(self, name: str) -> Any:
        return admin_pb2_grpc.AdminServiceStub(self.channel(self.tls.authority.issue(name), admin=True))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def guarded(
    log_url: str, directory: Path, participants: dict[str, dict[str, object]], **changes: Any
) -> AsyncIterator[Guarded]:
    tls, issuer, token = Tls(directory), Issuer(directory), new_token("shop")
    settings = settings_for(
        participants,
        **{
            "listen": {"address": "127.0.0.1:0", "tls": tls.settings()},
            "admin": {"listen": "127.0.0.1:0", "tls": tls.settings(), "report_every_s": 0.05},
            "auth": {
                "jwt": {"corp": {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(issuer.jwks)}},
                "tokens": {"shop": {"sha256": token_hash(token), "expires_at": "2100-01-01T00:00:00Z"}},
            },
            "clients": {
                "shop": {
                    "identities": [SHOP, "token:shop", "jwt:corp:sub:shop"],
                    "calls": {"stock": ["reserve"]},
                },
                "bank": {"identities": [BANK], "calls": {"*": ["*"]}},
            },
            "operators": {
                "oncall": {"identities": [ANA], "role": "admin", "payloads": True},
                "readers": {"identities": [READER]},
            },
        }
        | changes,
    )
    async with running(settings, log_url) as worker:
        made = Guarded(worker, tls, issuer, token)
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
async def tcc(log_url: str, tmp_path: Path, stock: ScriptedParticipant) -> AsyncIterator[Guarded]:
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}) as made:
        yield made


async def refusal(call: Awaitable[object]) -> tuple[str, str]:
    """Return the status and the reason of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    info = ErrorInfo()
    if status is not None:
        assert status.details[0].Unpack(info)
    return caught.value.code().name, info.reason


def execute(gid: str, **fields: Any) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(
        **{"gid": gid, "branches": [branch("1")], "wait_for": pb.WAIT_FOR_COMPLETION} | fields
    )


# --- the table --------------------------------------------------------------


def test_every_method_of_every_service_is_in_the_table() -> None:
    ours = {
        f"/{service.full_name}/{method.name}"
        for service in (TRANSACTIONS, ADMIN)
        for method in service.methods
    }
    others = {
        f"/{service.full_name}/{method.name}"
        for file in (health_pb2, reflection_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    # Health.List is newer than the oldest gRPC that is allowed.
    assert ours | others | {"/grpc.health.v1.Health/List"} == PERMISSIONS.keys()


# --- strangers --------------------------------------------------------------


def every_method() -> list[Any]:
    return [method for service in (TRANSACTIONS, ADMIN) for method in service.methods]


async def called(tcc: Guarded, method: Any, pair: Pair | None, metadata: Any = ()) -> tuple[str, str]:
    """Call a method with an empty request; return how it is refused."""
    channel = tcc.channel(pair, admin=method.containing_service is ADMIN)
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.server_streaming:
        stream = channel.unary_stream(path)(b"", metadata=metadata, timeout=30)
        return await refusal(stream.read())
    return await refusal(channel.unary_unary(path)(b"", metadata=metadata, timeout=30))


async def test_a_printer_of_the_same_authority_may_call_nothing(tcc: Guarded) -> None:
    printer = tcc.tls.authority.issue(PRINTER, common_name=SHOP)
    for method in every_method():
        if method.name != "WhoAmI":
            assert await called(tcc, method, printer) == ("PERMISSION_DENIED", "NOT_ALLOWED"), method.name


async def test_a_certificate_without_a_configured_name_proves_nothing(tcc: Guarded) -> None:
    nameless = tcc.tls.authority.issue("shop.bank.example", common_name=SHOP)
    for method in every_method():
        assert await called(tcc, method, nameless) == ("UNAUTHENTICATED", "NOT_AUTHENTICATED"), method.name


async def test_a_client_is_no_operator_and_an_operator_no_client(tcc: Guarded) -> None:
    shop, ana = tcc.tls.authority.issue(SHOP), tcc.tls.authority.issue(ANA)
    for method in ADMIN.methods:
        if method.name != "WhoAmI":
            assert await called(tcc, method, shop) == ("PERMISSION_DENIED", "NOT_ALLOWED"), method.name
    for method in TRANSACTIONS.methods:
        assert await called(tcc, method, ana) == ("PERMISSION_DENIED", "NOT_ALLOWED"), method.name


async def test_a_reader_may_give_no_command(tcc: Guarded) -> None:
    reader = tcc.tls.authority.issue(READER)
    commands = [
        *("RetryTransaction", "HoldTransaction", "ReleaseTransaction", "CancelTransaction", "ResolveBranch"),
        *("RunBulkAction", "PauseParticipant", "ResumeParticipant", "ResetBreaker", "RepairBranch"),
        "DrainCoordinator",
    ]
    for name in commands:
        method = ADMIN.methods_by_name[name]
        assert await called(tcc, method, reader) == ("PERMISSION_DENIED", "NOT_ALLOWED"), name
    await tcc.operator(READER).GetStats(apb.GetStatsRequest(), timeout=30)


async def test_each_refusal_is_an_audit_line_with_the_identity_and_what_it_lacks(
    tcc: Guarded, stock: ScriptedParticipant
) -> None:
    printer, nameless = tcc.tls.authority.issue(PRINTER), tcc.tls.authority.issue("shop.bank.example")
    reader, shop = tcc.tls.authority.issue(READER), tcc.client(SHOP)
    pause, begin = ADMIN.methods_by_name["PauseParticipant"], TRANSACTIONS.methods_by_name["BeginTransaction"]
    forbidden = execute("shop-1", branches=[branch("1", action="release")])
    with capture_logs() as logged:
        await called(tcc, pause, reader)
        await called(tcc, begin, printer)
        await called(tcc, begin, nameless, bearer("tcc_shop_guessed"))
        await refusal(shop.ExecuteTransaction(execute("bank-1"), timeout=30))
        await refusal(shop.ExecuteTransaction(forbidden, timeout=30))
    lines = [line for line in logged if line["event"] == "audit"]
    assert [
        (line["outcome"], line["identity"], line["configured_as"], line["missing"]) for line in lines
    ] == [
        ("NOT_ALLOWED", READER, "readers", "the role operate is required"),
        ("NOT_ALLOWED", PRINTER, "", "the caller is no client"),
        ("NOT_AUTHENTICATED", "dns:shop.bank.example, cn:caller, a token", "", "an identity is required"),
        ("NOT_ALLOWED", SHOP, "shop", "[clients.shop] gid_prefixes has no prefix of the gid"),
        ("NOT_ALLOWED", SHOP, "shop", "[clients.shop] calls has no stock with release"),
    ]
    assert [line["action"] for line in lines] == [
        "tcc.admin.v1.AdminService/PauseParticipant",
        "tcc.transaction.v1.TransactionService/BeginTransaction",
        "tcc.transaction.v1.TransactionService/BeginTransaction",
        "transaction.begin",
        "branch.add",
    ]
    assert [line["target"] for line in lines[3:]] == ["transaction/bank-1", "participant/stock"]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines[:3])
    assert "guessed" not in str(logged)


async def test_a_flood_of_refusals_is_one_line_for_each_kind(tcc: Guarded) -> None:
    """Over new connections too: the port of a peer makes no new kind."""
    printer, nameless = tcc.tls.authority.issue(PRINTER), tcc.tls.authority.issue("shop.bank.example")
    begin, pause = TRANSACTIONS.methods_by_name["BeginTransaction"], ADMIN.methods_by_name["PauseParticipant"]
    shop = tcc.client(SHOP)
    with capture_logs() as logged:
        for pair in (printer, nameless):
            for method in (begin, begin, pause):
                await called(tcc, method, pair)
        for gid in ("bank-1", "bank-2"):
            await refusal(shop.ExecuteTransaction(execute(gid), timeout=30))
    lines = [line for line in logged if line["event"] == "audit"]
    assert [(line["identity"], line["action"].rpartition("/")[2], line["omitted"]) for line in lines] == [
        (PRINTER, "BeginTransaction", 0),
        (PRINTER, "PauseParticipant", 0),
        ("dns:shop.bank.example, cn:caller", "BeginTransaction", 0),
        ("dns:shop.bank.example, cn:caller", "PauseParticipant", 0),
        (SHOP, "transaction.begin", 0),
    ]


# --- connections ------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        lambda _: None,
        lambda _: Authority().issue(SHOP),
        lambda tls: tls.authority.issue(SHOP, valid_from_days=-3, valid_days=1),
        lambda tls: tls.authority.issue(SHOP, client=False),
    ],
    ids=["no certificate", "another authority", "expired", "a server's certificate"],
)
async def test_a_wrong_certificate_reaches_no_method(
    tcc: Guarded, pair: Callable[[Tls], Pair | None]
) -> None:
    stub = transaction_pb2_grpc.TransactionServiceStub(tcc.channel(pair(tcc.tls)))
    assert (await refusal(stub.ExecuteTransaction(execute("shop-1"), timeout=30)))[0] == "UNAVAILABLE"


async def test_a_token_over_plain_text_reaches_no_method(tcc: Guarded) -> None:
    call = tcc.worker.stub.ExecuteTransaction(execute("shop-1"), metadata=bearer(tcc.token), timeout=30)
    assert (await refusal(call))[0] == "UNAVAILABLE"


# --- tokens -----------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        lambda issuer: issuer.token(aud="another"),
        lambda issuer: issuer.token(exp=1),
        lambda issuer: issuer.token({"kid": "unknown"}),
        lambda _: "tcc_shop_guessed",
        lambda _: "eyJhbGciOiJub25lIn0.e30.",
    ],
    ids=["another audience", "expired", "unknown key", "guessed", "alg=none"],
)
async def test_a_bad_token_is_refused_with_any_certificate(
    tcc: Guarded, token: Callable[[Issuer], str]
) -> None:
    shop = transaction_pb2_grpc.TransactionServiceStub(tcc.channel(tcc.tls.authority.issue(SHOP)))
    call = shop.ExecuteTransaction(execute("shop-1"), metadata=bearer(token(tcc.issuer)), timeout=30)
    assert await refusal(call) == ("UNAUTHENTICATED", "NOT_AUTHENTICATED")


async def test_the_token_and_not_the_certificate_is_the_identity(tcc: Guarded) -> None:
    printer = tcc.channel(tcc.tls.authority.issue(PRINTER), admin=True)
    stub = admin_pb2_grpc.AdminServiceStub(printer)
    for token, principal in ((tcc.token, "token:shop"), (tcc.issuer.token(), "jwt:corp:sub:shop")):
        answer = await stub.WhoAmI(apb.WhoAmIRequest(), metadata=bearer(token), timeout=30)
        assert (answer.principal, answer.client, answer.operator) == (principal, "shop", "")
    answer = await stub.WhoAmI(apb.WhoAmIRequest(), timeout=30)
    assert (answer.principal, answer.client, list(answer.methods)) == (
        PRINTER,
        "",
        [
            "tcc.admin.v1.AdminService/WhoAmI",
            "grpc.health.v1.Health/Check",
            "grpc.health.v1.Health/Watch",
            "grpc.health.v1.Health/List",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ],
    )


# --- what is open, and what works -------------------------------------------


async def test_health_is_open_and_reflection_off(tcc: Guarded) -> None:
    printer = tcc.channel(tcc.tls.authority.issue("printer.bank.example"))
    answer = await health_pb2_grpc.HealthStub(printer).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # As a unary call: if a refusal arrives while a stream is still written, gRPC reports its own error.
    method = printer.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert (await refusal(method(b"", timeout=30)))[0] == "UNIMPLEMENTED"


async def test_a_client_confirms_its_transaction(tcc: Guarded, stock: ScriptedParticipant) -> None:
    await tcc.client(SHOP).ExecuteTransaction(execute("shop-1"), timeout=30)
    batch = pb.ExecuteTransactionsRequest(transactions=[execute("shop-2")])
    async for response in tcc.client(SHOP).ExecuteTransactions(batch, timeout=30):
        assert [reply.outcome.gid for reply in response.replies] == ["shop-2"]
    assert stock.heard("shop-1") == stock.heard("shop-2") == ["TRY 1", "CONFIRM 1"]


async def test_whoami_without_auth_allows_everything(log_url: str) -> None:
    async with (
        running(settings_for({}), log_url) as worker,
        grpc.aio.insecure_channel(f"127.0.0.1:{worker.worker.admin_port}") as channel,
    ):
        answer = await admin_pb2_grpc.AdminServiceStub(channel).WhoAmI(apb.WhoAmIRequest(), timeout=30)
    assert not answer.authenticated
    assert len(answer.methods) == len(PERMISSIONS)


# --- another's transactions -------------------------------------------------

NOT_FOUND = ("NOT_FOUND", "TRANSACTION_NOT_FOUND")
NOT_ALLOWED = ("PERMISSION_DENIED", "NOT_ALLOWED")
STEPS = {
    "TryBranch": pb.TryBranchRequest(gid="shop-1", branch=branch("theft")),
    "RegisterBranch": pb.RegisterBranchRequest(gid="shop-1", branch=branch("theft")),
    "ConfirmTransaction": pb.ConfirmTransactionRequest(gid="shop-1"),
    "CancelTransaction": pb.CancelTransactionRequest(gid="shop-1"),
    "GetTransaction": pb.GetTransactionRequest(gid="shop-1"),
    "WaitTransaction": pb.WaitTransactionRequest(gid="shop-1"),
}


async def refused_as_unknown(stub: Any) -> None:
    for name, request in STEPS.items():
        assert await refusal(getattr(stub, name)(request, timeout=30)) == NOT_FOUND, name
    assert not (await stub.ListTransactions(pb.ListTransactionsRequest(), timeout=30)).transactions


async def test_another_tenants_open_transaction_does_not_exist(
    tcc: Guarded, stock: ScriptedParticipant
) -> None:
    shop, bank = tcc.client(SHOP), tcc.client(BANK)
    await shop.BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"), timeout=30)
    await refused_as_unknown(bank)
    await shop.TryBranch(pb.TryBranchRequest(gid="shop-1", branch=branch("1")), timeout=30)
    await shop.ConfirmTransaction(
        pb.ConfirmTransactionRequest(gid="shop-1", wait_for=pb.WAIT_FOR_COMPLETION), timeout=30
    )
    # Now it is only in the log.
    await refused_as_unknown(bank)
    assert stock.heard("shop-1") == ["TRY 1", "CONFIRM 1"]
    found = await shop.ListTransactions(pb.ListTransactionsRequest(), timeout=30)
    assert [tx.gid for tx in found.transactions] == ["shop-1"]


async def test_asking_for_anothers_transactions_does_not_fill_the_log(tcc: Guarded) -> None:
    shop, bank = tcc.client(SHOP), tcc.client(BANK)
    await shop.BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"), timeout=30)
    with capture_logs() as logged:
        for _ in range(3):
            await refused_as_unknown(bank)
    lines = [line for line in logged if line["event"] == "another tenant's transaction was asked for"]
    assert [(line["gid"], line["tenant"], line["omitted"]) for line in lines] == [("shop-1", "bank", 0)]


async def test_another_coordinator_knows_the_tenant_from_the_log(
    tcc: Guarded, log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    await tcc.client(SHOP).BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"), timeout=30)
    other = tmp_path / "other"
    other.mkdir()
    async with guarded(log_url, other, {"stock": {"target": stock.address}}) as second:
        await refused_as_unknown(second.client(BANK))
        request = pb.ConfirmTransactionRequest(gid="shop-1")
        await second.client(SHOP).ConfirmTransaction(request, timeout=30)


async def test_a_gid_with_anothers_prefix_cannot_be_taken(tcc: Guarded, stock: ScriptedParticipant) -> None:
    bank = tcc.client(BANK)
    assert await refusal(bank.ExecuteTransaction(execute("shop-1"), timeout=30)) == NOT_ALLOWED
    assert await refusal(bank.BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"))) == NOT_ALLOWED
    batch = pb.ExecuteTransactionsRequest(transactions=[execute("shop-1"), execute("bank-1")])
    replies = {}
    async for response in bank.ExecuteTransactions(batch, timeout=30):
        replies |= {reply.index: reply for reply in response.replies}
    assert replies[0].error.reason == "NOT_ALLOWED"
    assert replies[1].outcome.gid == "bank-1"
    assert stock.heard("shop-1") == []


async def test_repeating_anothers_request_does_not_join_it(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    """Also where the prefixes were given to another client in the meantime."""
    participants = {"stock": {"target": stock.address}}
    async with guarded(log_url, tmp_path, participants) as first:
        await first.client(SHOP).ExecuteTransaction(execute("shop-1"), timeout=30)
    clients = {"bank": {"identities": [BANK], "calls": {"*": ["*"]}, "gid_prefixes": ["shop-"]}}
    operators = {"oncall": {"identities": [ANA]}}
    async with guarded(log_url, tmp_path, participants, clients=clients, operators=operators) as second:
        call = second.client(BANK).ExecuteTransaction(execute("shop-1"), timeout=30)
        assert await refusal(call) == ("ALREADY_EXISTS", "GID_CONFLICT")
        await refused_as_unknown(second.client(BANK))


async def test_a_client_calls_only_what_it_is_allowed(tcc: Guarded, stock: ScriptedParticipant) -> None:
    shop = tcc.client(SHOP)
    for forbidden in (branch("1", action="release"), branch("1", "vault"), branch("1", "*", action="*")):
        request = execute("shop-1", branches=[branch("0"), forbidden])
        assert await refusal(shop.ExecuteTransaction(request, timeout=30)) == NOT_ALLOWED
    await shop.BeginTransaction(pb.BeginTransactionRequest(gid="shop-2"), timeout=30)
    for step, request in (
        (shop.TryBranch, pb.TryBranchRequest(gid="shop-2", branch=branch("1", action="release"))),
        (shop.RegisterBranch, pb.RegisterBranchRequest(gid="shop-2", branch=branch("1", action="x"))),
    ):
        assert await refusal(step(request, timeout=30)) == NOT_ALLOWED
    assert stock.calls == []


async def test_a_made_gid_begins_with_the_clients_prefix(tcc: Guarded) -> None:
    shop = tcc.client(SHOP)
    made = await shop.BeginTransaction(pb.BeginTransactionRequest(), timeout=30)
    answer = await shop.ExecuteTransaction(execute(""), timeout=30)
    assert made.gid.startswith("shop-")
    assert answer.outcome.gid.startswith("shop-")


# --- operators --------------------------------------------------------------

TWO_TENANTS: dict[str, Any] = {
    "operators": {
        "oncall": {"identities": [ANA], "role": "admin", "tenants": ["shop"]},
        "all": {"identities": [READER], "role": "admin", "payloads": True},
    }
}


def why(version: int = 0, operator: str = "") -> apb.OperatorContext:
    return apb.OperatorContext(operator=operator, reason="incident 7", version=version)


async def test_the_operator_is_the_caller_and_a_given_name_stands_beside(tcc: Guarded) -> None:
    await tcc.client(SHOP).BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"), timeout=30)
    ana = tcc.operator(ANA)
    for operator in ("the boss", ""):
        shown = (await ana.InspectTransaction(apb.InspectTransactionRequest(gid="shop-1"))).transaction
        request = apb.HoldTransactionRequest(gid="shop-1", operator_context=why(shown.version, operator))
        if shown.held:
            request = apb.ReleaseTransactionRequest(gid="shop-1", operator_context=why(shown.version))
        method = ana.ReleaseTransaction if shown.held else ana.HoldTransaction
        record = (await method(request, timeout=30)).audit_record
        assert record.operator == ANA
        assert record.on_behalf_of == ("" if shown.held else operator)
        assert (record.method, record.role) == ("certificate", "admin")
        assert record.peer.startswith("ipv4:127.0.0.1:")
        assert len(record.credential) == 64
    paused = await ana.PauseParticipant(
        apb.PauseParticipantRequest(participant="stock", operator_context=why(operator="root")), timeout=30
    )
    assert (paused.participant.operator, paused.audit_record.operator) == (ANA, ANA)
    audit = await ana.ListAuditRecords(apb.ListAuditRecordsRequest(), timeout=30)
    assert {record.operator for record in audit.records} == {ANA}
    assert (await ana.VerifyAuditChain(apb.VerifyAuditChainRequest(), timeout=30)).intact


async def test_an_operator_of_one_tenant_sees_and_changes_no_other(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **TWO_TENANTS) as tcc:
        for name, gid in ((SHOP, "shop-1"), (BANK, "bank-1")):
            await tcc.client(name).BeginTransaction(pb.BeginTransactionRequest(gid=gid), timeout=30)
        ana = tcc.operator(ANA)
        found = await ana.SearchTransactions(apb.SearchTransactionsRequest(), timeout=30)
        assert [tx.gid for tx in found.transactions] == ["shop-1"]
        named = await ana.SearchTransactions(apb.SearchTransactionsRequest(filter="gid=bank-1"), timeout=30)
        assert not named.transactions
        for method, request in (
            (ana.InspectTransaction, apb.InspectTransactionRequest(gid="bank-1")),
            (ana.ExplainTransaction, apb.ExplainTransactionRequest(gid="bank-1")),
            (ana.RetryTransaction, apb.RetryTransactionRequest(gid="bank-1", operator_context=why(1))),
            (ana.HoldTransaction, apb.HoldTransactionRequest(gid="bank-1", operator_context=why(1))),
            (ana.ReleaseTransaction, apb.ReleaseTransactionRequest(gid="bank-1", operator_context=why(1))),
            (ana.CancelTransaction, apb.CancelTransactionRequest(gid="bank-1", operator_context=why(1))),
            (
                ana.ResolveBranch,
                apb.ResolveBranchRequest(gid="bank-1", branch_id="1", outcome=1, operator_context=why(1)),
            ),
        ):
            assert await refusal(method(request, timeout=30)) == NOT_FOUND
        bulk = apb.RunBulkActionRequest(filter="live", action=apb.BULK_ACTION_CANCEL, operator_context=why())
        answers = [answer async for answer in ana.RunBulkAction(bulk, timeout=30)]
        assert [(answer.matched, list(answer.sample_gids)) for answer in answers] == [(1, ["shop-1"])]
        # What concerns more than single transactions.
        for name in ("GetStats", "ListAuditRecords", "PauseParticipant", "DrainCoordinator", "Reconcile"):
            pair = tcc.tls.authority.issue(ANA)
            assert await called(tcc, ADMIN.methods_by_name[name], pair) == NOT_ALLOWED, name


async def test_payloads_are_shown_only_with_the_right_to_see_them(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **TWO_TENANTS) as tcc:
        secret = branch("1", payload=b"4111 1111 1111 1111", content_type="text/plain")
        await tcc.client(SHOP).ExecuteTransaction(execute("shop-1", branches=[secret]), timeout=30)
        request = apb.InspectTransactionRequest(gid="shop-1")
        for name, payload in ((ANA, b""), (READER, b"4111 1111 1111 1111")):
            shown = await tcc.operator(name).InspectTransaction(request, timeout=30)
            assert shown.transaction.branches[0].spec.payload == payload


# --- limits of a tenant -----------------------------------------------------

TENANT_LIMIT = ("RESOURCE_EXHAUSTED", "TENANT_LIMIT")


def limited(**limits: Any) -> dict[str, Any]:
    return {
        "clients": {
            "shop": {"identities": [SHOP], "calls": {"*": ["*"]}, **limits},
            "bank": {"identities": [BANK], "calls": {"*": ["*"]}},
        }
    }


async def test_a_tenant_that_fills_its_limits_is_refused_alone(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    go = stock.hold_confirms()
    limits = limited(live_max=2, live_bytes_max=100)
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **limits) as tcc:
        shop, bank = tcc.client(SHOP), tcc.client(BANK)
        decided = {"wait_for": pb.WAIT_FOR_DECISION}
        large = branch("1", payload=b"x" * 101)
        call = shop.ExecuteTransaction(execute("shop-0", branches=[large]), timeout=30)
        assert await refusal(call) == TENANT_LIMIT
        await shop.ExecuteTransaction(execute("shop-1", **decided), timeout=30)
        await shop.BeginTransaction(pb.BeginTransactionRequest(gid="shop-2"), timeout=30)
        call = shop.TryBranch(pb.TryBranchRequest(gid="shop-2", branch=large), timeout=30)
        assert await refusal(call) == TENANT_LIMIT
        call = shop.ExecuteTransaction(execute("shop-3", **decided), timeout=30)
        assert await refusal(call) == TENANT_LIMIT
        for number in range(5):
            await bank.ExecuteTransaction(execute(f"bank-{number}", **decided), timeout=30)
        # What has ended makes room.
        go.set()
        wait = pb.WaitTransactionRequest(gid="shop-1", wait_for=pb.WAIT_FOR_COMPLETION)
        await shop.WaitTransaction(wait, timeout=30)
        await shop.ExecuteTransaction(execute("shop-3", **decided), timeout=30)


async def test_results_count_for_their_tenant(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation != common.OPERATION_TRY:
            await go.wait()
        return common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED, result=b"x" * 60)

    stock.script = script
    limits = limited(live_bytes_max=100)
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **limits) as tcc:
        shop, decided = tcc.client(SHOP), {"wait_for": pb.WAIT_FOR_DECISION}
        await shop.ExecuteTransaction(execute("shop-1", **decided), timeout=30)
        half = branch("1", payload=b"x" * 50)
        call = shop.ExecuteTransaction(execute("shop-2", branches=[half], **decided), timeout=30)
        assert await refusal(call) == TENANT_LIMIT
        go.set()


async def test_a_tenant_beside_others_fills_only_its_share(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    """Its own limits are higher than all that there is."""
    go = stock.hold_confirms()
    participants = {"stock": {"target": stock.address}, "bonds": {"target": stock.address}}
    async with guarded(log_url, tmp_path, participants, **limited(), limits={"live_max": 10}) as tcc:
        shop, bank, decided = tcc.client(SHOP), tcc.client(BANK), {"wait_for": pb.WAIT_FOR_DECISION}
        for number in range(5):
            await shop.ExecuteTransaction(execute(f"shop-{number}", **decided), timeout=30)
        call = shop.ExecuteTransaction(execute("shop-5", **decided), timeout=30)
        assert await refusal(call) == TENANT_LIMIT
        for number in range(4):
            bonds = branch("1", participant="bonds")
            await bank.ExecuteTransaction(execute(f"bank-{number}", branches=[bonds], **decided), timeout=30)
        go.set()


async def test_a_tenant_that_calls_too_often_is_refused_alone(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    # One call fits; the next one would be allowed after a thousand seconds.
    limits = limited(calls_per_s=0.001)
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **limits) as tcc:
        shop, bank = tcc.client(SHOP), tcc.client(BANK)
        batch = pb.ExecuteTransactionsRequest(transactions=[execute("shop-1"), execute("shop-2")])
        replies = {}
        async for response in shop.ExecuteTransactions(batch, timeout=30):
            replies |= {reply.index: reply for reply in response.replies}
        assert replies[0].outcome.gid == "shop-1"
        assert replies[1].error.reason == "TENANT_LIMIT"
        assert replies[1].error.retry_after_ms > 0
        get = pb.GetTransactionRequest(gid="shop-1")
        assert await refusal(shop.GetTransaction(get, timeout=30)) == TENANT_LIMIT
        await bank.ExecuteTransaction(execute("bank-1"), timeout=30)


async def test_a_tenants_expiry_is_bounded(log_url: str, tmp_path: Path, stock: ScriptedParticipant) -> None:
    limits = limited(expiry_max_s=10.0)
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}, **limits) as tcc:
        request = pb.BeginTransactionRequest(gid="shop-1", expiry=Duration(seconds=11))
        refused = await refusal(tcc.client(SHOP).BeginTransaction(request, timeout=30))
        assert refused == ("INVALID_ARGUMENT", "INVALID_EXPIRY")
        request = pb.BeginTransactionRequest(gid="bank-1", expiry=Duration(seconds=11))
        await tcc.client(BANK).BeginTransaction(request, timeout=30)


# --- forged tokens ----------------------------------------------------------


async def test_a_bulk_action_stops_when_its_operator_loses_the_right(
    tcc: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rights are those of each moment, not those of the dry run or of the beginning."""
    shop, ana = tcc.client(SHOP), tcc.operator(ANA)
    for number in (1, 2):
        await shop.BeginTransaction(pb.BeginTransactionRequest(gid=f"shop-{number}"), timeout=30)
    bulk = apb.RunBulkActionRequest(filter="live", action=apb.BULK_ACTION_HOLD, operator_context=why())
    (dry,) = [answer async for answer in ana.RunBulkAction(bulk, timeout=30)]
    execute_one = AdminCommands.execute

    async def then_demote(*arguments: Any, **options: Any) -> Any:
        try:
            return await execute_one(*arguments, **options)
        finally:
            worker = tcc.worker.worker
            before = worker._settings
            readers = {"readers": OperatorSettings(identities=(ANA,))}
            worker.reload(before.model_copy(update={"operators": readers}), before)

    monkeypatch.setattr(AdminCommands, "execute", then_demote)
    bulk.confirmation_token = dry.confirmation_token
    run = ana.RunBulkAction(bulk, timeout=30)
    progress = await run.read()
    assert (progress.matched, progress.succeeded, progress.failed) == (2, 1, 0)
    assert await refusal(run.read()) == NOT_ALLOWED
    states = [
        (await ana.InspectTransaction(apb.InspectTransactionRequest(gid=f"shop-{number}"))).transaction.held
        for number in (1, 2)
    ]
    assert sorted(states) == [False, True]
    # Neither is the token of a dry run worth anything to one who lost the right since.
    assert await refusal(ana.RunBulkAction(bulk, timeout=30).read()) == NOT_ALLOWED


async def test_a_confirmation_token_cannot_be_made_without_the_dry_run(tcc: Guarded) -> None:
    """Not even with all that goes into it but the key."""
    await tcc.client(SHOP).BeginTransaction(pb.BeginTransactionRequest(gid="shop-1"), timeout=30)
    ana = tcc.operator(ANA)
    bulk = apb.RunBulkActionRequest(filter="live", action=apb.BULK_ACTION_CANCEL, operator_context=why())
    (dry,) = [answer async for answer in ana.RunBulkAction(bulk, timeout=30)]
    at_us = dry.confirmation_token.partition(".")[0]
    for content in (
        f"{apb.BULK_ACTION_CANCEL}\0live\0shop-1",
        f"{at_us}\0{apb.BULK_ACTION_CANCEL}\0live\0shop-1",
    ):
        bulk.confirmation_token = f"{at_us}.{sha256(content.encode()).hexdigest()}"
        assert await refusal(ana.RunBulkAction(bulk, timeout=30).read()) == ("ABORTED", "SELECTION_CHANGED")
    bulk.confirmation_token = dry.confirmation_token
    answers = [answer async for answer in ana.RunBulkAction(bulk, timeout=30)]
    assert answers[-1].succeeded == 1
