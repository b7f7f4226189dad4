"""What each method needs: one table. A method that is not in it is denied to everybody."""

from enum import Enum

from msgspec import Struct

from coordinator.core.errors import NotAllowed
from coordinator.security.caller import Caller, Role


class Need(Enum):
    """What a caller needs for a method."""

    # Nothing, not even an identity.
    NOTHING = "nothing"
    IDENTITY = "an identity"
    # To be a client. The service then checks that the transaction belongs to it.
    CLIENT = "to be a client"
    # To be an operator with a role. The service then checks the transaction's tenant.
    ROLE = "a role"
    # The same, with all tenants: it concerns, or shows, more than single transactions.
    ROLE_FOR_ALL = "a role for all tenants"


# What a caller lacks that is not authenticated.
AN_IDENTITY = "an identity is required"


class Permission(Struct, frozen=True):
    """What one method needs."""

    need: Need
    role: Role | None = None


def _for_tenants(role: Role) -> Permission:
    return Permission(Need.ROLE, role)


def _for_all(role: Role) -> Permission:
    return Permission(Need.ROLE_FOR_ALL, role)


_CLIENT = Permission(Need.CLIENT)
_OPEN = Permission(Need.NOTHING)

_TRANSACTION_SERVICE = {
    "ExecuteTransaction": _CLIENT,
    "ExecuteTransactions": _CLIENT,
    "StreamTransactions": _CLIENT,
    "BeginTransaction": _CLIENT,
    "TryBranch": _CLIENT,
    "RegisterBranch": _CLIENT,
    "ConfirmTransaction": _CLIENT,
    "CancelTransaction": _CLIENT,
    "GetTransaction": _CLIENT,
    "ListTransactions": _CLIENT,
    "WaitTransaction": _CLIENT,
}
_ADMIN_SERVICE = {
    "WhoAmI": Permission(Need.IDENTITY),
    "SearchTransactions": _for_tenants(Role.READ),
    "InspectTransaction": _for_tenants(Role.READ),
    "ExplainTransaction": _for_tenants(Role.READ),
    "RetryTransaction": _for_tenants(Role.OPERATE),
    "HoldTransaction": _for_tenants(Role.OPERATE),
    "ReleaseTransaction": _for_tenants(Role.OPERATE),
    "CancelTransaction": _for_tenants(Role.OPERATE),
    "RunBulkAction": _for_tenants(Role.OPERATE),
    "ResolveBranch": _for_tenants(Role.ADMIN),
    "RepairBranch": _for_all(Role.ADMIN),
    "Reconcile": _for_all(Role.READ),
    "ListParticipants": _for_all(Role.READ),
    "PauseParticipant": _for_all(Role.OPERATE),
    "ResumeParticipant": _for_all(Role.OPERATE),
    "ResetBreaker": _for_all(Role.OPERATE),
    "ListCoordinators": _for_all(Role.READ),
    "DrainCoordinator": _for_all(Role.OPERATE),
    "ListAuditRecords": _for_all(Role.READ),
    "VerifyAuditChain": _for_all(Role.READ),
    "GetStats": _for_all(Role.READ),
}
PERMISSIONS = {
    **{f"/tcc.transaction.v1.TransactionService/{name}": need for name, need in _TRANSACTION_SERVICE.items()},
    **{f"/tcc.admin.v1.AdminService/{name}": need for name, need in _ADMIN_SERVICE.items()},
    # Probes of load balancers and of Kubernetes.
    "/grpc.health.v1.Health/Check": _OPEN,
    "/grpc.health.v1.Health/Watch": _OPEN,
    "/grpc.health.v1.Health/List": _OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Permission(Need.IDENTITY),
}


def is_open(method: str) -> bool:
    """Return whether a method needs no identity."""
    return PERMISSIONS.get(method) == _OPEN


def missing(caller: Caller, method: str) -> str:
    """Return what the caller lacks for a method; empty: nothing."""
    permission = PERMISSIONS.get(method)
    if permission is None:
        return "the method is not in the table of permissions"
    need, role = permission.need, permission.role
    if need is Need.CLIENT:
        return "" if caller.client is not None else "the caller is no client"
    if role is None:
        return ""
    operator = caller.operator
    if operator is None or operator.role < role:
        return f"the role {role.name.lower()} is required"
    if need is Need.ROLE_FOR_ALL and operator.tenants is not None:
        return f"the role {role.name.lower()} for all tenants is required"
    return ""


def check(caller: Caller, method: str) -> None:
    """Check that the caller may call a method.

    Raises:
        NotAllowed
    """
    lacking = missing(caller, method)
    if lacking:
        raise NotAllowed(lacking)
