"""Commands that need two persons: each way around the second one is refused."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.api.access import Access
from coordinator.api.operator.approvals import Approvals
from coordinator.api.operator.requests import OperatorContext
from coordinator.api.operator.rights import Rights
from coordinator.config.settings import OperatorSettings
from coordinator.core.errors import ApprovalRequired
from coordinator.core.model import HELD
from coordinator.engine.clock import LogClock
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.security.authentication import Authenticator, Policy
from coordinator.security.caller import Identity, Operator, Role
from coordinator.security.rates import Rates
from coordinator.security.tokens import new_token, token_hash
from tcc.admin.v1 import admin_pb2 as apb
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.test_access import ANA, READER, SHOP, Guarded, guarded, refusal
from tests.log.transactions import sql
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, serving
from tests.support.worker import branch

BEA, OTTO = "spiffe://bank.example/bea", "spiffe://bank.example/otto"
REQUIRED = ("FAILED_PRECONDITION", "APPROVAL_REQUIRED")


@pytest.fixture
async def bank(log_url: str, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A coordinator that requires two persons, with the transaction "shop-g", whose two Confirms fail."""
    stock = ScriptedParticipant()

    async def script(call: Any) -> common.CallResult:
        return SUCCEEDED if call.operation == common.OPERATION_TRY else failed("BROKEN")

    stock.script = script
    operators = {
        "admins": {"identities": [ANA, BEA], "role": "admin"},
        "oncall": {"identities": [OTTO], "role": "operate"},
        "readers": {"identities": [READER]},
    }
    async with serving(stock) as address:
        tables = {"stock": {"target": address, "retry_first_s": 3600.0, "retry_max_s": 3600.0}}
        token = new_token("shop")
        auth = {
            "two_persons": True,
            "approval_s": 3600.0,
            "tokens": {"shop": {"sha256": token_hash(token), "expires_at": "2100-01-01T00:00:00Z"}},
        }
        clients = {"shop": {"identities": [SHOP], "calls": {"stock": ["reserve"]}}}
        async with guarded(
            log_url, tmp_path, tables, operators=operators, auth=auth, clients=clients
        ) as coordinator:
            await coordinator.client(SHOP).ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid="shop-g", branches=[branch("1"), branch("2")])
            )
            while not await sql(log_url, "SELECT 1 FROM transactions WHERE next_attempt_at IS NOT NULL"):
                pass
            yield coordinator


async def version(bank: Guarded) -> int:
    shown = await bank.operator(BEA).InspectTransaction(apb.InspectTransactionRequest(gid="shop-g"))
    return int(shown.transaction.version)


async def resolve(bank: Guarded, who: str, branch_id: str = "1", **changes: Any) -> Any:
    fields = {
        "gid": "shop-g",
        "branch_id": branch_id,
        "outcome": common.HEURISTIC_OUTCOME_CONFIRMED,
        "operator_context": apb.OperatorContext(
            operator=changes.pop("operator", ""), reason="it was shipped", version=await version(bank)
        ),
    }
    return await bank.operator(who).ResolveBranch(apb.ResolveBranchRequest(**fields | changes))


async def heuristic(bank: Guarded) -> list[str]:
    """The branches of "shop-g" that were resolved."""
    shown = await bank.operator(BEA).InspectTransaction(apb.InspectTransactionRequest(gid="shop-g"))
    return [one.spec.branch_id for one in shown.transaction.branches if one.heuristic_outcome]


async def records(bank: Guarded) -> list[tuple[str, str, list[int]]]:
    listed = await bank.operator(BEA).ListAuditRecords(apb.ListAuditRecordsRequest())
    return [
        (one.operator, one.action, json.loads(one.detail).get("approves", []))
        for one in reversed(listed.records)
    ]


async def test_a_command_is_carried_out_when_another_admin_repeats_it(bank: Guarded) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    assert await heuristic(bank) == []
    await resolve(bank, BEA)
    assert await heuristic(bank) == ["1"]
    assert await records(bank) == [
        (ANA, "branch.resolve.request", []),
        (BEA, "branch.resolve", [1]),
    ]
    assert (await bank.operator(ANA).VerifyAuditChain(apb.VerifyAuditChainRequest())).intact


async def test_no_admin_approves_an_own_request(bank: Guarded) -> None:
    """Neither by repeating it, nor under another name."""
    for name in ("", "bea", BEA):
        assert await refusal(resolve(bank, ANA, operator=name)) == REQUIRED
    assert await heuristic(bank) == []
    assert len(await records(bank)) == 1, "a repeated request is not recorded again"


async def test_a_second_person_without_the_role_approves_nothing(bank: Guarded) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    for who in (OTTO, READER, SHOP):
        assert await refusal(resolve(bank, who)) == ("PERMISSION_DENIED", "NOT_ALLOWED")
    assert await heuristic(bank) == []


async def test_changed_arguments_are_another_request(bank: Guarded) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    cancelled = common.HEURISTIC_OUTCOME_CANCELLED
    assert await refusal(resolve(bank, BEA, outcome=cancelled)) == REQUIRED
    assert await refusal(resolve(bank, BEA, "2")) == REQUIRED
    assert await heuristic(bank) == []
    assert [action for _, action, _ in await records(bank)] == ["branch.resolve.request"] * 3


