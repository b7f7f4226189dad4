"""Artificial delays, so that a demo can show that slow calls do not affect others."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Slowness(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Delays a fraction of the calls before they are handled, without holding a lock."""

    def __init__(self, *, fraction: float, delay_s: float, random_source: random.Random) -> None:
        self._fraction = fraction
        self._delay_s = delay_s
        self._random = random_source

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Method]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Method:
        if (
            handler_call_details.method.startswith("/tcc.participant.v1.")
            and self._random.random() < self._fraction
        ):
            await asyncio.sleep(self._delay_s)
        return await continuation(handler_call_details)
