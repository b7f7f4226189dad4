"""What the operator that calls may see. The table of permissions has let the call through already."""

from msgspec.structs import replace

from coordinator.core.model import Transaction
from coordinator.engine.live import not_found
from coordinator.ports.log import ListFilter
from coordinator.security.caller import CALLER


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


def visible(chosen: ListFilter) -> ListFilter:
    """Return the filter, narrowed to what the operator may see."""
    tenants = _tenants()
    return chosen if tenants is None else replace(chosen, tenants=tuple(sorted(tenants)))


def may_see_payloads() -> bool:
    """Return whether the operator may see payloads and results."""
    caller = CALLER.get()
    return caller is None or (caller.operator is not None and caller.operator.payloads)
