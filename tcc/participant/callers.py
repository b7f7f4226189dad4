"""Who may call a participant: its coordinators, by the name in their certificate or by a token."""

import hmac
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Any, TypeAlias, cast

import grpc

from tcc._internal.certificate_names import AuthContext, certificate_names
from tcc._internal.line_limiter import LineLimiter
from tcc._internal.local_address import is_local
from tcc._internal.tls import Tls

logger = logging.getLogger("tcc.participant")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# Probes of load balancers and Kubernetes have no credential.
_OPEN = "/grpc.health.v1.Health/"
_TOKEN = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"spiffe://.+|(uri|dns|email):.+", re.DOTALL)
_BEARER = "bearer "
_FORM = 'callers=["spiffe://bank.example/tccd"]'


def check_address(address: str, tls: Tls | None, callers: Sequence[str] | None, *, insecure: bool) -> None:
    """Check that no stranger can call, unless that is wanted.

    Raises:
        TypeError: `callers` is a text.
        ValueError: The arguments do not go together.
    """
    if isinstance(callers, str):
        raise TypeError(f"callers is a list, as in {_FORM}")
    if callers is not None and not callers:
        raise ValueError(f"callers is empty, so no call would be accepted; name the callers, as in {_FORM}")
    for caller in callers or ():
        if not (_TOKEN.fullmatch(caller) or _NAME.fullmatch(caller)):
            raise ValueError(
                f"{caller!r} is no caller: spiffe://…, uri:…, dns:…, email:…, or sha256: and the SHA-256 of "
                "a token in hexadecimal"
            )
    names = [caller for caller in callers or () if not _TOKEN.fullmatch(caller)]
    if names and (tls is None or tls.ca is None):
        raise ValueError(f"{names[0]} is the name in a certificate: give tls=tcc.Tls(…, ca=…) as well")
    if is_local(address) or (tls is not None and callers):
        return
    if not insecure:
        raise ValueError(
            f"{address} is not on loopback, so strangers could call: give "
            f"tls=tcc.Tls(certificate=…, key=…, ca=…) and {_FORM}, or insecure=True"
        )
    logger.warning("INSECURE: %s is served without tls or without callers: strangers may call", address)


class CallerCheck(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Refuses every call, but for health, whose sender is not one of the callers."""

    def __init__(self, callers: Sequence[str]) -> None:
        self._names = frozenset(caller for caller in callers if not _TOKEN.fullmatch(caller))
        self._tokens = [caller for caller in callers if _TOKEN.fullmatch(caller)]
        # A stranger that calls again and again must not fill the disk.
        self._lines = LineLimiter()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the method's handler, with the check before it."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        guard = self._guard_stream if handler.response_streaming else self._guard_unary
        return handler._replace(**{kind: guard(method, getattr(handler, kind))})

    def _guard_unary(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            await self._check(method, context)
            return await behaviour(request, context)

        return answer

    def _guard_stream(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._check(method, context)
            async for response in behaviour(request, context):
                yield response

        return answer

    async def _check(self, method: str, context: Context) -> None:
        auth_context = cast("AuthContext", context.auth_context())
        names = certificate_names(auth_context, ("spiffe", "uri", "dns", "email"))
        if not self._names.isdisjoint(names):
            return
        tokens = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if len(tokens) == 1 and self._is_known(tokens[0]):
            return
        seen = f"the certificate of {', '.join(names)}" if names else "no certificate with a name"
        seen += ", and a token that is not accepted" if tokens else ", and no token"
        self._log(method, context.peer(), seen)
        code = grpc.StatusCode.PERMISSION_DENIED if names else grpc.StatusCode.UNAUTHENTICATED
        await context.abort(code, f"this participant does not know the caller: {seen}")

    def _log(self, method: str, peer: str, seen: str) -> None:
        def write(omitted: int) -> None:
            more = f"; {omitted} more like it were omitted" if omitted else ""
            logger.warning("refused: %s from %s, with %s%s", method, peer, seen, more)

        # The port is another one for each connection.
        self._lines.write((method, peer.rpartition(":")[0], seen), write)

    def _is_known(self, header: str | bytes) -> bool:
        if not isinstance(header, str) or header[: len(_BEARER)].lower() != _BEARER:
            return False
        digest = "sha256:" + sha256(header[len(_BEARER) :].strip().encode()).hexdigest()
        return any(hmac.compare_digest(digest, known) for known in self._tokens)
