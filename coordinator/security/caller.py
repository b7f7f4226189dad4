"""Who calls, and as which client or operator the configuration knows it."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from enum import IntEnum

from msgspec import Struct

from coordinator.core.model import BranchSpec

# Stands for all participants, or for all actions of one.
ANY = "*"


class Role(IntEnum):
    """What an operator may do. A higher role includes the lower ones."""

    READ = 1
    OPERATE = 2
    ADMIN = 3


class Client(Struct, frozen=True, kw_only=True):
    """A client is a tenant: its transactions are visible to no other client."""

    name: str
    # A transaction's gid begins with one of these. One that the coordinator makes begins with the first.
    gid_prefixes: tuple[str, ...]
    # The actions that it may call, by participant.
    calls: Mapping[str, frozenset[str]]
    # Besides the coordinator's own limits.
    calls_per_s: float
    expiry_max_s: float

    def owns_gid(self, gid: str) -> bool:
        """Return whether a transaction of this client may have the gid."""
        return gid.startswith(self.gid_prefixes)

    def denied(self, specs: Iterable[BranchSpec]) -> BranchSpec | None:
        """Return the first branch that its transactions may not have; None: they may have all of them."""
        calls = self.calls
        for spec in specs:
            actions = calls.get(spec.participant) or calls.get(ANY) or ()
            if spec.action not in actions and ANY not in actions:
                return spec
        return None


class Operator(Struct, frozen=True, kw_only=True):
    """A group of people with the same rights."""

    name: str
    role: Role
    # Whose transactions they work on; None: all.
    tenants: frozenset[str] | None = None
    # May see payloads and results.
    payloads: bool = False
    # A command that cannot be undone needs a second person, who repeats it within this time; 0: it does not.
    approval_s: float = 0.0


class Identity(Struct, frozen=True):
    """What a credential proves. The first principal names the caller; all of them may give rights."""

    principals: tuple[str, ...]
    # "jwt", "token" or "certificate".
    method: str

    @property
    def principal(self) -> str:
        return self.principals[0]


class Caller(Struct, frozen=True, kw_only=True):
    """The sender of a call, authenticated. It may be a client, an operator, both, or neither."""

    principal: str
    method: str
    client: Client | None = None
    operator: Operator | None = None
    # The principals that make it an operator.
    operator_principals: tuple[str, ...] = ()
    # Of an operator's call, for the audit chain: its address, and which certificate or token it came with.
    peer: str = ""
    credential: str = ""

    @property
    def name(self) -> str:
        """Return the name in the configuration; empty: it is in none."""
        known = self.client or self.operator
        return known.name if known else ""

    @property
    def role_name(self) -> str:
        """Return the name of its role as an operator; empty: it is none."""
        return self.operator.role.name.lower() if self.operator else ""


# The caller of the call that this task runs. None: calls are not authenticated here.
CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
