"""What the operator that calls may see. The table of permissions has let the call through already."""

from msgspec.structs import replace

from coordinator.api.access import Access
from coordinator.core.errors import NotAllowed
from coordinator.core.model import Transaction
from coordinator.engine.live import not_found
from coordinator.ports.log import ListFilter
from coordinator.security.caller import CALLER, Caller
from tcc.admin.v1 import admin_pb2

_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name


def _tenants() -> frozenset[str] | None:
    """Return the tenants whose transactions the operator may see; None: all."""
    caller = CALLER.get()
    if caller is None:
        return None
    assert caller.operator is not None, "the table of permissions requires one"
    return caller.operator.tenants


def check_visible(tx: Transaction) -> None:
    """Check that the operator may see a transaction.

    Raises:
        TransactionNotFound
    """
    tenants = _tenants()
    if tenants is not None and tx.tenant not in tenants:
        raise not_found(tx.gid)


class Rights:
    """What operators may still do: of commands that are carried out later than their call began."""

    def __init__(self, access: Access | None) -> None:
        """`access`: None if callers are not authenticated."""
        self._access = access

    def check_caller(self, method: str) -> None:
        """Check that the caller of this call, which began earlier, may still make it.

        Raises:
            NotAllowed
        """
        caller = CALLER.get()
        if self._access is not None and caller is not None:
            CALLER.set(self._access.check_again(caller, f"/{_SERVICE}/{method}"))

    def may_still(self, requester: Caller, method: str, tenant: str | None) -> bool:
        """Return whether the sender of an earlier call may make it now.

        `tenant`: of the transaction that it concerns; None: the table of permissions says it all.
        """
        if self._access is None:
            return True
        try:
            operator = self._access.check_again(requester, f"/{_SERVICE}/{method}").operator
        except NotAllowed:
            return False
        tenants = operator.tenants if operator else None
        return tenant is None or tenants is None or tenant in tenants


def visible(chosen: ListFilter) -> ListFilter:
    """Return the filter, narrowed to what the operator may see."""
    tenants = _tenants()
    return chosen if tenants is None else replace(chosen, tenants=tuple(sorted(tenants)))


def may_see_payloads() -> bool:
    """Return whether the operator may see payloads and results."""
    caller = CALLER.get()
    return caller is None or (caller.operator is not None and caller.operator.payloads)