async def test_an_expired_request_is_none(bank: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    clock = bank.worker.worker.clock
    now = clock.now
    with monkeypatch.context() as later:
        later.setattr(clock, "now", lambda: now() + 3601)
        assert await refusal(resolve(bank, BEA)) == REQUIRED
    assert await heuristic(bank) == []
    # It counts as a new one, which the first admin may approve.
    await resolve(bank, ANA)
    assert await heuristic(bank) == ["1"]


async def test_a_request_is_used_once(bank: Guarded, log_url: str) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    await resolve(bank, BEA)
    # As if an older copy of the transaction had been restored: what was approved is not approved again. It
    # is held, so that no coordinator changes it in the meantime.
    await sql(
        log_url,
        """UPDATE transactions
           SET progress = NULL, heuristic = false, version = version + 1, next_attempt_at = to_timestamp(%s)
           WHERE gid = 'shop-g'""",
        HELD,
    )
    assert await heuristic(bank) == []
    assert await refusal(resolve(bank, BEA)) == REQUIRED
    assert await heuristic(bank) == []


def reload(bank: Guarded, **operators: dict[str, Any]) -> None:
    """Replace the operators of the configuration."""
    worker = bank.worker.worker
    tables = {name: OperatorSettings.model_validate(table) for name, table in operators.items()}
    before = worker._settings
    worker.reload(before.model_copy(update={"operators": tables}), before)


ADMIN_BEA = {"identities": [BEA], "role": "admin"}


@pytest.mark.parametrize(
    "demoted",
    [
        {"identities": [ANA], "role": "operate"},
        {"identities": [ANA], "role": "admin", "tenants": ["bank"]},
        {"identities": ["spiffe://bank.example/another"], "role": "admin"},
    ],
    ids=["role", "tenants", "removed"],
)
async def test_a_requester_demoted_in_between_has_requested_nothing(
    bank: Guarded, demoted: dict[str, Any]
) -> None:
    assert await refusal(resolve(bank, ANA)) == REQUIRED
    reload(bank, bea=ADMIN_BEA, ana=demoted)
    assert await refusal(resolve(bank, BEA)) == ("FAILED_PRECONDITION", "REQUESTER_NOT_ALLOWED")
    # It is a request of Bea's own, which she cannot approve either.
    assert await refusal(resolve(bank, BEA)) == ("FAILED_PRECONDITION", "REQUESTER_NOT_ALLOWED")
    reload(bank, bea=ADMIN_BEA, ana={"identities": [ANA], "role": "admin"})
    assert await heuristic(bank) == []
    assert [who for who, action, _ in await records(bank) if action == "branch.resolve.request"] == [ANA, BEA]
    await resolve(bank, ANA)
    assert await heuristic(bank) == ["1"]


def test_the_right_of_a_group_is_enough_for_a_requester() -> None:
    """Its identity alone gives no right. Once the group has none, its requests count no more."""

    def policy(role: Role) -> Policy:
        return Policy(operators={"jwt:corp:group:leads": Operator(name="leads", role=role)})

    principals = ("jwt:corp:sub:ben", "jwt:corp:group:staff", "jwt:corp:group:leads")
    ben = policy(Role.ADMIN).caller(Identity(principals, "jwt"))
    assert ben.operator_principals == ("jwt:corp:group:leads",)
    for role, allowed in ((Role.ADMIN, True), (Role.OPERATE, False)):
        authenticator = Authenticator(policy(role), now=time.time, monotonic=time.monotonic)
        rights = Rights(Access(authenticator, Rates(time.monotonic)))
        assert rights.may_still(ben, "ResolveBranch", "shop") is allowed
        assert rights.may_still(ben, "RepairBranch", None) is allowed


async def test_what_the_transaction_does_not_allow_is_no_request(bank: Guarded) -> None:
    assert await refusal(resolve(bank, ANA, "unknown")) == ("NOT_FOUND", "BRANCH_NOT_FOUND")
    assert await records(bank) == []


async def test_commands_that_can_be_undone_need_one_person(bank: Guarded) -> None:
    asked = apb.OperatorContext(reason="checking", version=await version(bank))
    await bank.operator(OTTO).HoldTransaction(
        apb.HoldTransactionRequest(gid="shop-g", operator_context=asked)
    )
    assert [action for _, action, _ in await records(bank)] == ["transaction.hold"]


async def test_of_two_approvals_at_once_only_the_first_counts(log_url: str) -> None:
    """Both have read the request as open; the chain has one order."""
    log = PostgresOperatorLog(OperatorPool(log_url), owner="ours")
    approvals, context = Approvals(log, LogClock(), Rights(None)), OperatorContext("bea", "checked", 0)
    entry = context.entry("branch.repair", "transaction/g", {"approves": [1]})
    first, second = await log.audit_append(entry), await log.audit_append(entry)
    await approvals.check_first(first, [1])
    with pytest.raises(ApprovalRequired):
        await approvals.check_first(second, [1])
    await log.close()
