"""The table of permissions, written down a second time: by who may call what."""

import pytest

from coordinator.core.errors import NotAllowed
from coordinator.security.caller import Caller, Client, Operator, Role
from coordinator.security.permissions import PERMISSIONS, check, is_open

ADMIN = "/tcc.admin.v1.AdminService/"
TRANSACTIONS = "/tcc.transaction.v1.TransactionService/"

ON_TRANSACTIONS = {
    Role.READ: {"SearchTransactions", "InspectTransaction", "ExplainTransaction"},
    Role.OPERATE: {
        *("RetryTransaction", "HoldTransaction", "ReleaseTransaction", "CancelTransaction", "RunBulkAction"),
    },
    Role.ADMIN: {"ResolveBranch"},
}
ON_THE_SYSTEM = {
    Role.READ: {
        *("Reconcile", "ListParticipants", "ListCoordinators", "GetStats"),
        *("ListAuditRecords", "VerifyAuditChain"),
    },
    Role.OPERATE: {"PauseParticipant", "ResumeParticipant", "ResetBreaker", "DrainCoordinator"},
    Role.ADMIN: {"RepairBranch"},
}


def allowed(caller: Caller) -> set[str]:
    """The methods that need more than an identity, and that the caller may call."""
    found = set()
    for method in PERMISSIONS:
        try:
            check(caller, method)
        except NotAllowed:
            continue
        found.add(method)
    stranger = {method for method in PERMISSIONS if method in OPEN | WITH_IDENTITY}
    assert stranger <= found
    return found - stranger


OPEN = {f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List")}
WITH_IDENTITY = {f"{ADMIN}WhoAmI", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}


def test_only_health_is_open() -> None:
    assert {method for method in PERMISSIONS if is_open(method)} == OPEN


def test_an_identity_alone_may_call_nothing() -> None:
    assert allowed(Caller(principal="spiffe://printer", method="certificate")) == set()


def test_a_client_may_call_all_of_the_transaction_service_and_no_more() -> None:
    client = Client(name="shop", gid_prefixes=("shop-",), calls={}, calls_per_s=1.0, expiry_max_s=1.0)
    found = allowed(Caller(principal="p", method="token", client=client))
    assert found == {method for method in PERMISSIONS if method.startswith(TRANSACTIONS)}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("tenants", [None, frozenset({"shop"})])
def test_a_role_includes_the_lower_ones_and_no_more(role: Role, tenants: frozenset[str] | None) -> None:
    operator = Operator(name="o", role=role, tenants=tenants)
    tables = [ON_TRANSACTIONS] if tenants else [ON_TRANSACTIONS, ON_THE_SYSTEM]
    expected = {ADMIN + name for table in tables for least in Role if least <= role for name in table[least]}
    assert allowed(Caller(principal="p", method="jwt", operator=operator)) == expected


def test_a_method_that_is_not_in_the_table_is_denied_to_every_caller() -> None:
    admin = Operator(name="o", role=Role.ADMIN)
    with pytest.raises(NotAllowed):
        check(Caller(principal="p", method="jwt", operator=admin), f"{ADMIN}DropEverything")
