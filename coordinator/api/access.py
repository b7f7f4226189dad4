"""Authenticate each call, and check that its caller may call the method, before the method runs.

The services find the caller in `CALLER`; each call is a task of its own. Without `[auth]` there is no
interceptor, and the caller is None.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isasyncgenfunction
from typing import Any, cast

import grpc
import structlog
from grpc_status import rpc_status

from coordinator.api.errors import Context, to_status
from coordinator.core.errors import NotAuthenticated, Refused
from coordinator.security import permissions
from coordinator.security.authentication import Authenticator
from coordinator.security.caller import CALLER, Caller
from coordinator.security.certificates import AuthContext

logger = structlog.get_logger(__name__)

Handler = Any  # The stubs' RpcMethodHandler has no fields.
Behaviour = Callable[[Any, Context], Any]


class Access(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # at run time it has none
    """Lets calls through that their callers may make. A reload replaces `authenticator`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        # By method. Both servers have the same interceptor, and no method in common but the open ones.
        self._handlers: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the handler of a method, behind the check of its caller."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or permissions.is_open(method):
            return handler
        original, guarded = self._handlers.get(method, (None, None))
        if original is not handler:
            guarded = self._guarded(handler, method)
            self._handlers[method] = (handler, guarded)
        return guarded

    def _guarded(self, handler: Handler, method: str) -> Handler:
        streams = "stream_stream" if handler.response_streaming else "stream_unary"
        single = "unary_stream" if handler.response_streaming else "unary_unary"
        kind = streams if handler.request_streaming else single
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = self._checked(getattr(handler, kind), method)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _checked(self, behaviour: Behaviour, method: str) -> Behaviour:
        async def answer(request: Any, context: Context) -> Any:
            await self._admit(method, context)
            return await behaviour(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            await self._admit(method, context)
            async for response in behaviour(request, context):
                yield response

        return stream if isasyncgenfunction(behaviour) else answer

    async def _admit(self, method: str, context: Context) -> None:
        """End the call with a refusal, or let this task go on as its caller."""
        caller: Caller | None = None
        try:
            caller = self.authenticator.authenticate(
                cast("Any", context.invocation_metadata() or ()), cast("AuthContext", context.auth_context())
            )
            permissions.check(caller, method)
            CALLER.set(caller)
        except Refused as error:
            log_refusal(error, caller, method=method, peer=context.peer())
            # The stubs lack this method.
            await context.abort_with_status(rpc_status.to_status(to_status(error)))  # type: ignore[attr-defined]


def log_refusal(error: Refused, caller: Caller | None, **where: str) -> None:
    """Log who was refused what, and why: more than the caller may know."""
    logger.warning(
        "a call was refused",
        reason=error.reason,
        error=error.message,
        cause=error.cause if isinstance(error, NotAuthenticated) else "",
        principal=caller.principal if caller else "",
        configured_as=caller.name if caller else "",
        **where,
    )
