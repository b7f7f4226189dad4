"""Authenticate each call, and check that its caller may call the method, before the method runs.

The services find the caller in `CALLER`; each call is a task of its own. Without `[auth]` nothing is
checked, and the caller is None.
"""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

import structlog
from msgspec import Struct
from msgspec.structs import replace

from coordinator.api.errors import Context
from coordinator.core.errors import NotAuthenticated, Refused, TenantLimit
from coordinator.security import permissions
from coordinator.security.authentication import Authenticator, Proof, credential_id
from coordinator.security.caller import CALLER, Caller
from coordinator.security.certificates import KINDS, AuthContext, certificate_end, is_tls
from coordinator.security.rates import Rates
from tcc._internal.certificate_names import certificate_names
from tcc._internal.line_limiter import LineLimiter

logger = structlog.get_logger(__name__)

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"

# Of the call that this task runs. gRPC makes it to find the method; from the call's context it would make
# it again.
METADATA: ContextVar[Metadata] = ContextVar("metadata")


class RefusalLog:
    """Logs who was refused what as lines `audit`: more than the caller may know.

    A caller that is refused again and again does not fill the disk: after its first line of a kind, the next
    ones are counted, and `omitted` of one line per minute is their number. The kinds of strangers are limited
    apart from those of known callers: however many there are, they do not use up the others' lines.
    """

    def __init__(self) -> None:
        self._lines = {is_known: LineLimiter() for is_known in (True, False)}

    def log(
        self, error: Refused, *, identity: str, caller: Caller | None, action: str, missing: str, **where: str
    ) -> None:
        """Log a refusal.

        `identity`: what the caller has proved, or only shown; `missing`: the permission that it lacks.
        """
        # The port is another one for each connection.
        address = where.get("peer", "").rpartition(":")[0]
        cause = error.cause if isinstance(error, NotAuthenticated) else ""

        def write(omitted: int) -> None:
            logger.warning(
                "audit",
                outcome=error.reason,
                action=action,
                identity=identity,
                configured_as=caller.name if caller else "",
                missing=missing,
                error=error.message,
                cause=cause,
                omitted=omitted,
                **where,
            )

        kind = (identity, address, action, error.reason, cause)
        self._lines[caller is not None].write(kind, write)


# Of the server that runs the call of this task.
REFUSALS: ContextVar[RefusalLog] = ContextVar("refusals")


class Access:
    """Lets calls through that their callers may make. A reload replaces `authenticator`."""

    def __init__(self, authenticator: Authenticator, rates: Rates) -> None:
        self.authenticator = authenticator
        self.rates = rates
        self._refusals = RefusalLog()

    def admission(self, method: str, *, uses_tls: bool) -> Callable[[Context], None]:
        """Return what lets a call of the method, whose full name this is, go on as its caller.

        It raises a Refused if the caller may not call the method. `uses_tls`: of its listener.
        """
        if permissions.is_open(method):
            return lambda _: None
        return partial(self._admit, method, uses_tls=uses_tls)

    def check_again(self, caller: Caller, method: str) -> Caller:
        """Return an operator that once called this method, with the rights that it has now.

        Raises:
            NotAllowed: it may not call the method any more.
        """
        operator = self.authenticator.policy.operator(caller.operator_principals)
        now = replace(caller, operator=operator)
        permissions.check(now, method)
        return now

    def rechecked(self, method: str, context: Context) -> Callable[[], None]:
        """Return what checks the caller of an open stream again: the rights that it has now.

        It sets `CALLER` of the task that runs it, and raises a Refused if the caller is to be refused. A
        certificate, which is verified with the connection, is good for as long as it is valid.

        Who was let through is let through until rights change, or the credential is to be verified again.
        """
        auth_context = _auth_context(context)
        metadata = cast("Metadata", context.invocation_metadata() or ())
        opened = _Opened(auth_context, context.peer)
        uses_tls = is_tls(auth_context)
        valid_until = certificate_end(auth_context)
        authenticator: Authenticator | None = None
        good_until = -math.inf

        def check() -> None:
            nonlocal authenticator, good_until
            if self.authenticator is authenticator and authenticator.now() < good_until:
                return
            proof = self._proof(method, metadata, opened, uses_tls=uses_tls, valid_until=valid_until)
            CALLER.set(proof.caller)
            authenticator, good_until = self.authenticator, min(proof.good_until, valid_until)

        return check

    def _admit(self, method: str, context: Context, *, uses_tls: bool) -> None:
        """Let this task go on as its caller.

        Raises:
            Refused: this is logged, but for Overloaded, which would fill the log.
        """
        metadata = METADATA.get()
        caller = self._proof(method, metadata, context, uses_tls=uses_tls).caller
        if caller.client is not None:
            try:
                self.rates.check(caller.client)
            except TenantLimit as error:
                self._log(error, caller, method, metadata, context)
                raise
        if caller.operator is not None:
            credential = credential_id(caller, metadata, lambda: _auth_context(context))
            caller = replace(caller, peer=context.peer(), credential=credential)
        CALLER.set(caller)
        REFUSALS.set(self._refusals)

    def _proof(
        self,
        method: str,
        metadata: Metadata,
        call: "_Call",
        *,
        uses_tls: bool,
        valid_until: float = math.inf,
    ) -> Proof:
        """Return who makes a call, and may call the method. `valid_until`: of its certificate, if known.

        Raises:
            Refused: this is logged.
        """
        caller: Caller | None = None
        try:
            proof = self.authenticator.authenticate(metadata, call.auth_context, uses_tls=uses_tls)
            caller = proof.caller
            if valid_until < math.inf and self.authenticator.now() >= valid_until:
                raise NotAuthenticated("the certificate has expired")
            permissions.check(caller, method)
        except Refused as error:
            self._log(error, caller, method, metadata, call)
            raise
        return proof

    def _log(
        self, error: Refused, caller: Caller | None, method: str, metadata: Metadata, call: "_Call"
    ) -> None:
        self._refusals.log(
            error,
            identity=caller.principal if caller else _shown(metadata, call),
            caller=caller,
            action=method.removeprefix("/"),
            missing=permissions.missing(caller, method) if caller else permissions.AN_IDENTITY,
            peer=call.peer(),
        )


class _Call(Protocol):
    """What gRPC knows of a call's sender. It copies each part when it is asked for it."""

    def auth_context(self) -> Any:
        """Return what gRPC has verified of the connection: an `AuthContext`."""

    def peer(self) -> str:
        """Return the sender's address."""


class _Opened(Struct, frozen=True):
    """What was known of a call when it was opened."""

    opened_with: AuthContext
    peer: Callable[[], str]

    def auth_context(self) -> AuthContext:
        return self.opened_with


def _shown(metadata: Metadata, call: _Call) -> str:
    """Return what a caller that is not authenticated has shown."""
    names = [name for name in certificate_names(call.auth_context(), KINDS) if name.isprintable()]
    has_token = any(key == "authorization" for key, _ in metadata)
    return ", ".join([*names, *(["a token"] if has_token else [])]) or "nothing"


def _auth_context(context: Context) -> AuthContext:
    return cast("AuthContext", context.auth_context())
