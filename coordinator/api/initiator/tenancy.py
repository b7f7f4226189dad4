"""What the client that calls may do: the gids, calls and expiry of its transactions."""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from coordinator.api.access import REFUSALS
from coordinator.api.initiator.requests import RequestLimits
from coordinator.core.errors import NotAllowed
from coordinator.core.model import BranchSpec
from coordinator.security.caller import CALLER, Client
from tcc._internal.uuid7 import uuid7


def calling_client() -> Client | None:
    """Return the client that calls; None: calls are not authenticated."""
    caller = CALLER.get()
    if caller is None:
        return None
    assert caller.client is not None, "the table of permissions requires one"
    return caller.client


def tenant_of(client: Client | None) -> str | None:
    """Return the tenant that a transaction must belong to; None: any."""
    return None if client is None else client.name


def new_gid(client: Client | None) -> str:
    """Return a new gid for a transaction of a client."""
    return uuid7() if client is None else client.gid_prefixes[0] + uuid7()


def limits_of(client: Client | None, limits: RequestLimits) -> RequestLimits:
    """Return the bounds of a client's requests."""
    if client is None or client.expiry_max_s >= limits.expiry_max_s:
        return limits
    return replace(
        limits,
        expiry_max_s=client.expiry_max_s,
        expiry_default_s=min(limits.expiry_default_s, client.expiry_max_s),
    )


def check_gid(client: Client | None, gid: str) -> None:
    """Check that a client's transaction may have this gid.

    Raises:
        NotAllowed
    """
    if client is not None and not client.owns_gid(gid):
        raise _refused(
            "the gid does not begin with a prefix of this client; give one that does",
            logged_action="transaction.begin",
            target=f"transaction/{gid}",
            missing=f"[clients.{client.name}] gid_prefixes has no prefix of the gid",
            metadata={"gid": gid},
        )


def check_calls(client: Client | None, specs: Iterable[BranchSpec]) -> None:
    """Check that a client's transaction may have these branches.

    Raises:
        NotAllowed
    """
    if client is None:
        return
    spec = client.denied(specs)
    if spec is not None:
        raise _refused(
            "this client may not call the action of this participant",
            logged_action="branch.add",
            target=f"participant/{spec.participant}",
            missing=f"[clients.{client.name}] calls has no {spec.participant} with {spec.action}",
            metadata={"participant": spec.participant, "action": spec.action},
        )


def _refused(
    message: str, *, logged_action: str, target: str, missing: str, metadata: Mapping[str, str]
) -> NotAllowed:
    error, caller = NotAllowed(message, metadata=metadata), CALLER.get()
    REFUSALS.get().log(
        error,
        identity=caller.principal if caller else "",
        caller=caller,
        action=logged_action,
        missing=missing,
        target=target,
    )
    return error
